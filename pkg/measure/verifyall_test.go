package measure_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// atDegrees is a photo whose embedding points that way in the plane.
func atDegrees(degrees float64) measure.Photo {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	return measure.Photo{Embeddings: []face.Embedding{{float32(cos), float32(sin)}}}
}

// folderSet names the photos of a set, and the person on each, which is its folder.
func folderSet(photos map[string]measure.Photo) (names []string, people map[string]string) {
	people = map[string]string{}
	for name := range photos {
		names, people[name] = append(names, name), path.Dir(name)
	}
	return names, people
}

func halfPoint() *face.Calibration {
	return &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
}

func TestVerifyAll(t *testing.T) {
	t.Parallel()
	photos := map[string]measure.Photo{
		"a/1": atDegrees(0), "a/2": atDegrees(0), "a/3": atDegrees(0), "a/4": atDegrees(90), // 3 of 6 pairs match
		"b/1": atDegrees(180), "b/2": atDegrees(180), "b/3": {Failure: "no_face"}, // 1 of 1, and 2 pairs are lost
		"c/1": atDegrees(0), // matches 3 photos of a
	}
	names, people := folderSet(photos)
	o := measure.DefaultOptions()
	got, err := measure.VerifyAll(names, people, photos, []measure.Photo{atDegrees(90), {Failure: "no_face"}}, halfPoint(), o)
	if err != nil {
		t.Fatal(err)
	}
	if got.People != 3 || got.Several != 2 || got.Mated != (measure.Rate{Count: 7, Total: 9}) || got.Impostor != 14 || got.Strangers != 1 {
		t.Errorf("%+v", got)
	}
	at := got.At[len(got.At)-1]
	if at.Name != "fmr_1e-2" || at.FMR != (measure.Rate{Count: 3, Total: 14}) || at.Strangers != (measure.Rate{Count: 1, Total: 7}) {
		t.Errorf("%+v", at)
	}
	if at.FNMR.Value != 0.25 || at.FNMR.Comparisons != (measure.Rate{Count: 3, Total: 7}) || math.Abs(at.WithFailures-(0.5+2.0/3)/2) > 1e-12 {
		t.Errorf("FNMR %+v, with failures %v", at.FNMR, at.WithFailures)
	}
	if at.FNMR.Interval.Low != 0 || at.FNMR.Interval.High != 0.5 {
		t.Errorf("interval %+v: a draw has one person or both", at.FNMR.Interval)
	}
	// No false match is allowed in 14 comparisons, so the threshold is just above the highest score.
	if here := got.At[0]; !here.Here || here.FMR.Count != 0 || here.Threshold < 1 || here.FNMR.Value != 1 {
		t.Errorf("%+v", here)
	}
	if len(got.Highest) != 10 || got.Highest[0].Score < got.Highest[9].Score {
		t.Errorf("highest %v", got.Highest)
	}

	if _, err := measure.VerifyAll(names[:1], people, photos, nil, nil, o); !errors.Is(err, face.Invalid) {
		t.Errorf("one photo: %v", err)
	}
}

// The rates of many people are near those that they were made with, and inside
// their intervals.
func TestVerifyAllIntervals(t *testing.T) {
	t.Parallel()
	photos := map[string]measure.Photo{}
	r := rand.New(rand.NewPCG(3, 3))
	for person := range 120 {
		centre := make([]float64, 8)
		for i := range centre {
			centre[i] = r.NormFloat64()
		}
		for n := range 1 + person%4 {
			e, length := make(face.Embedding, len(centre)), 0.0
			for i, c := range centre {
				v := c + 0.5*r.NormFloat64()
				e[i], length = float32(v), length+v*v
			}
			for i := range e {
				e[i] /= float32(math.Sqrt(length))
			}
			photos[fmt.Sprintf("%d/%d", person, n)] = measure.Photo{Embeddings: []face.Embedding{e}}
		}
	}
	names, people := folderSet(photos)
	o := measure.DefaultOptions()
	o.Replicates = 300
	got, err := measure.VerifyAll(names, people, photos, nil, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range got.At {
		rate := at.FMR.Value()
		if rate > at.Target || rate < at.Target*0.9 {
			t.Errorf("%s: rate %g", at.Name, rate)
		}
		if at.FNMR.Value < at.FNMR.Interval.Low || at.FNMR.Value > at.FNMR.Interval.High || at.FNMR.Interval.Low == at.FNMR.Interval.High {
			t.Errorf("%s: FNMR %g outside of %+v", at.Name, at.FNMR.Value, at.FNMR.Interval)
		}
	}
	if a := got.Accuracy; a.Value < a.Interval.Low || a.Value > a.Interval.High || a.Value < 0.8 {
		t.Errorf("accuracy %+v", a)
	}
	again, err := measure.VerifyAll(names, people, photos, nil, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got.At[1].FNMR, again.At[1].FNMR); diff != "" {
		t.Errorf("not the same again:\n%s", diff)
	}
}
