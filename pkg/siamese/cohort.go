package siamese

import (
	"math"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Names in a model that WithCohort made.
const (
	CohortOutput = "cohort:embedding" // [1,D+1]
	CohortPlain  = "cohort:plain"     // the normalised embedding before it, [1,D]
)

// CohortWeight is the weight of the number that a cohort adds. With it, about
// half of the difference in typicality is taken off the cosine.
const CohortWeight = 2

// cohortMargin is how far the typicality at which that number is 0 lies above
// the mean one: 0.4 is more than ten standard deviations.
const cohortMargin = 0.4

// Typicality is how alike an embedding is to people whom it does not show: the
// mean of its top largest cosines with a cohort, all normalised. Adaptive score
// normalisation (Matějka et al., "Analysis of Score Normalization in
// Multilingual Speaker Recognition", Interspeech 2017) uses the same mean.
func Typicality(e face.Embedding, cohort []face.Embedding, top int) float64 {
	largest := make([]float64, 0, top+1) // descending
	for _, c := range cohort {
		score := e.Cosine(c)
		i := len(largest)
		for i > 0 && largest[i-1] < score {
			i--
		}
		if i < top {
			largest = append(largest, 0)
			copy(largest[i+1:], largest[i:])
			largest[i] = score
			largest = largest[:min(len(largest), top)]
		}
	}
	sum := 0.0
	for _, s := range largest {
		sum += s
	}
	return sum / math.Max(1, float64(len(largest)))
}

// WithCohort returns a model whose embedding has one number more, so that the
// cosine of two embeddings is a normalised score. A face that many strangers are
// alike gets a lower cosine with everybody: without that, it attracts strangers
// at a threshold that is right for others.
//
//	x = CohortWeight * max(0, offset - typicality(e)),  output = (e, x), e normalised
//
// The product of the additional numbers of two faces falls by nearly the half of
// the sum of their typicalities, as in symmetric score normalisation without its
// division (Auckenthaler et al., "Score Normalization for Text-Independent
// Speaker Verification Systems", 2000), and yet the score stays a cosine of two
// vectors: stores, indexes and mean templates need not know.
//
// cohort holds normalised embeddings of people whom nobody enrols, one each; it
// is kept as bytes in the model. mean is the mean typicality of other faces, and
// the offset lies 0.4 above it. The weights are kept as halves. shape is that of
// the image, with a batch of one. Invalid: a cohort that does not fit.
func WithCohort(m *grad.Model, image, embedding string, shape []int64, cohort []face.Embedding, top int, mean float64) ([]byte, error) {
	const op = "siamese.WithCohort"
	if top < 1 || top > len(cohort) {
		return nil, face.Errorf(face.Invalid, op, "the %d largest of %d scores", top, len(cohort))
	}
	g := grad.NewGraph()
	im, err := g.Import(m, map[string]*grad.Value{image: g.Input(image, shape...)}, []string{embedding}, grad.ImportOptions{Store: grad.Float16})
	if err != nil {
		return nil, err
	}
	e := im.Layers[embedding]
	if len(e.Shape()) != 2 || e.Dim(0) != 1 || e.Dim(1) != int64(len(cohort[0])) {
		return nil, face.Errorf(face.Invalid, op, "layer %q has the shape %v, the cohort's embeddings have %d numbers", embedding, e.Shape(), len(cohort[0]))
	}
	var largest float32
	rows := make([]float32, 0, len(cohort)*len(cohort[0]))
	for _, c := range cohort {
		for _, x := range c {
			largest = max(largest, x, -x)
		}
		rows = append(rows, c...)
	}
	step := largest / 127
	for i := range rows {
		rows[i] /= step
	}
	e = g.Name(g.Normalize(e, 1), CohortPlain)
	people := g.Store(g.Weight("cohort:people", rows, int64(len(cohort)), e.Dim(1)), grad.Int8)
	scores := g.Gemm(e, people, false, true, float64(step))
	typical := g.ReduceMean(g.TopK(scores, int64(top), 1), 1)
	x := g.Relu(g.Scale(g.Sub(g.Scalar(mean+cohortMargin), typical), CohortWeight))
	return g.Marshal(g.Name(g.Concat(1, e, x), CohortOutput))
}
