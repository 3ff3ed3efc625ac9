package match

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/likeness-id/likeness/pkg/face"
)

// Rate is a share of events, kept as the counts it comes from.
type Rate struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
}

// Value is the share, 0..1, or NaN when nothing was counted.
func (r Rate) Value() float64 { return float64(r.Count) / float64(r.Total) }

// String is "count/total".
func (r Rate) String() string { return fmt.Sprintf("%d/%d", r.Count, r.Total) }

// Interval is the Clopper-Pearson interval of the share at a confidence of
// 0..1: it holds the true rate at least that often when the events are
// independent and the threshold was not chosen on the same data. Where it was,
// or where people appear in several comparisons, [Bootstrap] is honest.
func (r Rate) Interval(confidence float64) Interval {
	tail := (1 - confidence) / 2
	k, n := float64(r.Count), float64(r.Total)
	iv := Interval{Low: 0, High: 1}
	if r.Count > 0 {
		iv.Low = distuv.Beta{Alpha: k, Beta: n - k + 1}.Quantile(tail)
	}
	if r.Count < r.Total {
		iv.High = distuv.Beta{Alpha: k + 1, Beta: n - k}.Quantile(1 - tail)
	}
	return iv
}

// Interval is a confidence interval of a rate.
type Interval = face.Interval

// Scores are the scores of mated and of impostor comparisons.
type Scores struct {
	mated, impostor []float64 // ascending
}

// NewScores sorts copies of the scores. Invalid: there are none of a kind, or
// some are not finite.
func NewScores(mated, impostor []float64) (*Scores, error) {
	const op = "match.NewScores"
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

// atOrAbove counts the sorted scores at or above the threshold.
func atOrAbove(sorted []float64, threshold float64) int64 {
	return int64(len(sorted) - sort.SearchFloat64s(sorted, threshold))
}

// FMR is the false match rate at a threshold: the impostors at or above it.
func (s *Scores) FMR(threshold float64) Rate {
	return Rate{atOrAbove(s.impostor, threshold), int64(len(s.impostor))}
}

// FNMR is the false non-match rate at a threshold: the mated scores below it.
func (s *Scores) FNMR(threshold float64) Rate {
	n := int64(len(s.mated))
	return Rate{n - atOrAbove(s.mated, threshold), n}
}

// TMR is the true match rate at a threshold, 1-FNMR: the mated scores at or
// above it.
func (s *Scores) TMR(threshold float64) Rate {
	return Rate{atOrAbove(s.mated, threshold), int64(len(s.mated))}
}

// ThresholdAt is the least threshold whose false match rate is at most fmr,
// 0..1. Tied scores stand or fall together. When every impostor may match, it
// is the least score of all.
func (s *Scores) ThresholdAt(fmr float64) float64 {
	n := len(s.impostor)
	may := int(allowed(fmr, int64(n)))
	if may >= n {
		return math.Min(s.impostor[0], s.mated[0])
	}
	// The first impostor that must not match, counted from the top. Anything
	// greater will do, so the next number is the least threshold.
	return math.Nextafter(s.impostor[n-1-may], math.Inf(1))
}

// allowed is how many of n may err at a rate. The nudge keeps a product such
// as 1e-6 * 3e7 from falling short of its whole number.
func allowed(rate float64, n int64) int64 {
	return int64(math.Floor(rate * float64(n) * (1 + 1e-12)))
}

// Accuracy is the best share of right decisions that any one threshold gives,
// and the least such threshold. It flatters: the threshold was chosen with the
// answers in hand. [FoldAccuracy] does not.
func (s *Scores) Accuracy() (best Rate, threshold float64) {
	best.Total = int64(len(s.mated) + len(s.impostor))
	best.Count = -1
	s.walk(func(t float64, impostorsAtOrAbove, matedBelow int64) {
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
	s.walk(func(t float64, impostorsAtOrAbove, matedBelow int64) {
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
	s.walk(func(_ float64, impostorsAtOrAbove, matedBelow int64) {
		fmr := float64(impostorsAtOrAbove) / float64(len(s.impostor))
		fnmr := float64(matedBelow) / float64(len(s.mated))
		if d := math.Abs(fmr - fnmr); d < gap {
			gap, eer = d, (fmr+fnmr)/2
		}
	})
	return eer
}

// walk visits every distinct score as a threshold, ascending, and then one
// that nothing reaches.
func (s *Scores) walk(visit func(threshold float64, impostorsAtOrAbove, matedBelow int64)) {
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
		return 0, 0, face.Errorf(face.Invalid, "match.FoldAccuracy", "cross-validation needs at least two folds")
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
