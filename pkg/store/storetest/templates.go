//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func enrol(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	want := face.Template{
		ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: randomEmbedding(newRand(t), 512), Quality: 0.73,
		CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
	}
	stored := must(s.Enrol(ctx, tenant, face.DefaultGallery, want))(t)
	want.SampleID = want.ID
	if d := gocmp.Diff(want, stored); d != "" {
		t.Error(d)
	}
	other := addTemplate(t, s, tenant, face.DefaultGallery, "a", "encoder-b", randomEmbedding(newRand(t), 128))
	if time.Since(other.CreatedAt) > time.Hour {
		t.Errorf("a template without a time was given %v", other.CreatedAt)
	}
	for modelID, list := range map[string][]face.Template{model: {want}, "encoder-b": {other}, "": {want, other}, "encoder-c": nil} {
		got := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", modelID))(t)
		if d := gocmp.Diff(list, got); d != "" {
			t.Errorf("model %q: %s", modelID, d)
		}
	}
	_, err := s.Templates(ctx, tenant, face.DefaultGallery, "b", "")
	wantKind(t, err, face.NotFound)
	_, err = s.Templates(ctx, tenant, "nobody", "a", "")
	wantKind(t, err, face.NotFound)
}

func enrolAgain(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	addSubject(t, s, tenant, face.DefaultGallery, "b")
	first := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 0))
	again := first
	again.Quality, again.CreatedAt = 0.9, time.Time{}
	if d := gocmp.Diff(first, must(s.Enrol(ctx, tenant, face.DefaultGallery, again))(t)); d != "" {
		t.Error(d)
	}
	for name, change := range map[string]func(*face.Template){
		"subject":   func(t *face.Template) { t.SubjectID = "b" },
		"model":     func(t *face.Template) { t.ModelID = "encoder-b" },
		"embedding": func(t *face.Template) { t.Embedding = axisEmbedding(4, 1, 0) },
	} {
		other := first
		change(&other)
		_, err := s.Enrol(ctx, tenant, face.DefaultGallery, other)
		if err == nil {
			t.Errorf("another %s was accepted under the same id", name)
		}
		wantKind(t, err, face.Conflict)
	}
	if got := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", ""))(t); len(got) != 1 {
		t.Errorf("%d templates are there, want 1", len(got))
	}
	if res := must(s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 5))(t); res.GallerySize != 1 || len(res.Candidates) != 1 {
		t.Errorf("a search gives %+v", res)
	}
}

func enrolRefusals(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	good := face.Template{ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(4, 0, 0), Quality: 1}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for name, c := range map[string]struct {
		gallery string
		change  func(*face.Template)
		kind    face.Kind
	}{
		"gallery":      {"nobody", func(*face.Template) {}, face.NotFound},
		"subject":      {"", func(t *face.Template) { t.SubjectID = "b" }, face.NotFound},
		"no numbers":   {"", func(t *face.Template) { t.Embedding = nil }, face.Invalid},
		"zeros":        {"", func(t *face.Template) { t.Embedding = make(face.Embedding, 4) }, face.Invalid},
		"NaN":          {"", func(t *face.Template) { t.Embedding = face.Embedding{nan, 0, 0, 0} }, face.Invalid},
		"infinite":     {"", func(t *face.Template) { t.Embedding = face.Embedding{inf, 0, 0, 0} }, face.Invalid},
		"too long":     {"", func(t *face.Template) { t.Embedding = face.Embedding{1, 1, 0, 0} }, face.Invalid},
		"too short":    {"", func(t *face.Template) { t.Embedding = face.Embedding{0.5, 0, 0, 0} }, face.Invalid},
		"NaN quality":  {"", func(t *face.Template) { t.Quality = nan }, face.Invalid},
		"high quality": {"", func(t *face.Template) { t.Quality = 1.5 }, face.Invalid},
		"no id":        {"", func(t *face.Template) { t.ID = "" }, face.Invalid},
		"no model":     {"", func(t *face.Template) { t.ModelID = "" }, face.Invalid},
		"sample":       {"", func(t *face.Template) { t.SampleID = "a b" }, face.Invalid},
		"large crop":   {"", func(t *face.Template) { t.Crop = make([]byte, store.MaxCrop+1) }, face.Invalid},
	} {
		bad := good
		c.change(&bad)
		_, err := s.Enrol(ctx, tenant, cmp.Or(c.gallery, face.DefaultGallery), bad)
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: error is %v, want %s", name, err, c.kind)
		}
	}
	if got := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", ""))(t); len(got) != 0 {
		t.Errorf("%d refused templates are there", len(got))
	}
}

