package measure_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

func TestReadUTKFace(t *testing.T) {
	t.Parallel()
	got, err := measure.ReadUTKFace([]string{"u/5_0_0_1.jpg.chip.jpg", "u/6_1_4_1.jpg.chip.jpg", "u/39_0_1_1.jpg", "u/116_1_3_1.jpg", "u/61_1_2017.jpg", "u/20_2_0_1.jpg"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"u/5_0_0_1.jpg.chip.jpg": "white men, 0 to 5", "u/6_1_4_1.jpg.chip.jpg": "other women, 6 to 12", "u/39_0_1_1.jpg": "black men, 18 to 39",
		"u/116_1_3_1.jpg": "Indian women, 65 and over", "u/61_1_2017.jpg": measure.NoGroup, "u/20_2_0_1.jpg": measure.NoGroup,
	}
	if diff := cmp.Diff(want, got.Groups); diff != "" {
		t.Error(diff)
	}
	if n := len(got.Rows); n != 6+1+10 || got.Rows[6].Name != "adults" || len(got.Rows[6].Groups) != 30 {
		t.Errorf("%d rows: %v", n, got.Rows)
	}
	if _, err := measure.ReadUTKFace([]string{"a/1.jpg"}); !errors.Is(err, face.Invalid) {
		t.Errorf("other names: %v", err)
	}
}

func TestCompareGroups(t *testing.T) {
	t.Parallel()
	photos := map[string]measure.Photo{
		"1": atDegrees(0), "2": atDegrees(0), "3": atDegrees(90), // of x: one of three pairs matches
		"4": atDegrees(0), "5": {Failure: "no_face"}, "6": atDegrees(180), // of y: none does, but two beside x do
		"7": atDegrees(0), // not labelled
	}
	labels := measure.GroupLabels{
		Groups: map[string]string{"1": "x", "2": "x", "3": "x", "4": "y", "5": "y", "6": "y", "7": measure.NoGroup},
		Rows:   []measure.GroupRow{{Name: "x", Groups: []string{"x"}}, {Name: "nobody", Groups: []string{"z"}}, {Name: "y", Groups: []string{"y"}}},
	}
	people := map[string]string{}
	for name := range photos {
		people[name] = name
	}
	got, err := measure.CompareGroups(labels, people, photos, halfPoint(), measure.DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Group         string
		Photos        int
		Failed        int64
		Alike, Others measure.Rate
	}
	var rows []row
	for _, g := range got.Groups {
		rows = append(rows, row{g.Group, g.Photos, g.FTA.Count, g.At[0].Alike, g.At[0].Others})
		for _, at := range g.At {
			if v := at.Alike.Value(); v < at.AlikeInterval.Low || v > at.AlikeInterval.High {
				t.Errorf("%s: %v outside of %+v", g.Group, v, at.AlikeInterval)
			}
		}
	}
	want := []row{
		{measure.AllGroups, 6, 1, measure.Rate{Count: 1, Total: 4}, measure.Rate{Count: 2, Total: 6}},
		{"x", 3, 0, measure.Rate{Count: 1, Total: 3}, measure.Rate{}},
		{"y", 3, 1, measure.Rate{Total: 1}, measure.Rate{}},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}

	// 1 and 2 turn out to be one person.
	people["2"] = "1"
	if got, err = measure.CompareGroups(labels, people, photos, halfPoint(), measure.DefaultOptions()); err != nil {
		t.Fatal(err)
	}
	if x := got.Groups[1].At[0]; x.Alike != (measure.Rate{Total: 2}) || x.FNMR.Comparisons != (measure.Rate{Total: 1}) {
		t.Errorf("%+v", x)
	}
	if _, err := measure.CompareGroups(labels, people, photos, nil, measure.DefaultOptions()); !errors.Is(err, face.Invalid) {
		t.Errorf("without a calibration: %v", err)
	}
}
