package style

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// recipe says which layers a run compares, and how much each part counts: the
// network's defaults, unless the parameters say otherwise.
type recipe struct {
	content, style map[string]float64
	alpha, beta    float64
	tv             float64
	auto           bool
}

// recipeOf resolves the weights. With "literal", if the parameters name no
// layers, all count the same and their weights sum to one, as in the paper.
func recipeOf(p Params, d Defaults) recipe {
	r := recipe{alpha: p.ContentWeight, beta: p.StyleWeight, tv: p.TVWeight, auto: p.Weights == "auto"}
	choose := func(own, theirs map[string]float64) map[string]float64 {
		if len(own) > 0 || r.auto {
			if len(own) == 0 {
				own = theirs
			}
			return own
		}
		equal := map[string]float64{}
		for name := range theirs {
			equal[name] = 1 / float64(len(theirs))
		}
		return equal
	}
	r.content, r.style = choose(p.Layers.Content, d.Layers.Content), choose(p.Layers.Style, d.Layers.Style)
	if r.auto {
		r.alpha, r.beta, r.tv = r.alpha*d.Content, r.beta*d.Style, r.tv*d.TV
	}
	return r
}

// layers are all that are compared, each once.
func (r recipe) layers() []string {
	all := slices.Concat(sorted(r.content), sorted(r.style))
	slices.Sort(all)
	return slices.Compact(all)
}

// region is where a style applies: a mask over the picture, or nil for the
// whole picture.
type region struct {
	mask  []float32
	share float64              // of the style loss
	grams map[string][]float32 // what the Gram matrices are to be, each divided by 2 nC nH nW
}

// objective computes L(G) and its gradient for one size.
//
// A Gram matrix is stored divided by 2 nC nH nW of its own image. So its
// squares stay in the range of float32. If both images have the same size, this
// is exactly the formula; if not, the matrices are still comparable.
type objective struct {
	recipe
	backend  grad.Backend
	net      features
	channels int
	size     []int
	tiles    tiling
	layout   map[string]layer // of the whole
	part     map[string]layer // of a tile
	targets  map[string][]float32
	regions  []region
	masks    []map[string][]float32 // of each region by layer; nil: none
	areas    []map[string]float64   // what takes the place of nH nW
	weights  map[string]float64     // alpha times the content layers' weights
	lambdas  []map[string]float64   // beta times lambda, by region
	prog     *program               // the gradient; for a whole, the losses too
	forward  *program               // the Gram matrices of a tile
}

func newObjective(b grad.Backend, net features, r recipe, channels int, size []int, most int) (*objective, error) {
	o := &objective{recipe: r, backend: b, net: net, channels: channels, size: size}
	var err error
	if o.layout, err = geometry(net, channels, size, r.layers()); err != nil {
		return nil, err
	}
	if o.tiles, err = planTiles(net, channels, size, r.layers(), most); err != nil {
		return nil, err
	}
	o.part = o.layout
	if !o.tiles.whole() {
		o.part, err = geometry(net, channels, o.tiles.window, r.layers())
	}
	return o, err
}

// close releases what runs.
func (o *objective) close() error { return errors.Join(o.prog.close(), o.forward.close()) }

// graph starts a graph over one tile.
func (o *objective) graph(layers []string) (*grad.Graph, *grad.Value, map[string]*grad.Value, error) {
	g := grad.NewGraph()
	image := g.Input("image", tensorShape(o.channels, o.tiles.window)...)
	values, err := o.net.add(g, image, layers)
	return g, image, values, err
}

// maskInput adds the mask of a layer for a tile, [1, places].
func (o *objective) maskInput(g *grad.Graph, r int, name string) *grad.Value {
	return g.Input(maskName(r, name), 1, int64(area(o.part[name].size)))
}

func maskName(r int, name string) string { return fmt.Sprintf("mask%d:%s", r, name) }

// gram adds the Gram matrix of a layer's activations, times the mask if there
// is one, and divided by 2 nC and the area.
func gram(g *grad.Graph, a, mask *grad.Value, area float64) *grad.Value {
	f := g.Reshape(a, a.Dim(1), -1)
	if mask != nil {
		f = g.Mul(f, mask)
	}
	return g.Gemm(f, f, false, true, 1/(2*float64(a.Dim(1))*area))
}

