package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// album is people with so many photos each, as names and what became of them.
func album(t *testing.T, sameness float64, counts ...int) (names []string, photos map[string]acquired) {
	t.Helper()
	photos = map[string]acquired{}
	for i, n := range counts {
		crowd := portraitsOf(t, i+1, 1, n, sameness)
		for j, p := range crowd {
			name := fmt.Sprintf("set/person%02d/%d.jpg", i, j)
			names = append(names, name)
			photos[name] = acquired{embedding: p.embedding, against: p.embedding}
		}
	}
	return names, photos
}

func repeated(n, times int) []int {
	out := make([]int, times)
	for i := range out {
		out[i] = n
	}
	return out
}

// Ranks and best scores, found the long way.
func TestSceneSearch(t *testing.T) {
	t.Parallel()
	names, photos := album(t, 0.7, append(repeated(3, 12), repeated(1, 10)...)...)
	s, err := stage(names, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.reference) != 6 || s.mated != 12 || len(s.probes) != 12+6*3+10 {
		t.Fatalf("%d enrolled, %d mated of %d probes", len(s.reference), s.mated, len(s.probes))
	}
	enrolled := map[string]bool{}
	for who, photo := range s.reference {
		enrolled[who] = true
		for _, p := range s.probes {
			if p == photo {
				t.Errorf("%s is enrolled and searched for", p)
			}
		}
	}
	for i, p := range s.probes {
		if enrolled[filepath.Dir(p)] != (i < s.mated) {
			t.Errorf("%s is in the wrong place", p)
		}
	}
	probes, index, gallery := s.search(func(photo string) face.Embedding { return photos[photo].embedding })
	if gallery != 6 || len(probes) != len(s.probes) {
		t.Fatalf("%d searched in %d", len(probes), gallery)
	}
	for i, got := range probes {
		photo := s.probes[index[i]]
		want := measure.Probe{Person: filepath.Dir(photo), Mated: enrolled[filepath.Dir(photo)], Score: -2}
		scores := map[string]float64{}
		for who, ref := range s.reference {
			scores[who] = photos[photo].embedding.Cosine(photos[ref].embedding)
		}
		for _, score := range scores {
			if want.Mated && score >= scores[want.Person] {
				want.Rank++ // their own counts as the first
			}
			if !want.Mated {
				want.Score = max(want.Score, score)
			}
		}
		if want.Mated {
			want.Score = scores[want.Person]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", photo, diff)
		}
	}
	if _, err := stage(names[:3], 0.5); err == nil {
		t.Error("one person is a gallery")
	}
}

