package measure

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// photosOf makes people with so many photos each, as names and what became of them.
func photosOf(t *testing.T, sameness float64, counts ...int) (names []string, photos map[string]Photo) {
	t.Helper()
	photos = map[string]Photo{}
	for i, n := range counts {
		portraits := portraitsOf(t, i+1, 1, n, sameness)
		for j, p := range portraits {
			name := fmt.Sprintf("set/person%02d/%d.jpg", i, j)
			names = append(names, name)
			photos[name] = Photo{Embeddings: []face.Embedding{p.Embedding, p.Embedding}}
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
func TestSearchProtocol(t *testing.T) {
	t.Parallel()
	names, photos := photosOf(t, 0.7, append(repeated(3, 12), repeated(1, 10)...)...)
	s, err := newSearchProtocol(names, 0.5, 1)
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
	probes, index, gallery := s.search(func(photo string) face.Embedding { return photos[photo].Embedding() })
	if gallery != 6 || len(probes) != len(s.probes) {
		t.Fatalf("%d searched in %d", len(probes), gallery)
	}
	for i, got := range probes {
		photo := s.probes[index[i]]
		want := Probe{Person: filepath.Dir(photo), Mated: enrolled[filepath.Dir(photo)], Score: -2}
		scores := map[string]float64{}
		for who, ref := range s.reference {
			scores[who] = photos[photo].Embedding().Cosine(photos[ref].Embedding())
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
	if _, err := newSearchProtocol(names[:3], 0.5, 1); err == nil {
		t.Error("one person is a gallery")
	}
}

// What could not be acquired is counted as a miss, and who could not be
// enrolled is not found.
func TestIdentifyCountsFailures(t *testing.T) {
	t.Parallel()
	names, photos := photosOf(t, 5, append(repeated(3, 12), repeated(1, 10)...)...)
	s, err := newSearchProtocol(names, 0.5, 1)
	if err != nil {
		t.Fatal(err)
	}
	photos[s.probes[0]] = Photo{Failure: "no_face"}
	var lost string
	for who, photo := range s.reference {
		if who != filepath.Dir(s.probes[0]) {
			lost = who
			photos[photo] = Photo{Failure: "no_face"}
			break
		}
	}
	groups := map[string]string{}
	for i, name := range names {
		groups[name] = []string{"even", "odd"}[i%2]
	}
	cal := &face.Calibration{Comparisons: 3000, Points: []face.OperatingPoint{{Name: "fmr_1e-2", FMR: 1e-2, Threshold: 0.5}}}
	id, err := Identify(names, photos, groups, cal, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	rate := func(count, total int64) Rate { return Rate{Count: count, Total: total} }
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
}

func TestIdentifyOneShot(t *testing.T) {
	t.Parallel()
	names, photos := photosOf(t, 3, append(repeated(2, 30), 1)...)
	for name, p := range photos { // the second encoder sees the same in everybody
		p.Embeddings[1] = photos[names[0]].Embedding()
		photos[name] = p
	}
	o, err := IdentifyOneShot(names, photos, []string{"trained", "untrained"}, DefaultOptions())
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
