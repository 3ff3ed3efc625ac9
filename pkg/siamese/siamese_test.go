package siamese_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/siamese"
)

func backend(t *testing.T) *ort.Runtime {
	t.Helper()
	r, err := ort.Open(ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, r.Close) })
	return r
}

func closed(t *testing.T, closer func() error) {
	t.Helper()
	if err := closer(); err != nil {
		t.Error(err)
	}
}

// embeddings of some people, normalised, with rows of the same person nearer.
func embeddings(rng *rand.Rand, people, each, d int) (all []face.Embedding, who []int) {
	for p := range people {
		mean := make([]float64, d)
		for i := range mean {
			mean[i] = rng.NormFloat64()
		}
		for range each {
			e, norm := make([]float64, d), 0.0
			for i := range e {
				e[i] = mean[i] + 1.2*rng.NormFloat64()
				norm += e[i] * e[i]
			}
			row := make(face.Embedding, d)
			for i := range e {
				row[i] = float32(e[i] / math.Sqrt(norm))
			}
			all, who = append(all, row), append(who, p)
		}
	}
	return all, who
}

// distance is the plain one, in float64.
func distance(a, b face.Embedding) (d float64) {
	for i := range a {
		x := float64(a[i]) - float64(b[i])
		d += x * x
	}
	return d
}

