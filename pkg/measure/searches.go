package measure

import (
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Probe is what the search of a gallery with one photo came to, when it is
// known whose photo it is.
type Probe struct {
	Person string
	Mated  bool    // they are in the gallery
	Score  float64 // of their own template when they are, and else the best one
	Rank   int     // of their own template: 1, and one for each other that scores as high or higher; 0 when they are not in it
}

// Searches are the searches of one gallery: open-set identification, with
// people who are in it and people who are not.
type Searches struct {
	mated     []Probe
	strangers []float64 // best scores, ascending
	all       []Probe
}

// NewSearches takes the probes of one gallery. Invalid: there are none of a
// kind, a mated one has no rank, or a score is not finite.
func NewSearches(probes []Probe) (*Searches, error) {
	const op = "measure.NewSearches"
	s := &Searches{all: slices.Clone(probes)}
	for _, p := range probes {
		switch {
		case math.IsNaN(p.Score) || math.IsInf(p.Score, 0):
			return nil, face.Errorf(face.Invalid, op, "scores must be finite")
		case p.Mated && p.Rank < 1:
			return nil, face.Errorf(face.Invalid, op, "whoever is in the gallery has a rank")
		case p.Mated:
			s.mated = append(s.mated, p)
		default:
			s.strangers = append(s.strangers, p.Score)
		}
	}
	if len(s.mated) == 0 || len(s.strangers) == 0 {
		return nil, face.Errorf(face.Invalid, op, "%d searches with people of the gallery and %d with others; both kinds are needed",
			len(s.mated), len(s.strangers))
	}
	slices.Sort(s.strangers)
	return s, nil
}

// Within is the share of the people in the gallery who are among the first k:
// a point of the cumulative match characteristic.
func (s *Searches) Within(k int) Rate { return within(s.mated, k) }

func within(mated []Probe, k int) Rate {
	r := Rate{Total: int64(len(mated))}
	for _, p := range mated {
		if p.Rank <= k {
			r.Count++
		}
	}
	return r
}

// FPIR is the false positive identification rate: the share of searches with
// people who are not in the gallery whose best score reaches the threshold.
func (s *Searches) FPIR(threshold float64) Rate {
	return Rate{countAtOrAbove(s.strangers, threshold), int64(len(s.strangers))}
}

// DIR is the detection and identification rate: the share of searches with
// people of the gallery who are among the first k and reach the threshold. It
// is 1-FNIR.
func (s *Searches) DIR(threshold float64, k int) Rate {
	r := Rate{Total: int64(len(s.mated))}
	for _, p := range s.mated {
		if p.Rank <= k && p.Score >= threshold {
			r.Count++
		}
	}
	return r
}

// ThresholdAt is the least threshold whose false positive identification rate
// is at most fpir, below 1. Tied scores stand or fall together.
func (s *Searches) ThresholdAt(fpir float64) float64 {
	n := len(s.strangers)
	may := min(int(allowedErrors(fpir, int64(n))), n-1)
	return math.Nextafter(s.strangers[n-1-may], math.Inf(1))
}

// SearchConfidence holds the intervals that [Searches.Bootstrap] finds.
type SearchConfidence struct {
	Within []face.Interval // for each of Options.Ranks
	DIR    []face.Interval // in the first place, at each of Options.FPIRs
}

// Bootstrap finds intervals by drawing people, each with all of their probes,
// while the gallery stays as it is. Thresholds are sought anew in each draw. It
// uses Ranks, FPIRs, Replicates, Confidence and Seed of the options.
func (s *Searches) Bootstrap(o Options) SearchConfidence {
	ks, fpirs := o.Ranks, o.FPIRs
	people := make([]string, len(s.all))
	order := make([]int, len(s.all))
	for i, p := range s.all {
		people[i], order[i] = p.Person, i
	}
	slices.SortFunc(order, func(i, j int) int { return descending(s.all[i].Score, s.all[j].Score) })
	intervals := resample(people, people, o.Replicates, o, func(weight []float64) []float64 {
		var mated, strangers float64
		out := make([]float64, len(ks)+len(fpirs))
		for i, p := range s.all {
			if !p.Mated {
				strangers += weight[i]
				continue
			}
			mated += weight[i]
			for j, k := range ks {
				if p.Rank <= k {
					out[j] += weight[i]
				}
			}
		}
		if mated == 0 || strangers == 0 {
			return nil
		}
		for j := range ks {
			out[j] /= mated
		}
		var found, named float64
		for at := 0; at < len(order); {
			tied := s.all[order[at]].Score
			for ; at < len(order) && s.all[order[at]].Score == tied; at++ {
				switch p := s.all[order[at]]; {
				case !p.Mated:
					named += weight[order[at]]
				case p.Rank == 1:
					found += weight[order[at]]
				}
			}
			for j, fpir := range fpirs {
				if named <= fpir*strangers*(1+1e-9) {
					out[len(ks)+j] = found / mated
				}
			}
		}
		return out
	})
	if intervals == nil {
		intervals = make([]face.Interval, len(ks)+len(fpirs))
	}
	return SearchConfidence{Within: intervals[:len(ks)], DIR: intervals[len(ks):]}
}

// Curve is the detection and identification rate over the false positive
// identification rate, one point for each threshold at which a stranger is
// named, the strictest first.
func (s *Searches) Curve() []SearchPoint {
	found := make([]float64, 0, len(s.mated)) // scores of those in the first place
	for _, p := range s.mated {
		if p.Rank == 1 {
			found = append(found, p.Score)
		}
	}
	slices.Sort(found)
	n := len(s.strangers)
	var out []SearchPoint
	for i := n; i >= 0; i-- {
		t := math.Inf(-1)
		if i > 0 {
			t = math.Nextafter(s.strangers[i-1], math.Inf(1))
		}
		point := SearchPoint{
			FPIR: float64(n-i) / float64(n),
			DIR:  float64(countAtOrAbove(found, t)) / float64(len(s.mated)),
		}
		if i > 0 && i < n && s.strangers[i-1] == s.strangers[i] {
			continue // tied: both stand or fall
		}
		out = append(out, point)
	}
	return out
}

// SearchPoint is a point of that curve.
type SearchPoint struct {
	FPIR float64 `json:"fpir"`
	DIR  float64 `json:"dir"`
}

// NWay is how often the right person of n comes first, when the n-1 others are
// chosen at random from the gallery, whose size is given. Nothing is drawn for
// it: for each probe it is the share of all such choices that leave out
// everybody who ranks before the right one. The interval comes from a bootstrap
// over people. All probes are mated; n is 2 to the size of the gallery.
func NWay(probes []Probe, gallery, n int, o Options) Estimate {
	people := make([]string, len(probes))
	right := make([]float64, len(probes))
	ones := make([]float64, len(probes))
	for i, p := range probes {
		people[i], right[i], ones[i] = p.Person, chanceNoneDrawn(gallery-1, p.Rank-1, n-1), 1
	}
	mean := func(weight []float64) []float64 {
		var sum, total float64
		for i, w := range weight {
			sum += w * right[i]
			total += w
		}
		if total == 0 {
			return nil
		}
		return []float64{sum / total}
	}
	m := Estimate{Value: mean(ones)[0]}
	if intervals := resample(people, people, o.Replicates, o, mean); intervals != nil {
		m.Interval = intervals[0]
	}
	return m
}

// chanceNoneDrawn is the chance that n drawn from all contain none of some.
func chanceNoneDrawn(all, some, n int) float64 {
	p := 1.0
	for i := range n {
		p *= math.Max(0, float64(all-some-i)) / float64(all-i)
	}
	return p
}
