package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

func someCalibration() face.Calibration {
	return face.Calibration{
		Source: `photos "of" <people>`, Comparisons: 4000,
		Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.31234}},
		Curve:  []face.CurvePoint{{Score: -0.5, FMR: 1}, {Score: 0.31234, FMR: 0.0099997}},
	}
}

// An operating point that calibrate does not know is an error of usage.
func TestCalibrateRefusesOperatingPoint(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ point, says string }{{"strict", "fmr_1e-2, fmr_1e-3"}, {"fmr_1e-7", "--operating-point"}} {
		got := runTool(t.Context(), "calibrate", "--images", t.TempDir(), "--operating-point", tt.point)
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

// portraitsOf makes portraits of so many people, each with that many photos; sameness
// is how near those of one person are to one another.
func portraitsOf(t *testing.T, set, people, photos int, sameness float64) (out []measure.Portrait) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(set)))
	for i := range people {
		centre := make([]float64, 16)
		for k := range centre {
			centre[k] = sameness * rng.NormFloat64()
		}
		for range photos {
			e := make(face.Embedding, len(centre))
			for k := range e {
				e[k] = float32(centre[k] + rng.NormFloat64())
			}
			e, err := e.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, measure.Portrait{Embedding: e, Set: set, Person: fmt.Sprintf("person %d", i)})
		}
	}
	return out
}

func quietTool(t *testing.T) *tool {
	t.Helper()
	return &tool{ctx: t.Context(), stdout: io.Discard, stderr: io.Discard}
}

// A head that was trained can be written, is checked when it is read, and says
// what it said before.
func TestTrainHead(t *testing.T) {
	t.Parallel()
	picture := filepath.Join(t.TempDir(), "reliability.png")
	var log strings.Builder
	u := quietTool(t)
	u.stderr = &log
	head, err := calibrateCmd{Reliability: picture}.trainHead(u, newCalibrator(u, portraitsOf(t, 0, 120, 3, 1), 1), "made up")
	if err != nil {
		t.Fatal(err)
	}
	if head.HeldOut.Accuracy < 0.7 || head.HeldOut.ECE > 0.2 || head.HeldOut.Mated != 72 || head.Trained.People != 72 {
		t.Errorf("got %+v", head)
	}
	for _, v := range measure.HeadVariants() {
		if !strings.Contains(log.String(), "\n"+string(v)) {
			t.Errorf("the table does not tell of %s:\n%s", v, log.String())
		}
	}
	f, err := os.Open(picture)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 600 {
		t.Errorf("the reliability plot: %v", err)
	}

	text, err := models.FS.ReadFile("sface.json")
	if err != nil {
		t.Fatal(err)
	}
	model, err := embed.ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "sface.json")
	if err := os.WriteFile(name, text, 0o600); err != nil {
		t.Fatal(err)
	}
	// The crowd's embeddings have 16 numbers, the model's 128.
	wide := *head
	wide.Variant, wide.Weights = face.HeadAbsolute, make([]float64, 128)
	for i := range wide.Weights {
		wide.Weights[i] = -float64(i) / 7
	}
	if err := writeManifest(name, model, someCalibration(), &wide); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := embed.ParseManifest(written)
	if err != nil {
		t.Fatal(err)
	}
	wide.HeldOut = got.Head.HeldOut // rounded
	if diff := cmp.Diff(&wide, got.Head); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if strings.Contains(string(written), " \n") {
		t.Error("a line of the manifest ends with a blank")
	}
	wide.Weights = wide.Weights[1:]
	if err := writeManifest(name, model, someCalibration(), &wide); err == nil {
		t.Error("a head of another length was written")
	}
	var again face.Head
	if err := json.Unmarshal(formatHead(*head, "  "), &again); err != nil || again.Variant != head.Variant {
		t.Errorf("%+v, %v", again, err)
	}
}

// Each half of the people is checked on the other.
func TestPrintCrossCheck(t *testing.T) {
	t.Parallel()
	portraits := append(portraitsOf(t, 0, 150, 2, 1), portraitsOf(t, 1, 40, 1, 1)...)
	for i := range portraits[300:] {
		portraits[300+i].Person = ""
	}
	var log strings.Builder
	u := quietTool(t)
	u.stderr = &log
	if err := crossCheck(u, newCalibrator(u, portraits, 2)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "fmr_1e-2"); n != 2 {
		t.Errorf("the table:\n%s", log.String())
	}
}

// The table for galleries says where the calibration ends.
func TestPrintCalibrated(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	u := quietTool(t)
	u.stderr = &log
	cal, err := calibrate(u, newCalibrator(u, portraitsOf(t, 0, 150, 2, 1), 3), "made up")
	if err != nil {
		t.Fatal(err)
	}
	if len(cal.Points) != 2 || !strings.Contains(log.String(), "A WHOLE SEARCH OF") || !strings.Contains(log.String(), "-\n") {
		t.Errorf("%d points\n%s", len(cal.Points), log.String())
	}
}

func TestReliabilityWantsAHead(t *testing.T) {
	t.Parallel()
	got := runTool(t.Context(), "calibrate", "--images", t.TempDir(), "--reliability", "x.png")
	if got.code != exitUsage || !strings.Contains(got.stderr, "--head") {
		t.Errorf("%+v", got)
	}
}
