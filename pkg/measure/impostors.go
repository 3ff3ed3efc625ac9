package measure

import (
	"math"
	"slices"
	"strconv"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// The thresholds of a calibration lie on a grid, so that counting the scores
// between grid lines, however many there are, gives exact rates at every
// threshold that can be named.
const (
	gridPerUnit = 100_000 // thresholds have five decimals
	gridLines   = 2*gridPerUnit + 1
	curveStep   = gridPerUnit / 100 // a point of the curve every 0.01
)

// Impostors counts the scores of impostor comparisons, any number of them in
// 1.6 MB. It is not safe for concurrent use: count in parts and merge them.
type Impostors struct {
	counts []int64 // by grid line: scores at or above it and below the next
	total  int64
}

// NewImpostors makes an empty count.
func NewImpostors() *Impostors { return &Impostors{counts: make([]int64, gridLines)} }

// gridScore is the score of a grid line: the float64 nearest to its five decimals.
func gridScore(i int) float64 { return float64(i-gridPerUnit) / gridPerUnit }

// Add counts a score, -1..1; what rounding put beyond counts as the end.
func (c *Impostors) Add(score float64) {
	i := int(math.Floor(score*gridPerUnit)) + gridPerUnit
	i = min(max(i, 0), gridLines-1)
	// The product above is rounded, so it may be off by a line where a score
	// lies on one, and on the line is where it matters.
	if i+1 < gridLines && gridScore(i+1) <= score {
		i++
	} else if i > 0 && gridScore(i) > score {
		i--
	}
	c.counts[i]++
	c.total++
}

// Merge adds the counts of another part.
func (c *Impostors) Merge(o *Impostors) {
	for i, n := range o.counts {
		c.counts[i] += n
	}
	c.total += o.total
}

// FMR is the false match rate at a threshold of five decimals.
func (c *Impostors) FMR(threshold float64) Rate {
	r := Rate{Total: c.total}
	for i := int(math.Round(threshold*gridPerUnit)) + gridPerUnit; i < gridLines; i++ {
		if i >= 0 {
			r.Count += c.counts[i]
		}
	}
	return r
}

// Total is the number of scores counted.
func (c *Impostors) Total() int64 { return c.total }

// Calibrate makes a calibration of one or more kinds of impostor comparisons,
// those within one set of photos, say, and all: strangers under one camera are
// more alike than those under two, and who decides may have either before them.
// The rate at a score is the highest that any kind shows, of those of which
// [match.Rule30] impostors reach the score. It holds those operating points of
// [match.TargetFMRs] that at least so many impostors of the largest kind support,
// each at the least threshold of five decimals whose rate is at most the target,
// and the curve of the rate: at the operating points, and in steps of 0.01 from
// where every impostor matches to where [match.Rule30] do. Rates have five significant
// digits. The source says, for people, what was compared; the comparisons are
// those of the largest kind. Invalid: so few that no point is supported.
func Calibrate(source string, kinds ...*Impostors) (face.Calibration, error) {
	c := tailCounts{kinds: kinds, above: make([]int64, len(kinds))}
	for i, k := range kinds {
		if k.total > kinds[c.largest].total {
			c.largest = i
		}
	}
	most := kinds[c.largest].total
	cal := face.Calibration{Source: source, Comparisons: most}
	targets := match.TargetFMRs()
	next := len(targets) - 1 // the strictest target still sought, walking down from the top
	for next >= 0 && allowedErrors(targets[next], most) < match.Rule30 {
		next--
	}
	if next < 0 {
		return face.Calibration{}, face.Errorf(face.Invalid, "measure.Calibrate",
			"%d impostor comparisons support no operating point: %s needs %d, which %d people with one photo each make",
			most, match.PointName(targets[0]), match.NeededComparisons(targets[0]), match.PeopleFor(match.NeededComparisons(targets[0])))
	}

	for i := gridLines - 1; i >= 0; i-- {
		before := c.rate() // at line i+1
		for k, of := range kinds {
			c.above[k] += of.counts[i]
		}
		point := false
		for next >= 0 && c.exceeds(targets[next]) {
			// Line i lets too many pass, so the line above it is the threshold.
			cal.Points = append(cal.Points, face.OperatingPoint{
				Name: match.PointName(targets[next]), FMR: targets[next], Threshold: gridScore(i + 1),
			})
			point = true
			next--
		}
		if point && before > 0 {
			cal.Curve = appendPoint(cal.Curve, gridScore(i+1), before)
		}
		if slices.Max(c.above) >= match.Rule30 && i%curveStep == 0 {
			cal.Curve = appendPoint(cal.Curve, gridScore(i), c.rate())
		}
		if n := len(cal.Curve); n > 0 && cal.Curve[n-1].FMR == 1 {
			break
		}
	}
	slices.Reverse(cal.Points)
	slices.Reverse(cal.Curve)
	return cal, nil
}

// tailCounts counts, for each kind, the scores at or above a line.
type tailCounts struct {
	kinds   []*Impostors
	above   []int64
	largest int
}

// rate is the highest of the kinds that count here, or that of the largest.
func (t tailCounts) rate() float64 {
	rate := float64(t.above[t.largest]) / float64(t.kinds[t.largest].total)
	for k, n := range t.above {
		if n >= match.Rule30 {
			rate = max(rate, float64(n)/float64(t.kinds[k].total))
		}
	}
	return rate
}

// exceeds reports whether the rate is above a target, in exact numbers.
func (t tailCounts) exceeds(target float64) bool {
	for k, n := range t.above {
		if n > allowedErrors(target, t.kinds[k].total) && (k == t.largest || n >= match.Rule30) {
			return true
		}
	}
	return false
}

// appendPoint appends a point of the curve, walked from the top, unless its
// score is there already.
func appendPoint(curve []face.CurvePoint, score, rate float64) []face.CurvePoint {
	if n := len(curve); n > 0 && curve[n-1].Score == score {
		return curve
	}
	return append(curve, face.CurvePoint{Score: score, FMR: significant(rate)})
}

// significant rounds to five significant digits.
func significant(v float64) float64 { return significantTo(v, 5) }

func significantTo(v float64, digits int) float64 {
	r, _ := strconv.ParseFloat(strconv.FormatFloat(v, 'g', digits, 64), 64) // what was formatted parses
	return r
}
