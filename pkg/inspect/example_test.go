package inspect_test

import (
	"context"
	"fmt"
	"log"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/inspect"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// encoder is the built-in encoder, to be looked into.
func encoder(backend grad.Backend) inspect.Network {
	onnx, err := models.FS.ReadFile("builtin-encoder.onnx")
	if err != nil {
		log.Fatal(err)
	}
	m, err := grad.Parse(onnx)
	if err != nil {
		log.Fatal(err)
	}
	return inspect.Network{Backend: backend, Model: m, Image: "image", Shape: []int64{1, 3, 112, 112}}
}

// The layers whose units can be looked at, from the first to the last: the
// deeper a layer, the more of the picture each of its units sees.
func ExampleNetwork_Layers() {
	layers, err := encoder(nil).Layers() // nothing is computed, so no backend
	if err != nil {
		log.Fatal(err)
	}
	names := inspect.Spread(layers, 3)
	for _, l := range layers {
		if l.Name == names[0] || l.Name == names[2] {
			fmt.Println(l.Channels, "units that see", l.Field[0], "pixels")
		}
	}
	// Output:
	// 32 units that see 3 pixels
	// 256 units that see 295 pixels
}

// The picture that excites a unit more than any other, found by gradient
// ascent.
func ExampleNetwork_Maximise() {
	backend, err := likeness.OpenBackend(likeness.DefaultBackendOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	network := encoder(backend)
	layers, err := network.Layers()
	if err != nil {
		log.Fatal(err)
	}
	options := inspect.DefaultMaximiseOptions()
	options.Steps = 10
	options.Low, options.High = []float32{0, 0, 0}, []float32{255, 255, 255}
	picture, activations, err := network.Maximise(context.Background(), inspect.Spread(layers, 2)[0], 0, options)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(picture), activations[9] > activations[0])
	// Output: 37632 true
}
