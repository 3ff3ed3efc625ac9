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
		"there":         {full, "fmr_1e-2", calibration().Points[0], nil, nil},
		"not supported": {full, "fmr_1e-4", face.OperatingPoint{}, face.OperatingPointUnsupported, []string{"4000", "fmr_1e-2"}},
		"uncalibrated":  {match.NewPolicy(nil), "fmr_1e-2", face.OperatingPoint{}, face.OperatingPointUnsupported, []string{"no calibration"}},
		"empty":         {full, "", face.OperatingPoint{}, face.Invalid, []string{"fmr_1e-2", "fmr_1e-6"}},
		"too strict":    {full, "fmr_1e-7", face.OperatingPoint{}, face.Invalid, nil},
		"other case":    {full, "FMR_1e-2", face.OperatingPoint{}, face.Invalid, nil},
		"a number":      {full, "0.01", face.OperatingPoint{}, face.Invalid, nil},
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
