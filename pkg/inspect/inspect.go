// Package inspect shows what the units of a convolutional network respond to:
// the patches of real pictures that excite them most (Zeiler and Fergus,
// arXiv 1311.2901), and the picture that would excite them more than any
// (Erhan et al. 2009; Simonyan, Vedaldi and Zisserman, arXiv 1312.6034).
package inspect

import (
	"cmp"
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Network is a model to look into.
type Network struct {
	Backend grad.Backend
	Model   *grad.Model
	Image   string  // name of the input
	Shape   []int64 // of the input: [1,C,H,W]
}

// Patch is a place of a picture that excites a unit.
type Patch struct {
	Picture    int
	Activation float32
	// The receptive field in pixels of the input; it may reach beyond it.
	X, Y, Width, Height int64
}

// Unit is one channel of a layer, and what was seen of it.
type Unit struct {
	Layer   string
	Channel int
	// Strongest are the patches with the highest activations, at most one of
	// each picture, highest first.
	Strongest []Patch
	// Mean and Deviation are of all activations, Active the share above 0.
	Mean, Deviation, Active, Max float64

	sum, squares, above, count float64
}

// Survey runs pictures through the network and notes for every channel of some
// layers what excites it. picture writes the i-th into the input's memory.
// Layers without places, such as an embedding, count as one place that sees
// everything. Invalid: a layer that is not there.
func (n Network) Survey(ctx context.Context, layers []string, pictures, keep int, picture func(i int, into []float32) error, done func(i int)) (map[string][]*Unit, error) {
	g := grad.NewGraph()
	image := g.Input(n.Image, n.Shape...)
	im, err := g.Import(n.Model, map[string]*grad.Value{n.Image: image}, layers, grad.ImportOptions{})
	if err != nil {
		return nil, err
	}
	fields := map[string][2]field{}
	var outputs []*grad.Value
	units := map[string][]*Unit{}
	for _, name := range layers {
		v := im.Layers[name]
		outputs = append(outputs, v)
		if fields[name], err = fieldsOf(g, v, image); err != nil {
			return nil, err
		}
		for c := range v.Dim(1) {
			units[name] = append(units[name], &Unit{Layer: name, Channel: int(c), Max: math.Inf(-1)})
		}
	}
	p, err := g.Compile(n.Backend, outputs...)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	for i := range pictures {
		if err := picture(i, p.Input(0)); err != nil {
			return nil, err
		}
		if err := p.Run(ctx); err != nil {
			return nil, err
		}
		for k, name := range layers {
			data, channels := p.Output(k), len(units[name])
			places := len(data) / channels
			width := int(outputs[k].Dim(3))
			for c, u := range units[name] {
				u.see(i, data[c*places:(c+1)*places], width, fields[name], keep)
			}
		}
		done(i)
	}
	for _, all := range units {
		for _, u := range all {
			u.Mean = u.sum / u.count
			u.Deviation = math.Sqrt(max(0, u.squares/u.count-u.Mean*u.Mean))
			u.Active = u.above / u.count
		}
	}
	return units, nil
}

// field is what place i of a layer sees along an axis of the input: size
// pixels from start + i*stride on, some of which lie in the padding.
type field struct{ start, stride, size int64 }

// fieldsOf are the receptive fields along the rows and the columns. What is no
// map of places any more sees everything.
func fieldsOf(g *grad.Graph, layer, image *grad.Value) (fields [2]field, err error) {
	if len(layer.Shape()) != 4 {
		return [2]field{{0, 0, image.Dim(2)}, {0, 0, image.Dim(3)}}, nil
	}
	r, err := g.Reach(layer, image)
	if err != nil {
		return fields, err
	}
	for i := range fields {
		fields[i] = field{-r.Before[i], r.Stride[i], r.Before[i] + r.After[i] + 1}
	}
	return fields, nil
}

// see notes one picture's activations of a unit.
func (u *Unit) see(picture int, places []float32, width int, fields [2]field, keep int) {
	best := 0
	for i, a := range places {
		x := float64(a)
		u.sum, u.squares, u.count = u.sum+x, u.squares+x*x, u.count+1
		if a > 0 {
			u.above++
		}
		if a > places[best] {
			best = i
		}
	}
	u.Max = max(u.Max, float64(places[best]))
	y, x := fields[0], fields[1]
	u.Strongest = append(u.Strongest, Patch{
		Picture: picture, Activation: places[best],
		X: x.start + int64(best%width)*x.stride, Width: x.size,
		Y: y.start + int64(best/width)*y.stride, Height: y.size,
	})
	slices.SortStableFunc(u.Strongest, func(a, b Patch) int { return cmp.Compare(b.Activation, a.Activation) })
	u.Strongest = u.Strongest[:min(keep, len(u.Strongest))]
}

// MaximiseOptions say how the exciting picture is sought.
type MaximiseOptions struct {
	Steps int     // of gradient ascent, 200 is usual
	Rate  float64 // of the numbers of the input, a hundredth of their range is usual
	// Smooth punishes the squared differences of neighbours: without it the
	// picture is noise that no eye reads.
	Smooth    float64
	Low, High float32 // of the input's numbers
	Seed      uint64
}

// Maximise finds a picture, in the input's own numbers, that excites a channel
// of a layer: gradient ascent on the pixels, from noise about the middle,
// shifted a little at each step so that no place is special. It returns the
// picture and the activation at each step. Invalid: no such layer or channel.
func (n Network) Maximise(ctx context.Context, layer string, channel int, o MaximiseOptions) ([]float32, []float64, error) {
	g := grad.NewGraph()
	image := g.Input(n.Image, n.Shape...)
	im, err := g.Import(n.Model, map[string]*grad.Value{n.Image: image}, []string{layer}, grad.ImportOptions{})
	if err != nil {
		return nil, nil, err
	}
	v := im.Layers[layer]
	if channel < 0 || int64(channel) >= v.Dim(1) {
		return nil, nil, face.Errorf(face.Invalid, "inspect.Maximise", "layer %q has %d channels, not a channel %d", layer, v.Dim(1), channel)
	}
	excited := g.Slice(v, 1, int64(channel), int64(channel)+1)
	score := g.Total(excited)
	score = g.Scale(score, 1/float64(excited.Len()))
	var rough *grad.Value
	for _, axis := range []int{2, 3} {
		size := image.Dim(axis)
		d := g.Sub(g.Slice(image, axis, 1, size), g.Slice(image, axis, 0, size-1))
		if part := g.SumSquares(d); rough == nil {
			rough = part
		} else {
			rough = g.Add(rough, part)
		}
	}
	goal := g.Sub(score, g.Scale(rough, o.Smooth/float64(image.Len())))
	d, err := g.Gradient(goal, image)
	if err != nil {
		return nil, nil, err
	}
	p, err := g.Compile(n.Backend, score, d[0])
	if err != nil {
		return nil, nil, err
	}
	defer p.Close()

	rng := rand.New(rand.NewPCG(o.Seed, 5)) //nolint:gosec // reproducible on purpose
	size := int(n.Shape[1] * n.Shape[2] * n.Shape[3])
	picture, moment := make([]float32, size), make([]float32, size)
	middle, span := (o.High+o.Low)/2, (o.High-o.Low)/20
	for i := range picture {
		picture[i] = middle + span*float32(rng.NormFloat64())
	}
	var scores []float64
	for range o.Steps {
		dx, dy := rng.IntN(5)-2, rng.IntN(5)-2
		n.roll(p.Input(0), picture, dx, dy)
		if err := p.Run(ctx); err != nil {
			return nil, nil, err
		}
		scores = append(scores, float64(p.Output(0)[0]))
		grads := p.Output(1)
		var sum float64
		for _, d := range grads {
			sum += float64(d) * float64(d)
		}
		// A step of the same length whatever the unit's scale.
		by := float32(o.Rate / (math.Sqrt(sum/float64(size)) + 1e-20))
		back := make([]float32, size)
		n.roll(back, grads, -dx, -dy)
		for i := range picture {
			moment[i] = 0.8*moment[i] + 0.2*by*back[i]
			picture[i] = max(o.Low, min(o.High, picture[i]+moment[i]))
		}
	}
	return picture, scores, nil
}

// roll shifts a picture, what leaves on one side comes in on the other.
func (n Network) roll(dst, src []float32, dx, dy int) {
	h, w := int(n.Shape[2]), int(n.Shape[3])
	for c := range int(n.Shape[1]) {
		for y := range h {
			from := src[c*h*w+y*w : c*h*w+(y+1)*w]
			to := dst[c*h*w+((y+dy+h)%h)*w:]
			for x, v := range from {
				to[(x+dx+w)%w] = v
			}
		}
	}
}