func dimension(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	only := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 0))
	longer := face.Template{ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(8, 0, 0)}
	_, err := s.Enrol(ctx, tenant, face.DefaultGallery, longer)
	wantKind(t, err, face.ModelMismatch)
	_, err = s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(8, 0, 0), 1)
	wantKind(t, err, face.ModelMismatch)
	// Another gallery is free to differ, and so is this one once it is empty.
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "other"}))(t)
	addSubject(t, s, tenant, "other", "a")
	addTemplate(t, s, tenant, "other", "a", model, axisEmbedding(8, 0, 0))
	must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", only.ID, by))(t)
	must(s.Enrol(ctx, tenant, face.DefaultGallery, longer))(t)
	if got := searchIDs(t, s, tenant, face.DefaultGallery, model, axisEmbedding(8, 0, 0), 1); len(got) != 1 {
		t.Errorf("found %v", got)
	}
}

// comparisons counts whom a search compares with, and nothing else.
func comparisons(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	want := func(gallery, model string, n int) {
		t.Helper()
		if got := must(s.Comparisons(ctx, tenant, gallery, model))(t); got != n {
			t.Errorf("%d comparisons in %s with %s, want %d", got, gallery, model, n)
		}
	}
	want("nobody", model, 0)
	want(face.DefaultGallery, model, 0)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "other"}))(t)
	addSubject(t, s, tenant, "other", "a")
	addTemplate(t, s, tenant, "other", "a", model, axisEmbedding(4, 0, 0))
	for _, id := range []string{"a", "b"} {
		addSubject(t, s, tenant, face.DefaultGallery, id)
		for i := range 3 {
			addTemplate(t, s, tenant, face.DefaultGallery, id, model, axisEmbedding(4, i, 0))
		}
	}
	for range 5 {
		addTemplate(t, s, tenant, face.DefaultGallery, "a", "encoder-b", axisEmbedding(8, 0, 0))
	}
	want(face.DefaultGallery, model, 2)
	want(face.DefaultGallery, "encoder-b", 1)
	want("other", model, 1)
	for n, tm := range must(s.Templates(ctx, tenant, face.DefaultGallery, "b", model))(t) {
		must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "b", tm.ID, by))(t)
		want(face.DefaultGallery, model, 2-n/2)
	}
	must(s.DeleteSubject(ctx, tenant, face.DefaultGallery, "a", by))(t)
	want(face.DefaultGallery, model, 0)
	want(face.DefaultGallery, "encoder-b", 0)
	must(s.DeleteGallery(ctx, tenant, "other", by))(t)
	want("other", model, 0)
}

func templatesOldestFirst(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, hour := range []int{3, 1, 2, 0} {
		must(s.Enrol(ctx, tenant, face.DefaultGallery, face.Template{
			ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(4, hour, 0), CreatedAt: at.Add(time.Duration(hour) * time.Hour),
		}))(t)
	}
	var hours []int
	for _, tm := range must(s.Templates(ctx, tenant, face.DefaultGallery, "a", model))(t) {
		hours = append(hours, tm.CreatedAt.Hour())
	}
	if d := gocmp.Diff([]int{0, 1, 2, 3}, hours); d != "" {
		t.Error(d)
	}
}

