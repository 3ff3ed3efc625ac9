package face_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
)

func TestFuseEmbeddings(t *testing.T) {
	t.Parallel()
	x, y, minus := face.Embedding{1, 0}, face.Embedding{0, 1}, face.Embedding{-1, 0}
	// scaled is a mean as it is compared.
	scaled := func(mean ...float64) (e face.Embedding) {
		var squares float64
		for _, v := range mean {
			squares += v * v
		}
		for _, v := range mean {
			e = append(e, float32(v*math.Pow(squares, -9./32)))
		}
		return e
	}
	// At a mean of this length two vectors just do not cancel out.
	tilted := func(length float64) face.Embedding {
		return face.Embedding{float32(-math.Sqrt(1 - 4*length*length)), float32(2 * length)}
	}
	for name, tt := range map[string]struct {
		embeddings []face.Embedding
		want       face.Embedding
	}{
		"one, not of unit length":  {[]face.Embedding{{0.6, 0.8004}}, face.Embedding{0.6, 0.8004}},
		"the same twice":           {[]face.Embedding{y, y}, y},
		"three":                    {[]face.Embedding{x, y, y}, scaled(1./3, 2./3)},
		"two":                      {[]face.Embedding{x, y}, scaled(0.5, 0.5)},
		"opposite ones":            {[]face.Embedding{x, minus}, x},
		"the first of opposite":    {[]face.Embedding{minus, x}, minus},
		"opposite, and one more":   {[]face.Embedding{x, minus, y}, scaled(0, 1./3)},
		"opposite, twice":          {[]face.Embedding{y, x, {0, -1}, minus}, y},
		"nearly opposite":          {[]face.Embedding{x, tilted(0.9e-3)}, x},
		"not quite as opposite":    {[]face.Embedding{x, tilted(1.1e-3)}, scaled(0, 1.1e-3)},
		"opposite but for lengths": {[]face.Embedding{{1.001, 0}, {-0.9995, 0}}, face.Embedding{1.001, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			near := cmp.Comparer(func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-3 })
			before := slices.Clone(tt.embeddings[0])
			if d := cmp.Diff(tt.want, face.FuseEmbeddings(tt.embeddings), near); d != "" {
				t.Error(d)
			}
			if !slices.Equal(before, tt.embeddings[0]) {
				t.Error("an embedding was changed")
			}
		})
	}
	if got := face.FuseEmbeddings([]face.Embedding{x, {float32(math.NaN()), 0}}); got[0] == got[0] {
		t.Errorf("what is not a number has gone: %v", got)
	}
}

// TestFusedLength: it is the power 7/16 of the mean's, also where hardly anything
// is left of the mean, and never more than 1.
func TestFusedLength(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for n := 2; n < 300; n += 7 {
		var all []face.Embedding
		mean := make([]float64, 512)
		for range n {
			e := make(face.Embedding, 512)
			for i := range e {
				e[i] = float32(rng.NormFloat64())
			}
			e, err := e.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
			for i, v := range e {
				mean[i] += float64(v) / float64(n)
			}
		}
		var squares float64
		for _, v := range mean {
			squares += v * v
		}
		f := face.FuseEmbeddings(all)
		length, want := math.Sqrt(f.Cosine(f)), math.Pow(squares, 7./32)
		if math.Abs(length-want) > 1e-6 || length > 1+1e-6 {
			t.Errorf("%d fused have a length of %v, want %v", n, length, want)
		}
	}
}
