package siamese

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// state is what a checkpoint holds beside the weights.
type state struct {
	Step      int
	Optimizer *Optimizer
	Pool      []Triplet // of the generator
	Collapsed int       // steps in a row in which all embeddings were the same
}

// collapse is the mean squared distance of different people below which all
// embeddings count as equal; patience is how many steps in a row that may last.
const (
	collapse = 1e-3
	patience = 20
)

// Step learns from one batch. The error is Canceled or Deadline if ctx ends,
// and Internal if the loss is not finite or if all embeddings have become the
// same. Such a run cannot recover: it needs a smaller rate, another margin or
// other mining.
func (t *Trainer) Step(ctx context.Context) (Progress, error) {
	const op = "siamese.Step"
	p := Progress{Step: t.state.Step + 1, Steps: t.o.Steps}
	batch, triplets, err := t.nextBatch(ctx)
	if err != nil {
		return p, face.Wrap(face.Internal, op, err)
	}
	copy(t.step.Input(0), batch.pixels)
	t.step.load(t.weights)
	if triplets == nil {
		if triplets, err = t.choose(ctx, batch); err != nil {
			return p, face.Wrap(face.Internal, op, err)
		}
	}
	t.fillLoss(batch, triplets)
	if err := t.step.Run(ctx); err != nil {
		return p, err
	}
	p.Loss = float64(t.step.Output(0)[0])
	if math.IsNaN(p.Loss) || math.IsInf(p.Loss, 0) {
		return p, face.Errorf(face.Internal, op, "the loss of step %d is not finite: the learning rate is too high", p.Step)
	}
	t.judge(&p, batch, triplets)
	if t.state.Collapsed > patience {
		return p, face.Errorf(face.Internal, op, "all embeddings have become the same (mean squared distance %.1e): lower the rate, or choose another mining", p.Spread)
	}
	t.learn(&p)
	t.state.Step++
	return p, nil
}

// nextBatch takes the prepared batch and starts to prepare the next one. With a
// generator, its triplets define the batch; otherwise triplets are mined later.
func (t *Trainer) nextBatch(ctx context.Context) (prepared, []Triplet, error) {
	if t.workers == nil {
		for range runtime.GOMAXPROCS(0) {
			t.workers = append(t.workers, newAugmenter(t.o.Augmentation, t.o.Input))
		}
	}
	step := t.state.Step
	if t.o.Retire && t.o.Loss == Triplets {
		if t.generator == nil {
			owner := make([]int, t.set.Len())
			for i := range owner {
				owner[i] = t.set.Person(i)
			}
			var err error
			if t.generator, err = NewGenerator(owner, 4096, t.rng(step, 1<<19)); err != nil {
				return prepared{}, nil, err
			}
			t.generator.pool = t.state.Pool
		}
		served := t.generator.Next(t.batch / 3)
		var photos []int
		for _, s := range served {
			photos = append(photos, s.Anchor, s.Positive, s.Negative)
		}
		for len(photos) < t.batch { // if the batch size is no multiple of three
			photos = append(photos, photos[0])
		}
		b := t.prepare(ctx, step, photos)
		b.served = served
		local := make([]Triplet, len(served))
		for i := range local {
			local[i] = Triplet{3 * i, 3*i + 1, 3*i + 2}
		}
		return b, local, b.err
	}
	if t.ahead == nil {
		t.ahead = make(chan prepared, 1)
		t.ahead <- t.prepare(ctx, step, t.draw(step))
	}
	b := <-t.ahead
	t.ahead = nil
	if b.step != step { // the step before took its batch and then failed
		b = t.prepare(ctx, step, t.draw(step))
	}
	if b.err != nil {
		return b, nil, b.err
	}
	if step+1 < t.o.Steps {
		t.ahead = make(chan prepared, 1)
		go func(ahead chan<- prepared) { ahead <- t.prepare(ctx, step+1, t.draw(step+1)) }(t.ahead)
	}
	return b, nil, nil
}

