package grad_test

import (
	"context"
	"fmt"
	"log"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// The derivative of the sum of squares is twice the numbers.
func Example() {
	backend, err := likeness.OpenBackend(likeness.DefaultBackendOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()

	g := grad.NewGraph()
	x := g.Input("x", 3)
	loss := g.SumSquares(x)
	gradient, err := g.Gradient(loss, x)
	if err != nil {
		log.Fatal(err)
	}
	program, err := g.Compile(backend, loss, gradient[0])
	if err != nil {
		log.Fatal(err)
	}
	defer program.Close()

	copy(program.Input(0), []float32{1, 2, 3})
	if err := program.Run(context.Background()); err != nil {
		log.Fatal(err)
	}
	fmt.Println(program.Output(0), program.Output(1))
	// Output: [14] [2 4 6]
}

// A formula is written without an error check for each operator: the first
// error sticks.
func ExampleGraph_Err() {
	g := grad.NewGraph()
	a, b := g.Input("a", 2, 3), g.Input("b", 4, 5)
	g.Total(g.Relu(g.MatMul(a, b)))
	fmt.Println(g.Err() != nil)
	// Output: true
}

// A convolution over one axis, as for a signal. The same call takes two axes or
// three.
func ExampleGraph_Conv() {
	g := grad.NewGraph()
	signal := g.Input("signal", 1, 1, 10)
	edge := g.Constant([]float32{-1, 0, 1}, 1, 1, 3)
	y := g.Conv(signal, edge, nil, grad.Window{})
	fmt.Println(y.Shape(), g.Err())
	// Output: [1 1 8] <nil>
}

// A graph is an ordinary ONNX model, which other programs can run.
func ExampleGraph_Marshal() {
	g := grad.NewGraph()
	y := g.Name(g.Sigmoid(g.Input("x", 1, 4)), "y")
	onnx, err := g.Marshal(y)
	if err != nil {
		log.Fatal(err)
	}
	m, err := grad.Parse(onnx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(m.Inputs(), m.Outputs())
	// Output: [x] [y]
}

// Which picture would change the embedding most? The gradient of a model's
// output with respect to its input says so, for any model that can be imported.
func ExampleGraph_Import() {
	onnx, err := models.FS.ReadFile("builtin-encoder.onnx")
	if err != nil {
		log.Fatal(err)
	}
	m, err := grad.Parse(onnx)
	if err != nil {
		log.Fatal(err)
	}
	g := grad.NewGraph()
	image := g.Input("image", 1, 3, 112, 112)
	imported, err := g.Import(m, map[string]*grad.Value{"image": image}, []string{"embedding"}, grad.ImportOptions{})
	if err != nil {
		log.Fatal(err)
	}
	embedding := imported.Layers["embedding"]
	gradient, err := g.Gradient(g.SumSquares(embedding), image)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(embedding.Shape(), gradient[0].Shape())
	// Output: [1 256] [1 3 112 112]
}