// The graph's triplet loss and its gradient are those of plain loops, for the
// triplets of every way of mining.
func TestTripletLoss(t *testing.T) {
	t.Parallel()
	const people, each, d, margin = 6, 3, 16, 0.4
	worst := 0.0
	for _, how := range []siamese.Mining{siamese.Random, siamese.SemiHard, siamese.Hard} {
		for seed := range uint64(5) {
			rng := rand.New(rand.NewPCG(seed, 7))
			all, who := embeddings(rng, people, each, d)
			triplets := siamese.Mine(how, siamese.Batch{Embeddings: all, People: who}, margin, rng)
			if len(triplets) == 0 {
				t.Fatalf("%s, seed %d: no triplets", how, seed)
			}
			// Plain loops.
			var want float64
			grads := make([][]float64, len(all))
			for i := range grads {
				grads[i] = make([]float64, d)
			}
			for _, s := range triplets {
				a, p, n := all[s.Anchor], all[s.Positive], all[s.Negative]
				cost := distance(a, p) - distance(a, n) + margin
				if cost <= 0 {
					continue
				}
				want += cost / float64(len(triplets))
				for i := range d {
					w := 2 / float64(len(triplets))
					grads[s.Anchor][i] += w * (float64(n[i]) - float64(p[i]))
					grads[s.Positive][i] += w * (float64(p[i]) - float64(a[i]))
					grads[s.Negative][i] += w * (float64(a[i]) - float64(n[i]))
				}
			}
			// The graph, with rows that pick the triplets.
			g := grad.NewGraph()
			count, rows := int64(len(triplets)), int64(len(all))
			e := g.Input("e", rows, d)
			var picks [3]*grad.Value
			for k, name := range []string{"a", "p", "n"} {
				pick := make([]float32, count*rows)
				for slot, s := range triplets {
					pick[slot*len(all)+[]int{s.Anchor, s.Positive, s.Negative}[k]] = 1
				}
				picks[k] = g.MatMul(g.Weight(name, pick, count, rows), e)
			}
			weights := make([]float32, count)
			for i := range weights {
				weights[i] = 1 / float32(count)
			}
			loss := siamese.TripletLoss(g, picks[0], picks[1], picks[2], g.Constant(weights, count, 1), margin)
			de, err := g.Gradient(loss, e)
			if err != nil {
				t.Fatal(err)
			}
			p, err := g.Compile(backend(t), loss, de[0])
			if err != nil {
				t.Fatal(err)
			}
			for i, row := range all {
				copy(p.Input(0)[i*d:], row)
			}
			if err := p.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			off := math.Abs(float64(p.Output(0)[0])-want) / want
			largest, wrong := 0.0, 0.0
			for i := range grads {
				for k := range d {
					largest = max(largest, math.Abs(grads[i][k]))
					wrong = max(wrong, math.Abs(float64(p.Output(1)[i*d+k])-grads[i][k]))
				}
			}
			worst = max(worst, off, wrong/largest)
			if off > 1e-4 || wrong/largest > 1e-4 {
				t.Errorf("%s, seed %d: the loss is off by %.1e, its gradient by %.1e", how, seed, off, wrong/largest)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Logf("worst relative error over all ways of mining: %.1e", worst)
}

// Mining is held against a search through all triplets.
func TestActive(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 1))
	all, who := embeddings(rng, 5, 3, 8)
	for _, margin := range []float64{0, 0.3, 1, 5} {
		active, valid := 0, 0
		for a := range all {
			for p := range all {
				for n := range all {
					if a == p || who[a] != who[p] || who[a] == who[n] {
						continue
					}
					valid++
					if distance(all[a], all[p])-distance(all[a], all[n])+margin > 0 {
						active++
					}
				}
			}
		}
		got, want := siamese.Batch{Embeddings: all, People: who}.Active(margin), float64(active)/float64(valid)
		if math.Abs(got-want) > 0.01 {
			t.Errorf("margin %g: %g of the triplets are active, want %g", margin, got, want)
		}
	}
	if got := (siamese.Batch{Embeddings: all[:2], People: []int{0, 1}}).Active(1); got != 0 {
		t.Errorf("without a triplet %g of them are active", got)
	}
}

func TestMine(t *testing.T) {
	t.Parallel()
	const margin = 0.3
	rng := rand.New(rand.NewPCG(1, 1))
	all, who := embeddings(rng, 5, 3, 8)
	b := siamese.Batch{Embeddings: all, People: who}
	near := func(a, b float64) bool { return math.Abs(a-b) < 1e-5 }

	hard := siamese.Mine(siamese.Hard, b, margin, rng)
	if len(hard) != len(all) {
		t.Fatalf("hard: %d triplets for %d anchors", len(hard), len(all))
	}
	for _, s := range hard {
		farthest, nearest := 0.0, 9.0
		for i := range all {
			switch {
			case who[i] != who[s.Anchor]:
				nearest = min(nearest, distance(all[s.Anchor], all[i]))
			case i != s.Anchor:
				farthest = max(farthest, distance(all[s.Anchor], all[i]))
			}
		}
		if !near(distance(all[s.Anchor], all[s.Positive]), farthest) || !near(distance(all[s.Anchor], all[s.Negative]), nearest) {
			t.Errorf("hard: %v is not the hardest", s)
		}
	}
	semi := siamese.Mine(siamese.SemiHard, b, margin, rng)
	for _, s := range semi {
		ap, an := distance(all[s.Anchor], all[s.Positive]), distance(all[s.Anchor], all[s.Negative])
		if an < ap-1e-5 || an > ap+margin+1e-5 {
			t.Errorf("semi-hard: %v has d(A,P) %g and d(A,N) %g", s, ap, an)
		}
	}
	random := siamese.Mine(siamese.Random, b, margin, rng)
	if len(random) != len(all)*2 {
		t.Errorf("random: %d triplets for %d pairs", len(random), len(all)*2)
	}
	for _, s := range append(append(random, semi...), hard...) {
		if who[s.Anchor] != who[s.Positive] || s.Anchor == s.Positive || who[s.Anchor] == who[s.Negative] {
			t.Errorf("%v is no triplet", s)
		}
	}
}

// What is learnt leaves, what is not comes again.
func TestGenerator(t *testing.T) {
	t.Parallel()
	g, err := siamese.NewGenerator([]int{7, 7, 8, 8, 8, 9}, 100, rand.New(rand.NewPCG(1, 2)))
	if err != nil {
		t.Fatal(err)
	}
	first := g.Next(10)
	losses := make([]float64, len(first))
	losses[2], losses[5] = 0.1, 0.3
	g.Report(first, losses)
	again := g.Next(10)
	if diff := cmp.Diff([]siamese.Triplet{first[2], first[5]}, again[:2]); diff != "" {
		t.Errorf("what was not learnt should come first (-want +got):\n%s", diff)
	}
	if g.Retired != 8 || g.Kept != 2 {
		t.Errorf("retired %d, kept %d", g.Retired, g.Kept)
	}
	if _, err := siamese.NewGenerator([]int{1, 2, 3}, 10, rand.New(rand.NewPCG(1, 2))); face.KindOf(err) != face.Invalid {
		t.Errorf("nobody with two photos: %v", err)
	}
}

// drawn are people who differ by where they have stripes of which colour.
type drawn struct {
	people, each, side int
}

// side of the photos that a small network learns from: all that is shown of the
// trainer shows at this size too, and it is quick.
const side = 40

func (d drawn) Len() int         { return d.people * d.each }
func (d drawn) Person(i int) int { return i / d.each }

func (d drawn) Photo(i int) (siamese.Photo, error) {
	who := rand.New(rand.NewPCG(uint64(i/d.each), 1))
	shot := rand.New(rand.NewPCG(uint64(i), 2))
	img := image.NewRGBA(image.Rect(0, 0, d.side, d.side))
	var waves [3][3]float64
	for c := range waves {
		often := 33.6 / float64(d.side)
		waves[c] = [3]float64{who.Float64() * often, who.Float64() * often, who.Float64() * 6}
	}
	light := 0.7 + 0.6*shot.Float64()
	for y := range d.side {
		for x := range d.side {
			var v [3]uint8
			for c, w := range waves {
				v[c] = uint8(max(0, min(255, light*(127+100*math.Sin(w[0]*float64(x)+w[1]*float64(y)+w[2]))+20*shot.NormFloat64())))
			}
			img.SetRGBA(x, y, color.RGBA{v[0], v[1], v[2], 255})
		}
	}
	return siamese.Photo{Image: img, ToSrc: imaging.Affine{1, 0, 0, 0, 1, 0}}, nil
}

// smallNetwork is made of the parts of Untrained's networks, for photos of that side.
func smallNetwork(t *testing.T, seed uint64) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	g := grad.NewGraph()
	weight := func(name string, deviation float64, shape ...int64) *grad.Value {
		n := int64(1)
		for _, d := range shape {
			n *= d
		}
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(deviation * rng.NormFloat64())
		}
		return g.Weight(name, w, shape...)
	}
	norm := func(x *grad.Value, name string) *grad.Value {
		c := x.Dim(1)
		constant := func(part string, v float32) *grad.Value {
			return g.Weight(name+part, slices.Repeat([]float32{v}, int(c)), c)
		}
		return g.BatchNorm(x, constant("/scale", 1), constant("/bias", 0), constant("/mean", 0), constant("/variance", 1), 1e-5)
	}
	x := g.Scale(g.Sub(g.Input("image", 1, 3, side, side), g.Scalar(127.5)), 1/128.)
	for i, channels := range []int64{8, 16, 24} {
		name, in := fmt.Sprint("unit", i), x.Dim(1)
		w := weight(name, math.Sqrt(2/float64(9*in)), channels, in, 3, 3)
		x = g.Relu(norm(g.Conv(x, w, nil, grad.Window{Strides: []int64{2, 2}, Pads: []int64{1, 1, 1, 1}}), name))
		x = g.Name(x, fmt.Sprint("map", i))
	}
	c, places := x.Dim(1), x.Dim(2)
	x = g.Conv(x, weight("places", math.Sqrt(2)/float64(places), c, 1, places, places), nil, grad.Window{Group: c})
	x = g.Reshape(g.Relu(norm(x, "places")), -1, c)
	x = norm(g.Gemm(x, weight("head", 1/math.Sqrt(float64(c)), 32, c), false, true, 1), "head")
	data, err := g.Marshal(g.Name(x, "embedding"))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func options(t *testing.T) siamese.Options {
	t.Helper()
	m, err := grad.Parse(smallNetwork(t, 3))
	if err != nil {
		t.Fatal(err)
	}
	return siamese.Options{
		Model: m, Image: "image", Embedding: "embedding", BatchNorm: true,
		Input: imaging.Planar{Width: side, Height: side, Scale: [3]float32{1, 1, 1}},
		Loss:  siamese.Triplets, Margin: 0.3, Mining: siamese.SemiHard, People: 6, PhotosEach: 3,
		Steps: 12, WarmUp: 2, Rate: 3e-3, Optimizer: "adamw", WeightDecay: 1e-4, MaxNorm: 5, Seed: 1,
		Augmentation: siamese.Augmentation{Shift: 1, Light: 0.1, Noise: 0.3},
	}
}

