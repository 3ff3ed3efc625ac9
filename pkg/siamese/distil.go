package siamese

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// Teacher is an encoder that a student learns from.
type Teacher struct {
	Model            *grad.Model
	Image, Embedding string // the names of its input and of its output, [N,D]
	Input            imaging.Planar
	// ToStudent brings a pixel of the teacher's input to where the same part of
	// the face is in the student's.
	ToStudent imaging.Affine
}

// Hint is a feature map of the first teacher that a layer of the student has to
// give as well (Romero et al., arXiv 1412.6550). Both have the same shape.
type Hint struct{ Teacher, Student string }

// DistillOptions say how a student is taught by function matching (Beyer et
// al., arXiv 2106.05237): student and teachers see the same changed picture, and
// the student learns to give what the teachers give. No photo needs a label.
type DistillOptions struct {
	// Model is the student to begin with, Image the name of its input, and
	// Embedding its output [N,D].
	Model            *grad.Model
	Image, Embedding string
	Input            imaging.Planar
	// Landmarks are the five points of the student's alignment in its input.
	Landmarks [5]face.Point
	Learn     func(name string, shape []int64) bool // as in Options
	BatchNorm bool                                  // as in Options

	Teachers []Teacher
	// Target turns the teachers' embeddings into those that the student learns.
	Target Target
	// Hints are in the order in which the layers are computed.
	Hints []Hint
	// HintWeight is the weight of the hints' mean relative error.
	HintWeight float64
	// Alone is how many steps the parts of the student between two hints are
	// taught one by one: each gets the teacher's feature map before it and
	// learns the one behind it. Short networks learn faster than long ones (Wang
	// et al., "Progressive Blockwise Knowledge Distillation", IJCAI 2018).
	Alone int

	Batch, Steps, WarmUp int
	// Replay is how often a picture is learnt from, on average. A batch has one
	// part in Replay new pictures; the others are drawn from the last thousands,
	// with what the teachers said of them, so that less time goes to teachers.
	Replay       int
	Rate         float64 // the highest learning rate
	Optimizer    string  // "adamw" or "sgd"
	WeightDecay  float64
	MaxNorm      float64 // of all gradients together; 0: no limit
	Augmentation Augmentation
	// Hidden is the chance that the teachers see a covered face without its cover.
	Hidden float64
	Seed   uint64
	// Replicas share a batch: each computes the gradients of its part on one
	// thread, and the mean of them is learnt. The backend's threads are for one
	// replica.
	Replicas int
}

// DefaultDistillOptions are what `likeness train --teacher` begins with. The
// models, their inputs and the target have no default.
func DefaultDistillOptions() DistillOptions {
	return DistillOptions{
		HintWeight: 1, Batch: 64, Steps: 20000, WarmUp: 200, Rate: 2e-3,
		Optimizer: "adamw", WeightDecay: 0.02, MaxNorm: 5, Augmentation: MatchingAugmentation(), Hidden: 0.5, Seed: 1, Replay: 1, Replicas: 1,
	}
}

// Distiller teaches one student. It is not safe for concurrent use.
type Distiller struct {
	o     DistillOptions
	set   Set
	each  int // photos of a replica
	fresh int // how many of them are new
	size  int // numbers of a picture of the student

	weights  map[string][]float32
	names    []string
	decays   []bool
	followed []string
	replicas []replica
	finished *program
	viewers  []*viewer
	ahead    chan views
	state    distilled
}

// replica has the programs of a part of the batch.
type replica struct {
	// teachers give what the student learns from their pictures: their normalised
	// embedding, and the first one the feature maps of the hints after it.
	teachers     []*program
	alone, whole *program
	seen         memory
}

// distilled is what a checkpoint holds beside the weights.
type distilled struct {
	Step      int
	Optimizer *Optimizer
}

// views are the pictures of a step: those of the student, then those of each
// teacher.
type views struct {
	step   int
	pixels [][]float32
	err    error
}