// searchIsExact compares with a brute force over many shapes of gallery.
func searchIsExact(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	for _, dim := range []int{3, 64, 129} {
		gallery := numberedID("dim", dim)
		must(s.CreateGallery(ctx, tenant, face.Gallery{ID: gallery}))(t)
		var all []face.Template
		for i := range 60 {
			id := numberedID("s", i)
			addSubject(t, s, tenant, gallery, id)
			for range 1 + i%3 {
				all = append(all, addTemplate(t, s, tenant, gallery, id, model, randomEmbedding(rng, dim)))
			}
		}
		for range 20 {
			probe := randomEmbedding(rng, dim)
			for _, k := range []int{1, 5, 60, 100} {
				res := must(s.Search(ctx, tenant, gallery, model, probe, k))(t)
				if res.GallerySize != 60 {
					t.Errorf("gallery size %d, want 60", res.GallerySize)
				}
				if d := gocmp.Diff(bruteForce(all, probe, k), res.Candidates); d != "" {
					t.Errorf("dimension %d, k %d: %s", dim, k, d)
				}
			}
		}
	}
}

// bruteForce is what Search is to return.
func bruteForce(all []face.Template, probe face.Embedding, k int) []face.Candidate {
	bySubject := map[string][]face.Template{}
	for _, tm := range all {
		bySubject[tm.SubjectID] = append(bySubject[tm.SubjectID], tm)
	}
	list := make([]face.Candidate, 0, len(bySubject))
	for id, own := range bySubject {
		fused, n := face.FuseTemplates(own)
		list = append(list, face.Candidate{SubjectID: id, Name: "name of " + id, Templates: n, Score: probe.Cosine(fused)})
	}
	slices.SortFunc(list, func(a, b face.Candidate) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.SubjectID, b.SubjectID))
	})
	return list[:min(k, len(list))]
}

