package style

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"slices"
	"sync"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Options say what an Engine works with.
type Options struct {
	// Backend runs the graphs. Its number of threads is that of a run.
	Backend grad.Backend
	// Networks are the feature networks that can be used beside [Learned].
	Networks []Network
	// Tile is the most pixels along a side that are computed at once; 0 is the
	// default. A larger picture is cut into tiles, so that memory does not grow
	// with its size.
	Tile int
}

// DefaultOptions are the options that zero fields stand for: tiles of 1184
// pixels, which cut a picture of 2048 pixels in two along a side. The backend
// has no default, and without networks there is [Learned] alone.
func DefaultOptions() Options { return Options{Tile: 1184} }

// Engine makes pictures. It is safe for concurrent use; each run has programs
// of its own, one or two at a time.
type Engine struct {
	options Options
	mu      sync.Mutex
	layers  map[string][]string // of the networks that were read
}

var _ Transferrer = (*Engine)(nil)

// New makes an Engine. The error is Invalid if two networks have the same id,
// or one has an id that names features without a network.
func New(o Options) (*Engine, error) {
	for i, n := range o.Networks {
		taken := n.ID == Learned || slices.ContainsFunc(o.Networks[:i], func(m Network) bool { return m.ID == n.ID })
		if taken || n.ID == "" || n.Read == nil {
			return nil, face.Errorf(face.Invalid, "style.New", "network %q: its id is used already, or it has none", n.ID)
		}
	}
	o.Tile = cmp.Or(o.Tile, DefaultOptions().Tile)
	return &Engine{options: o, layers: map[string][]string{}}, nil
}

// Features are the names that [Params.Features] may have here.
func (e *Engine) Features() []string {
	all := []string{Learned}
	for _, n := range e.options.Networks {
		all = append(all, n.ID)
	}
	return all
}

func (e *Engine) network(id string) (Network, bool) {
	for _, n := range e.options.Networks {
		if n.ID == id {
			return n, true
		}
	}
	return Network{}, false
}

// tile is the most pixels along a side for some features.
func (e *Engine) tile(id string) int {
	if n, ok := e.network(id); ok && n.Tile > 0 {
		return min(n.Tile, e.options.Tile)
	}
	return e.options.Tile
}

