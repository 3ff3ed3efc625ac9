package measure_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// Everything that Searches says is recounted here, probe by probe.
func TestSearchesBruteForce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(31, 1))
	for range 50 {
		var probes []measure.Probe
		values := 2 + rng.IntN(20)
		for i := range 20 + rng.IntN(60) {
			p := measure.Probe{Person: fmt.Sprint(rng.IntN(15)), Mated: i%2 == 0, Score: float64(rng.IntN(values)) / float64(values)}
			if p.Mated {
				p.Rank = 1 + rng.IntN(4)
			}
			probes = append(probes, p)
		}
		s, err := measure.NewSearches(probes)
		if err != nil {
			t.Fatal(err)
		}
		counted := func(of, yes func(measure.Probe) bool) (r measure.Rate) {
			for _, p := range probes {
				if of(p) {
					r.Total++
					if yes(p) {
						r.Count++
					}
				}
			}
			return r
		}
		mated := func(p measure.Probe) bool { return p.Mated }
		stranger := func(p measure.Probe) bool { return !p.Mated }
		for k := range 5 {
			if got, want := s.Within(k), counted(mated, func(p measure.Probe) bool { return p.Rank <= k }); got != want {
				t.Fatalf("Within(%d) = %v, want %v", k, got, want)
			}
		}
		for i := range values + 1 {
			at := float64(i) / float64(values)
			if got, want := s.FPIR(at), counted(stranger, func(p measure.Probe) bool { return p.Score >= at }); got != want {
				t.Fatalf("FPIR(%v) = %v, want %v", at, got, want)
			}
			if got, want := s.DIR(at, 2), counted(mated, func(p measure.Probe) bool { return p.Rank <= 2 && p.Score >= at }); got != want {
				t.Fatalf("DIR(%v) = %v, want %v", at, got, want)
			}
		}
		for _, fpir := range []float64{0, 0.1, 0.3, 0.9} {
			at := s.ThresholdAt(fpir)
			if got := s.FPIR(at).Value(); got > fpir {
				t.Fatalf("ThresholdAt(%v) = %v names %v", fpir, at, got)
			}
			if lower := math.Nextafter(at, -1); s.FPIR(lower).Value() <= fpir {
				t.Fatalf("ThresholdAt(%v) = %v, but %v is enough", fpir, at, lower)
			}
		}
		for _, p := range s.Curve() {
			at := s.ThresholdAt(min(p.FPIR, 0.999))
			if p.FPIR == 1 {
				at = -1
			}
			if got := s.DIR(at, 1).Value(); math.Abs(got-p.DIR) > 1e-12 {
				t.Fatalf("the curve says %+v, counted %v at %v", p, got, at)
			}
		}
		iv := s.Bootstrap(measure.Options{Ranks: []int{1, 3}, FPIRs: []float64{0.3}, Replicates: 200, Confidence: 0.95, Seed: 1})
		for i, k := range []int{1, 3} {
			if v := s.Within(k).Value(); v < iv.Within[i].Low || v > iv.Within[i].High {
				t.Errorf("within %d: %v, interval %v", k, v, iv.Within[i])
			}
		}
		if iv.DIR[0].Low > iv.DIR[0].High || iv.DIR[0].High == 0 && s.DIR(s.ThresholdAt(0.3), 1).Count > 3 {
			t.Errorf("DIR interval %v", iv.DIR)
		}
	}
}

func TestNewSearchesRefuses(t *testing.T) {
	t.Parallel()
	mated, stranger := measure.Probe{Mated: true, Rank: 1}, measure.Probe{}
	for name, probes := range map[string][]measure.Probe{
		"nobody":      nil,
		"mated alone": {mated}, "strangers alone": {stranger},
		"no rank": {mated, stranger, {Mated: true}},
		"NaN":     {mated, {Score: math.NaN()}},
	} {
		if _, err := measure.NewSearches(probes); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// N-way identification is the mean over every possible draw of the others.
func TestNWay(t *testing.T) {
	t.Parallel()
	const gallery = 6
	var probes []measure.Probe
	for i, rank := range []int{1, 2, 4, 6} {
		probes = append(probes, measure.Probe{Person: fmt.Sprint(i), Mated: true, Rank: rank})
	}
	for n := 2; n <= gallery; n++ {
		var right, all float64
		for _, p := range probes {
			// The others are numbered by rank, without the right one: a draw is
			// a set of them, and those below Rank-1 come before.
			for draw := range 1 << (gallery - 1) {
				members, before := 0, 0
				for other := range gallery - 1 {
					if draw>>other&1 == 1 {
						members++
						if other < p.Rank-1 {
							before++
						}
					}
				}
				if members == n-1 {
					all++
					if before == 0 {
						right++
					}
				}
			}
		}
		got := measure.NWay(probes, gallery, n, measure.Options{Replicates: 100, Confidence: 0.95, Seed: 1})
		if math.Abs(got.Value-right/all) > 1e-12 {
			t.Errorf("%d ways: %v, want %v", n, got.Value, right/all)
		}
		if got.Interval.Low > got.Value || got.Interval.High < got.Value {
			t.Errorf("%d ways: %+v", n, got)
		}
	}
}

// A gallery of n needs a threshold at which the whole search keeps the rate.
func TestIdentification(t *testing.T) {
	t.Parallel()
	p := match.NewPolicy(&face.Calibration{
		Comparisons: 4e6,
		Points:      []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.3}, {Name: "fmr_1e-5", FMR: 1e-5, Threshold: 0.6}},
		Curve: []face.CurvePoint{
			{Score: 0.3, FMR: 0.01}, {Score: 0.4, FMR: 1.1e-3}, {Score: 0.5, FMR: 9e-5}, {Score: 0.6, FMR: 1e-5},
		},
	})
	type answer struct {
		Threshold float64
		Err       face.Kind
	}
	for _, tt := range []struct {
		name string
		n    int
		want answer
	}{
		{"fmr_1e-2", 0, answer{0.3, 0}},
		{"fmr_1e-2", 1, answer{0.3, 0}},
		{"fmr_1e-2", 2, answer{0.4, 0}},
		{"fmr_1e-2", 9, answer{0.4, 0}},
		{"fmr_1e-2", 10, answer{0.5, 0}},
		{"fmr_1e-2", 1000, answer{0.6, 0}},
		{"fmr_1e-2", 1010, answer{0, face.OperatingPointUnsupported}},
		{"fmr_1e-5", 1, answer{0.6, 0}},
		{"fmr_1e-5", 2, answer{0, face.OperatingPointUnsupported}},
		{"fmr_1e-3", 2, answer{0, face.OperatingPointUnsupported}},
		{"other", 2, answer{0, face.Invalid}},
	} {
		pt, err := p.Identification(tt.name, tt.n)
		if diff := cmp.Diff(tt.want, answer{pt.Threshold, face.KindOf(err)}); diff != "" {
			t.Errorf("%s, %d templates: %v\n%s", tt.name, tt.n, err, diff)
		}
		if err == nil {
			if fmr, _ := p.FMRAt(pt.Threshold); match.FPIR(fmr, max(tt.n, 1)) > pt.FMR*(1+1e-9) {
				t.Errorf("%s, %d templates: %v", tt.name, tt.n, match.FPIR(fmr, tt.n))
			}
		}
	}
	for n, want := range map[int]float64{1: 1e-3, 1000: 1 - math.Pow(1-1e-3, 1000), 0: 0} {
		if got := match.FPIR(1e-3, n); math.Abs(got-want) > 1e-12 {
			t.Errorf("FPIR of %d: %v, want %v", n, got, want)
		}
	}
}
