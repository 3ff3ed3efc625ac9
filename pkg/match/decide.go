package match

import (
	"math"

	"github.com/likeness-id/likeness/pkg/face"
)

// Decision is the outcome of an identification. The words are the API's.
type Decision string

// The decisions.
const (
	DecisionMatch      Decision = "match"       // the best candidate reaches the threshold
	DecisionUnknown    Decision = "unknown"     // no candidate does
	DecisionAmbiguous  Decision = "ambiguous"   // two subjects do, too close together to choose
	DecisionLowQuality Decision = "low_quality" // the probe was not searched for
)

// Reference is what a subject is compared as.
type Reference struct {
	Embedding face.Embedding // shorter than unit length if templates differ
	Templates int            // fused into it
}

// NewReference fuses a subject's templates of one model by
// [face.FuseTemplates]. A template without an embedding is one that was damaged
// where it is stored, and is passed over. Quality is no weight: it was measured
// to gain nothing. NotFound: there are no templates. Damaged: none has an
// embedding. ModelMismatch: embeddings of several lengths.
func NewReference(templates []face.Template) (Reference, error) {
	const op = "match.NewReference"
	if len(templates) == 0 {
		return Reference{}, face.Errorf(face.NotFound, op, "there is no template to compare with")
	}
	dimension := 0
	for _, t := range templates {
		if t.Embedding != nil && dimension > 0 && len(t.Embedding) != dimension {
			return Reference{}, mismatch(op, len(t.Embedding), dimension)
		}
		dimension = max(dimension, len(t.Embedding))
	}
	fused, n := face.FuseTemplates(templates)
	if n == 0 {
		return Reference{}, face.Errorf(face.Damaged, op, "what is stored of the subject is damaged: erase its templates and enrol again")
	}
	return Reference{fused, n}, nil
}

// Verify compares a probe with a subject's templates, fused by [NewReference],
// and returns the score, -1..1, with what the probe was compared with. One
// probe is one comparison, so the false match rate of a threshold holds for any
// number of templates. The errors are those of [NewReference], and
// ModelMismatch: the probe has another length. Invalid: numbers that are not
// finite.
func Verify(probe face.Embedding, templates []face.Template) (score float64, reference Reference, err error) {
	const op = "match.Verify"
	if reference, err = NewReference(templates); err != nil {
		return 0, Reference{}, err
	}
	if len(reference.Embedding) != len(probe) {
		return 0, Reference{}, mismatch(op, len(probe), len(reference.Embedding))
	}
	score = probe.Cosine(reference.Embedding)
	if math.IsNaN(score) || math.IsInf(score, 0) {
		return 0, Reference{}, face.Errorf(face.Invalid, op, "embedding has numbers that are not finite")
	}
	return score, reference, nil
}

func mismatch(op string, a, b int) error {
	return face.Errorf(face.ModelMismatch, op, "an embedding of %d numbers cannot be compared with one of %d", a, b)
}

// Identify decides on a candidate list, best first. The best candidate is a
// match when its score reaches the threshold, unless another subject reaches
// it too and lies less than ambiguity below: then the list is ambiguous, and
// naming the first would be a coin toss. The margin is the best score less the
// best score of another subject; where there is no other, it counts as -1, the
// least score there is. An empty list is unknown, with a margin of 0.
func Identify(c []face.Candidate, threshold, ambiguity float64) (d Decision, margin float64) {
	if len(c) == 0 {
		return DecisionUnknown, 0
	}
	second := -1.0
	for _, other := range c[1:] {
		if other.SubjectID != c[0].SubjectID {
			second = other.Score
			break
		}
	}
	margin = c[0].Score - second
	switch {
	case !(c[0].Score >= threshold):
		return DecisionUnknown, margin
	case second >= threshold && margin < ambiguity:
		return DecisionAmbiguous, margin
	}
	return DecisionMatch, margin
}

// Fuse makes one probe of several samples of the same person: their mean
// weighted by quality (0..1, one weight per sample, in order), scaled to unit
// length again. When all weights are zero, all samples count the same. Invalid:
// no samples, another number of weights, a weight that is negative or not
// finite, or samples that cancel out. ModelMismatch: samples of different
// lengths. A subject's templates are fused by [NewReference], without weights.
func Fuse(samples []face.Embedding, weights []float32) (face.Embedding, error) {
	const op = "match.Fuse"
	if len(samples) == 0 || len(weights) != len(samples) {
		return nil, face.Errorf(face.Invalid, op, "%d samples with %d weights cannot be fused", len(samples), len(weights))
	}
	var total float64
	for _, w := range weights {
		if !(w >= 0) || math.IsInf(float64(w), 0) {
			return nil, face.Errorf(face.Invalid, op, "a weight must be a finite number of at least 0")
		}
		total += float64(w)
	}
	mean := make([]float64, len(samples[0]))
	for i, s := range samples {
		if len(s) != len(mean) {
			return nil, face.Errorf(face.ModelMismatch, op, "embeddings of %d and %d numbers cannot be fused", len(mean), len(s))
		}
		w := 1 / float64(len(samples))
		if total > 0 {
			w = float64(weights[i]) / total
		}
		for j, v := range s {
			mean[j] += w * float64(v)
		}
	}
	fused := make(face.Embedding, len(mean))
	for j, v := range mean {
		fused[j] = float32(v)
	}
	return fused.Normalise()
}
