package measure

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// Reliability says how well probabilities agree with the truth, where mated and
// impostor pairs weigh the same (a reliability diagram).
type Reliability struct {
	Bins     []Bin   `json:"bins"`
	ECE      float64 `json:"expected_calibration_error"`
	LogLoss  float64 `json:"log_loss"` // nats; ln 2 is what a coin gives
	Accuracy float64 `json:"accuracy"` // share of pairs on the right side of 0.5
}

// Bin holds the pairs with about the same probability.
type Bin struct {
	Probability float64 `json:"probability"` // their mean
	Mated       float64 `json:"mated"`       // the share of mated pairs among them
	Weight      float64 `json:"weight"`      // of all pairs, 0..1
}

// bins of the same width that a reliability is counted in.
const bins = 10

// MeasureReliability holds probabilities against the truth. Both kinds of pairs
// must be there.
func MeasureReliability(p []float64, mated []bool) Reliability {
	weight := make([]float64, len(p))
	for i := range weight {
		weight[i] = 1
	}
	balance(weight, mated)
	return weightedReliability(p, mated, weight)
}

// weightedReliability is that of weighted pairs; the weights add up to 1.
func weightedReliability(p []float64, mated []bool, weight []float64) (r Reliability) {
	r.Bins = make([]Bin, bins)
	for i, v := range p {
		truth := 0.0
		if mated[i] {
			truth = 1
		}
		b := &r.Bins[min(int(v*bins), bins-1)]
		b.Weight += weight[i]
		b.Probability += weight[i] * v
		b.Mated += weight[i] * truth
		if (v >= 0.5) == mated[i] {
			r.Accuracy += weight[i]
		}
		// What is certain and wrong would cost infinitely much.
		r.LogLoss -= weight[i] * math.Log(math.Max(1-math.Abs(truth-v), 1e-12))
	}
	for i := range r.Bins {
		b := &r.Bins[i]
		r.ECE += math.Abs(b.Probability - b.Mated)
		if b.Weight > 0 {
			b.Probability /= b.Weight
			b.Mated /= b.Weight
		}
	}
	r.Bins = slices.DeleteFunc(r.Bins, func(b Bin) bool { return b.Weight == 0 })
	return r
}

// HeadMeasurement is how good a head is on pairs that it was not trained on.
type HeadMeasurement struct {
	Variant     face.HeadVariant `json:"variant"`
	Accuracy    Estimate         `json:"accuracy"` // share of pairs on the right side of 0.5
	TAR         []Estimate       `json:"tar"`      // at each of Options.FMRs, in order
	ECE         Estimate         `json:"expected_calibration_error"`
	LogLoss     Estimate         `json:"log_loss"`
	Gain        Estimate         `json:"gain"` // log loss of the first head minus this one's
	Reliability Reliability      `json:"reliability"`
}

// MeasureHeads measures heads on the same pairs. Intervals come from a
// bootstrap over people, as in [Bootstrap], and the gain over the first head is
// taken within each draw. It uses FMRs, HeadReplicates, Confidence and Seed of
// the options. Invalid: pairs of one kind only.
func MeasureHeads(heads []*match.Head, pairs []EmbeddingPair, o Options) ([]HeadMeasurement, error) {
	mated := make([]bool, len(pairs))
	a, b := make([]string, len(pairs)), make([]string, len(pairs))
	for i, p := range pairs {
		mated[i], a[i], b[i] = p.Mated(), p.PersonA, p.PersonB
	}
	if !slices.Contains(mated, true) || !slices.Contains(mated, false) {
		return nil, face.Errorf(face.Invalid, "measure.MeasureHeads", "heads are measured on mated and impostor pairs")
	}
	z, p := make([][]float64, len(heads)), make([][]float64, len(heads))
	order := make([][]int, len(heads))
	for k, h := range heads {
		z[k], p[k], order[k] = make([]float64, len(pairs)), make([]float64, len(pairs)), make([]int, len(pairs))
		for i, pair := range pairs {
			z[k][i] = h.Logit(pair.A, pair.B)
			p[k][i] = h.ProbabilityOf(z[k][i])
			order[k][i] = i
		}
		slices.SortFunc(order[k], func(i, j int) int { return descending(z[k][i], z[k][j]) })
	}
	// All numbers of all heads, in one row.
	per := 3 + 1 + len(o.FMRs)
	numbers := func(weight []float64) []float64 {
		for i := range weight {
			if weight[i] > 0 && mated[i] {
				break
			}
			if i == len(weight)-1 {
				return nil
			}
		}
		w := slices.Clone(weight)
		balance(w, mated)
		if math.IsNaN(stat.Mean(w, nil)) {
			return nil // nobody of a kind was drawn
		}
		var out []float64
		for k := range heads {
			r := weightedReliability(p[k], mated, w)
			out = append(out, r.Accuracy, r.ECE, r.LogLoss, 0)
			out[k*per+3] = out[2] - r.LogLoss
			out = append(out, weightedTARs(z[k], order[k], mated, w, o.FMRs)...)
		}
		return out
	}
	ones := make([]float64, len(pairs))
	for i := range ones {
		ones[i] = 1
	}
	values := numbers(ones)
	intervals := resample(a, b, o.HeadReplicates, o, numbers)
	if intervals == nil {
		return nil, face.Errorf(face.Invalid, "measure.MeasureHeads", "too few people to draw from")
	}
	var out []HeadMeasurement
	for k, h := range heads {
		at := func(i int) Estimate { return Estimate{values[k*per+i], intervals[k*per+i]} }
		m := HeadMeasurement{
			Variant: h.Variant, Accuracy: at(0), ECE: at(1), LogLoss: at(2), Gain: at(3),
			Reliability: MeasureReliability(p[k], mated),
		}
		for i := range o.FMRs {
			m.TAR = append(m.TAR, at(4+i))
		}
		out = append(out, m)
	}
	return out, nil
}

// descending orders the highest first.
func descending(a, b float64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

// weightedTARs are the shares of mated pairs above the least threshold that keeps each
// false match rate, for weighted pairs in descending order of their score.
func weightedTARs(score []float64, order []int, mated []bool, weight []float64, fmrs []float64) []float64 {
	out := make([]float64, len(fmrs))
	var genuine, impostor float64
	for at := 0; at < len(order); {
		tied := score[order[at]]
		for ; at < len(order) && score[order[at]] == tied; at++ {
			if i := order[at]; mated[i] {
				genuine += 2 * weight[i] // half of the weight is that of mated pairs
			} else {
				impostor += 2 * weight[i]
			}
		}
		for k, fmr := range fmrs {
			if impostor <= fmr*(1+1e-9) {
				out[k] = genuine
			}
		}
	}
	return out
}

// BestHead is the index of the head to use: the one with the least log loss of
// those that are better than the first with the confidence of the intervals,
// and else the first, which is then as good and simpler.
func BestHead(measured []HeadMeasurement) int {
	best := 0
	for i, m := range measured {
		if m.Gain.Interval.Low > 0 && m.LogLoss.Value < measured[best].LogLoss.Value {
			best = i
		}
	}
	return best
}
