package siamese

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// Set is a set of photos to learn from. It is read by several goroutines.
type Set interface {
	// Len is the number of photos.
	Len() int
	// Person is the number of the person on a photo: the same number for the
	// same person, below zero if the person is unknown.
	Person(i int) int
	// Photo reads a photo.
	Photo(i int) (Photo, error)
}

// Loss says what is learnt.
type Loss string

// The losses.
const (
	Triplets    Loss = "triplet"
	Contrastive Loss = "contrastive"
)

// Options say how an encoder is taught.
type Options struct {
	// Model is the encoder to begin with, Image the name of its input, and
	// Embedding the layer that is its output: [N,D].
	Model            *grad.Model
	Image, Embedding string
	Input            imaging.Planar
	// Learn says which weights are learnt; nil means all. The running mean and
	// variance of a BatchNormalization in training form are updated, not
	// learnt.
	Learn func(name string, shape []int64) bool
	// BatchNorm puts every BatchNormalization into its training form. For
	// fine-tuning, leave it in inference form.
	BatchNorm bool

	Loss   Loss
	Margin float64 // of Triplets (in squared distance) and Contrastive (in distance)
	Mining Mining  // of Triplets
	// Retire uses a Generator: triplets of the whole set that are not learnt
	// yet, instead of triplets mined from the batch.
	Retire bool
	// A batch has this many photos of each of this many people.
	People, PhotosEach int

	Steps, WarmUp int
	Rate          float64 // the highest learning rate
	Optimizer     string  // "adamw" or "sgd"
	WeightDecay   float64
	MaxNorm       float64 // of all gradients together; 0: no limit
	Augmentation  Augmentation
	Seed          uint64
}

// DefaultOptions are what `likeness train` begins with: triplets with semi-hard
// negatives and a margin of 0.3, batches of 16 people with 3 photos each, 2000
// steps of AdamW with a highest rate of 0.001 reached after 50 steps, a weight
// decay of 0.0001, gradients of length 5 at most, [DefaultAugmentation], and
// the seed 1. The model, its layers and its input have no default. A zero field
// of Options stands for zero, not for its default.
func DefaultOptions() Options {
	return Options{
		Loss: Triplets, Margin: 0.3, Mining: SemiHard,
		People: 16, PhotosEach: 3,
		Steps: 2000, WarmUp: 50, Rate: 1e-3,
		Optimizer: "adamw", WeightDecay: 1e-4, MaxNorm: 5,
		Augmentation: DefaultAugmentation(), Seed: 1,
	}
}

// Progress is what one step did.
type Progress struct {
	Step, Steps int
	Loss        float64
	Rate        float64
	Norm        float64 // of the gradients, before they were clipped
	// Triplets is how many triplets were learnt from. Active is the share of
	// all possible triplets of the batch, mined or not, that violate the
	// margin.
	Triplets int
	Active   float64
	// Spread is the mean squared distance of different people in the batch:
	// near 0, all embeddings are the same.
	Spread float64
}

// Trainer teaches one encoder. It is not safe for concurrent use.
type Trainer struct {
	o       Options
	set     Set
	batch   int
	slots   int     // triplets or pairs of a step
	people  [][]int // the photos of each
	several []int   // people with two photos
	anyone  []int
	workers []*augmenter
	ahead   chan prepared // the next batch, prepared while this one is learnt; nil: none

	weights   map[string][]float32 // everything that is learnt or followed
	names     []string             // of the learnt ones, in the order of the gradients
	decays    []bool
	followed  []string // running statistics, in the order of the outputs
	mirror    *program // embeds a batch as the step does, for mining
	step      *program // loss, embeddings, costs, gradients, statistics
	finished  *program // embeds as the exported model will
	generator *Generator
	state     state
}

// program is a compiled graph, with the names of the weights that it takes: an
// image first, then those.
type program struct {
	grad.Program
	images  int // how many inputs come before the weights
	weights []string
}

// load copies the present weights into the program.
func (p *program) load(weights map[string][]float32) {
	for i, name := range p.weights {
		copy(p.Input(p.images+i), weights[name])
	}
}

// extra is the i-th input of the loss.
func (p *program) extra(i int) []float32 { return p.Input(p.images + len(p.weights) + i) }

// prepared is a batch on its way.
type prepared struct {
	step   int
	photos []int
	served []Triplet // of the generator
	pixels []float32
	err    error
}

