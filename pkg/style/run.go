package style

import (
	"context"
	"crypto/sha256"
	"errors"
	"image"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// material is the input of a run at any size: pictures, signals or volumes.
type material interface {
	channels() int
	of() []int // sizes of the content as it came
	content(size []int) []float32
	styles() int
	// style is one style for a content whose long side is long.
	style(i, long int) ([]float32, []int)
	mask(i int, size []int) []float32 // nil: there are none
}

// run makes one picture.
type run struct {
	backend  grad.Backend
	net      features
	material material
	params   Params
	most     int
	scales   []scale
	task     [sha256.Size]byte
	view     func(x []float32, size []int) *image.RGBA // nil: there is no picture
	began    time.Time
	work     float64 // numbers times steps, done since began
}

// memory is how many steps L-BFGS remembers. It is less for a very large
// picture, for which it would take hundreds of megabytes.
func memory(numbers int) int {
	const large = 6 << 20
	if numbers > large {
		return 5
	}
	return 10
}

func (r *run) optimizer(x []float32, size []int) optimizer {
	if r.params.Optimizer == "adam" {
		return newAdam(x, r.material.channels(), size)
	}
	return newLBFGS(x, r.material.channels(), size, memory(len(x)))
}

// run goes through the scales and returns the last one's numbers.
func (r *run) run(ctx context.Context, checkpoint []byte, observe func(Report) error) ([]float32, []int, error) {
	var at progress
	var state *decoder
	if checkpoint != nil {
		var err error
		if at, state, err = decodeCheckpoint(checkpoint, r.task); err != nil {
			return nil, nil, err
		}
		if at.scale >= uint64(len(r.scales)) {
			return nil, nil, errTorn
		}
	}
	r.began = time.Now()
	var x []float32
	var size []int
	for i := int(at.scale); i < len(r.scales); i++ { //nolint:gosec // checked above
		at.scale = uint64(i)
		now := r.scales[i]
		switch {
		case state != nil:
			x = make([]float32, r.material.channels()*area(now.size))
		case x == nil:
			x = r.first(now.size)
		default:
			x = resize(x, r.material.channels(), size, now.size)
		}
		size = now.size
		var err error
		if x, err = r.scale(ctx, now, x, &at, state, observe); err != nil {
			return nil, nil, err
		}
		state, at.done = nil, 0
	}
	return x, size, nil
}

// first is the picture G before the first step.
func (r *run) first(size []int) []float32 {
	x := r.material.content(size)
	if r.params.Init == "noise" {
		const spread = 40 // grey levels
		rng := rand.New(rand.NewPCG(r.params.Seed, 1<<32))
		for i := range x {
			x[i] = middle + spread*float32(rng.NormFloat64())
		}
	}
	return x
}

// regions are where the styles apply, and their Gram matrices for a size.
func (r *run) regions(ctx context.Context, rec recipe, size []int) ([]region, error) {
	shares := slices.Clone(r.params.StyleWeights)
	if len(shares) == 0 {
		shares = slices.Repeat([]float64{1}, r.material.styles())
	}
	var sum float64
	for _, w := range shares {
		sum += w
	}
	var all []region
	for i, w := range shares {
		data, of := r.material.style(i, slices.Max(size))
		g, err := grams(ctx, r.backend, r.net, rec, r.material.channels(), of, r.most, data)
		if err != nil {
			return nil, err
		}
		reg := region{mask: r.material.mask(i, size), share: w / sum, grams: g}
		if reg.mask != nil {
			// Each pixel gets as strong a gradient as it would without masks.
			reg.share = w / sum * float64(len(shares)) * sumSquares(reg.mask) / float64(len(reg.mask))
			all = append(all, reg)
			continue
		}
		// Without masks, one mixture of the styles is the target of the whole
		// picture.
		if i == 0 {
			all = []region{{share: 1, grams: map[string][]float32{}}}
		}
		for name, m := range g {
			if i == 0 {
				all[0].grams[name] = make([]float32, len(m))
			}
			axpy(all[0].grams[name], w/sum, m)
		}
	}
	return all, nil
}

// scale runs one size, and closes its programs before it returns.
func (r *run) scale(ctx context.Context, now scale, x []float32, at *progress, state *decoder, observe func(Report) error) (_ []float32, err error) {
	rec := recipeOf(r.params, r.net.defaults())
	regions, err := r.regions(ctx, rec, now.size)
	if err != nil {
		return nil, err
	}
	o, err := newObjective(r.backend, r.net, rec, r.material.channels(), now.size, r.most)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	if err := o.aim(ctx, r.material.content(now.size), regions); err != nil {
		return nil, err
	}
	opt := r.optimizer(x, now.size)
	if state != nil {
		if opt.restore(state); state.err != nil || len(state.data) > 0 {
			return nil, errTorn
		}
	}
	f := func(x, gradient []float32) (Loss, error) { return o.eval(ctx, x, gradient) }
	if err := opt.begin(f); err != nil {
		return nil, err
	}
	before := at.shrunk
	for at.done < uint64(now.steps) { //nolint:gosec // above 0
		if err := ctx.Err(); err != nil {
			return nil, face.Wrap(face.Canceled, "style.Transfer", err)
		}
		done, err := opt.step(f)
		if err != nil {
			return nil, err
		}
		steps := uint64(1)
		if done {
			steps = uint64(now.steps) - at.done //nolint:gosec // above 0
		}
		at.done += steps
		at.total += steps
		at.shrunk = before + uint64(opt.at().shrunk) //nolint:gosec // counts
		r.work += float64(steps) * float64(area(now.size))
		if observe == nil {
			continue
		}
		if err := observe(r.report(now, opt, *at)); err != nil {
			return nil, err
		}
	}
	return opt.at().x, nil
}

func (r *run) report(now scale, o optimizer, at progress) Report {
	p := o.at()
	rep := Report{
		Iteration: int(at.total), Width: now.size[len(now.size)-1], Height: now.size[0], //nolint:gosec // at most Iterations
		Loss: p.loss, Shrunk: int(at.shrunk), //nolint:gosec // a count
		Checkpoint: func() ([]byte, error) { return encodeCheckpoint(r.task, at, o), nil },
	}
	var left float64
	for i, s := range r.scales {
		rep.Iterations += s.steps
		switch {
		case i == int(at.scale): //nolint:gosec // an index
			left += float64(s.steps-int(at.done)) * float64(area(s.size)) //nolint:gosec // at most steps
		case i > int(at.scale): //nolint:gosec // an index
			left += float64(s.steps) * float64(area(s.size))
		}
	}
	rep.ETA = time.Duration(float64(time.Since(r.began)) / r.work * left)
	if r.view != nil {
		rep.Preview = func() *image.RGBA { return r.view(p.x, now.size) }
	}
	return rep
}