func trainSteps(t *testing.T, tr *siamese.Trainer, steps int) (losses []float64) {
	t.Helper()
	for range steps {
		p, err := tr.Step(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		losses = append(losses, p.Loss)
	}
	return losses
}

// separation is how much nearer two photos of one person are than two people,
// as the exported model sees it.
func separation(t *testing.T, tr *siamese.Trainer, set siamese.Set) float64 {
	t.Helper()
	var photos []siamese.Photo
	for i := range set.Len() {
		p, err := set.Photo(i)
		if err != nil {
			t.Fatal(err)
		}
		photos = append(photos, p)
	}
	e, err := tr.Embed(t.Context(), photos)
	if err != nil {
		t.Fatal(err)
	}
	var same, other, sames, others float64
	for i := range e {
		for j := range i {
			if set.Person(i) == set.Person(j) {
				same, sames = same+distance(e[i], e[j]), sames+1
			} else {
				other, others = other+distance(e[i], e[j]), others+1
			}
		}
	}
	return other/others - same/sames
}

// Every way of learning brings photos of one person together, a checkpoint
// goes on as if nothing had happened, and what is exported embeds the same.
func TestTrainer(t *testing.T) {
	t.Parallel()
	set := drawn{people: 8, each: 4, side: side}
	for name, change := range map[string]func(*siamese.Options){
		"semi-hard":   func(*siamese.Options) {},
		"hard":        func(o *siamese.Options) { o.Mining = siamese.Hard },
		"random":      func(o *siamese.Options) { o.Mining = siamese.Random },
		"retire":      func(o *siamese.Options) { o.Retire = true },
		"contrastive": func(o *siamese.Options) { o.Loss, o.Margin = siamese.Contrastive, 1 },
		"sgd":         func(o *siamese.Options) { o.Optimizer, o.Rate = "sgd", 0.02 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			change(&o)
			tr, err := siamese.New(backend(t), o, set)
			if err != nil {
				t.Fatal(err)
			}
			before := separation(t, tr, set)
			trainSteps(t, tr, o.Steps/2)
			var saved bytes.Buffer
			if err := tr.Save(&saved); err != nil {
				t.Fatal(err)
			}
			want := trainSteps(t, tr, o.Steps/2)
			after := separation(t, tr, set)
			t.Logf("separation %.3f, then %.3f", before, after)
			if after < before+0.2 {
				t.Errorf("separation was %.3f and is %.3f", before, after)
			}
			closed(t, tr.Close)

			again, err := siamese.New(backend(t), o, set)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Load(&saved); err != nil {
				t.Fatal(err)
			}
			// The generator draws its fresh triplets anew.
			if diff := cmp.Diff(want, trainSteps(t, again, len(want))); diff != "" && !o.Retire {
				t.Errorf("resumed, the losses differ (-want +got):\n%s", diff)
			}
			closed(t, again.Close)
		})
	}
}

