package measure

import (
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Unit is what a bootstrap draws: a person with the number of their photos, or
// one photo of an unlabelled set, in which it is not known who is who.
type Unit struct {
	Set      int  // counted from 0
	Photos   int  // 1 in an unlabelled set
	Stranger bool // of an unlabelled set: compared with the other sets only
}

// Spread finds how far the false match rates of an all-against-all comparison
// are uncertain, by drawing people: everybody of a set is drawn with
// replacement from it, and a comparison counts as often as the draws of its two
// people multiplied. It streams: it keeps a byte for each person and replicate
// and two numbers for each replicate and threshold, however many comparisons
// there are. It is not safe for concurrent use: fork it, and merge the parts.
type Spread struct {
	options    Options
	thresholds []float64   // ascending
	draws      [][]uint8   // by unit and replicate, shared by all forks
	totals     []float64   // weighted comparisons by replicate
	above      [][]float64 // by threshold, of those whose highest reached it is, and replicate
}

// NewSpread draws the people as often as the options say. The thresholds
// ascend. The units are numbered from 0 in their order, which need not be by
// set. across says whether units of different sets are compared, too.
func NewSpread(units []Unit, thresholds []float64, across bool, o Options) *Spread {
	replicates := o.Replicates
	s := &Spread{options: o, thresholds: thresholds, draws: make([][]uint8, len(units)), totals: make([]float64, replicates)}
	sets := map[int][]int{}
	for i, u := range units {
		s.draws[i] = make([]uint8, replicates)
		sets[u.Set] = append(sets[u.Set], i)
	}
	order := make([]int, 0, len(sets))
	for set := range sets {
		order = append(order, set)
	}
	slices.Sort(order)
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	for r := range replicates {
		var all float64 // photos of the sets before
		for _, set := range order {
			members := sets[set]
			for range members {
				// Beyond 255 times is beyond belief.
				if d := &s.draws[members[rng.IntN(len(members))]][r]; *d < 255 {
					*d++
				}
			}
			var photos, squares float64
			for _, i := range members {
				n := float64(s.draws[i][r]) * float64(units[i].Photos)
				photos += n
				squares += n * n
			}
			if across {
				s.totals[r] += all * photos
			}
			if !units[members[0]].Stranger {
				s.totals[r] += (photos*photos - squares) / 2
			}
			all += photos
		}
	}
	s.above = newMatrix(len(thresholds), replicates)
	return s
}

func newMatrix(rows, columns int) [][]float64 {
	m := make([][]float64, rows)
	for i := range m {
		m[i] = make([]float64, columns)
	}
	return m
}

// Fork is an empty count with the same draws.
func (s *Spread) Fork() *Spread {
	f := *s
	f.above = newMatrix(len(s.thresholds), len(s.totals))
	return &f
}

// Add counts the comparison of two photos of the units a and b.
func (s *Spread) Add(a, b int, score float64) {
	// From the top: nearly all scores are below every threshold, so the first
	// look decides, and of the others few are high.
	if len(s.thresholds) == 0 || score < s.thresholds[0] {
		return
	}
	at := len(s.thresholds) - 1
	for score < s.thresholds[at] {
		at--
	}
	x, y, sum := s.draws[a], s.draws[b], s.above[at]
	for r := range sum {
		sum[r] += float64(int32(x[r]) * int32(y[r]))
	}
}

// Merge adds the counts of a fork.
func (s *Spread) Merge(o *Spread) {
	for i, row := range o.above {
		for r, n := range row {
			s.above[i][r] += n
		}
	}
}

// Intervals are those of the false match rate at each threshold.
func (s *Spread) Intervals() []face.Interval {
	out := make([]face.Interval, len(s.thresholds))
	reached := make([]float64, len(s.totals))
	for i := len(s.thresholds) - 1; i >= 0; i-- {
		rates := make([]float64, 0, len(reached))
		for r := range reached {
			reached[r] += s.above[i][r]
			if s.totals[r] > 0 {
				rates = append(rates, reached[r]/s.totals[r])
			}
		}
		if len(rates) > 0 {
			out[i] = percentiles(rates, s.options.Confidence)
		}
	}
	return out
}