// known are the layers of some features.
func (e *Engine) known(id string) ([]string, error) {
	if id == Learned {
		return sorted(learnedDefaults().Layers.Style), nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if names, ok := e.layers[id]; ok {
		return names, nil
	}
	n, _ := e.network(id)
	m, err := readModel(n)
	if err != nil {
		return nil, err
	}
	e.layers[id] = m.names()
	return e.layers[id], nil
}

// Check does what [Transferrer] says.
func (e *Engine) Check(t Task) error {
	bad := func(format string, args ...any) error {
		return face.Errorf(face.Invalid, "style.Check", format, args...)
	}
	if t.Content == nil || t.Content.Rect.Empty() {
		return bad("content: there is no image")
	}
	if len(t.Styles) < 1 || len(t.Styles) > MaxStyles {
		return bad("style: %d images, not 1 to %d", len(t.Styles), MaxStyles)
	}
	for i, s := range t.Styles {
		if s == nil || s.Rect.Empty() {
			return bad("style[%d]: there is no image", i)
		}
	}
	if n := len(t.Masks); n != 0 && n != len(t.Styles) {
		return bad("mask: %d masks for %d styles", n, len(t.Styles))
	}
	for i, m := range t.Masks {
		if m == nil || m.Rect.Empty() || !isWhite(m) {
			return bad("mask[%d]: nothing of it is white", i)
		}
	}
	if err := t.Params.Validate(len(t.Styles)); err != nil {
		return err
	}
	if id := t.Params.Features; id != Learned {
		if _, ok := e.network(id); !ok {
			return bad("params.features: %q is not one of %q", face.Excerpt(id), e.Features())
		}
	}
	if w, h := t.Content.Rect.Dx(), t.Content.Rect.Dy(); slices.Min(scaledSides([]int{w, h}, t.Params.Size, MaxSize)) < narrowest {
		return bad("params.size: a picture of %d along %d by %d has a side below %d", t.Params.Size, w, h, narrowest)
	}
	if len(t.Params.Layers.Content)+len(t.Params.Layers.Style) == 0 {
		return nil
	}
	known, err := e.known(t.Params.Features)
	if err != nil {
		return err
	}
	for field, layers := range map[string]map[string]float64{"content": t.Params.Layers.Content, "style": t.Params.Layers.Style} {
		for _, name := range sorted(layers) {
			if !slices.Contains(known, name) {
				return bad("params.layers.%s: %q has no layer %q", field, face.Excerpt(t.Params.Features), face.Excerpt(name))
			}
		}
	}
	return nil
}

func isWhite(m *image.Gray) bool {
	for y := range m.Rect.Dy() {
		if slices.ContainsFunc(m.Pix[y*m.Stride:][:m.Rect.Dx()], func(v uint8) bool { return v >= 128 }) {
			return true
		}
	}
	return false
}

// images are a task's pictures in the form that a run needs.
type images struct {
	task Task
	most int
}

func (m images) channels() int { return 3 }

func (m images) of() []int { return []int{m.task.Content.Rect.Dy(), m.task.Content.Rect.Dx()} }

func (m images) content(size []int) []float32 { return planes(m.task.Content, size[0], size[1]) }

func (m images) styles() int { return len(m.task.Styles) }

// largestStyle bounds the long side of a style image.
const largestStyle = 4096

func (m images) style(i, long int) ([]float32, []int) {
	img := m.task.Styles[i]
	long = min(max(int(math.Round(float64(long)*m.task.Params.StyleScale)), narrowest), largestStyle)
	size := scaledSides([]int{img.Rect.Dy(), img.Rect.Dx()}, long, m.most)
	for a := range size {
		size[a] = max(size[a], narrowest)
	}
	data := planes(img, size[0], size[1])
	if m.task.Params.PreserveColor == "histogram" {
		small := scaledSides(m.of(), 256, math.MaxInt)
		data = matchColours(data, planes(m.task.Content, small[0], small[1]))
	}
	return data, size
}

func (m images) mask(i int, size []int) []float32 {
	if len(m.task.Masks) == 0 {
		return nil
	}
	return grey(m.task.Masks[i], size[0], size[1])
}

// preview makes a picture from the numbers of one size.
func (m images) preview(x []float32, size []int) *image.RGBA {
	if m.task.Params.PreserveColor == "luminance" {
		x = keepChroma(x, m.content(size))
	}
	return picture(x, size[0], size[1])
}

// Transfer does what [Transferrer] says.
func (e *Engine) Transfer(ctx context.Context, t Task, observe func(Report) error) (*image.RGBA, error) {
	if err := e.Check(t); err != nil {
		return nil, err
	}
	m := images{t, e.tile(t.Params.Features)}
	net, err := e.features(ctx, t.Params, m)
	if err != nil {
		return nil, contextError(ctx, err)
	}
	r := &run{
		backend: e.options.Backend, net: net, material: m, params: t.Params, most: m.most,
		scales: schedule(m.of(), t.Params.Size, t.Params.Iterations, m.most),
		view:   m.preview,
	}
	if r.task, err = taskHash(t, net.defaults()); err != nil {
		return nil, err
	}
	x, size, err := r.run(ctx, t.Checkpoint, observe)
	if err != nil {
		return nil, contextError(ctx, err)
	}
	return m.preview(x, size), nil
}

// contextError returns the error of the context if that has ended, else the
// error itself.
func contextError(ctx context.Context, err error) error {
	if why := ctx.Err(); why != nil {
		return face.Wrap(face.Canceled, "style.Transfer", errors.Join(why, err))
	}
	return err
}

// fitted is the long side, in pixels, at which features are fitted to images.
const fitted = 512

// features opens the network, or fits one.
func (e *Engine) features(ctx context.Context, p Params, m material) (features, error) {
	if p.Features != Learned {
		n, _ := e.network(p.Features)
		return readModel(n)
	}
	size := scaledSides(m.of(), fitted, math.MaxInt)
	samples := []sample{{size, m.content(size)}}
	for i := range m.styles() {
		data, size := m.style(i, fitted)
		samples = append(samples, sample{size, data})
	}
	l, err := fitFeatures(ctx, e.options.Backend, m.channels(), samples, p.Seed)
	if err != nil {
		return nil, fmt.Errorf("fitting features: %w", err)
	}
	return l, nil
}