// NewDistiller makes a distiller. Invalid: options that make no sense, an empty
// set, models that do not fit each other or that pkg/grad cannot differentiate.
func NewDistiller(backend grad.Backend, o DistillOptions, set Set) (*Distiller, error) {
	const op = "siamese.NewDistiller"
	switch {
	case set.Len() == 0:
		return nil, face.Errorf(face.Invalid, op, "there are no photos")
	case len(o.Teachers) == 0:
		return nil, face.Errorf(face.Invalid, op, "there is no teacher")
	case o.Replicas < 1 || o.Replay < 1 || o.Batch < 2*o.Replicas || o.Batch > 4096 || o.Batch%(o.Replicas*o.Replay) != 0:
		return nil, face.Errorf(face.Invalid, op, "a batch of %d photos cannot be divided by %d replicas and %d replays", o.Batch, o.Replicas, o.Replay)
	case o.Steps < 1 || o.WarmUp < 0 || !(o.Rate > 0) || math.IsInf(o.Rate, 0):
		return nil, face.Errorf(face.Invalid, op, "%d steps, %d of them to warm up, with a rate of %g", o.Steps, o.WarmUp, o.Rate)
	case o.Alone > 0 && len(o.Hints) == 0:
		return nil, face.Errorf(face.Invalid, op, "parts can only be taught alone between hints, and there are none")
	}
	d := &Distiller{o: o, set: set, each: o.Batch / o.Replicas, fresh: o.Batch / o.Replicas / o.Replay, size: 3 * o.Input.Width * o.Input.Height, weights: map[string][]float32{}}
	d.state.Optimizer = NewOptimizer(o.Optimizer, o.WeightDecay)
	d.state.Optimizer.Beta2 = 0.99
	if err := d.compile(backend); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	for range max(1, o.Replicas) {
		d.viewers = append(d.viewers, newViewer(o))
	}
	return d, nil
}

// student imports a part of the student.
func (d *Distiller) student(g *grad.Graph, training bool, from string, x *grad.Value, layers ...string) (*grad.Imported, error) {
	statistics := d.o.Model.Statistics()
	return g.Import(d.o.Model, map[string]*grad.Value{from: x}, layers, grad.ImportOptions{
		Training: training,
		Variable: func(name string, shape []int64) bool {
			if slices.Contains(statistics, name) {
				return d.o.BatchNorm
			}
			return d.o.Learn == nil || d.o.Learn(name, shape)
		},
	})
}

// merged is what several imports of parts of a model have together. In the graph
// a weight may have another name than in the model.
type merged struct {
	weights    map[*grad.Value]string
	statistics map[string]*grad.Value
}

func newMerged() *merged { return &merged{map[*grad.Value]string{}, map[string]*grad.Value{}} }

func (m *merged) add(im *grad.Imported) {
	for name, v := range im.Variables {
		m.weights[v] = name
	}
	maps.Copy(m.statistics, im.Statistics)
}

// compile builds the graphs.
func (d *Distiller) compile(backend grad.Backend) error {
	in := d.o.Input
	g := grad.NewGraph()
	im, err := d.student(g, false, d.o.Image, g.Input(d.o.Image, int64(d.each), 3, int64(in.Height), int64(in.Width)), d.o.Embedding)
	if err != nil {
		return err
	}
	for name, data := range im.Initial {
		d.weights[name] = slices.Clone(data)
	}
	all := newMerged()
	all.add(im)
	if d.finished, err = compiled(backend, g, all.weights, g.Normalize(im.Layers[d.o.Embedding], 1)); err != nil {
		return err
	}
	for range d.o.Replicas {
		d.replicas = append(d.replicas, replica{})
		r := &d.replicas[len(d.replicas)-1]
		shapes, err := d.compileTeachers(backend, r)
		if err != nil {
			return err
		}
		if r.whole, err = d.lesson(backend, shapes, false); err != nil {
			return err
		}
		if d.o.Alone > 0 {
			if r.alone, err = d.lesson(backend, shapes, true); err != nil {
				return err
			}
		}
	}
	if len(d.names) == 0 {
		return face.Errorf(face.Invalid, "siamese.NewDistiller", "there is nothing to learn: no weight was chosen")
	}
	return nil
}

// compiled compiles a graph, and lists the weights that it takes, which follow
// its other inputs.
func compiled(backend grad.Backend, g *grad.Graph, weights map[*grad.Value]string, outputs ...*grad.Value) (*program, error) {
	p := &program{}
	for _, v := range g.Inputs(outputs...) {
		if name, ok := weights[v]; ok {
			p.weights = append(p.weights, name)
		} else {
			p.images++
		}
	}
	var err error
	p.Program, err = g.Compile(backend, outputs...)
	return p, err
}

