package style

import (
	"context"
	"crypto/sha256"
	"image"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Field is a signal, a picture or a volume of numbers: channels, each of one
// to three spatial axes, the last of which varies fastest.
type Field struct {
	Channels int
	Size     []int
	Data     []float32
}

// Random names features that are drawn at random from the seed and not fitted
// to anything. They are for fields that are too small to learn from.
const Random = "random"

// largestField bounds how many numbers a field has.
const largestField = 1 << 24

func (f Field) check(name string) error {
	bad := func(format string, args ...any) error {
		return face.Errorf(face.Invalid, "style.TransferField", name+": "+format, args...)
	}
	if n := len(f.Size); n < 1 || n > 3 {
		return bad("%d spatial axes, not 1 to 3", n)
	}
	if f.Channels < 1 || f.Channels > 16 {
		return bad("%d channels, not 1 to 16", f.Channels)
	}
	total := f.Channels
	for _, n := range f.Size {
		if n < shortestField || n > largestField {
			return bad("sizes %v: each must be %d to %d", f.Size, shortestField, largestField)
		}
		if total *= n; total > largestField {
			return bad("sizes %v: more than %d numbers", f.Size, largestField)
		}
	}
	if len(f.Data) != total {
		return bad("%d numbers for %d channels of %v", len(f.Data), f.Channels, f.Size)
	}
	for i, v := range f.Data {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return bad("number %d is not finite", i)
		}
	}
	return nil
}

// shortestField is the shortest axis of a field.
const shortestField = 8

// fields are the inputs of a run over fields. Both are scaled to a common unit,
// in which they vary as much as pictures do.
type fields struct {
	one, two Field
	most     int
}

func (m fields) channels() int { return m.one.Channels }

func (m fields) of() []int { return m.one.Size }

func (m fields) content(size []int) []float32 {
	return resize(m.one.Data, m.one.Channels, m.one.Size, size)
}

func (m fields) styles() int { return 1 }

// style has its own size at the last scale, because a field, unlike a picture,
// cannot be shown at any size.
func (m fields) style(_, long int) ([]float32, []int) {
	size := make([]int, len(m.two.Size))
	share := float64(long) / float64(slices.Max(m.one.Size))
	for i, n := range m.two.Size {
		size[i] = max(int(math.Round(float64(n)*share)), shortestField)
		if size[i] > m.most {
			size[i] = (size[i] + grain/2) / grain * grain
		}
	}
	return resize(m.two.Data, m.two.Channels, m.two.Size, size), size
}

func (m fields) mask(int, []int) []float32 { return nil }

// TransferField does to a signal or a volume what [Engine.Transfer] does to a
// picture: the same losses and optimisers over one, two or three axes. The
// result has the sizes and the units of the content. Features are [Learned] or
// [Random]. Parameters that only make sense for pictures (Size, StyleScale,
// StyleWeights, PreserveColor) are ignored, and a [Report] has no Preview and
// no Checkpoint. Errors are those of Transfer.
func (e *Engine) TransferField(ctx context.Context, content, style Field, p Params, observe func(Report) error) (Field, error) {
	const op = "style.TransferField"
	p.Size, p.StyleScale, p.StyleWeights, p.PreserveColor = MinSize, 1, nil, "none"
	if err := p.Validate(1); err != nil {
		return Field{}, err
	}
	if err := content.check("content"); err != nil {
		return Field{}, err
	}
	if err := style.check("style"); err != nil {
		return Field{}, err
	}
	if style.Channels != content.Channels || len(style.Size) != len(content.Size) {
		return Field{}, face.Errorf(face.Invalid, op, "style: %d channels of %d axes, but the content has %d of %d",
			style.Channels, len(style.Size), content.Channels, len(content.Size))
	}
	if p.Features != Learned && p.Features != Random {
		return Field{}, face.Errorf(face.Invalid, op, "params.features: %q is neither %q nor %q", p.Features, Learned, Random)
	}
	most := e.fieldTile(len(content.Size))
	mean, unit := commonUnits(content.Data, style.Data)
	m := fields{scaled(content, mean, unit), scaled(style, mean, unit), most}
	net, err := e.fieldFeatures(ctx, p, m)
	if err != nil {
		return Field{}, contextError(ctx, err)
	}
	for _, layers := range []map[string]float64{p.Layers.Content, p.Layers.Style} {
		for _, name := range sorted(layers) {
			if !slices.Contains(net.names(), name) {
				return Field{}, face.Errorf(face.Invalid, op, "params.layers: there is no layer %q; there are %q", name, net.names())
			}
		}
	}
	r := &run{
		backend: e.options.Backend, net: net, material: m, params: p, most: most,
		scales: fieldSchedule(content.Size, p.Iterations, most), task: sha256.Sum256(nil),
	}
	x, size, err := r.run(ctx, nil, func(rep Report) error {
		if observe == nil {
			return nil
		}
		rep.Checkpoint, rep.Preview = nil, func() *image.RGBA { return nil }
		return observe(rep)
	})
	if err != nil {
		return Field{}, contextError(ctx, err)
	}
	out := Field{content.Channels, content.Size, resize(x, content.Channels, size, content.Size)}
	for i, v := range out.Data {
		out.Data[i] = float32((float64(v)-middle)/unit + mean)
	}
	return out, nil
}

