package embed_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// All faces of a photo, the largest first, with what the quality gate says of
// each.
func ExamplePipeline_Detect() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	photo, err := os.ReadFile("../../internal/testfaces/group.jpg")
	if err != nil {
		log.Fatal(err)
	}
	faces, found, err := pipeline.Detect(ctx, photo, 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(found, "faces were found")
	for _, f := range faces {
		fmt.Println(f.DetectionScore > 0.7, f.Quality.Reasons)
	}
	// Output:
	// 3 faces were found
	// true []
	// true []
}

// The embedding of the one face of a photo.
func ExamplePipeline_Embed() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	photo, err := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	if err != nil {
		log.Fatal(err)
	}
	samples, err := pipeline.Embed(ctx, photo, embed.PickOnly)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(samples[0].Embedding), "numbers by", pipeline.Encoder().ID)
	// Output: 257 numbers by builtin-encoder-2
}

// A crop of a face, some 20 KB, is enough to make embeddings with another
// encoder later, when the photo is long gone.
func ExamplePipeline_EmbedCrop() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	photo, err := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	if err != nil {
		log.Fatal(err)
	}
	samples, err := pipeline.EmbedWith(ctx, photo, embed.PickOnly, embed.Want{Crop: true})
	if err != nil {
		log.Fatal(err)
	}
	again, err := pipeline.EmbedCrop(ctx, samples[0].Crop, pipeline.Encoder().ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("nearly the same:", again.Cosine(samples[0].Embedding) > 0.95)
	// Output: nearly the same: true
}

// The models that are compiled in have a file; the others can be put into a
// folder.
func ExampleOpenRegistry() {
	registry, err := embed.OpenRegistry(models.FS)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range registry.Models() {
		if m.BuiltIn() {
			fmt.Println(m.ID, m.Task, m.License)
		}
	}
	// Output:
	// builtin-detector detector Apache-2.0
	// builtin-encoder encoder Apache-2.0
	// builtin-encoder-2 encoder Apache-2.0
	// builtin-features features Apache-2.0
	// builtin-quality quality Apache-2.0
}

// A manifest says everything that a network expects. Each rule that it breaks
// is a field of the error.
func ExampleParseManifest() {
	_, err := embed.ParseManifest([]byte(`{"id": "mine", "task": "encoder"}`))
	fmt.Println(face.KindOf(err), err != nil)
	// Output: invalid_request true
}