// choose mines the batch's triplets, or pairs its photos.
func (t *Trainer) choose(ctx context.Context, b prepared) ([]Triplet, error) {
	rng := t.rng(b.step, 1<<18)
	if t.o.Loss == Contrastive {
		people := t.owners(b)
		// Every photo with one of the same person, and with another's.
		var pairs []Triplet
		for i := range people {
			mate := i - i%t.o.PhotosEach + (i+1)%t.o.PhotosEach
			other := rng.IntN(t.batch)
			if people[other] != people[i] && len(pairs)+2 <= t.slots {
				pairs = append(pairs, Triplet{Anchor: i, Positive: mate, Negative: other})
			}
		}
		return pairs, nil
	}
	copy(t.mirror.Input(0), b.pixels)
	t.mirror.load(t.weights)
	if err := t.mirror.Run(ctx); err != nil {
		return nil, err
	}
	triplets := Mine(t.o.Mining, Batch{cutRows(t.mirror.Output(0), t.batch), t.owners(b)}, t.o.Margin, rng)
	return triplets[:min(len(triplets), t.slots)], nil
}

// owners says who is on each photo of a batch.
func (t *Trainer) owners(b prepared) []int {
	people := make([]int, len(b.photos))
	for i, photo := range b.photos {
		people[i] = t.set.Person(photo)
	}
	return people
}

// cutRows cuts a matrix into n embeddings.
func cutRows(data []float32, n int) []face.Embedding {
	out := make([]face.Embedding, n)
	d := len(data) / n
	for i := range out {
		out[i] = face.Embedding(data[i*d : (i+1)*d])
	}
	return out
}

// fillLoss writes what the loss takes beside the embeddings.
func (t *Trainer) fillLoss(b prepared, triplets []Triplet) {
	if t.o.Loss == Contrastive {
		a, c, same, weights := t.step.extra(0), t.step.extra(1), t.step.extra(2), t.step.extra(3)
		clear(a)
		clear(c)
		clear(same)
		clear(weights)
		slot := 0
		pair := func(x, y int, is float32) {
			if slot < t.slots {
				a[slot*t.batch+x], c[slot*t.batch+y], same[slot], weights[slot] = 1, 1, is, 1/float32(min(t.slots, 2*len(triplets)))
				slot++
			}
		}
		for _, s := range triplets {
			pair(s.Anchor, s.Positive, 1)
			pair(s.Anchor, s.Negative, 0)
		}
		return
	}
	picks := [3][]float32{t.step.extra(0), t.step.extra(1), t.step.extra(2)}
	weights := t.step.extra(3)
	clear(weights)
	for _, pick := range picks {
		clear(pick)
	}
	for slot, s := range triplets {
		for k, i := range []int{s.Anchor, s.Positive, s.Negative} {
			picks[k][slot*t.batch+i] = 1
		}
		weights[slot] = 1 / float32(len(triplets))
	}
}

// judge counts the active triplets and checks for collapse.
func (t *Trainer) judge(p *Progress, b prepared, triplets []Triplet) {
	e := cutRows(t.step.Output(1), t.batch)
	if t.o.Loss == Triplets {
		p.Triplets = len(triplets)
		p.Active = Batch{e, t.owners(b)}.Active(t.o.Margin)
	}
	if t.generator != nil {
		losses := make([]float64, len(triplets))
		for i, cost := range t.step.Output(2)[:len(triplets)] {
			losses[i] = math.Max(0, float64(cost)+t.o.Margin)
		}
		t.generator.Report(b.served, losses)
	}
	pairs := 0
	for i := 1; i < len(e); i++ {
		if b.photos[i] != b.photos[i-1] {
			p.Spread += 2 - 2*e[i].Cosine(e[i-1])
			pairs++
		}
	}
	p.Spread /= math.Max(1, float64(pairs))
	if p.Spread < collapse {
		t.state.Collapsed++
	} else {
		t.state.Collapsed = 0
	}
}

