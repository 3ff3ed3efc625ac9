package measure

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// Portrait is one photo that takes part in a calibration.
type Portrait struct {
	Embedding face.Embedding // of length 1, of the same encoder in all portraits
	Set       int            // which set of photos it is from, counted from 0
	Person    string         // within the set; empty when the set does not say who is on its photos
}

// differs reports whether two portraits certainly show different people. Two
// sets must not share people.
func (p *Portrait) differs(o *Portrait) bool {
	return p.Set != o.Set || p.Person != "" && p.Person != o.Person
}

// Progress is told how far a long task is. Add is called by several workers at
// once; Close is called at the end.
type Progress interface {
	Add(n int64)
	Close()
}

// Calibrator calibrates an encoder on portraits, by comparing everybody with
// everybody else. Its memory does not grow with the number of comparisons.
type Calibrator struct {
	Portraits []Portrait
	Workers   int // at least 1
	Options   Options
	// Start is called when a task of so many comparisons begins. If Start is
	// nil, no progress is shown.
	Start func(task string, comparisons int64) Progress
}

// Comparisons says which impostor comparisons are counted.
type Comparisons int

// The kinds. Strangers of one set, who were photographed alike, are more alike
// than those of two sets.
const (
	AllComparisons Comparisons = iota
	ComparisonsWithinASet
	kindsOfComparisons
)

// String is the kind in words.
func (c Comparisons) String() string { return [...]string{"all", "within a set"}[c] }

// CalibrationReport is a calibration with what it rests on.
type CalibrationReport struct {
	face.Calibration
	WithinASet int64          // comparisons within a set, of all
	Support    []PointSupport // of each operating point, in order
}

// PointSupport is what the threshold of an operating point rests on.
type PointSupport struct {
	SetBy        Comparisons // the kind with the higher rate, which sets the threshold
	FalseMatches int64       // of that kind
}

// People is the number of people on the portraits. Photos of a set that does
// not say who is on them count as one person each.
func (c Calibrator) People() int {
	units, _ := unitsOf(c.Portraits)
	return len(units)
}

// Calibrate compares everybody with everybody else twice: to find the
// thresholds, and to find the intervals of their rates. Source says, for people,
// what was compared. See [Calibrate] for the errors; the end of the context is
// one, too.
func (c Calibrator) Calibrate(ctx context.Context, source string) (CalibrationReport, error) {
	counted, err := c.compareAll(ctx, c.Portraits)
	if err != nil {
		return CalibrationReport{}, err
	}
	cal, err := counted.calibration(source)
	if err != nil {
		return CalibrationReport{}, err
	}
	intervals, err := c.intervals(ctx, c.Portraits, cal.Points)
	if err != nil {
		return CalibrationReport{}, err
	}
	report := CalibrationReport{Calibration: cal, WithinASet: counted[ComparisonsWithinASet].Total()}
	for i := range cal.Points {
		p := &cal.Points[i]
		kind := counted.strictest(p.Threshold)
		p.Interval = intervals[kind][i]
		report.Support = append(report.Support, PointSupport{SetBy: kind, FalseMatches: counted[kind].FMR(p.Threshold).Count})
	}
	return report, nil
}

// CrossCheck is an operating point that was found on one half of the people and
// counted on the other half.
type CrossCheck struct {
	Half     int // that it was found on: 0 or 1
	Point    face.OperatingPoint
	SetBy    Comparisons
	Observed Rate          // false matches of that kind in the other half
	Interval face.Interval // of that rate
}

// CrossCheck calibrates on each half of the people and counts what its
// thresholds do to the other half: that is what to expect for people who were
// not measured.
func (c Calibrator) CrossCheck(ctx context.Context) ([]CrossCheck, error) {
	halves := c.splitInHalves()
	var checks []CrossCheck
	for i, half := range halves {
		counted, err := c.compareAll(ctx, half)
		if err != nil {
			return nil, err
		}
		cal, err := counted.calibration("one half of the people")
		if err != nil {
			return nil, err
		}
		other, err := c.compareAll(ctx, halves[1-i])
		if err != nil {
			return nil, err
		}
		intervals, err := c.intervals(ctx, halves[1-i], cal.Points)
		if err != nil {
			return nil, err
		}
		for j, p := range cal.Points {
			kind := counted.strictest(p.Threshold)
			checks = append(checks, CrossCheck{
				Half: i, Point: p, SetBy: kind,
				Observed: other[kind].FMR(p.Threshold), Interval: intervals[kind][j],
			})
		}
	}
	return checks, nil
}

// Shortfall is what a calibration lacks for an operating point.
type Shortfall struct {
	Needed     int64  // impostor comparisons
	Missing    int64  // of those
	MorePeople int    // with as many photos each, who make the missing ones
	Strictest  string // name of the strictest operating point that is supported
}

// ShortfallOf is what a calibration on so many people lacks for the operating
// point of one of [match.PointNames]. It is not ok when nothing is missing.
func ShortfallOf(point string, cal face.Calibration, people int) (s Shortfall, ok bool) {
	needed := match.NeededComparisons(match.TargetFMRs()[slices.Index(match.PointNames(), point)])
	if cal.Comparisons >= needed {
		return Shortfall{}, false
	}
	return Shortfall{
		Needed:  needed,
		Missing: needed - cal.Comparisons,
		// Comparisons grow with the square of the people.
		MorePeople: int(math.Ceil(float64(people)*math.Sqrt(float64(needed)/float64(cal.Comparisons)))) - people,
		Strictest:  cal.Points[len(cal.Points)-1].Name,
	}, true
}

