package style

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// learned are features that are fitted to the images of a task. Each layer
// takes small patches of the layer before it and finds the directions in which
// they differ most: principal components, each scaled to a variance of 1. It
// has two channels for each direction, one for positive and one for negative
// responses. Between layers, each 2 by 2 places become their mean.
type learned struct {
	layers   []filters
	pool     int64
	fallback Defaults
}

// filters are one layer, of rank spatial axes.
type filters struct {
	weights, bias []float32
	in, out       int
	kernel        []int64
}

// plan says how many layers are fitted and how large.
type plan struct {
	kernels, components []int
	pool                int
}

// planFor is the plan for a number of spatial axes. No layer has patches of
// more than 864 numbers, so that the eigenvectors of their covariance are found
// quickly.
func planFor(rank int) plan {
	switch rank {
	case 1:
		return plan{[]int{15, 9, 9, 9}, []int{8, 12, 16, 16}, 2}
	case 3:
		return plan{[]int{3, 3, 3, 3}, []int{8, 8, 12, 12}, 2}
	}
	return plan{[]int{5, 3, 3, 3, 3}, []int{12, 24, 40, 48, 48}, 2}
}

// learnedDefaults are those of planFor's layers.
func learnedDefaults() Defaults {
	return Defaults{
		Layers: Layers{
			Content: map[string]float64{"l3": 1},
			Style:   map[string]float64{"l1": 4, "l2": 3, "l3": 2, "l4": 1, "l5": 0.5},
		},
		Content: 0.4, Style: 1, TV: 1e-5,
	}
}

func (l *learned) names() []string {
	var all []string
	for i := range l.layers {
		all = append(all, fmt.Sprintf("l%d", i+1))
	}
	return all
}

func (l *learned) defaults() Defaults { return l.fallback }

func (l *learned) add(g *grad.Graph, x *grad.Value, layers []string) (map[string]*grad.Value, error) {
	rank := len(x.Shape()) - 2
	out := map[string]*grad.Value{}
	last := -1
	names := l.names()
	for _, name := range layers {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, face.Errorf(face.Invalid, "style", "the features %q have no layer %q; they have %q", Learned, face.Excerpt(name), names)
		}
		last = max(last, i)
	}
	// After this shift, the zeros that pad the edges are grey.
	x = g.Sub(x, g.Scalar(middle))
	for i := range last + 1 {
		f := l.layers[i]
		if i > 0 {
			x = g.AveragePool(x, grad.Window{Kernel: slices.Repeat([]int64{l.pool}, rank), Strides: slices.Repeat([]int64{l.pool}, rank)})
		}
		pads := make([]int64, 0, 2*rank)
		for range 2 {
			for _, k := range f.kernel {
				pads = append(pads, k/2)
			}
		}
		w := g.Constant(f.weights, append([]int64{int64(f.out), int64(f.in)}, f.kernel...)...)
		x = g.Relu(g.Conv(x, w, g.Constant(f.bias, int64(f.out)), grad.Window{Pads: pads}))
		if slices.Contains(layers, names[i]) {
			out[names[i]] = x
		}
	}
	return out, g.Err()
}

// middle is the grey that pads the edges.
const middle = 128

// sample is one image that is fitted to.
type sample struct {
	size []int
	data []float32
}

// patches is how many are taken of each image for each layer.
const patches = 12000

// fitFeatures makes the features. The same images and seed give the same features.
func fitFeatures(ctx context.Context, b grad.Backend, channels int, samples []sample, seed uint64) (*learned, error) {
	rank := len(samples[0].size)
	p := planFor(rank)
	l := &learned{pool: int64(p.pool), fallback: learnedDefaults()}
	in, shortest := channels, slices.Min(samples[0].size)
	for _, s := range samples {
		shortest = min(shortest, slices.Min(s.size))
	}
	for i, k := range p.kernels {
		// Larger images get more layers.
		if i > 0 && shortest/power2(p.pool, i) < 2 {
			break
		}
		kernel := slices.Repeat([]int{k}, rank)
		dim := in * area(kernel)
		rng := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // a layer's number
		var rows []float32
		for _, s := range samples {
			data, size := s.data, s.size
			if i > 0 {
				var err error
				if data, size, err = l.pooled(ctx, b, channels, s); err != nil {
					return nil, err
				}
			}
			rows = append(rows, takePatches(rng, data, in, size, kernel)...)
		}
		f, err := principal(ctx, b, rows, dim, min(p.components[i], dim), i)
		if err != nil {
			return nil, err
		}
		f.in = in
		for range rank {
			f.kernel = append(f.kernel, int64(k))
		}
		l.layers = append(l.layers, f)
		in = f.out
	}
	l.trim()
	return l, nil
}

