package measure

import (
	"fmt"

	"gonum.org/v1/gonum/stat/distuv"

	"github.com/likeness-id/likeness/pkg/face"
)

// Rate is a share of events, kept as the two counts that it comes from.
type Rate struct {
	Count int64 `json:"count"`
	Total int64 `json:"total"`
}

// Add counts one more event; counted says whether it belongs to the share.
func (r *Rate) Add(counted bool) {
	r.Total++
	if counted {
		r.Count++
	}
}

// Value is the share, 0..1, or NaN when nothing was counted.
func (r Rate) Value() float64 { return float64(r.Count) / float64(r.Total) }

// dividedBy is about the same rate of n times fewer events: events that were
// counted n times are no n events.
func (r Rate) dividedBy(n int) Rate {
	return Rate{Count: r.Count / int64(n), Total: r.Total / int64(n)}
}

// String is "count/total".
func (r Rate) String() string { return fmt.Sprintf("%d/%d", r.Count, r.Total) }

// Interval is the Clopper-Pearson interval of the share (Biometrika 26, 1934)
// at a confidence, 0..1. When nothing was counted it is all of 0..1. The
// interval contains the true rate at least that often if the events are
// independent and the threshold was not chosen on the same data. Otherwise, or
// where people appear in several comparisons, use [Bootstrap].
func (r Rate) Interval(confidence float64) face.Interval {
	tail := (1 - confidence) / 2
	k, n := float64(r.Count), float64(r.Total)
	interval := face.Interval{Low: 0, High: 1}
	if r.Count > 0 {
		interval.Low = distuv.Beta{Alpha: k, Beta: n - k + 1}.Quantile(tail)
	}
	if r.Count < r.Total {
		interval.High = distuv.Beta{Alpha: k + 1, Beta: n - k}.Quantile(1 - tail)
	}
	return interval
}

// Estimate is a number with its confidence interval.
type Estimate struct {
	Value    float64       `json:"value"`
	Interval face.Interval `json:"interval"`
}