// compileTeachers compiles the teachers, and returns the shapes of what they give.
func (d *Distiller) compileTeachers(backend grad.Backend, r *replica) (shapes [][]int64, err error) {
	for i, teacher := range d.o.Teachers {
		g := grad.NewGraph()
		x := g.Input(teacher.Image, int64(d.fresh), 3, int64(teacher.Input.Height), int64(teacher.Input.Width))
		layers := []string{teacher.Embedding}
		if i == 0 {
			for _, h := range d.o.Hints {
				layers = append(layers, h.Teacher)
			}
		}
		im, err := g.Import(teacher.Model, map[string]*grad.Value{teacher.Image: x}, layers, grad.ImportOptions{})
		if err != nil {
			return nil, err
		}
		given := []*grad.Value{g.Normalize(im.Layers[teacher.Embedding], 1)}
		for _, layer := range layers[1:] {
			given = append(given, im.Layers[layer])
		}
		for _, v := range given {
			shape := slices.Clone(v.Shape())
			shape[0] = int64(d.each)
			shapes = append(shapes, shape)
		}
		p, err := compiled(backend, g, nil, given...)
		if err != nil {
			return nil, err
		}
		r.teachers = append(r.teachers, p)
	}
	return shapes, nil
}

// lesson is the graph of a step of one replica: the loss, then the relative
// error of each hint and of the embedding, then the gradients, then the batch's
// statistics. Its inputs are the student's pictures, what the teachers give, in
// the given shapes, and the weights.
func (d *Distiller) lesson(backend grad.Backend, shapes [][]int64, alone bool) (*program, error) {
	const op = "siamese.NewDistiller"
	g := grad.NewGraph()
	n, in := int64(d.each), d.o.Input
	image := g.Input("student:"+d.o.Image, n, 3, int64(in.Height), int64(in.Width))
	var known []*grad.Value // the teachers' embeddings
	features := map[string]*grad.Value{}
	for i, shape := range shapes {
		v := g.Input(fmt.Sprintf("teachers:%d", i), shape...)
		if i == 0 || i > len(d.o.Hints) {
			known = append(known, v)
		} else {
			features[d.o.Hints[i-1].Teacher] = v
		}
	}
	want := known[0]
	if len(known) > 1 {
		want = g.Concat(1, known...)
	}
	if m := d.o.Target; len(m.Matrix) > 0 {
		if want.Dim(1) != int64(m.Rows) {
			return nil, face.Errorf(face.Invalid, op, "the target is for %d numbers; the teachers give %d", m.Rows, want.Dim(1))
		}
		want = g.Normalize(g.MatMul(want, g.Constant(m.Matrix, int64(m.Rows), int64(m.Columns))), 1)
	}

	all := newMerged()
	var errorsOf []*grad.Value
	given := map[string]*grad.Value{} // of the student
	if alone {
		from, x := d.o.Image, image
		for _, h := range append(slices.Clone(d.o.Hints), Hint{Student: d.o.Embedding}) {
			im, err := d.student(g, d.o.BatchNorm, from, x, h.Student)
			if err != nil {
				return nil, err
			}
			all.add(im)
			given[h.Student] = im.Layers[h.Student]
			from, x = h.Student, features[h.Teacher]
		}
	} else {
		layers := []string{d.o.Embedding}
		for _, h := range d.o.Hints {
			layers = append(layers, h.Student)
		}
		im, err := d.student(g, d.o.BatchNorm, d.o.Image, image, layers...)
		if err != nil {
			return nil, err
		}
		all.add(im)
		given = im.Layers
	}
	e := given[d.o.Embedding]
	if len(e.Shape()) != 2 || e.Dim(0) != n || e.Dim(1) != want.Dim(1) {
		return nil, face.Errorf(face.Invalid, op, "the student gives %v, and learns %v", e.Shape(), want.Shape())
	}
	loss, apart := MatchingLoss(g, g.Normalize(e, 1), want)
	for _, h := range d.o.Hints {
		a, b := given[h.Student], features[h.Teacher]
		if !slices.Equal(a.Shape(), b.Shape()) {
			return nil, face.Errorf(face.Invalid, op, "layer %q of the student has the shape %v, layer %q of the teacher %v", h.Student, a.Shape(), h.Teacher, b.Shape())
		}
		errorsOf = append(errorsOf, RelativeError(g, a, b))
	}
	if len(errorsOf) > 0 {
		loss = g.Add(loss, g.Scale(g.Total(g.Concat(0, errorsOf...)), d.o.HintWeight/float64(len(errorsOf))))
		errorsOf = []*grad.Value{g.Concat(0, append(errorsOf, apart)...)}
	} else {
		errorsOf = []*grad.Value{apart}
	}

	var learnt []*grad.Value
	first := len(d.names) == 0
	for _, v := range g.Inputs(loss) {
		if name, ok := all.weights[v]; ok {
			learnt = append(learnt, v)
			if first {
				d.names = append(d.names, name)
				d.decays = append(d.decays, len(v.Shape()) > 1)
			}
		}
	}
	// Every graph gives the gradients in the same order.
	order := map[string]int{}
	for i, name := range d.names {
		order[name] = i
	}
	slices.SortFunc(learnt, func(a, b *grad.Value) int { return order[all.weights[a]] - order[all.weights[b]] })
	if len(learnt) != len(d.names) {
		return nil, face.Errorf(face.Invalid, op, "taught alone, the parts have %d weights, together %d", len(learnt), len(d.names))
	}
	gradients, err := g.Gradient(loss, learnt...)
	if err != nil {
		return nil, err
	}
	d.followed = slices.Sorted(maps.Keys(all.statistics))
	outputs := append([]*grad.Value{loss, errorsOf[0]}, gradients...)
	for _, name := range d.followed {
		outputs = append(outputs, all.statistics[name])
	}
	return compiled(backend, g, all.weights, outputs...)
}