// templatesComeAndGo enrols, imports, replaces and erases templates of two
// models in an order drawn at random, and compares each search with a brute
// force, to the last bit: a subject's score does not depend on what was there
// before. Some templates cancel out. So it is after the store is opened again.
func templatesComeAndGo(t *testing.T, place Place) {
	open, ctx, rng := place(t), t.Context(), newRand(t)
	s := open()
	type key struct{ gallery, model string }
	dims := map[key]int{{face.DefaultGallery, model}: 48, {face.DefaultGallery, "encoder-b"}: 7, {"other", model}: 48}
	keys := slices.SortedFunc(maps.Keys(dims), func(a, b key) int {
		return cmp.Or(cmp.Compare(a.gallery, b.gallery), cmp.Compare(a.model, b.model))
	})
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "other"}))(t)
	const people = 12
	there := map[key][]face.Template{}
	for _, gallery := range []string{face.DefaultGallery, "other"} {
		for i := range people {
			addSubject(t, s, tenant, gallery, numberedID("s", i))
		}
	}
	check := func(k key) {
		t.Helper()
		probe := randomEmbedding(rng, dims[k])
		if rng.IntN(3) == 0 && len(there[k]) > 0 {
			probe = there[k][rng.IntN(len(there[k]))].Embedding
		}
		n := 1 + rng.IntN(people)
		res := must(s.Search(ctx, tenant, k.gallery, k.model, probe, n))(t)
		want := bruteForce(there[k], probe, n)
		if d := gocmp.Diff(want, res.Candidates, cmpopts.EquateEmpty()); d != "" {
			t.Fatalf("%v, %d of %d templates: %s", k, n, len(there[k]), d)
		}
		all := len(bruteForce(there[k], probe, people))
		if compared := must(s.Comparisons(ctx, tenant, k.gallery, k.model))(t); compared != all || res.GallerySize != all {
			t.Fatalf("%v: %d comparisons in a gallery of %d, want %d", k, compared, res.GallerySize, all)
		}
	}
	made := func(k key, subject string) face.Template {
		e := axisEmbedding(dims[k], rng.IntN(2), 0)
		switch rng.IntN(4) {
		case 0: // the opposite of others
			for i := range e {
				e[i] = -e[i]
			}
		case 1, 2:
			e = randomEmbedding(rng, dims[k])
		}
		return face.Template{ID: face.NewID(), SubjectID: subject, ModelID: k.model, Embedding: e, Quality: rng.Float32()}
	}
	without := func(gallery string, gone func(face.Template) bool) {
		for k := range there {
			if k.gallery == gallery {
				there[k] = slices.DeleteFunc(there[k], gone)
			}
		}
	}
	for range 120 {
		k := keys[rng.IntN(len(keys))]
		subject := numberedID("s", rng.IntN(people))
		switch step := rng.IntN(10); {
		case step < 4:
			tm := made(k, subject)
			must(s.Enrol(ctx, tenant, k.gallery, tm))(t)
			there[k] = append(there[k], tm)
		case step < 6: // several at once, for several
			var records []store.Record
			for _, i := range rng.Perm(people)[:1+rng.IntN(4)] {
				r := store.Record{Subject: face.Subject{ID: numberedID("s", i)}}
				for range 1 + rng.IntN(4) {
					r.Templates = append(r.Templates, made(k, r.Subject.ID))
				}
				records = append(records, r)
				there[k] = append(there[k], r.Templates...)
			}
			for _, out := range must(s.Import(ctx, tenant, k.gallery, records))(t) {
				noError(t, out.Err)
			}
		case step < 8 && len(there[k]) > 0:
			gone := there[k][rng.IntN(len(there[k]))]
			must(s.DeleteTemplate(ctx, tenant, k.gallery, gone.SubjectID, gone.ID, by))(t)
			without(k.gallery, func(tm face.Template) bool { return tm.ID == gone.ID })
			if step == 7 { // the same id again, for another photo
				tm := made(k, gone.SubjectID)
				tm.ID = gone.ID
				must(s.Enrol(ctx, tenant, k.gallery, tm))(t)
				there[k] = append(there[k], tm)
			}
		case step == 8:
			must(s.DeleteSubject(ctx, tenant, k.gallery, subject, by))(t)
			without(k.gallery, func(tm face.Template) bool { return tm.SubjectID == subject })
			addSubject(t, s, tenant, k.gallery, subject)
		}
		check(k)
	}
	noError(t, s.Close())
	s = open()
	defer func() { noError(t, s.Close()) }()
	for _, k := range keys {
		for range 5 {
			check(k)
		}
	}
}

