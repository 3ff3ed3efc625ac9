package match_test

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// direction is a random unit vector.
func direction(t *testing.T, rng *rand.Rand, n int) face.Embedding {
	t.Helper()
	e := make(face.Embedding, n)
	for i := range e {
		e[i] = float32(rng.NormFloat64())
	}
	out, err := e.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	return out
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
	for _, variant := range slices.Sorted(maps.Keys(plain)) {
		h := face.Head{Variant: variant, Bias: 0.3, Platt: face.Platt{Slope: 1.5, Offset: -0.2}}
		for range variant.Features(n) {
			h.Weights = append(h.Weights, rng.NormFloat64())
		}
		head := match.NewHead(&h)
		for range 50 {
			a, b := direction(t, rng, n), direction(t, rng, n)
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
