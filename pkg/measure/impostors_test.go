package measure_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// Thresholds, supported points and the curve are recounted score by score, on
// scores that tie and lie on the grid itself.
func TestCalibrationBruteForce(t *testing.T) {
	t.Parallel()
	for seed := range uint64(6) {
		rng := rand.New(rand.NewPCG(seed, 5))
		scores := make([]float64, 3000+rng.IntN(40_000))
		half := [2]*measure.Impostors{measure.NewImpostors(), measure.NewImpostors()}
		for i := range scores {
			s := 0.15 * rng.NormFloat64()
			switch seed % 3 {
			case 1: // on the thresholds' grid
				s = math.Round(s*100_000) / 100_000
			case 2: // a few values only
				s = math.Round(s*50) / 50
			}
			scores[i] = min(max(s, -1), 1)
			half[i%2].Add(scores[i])
		}
		all := half[0]
		all.Merge(half[1])
		cal, err := measure.Calibrate("made up", all)
		if err != nil {
			t.Fatal(err)
		}
		if cal.Comparisons != int64(len(scores)) || cal.Source != "made up" || all.Total() != cal.Comparisons {
			t.Fatalf("comparisons %d, source %q", cal.Comparisons, cal.Source)
		}
		share := func(at float64) float64 {
			return float64(count(scores, func(s float64) bool { return s >= at })) / float64(len(scores))
		}

		var supported []string
		for _, fmr := range match.TargetFMRs() {
			if fmr*float64(len(scores)) >= 30 {
				supported = append(supported, match.PointName(fmr))
			}
		}
		var names []string
		policy := match.NewPolicy(&cal)
		for _, p := range cal.Points {
			names = append(names, p.Name)
			if got := share(p.Threshold); got > p.FMR {
				t.Errorf("%s at %v lets %v pass", p.Name, p.Threshold, got)
			}
			lower, err := strconv.ParseFloat(strconv.FormatFloat(p.Threshold-1e-5, 'f', 5, 64), 64)
			if err != nil {
				t.Fatal(err)
			}
			if got := share(lower); got <= p.FMR {
				t.Errorf("%s at %v is too strict: %v at %v", p.Name, p.Threshold, got, lower)
			}
			if got, _ := policy.FMRAt(p.Threshold); got > p.FMR {
				t.Errorf("the curve says %v at the threshold of %s", got, p.Name)
			}
		}
		if diff := cmp.Diff(supported, names); diff != "" {
			t.Errorf("points (-want +got)\n%s", diff)
		}

		if first := cal.Curve[0]; first.FMR != 1 {
			t.Errorf("the curve starts at %v", first)
		}
		for i, p := range cal.Curve {
			want := share(p.Score)
			if math.Abs(p.FMR-want) > want*5e-5 {
				t.Errorf("the curve says %v, counted %v", p, want)
			}
			if i > 0 && (p.Score <= cal.Curve[i-1].Score || p.FMR > cal.Curve[i-1].FMR) {
				t.Errorf("the curve goes from %v to %v", cal.Curve[i-1], p)
			}
		}
		// Ties may leave fewer than 30 above an operating point, but nothing
		// beyond it is told.
		if last := cal.Curve[len(cal.Curve)-1]; share(last.Score)*float64(len(scores)) < match.Rule30-0.5 &&
			last.Score != cal.Points[len(cal.Points)-1].Threshold {
			t.Errorf("the curve ends at %v", last)
		}
		if len(cal.Curve) > 220 {
			t.Errorf("the curve has %d points", len(cal.Curve))
		}
	}
}

// Of two kinds the one whose strangers are more alike sets each point that it
// has the numbers for, and the curve.
func TestCalibrateKinds(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 5))
	alike, all := measure.NewImpostors(), measure.NewImpostors()
	for i := range 400_000 {
		s := 0.1 * rng.NormFloat64()
		if i%8 == 0 {
			s += 0.05
			alike.Add(s)
		}
		all.Add(s)
	}
	cals := make([]face.Calibration, 4)
	for i, kinds := range [][]*measure.Impostors{{all}, {alike}, {alike, all}, {all, alike}} {
		cal, err := measure.Calibrate("", kinds...)
		if err != nil {
			t.Fatal(err)
		}
		cals[i] = cal
	}
	one, few, both := cals[0], cals[1], cals[2]
	if diff := cmp.Diff(both, cals[3]); diff != "" {
		t.Errorf("the order counts\n%s", diff)
	}
	if len(one.Points) != 3 || len(few.Points) != 2 || len(both.Points) != 3 || both.Comparisons != all.Total() {
		t.Fatalf("points %v, %v, %v of %d", one.Points, few.Points, both.Points, both.Comparisons)
	}
	if diff := cmp.Diff(few.Points, both.Points[:2]); diff != "" {
		t.Errorf("points of those who are alike (-want +got)\n%s", diff)
	}
	// 1e-4 of those who are alike would be 5 impostors: they have a say as long as 30 pass.
	if at := both.Points[2].Threshold; at < one.Points[2].Threshold || alike.FMR(at).Count >= match.Rule30 && alike.FMR(at).Value() > 1e-4 {
		t.Errorf("%v, for all at %v, lets %v of those pass who are alike", at, one.Points[2].Threshold, alike.FMR(at))
	}
	for i, p := range both.Curve {
		want := all.FMR(p.Score).Value()
		if r := alike.FMR(p.Score); r.Count >= match.Rule30 {
			want = max(want, r.Value())
		}
		if math.Abs(p.FMR-want) > want*5e-5 || i > 0 && p.FMR > both.Curve[i-1].FMR {
			t.Errorf("the curve says %v, counted %v", p, want)
		}
	}
}

func TestCalibrationNeedsThirty(t *testing.T) {
	t.Parallel()
	impostors := measure.NewImpostors()
	for i := range 2999 {
		impostors.Add(float64(i) / 3000)
	}
	if _, err := measure.Calibrate("", impostors); !errors.Is(err, face.Invalid) {
		t.Fatalf("2,999 comparisons: %v", err)
	}
	impostors.Add(0)
	cal, err := measure.Calibrate("", impostors)
	if err != nil {
		t.Fatal(err)
	}
	if len(cal.Points) != 1 || cal.Points[0].Name != "fmr_1e-2" {
		t.Errorf("3,000 comparisons support %v", cal.Points)
	}
}

// A model that gives everybody the same score has a threshold that nobody
// reaches rather than one that lets everybody in.
func TestCalibrationOfAUselessModel(t *testing.T) {
	t.Parallel()
	for _, score := range []float64{-1, -0.5, 0, 0.33333, 1, 1.0000001, -1.0000001} {
		impostors := measure.NewImpostors()
		for range 30_000 {
			impostors.Add(score)
		}
		cal, err := measure.Calibrate("", impostors)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range cal.Points {
			if p.Threshold <= min(score, 1) {
				t.Errorf("everybody scores %v, and %s is at %v", score, p.Name, p.Threshold)
			}
		}
	}
}
