package inspect_test

import (
	"math"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// dotPictures is a network whose first layer sees bright dots and left edges; pool and
// all are what comes of it.
func dotPictures(t *testing.T) inspect.Network {
	t.Helper()
	g := grad.NewGraph()
	image := g.Input("image", 1, 1, 16, 16)
	w := []float32{
		-1, -1, -1, -1, 8, -1, -1, -1, -1,
		-1, 1, 0, -1, 1, 0, -1, 1, 0,
	}
	y := g.Conv(g.Scale(image, 2), g.Weight("w", w, 2, 1, 3, 3), nil, grad.Window{Pads: []int64{1, 1, 1, 1}, Strides: []int64{2, 2}})
	y = g.Name(g.Relu(g.Name(y, "conv")), "layer")
	y = g.Name(g.MaxPool(y, grad.Window{Kernel: []int64{2, 2}, Strides: []int64{2, 2}}), "pool")
	y = g.Name(g.Mul(y, g.GlobalAveragePool(y)), "mixed")
	y = g.Name(g.Reshape(y, 1, 32), "all")
	data, err := g.Marshal(y)
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return inspect.Network{Backend: backend(t), Model: m, Image: "image", Shape: []int64{1, 1, 16, 16}}
}

// bright is a network with two units that see what is above 0.
func bright(t *testing.T) inspect.Network {
	t.Helper()
	g := grad.NewGraph()
	y := g.Relu(g.Conv(g.Input("image", 1, 1, 4, 4), g.Weight("w", []float32{1}, 1, 1, 1, 1), nil, grad.Window{}))
	data, err := g.Marshal(g.Name(g.Concat(1, y, g.Clip(y, 0, 2)), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return inspect.Network{Backend: backend(t), Model: m, Image: "image", Shape: []int64{1, 1, 4, 4}}
}

// Pictures with a dot are found, and where it is in them.
func TestSurvey(t *testing.T) {
	t.Parallel()
	n := dotPictures(t)
	done := 0
	units, err := n.Survey(t.Context(), []string{"layer", "pool", "all"}, 3, 2, func(i int, into []float32) error {
		clear(into)
		into[16*(2*i+2)+4+2*i] = float32(1+i) / 2 // brighter from picture to picture
		return nil
	}, func(int) { done++ })
	if err != nil {
		t.Fatal(err)
	}
	for layer, want := range map[string][]inspect.Patch{
		"layer": {{Picture: 2, Activation: 24, X: 7, Y: 5, Width: 3, Height: 3}, {Picture: 1, Activation: 16, X: 5, Y: 3, Width: 3, Height: 3}},
		"pool":  {{Picture: 2, Activation: 24, X: 7, Y: 3, Width: 5, Height: 5}, {Picture: 1, Activation: 16, X: 3, Y: 3, Width: 5, Height: 5}},
		// Of the first place of the map, where none of these dots is.
		"all": {{Picture: 0, Width: 16, Height: 16}, {Picture: 1, Width: 16, Height: 16}},
	} {
		if diff := cmp.Diff(want, units[layer][0].Strongest); diff != "" {
			t.Errorf("%s (-want +got)\n%s", layer, diff)
		}
	}
	u := units["layer"][0]
	if u.Max != 24 || math.Abs(u.Active-1./64) > 1e-9 || math.Abs(u.Mean-16./64) > 1e-6 || done != 3 {
		t.Errorf("max %g, active %g, mean %g, %d done", u.Max, u.Active, u.Mean, done)
	}
	if want := math.Sqrt((8.*8+16*16+24*24)/(3*64) - u.Mean*u.Mean); math.Abs(u.Deviation-want) > 1e-6 {
		t.Errorf("deviation %g, want %g", u.Deviation, want)
	}
	if _, err := n.Survey(t.Context(), []string{"none"}, 1, 1, nil, nil); face.KindOf(err) != face.Invalid {
		t.Errorf("a layer that is not there: %v", err)
	}
}

func TestLayers(t *testing.T) {
	t.Parallel()
	n := dotPictures(t)
	got, err := n.Layers()
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]inspect.Layer{}
	for _, l := range got {
		named[l.Name] = l
	}
	for _, want := range []inspect.Layer{
		{Name: "conv", Channels: 2, Places: [2]int64{8, 8}, Field: [2]int64{3, 3}, Stride: [2]int64{2, 2}},
		{Name: "pool", Channels: 2, Places: [2]int64{4, 4}, Field: [2]int64{5, 5}, Stride: [2]int64{4, 4}},
		{Name: "mixed", Channels: 2, Places: [2]int64{4, 4}, Field: [2]int64{16, 16}},
		{Name: "all", Channels: 32, Places: [2]int64{1, 1}, Field: [2]int64{16, 16}},
	} {
		if diff := cmp.Diff(want, named[want.Name]); diff != "" {
			t.Errorf("%s (-want +got)\n%s", want.Name, diff)
		}
	}
	for count, want := range [][]string{{}, {"layer"}, {"layer", "pool"}, {"layer", "pool"}} {
		if diff := cmp.Diff(want, inspect.Spread(got, count)); diff != "" {
			t.Errorf("%d of them (-want +got)\n%s", count, diff)
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	l, filters, err := dotPictures(t).Filters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := [][]float32{{-2, -2, -2, -2, 16, -2, -2, -2, -2}, {-2, 2, 0, -2, 2, 0, -2, 2, 0}}
	if diff := cmp.Diff(want, filters); diff != "" || l.Name != "conv" {
		t.Errorf("of %s (-want +got)\n%s", l.Name, diff)
	}

	g := grad.NewGraph()
	data, err := g.Marshal(g.Name(g.MaxPool(g.Input("image", 1, 1, 8, 8), grad.Window{Kernel: []int64{2, 2}}), "pool"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	n := inspect.Network{Backend: backend(t), Model: m, Image: "image", Shape: []int64{1, 1, 8, 8}}
	if _, _, err := n.Filters(t.Context()); face.KindOf(err) != face.Invalid {
		t.Errorf("no convolution: %v", err)
	}
}

// What excites a detector of edges is edges, whatever the input's scale.
func TestMaximise(t *testing.T) {
	t.Parallel()
	n := dotPictures(t)
	o := inspect.MaximiseOptions{Steps: 60, Rate: 0.02, Smooth: 0.02, Low: []float32{-3}, High: []float32{5}, Seed: 1}
	picture, scores, err := n.Maximise(t.Context(), "layer", 1, o)
	if err != nil {
		t.Fatal(err)
	}
	var along, across float64 // of what neighbours differ by
	for y := range 15 {
		for x := range 15 {
			along += math.Abs(float64(picture[16*y+x+16] - picture[16*y+x]))
			across += math.Abs(float64(picture[16*y+x+1] - picture[16*y+x]))
		}
	}
	if len(scores) != 60 || scores[59] < 3*scores[0] || across < 3*along {
		t.Errorf("the activation was %g and is %g; the columns differ by %g, the rows by %g", scores[0], scores[len(scores)-1], across, along)
	}
	if slices.Min(picture) < -3 || slices.Max(picture) > 5 {
		t.Errorf("%g..%g", slices.Min(picture), slices.Max(picture))
	}
	if _, _, err := n.Maximise(t.Context(), "layer", 2, o); face.KindOf(err) != face.Invalid {
		t.Errorf("a channel that is not there: %v", err)
	}
	// A silent unit has a way up: one that sees light begins in the dark.
	dark := inspect.MaximiseOptions{Steps: 20, Rate: 0.1, Low: []float32{-5}, High: []float32{1}, Seed: 1}
	if _, scores, err = bright(t).Maximise(t.Context(), "layer", 0, dark); err != nil || scores[0] != 0 || scores[19] < 0.5 {
		t.Errorf("%v, %v", scores, err)
	}
	// A unit that nothing excites gives a picture all the same.
	if _, scores, err = n.Maximise(t.Context(), "all", 3, inspect.MaximiseOptions{Steps: 3, Rate: 0.02, Low: []float32{0}, High: []float32{0}}); err != nil || scores[2] != 0 {
		t.Errorf("%v, %v", scores, err)
	}
}

// The same of a real network.
func TestMaximiseReal(t *testing.T) {
	t.Parallel()
	n := inspect.Network{Backend: backend(t), Model: squeezenet(t), Image: "image", Shape: []int64{1, 3, 48, 48}}
	o := inspect.MaximiseOptions{Steps: 40, Rate: 0.02, Smooth: 0.05, Low: []float32{-123, -117, -104}, High: []float32{132, 138, 151}, Seed: 1}
	_, scores, err := n.Maximise(t.Context(), "fire3/concat", 5, o)
	if err != nil || scores[len(scores)-1] < 2*scores[0]+1 {
		t.Errorf("the activation was %g and is %g: %v", scores[0], scores[len(scores)-1], err)
	}
}
