package measure_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
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
func couples(t *testing.T, rng *rand.Rand, people, dimension int, noise float64) (pairs []measure.EmbeddingPair) {
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
			measure.EmbeddingPair{A: photos[i][0], B: photos[i][1], PersonA: name(i), PersonB: name(i)},
			measure.EmbeddingPair{A: photos[i][0], B: photos[next][1], PersonA: name(i), PersonB: name(next)})
	}
	return pairs
}

// A head that looks at the score alone is a logistic regression in one number,
// which plain Newton steps solve, too.
func TestFitHeadCosine(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(12, 1))
	train, other := couples(t, rng, 300, 16, 1.2), couples(t, rng, 300, 16, 1.2)
	got, err := measure.FitHead(face.HeadCosine, train, other)
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
	noisy := func(people int, from string) []measure.EmbeddingPair {
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
	for _, v := range measure.HeadVariants() {
		h, err := measure.FitHead(v, train, calibrate)
		if err != nil {
			t.Fatal(v, err)
		}
		heads = append(heads, match.NewHead(&h))
	}
	measured, err := measure.MeasureHeads(heads, held, measure.Options{FMRs: []float64{0.1}, HeadReplicates: 100, Confidence: 0.95, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	by := map[face.HeadVariant]measure.HeadMeasurement{}
	for _, m := range measured {
		by[m.Variant] = m
		for _, v := range append([]measure.Estimate{m.Accuracy, m.LogLoss, m.Gain}, m.TAR...) {
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
	if best := measure.BestHead(measured); best == 0 || measured[best].Variant == face.HeadConcatenated {
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
	s, err := measure.NewScores(scores[1], scores[0])
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
	got := measure.MeasureReliability([]float64{0.95, 0.92, 0.12, 0.18}, []bool{true, false, false, false})
	high := measure.Bin{Probability: (0.95/2 + 0.92/6) / (2.0 / 3), Mated: 0.75, Weight: 2.0 / 3}
	low := measure.Bin{Probability: 0.15, Mated: 0, Weight: 1.0 / 3}
	want := measure.Reliability{
		Bins:     []measure.Bin{low, high},
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
	at := func(loss, low float64) measure.HeadMeasurement {
		return measure.HeadMeasurement{LogLoss: measure.Estimate{Value: loss}, Gain: measure.Estimate{Interval: face.Interval{Low: low}}}
	}
	for name, tt := range map[string]struct {
		in   []measure.HeadMeasurement
		want int
	}{
		"alone":          {[]measure.HeadMeasurement{at(0.2, 0)}, 0},
		"perhaps better": {[]measure.HeadMeasurement{at(0.2, 0), at(0.19, -0.01)}, 0},
		"surely better":  {[]measure.HeadMeasurement{at(0.2, 0), at(0.19, 0.001), at(0.1, -1)}, 1},
		"the best":       {[]measure.HeadMeasurement{at(0.2, 0), at(0.19, 0.001), at(0.15, 0.01)}, 2},
	} {
		if got := measure.BestHead(tt.in); got != tt.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func TestFitHeadRefuses(t *testing.T) {
	t.Parallel()
	x, y := face.Embedding{1, 0}, face.Embedding{0, 1}
	mated, impostor := measure.EmbeddingPair{x, x, "a", "a"}, measure.EmbeddingPair{x, y, "a", "b"}
	good := []measure.EmbeddingPair{mated, impostor}
	for name, tt := range map[string]struct {
		variant          face.HeadVariant
		train, calibrate []measure.EmbeddingPair
	}{
		"nothing":            {face.HeadCosine, nil, good},
		"no impostor":        {face.HeadCosine, []measure.EmbeddingPair{mated}, good},
		"nothing to measure": {face.HeadCosine, good, nil},
		"lengths":            {face.HeadCosine, good, []measure.EmbeddingPair{mated, {face.Embedding{1}, face.Embedding{1}, "a", "b"}}},
		"no such head":       {"other", good, good},
		"NaN":                {face.HeadCosine, good, []measure.EmbeddingPair{mated, {face.Embedding{float32(math.NaN()), 0}, x, "a", "b"}}},
	} {
		if h, err := measure.FitHead(tt.variant, tt.train, tt.calibrate); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
	if _, err := measure.MeasureHeads(nil, []measure.EmbeddingPair{mated}, measure.Options{HeadReplicates: 10, Confidence: 0.95, Seed: 1}); !errors.Is(err, face.Invalid) {
		t.Errorf("mated pairs alone: %v", err)
	}
}
