package match

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// Rule30 is the number of errors that must have been seen before an error
// rate counts as measured. With 30 of them the true rate lies, with 90 %
// confidence, within 30 % of the observed one if the comparisons are
// independent: the rule of 30 (G. R. Doddington; ISO/IEC 19795-1, on the size
// of a test). A false match rate f thus needs 30/f impostor comparisons.
const Rule30 = 30

// TargetFMRs are the false match rates that an operating point may be asked
// for, least strict first: 1e-2 to 1e-6. [PointName] gives their names.
func TargetFMRs() []float64 { return []float64{1e-2, 1e-3, 1e-4, 1e-5, 1e-6} }

// PointName is the name of the operating point of one of [TargetFMRs]:
// "fmr_1e-4" for 1e-4.
func PointName(fmr float64) string {
	return fmt.Sprintf("fmr_1e-%d", -int(math.Round(math.Log10(fmr))))
}

// PointNames are the names of all operating points, least strict first. A
// model supports those that its calibration holds.
func PointNames() []string {
	var names []string
	for _, fmr := range TargetFMRs() {
		names = append(names, PointName(fmr))
	}
	return names
}

// Policy answers with the thresholds and error rates that were measured of
// one model, and with nothing else: what was not measured is not guessed. It
// is safe for concurrent use.
type Policy struct {
	comparisons int64
	points      []face.OperatingPoint
	curve       []face.CurvePoint // score ascending, FMR positive
}

// NewPolicy makes a policy of a calibration, which it copies. A nil one makes
// a policy that supports no operating point and knows no error rate.
func NewPolicy(cal *face.Calibration) *Policy {
	if cal == nil {
		return &Policy{}
	}
	curve := slices.Clone(cal.Curve)
	// A rate of zero is one that was never seen: it is no measurement, and it
	// has no logarithm to interpolate with.
	curve = slices.DeleteFunc(curve, func(c face.CurvePoint) bool { return !(c.FMR > 0) })
	slices.SortStableFunc(curve, func(a, b face.CurvePoint) int { return cmp.Compare(a.Score, b.Score) })
	return &Policy{comparisons: cal.Comparisons, points: slices.Clone(cal.Points), curve: curve}
}

// Point returns the operating point of that name. Invalid: the name is none
// of [PointNames]. OperatingPointUnsupported: the calibration does not hold it.
func (p *Policy) Point(name string) (face.OperatingPoint, error) {
	const op = "match.Point"
	if !slices.Contains(PointNames(), name) {
		return face.OperatingPoint{}, face.Errorf(face.Invalid, op,
			"operating_point must be one of %s", strings.Join(PointNames(), ", "))
	}
	for _, pt := range p.points {
		if pt.Name == name {
			return pt, nil
		}
	}
	if len(p.points) == 0 {
		return face.OperatingPoint{}, face.Errorf(face.OperatingPointUnsupported, op,
			"the model has no calibration, so it supports no operating point: likeness calibrate measures one")
	}
	detail := fmt.Sprintf("the model's calibration rests on %d impostor comparisons and supports %s; %s", p.comparisons, strings.Join(p.supported(), ", "), name)
	if need := NeededComparisons(TargetFMRs()[slices.Index(PointNames(), name)]); p.comparisons < need {
		detail += fmt.Sprintf(" needs %d: %d more, or about %d more people with one photo each", need, need-p.comparisons, PeopleFor(need)-PeopleFor(p.comparisons))
	} else {
		detail += " was not measured"
	}
	return face.OperatingPoint{}, face.Errorf(face.OperatingPointUnsupported, op, "%s", detail)
}

// NeededComparisons is how many impostor comparisons a calibration must have
// seen for a false match rate above 0 to count as measured: see [Rule30].
func NeededComparisons(fmr float64) int64 { return int64(math.Round(Rule30 / fmr)) }

// PeopleFor is how many people make at least so many impostor comparisons when
// there is one photo of each and everybody is compared with everybody else.
func PeopleFor(comparisons int64) int64 {
	return int64(math.Ceil((1 + math.Sqrt(1+8*float64(comparisons))) / 2))
}

func (p *Policy) supported() []string {
	var names []string
	for _, pt := range p.points {
		names = append(names, pt.Name)
	}
	return names
}

// Points lists the operating points that the calibration supports, as it
// lists them: least strict first.
func (p *Policy) Points() []face.OperatingPoint { return slices.Clone(p.points) }

// FMRAt returns the false match rate of a decision with the score as its
// threshold: the share of impostors that score as high or higher. Between
// measured points the logarithm of the rate is interpolated linearly. Beyond
// them nothing is extrapolated: a score above the last point has the last
// point's rate, which is then an upper bound, and a score below the first has
// the first point's rate. It is not ok without a calibration, and for a score
// that is not a number.
func (p *Policy) FMRAt(score float64) (fmr float64, ok bool) {
	n := len(p.curve)
	if n == 0 || math.IsNaN(score) {
		return 0, false
	}
	i, exact := slices.BinarySearchFunc(p.curve, score, func(c face.CurvePoint, s float64) int {
		return cmp.Compare(c.Score, s)
	})
	switch {
	case i == n:
		return p.curve[n-1].FMR, true
	case exact || i == 0:
		return p.curve[i].FMR, true
	}
	a, b := p.curve[i-1], p.curve[i]
	t := (score - a.Score) / (b.Score - a.Score)
	return math.Exp(math.Log(a.FMR)*(1-t) + math.Log(b.FMR)*t), true
}

// FPIR is the share of searches with people who are not in a gallery that name
// somebody all the same, where each of n comparisons has that false match rate
// and none knows of the others: 1-(1-fmr)^n. It is never more than n times the
// rate, which holds for comparisons of any kind.
func FPIR(fmr float64, n int) float64 { return -math.Expm1(float64(n) * math.Log1p(-fmr)) }

// Identification is the operating point for searches of n subjects: its
// threshold is the least measured one at which the share of searches that name
// a stranger, [FPIR], keeps to the point's rate. For one subject it is
// [Policy.Point], whose errors it has; OperatingPointUnsupported, too, when the
// calibration knows no rate that is small enough for so many.
func (p *Policy) Identification(name string, n int) (face.OperatingPoint, error) {
	pt, err := p.Point(name)
	if err != nil || n <= 1 {
		return pt, err
	}
	need := -math.Expm1(math.Log1p(-pt.FMR) / float64(n))
	// Rates that were counted, not those between them. The least is last.
	for _, c := range p.curve {
		if c.FMR <= need && c.Score >= pt.Threshold {
			pt.Threshold = c.Score
			pt.Interval = face.Interval{}
			return pt, nil
		}
	}
	least := p.points[len(p.points)-1].FMR
	if n := len(p.curve); n > 0 {
		least = min(least, p.curve[n-1].FMR)
	}
	return face.OperatingPoint{}, face.Errorf(face.OperatingPointUnsupported, "match.Identification",
		"for %s to hold for searches of %d subjects, each comparison may err at %.2g; the calibration knows of no rate below %.2g, which is enough for %d",
		name, n, need, least, int(math.Log1p(-pt.FMR)/math.Log1p(-least)))
}
