// Package inspect shows what the units of a convolutional network respond to. For
// each unit it finds the patches of real pictures that excite it most (Zeiler and
// Fergus, arXiv 1311.2901), and makes the picture that excites it more than any
// (Erhan et al. 2009; Simonyan, Vedaldi and Zisserman, arXiv 1312.6034). It also
// shows the filters of the first layer. It works on any model that package grad
// can import.
package inspect

import (
	"cmp"
	"context"
	"errors"
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

// Layer is a tensor of the network whose channels are units.
type Layer struct {
	Name     string
	Channels int
	// Places are the rows and columns of the map; an embedding has 1 by 1.
	Places [2]int64
	// Field is how many rows and columns of the input a place sees, and Stride
	// the distance of neighbouring places, in pixels of the input. 0 means that
	// each place sees everything.
	Field, Stride [2]int64
}

// hasUnits reports whether axis 1 of a tensor is a channel of one picture.
func hasUnits(v *grad.Value) bool {
	return (len(v.Shape()) == 2 || len(v.Shape()) == 4) && v.Dim(0) == 1
}

// Layers lists the layers that can be inspected, in the order of computation.
func (n Network) Layers() ([]Layer, error) {
	g := grad.NewGraph()
	image := g.Input(n.Image, n.Shape...)
	names := n.Model.Layers()
	im, err := g.Import(n.Model, map[string]*grad.Value{n.Image: image}, names, grad.ImportOptions{Known: true})
	if err != nil {
		return nil, err
	}
	var all []Layer
	for _, name := range names {
		v := im.Layers[name]
		if v == nil || !hasUnits(v) {
			continue
		}
		l := Layer{Name: name, Channels: int(v.Dim(1)), Places: [2]int64{v.Dim(2), v.Dim(3)}}
		for i, f := range fieldsOf(g, v, image) {
			l.Field[i], l.Stride[i] = f.size, f.stride
		}
		all = append(all, l)
	}
	return all, nil
}

// Spread picks up to count layers at even steps of depth, from the first layer
// that sees more than a pixel to the last that does not see everything. Of
// layers that see equally much it takes the last, from which the next one is
// computed.
func Spread(layers []Layer, count int) []string {
	var deepest []Layer
	for _, l := range layers {
		n := len(deepest)
		switch {
		case l.Stride == [2]int64{} || l.Field == [2]int64{1, 1}:
		case n > 0 && deepest[n-1].Field == l.Field:
			deepest[n-1] = l
		case n == 0 || l.Field[0] > deepest[n-1].Field[0] || l.Field[1] > deepest[n-1].Field[1]:
			deepest = append(deepest, l)
		}
	}
	count = min(count, len(deepest))
	names := make([]string, count)
	for i := range names {
		names[i] = deepest[i*(len(deepest)-1)/max(1, count-1)].Name
	}
	return names
}

// Filters are the weights of the first layer that sees more than a pixel:
// [C,H,W] for each channel, multiplied by the scale that the network applies to
// its input.
func (n Network) Filters(ctx context.Context) (_ Layer, _ [][]float32, err error) {
	const op = "inspect.Filters"
	layers, err := n.Layers()
	if err != nil {
		return Layer{}, nil, err
	}
	at := slices.IndexFunc(layers, func(l Layer) bool { return l.Field != [2]int64{1, 1} })
	if at < 0 || layers[at].Stride == [2]int64{} {
		return Layer{}, nil, face.Errorf(face.Invalid, op, "the network does not begin with a convolution")
	}
	l := layers[at]
	// The first convolution is linear: the gradient of a place is its filter.
	g := grad.NewGraph()
	image := g.Input(n.Image, n.Shape...)
	im, err := g.Import(n.Model, map[string]*grad.Value{n.Image: image}, []string{l.Name}, grad.ImportOptions{})
	if err != nil {
		return l, nil, err
	}
	v := im.Layers[l.Name]
	fields := fieldsOf(g, v, image)
	var start [2]int64
	for axis, f := range fields {
		middle := l.Places[axis] / 2
		start[axis] = f.start + middle*f.stride
		if start[axis] < 0 || start[axis]+f.size > image.Dim(axis+2) {
			return l, nil, face.Errorf(face.Invalid, op, "the filters of layer %q do not fit into the input", l.Name)
		}
		v = g.Slice(v, axis+2, middle, middle+1)
	}
	which := g.Input("unit", 1, int64(l.Channels), 1, 1)
	d, err := g.Gradient(g.Total(g.Mul(v, which)), image)
	if err != nil {
		return l, nil, err
	}
	if len(g.Inputs(d[0])) > 1 { // the gradient of a linear layer does not depend on the input
		return l, nil, face.Errorf(face.Invalid, op, "layer %q, the first that sees more than a pixel, is no convolution", l.Name)
	}
	p, err := g.Compile(n.Backend, d[0])
	if err != nil {
		return l, nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	mask := p.Input(0)
	filters := make([][]float32, l.Channels)
	for c := range filters {
		clear(mask)
		mask[c] = 1
		if err := p.Run(ctx); err != nil {
			return l, nil, err
		}
		for k := range n.Shape[1] {
			for y := start[0]; y < start[0]+fields[0].size; y++ {
				row := (k*n.Shape[2]+y)*n.Shape[3] + start[1]
				filters[c] = append(filters[c], p.Output(0)[row:row+fields[1].size]...)
			}
		}
	}
	return l, filters, nil
}

// Patch is a place of a picture that excites a unit.
type Patch struct {
	Picture    int
	Activation float32
	// The receptive field in pixels of the input; it may reach beyond it.
	X, Y, Width, Height int64
}

// Unit is one channel of a layer, with the activations that were seen.
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

// Survey runs pictures through the network and records what excites every
// channel of some layers. picture writes the i-th picture into the input's
// memory. A layer without places, such as an embedding, counts as one place
// that sees everything. The error is Invalid if a layer does not exist.
func (n Network) Survey(ctx context.Context, layers []string, pictures, keep int, picture func(i int, into []float32) error, done func(i int)) (_ map[string][]*Unit, err error) {
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
		if !hasUnits(v) {
			return nil, face.Errorf(face.Invalid, "inspect.Survey", "layer %q has the shape %v, and no channels", name, v.Shape())
		}
		fields[name] = fieldsOf(g, v, image)
		for c := range v.Dim(1) {
			units[name] = append(units[name], &Unit{Layer: name, Channel: int(c), Max: math.Inf(-1)})
		}
	}
	p, err := g.Compile(n.Backend, outputs...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
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

// fieldsOf returns the receptive fields along the rows and the columns. A layer
// that is not a map of places, or that mixes all places, sees everything.
func fieldsOf(g *grad.Graph, layer, image *grad.Value) (fields [2]field) {
	fields = [2]field{{0, 0, image.Dim(2)}, {0, 0, image.Dim(3)}}
	if len(layer.Shape()) != 4 {
		return fields
	}
	r, err := g.Reach(layer, image)
	if err != nil {
		return fields
	}
	for i := range fields {
		fields[i] = field{-r.Before[i], r.Stride[i], r.Before[i] + r.After[i] + 1}
	}
	return fields
}

// see records a unit's activations for one picture.
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

// MaximiseOptions say how the exciting picture is computed.
type MaximiseOptions struct {
	Steps int     // of gradient ascent
	Rate  float64 // of each step, as a share of the input's range
	// Smooth is how far each step moves a pixel towards the mean of its
	// neighbours, 0..1. Without smoothing the picture looks like noise.
	Smooth    float64
	Low, High []float32 // of the input's numbers, for each of its channels
	Seed      uint64
}

// DefaultMaximiseOptions are what `likeness inspect` begins with: 150 steps at a
// rate of 0.02, each smoothing by 0.05, and the seed 1. Low and High have no
// default: they are the network's. A zero field of MaximiseOptions stands for
// zero, not for its default.
func DefaultMaximiseOptions() MaximiseOptions {
	return MaximiseOptions{Steps: 150, Rate: 0.02, Smooth: 0.05, Seed: 1}
}

// Maximise finds a picture, in the input's own numbers, that excites a channel
// of a layer: gradient ascent on the pixels, from noise about the middle,
// shifted a little at each step so that no place is special. It returns the
// picture and the activation at each step. The error is Invalid if the layer or
// the channel does not exist.
func (n Network) Maximise(ctx context.Context, layer string, channel int, o MaximiseOptions) (_ []float32, _ []float64, err error) {
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
	// The ascent uses the input of a Relu, because a silent unit has no
	// gradient after it. Places where the unit is silent count little, so that
	// a filter whose weights sum to zero has a gradient too.
	drive := g.LeakyRelu(g.Slice(g.Unclipped(v), 1, int64(channel), int64(channel)+1), 0.1)
	d, err := g.Gradient(g.Total(drive), image)
	if err != nil {
		return nil, nil, err
	}
	p, err := g.Compile(n.Backend, score, d[0])
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()

	rng := rand.New(rand.NewPCG(o.Seed, 5)) //nolint:gosec // reproducible on purpose
	size, plane := int(n.Shape[1]*n.Shape[2]*n.Shape[3]), int(n.Shape[2]*n.Shape[3])
	// The picture is kept as shares of the range, so that the scales of units
	// and inputs do not matter.
	picture, moment, back := make([]float32, size), make([]float32, size), make([]float32, size)
	for i := range picture {
		picture[i] = 0.5
	}
	disturb := func() {
		for i := range picture {
			picture[i] = max(0, min(1, picture[i]+float32(rng.NormFloat64()/20)))
		}
	}
	disturb()
	var scores []float64
	for range o.Steps {
		dx, dy := rng.IntN(5)-2, rng.IntN(5)-2
		in := p.Input(0)
		n.roll(in, picture, dx, dy)
		for i := range in {
			low := o.Low[i/plane]
			in[i] = low + in[i]*(o.High[i/plane]-low)
		}
		if err := p.Run(ctx); err != nil {
			return nil, nil, err
		}
		scores = append(scores, float64(p.Output(0)[0]))
		n.roll(back, p.Output(1), -dx, -dy)
		var sum float64
		for i := range back {
			back[i] *= o.High[i/plane] - o.Low[i/plane]
			sum += float64(back[i]) * float64(back[i])
		}
		if sum == 0 { // no gradient: start again from other noise
			disturb()
			continue
		}
		by := float32(o.Rate / math.Sqrt(sum/float64(size)))
		for i := range picture {
			moment[i] = 0.8*moment[i] + 0.2*by*back[i]
			picture[i] = max(0, min(1, picture[i]+moment[i]))
		}
		n.soften(picture, float32(o.Smooth), back)
	}
	for i, share := range picture {
		low := o.Low[i/plane]
		picture[i] = low + share*(o.High[i/plane]-low)
	}
	return picture, scores, nil
}

// soften moves every pixel towards the mean of its four neighbours.
func (n Network) soften(picture []float32, by float32, spare []float32) {
	h, w := int(n.Shape[2]), int(n.Shape[3])
	copy(spare, picture)
	for c := range int(n.Shape[1]) {
		from, to := spare[c*h*w:(c+1)*h*w], picture[c*h*w:(c+1)*h*w]
		for y := range h {
			up, down := max(y-1, 0)*w, min(y+1, h-1)*w
			for x := range w {
				mean := (from[up+x] + from[down+x] + from[y*w+max(x-1, 0)] + from[y*w+min(x+1, w-1)]) / 4
				to[y*w+x] += by * (mean - from[y*w+x])
			}
		}
	}
}

// roll shifts a picture cyclically.
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
