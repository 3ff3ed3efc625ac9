package siamese_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/siamese"
)

func parsed(t *testing.T, data []byte) *grad.Model {
	t.Helper()
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// distillOptions are a small student and a teacher that is not it.
func distillOptions(t *testing.T) siamese.DistillOptions {
	t.Helper()
	o := siamese.DefaultDistillOptions()
	o.Model, o.Image, o.Embedding, o.BatchNorm = parsed(t, smallNetwork(t, 3)), "image", "embedding", true
	o.Input = imaging.Planar{Width: side, Height: side, Scale: [3]float32{1, 1, 1}}
	o.Landmarks = [5]face.Point{{X: 14, Y: 16}, {X: 26, Y: 16}, {X: 20, Y: 22}, {X: 15, Y: 28}, {X: 25, Y: 28}}
	o.Teachers = []siamese.Teacher{{
		Model: parsed(t, smallNetwork(t, 9)), Image: "image", Embedding: "embedding", Input: o.Input, ToStudent: imaging.Affine{1, 0, 0, 0, 1, 0},
	}}
	o.Batch, o.Replicas, o.Steps, o.WarmUp, o.Rate = 16, 2, 60, 2, 1e-2
	return o
}

func learnLessons(t *testing.T, d *siamese.Distiller, steps int) (all []siamese.Lesson) {
	t.Helper()
	for range steps {
		l, err := d.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

func meanApart(lessons []siamese.Lesson) (mean float64) {
	for _, l := range lessons {
		mean += l.Apart / float64(len(lessons))
	}
	return mean
}

// A student comes nearer to its teachers without labels, and a checkpoint goes
// on as if nothing had happened.
func TestDistiller(t *testing.T) {
	t.Parallel()
	set := drawn{people: 8, each: 4, side: side}
	hints := []siamese.Hint{{Teacher: "map0", Student: "map0"}, {Teacher: "map1", Student: "map1"}}
	for name, change := range map[string]func(*siamese.DistillOptions){
		"embeddings": func(*siamese.DistillOptions) {},
		"hints":      func(o *siamese.DistillOptions) { o.Hints = hints },
		"alone":      func(o *siamese.DistillOptions) { o.Hints, o.Alone = hints, 25 },
		"two teachers": func(o *siamese.DistillOptions) {
			second := o.Teachers[0]
			second.Model = parsed(t, smallNetwork(t, 10))
			second.ToStudent = imaging.Affine{1.1, 0, -2, 0, 1.1, -2}
			o.Teachers = append(o.Teachers, second)
			o.Target = siamese.Target{Rows: 64, Columns: 32, Matrix: make([]float32, 64*32)}
			for i := range 32 {
				o.Target.Matrix[i*32+i], o.Target.Matrix[(32+i)*32+i] = 1, 0.5
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := distillOptions(t)
			change(&o)
			d, err := siamese.NewDistiller(backend(t), o, set)
			if err != nil {
				t.Fatal(err)
			}
			before := learnLessons(t, d, o.Steps/2)
			var saved bytes.Buffer
			if err := d.Save(&saved); err != nil {
				t.Fatal(err)
			}
			after := learnLessons(t, d, o.Steps/2)
			closed(t, d.Close)
			first, last := before[0], after[len(after)-1]
			// A single batch says little: some show faces that were hardly changed.
			if is := meanApart(after[len(after)-8:]); is > 0.8*first.Apart {
				t.Errorf("1 - cosine was %.3f and is %.3f", first.Apart, is)
			}
			for i, h := range last.Hints {
				if h > 0.9*first.Hints[i] {
					t.Errorf("hint %d was off by %.3f and is by %.3f", i, first.Hints[i], h)
				}
			}

			again, err := siamese.NewDistiller(backend(t), o, set)
			if err != nil {
				t.Fatal(err)
			}
			defer closed(t, again.Close)
			if err := again.Load(&saved); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(after, learnLessons(t, again, len(after))); diff != "" {
				t.Errorf("resumed, the steps differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDistillerRefuses(t *testing.T) {
	t.Parallel()
	set := drawn{people: 8, each: 4, side: side}
	for name, change := range map[string]func(*siamese.DistillOptions){
		"no teacher":                func(o *siamese.DistillOptions) { o.Teachers = nil },
		"a batch that cannot split": func(o *siamese.DistillOptions) { o.Replicas = 3 },
		"alone without hints":       func(o *siamese.DistillOptions) { o.Alone = 3 },
		"a hint that is not there":  func(o *siamese.DistillOptions) { o.Hints = []siamese.Hint{{Teacher: "map0", Student: "map7"}} },
		"maps of other shapes":      func(o *siamese.DistillOptions) { o.Hints = []siamese.Hint{{Teacher: "map0", Student: "map1"}} },
		"a target of another size": func(o *siamese.DistillOptions) {
			o.Target = siamese.Target{Rows: 3, Columns: 1, Matrix: []float32{1, 2, 3}}
		},
	} {
		o := distillOptions(t)
		change(&o)
		if _, err := siamese.NewDistiller(backend(t), o, set); face.KindOf(err) != face.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The target keeps the cosines between faces as well as its dimension allows,
// and turns towards what the student gives.
func TestTarget(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 5))
	const faces, inside = 300, 8
	random := func(n int) face.Embedding {
		e := make(face.Embedding, n)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	// Two teachers that see the same 8 numbers, in spaces of their own.
	spaces := [2][inside]face.Embedding{}
	for k := range spaces {
		for i := range spaces[k] {
			spaces[k][i] = random(20)
		}
	}
	teachers := make([][]face.Embedding, 2)
	var joined, base []face.Embedding
	for range faces {
		hidden := random(inside)
		var both face.Embedding
		for k := range teachers {
			e := make(face.Embedding, 20)
			for i, x := range hidden {
				for j, y := range spaces[k][i] {
					e[j] += x * y
				}
			}
			e, err := e.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			teachers[k] = append(teachers[k], e)
			both = append(both, e...)
		}
		joined, base = append(joined, both), append(base, random(16))
	}
	weights := []float64{1, 1}
	target, err := siamese.NewTarget(teachers, weights, 16, nil)
	if err != nil {
		t.Fatal(err)
	}
	apply := func(target siamese.Target) (out []face.Embedding) {
		for _, e := range joined {
			got, err := target.Apply(e)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, got)
		}
		return out
	}
	cosines := func(e []face.Embedding) (all []float64) {
		for i := range 40 {
			all = append(all, e[i].Cosine(e[i+1]))
		}
		return all
	}
	got := apply(target)
	want := make([]float64, 40)
	for i := range want {
		want[i] = joined[i].Cosine(joined[i+1]) / 2 // each has length sqrt(2)
	}
	near := cmpopts.EquateApprox(0, 1e-4)
	if diff := cmp.Diff(want, cosines(got), near); diff != "" {
		t.Errorf("cosines (-teachers +target):\n%s", diff)
	}
	rotated, err := siamese.NewTarget(teachers, weights, 16, base)
	if err != nil {
		t.Fatal(err)
	}
	turned := apply(rotated)
	if diff := cmp.Diff(want, cosines(turned), near); diff != "" {
		t.Errorf("a rotation changed cosines:\n%s", diff)
	}
	mean := func(e []face.Embedding) (sum float64) {
		for i := range e {
			sum += e[i].Cosine(base[i]) / faces
		}
		return sum
	}
	if a, b := mean(got), mean(turned); b < a+0.05 {
		t.Errorf("cosine with the student was %.3f, rotated it is %.3f", a, b)
	}
	for name, err := range map[string]error{
		"few faces":   second(siamese.NewTarget([][]face.Embedding{teachers[0][:10]}, []float64{1}, 8, nil)),
		"few numbers": second(siamese.NewTarget(teachers[:1], []float64{1}, 32, nil)),
		"no weights":  second(siamese.NewTarget(teachers, nil, 16, nil)),
	} {
		if face.KindOf(err) != face.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if math.IsNaN(float64(target.Matrix[0])) {
		t.Error("the target is not a number")
	}
}

func second[T any](_ T, err error) error { return err }