// templatesComeAndGoTogether has many change the templates of the same few
// subjects at once. Meanwhile everybody who stays is found, and in the end
// everybody is compared as the templates that are left.
func templatesComeAndGoTogether(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	const writers, changes, people, dim = 8, 12, 3, 16
	stays := map[string]face.Template{}
	for i := range people {
		id := numberedID("s", i)
		addSubject(t, s, tenant, face.DefaultGallery, id)
		stays[id] = addTemplate(t, s, tenant, face.DefaultGallery, id, model, axisEmbedding(dim, i, 0))
	}
	var done atomic.Bool
	runTogether(writers+1, func(w int) {
		rng := rand.New(rand.NewPCG(uint64(w), 4))
		if w == writers {
			for !done.Load() {
				if got := searchIDs(t, s, tenant, face.DefaultGallery, model, randomEmbedding(rng, dim), 1000); len(got) < people {
					t.Errorf("found %v", got)
				}
			}
			return
		}
		var own []face.Template
		for i := range changes {
			id := numberedID("s", rng.IntN(people))
			switch {
			case i%3 == 2:
				gone := own[rng.IntN(len(own))]
				_, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, gone.SubjectID, gone.ID, by)
				noError(t, err)
				own = slices.DeleteFunc(own, func(tm face.Template) bool { return tm.ID == gone.ID })
			case i%4 == 1: // two, and somebody who goes again
				visitor := store.Record{Subject: face.Subject{ID: fmt.Sprintf("visitor-%d-%d", w, i)}}
				more := store.Record{Subject: face.Subject{ID: id}}
				for range 2 {
					visitor.Templates = append(visitor.Templates, face.Template{ID: face.NewID(), ModelID: model, Embedding: randomEmbedding(rng, dim)})
					more.Templates = append(more.Templates, face.Template{ID: face.NewID(), SubjectID: id, ModelID: model, Embedding: randomEmbedding(rng, dim)})
				}
				out, err := s.Import(ctx, tenant, face.DefaultGallery, []store.Record{visitor, more})
				noError(t, err)
				for _, o := range out {
					noError(t, o.Err)
				}
				own = append(own, more.Templates...)
				_, err = s.DeleteSubject(ctx, tenant, face.DefaultGallery, visitor.Subject.ID, by)
				noError(t, err)
			default:
				own = append(own, addTemplate(t, s, tenant, face.DefaultGallery, id, model, randomEmbedding(rng, dim)))
			}
		}
		if w == 0 {
			done.Store(true)
		}
	})
	var left []face.Template
	for id := range stays {
		left = append(left, must(s.Templates(ctx, tenant, face.DefaultGallery, id, model))(t)...)
	}
	rng := newRand(t)
	for range 5 {
		probe := randomEmbedding(rng, dim)
		res := must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 100))(t)
		if d := gocmp.Diff(bruteForce(left, probe, 100), res.Candidates); d != "" {
			t.Error(d)
		}
	}
}

func searchTies(t *testing.T, place Place) {
	s, rng := openReady(t, place), newRand(t)
	e := randomEmbedding(rng, 32)
	var want []string
	for i := range 150 {
		want = append(want, numberedID("s", i))
	}
	for _, i := range rng.Perm(150) {
		addSubject(t, s, tenant, face.DefaultGallery, want[i])
		addTemplate(t, s, tenant, face.DefaultGallery, want[i], model, e)
	}
	for _, k := range []int{1, 2, 149, 150, 1000} {
		if d := gocmp.Diff(want[:min(k, 150)], searchIDs(t, s, tenant, face.DefaultGallery, model, e, k)); d != "" {
			t.Errorf("k %d: %s", k, d)
		}
	}
}

func searchEdges(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	probe := axisEmbedding(4, 0, 0)
	_, err := s.Search(ctx, tenant, "nobody", model, probe, 1)
	wantKind(t, err, face.NotFound)
	for _, k := range []int{-1, 0, 1001} {
		_, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, k)
		wantKind(t, err, face.Invalid)
	}
	_, err = s.Search(ctx, tenant, face.DefaultGallery, model, face.Embedding{float32(math.NaN())}, 1)
	wantKind(t, err, face.Invalid)
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	addSubject(t, s, tenant, face.DefaultGallery, "none") // without templates
	if res := must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1))(t); len(res.Candidates) != 0 || res.GallerySize != 0 {
		t.Errorf("an empty gallery gives %+v", res)
	}
	low := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 1))
	high := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 0.1))
	addTemplate(t, s, tenant, face.DefaultGallery, "a", "encoder-b", axisEmbedding(4, 0, 0)) // better, but another model's
	name := "renamed"
	must(s.UpdateSubject(ctx, tenant, face.DefaultGallery, "a", nameChange(name)))(t)
	res := must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1000))(t)
	fused, _ := face.FuseTemplates([]face.Template{low, high})
	want := []face.Candidate{{SubjectID: "a", Name: name, Templates: 2, Score: probe.Cosine(fused)}}
	if d := gocmp.Diff(want, res.Candidates); d != "" || res.GallerySize != 1 {
		t.Errorf("gallery size %d, candidates %s", res.GallerySize, d)
	}
	must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", high.ID, by))(t)
	res = must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1))(t)
	want[0].Templates, want[0].Score = 1, probe.Cosine(low.Embedding)
	if d := gocmp.Diff(want, res.Candidates); d != "" {
		t.Errorf("after one of two templates went: %s", d)
	}
}

