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

// Verify compares a probe with a subject's references and returns the best
// score, -1..1, and the template that gave it; of equal scores, the one with
// the least template id. A reference without an embedding is one that was
// damaged where it is stored, and is passed over. NotFound: there are no
// references. Damaged: none has an embedding. ModelMismatch: a reference of
// another length. Invalid: numbers that are not finite.
func Verify(probe face.Embedding, refs []face.Template) (score float64, templateID string, err error) {
	const op = "match.Verify"
	if len(refs) == 0 {
		return 0, "", face.Errorf(face.NotFound, op, "there is no template to compare with")
	}
	compared := 0
	for _, ref := range refs {
		if ref.Embedding == nil {
			continue
		}
		if len(ref.Embedding) != len(probe) {
			return 0, "", face.Errorf(face.ModelMismatch, op,
				"an embedding of %d numbers cannot be compared with one of %d", len(probe), len(ref.Embedding))
		}
		s := probe.Cosine(ref.Embedding)
		if math.IsNaN(s) || math.IsInf(s, 0) {
			return 0, "", face.Errorf(face.Invalid, op, "embedding has numbers that are not finite")
		}
		if compared++; compared == 1 || s > score || s == score && ref.ID < templateID {
			score, templateID = s, ref.ID
		}
	}
	if compared == 0 {
		return 0, "", face.Errorf(face.Damaged, op, "what is stored of the subject is damaged: erase its templates and enrol again")
	}
	return score, templateID, nil
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

// Fuse makes one embedding of several of the same person: their mean weighted
// by quality (0..1, one weight per sample, in order), scaled to unit length
// again. When all weights are zero, all samples count the same. Invalid: no
// samples, another number of weights, a weight that is negative or not finite,
// or samples that cancel out. ModelMismatch: samples of different lengths.
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