// followRate is how fast running statistics follow the batch's.
const followRate = 0.05

// New makes a trainer. Invalid: options that make no sense, a set that has no
// two people with two photos (except for Distillation), a model that pkg/grad
// cannot differentiate.
func New(backend grad.Backend, o Options, set Set) (*Trainer, error) {
	const op = "siamese.New"
	t := &Trainer{o: o, set: set, batch: o.People * o.PhotosEach, weights: map[string][]float32{}}
	switch {
	case o.People < 2 || o.PhotosEach < 1 || t.batch > 4096:
		return nil, face.Errorf(face.Invalid, op, "a batch of %d people with %d photos each", o.People, o.PhotosEach)
	case o.PhotosEach < 2:
		return nil, face.Errorf(face.Invalid, op, "two photos of each person are needed to compare them")
	case o.Steps < 1 || o.WarmUp < 0 || !(o.Rate > 0) || math.IsInf(o.Rate, 0):
		return nil, face.Errorf(face.Invalid, op, "%d steps, %d of them to warm up, with a rate of %g", o.Steps, o.WarmUp, o.Rate)
	case !(o.Margin > 0 && o.Margin < 4):
		return nil, face.Errorf(face.Invalid, op, "a margin of %g is not within 0..4", o.Margin)
	}
	if err := t.group(); err != nil {
		return nil, err
	}
	t.slots = t.batch * max(1, o.PhotosEach-1)
	t.state.Optimizer = NewOptimizer(o.Optimizer, o.WeightDecay)
	if err := t.compile(backend); err != nil {
		return nil, err
	}
	return t, nil
}

// group lists the photos of each person.
func (t *Trainer) group() error {
	at := map[int]int{}
	for i := range t.set.Len() {
		person := t.set.Person(i)
		if person < 0 {
			t.anyone = append(t.anyone, i)
			continue
		}
		k, known := at[person]
		if !known {
			k = len(t.people)
			at[person] = k
			t.people = append(t.people, nil)
		}
		t.people[k] = append(t.people[k], i)
		t.anyone = append(t.anyone, i)
	}
	for k, photos := range t.people {
		if len(photos) >= 2 {
			t.several = append(t.several, k)
		}
	}
	switch {
	case len(t.anyone) == 0:
		return face.Errorf(face.Invalid, "siamese.New", "there are no photos")
	case len(t.several) < t.o.People:
		return face.Errorf(face.Invalid, "siamese.New", "%d people have two photos, a batch needs %d", len(t.several), t.o.People)
	}
	return nil
}

// compile builds the graphs.
func (t *Trainer) compile(backend grad.Backend) (err error) {
	embeds := func(_ *grad.Graph, e *grad.Value, _ *grad.Imported) ([]*grad.Value, error) {
		return []*grad.Value{e}, nil
	}
	if t.o.Loss == Triplets && !t.o.Retire {
		if t.mirror, _, err = t.graph(backend, t.o.BatchNorm, embeds); err != nil {
			return err
		}
	}
	var imported *grad.Imported
	if t.finished, imported, err = t.graph(backend, false, embeds); err != nil {
		return err
	}
	for name, data := range imported.Initial {
		t.weights[name] = slices.Clone(data)
	}
	t.step, _, err = t.graph(backend, t.o.BatchNorm, func(g *grad.Graph, e *grad.Value, im *grad.Imported) ([]*grad.Value, error) {
		loss, each := t.loss(g, e)
		var learnt []*grad.Value
		for _, v := range g.Inputs(loss) {
			if im.Variables[v.Name()] == v {
				learnt = append(learnt, v)
				t.names = append(t.names, v.Name())
				// Scales and biases do not decay, because they do not make a
				// network complex.
				t.decays = append(t.decays, len(v.Shape()) > 1)
			}
		}
		grads, err := g.Gradient(loss, learnt...)
		if err != nil {
			return nil, err
		}
		t.followed = slices.Sorted(maps.Keys(im.Statistics))
		outputs := append([]*grad.Value{loss, e, each}, grads...)
		for _, name := range t.followed {
			outputs = append(outputs, im.Statistics[name])
		}
		return outputs, nil
	})
	if err == nil && len(t.names) == 0 {
		err = face.Errorf(face.Invalid, "siamese.New", "there is nothing to learn: no weight was chosen")
	}
	return err
}