// searchers search at the same time as one writes. They never pause, so more of
// them would only keep the writer waiting.
const searchers = 2

// eraseWhileSearching erases subjects one by one while searches run: nobody
// who was erased before a search started is in its list, and nobody who was
// never erased is missing from it.
func eraseWhileSearching(t *testing.T, place Place) {
	s := openReady(t, place)
	const n, stay = 120, 10
	var ids []string
	for i := range n {
		ids = append(ids, numberedID("s", i))
	}
	runTogether(n, func(i int) {
		addSubject(t, s, tenant, face.DefaultGallery, ids[i])
		addTemplate(t, s, tenant, face.DefaultGallery, ids[i], model, axisEmbedding(n, i, 0))
	})
	var erased atomic.Int64 // how many, in the order of ids
	var done atomic.Bool
	runTogether(1+searchers, func(i int) {
		if i == 0 {
			defer done.Store(true)
			for _, id := range ids[:n-stay] {
				_, err := s.DeleteSubject(t.Context(), tenant, face.DefaultGallery, id, by)
				noError(t, err)
				erased.Add(1)
			}
			return
		}
		for round := 0; !done.Load() || round == 0; round++ {
			gone := int(erased.Load())
			got := searchIDs(t, s, tenant, face.DefaultGallery, model, axisEmbedding(n, round%n, 0), n)
			slices.Sort(got)
			if len(got) < stay || !slices.Equal(got[len(got)-stay:], ids[n-stay:]) {
				t.Errorf("%d of those who stay are missing", stay)
			}
			if len(got) > 0 && got[0] < ids[gone] {
				t.Errorf("%s is found after %d were erased", got[0], gone)
			}
		}
	})
}

// eraseGalleryWhileSearching has galleries come and go under searches. Each
// search ends, with somebody who was there or with nobody.
func eraseGalleryWhileSearching(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	for _, gallery := range []string{face.DefaultGallery, "visitors"} {
		var done atomic.Bool
		runTogether(1+searchers, func(i int) {
			if i == 0 {
				defer done.Store(true)
				for range 25 {
					if gallery != face.DefaultGallery {
						_, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: gallery})
						noError(t, err)
					}
					addSubject(t, s, tenant, gallery, "a")
					addTemplate(t, s, tenant, gallery, "a", model, axisEmbedding(4, 0, 0))
					_, err := s.DeleteGallery(ctx, tenant, gallery, by)
					noError(t, err)
				}
				return
			}
			for !done.Load() {
				res, err := s.Search(ctx, tenant, gallery, model, axisEmbedding(4, 0, 0), 1)
				if err != nil {
					wantKind(t, err, face.NotFound)
					if gallery == face.DefaultGallery {
						t.Error("the default gallery is not there")
					}
				}
				for _, c := range res.Candidates {
					if c.SubjectID != "a" || c.Name != "name of a" {
						t.Errorf("found %+v", c)
					}
				}
			}
		})
	}
}

