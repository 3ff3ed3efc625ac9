package likeness_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// Do two photos show the same person? Errors are left out of this example.
func Example() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	passport, _ := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	selfie, _ := os.ReadFile("../../internal/testfaces/person-1-2.jpg")
	c, err := pipeline.Compare(ctx, selfie, passport)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("same person:", c.Match)
	// Output: same person: true
}

// ONNX Runtime is the one file that a program needs beside itself. This gets it
// on the first run and finds it in the user's cache from then on.
func ExampleFetchRuntime() {
	ctx := context.Background()
	library, err := likeness.FetchRuntime(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	pipeline, err := likeness.Open(ctx, likeness.Options{Library: library})
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()
}

// A stricter threshold matches fewer strangers and refuses more photos of the
// right person.
func ExampleOptions() {
	options := likeness.DefaultOptions()
	options.OperatingPoint = "fmr_1e-6" // one comparison of strangers in a million
	options.Slots = 1                   // one photo at a time
	pipeline, err := likeness.Open(context.Background(), options)
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()
	fmt.Println(pipeline.Encoder().ID, pipeline.Encoder().Dimension)
	// Output: builtin-encoder-2 257
}

// The kind of an error says what to tell the user.
func ExamplePipeline_Compare() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	passport, _ := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	for _, name := range []string{"person-1-3.jpg", "person-2-1.jpg", "nobody.jpg"} {
		photo, _ := os.ReadFile("../../internal/testfaces/" + name)
		c, err := pipeline.Compare(ctx, photo, passport)
		switch face.KindOf(err) {
		case face.NoFace, face.ManyFaces, face.LowQuality:
			fmt.Println(name, "please take another photo")
		default:
			fmt.Println(name, "match:", c.Match, "error:", err)
		}
	}
	// Output:
	// person-1-3.jpg match: true error: <nil>
	// person-2-1.jpg match: false error: <nil>
	// nobody.jpg please take another photo
}

// Who is on the photo, of everybody enrolled?
func ExampleGallery() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	staff := pipeline.NewGallery()
	for subject, file := range map[string]string{"ada": "person-1-1.jpg", "grace": "person-2-1.jpg"} {
		photo, _ := os.ReadFile("../../internal/testfaces/" + file)
		if _, err := staff.Enrol(ctx, subject, photo); err != nil {
			log.Fatal(err)
		}
	}
	for _, file := range []string{"person-1-2.jpg", "person-2-3.jpg", "person-3-1.jpg"} {
		photo, _ := os.ReadFile("../../internal/testfaces/" + file)
		found, err := staff.Search(ctx, photo, 1)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(file, found.Decision)
	}
	// Output:
	// person-1-2.jpg match
	// person-2-3.jpg match
	// person-3-1.jpg unknown
}

// A photo of several people is searched for face by face.
func ExampleGallery_SearchEmbedding() {
	ctx := context.Background()
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	friends := pipeline.NewGallery()
	portrait, _ := os.ReadFile("../../internal/testfaces/person-2-1.jpg")
	if _, err := friends.Enrol(ctx, "grace", portrait); err != nil {
		log.Fatal(err)
	}
	party, _ := os.ReadFile("../../internal/testfaces/group.jpg")
	samples, err := pipeline.Embed(ctx, party, embed.PickAll)
	if err != nil {
		log.Fatal(err)
	}
	known := 0
	for _, s := range samples {
		found, err := friends.SearchEmbedding(ctx, s.Embedding, 1)
		if err != nil {
			log.Fatal(err)
		}
		if found.Decision == "match" {
			known++
		}
	}
	fmt.Printf("%d faces, %d of them known\n", len(samples), known)
	// Output: 3 faces, 1 of them known
}
