package measure

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
)

// Who may be compared with whom is the whole point of a calibration: one mate
// among the impostors moves the strict thresholds.
func TestCompareAll(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	var portraits []Portrait
	add := func(set int, person string) {
		e := make(face.Embedding, 8)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		portraits = append(portraits, Portrait{e, set, person})
	}
	for i := range 40 {
		add(0, string(rune('a'+i%7)))
		add(1, "")
		add(2, string(rune('a'+i%3))) // the same names as in set 0, other people
	}
	want := newImpostorCounts()
	for i, a := range portraits {
		for _, b := range portraits[:i] {
			if a.Set == b.Set && (a.Set == 1 || a.Person == b.Person) {
				continue
			}
			score := a.Embedding.Cosine(b.Embedding)
			if want[AllComparisons].Add(score); a.Set == b.Set {
				want[ComparisonsWithinASet].Add(score)
			}
		}
	}
	for _, workers := range []int{1, 3} {
		got, err := Calibrator{Workers: workers}.compareAll(t.Context(), portraits)
		if err != nil {
			t.Fatal(err)
		}
		// A count for each of 200,001 thresholds is compared as a whole: one by one they take seconds under -race.
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(Impostors{}), cmp.Comparer(slices.Equal[[]int64])); diff != "" {
			t.Errorf("%d workers (-want +got)\n%s", workers, diff)
		}
	}
}

// The shortfall is as many strangers as make the missing comparisons.
func TestShortfall(t *testing.T) {
	t.Parallel()
	const need = 300_000
	cal := face.Calibration{Points: []face.OperatingPoint{{Name: "fmr_1e-2"}}}
	for _, people := range []int{90, 200, 775} {
		cal.Comparisons = int64(people) * int64(people-1) / 2
		s, ok := ShortfallOf("fmr_1e-4", cal, people)
		if !ok || s.Needed != need || s.Missing != need-cal.Comparisons || s.Strictest != "fmr_1e-2" {
			t.Errorf("%d people lack %d comparisons: %+v, %v", people, need-cal.Comparisons, s, ok)
		}
		if n := people + s.MorePeople; n*(n-1)/2 < need || (n-6)*(n-7)/2 >= need {
			t.Errorf("%d more than %d people", s.MorePeople, people)
		}
	}
	cal.Comparisons = need
	if s, ok := ShortfallOf("fmr_1e-4", cal, 776); ok {
		t.Errorf("nothing is missing: %+v", s)
	}
}

// The second pass finds an interval around each point's rate.
func TestCalibratorCalibrate(t *testing.T) {
	t.Parallel()
	report, err := Calibrator{Portraits: portraitsOf(t, 0, 150, 2, 1), Workers: 3, Options: DefaultOptions()}.Calibrate(t.Context(), "made up")
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Points) != 2 || len(report.Support) != 2 || report.WithinASet != report.Comparisons {
		t.Errorf("%+v", report)
	}
	for _, p := range report.Points {
		if !(p.Interval.Low > 0 && p.Interval.Low < p.FMR && p.FMR < p.Interval.High*1.05 && p.Interval.High < 3*p.FMR) {
			t.Errorf("%+v", p)
		}
	}
}

// The halves share nobody, and each is checked on the other.
func TestCrossCheck(t *testing.T) {
	t.Parallel()
	portraits := append(portraitsOf(t, 0, 150, 2, 1), portraitsOf(t, 1, 40, 1, 1)...)
	for i := range portraits[300:] {
		portraits[300+i].Person = ""
	}
	c := Calibrator{Portraits: portraits, Workers: 2, Options: DefaultOptions()}
	parts := c.splitInHalves()
	in := map[string]int{}
	for half, part := range parts {
		for _, p := range part {
			if at, ok := in[p.Person]; ok && at != half && p.Person != "" {
				t.Errorf("%s is in both halves", p.Person)
			}
			in[p.Person] = half
		}
	}
	if n := len(parts[0]) + len(parts[1]); n != len(portraits) || len(parts[0]) < n/3 || len(parts[1]) < n/3 {
		t.Errorf("halves of %d and %d", len(parts[0]), len(parts[1]))
	}
	checks, err := c.CrossCheck(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byHalf := [2]int{}
	for _, check := range checks {
		if byHalf[check.Half]++; check.Point.Name != "fmr_1e-2" && check.Point.Name != "fmr_1e-3" || check.Observed.Total == 0 {
			t.Errorf("%+v", check)
		}
	}
	if byHalf[0] == 0 || byHalf[1] == 0 {
		t.Errorf("checks by half: %v", byHalf)
	}
}