func TestExport(t *testing.T) {
	t.Parallel()
	set := drawn{people: 8, each: 4, side: 112}
	untrained, err := siamese.Untrained("plain", 32, 0.25, 3)
	if err != nil {
		t.Fatal(err)
	}
	o := options(t)
	if o.Model, err = grad.Parse(untrained); err != nil {
		t.Fatal(err)
	}
	o.Input.Width, o.Input.Height = 112, 112
	tr, err := siamese.New(backend(t), o, set)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, tr.Close)
	trainSteps(t, tr, 3)
	photo, err := set.Photo(5)
	if err != nil {
		t.Fatal(err)
	}
	want, err := tr.Embed(t.Context(), []siamese.Photo{photo})
	if err != nil {
		t.Fatal(err)
	}
	data, err := tr.Export()
	if err != nil {
		t.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if left := m.Statistics(); len(left) != 2 { // that of the head, behind no convolution
		t.Errorf("not folded: %q", left)
	}
	g := grad.NewGraph()
	im, err := g.Import(m, map[string]*grad.Value{"image": g.Input("image", 1, 3, 112, 112)}, []string{"embedding"}, grad.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.Compile(backend(t), g.Normalize(im.Layers["embedding"], 1))
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, p.Close)
	o.Input.Warp(p.Input(0), photo.Image, photo.ToSrc)
	if err := p.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	if d := distance(want[0], p.Output(0)); d > 1e-8 {
		t.Errorf("the export is off by %g", d)
	}
}

// A run in which all embeddings become the same is stopped.
func TestCollapse(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Steps, o.Rate, o.WarmUp = 60, 1e-9, 0
	set := same{drawn{people: 8, each: 4, side: side}}
	o.Augmentation = siamese.Augmentation{}
	tr, err := siamese.New(backend(t), o, set)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, tr.Close)
	for range o.Steps {
		if _, err := tr.Step(t.Context()); err != nil {
			t.Log(err)
			return
		}
	}
	t.Error("nothing stopped it")
}

// same shows one photo of everybody.
type same struct{ drawn }

func (s same) Photo(int) (siamese.Photo, error) { return s.drawn.Photo(0) }