// impostorCounts are counted impostor comparisons, by kind.
type impostorCounts [kindsOfComparisons]*Impostors

func newImpostorCounts() (c impostorCounts) {
	for kind := range c {
		c[kind] = NewImpostors()
	}
	return c
}

func (c impostorCounts) add(a, b *Portrait, score float64) {
	c[AllComparisons].Add(score)
	if a.Set == b.Set {
		c[ComparisonsWithinASet].Add(score)
	}
}

// calibration is that of all kinds; of a single set there is only one.
func (c impostorCounts) calibration(source string) (face.Calibration, error) {
	if n := c[ComparisonsWithinASet].Total(); n == 0 || n == c[AllComparisons].Total() {
		return Calibrate(source, c[AllComparisons])
	}
	return Calibrate(source, c[:]...)
}

// strictest is the kind of which the larger share passes a threshold.
func (c impostorCounts) strictest(threshold float64) Comparisons {
	if r := c[ComparisonsWithinASet].FMR(threshold); r.Count >= match.Rule30 && r.Value() > c[AllComparisons].FMR(threshold).Value() {
		return ComparisonsWithinASet
	}
	return AllComparisons
}

// compareAll counts the scores of all impostor comparisons. It needs 3.2 MB a
// worker beside the embeddings.
func (c Calibrator) compareAll(ctx context.Context, portraits []Portrait) (impostorCounts, error) {
	parts := make([]impostorCounts, c.Workers)
	for w := range parts {
		parts[w] = newImpostorCounts()
	}
	err := c.visitImpostors(ctx, "comparing", portraits, func(worker, i, j int, score float64) {
		parts[worker].add(&portraits[i], &portraits[j], score)
	})
	for _, p := range parts[1:] {
		for kind := range p {
			parts[0][kind].Merge(p[kind])
		}
	}
	return parts[0], err
}

// intervals finds the intervals of the points' false match rates, by kind.
func (c Calibrator) intervals(ctx context.Context, portraits []Portrait, points []face.OperatingPoint) (intervals [kindsOfComparisons][]face.Interval, err error) {
	units, unitOf := unitsOf(portraits)
	thresholds := make([]float64, len(points))
	for i, p := range points {
		thresholds[i] = p.Threshold
	}
	var sums [kindsOfComparisons]*Spread
	parts := make([][kindsOfComparisons]*Spread, c.Workers)
	for kind := range sums {
		sums[kind] = NewSpread(units, thresholds, Comparisons(kind) == AllComparisons, c.Options)
		for w := range parts {
			parts[w][kind] = sums[kind].Fork()
		}
	}
	err = c.visitImpostors(ctx, "drawing people", portraits, func(worker, i, j int, score float64) {
		parts[worker][AllComparisons].Add(unitOf[i], unitOf[j], score)
		if portraits[i].Set == portraits[j].Set {
			parts[worker][ComparisonsWithinASet].Add(unitOf[i], unitOf[j], score)
		}
	})
	for kind, sum := range sums {
		for _, p := range parts {
			sum.Merge(p[kind])
		}
		intervals[kind] = sum.Intervals()
	}
	return intervals, err
}

// unitsOf are the people on the portraits, or single photos where a set does not
// say who is on them, and for each portrait the index of its own unit.
func unitsOf(portraits []Portrait) (units []Unit, unitOf []int) {
	type key struct {
		set    int
		person string
	}
	known := map[key]int{}
	unitOf = make([]int, len(portraits))
	for i, p := range portraits {
		unit, ok := known[key{p.Set, p.Person}]
		if !ok || p.Person == "" {
			unit = len(units)
			known[key{p.Set, p.Person}] = unit
			units = append(units, Unit{Set: p.Set, Stranger: p.Person == ""})
		}
		units[unit].Photos++
		unitOf[i] = unit
	}
	return units, unitOf
}

// visitImpostors visits the score of every impostor comparison, with all
// workers at once: visit gets the number of the worker and the indices of the
// portraits.
func (c Calibrator) visitImpostors(ctx context.Context, task string, portraits []Portrait, visit func(worker, i, j int, score float64)) error {
	n := int64(len(portraits))
	add := func(int64) {}
	if c.Start != nil {
		progress := c.Start(task, n*(n-1)/2)
		defer progress.Close()
		add = progress.Add
	}
	group, ctx := errgroup.WithContext(ctx)
	for w := range c.Workers {
		group.Go(func() error {
			// Rows get shorter from first to last. Dealt out in turn, every
			// worker gets its share of long ones.
			for i := w; i < len(portraits); i += c.Workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				a := &portraits[i]
				for j := i + 1; j < len(portraits); j++ {
					if b := &portraits[j]; a.differs(b) {
						visit(w, i, j, a.Embedding.Cosine(b.Embedding))
					}
				}
				add(n - 1 - int64(i))
			}
			return nil
		})
	}
	return group.Wait()
}

// splitInHalves deals the people out at random.
func (c Calibrator) splitInHalves() (halves [2][]Portrait) {
	units, unitOf := unitsOf(c.Portraits)
	side := rand.New(rand.NewPCG(c.Options.Seed, 2)).Perm(len(units))
	for i, p := range c.Portraits {
		half := side[unitOf[i]] % 2
		halves[half] = append(halves[half], p)
	}
	return halves
}
