package style_test

import (
	"context"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/artwork"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/style"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	goleak.VerifyTestMain(m)
}

// engine has the network "small" and others.
func engine(t *testing.T, networks ...style.Network) *style.Engine {
	t.Helper()
	net, _ := smallNetwork(t, 3, 2)
	e, err := style.New(style.Options{Backend: orttest.Runtime(t), Networks: append(networks, net)})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// drawn are pictures by name and size, which no test changes.
var drawn sync.Map

// drawPicture is one of the project's own pictures.
func drawPicture(t *testing.T, name string, long int) *image.RGBA {
	t.Helper()
	once, _ := drawn.LoadOrStore(fmt.Sprint(name, long), sync.OnceValue(func() *image.RGBA { return artwork.Draw(name, long) }))
	return once.(func() *image.RGBA)()
}

// smallNetwork is a network with two layers, built here: a convolution of stride 1,
// a mean of 2 by 2, a convolution of stride 2 without padding.
func smallNetwork(t *testing.T, channels, rank int) (n style.Network, names []string) {
	t.Helper()
	g := grad.NewGraph()
	size := []int64{1, int64(channels)}
	twos, ones := []int64{}, []int64{}
	for range rank {
		size, twos, ones = append(size, 32), append(twos, 2), append(ones, 1)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	weights := func(out, in int64) *grad.Value {
		shape := []int64{out, in}
		count := out * in
		for range rank {
			shape, count = append(shape, 3), count*3
		}
		data := make([]float32, count)
		for i := range data {
			data[i] = float32(rng.NormFloat64() / math.Sqrt(float64(count/out)))
		}
		return g.Constant(data, shape...)
	}
	x := g.Input("image", size...)
	a := g.Relu(g.Conv(x, weights(6, int64(channels)), nil, grad.Window{Pads: append(append([]int64{}, ones...), ones...)}))
	b := g.AveragePool(a, grad.Window{Kernel: twos, Strides: twos})
	c := g.Relu(g.Conv(b, weights(8, 6), g.Constant([]float32{1, 2, 3, 4, 5, 6, 7, 8}, 8), grad.Window{Strides: twos}))
	data, err := g.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	names = []string{a.Name(), c.Name()}
	return style.Network{
		ID: "small", Read: func() ([]byte, error) { return data, nil }, Input: "image", Scale: [3]float32{1, 1, 1},
		Defaults: style.Defaults{
			Layers:  style.Layers{Content: map[string]float64{names[1]: 1}, Style: map[string]float64{names[0]: 2, names[1]: 1}},
			Content: 0.2, Style: 1, TV: 1e-4,
		},
	}, names
}

// squeezenet is the real network, by its manifest.
func squeezenet(t *testing.T) style.Network {
	t.Helper()
	sharedtest.Path(t, "models/squeezenet11-features.onnx")
	m := orttest.Model(t, "squeezenet11")
	return network(m)
}

func network(m embed.Model) style.Network {
	return style.Network{
		ID: m.ID, Read: m.ReadVerified, Input: m.Input.Name, Mean: m.Input.Mean, Scale: m.Input.Scale,
		Defaults: style.Defaults{
			Layers:  style.Layers{Content: m.Features.Content, Style: m.Features.Style},
			Content: m.Features.ContentWeight, Style: m.Features.StyleWeight, TV: m.Features.TVWeight,
		},
	}
}

// speckled is a field of numbers 0..255.
func speckled(seed uint64, channels int, size ...int) style.Field {
	rng := rand.New(rand.NewPCG(seed, 3))
	f := style.Field{Channels: channels, Size: size}
	n := channels
	for _, s := range size {
		n *= s
	}
	for range n {
		f.Data = append(f.Data, 255*rng.Float32())
	}
	return f
}

// poisoned breaks some runs of programs that compute a gradient.
type poisoned struct {
	grad.Backend
	when func(run int) bool
	runs *int
}

func (b poisoned) Compile(model []byte, in, out []grad.Port) (grad.Program, error) {
	p, err := b.Backend.Compile(model, in, out)
	if err != nil || len(out) != 2 {
		return p, err
	}
	return poisonedProgram{p, b}, nil
}

type poisonedProgram struct {
	grad.Program
	by poisoned
}

func (p poisonedProgram) Run(ctx context.Context) error {
	if err := p.Program.Run(ctx); err != nil {
		return err
	}
	*p.by.runs++
	if p.by.when(*p.by.runs) {
		p.Output(1)[7] = float32(math.NaN())
	}
	return nil
}