// templateIDMovesWhileSearching gives one template id to two subjects in turn
// while searches run: a candidate never has the name of the other.
func templateIDMovesWhileSearching(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	subjects := []string{"a", "b"}
	for _, id := range subjects {
		addSubject(t, s, tenant, face.DefaultGallery, id)
	}
	var done atomic.Bool
	runTogether(1+searchers, func(i int) {
		if i == 0 {
			defer done.Store(true)
			for round := range 50 {
				subject := subjects[round%2]
				_, err := s.Enrol(ctx, tenant, face.DefaultGallery, face.Template{
					ID: "the-only", SubjectID: subject, ModelID: model, Embedding: axisEmbedding(4, 0, 0),
				})
				noError(t, err)
				_, err = s.DeleteTemplate(ctx, tenant, face.DefaultGallery, subject, "the-only", by)
				noError(t, err)
			}
			return
		}
		for !done.Load() {
			res, err := s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 1)
			noError(t, err)
			for _, c := range res.Candidates {
				if c.Name != "name of "+c.SubjectID {
					t.Errorf("found %+v", c)
				}
			}
		}
	})
}

// contextsEndAnywhere ends contexts in the middle of reads and writes; the
// store goes on as if nothing had been.
func contextsEndAnywhere(t *testing.T, place Place) {
	s := openReady(t, place)
	for i := range 200 {
		addSubject(t, s, tenant, face.DefaultGallery, numberedID("s", i))
	}
	runTogether(8, func(w int) {
		for i := range 60 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*w)*10*time.Microsecond)
			_, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, store.SubjectFilter{}, store.Page{Limit: 200})
			if err != nil {
				wantKind(t, err, face.Deadline)
			}
			_, err = s.UpdateSubject(ctx, tenant, face.DefaultGallery, numberedID("s", i), nameChange("new"))
			if err != nil {
				wantKind(t, err, face.Deadline)
			}
			cancel()
		}
	})
	if got := listSubjects(t, s, 1000); len(got) != 200 {
		t.Errorf("%d subjects are listed afterwards, want 200", len(got))
	}
}

func concurrentWriters(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	const writers, each, dim = 200, 5, 64
	runTogether(writers, func(w int) {
		id := numberedID("s", w)
		addSubject(t, s, tenant, face.DefaultGallery, id)
		rng := rand.New(rand.NewPCG(uint64(w), 3))
		var own []face.Template
		for range each {
			own = append(own, addTemplate(t, s, tenant, face.DefaultGallery, id, model, randomEmbedding(rng, dim)))
			// Read your write: the file and the index know it at once.
			fused, n := face.FuseTemplates(own)
			probe := must(fused.Normalise())(t)
			res, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1)
			want := []face.Candidate{{SubjectID: id, Name: "name of " + id, Templates: n, Score: probe.Cosine(fused)}}
			if d := gocmp.Diff(want, res.Candidates); d != "" || err != nil {
				t.Errorf("after an enrolment: %s, %v", d, err)
			}
		}
		got, err := s.Templates(ctx, tenant, face.DefaultGallery, id, model)
		if err != nil || len(got) != each {
			t.Errorf("%s has %d templates, %v", id, len(got), err)
		}
	})
	if g := must(s.Gallery(ctx, tenant, face.DefaultGallery))(t); g.Subjects != writers || g.Templates != writers*each {
		t.Errorf("counts: %+v", g)
	}
	if got := searchIDs(t, s, tenant, face.DefaultGallery, model, axisEmbedding(dim, 0, 0), 1000); len(got) != writers {
		t.Errorf("%d subjects are found, want %d", len(got), writers)
	}
}

// concurrentSameID has everybody enrol the same template: one is stored, and
// all are told so.
func concurrentSameID(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	same := face.Template{ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(4, 0, 0), Quality: 1}
	var made atomic.Int64
	runTogether(50, func(i int) {
		_, err := s.Enrol(ctx, tenant, face.DefaultGallery, same)
		noError(t, err)
		switch _, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: "b"}); err {
		case nil:
			made.Add(1)
		default:
			wantKind(t, err, face.Conflict)
		}
	})
	if made.Load() != 1 {
		t.Errorf("one subject was made %d times", made.Load())
	}
	if got := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", ""))(t); len(got) != 1 {
		t.Errorf("%d templates are there, want 1", len(got))
	}
}