// graph imports the model and compiles what build makes of its normalised
// embeddings.
func (t *Trainer) graph(backend grad.Backend, training bool, build func(*grad.Graph, *grad.Value, *grad.Imported) ([]*grad.Value, error)) (*program, *grad.Imported, error) {
	g := grad.NewGraph()
	in := t.o.Input
	image := g.Input(t.o.Image, int64(t.batch), 3, int64(in.Height), int64(in.Width))
	statistics := t.o.Model.Statistics()
	im, err := g.Import(t.o.Model, map[string]*grad.Value{t.o.Image: image}, []string{t.o.Embedding}, grad.ImportOptions{
		Training: training,
		Variable: func(name string, shape []int64) bool {
			if slices.Contains(statistics, name) {
				return t.o.BatchNorm
			}
			return t.o.Learn == nil || t.o.Learn(name, shape)
		},
	})
	if err != nil {
		return nil, nil, err
	}
	e := im.Layers[t.o.Embedding]
	if len(e.Shape()) != 2 || e.Dim(0) != int64(t.batch) {
		return nil, nil, face.Errorf(face.Invalid, "siamese.New", "layer %q has the shape %v, not [%d,D]", t.o.Embedding, e.Shape(), t.batch)
	}
	outputs, err := build(g, g.Normalize(e, 1), im)
	if err != nil {
		return nil, nil, err
	}
	p := &program{images: 1}
	for _, v := range g.Inputs(outputs...) {
		if im.Variables[v.Name()] == v {
			p.weights = append(p.weights, v.Name())
		}
	}
	p.Program, err = g.Compile(backend, outputs...)
	return p, im, err
}

// loss adds the loss, and what each triplet costs.
func (t *Trainer) loss(g *grad.Graph, e *grad.Value) (loss, each *grad.Value) {
	n, slots := int64(t.batch), int64(t.slots)
	// Rows of ones pick the embeddings of a triplet: the photo that is in
	// several triplets is embedded once.
	pick := func(name string) *grad.Value { return g.MatMul(g.Input("loss:"+name, slots, n), e) }
	a, b, c := pick("a"), pick("b"), (*grad.Value)(nil)
	if t.o.Loss == Contrastive {
		same := g.Input("loss:same", slots, 1)
		weights := g.Input("loss:weights", slots, 1)
		return ContrastiveLoss(g, a, b, same, weights, t.o.Margin), Distance(g, a, b)
	}
	c = pick("c")
	weights := g.Input("loss:weights", slots, 1)
	loss = TripletLoss(g, a, b, c, weights, t.o.Margin)
	return loss, g.Sub(Distance(g, a, b), Distance(g, a, c))
}

// draw chooses the photos of a step. It always chooses the same photos for the
// same step.
func (t *Trainer) draw(step int) []int {
	rng := t.rng(step, 0)
	photos := make([]int, 0, t.batch)
	chosen := rng.Perm(len(t.several))[:t.o.People]
	for _, k := range chosen {
		all := t.people[t.several[k]]
		order := rng.Perm(len(all))
		for i := range t.o.PhotosEach {
			// A person with fewer photos is shown again, with other random
			// changes.
			photos = append(photos, all[order[i%len(all)]])
		}
	}
	return photos
}

// rng is the random source of a step; part separates its uses.
func (t *Trainer) rng(step, part int) *rand.Rand {
	return rand.New(rand.NewPCG(t.o.Seed, uint64(step)<<20|uint64(part))) //nolint:gosec // reproducible on purpose
}

// prepare reads and changes the photos of a step, on all cores.
func (t *Trainer) prepare(ctx context.Context, step int, photos []int) prepared {
	size := 3 * t.o.Input.Width * t.o.Input.Height
	p := prepared{step: step, photos: photos, pixels: make([]float32, size*t.batch)}
	group, ctx := errgroup.WithContext(ctx)
	for w, a := range t.workers {
		group.Go(func() error {
			for i := w; i < len(photos); i += len(t.workers) {
				if err := ctx.Err(); err != nil {
					return err
				}
				photo, err := t.set.Photo(photos[i])
				if err != nil {
					return fmt.Errorf("photo %d: %w", photos[i], err)
				}
				a.write(p.pixels[i*size:(i+1)*size], photo, t.rng(step, 1+i))
			}
			return nil
		})
	}
	p.err = group.Wait()
	return p
}