// MatchingLoss adds the loss of matching embeddings, both normalised [N,D]: the
// mean of 1 - cosine of each with the teacher's (the second value, [1]), and
// four times the mean squared difference of the cosines within the batch, which
// are what decides whether two photos show one person. Shape [1].
func MatchingLoss(g *grad.Graph, e, teacher *grad.Value) (loss, apart *grad.Value) {
	n := float64(e.Dim(0))
	apart = g.Sub(g.Scalar(1), g.Scale(g.Total(g.Mul(e, teacher)), 1/n))
	alike := func(x *grad.Value) *grad.Value { return g.MatMul(x, g.Transpose(x, 1, 0)) }
	off := g.Sub(alike(e), alike(teacher))
	return g.Add(apart, g.Scale(g.Total(g.Mul(off, off)), 4/(n*n))), apart
}

// RelativeError adds the squared error of feature maps relative to the square of
// those that are wanted: 0 if they are equal, 1 if all are 0. Shape [1].
func RelativeError(g *grad.Graph, given, want *grad.Value) *grad.Value {
	return g.Div(g.SumSquares(g.Sub(given, want)), g.SumSquares(want))
}

// Lesson is what one step did.
type Lesson struct {
	Step, Steps int
	Alone       bool
	Loss, Rate  float64
	Norm        float64 // of the gradients, before they were clipped
	// Hints are the relative errors of the hints, in their order. Apart is the
	// mean of 1 - cosine with the target.
	Hints []float64
	Apart float64
}

// Step learns from one batch. The error is Canceled or Deadline if ctx ends, and
// Internal if the loss is not finite.
func (d *Distiller) Step(ctx context.Context) (Lesson, error) {
	const op = "siamese.Distiller.Step"
	l := Lesson{Step: d.state.Step + 1, Steps: d.o.Steps, Alone: d.state.Step < d.o.Alone}
	v, err := d.nextViews(ctx)
	if err != nil {
		return l, face.Wrap(face.Internal, op, err)
	}
	programs := make([]*program, len(d.replicas))
	group, running := errgroup.WithContext(ctx)
	for i, r := range d.replicas {
		p := r.whole
		if l.Alone {
			p = r.alone
		}
		programs[i] = p
		group.Go(func() error { return d.learn(running, &d.replicas[i], p, v, i) })
	}
	if err := group.Wait(); err != nil {
		return l, err
	}
	gradients, learnt := make([][]float32, len(d.names)), make([][]float32, len(d.names))
	for i, name := range d.names {
		gradients[i], learnt[i] = meanOutput(programs, 2+i), d.weights[name]
	}
	l.Loss = float64(meanOutput(programs, 0)[0])
	if math.IsNaN(l.Loss) || math.IsInf(l.Loss, 0) {
		return l, face.Errorf(face.Internal, op, "the loss of step %d is not finite: the learning rate is too high", l.Step)
	}
	each := meanOutput(programs, 1)
	for _, x := range each[:len(each)-1] {
		l.Hints = append(l.Hints, float64(x))
	}
	l.Apart = float64(each[len(each)-1])
	l.Norm = Clip(gradients, d.o.MaxNorm)
	l.Rate = Rate(d.state.Step, d.o.WarmUp, d.o.Steps, d.o.Rate)
	d.state.Optimizer.Step(learnt, gradients, d.decays, l.Rate)
	for i, name := range d.followed {
		running := d.weights[name]
		for k, x := range meanOutput(programs, 2+len(d.names)+i) {
			running[k] += followRate * (x - running[k])
		}
	}
	d.state.Step++
	return l, nil
}

