package measure

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
)

// What cannot be compared is counted, by reason, and said both ways.
func TestVerifyPairsCountsFailures(t *testing.T) {
	t.Parallel()
	pairs, err := ReadPairs(strings.NewReader("a/1 a/2 1\na/1 a/3 1\nb/1 b/2 1\na/1 b/1 0\na/3 b/2 0\na/2 b/1 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	people, err := PeopleOnPhotos(pairs)
	if err != nil {
		t.Fatal(err)
	}
	cal := &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
	photos := map[string]Photo{
		"a/1": {Embeddings: []face.Embedding{face.Embedding{1, 0}}}, "a/2": {Embeddings: []face.Embedding{face.Embedding{1, 0}}}, "a/3": {Failure: "no_face"},
		"b/1": {Embeddings: []face.Embedding{face.Embedding{0, 1}}}, "b/2": {Embeddings: []face.Embedding{face.Embedding{0, 1}}},
	}
	r, err := VerifyPairs(pairs, people, photos, cal, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	rate := func(count, total int64) Rate { return Rate{Count: count, Total: total} }
	failures, fta := CountFailures(slices.Collect(maps.Values(photos)))
	if fta != rate(1, 5) || failures["no_face"] != 1 || r.Mated != rate(2, 3) || r.Impostor != rate(2, 3) {
		t.Errorf("failures %v %v, mated %v, impostor %v", fta, failures, r.Mated, r.Impostor)
	}
	if r.Accuracy != rate(4, 4) || r.WithFailures.Accuracy != rate(5, 6) {
		t.Errorf("accuracy %v, with failures %v", r.Accuracy, r.WithFailures.Accuracy)
	}
	if r.AtFMR[0].FNMR != rate(0, 2) || r.WithFailures.FNMR[0] != rate(1, 3) {
		t.Errorf("FNMR %v, with failures %v", r.AtFMR[0].FNMR, r.WithFailures.FNMR[0])
	}
	if p := r.Points[0]; p.Observed != rate(0, 2) || p.FNMR != rate(0, 2) {
		t.Errorf("operating point %+v", p)
	}
}

// One person with many pairs is one person: the interval is as wide as that.
func TestVerifyPairsIntervals(t *testing.T) {
	t.Parallel()
	photos := map[string]Photo{}
	var pairs []Pair
	for person := range 10 {
		for n := range 20 {
			e := face.Embedding{1, 0}
			if person == 0 && n%2 == 1 {
				e = face.Embedding{0, 1} // nobody matches this half of the photos
			}
			photos[fmt.Sprintf("%d/%d", person, n)] = Photo{Embeddings: []face.Embedding{e}}
			if n%2 == 1 {
				pairs = append(pairs, Pair{fmt.Sprintf("%d/%d", person, n-1), fmt.Sprintf("%d/%d", person, n), true, ""})
			}
		}
	}
	pairs = append(pairs, Pair{"0/1", "1/0", false, ""})
	people, err := PeopleOnPhotos(pairs)
	if err != nil {
		t.Fatal(err)
	}
	cal := &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
	v, err := VerifyPairs(pairs, people, photos, cal, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	p := v.Points[0]
	if counted := p.FNMR.Interval(0.95); p.FNMR != (Rate{Count: 10, Total: 100}) || p.FNMRInterval.Low != 0 || p.FNMRInterval.High < 0.25 || p.FNMRInterval.High < counted.High {
		t.Errorf("%v in %+v; the counts alone say %+v", p.FNMR, p.FNMRInterval, counted)
	}
	if p.ObservedInterval != p.Observed.Interval(0.95) {
		t.Errorf("no false match: %+v", p.ObservedInterval)
	}
}

func TestVerifyPairsFolds(t *testing.T) {
	t.Parallel()
	pairs, err := ReadPairs(strings.NewReader("a/1 a/2 1 x\na/1 b/1 0 x\nb/1 b/2 1 y\na/2 b/1 0 y\n"))
	if err != nil {
		t.Fatal(err)
	}
	people, err := PeopleOnPhotos(pairs)
	if err != nil {
		t.Fatal(err)
	}
	a, b := Photo{Embeddings: []face.Embedding{face.Embedding{1, 0}}}, Photo{Embeddings: []face.Embedding{face.Embedding{0, 1}}}
	r, err := VerifyPairs(pairs, people, map[string]Photo{"a/1": a, "a/2": a, "b/1": b, "b/2": b}, nil, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	if r.Folds == nil || r.Folds.Number != 2 || r.Folds.Accuracy != 1 || r.Folds.StdErr != 0 {
		t.Errorf("folds %+v", r.Folds)
	}
}

func TestReadAndVerifyGroups(t *testing.T) {
	t.Parallel()
	who := map[string]string{"lfw/Ann/1.jpg": "lfw/Ann", "lfw/Ann/2.jpg": "lfw/Ann", "lfw/Bob/1.jpg": "lfw/Bob", "lfw/Cy/1.jpg": "lfw/Cy"}
	got, err := ReadGroups(strings.NewReader("person,group\nAnn, a\nlfw/Ann/2.jpg,b\n\"lfw/Bob\",b\n"), who)
	want := map[string]string{"lfw/Ann/1.jpg": "a", "lfw/Ann/2.jpg": "b", "lfw/Bob/1.jpg": "b", "lfw/Cy/1.jpg": NoGroup}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for name, in := range map[string]string{"nobody": "x,y\n", "one cell": "Ann\n", "empty": "Ann,\n", "nothing": ""} {
		if _, err := ReadGroups(strings.NewReader(in), who); err == nil {
			t.Errorf("%s: taken", name)
		}
	}

	v := &Verification{AtFMR: []RatesAtFMR{{Target: 0.01, Threshold: 0.5}}}
	x, y := Photo{Embeddings: []face.Embedding{face.Embedding{1, 0}}}, Photo{Embeddings: []face.Embedding{face.Embedding{0, 1}}}
	photos := map[string]Photo{"lfw/Ann/1.jpg": x, "lfw/Ann/2.jpg": y, "lfw/Bob/1.jpg": y, "lfw/Cy/1.jpg": {Failure: "no_face"}}
	list := VerifyGroups(v, []Pair{
		{"lfw/Ann/2.jpg", "lfw/Bob/1.jpg", false, ""}, // a false match within b
		{"lfw/Ann/1.jpg", "lfw/Ann/2.jpg", true, ""},  // a false non-match between two
		{"lfw/Cy/1.jpg", "lfw/Ann/1.jpg", false, ""},  // not compared
	}, photos, got, DefaultOptions())
	rate := func(count, total int64) Rate { return Rate{Count: count, Total: total} }
	by := map[string]GroupVerification{}
	for _, g := range list {
		by[g.Group] = g
	}
	if b, two := by["b"].At[0], by[BetweenGroups].At[0]; b.FMR != rate(1, 1) || b.FNMR.Total != 0 || two.FNMR != rate(1, 1) || by[NoGroup].FTA != rate(1, 1) {
		t.Errorf("%+v", list)
	}
}
