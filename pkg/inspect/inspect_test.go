package inspect_test

import (
	"math"
	"os"
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/inspect"
)

func backend(t *testing.T) *ort.Runtime {
	t.Helper()
	r, err := ort.Open(ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func squeezenet(t *testing.T) *grad.Model {
	t.Helper()
	data, err := os.ReadFile(sharedtest.Path(t, "models/squeezenet11-features.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// What a place of a layer sees is where its gradient is not zero, of a real
// network with branches.
func TestReach(t *testing.T) {
	t.Parallel()
	const side = 96
	for _, layer := range []string{"conv1", "fire2/expand1x1", "fire3/concat", "fire5/concat"} {
		g := grad.NewGraph()
		image := g.Input("image", 1, 3, side, side)
		im, err := g.Import(squeezenet(t), map[string]*grad.Value{"image": image}, []string{layer}, grad.ImportOptions{AveragePools: true})
		if err != nil {
			t.Fatal(err)
		}
		v := im.Layers[layer]
		reach, err := g.Reach(v, image)
		if err != nil {
			t.Fatal(err)
		}
		y, x := v.Dim(2)/2, v.Dim(3)/2
		place := g.Slice(g.Slice(v, 2, y, y+1), 3, x, x+1)
		d, err := g.Gradient(g.Total(place), image)
		if err != nil {
			t.Fatal(err)
		}
		p, err := g.Compile(backend(t), d[0])
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Input(0) {
			p.Input(0)[i] = float32((i*7919)%256) - 128
		}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		low, high := [2]int{side, side}, [2]int{-1, -1}
		for i, v := range p.Output(0) {
			if v != 0 {
				for axis, at := range []int{i / side % side, i % side} {
					low[axis], high[axis] = min(low[axis], at), max(high[axis], at)
				}
			}
		}
		for axis, at := range []int64{y, x} {
			start := at*reach.Stride[axis] - reach.Before[axis]
			end := min(at*reach.Stride[axis]+reach.After[axis], side-1)
			if max(start, 0) != int64(low[axis]) || end != int64(high[axis]) {
				t.Errorf("%s, axis %d: place %d should see %d..%d, its gradient %d..%d", layer, axis, at, start, end, low[axis], high[axis])
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}

// dots has a unit that likes a bright dot, and pictures with one.
func TestSurvey(t *testing.T) {
	t.Parallel()
	g := grad.NewGraph()
	image := g.Input("image", 1, 1, 16, 16)
	w := []float32{-1, -1, -1, -1, 8, -1, -1, -1, -1}
	y := g.Relu(g.Conv(image, g.Weight("w", w, 1, 1, 3, 3), nil, grad.Window{Pads: []int64{1, 1, 1, 1}, Strides: []int64{2, 2}}))
	data, err := g.Marshal(g.Name(y, "layer"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	n := inspect.Network{Backend: backend(t), Model: m, Image: "image", Shape: []int64{1, 1, 16, 16}}
	units, err := n.Survey(t.Context(), []string{"layer"}, 3, 2, func(i int, into []float32) error {
		clear(into)
		into[16*(2*i+2)+4+2*i] = float32(1 + i) // brighter from picture to picture
		return nil
	}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	u := units["layer"][0]
	want := []inspect.Patch{
		{Picture: 2, Activation: 24, X: 7, Y: 5, Width: 3, Height: 3},
		{Picture: 1, Activation: 16, X: 5, Y: 3, Width: 3, Height: 3},
	}
	for i, w := range want {
		if u.Strongest[i] != w {
			t.Errorf("%d: %+v, want %+v", i, u.Strongest[i], w)
		}
	}
	if u.Max != 24 || math.Abs(u.Active-1./64) > 1e-9 || math.Abs(u.Mean-16./64) > 1e-6 {
		t.Errorf("max %g, active %g, mean %g", u.Max, u.Active, u.Mean)
	}
}

func TestMaximise(t *testing.T) {
	t.Parallel()
	n := inspect.Network{Backend: backend(t), Model: squeezenet(t), Image: "image", Shape: []int64{1, 3, 64, 64}}
	o := inspect.MaximiseOptions{Steps: 30, Rate: 3, Smooth: 1e-3, Low: -120, High: 135, Seed: 1}
	picture, scores, err := n.Maximise(t.Context(), "fire3/concat", 5, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(picture) != 3*64*64 || scores[len(scores)-1] < 2*scores[0]+1 {
		t.Errorf("the activation was %g and is %g", scores[0], scores[len(scores)-1])
	}
	if _, _, err := n.Maximise(t.Context(), "fire3/concat", 128, o); face.KindOf(err) != face.Invalid {
		t.Errorf("a channel that is not there: %v", err)
	}
}
