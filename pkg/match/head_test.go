package match_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// direction is a random unit vector, turned from another by noise where there
// is one.
func direction(t *testing.T, rng *rand.Rand, n int, from face.Embedding, noise float64) face.Embedding {
	t.Helper()
	e := make(face.Embedding, n)
	for i := range e {
		if from == nil {
			e[i] = float32(rng.NormFloat64())
		} else {
			e[i] = from[i] + float32(noise*rng.NormFloat64()/math.Sqrt(float64(n)))
		}
	}
	out, err := e.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// couples are as many mated as impostor pairs of people with two photos each.
func couples(t *testing.T, rng *rand.Rand, people, dimension int, noise float64) (pairs []match.Pair) {
	t.Helper()
	photos := make([][2]face.Embedding, people)
	for i := range photos {
		who := direction(t, rng, dimension, nil, 0)
		for j := range photos[i] {
			photos[i][j] = direction(t, rng, dimension, who, noise)
		}
	}
	name := func(i int) string { return fmt.Sprintf("person %d", i) }
	for i := range photos {
		next := (i + 1) % people
		pairs = append(pairs,
			match.Pair{A: photos[i][0], B: photos[i][1], PersonA: name(i), PersonB: name(i)},
			match.Pair{A: photos[i][0], B: photos[next][1], PersonA: name(i), PersonB: name(next)})
	}
	return pairs
}

// Each variant is written out as the formula that it claims to be.
func TestHeadProbability(t *testing.T) {
	t.Parallel()
	const n = 6
	rng := rand.New(rand.NewPCG(11, 1))
	plain := map[face.HeadVariant]func(a, b face.Embedding, w []float64) float64{
		face.HeadCosine: func(a, b face.Embedding, w []float64) float64 { return w[0] * a.Cosine(b) },
		face.HeadAbsolute: func(a, b face.Embedding, w []float64) (z float64) {
			for i := range a {
				z += w[i] * math.Abs(float64(a[i])-float64(b[i]))
			}
			return z
		},
		face.HeadSquared: func(a, b face.Embedding, w []float64) (z float64) {
			for i := range a {
				z += w[i] * math.Pow(float64(a[i])-float64(b[i]), 2)
			}
			return z
		},
		face.HeadChiSquared: func(a, b face.Embedding, w []float64) (z float64) {
			for i := range a {
				if a[i] != 0 || b[i] != 0 {
					z += w[i] * math.Pow(float64(a[i])-float64(b[i]), 2) / (math.Abs(float64(a[i])) + math.Abs(float64(b[i])))
				}
			}
			return z
		},
		face.HeadConcatenated: func(a, b face.Embedding, w []float64) (z float64) {
			for i := range a {
				z += w[i]*float64(a[i]) + w[n+i]*float64(b[i])
			}
			return z
		},
	}
	for _, variant := range match.HeadVariants() {
		h := face.Head{Variant: variant, Bias: 0.3, Platt: face.Platt{Slope: 1.5, Offset: -0.2}}
		for range variant.Features(n) {
			h.Weights = append(h.Weights, rng.NormFloat64())
		}
		head := match.NewHead(&h)
		for range 50 {
			a, b := direction(t, rng, n, nil, 0), direction(t, rng, n, nil, 0)
			a[0], b[0] = 0, 0 // nothing on either side
			want := 1 / (1 + math.Exp(-(1.5*(plain[variant](a, b, h.Weights)+0.3) - 0.2)))
			got, ok := head.Probability(a, b)
			if !ok || math.Abs(got-want) > 1e-12 {
				t.Fatalf("%s: %v, %v; want %v", variant, got, ok, want)
			}
			if other, _ := head.Probability(b, a); variant != face.HeadConcatenated && other != got {
				t.Errorf("%s: %v one way round and %v the other", variant, got, other)
			}
			if p, ok := head.OfScore(a.Cosine(b)); ok != (variant == face.HeadCosine) || ok && p != got {
				t.Errorf("%s: OfScore %v, %v; want %v", variant, p, ok, got)
			}
		}
		if _, ok := head.Probability(make(face.Embedding, n), make(face.Embedding, n-1)); ok {
			t.Errorf("%s took embeddings of two lengths", variant)
		}
		if _, ok := head.Probability(face.Embedding{float32(math.NaN()), 0, 0, 0, 0, 0}, make(face.Embedding, n)); ok {
			t.Errorf("%s took what is no number", variant)
		}
	}
	if _, ok := match.NewHead(nil).Probability(face.Embedding{1}, face.Embedding{1}); ok {
		t.Error("a probability without a head")
	}
	if _, ok := match.NewHead(nil).OfScore(1); ok {
		t.Error("a probability without a head")
	}
}

// A head that looks at the score alone is a logistic regression in one number,
// which plain Newton steps solve, too.
func TestFitHeadCosine(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(12, 1))
	train, other := couples(t, rng, 300, 16, 1.2), couples(t, rng, 300, 16, 1.2)
	got, err := match.FitHead(face.HeadCosine, train, other)
	if err != nil {
		t.Fatal(err)
	}
	// Whatever the weight is, the calibration makes the same of it: the Platt
	// fit of the second half's scores.
	var w, b float64
	n := float64(len(other) / 2)
	for range 60 {
		var g0, g1, h00, h01, h11 float64
		for _, p := range other {
			s, target := p.A.Cosine(p.B), 1/(n+2)
			if p.Mated() {
				target = (n + 1) / (n + 2)
			}
			q := 1 / (1 + math.Exp(-(w*s + b)))
			g0, g1 = g0+(q-target)*s, g1+q-target
			h00, h01, h11 = h00+q*(1-q)*s*s, h01+q*(1-q)*s, h11+q*(1-q)
		}
		det := h00*h11 - h01*h01
		w, b = w-(h11*g0-h01*g1)/det, b-(h00*g1-h01*g0)/det
	}
	head := match.NewHead(&got)
	for s := -1.0; s <= 1; s += 0.125 {
		want := 1 / (1 + math.Exp(-(w*s + b)))
		if p, ok := head.OfScore(s); !ok || math.Abs(p-want) > 1e-3 {
			t.Errorf("a score of %v: %v, want %v", s, p, want)
		}
	}
	want := face.PairCount{People: 300, Mated: 300, Impostor: 300}
	if got.Prior != 0.5 || got.Trained != want || got.Weights[0] <= 0 || got.Platt.Slope <= 0 {
		t.Errorf("got %+v", got)
	}
}