// activations are the content layers of x, whole.
func (o *objective) activations(ctx context.Context, x []float32) (_ map[string][]float32, err error) {
	names := sorted(o.content)
	g, _, values, err := o.graph(names)
	if err != nil {
		return nil, err
	}
	var outputs []*grad.Value
	for _, name := range names {
		outputs = append(outputs, values[name])
	}
	p, err := compile(o.backend, g, outputs...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	out := map[string][]float32{}
	for _, name := range names {
		out[name] = make([]float32, o.layout[name].len())
	}
	for _, tl := range o.tiles.tiles {
		copyWindow(p.in("image"), x, o.channels, o.size, o.tiles.window, tl.start)
		if err := p.Run(ctx); err != nil {
			return nil, err
		}
		for i, name := range names {
			l := o.layout[name]
			if o.tiles.whole() {
				copy(out[name], p.Output(i))
				continue
			}
			start, from, to := o.tiles.at(name, l, tl)
			count, inner := make([]int, len(from)), make([]int, len(from))
			for a := range from {
				count[a], inner[a] = to[a]-from[a], from[a]-start[a]
			}
			// Only what counts is taken.
			part := make([]float32, l.channels*area(count))
			copyWindow(part, p.Output(i), l.channels, o.part[name].size, count, inner)
			clearWindow(out[name], l.channels, l.size, count, from)
			addWindow(out[name], part, l.channels, l.size, count, from)
		}
	}
	return out, nil
}

func clearWindow(dst []float32, channels int, size, window, start []int) {
	eachRow(channels, size, window, start, func(whole, _, n int) { clear(dst[whole:][:n]) })
}

// moment sums the Gram matrices of x up over its tiles, for each region.
func (o *objective) moment(ctx context.Context, p *program, x []float32) ([]map[string][]float64, error) {
	names := sorted(o.style)
	out := make([]map[string][]float64, len(o.areas))
	for r := range out {
		out[r] = map[string][]float64{}
		for _, name := range names {
			c := o.layout[name].channels
			out[r][name] = make([]float64, c*c)
		}
	}
	for _, tl := range o.tiles.tiles {
		copyWindow(p.in("image"), x, o.channels, o.size, o.tiles.window, tl.start)
		o.fillMasks(p, tl)
		if err := p.Run(ctx); err != nil {
			return nil, err
		}
		i := 0
		for r := range out {
			for _, name := range names {
				sum := out[r][name]
				for j, v := range p.Output(i) {
					sum[j] += float64(v)
				}
				i++
			}
		}
	}
	return out, nil
}

// fillMasks sets the masks of a tile.
func (o *objective) fillMasks(p *program, tl tile) {
	for r := range o.areas {
		for _, name := range sorted(o.style) {
			if dst := p.in(maskName(r, name)); dst != nil {
				o.fillMask(dst, name, tl, o.mask(r, name))
			}
		}
	}
	for _, name := range sorted(o.content) {
		if dst := p.in("own:" + name); dst != nil {
			o.fillMask(dst, name, tl, nil)
		}
	}
}

func (o *objective) fillMask(dst []float32, name string, tl tile, mask []float32) {
	if o.tiles.whole() {
		copy(dst, mask)
		return
	}
	o.tiles.maskOf(dst, name, o.layout[name], o.part[name].size, tl, mask)
}

func (o *objective) mask(r int, name string) []float32 {
	if o.masks[r] == nil {
		return nil
	}
	return o.masks[r][name]
}

// setRegions says where each style applies. It must be called before anything
// that uses Gram matrices.
func (o *objective) setRegions(regions []region) {
	o.regions = regions
	o.masks, o.areas = make([]map[string][]float32, len(regions)), make([]map[string]float64, len(regions))
	for i, r := range regions {
		o.areas[i] = map[string]float64{}
		if r.mask != nil {
			o.masks[i] = map[string][]float32{}
		}
		for name := range o.style {
			l := o.layout[name]
			o.areas[i][name] = float64(area(l.size))
			if r.mask == nil {
				continue
			}
			m := resize(r.mask, 1, o.size, l.size)
			var sum float64
			for _, v := range m {
				sum += float64(v) * float64(v)
			}
			o.masks[i][name], o.areas[i][name] = m, sum
		}
	}
}

// leastArea is how many places of a layer a region must cover to be compared.
const leastArea = 1

// gramProgram computes the Gram matrices of a tile.
func (o *objective) gramProgram() (*program, error) {
	names := sorted(o.style)
	g, _, values, err := o.graph(names)
	if err != nil {
		return nil, err
	}
	var outputs []*grad.Value
	for r := range o.regions {
		for _, name := range names {
			outputs = append(outputs, gram(g, values[name], o.maskFor(g, r, name), max(o.areas[r][name], leastArea)))
		}
	}
	return compile(o.backend, g, outputs...)
}

// maskFor is nil where everything counts.
func (o *objective) maskFor(g *grad.Graph, r int, name string) *grad.Value {
	if o.tiles.whole() && o.masks[r] == nil {
		return nil
	}
	return o.maskInput(g, r, name)
}

// grams are the Gram matrices of a picture of its own size, divided as the
// targets are.
func grams(ctx context.Context, b grad.Backend, net features, r recipe, channels int, size []int, most int, x []float32) (_ map[string][]float32, err error) {
	r.content = nil
	o, err := newObjective(b, net, r, channels, size, most)
	if err != nil {
		return nil, err
	}
	o.setRegions([]region{{}})
	p, err := o.gramProgram()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	sums, err := o.moment(ctx, p, x)
	if err != nil {
		return nil, err
	}
	out := map[string][]float32{}
	for name, sum := range sums[0] {
		out[name] = make([]float32, len(sum))
		for i, v := range sum {
			out[name][i] = float32(v)
		}
	}
	return out, nil
}

// aim sets the targets, computes the weights and makes the program.
func (o *objective) aim(ctx context.Context, content []float32, regions []region) (err error) {
	o.setRegions(regions)
	if len(o.content) > 0 {
		if o.targets, err = o.activations(ctx, content); err != nil {
			return err
		}
	}
	o.weights = map[string]float64{}
	for name, w := range o.content {
		o.weights[name] = o.alpha * w
		if o.auto {
			o.weights[name] /= max(sumSquares(o.targets[name])/2, tiny)
		}
	}
	o.lambdas = make([]map[string]float64, len(regions))
	for i, r := range regions {
		o.lambdas[i] = map[string]float64{}
		for name, w := range o.style {
			l := o.beta * w * r.share
			if o.auto {
				l /= max(sumSquares(r.grams[name]), tiny)
			}
			if o.areas[i][name] < leastArea {
				l = 0
			}
			o.lambdas[i][name] = l
		}
	}
	if !o.tiles.whole() {
		if o.forward, err = o.gramProgram(); err != nil {
			return err
		}
	}
	return o.build()
}

// tiny keeps weights finite where an image is all black to a layer.
const tiny = 1e-12

func sumSquares(data []float32) float64 {
	var sum float64
	for _, v := range data {
		sum += float64(v) * float64(v)
	}
	return sum
}

// build makes the program of losses and gradient. For tiles, the gradient of
// the style losses begins at matrices Q, one for each Gram matrix: the gradient
// of the whole picture's loss with respect to that matrix.
func (o *objective) build() error {
	g, image, values, err := o.graph(o.layers())
	if err != nil {
		return err
	}
	whole := o.tiles.whole()
	var parts []*grad.Value
	for _, name := range sorted(o.content) {
		a := values[name]
		diff := g.Sub(a, g.Input("content:"+name, a.Shape()...))
		if !whole {
			own := g.Input("own:"+name, append([]int64{1, 1}, a.Shape()[2:]...)...)
			diff = g.Mul(diff, own)
		}
		parts = append(parts, g.Scale(g.SumSquares(diff), o.weights[name]/2))
	}
	for r := range o.regions {
		for _, name := range sorted(o.style) {
			a := values[name]
			target := g.Input(fmt.Sprintf("gram%d:%s", r, name), a.Dim(1), a.Dim(1))
			m := gram(g, a, o.maskFor(g, r, name), max(o.areas[r][name], leastArea))
			if whole {
				parts = append(parts, g.Scale(g.SumSquares(g.Sub(m, target)), o.lambdas[r][name]))
			} else {
				parts = append(parts, g.Total(g.Mul(m, target)))
			}
		}
	}
	losses := g.Concat(0, parts...)
	gradient, err := g.Gradient(g.Total(losses), image)
	if err != nil {
		return err
	}
	if o.prog, err = compile(o.backend, g, losses, gradient[0]); err != nil {
		return err
	}
	if !whole {
		return nil
	}
	for name, t := range o.targets {
		copy(o.prog.in("content:"+name), t)
	}
	for r, reg := range o.regions {
		for name, t := range reg.grams {
			copy(o.prog.in(fmt.Sprintf("gram%d:%s", r, name)), t)
		}
	}
	o.fillMasks(o.prog, o.tiles.tiles[0])
	return nil
}

// eval computes the losses for x, and their gradient into dx. The caller checks
// whether they are finite.
func (o *objective) eval(ctx context.Context, x, dx []float32) (Loss, error) {
	var loss Loss
	if o.tiles.whole() {
		copy(o.prog.in("image"), x)
		if err := o.prog.Run(ctx); err != nil {
			return loss, err
		}
		for i, v := range o.prog.Output(0) {
			if i < len(o.content) {
				loss.Content += float64(v)
			} else {
				loss.Style += float64(v)
			}
		}
		copy(dx, o.prog.Output(1))
	} else if err := o.evalTiles(ctx, x, dx, &loss); err != nil {
		return loss, err
	}
	loss.TV = variation(x, dx, o.channels, o.size, o.tvWeight())
	loss.Total = loss.Content + loss.Style + loss.TV
	return loss, nil
}

// tvWeight is the factor of the sum of squared differences. With "auto", the
// weighted sum is about their mean.
func (o *objective) tvWeight() float64 {
	if o.auto {
		return o.tv / float64(o.channels*area(o.size))
	}
	return o.tv
}

// evalTiles is eval in two passes: first the Gram matrices of the whole
// picture, then the gradient, tile by tile.
func (o *objective) evalTiles(ctx context.Context, x, dx []float32, loss *Loss) error {
	sums, err := o.moment(ctx, o.forward, x)
	if err != nil {
		return err
	}
	for r, reg := range o.regions {
		for _, name := range sorted(o.style) {
			q := o.prog.in(fmt.Sprintf("gram%d:%s", r, name))
			lambda := o.lambdas[r][name]
			for i, v := range sums[r][name] {
				d := v - float64(reg.grams[name][i])
				loss.Style += lambda * d * d
				q[i] = float32(2 * lambda * d)
			}
		}
	}
	clear(dx)
	for _, tl := range o.tiles.tiles {
		copyWindow(o.prog.in("image"), x, o.channels, o.size, o.tiles.window, tl.start)
		o.fillMasks(o.prog, tl)
		for _, name := range sorted(o.content) {
			l := o.layout[name]
			start, _, _ := o.tiles.at(name, l, tl)
			copyWindow(o.prog.in("content:"+name), o.targets[name], l.channels, l.size, o.part[name].size, start)
		}
		if err := o.prog.Run(ctx); err != nil {
			return err
		}
		for _, v := range o.prog.Output(0)[:len(o.content)] {
			loss.Content += float64(v)
		}
		addWindow(dx, o.prog.Output(1), o.channels, o.size, o.tiles.window, tl.start)
	}
	return nil
}

// variation is the weighted sum of the squared differences of neighbours along
// every axis; its gradient is added to dx.
func variation(x, dx []float32, channels int, size []int, weight float64) float64 {
	if weight == 0 {
		return 0
	}
	var sum float64
	twice := float32(2 * weight)
	for axis, n := range size {
		step := area(size[axis+1:])
		for outer := range channels * area(size[:axis]) {
			at := outer * n * step
			a, b := x[at:][:(n-1)*step], x[at+step:][:(n-1)*step]
			da, db := dx[at:], dx[at+step:]
			for i, v := range b {
				d := v - a[i]
				sum += float64(d) * float64(d)
				db[i] += twice * d
				da[i] -= twice * d
			}
		}
	}
	return weight * sum
}

// finite reports whether a loss is a number.
func (l Loss) finite() bool { return !math.IsNaN(l.Total) && !math.IsInf(l.Total, 0) }

func errDiverged(detail string) error {
	return face.Errorf(face.Internal, "style.Transfer", "diverged: %s", detail)
}