// learn runs a replica on its part of the pictures.
func (d *Distiller) learn(ctx context.Context, r *replica, p *program, v views, part int) error {
	cut := func(pixels []float32) []float32 {
		n := len(pixels) / len(d.replicas)
		return pixels[part*n : (part+1)*n]
	}
	given := [][]float32{cut(v.pixels[0])}
	for i, teacher := range r.teachers {
		copy(teacher.Input(0), cut(v.pixels[1+i]))
		if err := teacher.Run(ctx); err != nil {
			return err
		}
		given = append(given, teacher.Output(0))
		if i == 0 {
			for k := range d.o.Hints {
				given = append(given, teacher.Output(1+k))
			}
		}
	}
	r.seen.add(given, d.fresh)
	rng := d.rng(v.step, 1<<18+part)
	for slot := range d.each {
		from := r.seen.newest(slot)
		if slot >= d.fresh {
			from = rng.IntN(r.seen.n)
		}
		for i := range given {
			row := r.seen.row(i, from)
			copy(p.Input(i)[slot*len(row):], row)
		}
	}
	p.load(d.weights)
	return p.Run(ctx)
}

// memory holds the last pictures with what the teachers said of them.
type memory struct {
	rows    [][]float32 // of each input of a lesson
	sizes   []int       // numbers of a row
	n, next int
	added   int // with the last call of add
}

// Pictures that a memory holds: a few thousand, in half a gigabyte at most.
const (
	memoryRows    = 2048
	memoryNumbers = 1 << 27
)

// add adds pictures, and forgets the oldest ones.
func (m *memory) add(given [][]float32, count int) {
	if m.rows == nil {
		all := 0
		for _, data := range given {
			m.sizes = append(m.sizes, len(data)/count)
			all += len(data) / count
		}
		rows := max(count, min(memoryRows, memoryNumbers/all))
		for _, size := range m.sizes {
			m.rows = append(m.rows, make([]float32, rows*size))
		}
	}
	capacity := len(m.rows[0]) / m.sizes[0]
	for k := range count {
		for i, size := range m.sizes {
			copy(m.rows[i][m.next*size:], given[i][k*size:(k+1)*size])
		}
		m.next = (m.next + 1) % capacity
		m.n = min(m.n+1, capacity)
	}
	m.added = count
}

// newest is where the i-th picture of the last call of add is.
func (m *memory) newest(i int) int {
	capacity := len(m.rows[0]) / m.sizes[0]
	return (m.next - m.added + i + capacity) % capacity
}

func (m *memory) row(input, at int) []float32 {
	size := m.sizes[input]
	return m.rows[input][at*size : (at+1)*size]
}

// meanOutput is the mean of an output of several programs, in the first one's
// memory.
func meanOutput(programs []*program, i int) []float32 {
	sum := programs[0].Output(i)
	for _, p := range programs[1:] {
		for k, x := range p.Output(i) {
			sum[k] += x
		}
	}
	if n := len(programs); n > 1 {
		for k := range sum {
			sum[k] /= float32(n)
		}
	}
	return sum
}

// nextViews takes the prepared pictures and starts to prepare the next ones.
func (d *Distiller) nextViews(ctx context.Context) (views, error) {
	step := d.state.Step
	if d.ahead == nil {
		d.ahead = make(chan views, 1)
		d.ahead <- d.prepare(ctx, step)
	}
	v := <-d.ahead
	d.ahead = nil
	if v.step != step { // the step before took its pictures and then failed
		v = d.prepare(ctx, step)
	}
	if v.err == nil && step+1 < d.o.Steps {
		d.ahead = make(chan views, 1)
		go func(ahead chan<- views) { ahead <- d.prepare(ctx, step+1) }(d.ahead)
	}
	return v, v.err
}