// People differ in half of the numbers; the others are noise that a cosine
// counts in full and a head with weights learns to leave out. Both embeddings
// side by side say nothing of whether they are alike.
func TestHeadsLearn(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(13, 1))
	const n = 16
	noisy := func(people int, from string) []match.Pair {
		pairs := couples(t, rng, people, n, 0.7)
		for i := range pairs {
			for _, e := range []*face.Embedding{&pairs[i].A, &pairs[i].B} {
				own := direction(t, rng, n, *e, 0)
				for j := range n / 2 {
					own[j] = float32(0.35 * rng.NormFloat64())
				}
				var err error
				if *e, err = own.Normalise(); err != nil {
					t.Fatal(err)
				}
			}
			pairs[i].PersonA += from
			pairs[i].PersonB += from
		}
		return pairs
	}
	train, calibrate, held := noisy(400, "a"), noisy(200, "b"), noisy(200, "c")
	var heads []*match.Head
	for _, v := range match.HeadVariants() {
		h, err := match.FitHead(v, train, calibrate)
		if err != nil {
			t.Fatal(v, err)
		}
		heads = append(heads, match.NewHead(&h))
	}
	measured, err := match.MeasureHeads(heads, held, []float64{0.1}, 100, 0.95, 3)
	if err != nil {
		t.Fatal(err)
	}
	by := map[face.HeadVariant]match.HeadMeasured{}
	for _, m := range measured {
		by[m.Variant] = m
		for _, v := range append([]match.Measured{m.Accuracy, m.LogLoss, m.Gain}, m.TAR...) {
			if v.Interval.Low > v.Value+0.02 || v.Interval.High < v.Value-0.02 {
				t.Errorf("%s: %+v", m.Variant, v)
			}
		}
	}
	cosine, squared, side := by[face.HeadCosine], by[face.HeadSquared], by[face.HeadConcatenated]
	if squared.Accuracy.Value < cosine.Accuracy.Value+0.02 || squared.Gain.Interval.Low <= 0 {
		t.Errorf("weights were not learnt: %+v against %+v", squared, cosine)
	}
	if a := side.Accuracy.Value; a < 0.4 || a > 0.6 {
		t.Errorf("both side by side are right in %v", a)
	}
	if cosine.Gain.Value != 0 || cosine.ECE.Value > 0.1 || squared.ECE.Value > 0.1 {
		t.Errorf("cosine %+v, squared %+v", cosine, squared)
	}
	if best := match.BestHead(measured); best == 0 || measured[best].Variant == face.HeadConcatenated {
		t.Errorf("the best is %s", measured[best].Variant)
	}

	// At the plain numbers, recounted.
	head, right, mated, above := heads[0], 0, 0, 0
	var loss float64
	var scores [2][]float64
	for _, p := range held {
		q, _ := head.Probability(p.A, p.B)
		kind := 0
		if p.Mated() {
			kind, mated = 1, mated+1
			loss -= math.Log(q)
		} else {
			loss -= math.Log(1 - q)
		}
		if (q >= 0.5) == p.Mated() {
			right++
		}
		scores[kind] = append(scores[kind], q)
	}
	s, err := match.NewScores(scores[1], scores[0])
	if err != nil {
		t.Fatal(err)
	}
	above = int(s.TMR(s.ThresholdAt(0.1)).Count)
	n2 := float64(len(held))
	for what, diff := range map[string]float64{
		"accuracy": cosine.Accuracy.Value - float64(right)/n2,
		"log loss": cosine.LogLoss.Value - loss/n2,
		"TAR":      cosine.TAR[0].Value - float64(above)/float64(mated),
	} {
		if math.Abs(diff) > 1e-9 {
			t.Errorf("%s is off by %v", what, diff)
		}
	}
}

