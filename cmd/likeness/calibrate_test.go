package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// Who may be compared with whom is the whole point of a calibration: one mate
// among the impostors moves the strict thresholds.
func TestCompareAll(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	var portraits []portrait
	add := func(set int, person string) {
		e := make(face.Embedding, 8)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		portraits = append(portraits, portrait{e, set, person})
	}
	for i := range 40 {
		add(0, string(rune('a'+i%7)))
		add(1, "")
		add(2, string(rune('a'+i%3))) // the same names as in set 0, other people
	}
	want := comparisons{measure.NewImpostors(), measure.NewImpostors()}
	for i, a := range portraits {
		for _, b := range portraits[:i] {
			if a.set == b.set && (a.set == 1 || a.person == b.person) {
				continue
			}
			score := a.embedding.Cosine(b.embedding)
			if want[ofAll].Add(score); a.set == b.set {
				want[withinSet].Add(score)
			}
		}
	}
	for _, workers := range []int{1, 3} {
		got, err := compareAll(t.Context(), io.Discard, portraits, workers)
		if err != nil {
			t.Fatal(err)
		}
		// A count for each of 200,001 thresholds is compared as a whole: one by one they take seconds under -race.
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(measure.Impostors{}), cmp.Comparer(slices.Equal[[]int64])); diff != "" {
			t.Errorf("%d workers (-want +got)\n%s", workers, diff)
		}
	}
}

func someCalibration() face.Calibration {
	return face.Calibration{
		Source: `photos "of" <people>`, Comparisons: 4000,
		Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.31234}},
		Curve:  []face.CurvePoint{{Score: -0.5, FMR: 1}, {Score: 0.31234, FMR: 0.0099997}},
	}
}

// An operator who falls short of a point is told how many strangers to add:
// as many as make the comparisons.
func TestMissing(t *testing.T) {
	t.Parallel()
	const need = 300_000
	cal := someCalibration()
	for _, people := range []int{90, 200, 775} {
		cal.Comparisons = int64(people) * int64(people-1) / 2
		got := missing("fmr_1e-4", cal, people)
		var short, more int64
		_, after, _ := strings.Cut(got, "impostor comparisons, ")
		if _, err := fmt.Sscanf(after, "%d more than these", &short); err != nil || short != need-cal.Comparisons {
			t.Errorf("%d people lack %d comparisons: %v in %s", people, need-cal.Comparisons, err, got)
		}
		_, after, _ = strings.Cut(got, "Calibrate on about ")
		_, err := fmt.Sscanf(after, "%d more people", &more)
		if n := int64(people) + more; err != nil || n*(n-1)/2 < need || (n-6)*(n-7)/2 >= need {
			t.Errorf("%d more than %d people: %v", more, people, err)
		}
	}
	cal.Comparisons = need
	if got := missing("fmr_1e-4", cal, 776); got != "" {
		t.Errorf("nothing is missing: %s", got)
	}
	for _, tt := range []struct{ point, says string }{{"strict", "fmr_1e-2, fmr_1e-3"}, {"fmr_1e-7", "--operating-point"}} {
		got := call(t.Context(), "calibrate", "--images", t.TempDir(), "--operating-point", tt.point)
		if got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v", tt.point, got)
		}
	}
}

func TestFormatCalibration(t *testing.T) {
	t.Parallel()
	for _, want := range []face.Calibration{someCalibration(), {Source: "", Points: []face.OperatingPoint{}, Curve: []face.CurvePoint{}}} {
		var got face.Calibration
		if err := json.Unmarshal(formatCalibration(want, "    "), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
}

func TestWriteManifest(t *testing.T) {
	t.Parallel()
	text, err := models.FS.ReadFile("sface.json")
	if err != nil {
		t.Fatal(err)
	}
	model, err := embed.ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	cal := someCalibration()
	name := filepath.Join(t.TempDir(), "sface.json")

	// A file that is not there is made.
	if err := writeManifest(name, model, cal, nil); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		written, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := embed.ParseManifest(written)
		if err != nil {
			t.Fatal(err)
		}
		want := model
		want.Calibration = &cal
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	check()

	// One that is there keeps its text and mode, first without, then with a calibration.
	if err := errors.Join(os.WriteFile(name, text, 0o644), os.Chmod(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writeManifest(name, model, cal, nil); err != nil {
			t.Fatal(err)
		}
		check()
		written, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if head := bytes.TrimRight(text, " \n}"); !bytes.HasPrefix(written, head) {
			t.Errorf("the text before it changed:\n%s", written)
		}
		cal.Comparisons++
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}

	// Another model's manifest is left alone.
	model.ID = "other"
	if err := writeManifest(name, model, cal, nil); err == nil || !strings.Contains(err.Error(), "another model") {
		t.Errorf("another model's manifest: %v", err)
	}
}

func TestReplaceMember(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ in, want string }{
		{`{"a": 1}`, "{\"a\": 1,\n  \"b\": [2]}"},
		{"{\n  \"a\": 1\n}\n", "{\n  \"a\": 1,\n  \"b\": [2]\n}\n"},
		{`{"a": 1, "b":  {"b": 3} , "c": "}"}`, `{"a": 1, "b":  [2] , "c": "}"}`},
		{"{\n  \"b\": null\n}\n", "{\n  \"b\": [2]\n}\n"},
	} {
		got, err := replaceMember([]byte(tt.in), "b", []byte("[2]"))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s\n gave %s, %v\n want %s", tt.in, got, err, tt.want)
		}
	}
}
