package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// builtInOnly are the flags of a call that uses no other models than those that are
// built in.
func builtInOnly(t *testing.T) []string {
	t.Helper()
	orttest.Library(t)
	return []string{"--data-dir", t.TempDir()}
}

// runMeasured runs eval or calibrate on the real weights and photos of
// ../shared.
func runMeasured(t *testing.T, args ...string) result {
	t.Helper()
	weights := filepath.Dir(sharedtest.Path(t, "models/mobileface-v2.onnx"))
	return runTool(t.Context(), append(append(args, "--models-dir", weights, "--detector=yunet_n"), builtInOnly(t)...)...)
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
	got := runMeasured(t, "eval", "--encoder=mobileface-v2", "--pairs", firstPairs(t, 40), "--images", sharedtest.Path(t, "data/lfw-dev.tar"), "--json", report, "--det", det)
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
	// The quality gate refuses one of these photos, or two: it depends on the
	// decoder, whose pixels differ in their last bits.
	if count, total := accuracy["count"].(float64), accuracy["total"].(float64); total < 78 || total > 79 || count < 75 {
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
		if got := runTool(t.Context(), "eval", "--pairs", pairs, "--images", tt.images); got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The report of pairs that could not all be compared says so, and is drawn at its
// thinnest.
func TestReportOfFailures(t *testing.T) {
	t.Parallel()
	photos := map[string]measure.Photo{
		"a/1": {Embeddings: []face.Embedding{{1, 0}}}, "a/2": {Embeddings: []face.Embedding{{1, 0}}}, "a/3": {Failure: "no_face"},
		"b/1": {Embeddings: []face.Embedding{{0, 1}}}, "b/2": {Embeddings: []face.Embedding{{0, 1}}},
	}
	pairs, err := measure.ReadPairs(strings.NewReader("a/1 a/2 1\na/1 a/3 1\nb/1 b/2 1\na/1 b/1 0\na/3 b/2 0\na/2 b/1 0\n"))
	if err != nil {
		t.Fatal(err)
	}
	people, err := measure.PeopleOnPhotos(pairs)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{}
	data := evalData{pairs: pairs, people: people, photos: photos}
	encoder := embed.Manifest{Calibration: &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}}
	if err := (evalCmd{Pairs: "pairs.txt"}).measure(r, data, encoder, nil); err != nil {
		t.Fatal(err)
	}
	if r.FTA != (measure.Rate{Count: 1, Total: 5}) || r.Failures["no_face"] != 1 {
		t.Errorf("failures %v %v", r.FTA, r.Failures)
	}
	var out strings.Builder
	if err := r.print(&out); err != nil || !strings.Contains(out.String(), "1 no_face") {
		t.Errorf("%v\n%s", err, out.String())
	}
	if _, err := plotDET(r); err != nil {
		t.Error(err)
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
	got := runMeasured(t, "calibrate", "--encoder=mobileface-v2", "--quality-gate=off", "--images", dir)
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

// The page of an identification holds its tables and plots, and loads nothing.
func TestPage(t *testing.T) {
	t.Parallel()
	photos := map[string]measure.Photo{}
	var names []string
	for i, p := range portraitsOf(t, 0, 22, 3, 5) {
		name := fmt.Sprintf("set/%s/%d.jpg", p.Person, i)
		names = append(names, name)
		photos[name] = measure.Photo{Embeddings: []face.Embedding{p.Embedding}}
	}
	id, err := measure.Identify(names, photos, nil, nil, measure.DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	r := &report{Encoder: "e", Detector: "d", Images: "<photos>", Identification: id}
	name := filepath.Join(t.TempDir(), "report.html")
	if err := writePage(name, r); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"AMONG THE FIRST", "<svg", "&lt;photos&gt;", "</html>"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the page does not have %s", want)
		}
	}
	for _, not := range []string{"<script", "src=", "@import", "url(http", "<photos>", "<?xml"} {
		if strings.Contains(string(b), not) {
			t.Errorf("the page has %s", not)
		}
	}
}

// The whole command on real photos, without pairs.
func TestEvalIdentify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	images := filepath.Join(dir, "photos")
	byPerson := map[string][]string{}
	for _, name := range sharedtest.LFW(t).Names() {
		byPerson[filepath.Dir(name)] = append(byPerson[filepath.Dir(name)], name)
	}
	several, single := 0, 0
	last := ""
	for _, name := range sharedtest.LFW(t).Names() {
		who := filepath.Dir(name)
		if who == last {
			continue
		}
		last = who
		own := byPerson[who]
		switch n := len(own); {
		case n > 1 && several < 8:
			several++
			own = own[:2]
		case n == 1 && single < 8:
			single++
		default:
			continue
		}
		for _, name := range own {
			to := filepath.Join(images, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, sharedtest.Photo(t, name), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, html := filepath.Join(dir, "r.json"), filepath.Join(dir, "r.html")
	got := runMeasured(t, "eval", "--encoder=mobileface-v2", "--images", images, "--identify", "--one-shot", "--against", "mobileface-v2", "--json", out, "--html", html)
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	for _, want := range []string{"AMONG THE FIRST", "AT FPIR", "EXPECTED FPIR", "one of 5", "rule of 30"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("the report does not say %q:\n%s", want, got.stdout)
		}
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		Identification struct{ Gallery int }
		OneShot        struct {
			Ways []struct {
				Found []measure.Estimate
			}
		} `json:"one_shot"`
		Accuracy *measure.Rate
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	if r.Identification.Gallery != 4 || len(r.OneShot.Ways) == 0 || r.OneShot.Ways[0].Found[0].Value < 0.8 || r.Accuracy != nil {
		t.Errorf("%s", b)
	}
	if diff := cmp.Diff(r.OneShot.Ways[0].Found[0], r.OneShot.Ways[0].Found[1]); diff != "" {
		t.Errorf("one encoder is not as good as itself:\n%s", diff)
	}
	if _, err := os.Stat(html); errors.Is(err, fs.ErrNotExist) {
		t.Error("there is no page")
	}
}

func TestEvalWantsSomething(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for says, args := range map[string][]string{
		"nothing to measure": {},
		"--against":          {"--identify", "--against", "x"},
		"--det":              {"--identify", "--det", "x.png"},
		"--gallery":          {"--all", "--gallery", "8"},
		"at least 2 people":  {"--identify", "--gallery", "1"},
		"--strangers":        {"--identify", "--strangers", dir},
		"--mates":            {"--identify", "--mates", dir},
		"--margin":           {"--all", "--margin", "3"},
		"--labels":           {"--labels", "utkface"},
	} {
		if got := runTool(t.Context(), append([]string{"eval", "--images", dir}, args...)...); got.code != exitUsage || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", says, got)
		}
	}
}

// UTKFace is read as it is: the labels are in the names, and its photos, which
// are cut close to the face, pass the gate with a margin only.
func TestEvalUTKFace(t *testing.T) {
	t.Parallel()
	set, err := photos.Open(sharedtest.Path(t, "data/utkface-1000.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	dir := t.TempDir()
	var taken []string
	for _, name := range set.Names() {
		if strings.HasPrefix(name, "utkface/26_1_") && len(taken) < 12 {
			taken = append(taken, name)
			b, err := set.ReadFile(name)
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, filepath.Base(name)), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	mates := filepath.Join(t.TempDir(), "mates.txt")
	if err := os.WriteFile(mates, []byte(filepath.Base(taken[0])+" "+filepath.Base(taken[1])+" 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "report.json")
	got := runTool(t.Context(), append([]string{"eval", "--images", dir, "--labels=utkface", "--mates", mates, "--margin=0.5", "--json", out}, builtInOnly(t)...)...)
	if got.code != exitOK || !strings.Contains(got.stdout, "(all)") {
		t.Fatalf("%+v", got)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	all := r.GroupComparisons.Groups[0]
	if passed := all.FTA.Total - all.FTA.Count; all.Photos != 12 || passed < 9 {
		t.Errorf("with a margin, %d of %d photos pass", passed, all.Photos)
	}
	if at := all.At[0]; at.Alike.Total+at.Others.Total < 9*8/2-1 || at.FNMR.Comparisons.Total > 1 {
		t.Errorf("%+v", at)
	}
}

// What is no photo gets no margin: the pipeline says what is wrong with it.
func TestMarginSet(t *testing.T) {
	t.Parallel()
	set := marginSet{Set: openSet(t, map[string]string{"a/no.jpg": "no photo"}), share: 0.5}
	if b, err := set.ReadFile("a/no.jpg"); err != nil || string(b) != "no photo" {
		t.Errorf("what is no photo: %q, %v", b, err)
	}
}

func openSet(t *testing.T, files map[string]string) photos.Set {
	t.Helper()
	set, err := photos.Open(photoFolder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	return set
}

// Every comparison of some people, a gallery of exact size, and people who are
// named in a file.
func TestEvalAll(t *testing.T) {
	t.Parallel()
	photos, people := map[string]measure.Photo{}, map[string]string{}
	var names []string
	for i, p := range portraitsOf(t, 0, 22, 3, 5) {
		name := fmt.Sprintf("set/%s/%d.jpg", p.Person, i)
		names = append(names, name)
		photos[name], people[name] = measure.Photo{Embeddings: []face.Embedding{p.Embedding}}, "set/"+p.Person
	}
	r := &report{Strangers: "others"}
	data := evalData{names: names, people: people, photos: photos, strangers: []measure.Photo{photos[names[0]], photos[names[1]]}}
	encoder := embed.Manifest{Calibration: &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}}
	if err := (evalCmd{All: true, Identify: true, Gallery: 10}).measure(r, data, encoder, nil); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"EVERY PERSON THE SAME", "BESIDE 2 PHOTOS OF others", "LOOK AT THEM", "people enrolled, one photo each", "draws of who"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, out.String())
		}
	}
	if r.Identification.Gallery != 10 {
		t.Errorf("a gallery of %d", r.Identification.Gallery)
	}
}

func TestEvalPeople(t *testing.T) {
	t.Parallel()
	set := openSet(t, map[string]string{"set/a/1.jpg": "", "set/a/2.jpg": "", "set/b/1.jpg": "", "set/c/1.jpg": ""})
	list := filepath.Join(t.TempDir(), "people.txt")
	if err := os.WriteFile(list, []byte("# who\na\n b \nz\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mates := filepath.Join(t.TempDir(), "mates.txt")
	if err := os.WriteFile(mates, []byte("a/1.jpg b/1.jpg 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, people, err := (evalCmd{All: true, People: list}).readPairs(set)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"set/a/1.jpg": "set/a", "set/a/2.jpg": "set/a", "set/b/1.jpg": "set/b"}, people); diff != "" {
		t.Error(diff)
	}
	if _, people, err = (evalCmd{All: true, People: list, Mates: mates}).readPairs(set); err != nil || people["set/b/1.jpg"] != people["set/a/2.jpg"] {
		t.Errorf("mates: %v, %v", people, err)
	}
	if err := os.WriteFile(list, []byte("z"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (evalCmd{All: true, People: list}).readPairs(set); err == nil {
		t.Error("nobody is left, and no error")
	}
}