// fieldTile is how much of an axis is computed at once, so that a tile has
// about as many numbers as a tile of a picture.
func (e *Engine) fieldTile(rank int) int {
	total := float64(e.options.Tile) * float64(e.options.Tile)
	return int(math.Pow(total, 1/float64(rank))) / grain * grain
}

// commonUnits returns the mean of two fields and the unit in which their
// standard deviation is 50, about that of a picture.
func commonUnits(a, b []float32) (mean, unit float64) {
	var sum, squares float64
	n := float64(len(a) + len(b))
	for _, data := range [][]float32{a, b} {
		for _, v := range data {
			sum += float64(v)
		}
	}
	mean = sum / n
	for _, data := range [][]float32{a, b} {
		for _, v := range data {
			squares += (float64(v) - mean) * (float64(v) - mean)
		}
	}
	if squares == 0 {
		return mean, 1
	}
	return mean, 50 / math.Sqrt(squares/n)
}

func scaled(f Field, mean, unit float64) Field {
	data := make([]float32, len(f.Data))
	for i, v := range f.Data {
		data[i] = float32((float64(v)-mean)*unit + middle)
	}
	f.Data = data
	return f
}

// fieldSchedule goes from a quarter of the sizes, if that is not too short, to
// the full sizes.
func fieldSchedule(of []int, steps, most int) []scale {
	long := slices.Max(of)
	all := []scale{{size: scaledSides(of, long, most)}}
	for _, share := range []int{2, 4} {
		size := scaledSides(of, long/share, most)
		if slices.Min(size) < narrowest || len(all) == steps {
			break
		}
		all = append([]scale{{size: size}}, all...)
	}
	shareSteps(all, steps)
	return all
}

func (e *Engine) fieldFeatures(ctx context.Context, p Params, m fields) (features, error) {
	if p.Features == Random {
		return random(m.channels(), m.of(), p.Seed), nil
	}
	size := m.of()
	style, styleSize := m.style(0, slices.Max(size))
	return fitFeatures(ctx, e.options.Backend, m.channels(), []sample{{size, m.content(size)}, {styleSize, style}}, p.Seed)
}

// random draws filters of the learned ones' shape: each with its opposite, no
// bias, and such that a layer's numbers vary about as much as its input's.
func random(channels int, size []int, seed uint64) *learned {
	rank := len(size)
	p := planFor(rank)
	l := &learned{pool: int64(p.pool), fallback: learnedDefaults()}
	rng := rand.New(rand.NewPCG(seed, 1<<33))
	in := channels
	for i, k := range p.kernels {
		if i > 0 && slices.Min(size)/power2(p.pool, i) < 2 {
			break
		}
		kernel := slices.Repeat([]int{k}, rank)
		dim := in * area(kernel)
		half := p.components[i]
		f := filters{in: in, out: 2 * half, weights: make([]float32, 2*half*dim), bias: make([]float32, 2*half)}
		for range rank {
			f.kernel = append(f.kernel, int64(k))
		}
		for c := range half {
			for j := range dim {
				w := float32(rng.NormFloat64() / math.Sqrt(float64(dim)))
				f.weights[c*dim+j], f.weights[(half+c)*dim+j] = w, -w
			}
		}
		l.layers, in = append(l.layers, f), f.out
	}
	l.trim()
	return l
}