func canceledBefore(t *testing.T, place Place) {
	s, ctx := openReady(t, place), canceledContext(t)
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	tm := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 0))
	other := tm
	other.ID = face.NewID()
	for name, call := range map[string]func() error{
		"CreateGallery": func() error { _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: "g"}); return err },
		"Gallery":       func() error { _, err := s.Gallery(ctx, tenant, face.DefaultGallery); return err },
		"CreateSubject": func() error {
			_, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: "b"})
			return err
		},
		"DeleteSubject":  func() error { _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "a", by); return err },
		"Enrol":          func() error { _, err := s.Enrol(ctx, tenant, face.DefaultGallery, other); return err },
		"DeleteTemplate": func() error { _, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", tm.ID, by); return err },
		"Templates":      func() error { _, err := s.Templates(ctx, tenant, face.DefaultGallery, "a", ""); return err },
		"Search": func() error {
			_, err := s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 1)
			return err
		},
		"BeginRequest": func() error { _, err := s.BeginRequest(ctx, tenant, "key", []byte("f")); return err },
	} {
		if err := call(); !errors.Is(err, face.Canceled) || !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", name, err)
		}
	}
	if got := must(s.Templates(t.Context(), tenant, face.DefaultGallery, "a", ""))(t); len(got) != 1 {
		t.Errorf("%d templates are there, want 1", len(got))
	}
	a, err := s.BeginRequest(t.Context(), tenant, "key", []byte("f"))
	if a != nil || err != nil {
		t.Errorf("a claim that failed blocks the next: %v, %v", a, err)
	}
}

// canceledMeanwhile ends the context somewhere within an enrolment: the
// template is there with everything, or nowhere; and if it was acknowledged,
// it is there.
func canceledMeanwhile(t *testing.T, place Place) {
	s := openReady(t, place)
	const n = 100
	runTogether(n, func(i int) {
		id := numberedID("s", i)
		addSubject(t, s, tenant, face.DefaultGallery, id)
		ctx, cancel := context.WithCancel(t.Context())
		e := axisEmbedding(n, i, 0)
		ended := make(chan error)
		go func() {
			_, err := s.Enrol(ctx, tenant, face.DefaultGallery, face.Template{ID: face.NewID(), SubjectID: id, ModelID: model, Embedding: e})
			ended <- err
		}()
		cancel()
		err := <-ended
		if err != nil {
			wantKind(t, err, face.Canceled)
		}
		got, err2 := s.Templates(t.Context(), tenant, face.DefaultGallery, id, model)
		noError(t, err2)
		if err == nil && len(got) != 1 {
			t.Errorf("%s was acknowledged and has %d templates", id, len(got))
		}
		res, err2 := s.Search(t.Context(), tenant, face.DefaultGallery, model, e, 1)
		noError(t, err2)
		if inIndex := len(res.Candidates) == 1 && res.Candidates[0].SubjectID == id; inIndex != (len(got) == 1) {
			t.Errorf("%s: %d templates stored, found by a search: %v", id, len(got), inIndex)
		}
	})
}

func closed(t *testing.T, place Place) {
	s, ctx := place(t)(), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	noError(t, s.Ready(ctx))
	// Writers that are under way when the store closes are acknowledged or
	// told Unavailable; none is left waiting.
	runTogether(20, func(i int) {
		for j := 0; ; j++ {
			if i == 0 && j == 10 {
				noError(t, s.Close())
			}
			_, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: face.NewID()})
			if err != nil {
				wantKind(t, err, face.Unavailable)
				return
			}
		}
	})
	noError(t, s.Close())
	_, err := s.Gallery(ctx, tenant, face.DefaultGallery)
	wantKind(t, err, face.Unavailable)
	_, err = s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 1)
	wantKind(t, err, face.Unavailable)
	_, err = s.KeyByHash(ctx, []byte("hash"))
	wantKind(t, err, face.Unavailable)
	wantKind(t, s.Ready(ctx), face.Unavailable)
}