func TestMeasureReliability(t *testing.T) {
	t.Parallel()
	// One mated pair and three impostors: the mated one weighs a half, each of
	// the others a sixth.
	got := match.MeasureReliability([]float64{0.95, 0.92, 0.12, 0.18}, []bool{true, false, false, false})
	high := match.Bin{Probability: (0.95/2 + 0.92/6) / (2.0 / 3), Mated: 0.75, Weight: 2.0 / 3}
	low := match.Bin{Probability: 0.15, Mated: 0, Weight: 1.0 / 3}
	want := match.Reliability{
		Bins:     []match.Bin{low, high},
		ECE:      (high.Probability-0.75)*2/3 + 0.15/3,
		LogLoss:  -(math.Log(0.95)/2 + (math.Log(0.08)+math.Log(0.88)+math.Log(0.82))/6),
		Accuracy: 1 - 1.0/6,
	}
	near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-12 })
	if diff := cmp.Diff(want, got, near); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The plain cosine stays unless another is surely better.
func TestBestHead(t *testing.T) {
	t.Parallel()
	at := func(loss, low float64) match.HeadMeasured {
		return match.HeadMeasured{LogLoss: match.Measured{Value: loss}, Gain: match.Measured{Interval: match.Interval{Low: low}}}
	}
	for name, tt := range map[string]struct {
		in   []match.HeadMeasured
		want int
	}{
		"alone":          {[]match.HeadMeasured{at(0.2, 0)}, 0},
		"perhaps better": {[]match.HeadMeasured{at(0.2, 0), at(0.19, -0.01)}, 0},
		"surely better":  {[]match.HeadMeasured{at(0.2, 0), at(0.19, 0.001), at(0.1, -1)}, 1},
		"the best":       {[]match.HeadMeasured{at(0.2, 0), at(0.19, 0.001), at(0.15, 0.01)}, 2},
	} {
		if got := match.BestHead(tt.in); got != tt.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestFitHeadRefuses(t *testing.T) {
	t.Parallel()
	x, y := face.Embedding{1, 0}, face.Embedding{0, 1}
	mated, impostor := match.Pair{x, x, "a", "a"}, match.Pair{x, y, "a", "b"}
	good := []match.Pair{mated, impostor}
	for name, tt := range map[string]struct {
		variant          face.HeadVariant
		train, calibrate []match.Pair
	}{
		"nothing":            {face.HeadCosine, nil, good},
		"no impostor":        {face.HeadCosine, []match.Pair{mated}, good},
		"nothing to measure": {face.HeadCosine, good, nil},
		"lengths":            {face.HeadCosine, good, []match.Pair{mated, {face.Embedding{1}, face.Embedding{1}, "a", "b"}}},
		"no such head":       {"other", good, good},
		"NaN":                {face.HeadCosine, good, []match.Pair{mated, {face.Embedding{float32(math.NaN()), 0}, x, "a", "b"}}},
	} {
		if h, err := match.FitHead(tt.variant, tt.train, tt.calibrate); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	if _, err := match.MeasureHeads(nil, []match.Pair{mated}, nil, 10, 0.95, 1); !errors.Is(err, face.Invalid) {
		t.Errorf("mated pairs alone: %v", err)
	}
}
