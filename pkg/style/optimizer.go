package style

import (
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// evaluate computes the losses for x and writes their gradient.
type evaluate func(x, gradient []float32) (Loss, error)

// optimizer moves the numbers of G downhill.
type optimizer interface {
	// begin evaluates the present point. It is called before the first step,
	// and after restoring.
	begin(f evaluate) error
	// step takes one step. done: there is nothing more to gain.
	step(f evaluate) (done bool, err error)
	at() point
	// save and restore write and read everything that a step depends on, except
	// what begin computes anew.
	save(e *encoder)
	restore(d *decoder)
}

// point is the present point of an optimizer. Its slices change with each step.
type point struct {
	x, gradient []float32
	loss        Loss
	shrunk      int // steps made smaller so far because they were not finite
}

// tries is how often one step is made smaller before the optimizer gives up.
const tries = 16

// finiteAt reports whether the loss and the gradient at a point are finite.
func finiteAt(loss Loss, gradient []float32) bool {
	if !loss.finite() {
		return false
	}
	// A sum is not finite when any part is not.
	sum := dot(gradient, gradient)
	return !math.IsNaN(sum) && !math.IsInf(sum, 0)
}

func (p *point) begin(f evaluate) error {
	var err error
	if p.loss, err = f(p.x, p.gradient); err != nil {
		return err
	}
	if !finiteAt(p.loss, p.gradient) {
		return errDiverged("the loss is not finite where the picture begins: the weights are too large")
	}
	return nil
}

// dot adds into eight sums, which the processor can compute in parallel.
func dot(a, b []float32) float64 {
	var s [4]float64
	b = b[:len(a)]
	for len(a) >= 4 {
		s[0] += float64(a[0]) * float64(b[0])
		s[1] += float64(a[1]) * float64(b[1])
		s[2] += float64(a[2]) * float64(b[2])
		s[3] += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i := range a {
		s[0] += float64(a[i]) * float64(b[i])
	}
	return s[0] + s[1] + s[2] + s[3]
}

func rms(v []float32) float64 { return math.Sqrt(dot(v, v) / float64(len(v))) }

// axpy adds k times v.
func axpy(dst []float32, k float64, v []float32) {
	f := float32(k)
	dst = dst[:len(v)]
	for i, x := range v {
		dst[i] += f * x
	}
}

// half is a float32 without its lower 16 bits (bfloat16). That is precise
// enough for the vectors of an L-BFGS memory, and halves that memory in a run
// and in a checkpoint.
type half uint16

func halves(dst []half, src []float32) {
	for i, v := range src {
		b := math.Float32bits(v)
		dst[i] = half((b + 0x7fff + b>>16&1) >> 16) // to the nearest, ties to even
	}
}

func (h half) float() float32 { return math.Float32frombits(uint32(h) << 16) }

func dotHalves(a []half, b []float32) float64 {
	var s [4]float64
	b = b[:len(a)]
	for len(a) >= 4 {
		s[0] += float64(a[0].float()) * float64(b[0])
		s[1] += float64(a[1].float()) * float64(b[1])
		s[2] += float64(a[2].float()) * float64(b[2])
		s[3] += float64(a[3].float()) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i := range a {
		s[0] += float64(a[i].float()) * float64(b[i])
	}
	return s[0] + s[1] + s[2] + s[3]
}

func axpyHalves(dst []float32, k float64, v []half) {
	f := float32(k)
	dst = dst[:len(v)]
	for i, x := range v {
		dst[i] += f * x.float()
	}
}

// smooth replaces each number by the mean of it and its neighbours along every
// axis, with the weights 1, 2 and 1, and keeps a little of the old value.
// Convolutions of stride 2 see some pixels more than others, and without
// smoothing the steps would draw that grid into the picture. As a matrix,
// smoothing is symmetric and positive, so a descent direction remains one.
func smooth(v, spare []float32, channels int, size []int) {
	const rest = 0.05
	copy(spare, v)
	for axis, n := range size {
		if n < 2 {
			continue
		}
		inner := area(size[axis+1:])
		for outer := range channels * area(size[:axis]) {
			smoothAxis(v[outer*n*inner:][:n*inner], n, inner)
		}
	}
	for i, s := range spare {
		v[i] = rest*s + (1-rest)*v[i]
	}
}

// smoothAxis smooths along one axis of n rows. The ends are repeated beyond the
// ends.
func smoothAxis(v []float32, n, inner int) {
	if inner == 1 {
		before := v[0]
		for i, x := range v[:n-1] {
			v[i] = (before + 2*x + v[i+1]) / 4
			before = x
		}
		v[n-1] = (before + 3*v[n-1]) / 4
		return
	}
	before := slices.Clone(v[:inner])
	for i := range n {
		row := v[i*inner:][:inner]
		after := row
		if i < n-1 {
			after = v[(i+1)*inner:][:inner]
		}
		for j, x := range row {
			row[j] = (before[j] + 2*x + after[j]) / 4
			before[j] = x
		}
	}
}

// lbfgs is the limited-memory method of Broyden, Fletcher, Goldfarb and
// Shanno with a backtracking line search.
type lbfgs struct {
	point
	channels int
	size     []int
	memory   []pair // oldest first
	most     int
	// What a step works on.
	next, nextGradient, direction []float32
}

// pair is a step s and the change y of the gradient over it.
type pair struct {
	s, y []half
	sy   float64
}

func newLBFGS(x []float32, channels int, size []int, memory int) *lbfgs {
	n := len(x)
	return &lbfgs{
		channels: channels, size: size, point: point{x: x, gradient: make([]float32, n)}, most: memory,
		next: make([]float32, n), nextGradient: make([]float32, n), direction: make([]float32, n),
	}
}

func (o *lbfgs) at() point { return o.point }

// firstStep is the size of a step without any memory, and longest that of the
// longest step, in grey levels (root mean square).
const firstStep, longest = 1, 40

// steepest sets the direction to steepest descent, of the length firstStep.
func (o *lbfgs) steepest() {
	o.memory = nil
	copy(o.direction, o.gradient)
	smooth(o.direction, o.next, o.channels, o.size)
	k := float32(-firstStep / rms(o.direction))
	for i := range o.direction {
		o.direction[i] *= k
	}
}

// aim sets the direction by the two loops over the memory.
func (o *lbfgs) aim() {
	if len(o.memory) == 0 {
		o.steepest()
		return
	}
	d := o.direction
	copy(d, o.gradient)
	alphas := make([]float64, len(o.memory))
	for i := len(o.memory) - 1; i >= 0; i-- {
		p := o.memory[i]
		alphas[i] = dotHalves(p.s, d) / p.sy
		axpyHalves(d, -alphas[i], p.y)
	}
	// Where the memory knows nothing, the gradient is smoothed and scaled as in
	// the last step.
	smooth(d, o.next, o.channels, o.size)
	last := o.memory[len(o.memory)-1]
	for i, v := range last.y {
		o.nextGradient[i] = v.float()
	}
	smooth(o.nextGradient, o.next, o.channels, o.size)
	scale := float32(last.sy / dotHalves(last.y, o.nextGradient))
	for i := range d {
		d[i] *= scale
	}
	for i, p := range o.memory {
		axpyHalves(d, alphas[i]-dotHalves(p.y, d)/p.sy, p.s)
	}
	for i := range d {
		d[i] = -d[i]
	}
	if size := rms(d); !(dot(d, o.gradient) < 0) || math.IsInf(size, 0) {
		o.steepest()
	} else if size > longest {
		clear(o.next)
		axpy(o.next, longest/size, d)
		copy(d, o.next)
	}
}

func (o *lbfgs) step(f evaluate) (bool, error) {
	if rms(o.gradient) == 0 {
		return true, nil
	}
	o.aim()
	for {
		moved, err := o.search(f)
		if err != nil || moved {
			return false, err
		}
		if len(o.memory) == 0 {
			return true, nil
		}
		o.steepest()
	}
}

// search shortens the step along the direction until the loss falls enough.
func (o *lbfgs) search(f evaluate) (moved bool, err error) {
	const enough = 1e-4
	slope := dot(o.direction, o.gradient)
	finite := false
	for t, n := 1.0, 0; n < tries; n++ {
		copy(o.next, o.x)
		axpy(o.next, t, o.direction)
		loss, err := f(o.next, o.nextGradient)
		if err != nil {
			return false, err
		}
		if !finiteAt(loss, o.nextGradient) {
			o.shrunk++
			t /= 10
			continue
		}
		finite = true
		if loss.Total <= o.loss.Total+enough*t*slope {
			o.keep(loss)
			return true, nil
		}
		// The parabola through what is known has its bottom here.
		bottom := -slope * t * t / (2 * (loss.Total - o.loss.Total - slope*t))
		t = min(max(bottom, 0.1*t), 0.5*t)
	}
	if !finite {
		return false, errDiverged("the loss is not finite however small the step")
	}
	return false, nil
}

// keep moves to the new point and stores the step in the memory.
func (o *lbfgs) keep(loss Loss) {
	var p pair
	if len(o.memory) < o.most {
		p.s, p.y = make([]half, len(o.x)), make([]half, len(o.x))
	} else {
		p, o.memory = o.memory[0], o.memory[1:]
	}
	d := o.direction
	for i, v := range o.next {
		d[i] = v - o.x[i]
	}
	halves(p.s, d)
	for i, v := range o.nextGradient {
		d[i] = v - o.gradient[i]
	}
	halves(p.y, d)
	p.sy = 0
	for i, s := range p.s {
		p.sy += float64(s.float()) * float64(p.y[i].float())
	}
	if p.sy > 0 && !math.IsInf(p.sy, 0) {
		o.memory = append(o.memory, p)
	}
	o.x, o.next = o.next, o.x
	o.gradient, o.nextGradient = o.nextGradient, o.gradient
	o.loss = loss
}

func (o *lbfgs) save(e *encoder) {
	e.floats(o.x)
	e.number(uint64(len(o.memory)))
	for _, p := range o.memory {
		e.halves(p.s)
		e.halves(p.y)
	}
}

func (o *lbfgs) restore(d *decoder) {
	d.floats(o.x)
	n := d.number()
	if n > uint64(o.most) {
		d.err = errTorn
		return
	}
	for range n {
		p := pair{s: make([]half, len(o.x)), y: make([]half, len(o.x))}
		d.halves(p.s)
		d.halves(p.y)
		for i, s := range p.s {
			p.sy += float64(s.float()) * float64(p.y[i].float())
		}
		o.memory = append(o.memory, p)
	}
}

// adam is the method of Kingma and Ba. Its steps are in grey levels.
type adam struct {
	point
	channels     int
	size         []int
	mean, square []float32
	steps        uint64
	rate         float64
	next         []float32
	nextGradient []float32
}

// adamRate is the step of a pixel whose gradient always points one way.
const adamRate = 6

func newAdam(x []float32, channels int, size []int) *adam {
	n := len(x)
	return &adam{
		channels: channels, size: size, point: point{x: x, gradient: make([]float32, n)}, rate: adamRate,
		mean: make([]float32, n), square: make([]float32, n), next: make([]float32, n), nextGradient: make([]float32, n),
	}
}

func (o *adam) at() point { return o.point }

func (o *adam) step(f evaluate) (bool, error) {
	const b1, b2 = 0.9, 0.999
	// The gradient is divided by its own size, so that its square stays in the
	// range of float32 whatever the weights are.
	copy(o.nextGradient, o.gradient)
	smooth(o.nextGradient, o.next, o.channels, o.size)
	size := rms(o.nextGradient)
	if size == 0 {
		return true, nil
	}
	o.steps++
	unit := float32(1 / size)
	for i, v := range o.nextGradient {
		v *= unit
		o.mean[i] = b1*o.mean[i] + (1-b1)*v
		o.square[i] = b2*o.square[i] + (1-b2)*v*v
	}
	c1, c2 := 1-math.Pow(b1, float64(o.steps)), 1-math.Pow(b2, float64(o.steps))
	for range tries {
		k, root := float32(o.rate/c1), float32(1/c2)
		for i, m := range o.mean {
			o.next[i] = o.x[i] - k*m/(float32(math.Sqrt(float64(o.square[i]*root)))+1e-8)
		}
		loss, err := f(o.next, o.nextGradient)
		if err != nil {
			return false, err
		}
		if finiteAt(loss, o.nextGradient) {
			o.x, o.next = o.next, o.x
			o.gradient, o.nextGradient = o.nextGradient, o.gradient
			o.loss = loss
			return false, nil
		}
		o.shrunk++
		o.rate /= 10
	}
	return false, errDiverged("the loss is not finite however small the step")
}

func (o *adam) save(e *encoder) {
	e.floats(o.x)
	e.floats(o.mean)
	e.floats(o.square)
	e.number(o.steps)
	e.number(math.Float64bits(o.rate))
}

func (o *adam) restore(d *decoder) {
	d.floats(o.x)
	d.floats(o.mean)
	d.floats(o.square)
	o.steps = d.number()
	o.rate = math.Float64frombits(d.number())
}

var errTorn = face.Errorf(face.Invalid, "style.Transfer", "checkpoint: it is incomplete or of another version")
