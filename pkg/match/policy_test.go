package match_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

func calibration() *face.Calibration {
	return &face.Calibration{
		Comparisons: 4000,
		Points:      []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}},
		Curve:       []face.CurvePoint{{Score: 0, FMR: 1}, {Score: 0.25, FMR: 0.1}, {Score: 0.5, FMR: 0.01}},
	}
}

func TestPoint(t *testing.T) {
	t.Parallel()
	full := match.NewPolicy(calibration())
	tests := map[string]struct {
		policy *match.Policy
		name   string
		want   face.OperatingPoint
		err    error
		says   []string
	}{
		"there": {full, "fmr_1e-2", calibration().Points[0], nil, nil},
		"not supported": {full, "fmr_1e-4", face.OperatingPoint{}, face.OperatingPointUnsupported, []string{
			"rests on 4000 impostor comparisons and supports fmr_1e-2; fmr_1e-4 needs 300000: 296000 more, or about 686 more people with one photo each",
		}},
		"left out": {match.NewPolicy(&face.Calibration{Comparisons: 300_000, Points: calibration().Points}), "fmr_1e-4", face.OperatingPoint{},
			face.OperatingPointUnsupported, []string{"rests on 300000", "fmr_1e-4 was not measured"}},
		"uncalibrated": {match.NewPolicy(nil), "fmr_1e-2", face.OperatingPoint{}, face.OperatingPointUnsupported, []string{"no calibration"}},
		"empty":        {full, "", face.OperatingPoint{}, face.Invalid, []string{"fmr_1e-2", "fmr_1e-6"}},
		"too strict":   {full, "fmr_1e-7", face.OperatingPoint{}, face.Invalid, nil},
		"other case":   {full, "FMR_1e-2", face.OperatingPoint{}, face.Invalid, nil},
		"a number":     {full, "0.01", face.OperatingPoint{}, face.Invalid, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := tt.policy.Point(tt.name)
			if !errors.Is(err, tt.err) || got != tt.want {
				t.Fatalf("Point = %v, %v; want %v, %v", got, err, tt.want, tt.err)
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
		})
	}
}

// The people that are named make the comparisons, and one fewer would not.
func TestPeopleFor(t *testing.T) {
	t.Parallel()
	for i, fmr := range match.TargetFMRs() {
		need := match.NeededComparisons(fmr)
		if want := []int64{3e3, 3e4, 3e5, 3e6, 3e7}[i]; need != want {
			t.Errorf("%v needs %d comparisons, not %d", fmr, need, want)
		}
		if n := match.PeopleFor(need); n*(n-1)/2 < need || (n-1)*(n-2)/2 >= need {
			t.Errorf("%d people make %d comparisons, and %d are needed", n, n*(n-1)/2, need)
		}
	}
	for n := range int64(100) {
		if got := match.PeopleFor(n * (n - 1) / 2); n > 1 && got != n {
			t.Errorf("PeopleFor = %d; want %d", got, n)
		}
	}
}

func TestPointNames(t *testing.T) {
	t.Parallel()
	want := []string{"fmr_1e-2", "fmr_1e-3", "fmr_1e-4", "fmr_1e-5", "fmr_1e-6"}
	if diff := cmp.Diff(want, match.PointNames()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFMRAt(t *testing.T) {
	t.Parallel()
	unsorted := calibration()
	unsorted.Curve = []face.CurvePoint{{Score: 0.5, FMR: 0.01}, {Score: 0, FMR: 1}, {Score: 0.6, FMR: 0}, {Score: 0.25, FMR: 0.1}}
	for name, cal := range map[string]*face.Calibration{"sorted": calibration(), "unsorted, with a rate never seen": unsorted} {
		p := match.NewPolicy(cal)
		for score, want := range map[float64]float64{
			-1: 1, 0: 1, 0.125: math.Sqrt(0.1), 0.25: 0.1, 0.375: math.Sqrt(0.001), 0.5: 0.01, 0.51: 0.01, 1: 0.01,
			math.Inf(1): 0.01, math.Inf(-1): 1,
		} {
			if got, ok := p.FMRAt(score); !ok || math.Abs(got-want) > 1e-12 {
				t.Errorf("%s: FMRAt(%v) = %v, %v; want %v", name, score, got, ok, want)
			}
		}
		if got, ok := p.FMRAt(math.NaN()); ok {
			t.Errorf("%s: FMRAt(NaN) = %v, ok", name, got)
		}
	}
	if got, ok := match.NewPolicy(nil).FMRAt(0.5); ok {
		t.Errorf("without a calibration FMRAt = %v, ok", got)
	}
}

// A policy lives as long as the server; whoever made it may reuse the memory.
func TestNewPolicyCopies(t *testing.T) {
	t.Parallel()
	cal := calibration()
	p := match.NewPolicy(cal)
	cal.Points[0].Threshold = 9
	cal.Curve[0].FMR = 9
	p.Points()[0].Threshold = 9
	pt, err := p.Point("fmr_1e-2")
	fmr, _ := p.FMRAt(0)
	if err != nil || pt.Threshold != 0.5 || fmr != 1 {
		t.Errorf("the policy changed with its source: %v, %v, %v", pt, fmr, err)
	}
}