// prepare reads and changes the photos of a step. What is random depends on the
// seed, the step and the place in the batch alone.
func (d *Distiller) prepare(ctx context.Context, step int) views {
	n := d.fresh * d.o.Replicas
	v := views{step: step, pixels: [][]float32{make([]float32, d.size*n)}}
	sizes := []int{d.size}
	for _, t := range d.o.Teachers {
		sizes = append(sizes, 3*t.Input.Width*t.Input.Height)
		v.pixels = append(v.pixels, make([]float32, sizes[len(sizes)-1]*n))
	}
	group, ctx := errgroup.WithContext(ctx)
	for w, viewer := range d.viewers {
		group.Go(func() error {
			for i := w; i < n; i += len(d.viewers) {
				if err := ctx.Err(); err != nil {
					return err
				}
				rng := d.rng(step, 1+i)
				shown := make([][]float32, len(sizes))
				for k, size := range sizes {
					shown[k] = v.pixels[k][i*size : (i+1)*size]
				}
				if err := viewer.show(shown, d.set, rng); err != nil {
					return err
				}
			}
			return nil
		})
	}
	v.err = group.Wait()
	return v
}

func (d *Distiller) rng(step, part int) *rand.Rand {
	return rand.New(rand.NewPCG(d.o.Seed, uint64(step)<<20|uint64(part))) //nolint:gosec // reproducible on purpose
}

// Embed embeds unchanged photos with the student as it will be exported.
func (d *Distiller) Embed(ctx context.Context, photos []Photo) ([]face.Embedding, error) {
	return embedPhotos(ctx, d.finished, d.weights, d.o.Input, d.each, photos)
}

// EmbedWith embeds photos with a model as it is: the names are those of its input
// and of its output, [N,D].
func EmbedWith(ctx context.Context, backend grad.Backend, model *grad.Model, image, embedding string, in imaging.Planar, photos []Photo) (_ []face.Embedding, err error) {
	const batch = 16
	g := grad.NewGraph()
	x := g.Input(image, batch, 3, int64(in.Height), int64(in.Width))
	im, err := g.Import(model, map[string]*grad.Value{image: x}, []string{embedding}, grad.ImportOptions{})
	if err != nil {
		return nil, err
	}
	p, err := compiled(backend, g, nil, g.Normalize(im.Layers[embedding], 1))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return embedPhotos(ctx, p, nil, in, batch, photos)
}

// Done is how many steps were made.
func (d *Distiller) Done() int { return d.state.Step }

// Export is the student with the weights as they are, as ONNX.
func (d *Distiller) Export() ([]byte, error) { return d.o.Model.Rewrite(d.weights) }

// distilledVersion is that of the checkpoints.
const distilledVersion = 1

type distillCheckpoint struct {
	Version int
	State   distilled
	Weights map[string][]float32
}

// Save writes everything that is needed to continue.
func (d *Distiller) Save(w io.Writer) error {
	return face.Wrap(face.Internal, "siamese.Distiller.Save", gob.NewEncoder(w).Encode(distillCheckpoint{distilledVersion, d.state, d.weights}))
}

// Load continues from what Save wrote. The error is Invalid if that is of
// another model.
func (d *Distiller) Load(r io.Reader) error {
	const op = "siamese.Distiller.Load"
	var c distillCheckpoint
	if err := gob.NewDecoder(r).Decode(&c); err != nil {
		return face.Errorf(face.Invalid, op, "not a checkpoint: %v", err)
	}
	if c.Version != distilledVersion || c.State.Optimizer == nil {
		return face.Errorf(face.Invalid, op, "the checkpoint is of another version")
	}
	if err := checkWeights(d.weights, c.Weights); err != nil {
		return face.Wrap(face.Invalid, op, err)
	}
	d.weights, d.state = c.Weights, c.State
	return nil
}

// Close releases the programs, after the pictures that are being prepared.
func (d *Distiller) Close() error {
	if d.ahead != nil {
		<-d.ahead
	}
	var errs []error
	programs := []*program{d.finished}
	for _, r := range d.replicas {
		programs = append(append(programs, r.teachers...), r.alone, r.whole)
	}
	for _, p := range programs {
		if p != nil && p.Program != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// String says what is learnt, for logs.
func (d *Distiller) String() string {
	return fmt.Sprintf("matching %d teachers over %d photos, %d weights learnt", len(d.o.Teachers), d.set.Len(), len(d.names))
}
