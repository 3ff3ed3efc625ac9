package match

import (
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Head turns two embeddings into the probability that they are of one person.
// A nil head gives no probability. It is safe for concurrent use.
type Head struct {
	face.Head
}

// NewHead makes a head from the one in a manifest that was checked. It returns
// nil for nil.
func NewHead(h *face.Head) *Head {
	if h == nil {
		return nil
	}
	own := *h
	own.Weights = slices.Clone(h.Weights)
	return &Head{own}
}

// Probability is the probability, 0..1, that both embeddings are of one person,
// if mated and impostor pairs are equally frequent. All variants but the
// concatenated one give the same number in both orders. It is not ok without a
// head, and for embeddings that are not finite or not of the head's length.
func (h *Head) Probability(a, b face.Embedding) (p float64, ok bool) {
	if h == nil || len(a) != len(b) || h.Variant.Features(len(a)) != len(h.Weights) {
		return 0, false
	}
	return unlessNaN(h.ProbabilityOf(h.Logit(a, b)))
}

// OfScore is the probability that goes with a score. It is ok only for a head
// that looks at nothing but the score; the other variants need the embeddings.
func (h *Head) OfScore(score float64) (p float64, ok bool) {
	if h == nil || h.Variant != face.HeadCosine || len(h.Weights) != 1 {
		return 0, false
	}
	return unlessNaN(h.ProbabilityOf(h.Weights[0]*score + h.Bias))
}

func unlessNaN(p float64) (float64, bool) {
	if math.IsNaN(p) {
		return 0, false
	}
	return p, true
}

// Logit is the weighted sum of the features and the bias, before Platt's
// calibration. The embeddings must be of the head's length.
func (h *Head) Logit(a, b face.Embedding) float64 {
	features := make([]float64, len(h.Weights))
	WriteFeatures(features, h.Variant, a, b)
	var sum float64
	for i, w := range h.Weights {
		sum += w * features[i]
	}
	return sum + h.Bias
}

// ProbabilityOf is the calibrated probability, 0..1, that goes with a logit.
func (h *Head) ProbabilityOf(logit float64) float64 {
	return 1 / (1 + math.Exp(-(h.Platt.Slope*logit + h.Platt.Offset)))
}

// WriteFeatures writes the features that a variant makes of two embeddings
// into a slice of [face.HeadVariant.Features] numbers. Both embeddings have the
// same length. Chi-squared was published for features that are never negative
// (Taigman et al., DeepFace, CVPR 2014). Ours are signed, so f + h may be zero
// or less where f and h differ most; the sum of the magnitudes is used instead.
// It is the same number where both are positive, and it is never smaller than
// the difference.
func WriteFeatures(into []float64, v face.HeadVariant, a, b face.Embedding) {
	switch v {
	case face.HeadCosine:
		into[0] = a.Cosine(b)
	case face.HeadConcatenated:
		for i := range a {
			into[i], into[len(a)+i] = float64(a[i]), float64(b[i])
		}
	case face.HeadAbsolute:
		for i := range a {
			into[i] = math.Abs(float64(a[i]) - float64(b[i]))
		}
	case face.HeadSquared:
		for i := range a {
			d := float64(a[i]) - float64(b[i])
			into[i] = d * d
		}
	case face.HeadChiSquared:
		for i := range a {
			x, y := float64(a[i]), float64(b[i])
			into[i] = 0
			if sum := math.Abs(x) + math.Abs(y); sum != 0 { // NaN stays NaN
				into[i] = (x - y) * (x - y) / sum
			}
		}
	}
}