// What could not be acquired is counted as a miss, and who could not be
// enrolled is not found.
func TestIdentifyCountsFailures(t *testing.T) {
	t.Parallel()
	names, photos := album(t, 5, append(repeated(3, 12), repeated(1, 10)...)...)
	s, err := stage(names, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	photos[s.probes[0]] = acquired{failure: "no_face"}
	var lost string
	for who, photo := range s.reference {
		if who != filepath.Dir(s.probes[0]) {
			lost = who
			photos[photo] = acquired{failure: "no_face"}
			break
		}
	}
	groups := map[string]string{}
	for i, name := range names {
		groups[name] = []string{"even", "odd"}[i%2]
	}
	cal := &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
	id, err := identify(names, photos, groups, cal)
	if err != nil {
		t.Fatal(err)
	}
	rate := func(count, total int64) measure.Rate { return measure.Rate{Count: count, Total: total} }
	if id.Gallery != 5 || id.NotEnrolled != rate(1, 6) || id.Mated != rate(9, 12) || id.Strangers.Count != 28 {
		t.Errorf("lost %s: %+v", lost, id)
	}
	first := id.Within[0]
	if first.Found.Total != 9 || first.WithFailures.Total != 12 || first.Found.Count != first.WithFailures.Count || first.Found.Count < 8 {
		t.Errorf("%+v", first)
	}
	if p := id.Points[0]; p.Expected != match.FPIR(1e-2, 5) || p.Observed.Total != 28 {
		t.Errorf("%+v", p)
	}
	if len(id.Groups) != 2 || id.Groups[0].First.Total+id.Groups[1].First.Total != 9 {
		t.Errorf("%+v", id.Groups)
	}

	// It can be read and drawn.
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

func TestOneShots(t *testing.T) {
	t.Parallel()
	names, photos := album(t, 3, append(repeated(2, 30), 1)...)
	for name, p := range photos { // the second encoder sees the same in everybody
		p.against = photos[names[0]].embedding
		photos[name] = p
	}
	o, err := oneShots(names, photos, []string{"trained", "untrained"})
	if err != nil {
		t.Fatal(err)
	}
	var ns []int
	for _, w := range o.Ways {
		ns = append(ns, w.N)
		if w.Found[0].Value < 0.8 || w.Found[1].Value != 0 { // ties are no finds
			t.Errorf("%+v", w)
		}
	}
	if diff := cmp.Diff([]int{5, 20, 30}, ns); diff != "" || o.People != 30 || o.Probes != 30 {
		t.Errorf("%+v %s", o, diff)
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	who := map[string]string{"lfw/Ann/1.jpg": "lfw/Ann", "lfw/Ann/2.jpg": "lfw/Ann", "lfw/Bob/1.jpg": "lfw/Bob", "lfw/Cy/1.jpg": "lfw/Cy"}
	got, err := parseGroups(strings.NewReader("person,group\nAnn, a\nlfw/Ann/2.jpg,b\n\"lfw/Bob\",b\n"), who)
	want := map[string]string{"lfw/Ann/1.jpg": "a", "lfw/Ann/2.jpg": "b", "lfw/Bob/1.jpg": "b", "lfw/Cy/1.jpg": noGroup}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	for name, in := range map[string]string{"nobody": "x,y\n", "one cell": "Ann\n", "empty": "Ann,\n", "nothing": ""} {
		if _, err := parseGroups(strings.NewReader(in), who); err == nil {
			t.Errorf("%s: taken", name)
		}
	}

	v := &verification{AtFMR: []atFMR{{Target: 0.01, Threshold: 0.5}}}
	x, y := acquired{embedding: face.Embedding{1, 0}}, acquired{embedding: face.Embedding{0, 1}}
	photos := map[string]acquired{"lfw/Ann/1.jpg": x, "lfw/Ann/2.jpg": y, "lfw/Bob/1.jpg": y, "lfw/Cy/1.jpg": {failure: "no_face"}}
	list := byGroup(v, []pair{
		{"lfw/Ann/2.jpg", "lfw/Bob/1.jpg", false, ""}, // a false match within b
		{"lfw/Ann/1.jpg", "lfw/Ann/2.jpg", true, ""},  // a false non-match between two
		{"lfw/Cy/1.jpg", "lfw/Ann/1.jpg", false, ""},  // not compared
	}, photos, got)
	rate := func(count, total int64) measure.Rate { return measure.Rate{Count: count, Total: total} }
	by := map[string]group{}
	for _, g := range list {
		by[g.Group] = g
	}
	if b, two := by["b"].At[0], by[twoGroup].At[0]; b.FMR != rate(1, 1) || b.FNMR.Total != 0 || two.FNMR != rate(1, 1) || by[noGroup].FTA != rate(1, 1) {
		t.Errorf("%+v", list)
	}
}

func TestOfficialPairs(t *testing.T) {
	t.Parallel()
	view2 := "2\t1\nAnn\t1\t4\nAnn\t1\tBob\t10\nBob\t2\t3\nCy\t1\tAnn\t2\n"
	got, err := parsePairs(strings.NewReader(view2))
	want := []pair{
		{"Ann/Ann_0001.jpg", "Ann/Ann_0004.jpg", true, "1"},
		{"Ann/Ann_0001.jpg", "Bob/Bob_0010.jpg", false, "1"},
		{"Bob/Bob_0002.jpg", "Bob/Bob_0003.jpg", true, "2"},
		{"Cy/Cy_0001.jpg", "Ann/Ann_0002.jpg", false, "2"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(pair{})); diff != "" || err != nil {
		t.Fatalf("%v (-want +got)\n%s", err, diff)
	}
	underPrefix(got, []string{"a/b.jpg", "lfw/Ann/Ann_0001.jpg"})
	if got[0].probe != "lfw/Ann/Ann_0001.jpg" || got[3].reference != "lfw/Ann/Ann_0002.jpg" {
		t.Errorf("prefix: %+v", got)
	}
	if view1, err := parsePairs(strings.NewReader("1\nAnn 1 4\nAnn 1 Bob 10\n")); err != nil || view1[0].fold != "" || len(view1) != 2 {
		t.Errorf("View 1: %v, %v", view1, err)
	}
	for name, tt := range map[string]struct{ in, says string }{
		"too few":       {"2 1\nAnn 1 4\n", "promises"},
		"wrong order":   {"1\nAnn 1 Bob 10\nAnn 1 4\n", "line 2"},
		"not a number":  {"1\nAnn 1 x\nAnn 1 Bob 10\n", "line 2"},
		"photo 0":       {"1\nAnn 1 4\nAnn 0 Bob 10\n", "line 3"},
		"huge promises": {"9223372036854775807 2\nAnn 1 4\n", "promises"},
	} {
		if _, err := parsePairs(strings.NewReader(tt.in)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
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
	got := measured(t, "eval", "--encoder=mobileface-v2", "--images", images, "--identify", "--one-shot", "--against", "mobileface-v2", "--json", out, "--html", html)
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
	} {
		if got := call(t.Context(), append([]string{"eval", "--images", dir}, args...)...); got.code != exitUsage || !strings.Contains(got.stderr, says) {
			t.Errorf("%s: %+v", says, got)
		}
	}
}
