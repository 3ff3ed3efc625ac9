package main

import (
	"bufio"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// alone are the flags of a call that looks at no other model than what is
// built in.
func alone(t *testing.T) []string {
	t.Helper()
	orttest.Library(t)
	return []string{"--data-dir", t.TempDir()}
}

// measured is a call of eval or calibrate on the real weights and photos of
// ../shared.
func measured(t *testing.T, args ...string) result {
	t.Helper()
	weights := filepath.Dir(sharedtest.Path(t, "models/mobileface-v2.onnx"))
	return call(t.Context(), append(append(args, "--models-dir", weights, "--detector=yunet_n"), alone(t)...)...)
}

// firstPairs writes the first n mated and the first n impostor pairs to a file.
func firstPairs(t *testing.T, n int) string {
	t.Helper()
	all, err := os.Open(sharedtest.Path(t, "data/lfw-dev-pairs.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	var some strings.Builder
	seen := map[bool]int{}
	for lines := bufio.NewScanner(all); lines.Scan(); {
		if line := lines.Text(); !strings.HasPrefix(line, "#") {
			if mated := strings.HasSuffix(line, "1"); seen[mated] < n {
				seen[mated]++
				some.WriteString(line + "\n")
			}
		}
	}
	name := filepath.Join(t.TempDir(), "pairs.txt")
	if err := os.WriteFile(name, []byte(some.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestEval(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	report, det := filepath.Join(dir, "report.json"), filepath.Join(dir, "det.png")
	got := measured(t, "eval", "--encoder=mobileface-v2", "--pairs", firstPairs(t, 40), "--images", sharedtest.Path(t, "data/lfw-dev.tar"), "--json", report, "--det", det)
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{"mobileface-v2 with yunet_n", " of 40\n", "low_quality", "AT FMR", "0.01*", "rule of 30"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("the report does not say %q:\n%s", want, got.stdout)
		}
	}
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	accuracy := r["accuracy"].(map[string]any)
	// One of these photos is refused by the quality gate.
	if count, total := accuracy["count"].(float64), accuracy["total"].(float64); total != 79 || count < 75 {
		t.Errorf("accuracy %v", accuracy)
	}
	f, err := os.Open(det)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if img, err := png.Decode(f); err != nil || img.Bounds().Dx() < 600 {
		t.Errorf("the DET curve: %v", err)
	}
}

func TestEvalRefuses(t *testing.T) {
	t.Parallel()
	dir := photoFolder(t, map[string]string{"a/1.jpg": "x", "a/2.jpg": "x", "b/1.jpg": "x"})
	for name, tt := range map[string]struct{ pairs, images, says string }{
		"no such photo":    {"a/1.jpg a/9.jpg 1", dir, "a/9.jpg"},
		"no such images":   {"a/1.jpg a/2.jpg 1", filepath.Join(dir, "none"), "--images"},
		"not pairs":        {"a/1.jpg", dir, "line 1"},
		"a contradiction":  {"a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 1\na/2.jpg b/1.jpg 0", dir, "different people"},
		"not an image set": {"a/1.jpg a/2.jpg 1", filepath.Join(dir, "a", "1.jpg"), "--images"},
	} {
		pairs := filepath.Join(t.TempDir(), "pairs.txt")
		if err := os.WriteFile(pairs, []byte(tt.pairs), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := call(t.Context(), "eval", "--pairs", pairs, "--images", tt.images); got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// What cannot be compared is counted, by reason, and said both ways.
func TestEvaluateCountsFailures(t *testing.T) {
	t.Parallel()
	pairs, err := parsePairs(strings.NewReader("a/1 a/2 1\na/1 a/3 1\nb/1 b/2 1\na/1 b/1 0\na/3 b/2 0\na/2 b/1 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := people(pairs)
	if err != nil {
		t.Fatal(err)
	}
	cal := &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
	r, err := evaluate(pairs, who, map[string]acquired{
		"a/1": {embedding: face.Embedding{1, 0}}, "a/2": {embedding: face.Embedding{1, 0}}, "a/3": {failure: "no_face"},
		"b/1": {embedding: face.Embedding{0, 1}}, "b/2": {embedding: face.Embedding{0, 1}},
	}, cal)
	if err != nil {
		t.Fatal(err)
	}
	rate := func(count, total int64) measure.Rate { return measure.Rate{Count: count, Total: total} }
	if r.FTA != rate(1, 5) || r.Failures["no_face"] != 1 || r.Mated != rate(2, 3) || r.Impostor != rate(2, 3) {
		t.Errorf("failures %v %v, mated %v, impostor %v", r.FTA, r.Failures, r.Mated, r.Impostor)
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

	// The report can be read, and drawn, at its thinnest.
	var out strings.Builder
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "1 no_face") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if _, err := plotDET(r); err != nil {
		t.Error(err)
	}
}

func TestEvaluateFolds(t *testing.T) {
	t.Parallel()
	pairs, err := parsePairs(strings.NewReader("a/1 a/2 1 x\na/1 b/1 0 x\nb/1 b/2 1 y\na/2 b/1 0 y\n"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := people(pairs)
	if err != nil {
		t.Fatal(err)
	}
	a, b := acquired{embedding: face.Embedding{1, 0}}, acquired{embedding: face.Embedding{0, 1}}
	r, err := evaluate(pairs, who, map[string]acquired{"a/1": a, "a/2": a, "b/1": b, "b/2": b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Folds == nil || r.Folds.Number != 2 || r.Folds.Accuracy != 1 || r.Folds.StdErr != 0 {
		t.Errorf("folds %+v", r.Folds)
	}
}

// A calibration of real scores holds what its counts support and no more.
func TestCalibrate(t *testing.T) {
	t.Parallel()
	lfw := sharedtest.LFW(t)
	dir := t.TempDir()
	taken := 0
	last := ""
	for _, name := range lfw.Names() {
		if person := filepath.Dir(name); person != last && taken < 90 {
			last = person
			taken++
			to := filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, sharedtest.Photo(t, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lfw", "readme.txt"), []byte("no photo"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := measured(t, "calibrate", "--encoder=mobileface-v2", "--quality-gate=off", "--images", dir)
	if got.code != exitOK || !strings.Contains(got.stderr, "1 of 91 1 unsupported_image") {
		t.Fatalf("%+v", got)
	}
	var cal face.Calibration
	if err := json.Unmarshal([]byte(got.stdout), &cal); err != nil {
		t.Fatal(err)
	}
	if cal.Comparisons != 90*89/2 || len(cal.Points) != 1 || cal.Points[0].Threshold < 0.1 || cal.Points[0].Threshold > 0.5 {
		t.Errorf("%d comparisons, points %v", cal.Comparisons, cal.Points)
	}
	// So few people carry no server's usual point.
	if !strings.Contains(got.stderr, "fmr_1e-4 is missing: it needs 300000 impostor comparisons, 295995 more") ||
		!strings.Contains(got.stderr, "--operating-point=fmr_1e-2 (LIKENESS_OPERATING_POINT)") {
		t.Error(got.stderr)
	}
}
