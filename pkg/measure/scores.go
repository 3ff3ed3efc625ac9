package measure

import (
	"math"
	"slices"
	"sort"

	"gonum.org/v1/gonum/stat"

	"github.com/likeness-id/likeness/pkg/face"
)

// Scores are the scores of mated and of impostor comparisons.
type Scores struct {
	mated, impostor []float64 // ascending
}

// NewScores sorts copies of the scores. Invalid: there are none of a kind, or
// some are not finite.
func NewScores(mated, impostor []float64) (*Scores, error) {
	const op = "measure.NewScores"
	if len(mated) == 0 || len(impostor) == 0 {
		return nil, face.Errorf(face.Invalid, op,
			"error rates need mated and impostor comparisons; there are %d and %d", len(mated), len(impostor))
	}
	s := &Scores{mated: slices.Sorted(slices.Values(mated)), impostor: slices.Sorted(slices.Values(impostor))}
	for _, v := range [][]float64{s.mated, s.impostor} {
		// NaN sorts first, so the ends tell of the whole.
		if first, last := v[0], v[len(v)-1]; math.IsNaN(first) || math.IsInf(first, 0) || math.IsInf(last, 0) {
			return nil, face.Errorf(face.Invalid, op, "scores must be finite")
		}
	}
	return s, nil
}

// countAtOrAbove counts the sorted scores at or above the threshold.
func countAtOrAbove(sorted []float64, threshold float64) int64 {
	return int64(len(sorted) - sort.SearchFloat64s(sorted, threshold))
}

// FMR is the false match rate at a threshold: the impostors at or above it.
func (s *Scores) FMR(threshold float64) Rate {
	return Rate{countAtOrAbove(s.impostor, threshold), int64(len(s.impostor))}
}

// FNMR is the false non-match rate at a threshold: the mated scores below it.
func (s *Scores) FNMR(threshold float64) Rate {
	n := int64(len(s.mated))
	return Rate{n - countAtOrAbove(s.mated, threshold), n}
}

// TMR is the true match rate at a threshold, 1-FNMR: the mated scores at or
// above it.
func (s *Scores) TMR(threshold float64) Rate {
	return Rate{countAtOrAbove(s.mated, threshold), int64(len(s.mated))}
}

// ThresholdAt is the least threshold whose false match rate is at most fmr,
// 0..1. Tied scores stand or fall together. When every impostor may match, it
// is the least score of all.
func (s *Scores) ThresholdAt(fmr float64) float64 {
	n := len(s.impostor)
	may := int(allowedErrors(fmr, int64(n)))
	if may >= n {
		return math.Min(s.impostor[0], s.mated[0])
	}
	// The first impostor that must not match, counted from the top. Anything
	// greater will do, so the next number is the least threshold.
	return math.Nextafter(s.impostor[n-1-may], math.Inf(1))
}

// allowedErrors is how many of n may err at a rate. The nudge keeps a product such
// as 1e-6 * 3e7 from falling short of its whole number.
func allowedErrors(rate float64, n int64) int64 {
	return int64(math.Floor(rate * float64(n) * (1 + 1e-12)))
}

// Accuracy is the best share of right decisions that any one threshold gives,
// and the least such threshold. It flatters: the threshold was chosen with the
// answers in hand. [FoldAccuracy] does not.
func (s *Scores) Accuracy() (best Rate, threshold float64) {
	best.Total = int64(len(s.mated) + len(s.impostor))
	best.Count = -1
	s.eachThreshold(func(t float64, impostorsAtOrAbove, matedBelow int64) {
		if right := best.Total - impostorsAtOrAbove - matedBelow; right > best.Count {
			best.Count, threshold = right, t
		}
	})
	return best, threshold
}

// AccuracyAt is the share of right decisions at a threshold.
func (s *Scores) AccuracyAt(threshold float64) Rate {
	right := s.TMR(threshold).Count + int64(len(s.impostor)) - s.FMR(threshold).Count
	return Rate{right, int64(len(s.mated) + len(s.impostor))}
}

// DETPoint is a point of the detection error trade-off.
type DETPoint struct {
	Threshold float64 `json:"threshold"`
	FMR       float64 `json:"fmr"`
	FNMR      float64 `json:"fnmr"`
}

// DET is the detection error trade-off: one point for every threshold at which
// a decision changes, threshold ascending, from "all match" to "none match".
// The receiver operating characteristic is the same with 1-FNMR.
func (s *Scores) DET() []DETPoint {
	var points []DETPoint
	s.eachThreshold(func(t float64, impostorsAtOrAbove, matedBelow int64) {
		points = append(points, DETPoint{
			Threshold: t,
			FMR:       float64(impostorsAtOrAbove) / float64(len(s.impostor)),
			FNMR:      float64(matedBelow) / float64(len(s.mated)),
		})
	})
	return points
}

// EER is the equal error rate: where the two error rates cross, the mean of
// both on the step where they do.
func (s *Scores) EER() float64 {
	gap, eer := math.Inf(1), math.NaN()
	s.eachThreshold(func(_ float64, impostorsAtOrAbove, matedBelow int64) {
		fmr := float64(impostorsAtOrAbove) / float64(len(s.impostor))
		fnmr := float64(matedBelow) / float64(len(s.mated))
		if d := math.Abs(fmr - fnmr); d < gap {
			gap, eer = d, (fmr+fnmr)/2
		}
	})
	return eer
}

// eachThreshold visits every distinct score as a threshold, ascending, and then one
// that nothing reaches.
func (s *Scores) eachThreshold(visit func(threshold float64, impostorsAtOrAbove, matedBelow int64)) {
	m, i := 0, 0
	t := math.Inf(-1)
	for m < len(s.mated) || i < len(s.impostor) {
		switch {
		case m == len(s.mated):
			t = s.impostor[i]
		case i == len(s.impostor):
			t = s.mated[m]
		default:
			t = min(s.mated[m], s.impostor[i])
		}
		visit(t, int64(len(s.impostor)-i), int64(m))
		for m < len(s.mated) && s.mated[m] == t {
			m++
		}
		for i < len(s.impostor) && s.impostor[i] == t {
			i++
		}
	}
	visit(math.Nextafter(t, math.Inf(1)), 0, int64(m))
}

// FoldAccuracy is the protocol of LFW's View 2: for each fold, the threshold
// that is best on all the others decides, and the accuracies are averaged. The
// standard error is that of this mean. Invalid: fewer than two folds.
func FoldAccuracy(folds []*Scores) (mean, stderr float64, err error) {
	if len(folds) < 2 {
		return 0, 0, face.Errorf(face.Invalid, "measure.FoldAccuracy", "cross-validation needs at least two folds")
	}
	accuracies := make([]float64, len(folds))
	for held, fold := range folds {
		var mated, impostor []float64
		for i, other := range folds {
			if i != held {
				mated = append(mated, other.mated...)
				impostor = append(impostor, other.impostor...)
			}
		}
		rest, err := NewScores(mated, impostor)
		if err != nil {
			return 0, 0, err
		}
		_, threshold := rest.Accuracy()
		accuracies[held] = fold.AccuracyAt(threshold).Value()
	}
	mean, sd := stat.MeanStdDev(accuracies, nil)
	return mean, stat.StdErr(sd, float64(len(folds))), nil
}
