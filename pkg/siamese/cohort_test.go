package siamese_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/siamese"
)

func TestTypicality(t *testing.T) {
	t.Parallel()
	e := face.Embedding{1, 0}
	var cohort []face.Embedding
	for _, x := range []float64{0.1, -0.9, 0.8, 0.3, 0.6} {
		cohort = append(cohort, face.Embedding{float32(x), float32(math.Sqrt(1 - x*x))})
	}
	for top, want := range map[int]float64{1: 0.8, 2: 0.7, 3: 1.7 / 3, 5: 0.9 / 5, 9: 0.9 / 5} {
		if got := siamese.Typicality(e, cohort, top); math.Abs(got-want) > 1e-6 {
			t.Errorf("top %d: %.4f, want %.4f", top, got, want)
		}
	}
}

// What the graph with a cohort gives is what the formula says.
func TestWithCohort(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 7))
	var cohort []face.Embedding
	for range 40 {
		e := make(face.Embedding, 32)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		cohort = append(cohort, e)
	}
	plain := smallNetwork(t, 3)
	shape := []int64{1, 3, side, side}
	const top, mean = 5, 0.1
	data, err := siamese.WithCohort(parsed(t, plain), "image", "embedding", shape, cohort, top, mean)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > len(plain)/2+40*32+4000 {
		t.Errorf("%d bytes, of %d as float32: weights should be halves, the cohort bytes", len(data), len(plain))
	}
	embed := func(model []byte, output string, dimension int64) face.Embedding {
		p, err := backend(t).Compile(model, []grad.Port{{Name: "image", Shape: shape}}, []grad.Port{{Name: output, Shape: []int64{1, dimension}}})
		if err != nil {
			t.Fatal(err)
		}
		defer closed(t, p.Close)
		pixels := rand.New(rand.NewPCG(8, 8))
		for i := range p.Input(0) {
			p.Input(0)[i] = float32(pixels.IntN(256))
		}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		return append(face.Embedding(nil), p.Output(0)...)
	}
	want, err := embed(plain, "embedding", 32).Normalise()
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, float32(siamese.CohortWeight*(mean+0.4-siamese.Typicality(want, cohort, top))))
	if diff := cmp.Diff(want, embed(data, siamese.CohortOutput, 33), cmpopts.EquateApprox(0, 0.01)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// It can be taught further in front of the cohort.
	again := parsed(t, data)
	g := grad.NewGraph()
	im, err := g.Import(again, map[string]*grad.Value{"image": g.Input("image", shape...)}, []string{siamese.CohortPlain}, grad.ImportOptions{
		Variable: func(string, []int64) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Gradient(g.SumSquares(im.Layers[siamese.CohortPlain]), im.Variables["unit0"]); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"too few people":    second(siamese.WithCohort(parsed(t, plain), "image", "embedding", shape, cohort[:3], top, mean)),
		"another dimension": second(siamese.WithCohort(parsed(t, plain), "image", "embedding", shape, []face.Embedding{{1, 0}}, 1, mean)),
	} {
		if face.KindOf(err) != face.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
