package siamese_test

import (
	"fmt"
	"log"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/siamese"
)

// A triplet is worth learning when its negative is nearly as close as its
// positive.
func ExampleMine() {
	batch := siamese.Batch{
		Embeddings: []face.Embedding{{1, 0}, {0.8, 0.6}, {0.6, 0.8}, {0, 1}},
		People:     []int{1, 1, 2, 2},
	}
	for _, t := range siamese.Mine(siamese.Hard, batch, 0.3, rand.New(rand.NewPCG(1, 2))) {
		fmt.Printf("%d belongs with %d, not with %d\n", t.Anchor, t.Positive, t.Negative)
	}
	// Output:
	// 0 belongs with 1, not with 2
	// 1 belongs with 0, not with 2
	// 2 belongs with 3, not with 1
	// 3 belongs with 2, not with 1
}

// An encoder to teach from scratch is an ordinary ONNX model.
func ExampleUntrained() {
	onnx, err := siamese.Untrained("residual", 128, 0.5, 1)
	if err != nil {
		log.Fatal(err)
	}
	m, err := grad.Parse(onnx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Inputs(), m.Outputs())
	// Output: [image] [embedding]
}

// The learning rate rises at first and then falls.
func ExampleRate() {
	for _, step := range []int{0, 50, 1000, 1999} {
		fmt.Printf("%.6f\n", siamese.Rate(step, 50, 2000, 1e-3))
	}
	// Output:
	// 0.000020
	// 0.001000
	// 0.000525
	// 0.000010
}

// To fine-tune an encoder, begin with the defaults and name its model.
func ExampleDefaultOptions() {
	o := siamese.DefaultOptions()
	o.Image, o.Embedding = "image", "embedding"
	fmt.Println(o.Loss, o.Mining, o.People*o.PhotosEach, "photos a step")
	// Output: triplet semi-hard 48 photos a step
}
