package style

import (
	"context"

	"github.com/likeness-id/likeness/pkg/grad"
)

// What the tests of this folder look at from outside.

// Objective is the losses of one size.
type Objective struct{ o *objective }

// NewObjective aims at a content and at styles with their masks.
func NewObjective(ctx context.Context, b grad.Backend, n Network, p Params, content Field, styles []Field, masks [][]float32, tile int) (Objective, error) {
	net, err := readModel(n)
	if err != nil {
		return Objective{}, err
	}
	r := &run{backend: b, net: net, material: given{content, styles, masks}, params: p, most: tile}
	rec := recipeOf(p, net.defaults())
	regions, err := r.regions(ctx, rec, content.Size)
	if err != nil {
		return Objective{}, err
	}
	o, err := newObjective(b, net, rec, content.Channels, content.Size, tile)
	if err != nil {
		return Objective{}, err
	}
	return Objective{o}, o.aim(ctx, content.Data, regions)
}

// Eval is the losses and the gradient at x.
func (o Objective) Eval(ctx context.Context, x []float32) (Loss, []float32, error) {
	dx := make([]float32, len(x))
	loss, err := o.o.eval(ctx, x, dx)
	return loss, dx, err
}

// Tiles is how many tiles it has.
func (o Objective) Tiles() int { return len(o.o.tiles.tiles) }

// Close releases it.
func (o Objective) Close() error { return o.o.close() }

// given is material that has one size.
type given struct {
	one   Field
	two   []Field
	masks [][]float32
}

func (m given) channels() int                     { return m.one.Channels }
func (m given) of() []int                         { return m.one.Size }
func (m given) content([]int) []float32           { return m.one.Data }
func (m given) styles() int                       { return len(m.two) }
func (m given) style(i, _ int) ([]float32, []int) { return m.two[i].Data, m.two[i].Size }
func (m given) mask(i int, _ []int) (mask []float32) {
	if m.masks != nil {
		mask = m.masks[i]
	}
	return mask
}

// Activations are layers of x.
func Activations(ctx context.Context, b grad.Backend, n Network, x Field, names ...string) ([]Field, error) {
	net, err := readModel(n)
	if err != nil {
		return nil, err
	}
	g := grad.NewGraph()
	values, err := net.add(g, g.Input("image", tensorShape(x.Channels, x.Size)...), names)
	if err != nil {
		return nil, err
	}
	var outputs []*grad.Value
	for _, name := range names {
		outputs = append(outputs, values[name])
	}
	data, err := runOnce(ctx, b, g, x.Data, outputs...)
	var all []Field
	for i, d := range data {
		l := layerOf(outputs[i])
		all = append(all, Field{l.channels, l.size, d})
	}
	return all, err
}

// Minimise runs L-BFGS or Adam on a function of a row of numbers.
func Minimise(name string, x []float32, steps int, f func(x, gradient []float32) Loss) ([]float32, int, error) {
	var o optimizer = newLBFGS(x, 1, []int{len(x)}, 10)
	if name == "adam" {
		o = newAdam(x, 1, []int{len(x)})
	}
	e := func(x, gradient []float32) (Loss, error) { return f(x, gradient), nil }
	if err := o.begin(e); err != nil {
		return nil, 0, err
	}
	for range steps {
		done, err := o.step(e)
		if err != nil || done {
			return o.at().x, o.at().shrunk, err
		}
	}
	return o.at().x, o.at().shrunk, nil
}

// Schedule is the sizes and the steps of a picture of some sides.
func Schedule(of []int, long, steps, most int) (sizes [][]int, counts []int) {
	for _, s := range schedule(of, long, steps, most) {
		sizes, counts = append(sizes, s.size), append(counts, s.steps)
	}
	return sizes, counts
}

// What is computed on colours and sizes.
var (
	Resize       = resize
	Planes       = planes
	Picture      = picture
	MatchColours = matchColours
	KeepChroma   = keepChroma
)

// Moments are the mean and the covariance of colours.
func Moments(data []float32) ([3]float64, [9]float64) {
	mean, covariance := meanAndCovariance(data)
	var out [9]float64
	for i := range 9 {
		out[i] = covariance[i/3][i%3]
	}
	return mean, out
}

// Leading are the largest eigenvalues of a symmetric matrix, and their vectors.
func Leading(ctx context.Context, b grad.Backend, matrix []float32, dim, want int) ([]float64, [][]float64, error) {
	return leading(ctx, b, matrix, dim, want)
}

// EigenSymmetric are the eigenvalues of a symmetric matrix, and their vectors.
func EigenSymmetric(matrix [][]float64) ([]float64, [][]float64, bool) { return eigenSymmetric(matrix) }