// trim removes from the defaults the layers that the images are too small for.
func (l *learned) trim() {
	names := l.names()
	for name := range l.fallback.Layers.Style {
		if !slices.Contains(names, name) {
			delete(l.fallback.Layers.Style, name)
		}
	}
	if !slices.Contains(names, "l3") {
		l.fallback.Layers.Content = map[string]float64{names[len(names)-1]: 1}
	}
}

func power2(base, n int) int {
	out := 1
	for range n {
		out *= base
	}
	return out
}

// pooled is the input of the next layer for an image.
func (l *learned) pooled(ctx context.Context, b grad.Backend, channels int, s sample) ([]float32, []int, error) {
	g := grad.NewGraph()
	names := l.names()
	top := names[len(names)-1]
	values, err := l.add(g, g.Input("image", tensorShape(channels, s.size)...), []string{top})
	if err != nil {
		return nil, nil, err
	}
	window := slices.Repeat([]int64{l.pool}, len(s.size))
	y := g.AveragePool(values[top], grad.Window{Kernel: window, Strides: window})
	out, err := runOnce(ctx, b, g, s.data, y)
	if err != nil {
		return nil, nil, err
	}
	return out[0], layerOf(y).size, nil
}

// takePatches copies patches at random places, or all patches if there are no
// more than wanted. Places beyond an edge repeat the edge.
func takePatches(rng *rand.Rand, data []float32, channels int, size, kernel []int) []float32 {
	places := area(size)
	count := min(places, patches)
	rows := make([]float32, 0, count*channels*area(kernel))
	offsets := make([]int, area(kernel))
	for n := range count {
		at := n
		if places > patches {
			at = rng.IntN(places)
		}
		for o := range offsets {
			offset, step, rest, place := 0, 1, o, at
			for axis, n := range slices.Backward(size) {
				i := place%n + rest%kernel[axis] - kernel[axis]/2
				offset += min(max(i, 0), n-1) * step
				step *= n
				rest, place = rest/kernel[axis], place/n
			}
			offsets[o] = offset
		}
		for c := range channels {
			plane := data[c*places:][:places]
			for _, o := range offsets {
				rows = append(rows, plane[o])
			}
		}
	}
	return rows
}

// threshold silences weak responses from the third layer on. Their variance is
// 1.
const threshold = 0.3

// principal finds the components of rows of dim numbers. The covariance is
// computed by the runtime, a few thousand rows at a time.
func principal(ctx context.Context, b grad.Backend, rows []float32, dim, components, depth int) (f filters, err error) {
	const chunk = 2048
	count := len(rows) / dim
	mean := make([]float64, dim)
	for n := range count {
		for i, v := range rows[n*dim:][:dim] {
			mean[i] += float64(v)
		}
	}
	shift := 0.0
	if depth == 0 {
		shift = middle // the first layer is given x - middle
	}
	for i := range mean {
		mean[i] /= float64(count)
	}
	g := grad.NewGraph()
	x := g.Input("rows", chunk, int64(dim))
	p, err := compile(b, g, g.Gemm(x, x, true, false, 1/float64(chunk)))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	sum := make([]float32, dim*dim)
	for from := 0; from < count; from += chunk {
		in := p.in("rows")
		clear(in)
		for n := range min(chunk, count-from) {
			for i, v := range rows[(from+n)*dim:][:dim] {
				in[n*dim+i] = float32(float64(v) - mean[i])
			}
		}
		if err := p.Run(ctx); err != nil {
			return f, err
		}
		axpy(sum, chunk/float64(count), p.Output(0))
	}
	values, vectors, err := leading(ctx, b, sum, dim, components)
	if err != nil {
		return f, err
	}
	floor := max(values[0]*1e-5, 1e-4)
	f.out = 2 * components
	f.weights, f.bias = make([]float32, f.out*dim), make([]float32, f.out)
	for c := range components {
		scale := 1 / math.Sqrt(max(values[c], 0)+floor)
		var offset float64
		for i := range dim {
			w := vectors[c][i] * scale
			offset += w * (mean[i] - shift)
			f.weights[c*dim+i], f.weights[(components+c)*dim+i] = float32(w), float32(-w)
		}
		bias := 0.0
		if depth >= 2 {
			bias = -threshold
		}
		f.bias[c], f.bias[components+c] = float32(bias-offset), float32(bias+offset)
	}
	return f, nil
}