// learn changes the weights, and moves the running statistics.
func (t *Trainer) learn(p *Progress) {
	gradients := make([][]float32, len(t.names))
	learnt := make([][]float32, len(t.names))
	for i, name := range t.names {
		gradients[i], learnt[i] = t.step.Output(3+i), t.weights[name]
	}
	p.Norm = Clip(gradients, t.o.MaxNorm)
	p.Rate = Rate(t.state.Step, t.o.WarmUp, t.o.Steps, t.o.Rate)
	t.state.Optimizer.Step(learnt, gradients, t.decays, p.Rate)
	for i, name := range t.followed {
		running := t.weights[name]
		for k, x := range t.step.Output(3 + len(t.names) + i) {
			running[k] += followRate * (x - running[k])
		}
	}
}

// Embed embeds unchanged photos with the model in the form that it is exported
// in.
func (t *Trainer) Embed(ctx context.Context, photos []Photo) ([]face.Embedding, error) {
	return embedPhotos(ctx, t.finished, t.weights, t.o.Input, t.batch, photos)
}

// embedPhotos embeds photos, a batch at a time.
func embedPhotos(ctx context.Context, p *program, weights map[string][]float32, in imaging.Planar, batch int, photos []Photo) ([]face.Embedding, error) {
	var out []face.Embedding
	p.load(weights)
	size := 3 * in.Width * in.Height
	for len(photos) > 0 {
		n := min(batch, len(photos))
		for i, photo := range photos[:n] {
			in.Warp(p.Input(0)[i*size:(i+1)*size], photo.Image, photo.ToSrc)
		}
		if err := p.Run(ctx); err != nil {
			return nil, err
		}
		for _, e := range cutRows(p.Output(0), batch)[:n] {
			out = append(out, append(face.Embedding(nil), e...))
		}
		photos = photos[n:]
	}
	return out, nil
}

// Done is how many steps were made.
func (t *Trainer) Done() int { return t.state.Step }

// Export is the model with the weights as they are, as ONNX.
func (t *Trainer) Export() ([]byte, error) { return t.o.Model.Rewrite(t.weights) }

// checkpoint is what is written.
type checkpoint struct {
	Version int
	State   state
	Weights map[string][]float32
}

// Save writes everything that is needed to continue.
func (t *Trainer) Save(w io.Writer) error {
	if t.generator != nil {
		t.state.Pool = t.generator.pool
	}
	return face.Wrap(face.Internal, "siamese.Save", gob.NewEncoder(w).Encode(checkpoint{1, t.state, t.weights}))
}

// Load continues from what Save wrote. The error is Invalid if that is of
// another model.
func (t *Trainer) Load(r io.Reader) error {
	const op = "siamese.Load"
	var c checkpoint
	if err := gob.NewDecoder(r).Decode(&c); err != nil {
		return face.Errorf(face.Invalid, op, "not a checkpoint: %v", err)
	}
	if c.Version != 1 || c.State.Optimizer == nil {
		return face.Errorf(face.Invalid, op, "the checkpoint is of another version")
	}
	if err := checkWeights(t.weights, c.Weights); err != nil {
		return face.Wrap(face.Invalid, op, err)
	}
	t.weights, t.state = c.Weights, c.State
	return nil
}

// checkWeights refuses weights of another model.
func checkWeights(own, loaded map[string][]float32) error {
	if len(own) != len(loaded) {
		return errors.New("the checkpoint is of another model")
	}
	for name, data := range loaded {
		if len(own[name]) != len(data) {
			return fmt.Errorf("the checkpoint is of another model: weight %q", name)
		}
	}
	return nil
}

// Close releases the programs, after the batch that is being prepared.
func (t *Trainer) Close() error {
	if t.ahead != nil {
		<-t.ahead
	}
	var errs []error
	for _, p := range []*program{t.mirror, t.step, t.finished} {
		if p != nil && p.Program != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// String says what is learnt, for logs.
func (t *Trainer) String() string {
	return fmt.Sprintf("%s over %d photos of %d people, %d weights learnt", t.o.Loss, len(t.anyone), len(t.people), len(t.names))
}

var _ grad.Program = (*program)(nil)
