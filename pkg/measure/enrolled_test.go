package measure_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// crowd are people with photos around a direction of their own: 1 to 8 each.
func crowd(t *testing.T, n int) (people map[string]string, photos map[string]measure.Photo) {
	t.Helper()
	rng := rand.New(rand.NewPCG(8, 9))
	near := func(centre face.Embedding, by float64) face.Embedding {
		e := make(face.Embedding, 32)
		for i := range e {
			e[i] = float32(by * rng.NormFloat64() / math.Sqrt(32))
			if centre != nil {
				e[i] += centre[i]
			}
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	people, photos = map[string]string{}, map[string]measure.Photo{}
	for i := range n {
		centre := near(nil, 1)
		for photo := range 1 + i%8 {
			name := fmt.Sprintf("set/p%03d/%d.jpg", i, photo)
			people[name] = fmt.Sprint("person ", i)
			photos[name] = measure.Photo{Embeddings: []face.Embedding{near(centre, 1)}}
		}
		failed := fmt.Sprintf("set/p%03d/failed.jpg", i)
		people[failed] = fmt.Sprint("person ", i)
		photos[failed] = measure.Photo{Failure: "no_face"}
	}
	return people, photos
}

func calibrationAt(thresholds ...float64) *face.Calibration {
	cal := &face.Calibration{Comparisons: 1}
	for i, threshold := range thresholds {
		cal.Points = append(cal.Points, face.OperatingPoint{Name: fmt.Sprint("fmr_1e-", i+2), FMR: math.Pow(10, float64(-i-2)), Threshold: threshold})
	}
	return cal
}

// TestMeasureEnrolled: with more photos the mean errs less with the right
// people and no more with others; the best of them pays with errors with others.
func TestMeasureEnrolled(t *testing.T) {
	t.Parallel()
	const crowded = 120
	people, photos := crowd(t, crowded)
	o := measure.Options{Confidence: 0.95, Replicates: 200, Seed: 1}
	cal := calibrationAt(0.35, 0.45)
	list, err := measure.MeasureEnrolled(t.Context(), people, photos, []int{1, 2, 4, 7}, cal, 3, o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := measure.MeasureEnrolled(t.Context(), people, photos, []int{1, 2, 4, 7}, cal, 1, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(list, again); d != "" {
		t.Errorf("it depends on the workers: %s", d)
	}
	all := crowded / 8 * 36 // photos
	for i, n := range []int{1, 2, 4, 7} {
		e := list[i]
		if e.Enrolled != n || e.People != crowded/8*(8-n) || len(e.Points) != 2 {
			t.Fatalf("%d photos: %d people, %d points", e.Enrolled, e.People, len(e.Points))
		}
		var mated, impostor int64
		for own := n + 1; own <= 8; own++ {
			mated += int64(crowded / 8 * 10 * min(5, own-n))
			impostor += int64(crowded / 8 * 10 * (all - own))
		}
		for _, p := range e.Points {
			rates := map[measure.Way]measure.RatesOfWay{}
			for _, w := range p.Ways {
				rates[w.Way] = w
				if w.FNMR.Total != mated || w.FMR.Total != impostor {
					t.Errorf("%d photos, %v: %v mated and %v impostor, want %d and %d", n, w.Way, w.FNMR, w.FMR, mated, impostor)
				}
				for what, in := range map[string]struct {
					rate     measure.Rate
					interval face.Interval
				}{"FMR": {w.FMR, w.FMRInterval}, "FNMR": {w.FNMR, w.FNMRInterval}} {
					if v := in.rate.Value(); !(in.interval.Low <= v && v <= in.interval.High) || v > 0 && in.interval.High-in.interval.Low > 4*v {
						t.Errorf("%d photos, %v: %s of %v in %+v", n, w.Way, what, v, in.interval)
					}
				}
			}
			one, best, mean := rates[measure.FirstPhoto], rates[measure.BestPhoto], rates[measure.MeanOfPhotos]
			if n == 1 {
				if len(rates) != 1 || mean.FNMR.Count == 0 || mean.FMR.Count == 0 {
					t.Errorf("one photo: %+v", p)
				}
				continue
			}
			if !(2*mean.FNMR.Count < one.FNMR.Count && 2*best.FNMR.Count < one.FNMR.Count) {
				t.Errorf("%d photos at %v: FNMR of the mean %v, the best %v, one %v", n, p.Threshold, mean.FNMR, best.FNMR, one.FNMR)
			}
			if !(best.FMR.Value() > 1.5*one.FMR.Value() && mean.FMR.Value() < 1.5*one.FMR.Value()) {
				t.Errorf("%d photos at %v: FMR of the mean %v, the best %v, one %v", n, p.Threshold, mean.FMR, best.FMR, one.FMR)
			}
		}
	}
}

// TestMeasureEnrolledCounts checks the counts of two people against what can be
// said of them in advance.
func TestMeasureEnrolledCounts(t *testing.T) {
	t.Parallel()
	photo := func(e ...float32) measure.Photo { return measure.Photo{Embeddings: []face.Embedding{e}} }
	// Ada's photos are at right angles, and so at 0.71 from the mean of two, and
	// Bob's are one. Ada's third is Bob's.
	photos := map[string]measure.Photo{
		"ada/1": photo(1, 0, 0), "ada/2": photo(0, 1, 0), "ada/3": photo(0, 0, 1),
		"bob/1": photo(0, 0, 1), "bob/2": photo(0, 0, 1), "bob/3": photo(0, 0, 1),
	}
	people := map[string]string{}
	for name := range photos {
		people[name] = name[:3]
	}
	list, err := measure.MeasureEnrolled(t.Context(), people, photos, []int{2}, calibrationAt(0.6, 0.9), 1, measure.Options{Confidence: 0.9, Replicates: 50, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	// In 10 deals Ada's enrolled photos miss her third one every time. Who has
	// one of Ada's that is Bob's lets his three photos pass, and her third is taken
	// for Bob every time.
	with := int64(0) // deals in which Ada's third photo is enrolled
	for _, w := range list[0].Points[0].Ways {
		if w.Way == measure.BestPhoto {
			with = (w.FMR.Count - 10) / 3
		}
	}
	if with < 1 || with > 9 {
		t.Fatalf("Ada's third photo is enrolled %d times of 10", with)
	}
	for at, p := range list[0].Points {
		for _, w := range p.Ways {
			want := measure.RatesOfWay{Way: w.Way, FMR: measure.Rate{Count: 10 + 3*with, Total: 60}, FNMR: measure.Rate{Count: 10, Total: 20}}
			switch {
			case w.Way == measure.FirstPhoto:
				want.FMR.Count = w.FMR.Count // one of two is drawn
				if first := (w.FMR.Count - 10) / 3; first > with {
					t.Errorf("the first is the third photo %d times of %d", first, with)
				}
			case w.Way == measure.MeanOfPhotos && at == 1: // 0.71 is too little
				want.FMR.Count = 10
			}
			if d := cmp.Diff(want, w, cmpopts.IgnoreTypes(face.Interval{})); d != "" {
				t.Errorf("%v: %s", p.Threshold, d)
			}
		}
	}
}

func TestMeasureEnrolledRefuses(t *testing.T) {
	t.Parallel()
	people, photos := crowd(t, 16)
	o := measure.Options{Confidence: 0.95, Replicates: 2, Seed: 1}
	cal := calibrationAt(0.5)
	for name, tt := range map[string]struct {
		numbers []int
		cal     *face.Calibration
	}{"nobody has so many": {[]int{1, 8}, cal}, "no photos": {[]int{0}, cal}, "fewer": {[]int{-1}, cal}, "no calibration": {[]int{1}, nil}} {
		if _, err := measure.MeasureEnrolled(t.Context(), people, photos, tt.numbers, tt.cal, 2, o); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := measure.MeasureEnrolled(ctx, people, photos, []int{1}, cal, 2, o); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context: %v", err)
	}
}