// leading finds the largest eigenvalues of a symmetric matrix and their unit
// vectors by subspace iteration: it multiplies a few more directions than
// wanted by the matrix again and again, and makes them perpendicular each time,
// until they span the leading eigenvectors. Finding all eigenvectors of a large
// matrix would take seconds.
func leading(ctx context.Context, b grad.Backend, matrix []float32, dim, want int) (values []float64, vectors [][]float64, err error) {
	const spare, rounds = 16, 20
	count := min(want+spare, dim)
	g := grad.NewGraph()
	q := g.Input("q", int64(count), int64(dim))
	p, err := compile(b, g, g.MatMul(q, g.Constant(matrix, int64(dim), int64(dim))))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	basis := make([][]float64, count)
	rng := rand.New(rand.NewPCG(uint64(dim), uint64(count))) //nolint:gosec // any directions do
	for i := range basis {
		for range dim {
			basis[i] = append(basis[i], rng.NormFloat64())
		}
	}
	stretch := func() error {
		perpendicular(basis, rng)
		in := p.in("q")
		for i, v := range basis {
			for j, x := range v {
				in[i*dim+j] = float32(x)
			}
		}
		return p.Run(ctx)
	}
	for range rounds {
		if err := stretch(); err != nil {
			return nil, nil, err
		}
		out := p.Output(0)
		for i, v := range basis {
			for k, x := range out[i*dim:][:dim] {
				v[k] = float64(x)
			}
		}
	}
	if err := stretch(); err != nil {
		return nil, nil, err
	}
	// Within that subspace, the eigenvectors are those of a small matrix.
	small := make([][]float64, count)
	for i := range small {
		small[i] = make([]float64, count)
	}
	stretched := make([]float64, dim)
	for i := range basis {
		for k, x := range p.Output(0)[i*dim:][:dim] {
			stretched[k] = float64(x)
		}
		for j := i; j < count; j++ {
			small[i][j] = scalarProduct(stretched, basis[j])
			small[j][i] = small[i][j]
		}
	}
	values, turns, ok := eigenSymmetric(small)
	if !ok {
		return nil, nil, errDiverged("the features have no principal components")
	}
	values = values[:want]
	for _, turn := range turns[:want] {
		v := make([]float64, dim)
		for i, b := range basis {
			addScaled(v, turn[i], b)
		}
		vectors = append(vectors, v)
	}
	return values, vectors, nil
}

// perpendicular makes vectors perpendicular to each other and of length 1. A
// vector that becomes zero is replaced by a random one.
func perpendicular(basis [][]float64, rng *rand.Rand) {
	for i, v := range basis {
		for {
			before := length(v)
			for range 2 { // once more, for what rounding left
				for _, u := range basis[:i] {
					addScaled(v, -scalarProduct(u, v), u)
				}
			}
			if left := length(v); left > 1e-9*before && left > 0 {
				for k := range v {
					v[k] /= left
				}
				break
			}
			for k := range v {
				v[k] = rng.NormFloat64()
			}
		}
	}
}
