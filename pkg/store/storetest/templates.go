//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"cmp"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

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

// comparisons counts what a search looks through, and nothing else.
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
	want(face.DefaultGallery, model, 6)
	want(face.DefaultGallery, "encoder-b", 5)
	want("other", model, 1)
	list := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", model))(t)
	must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", list[0].ID, by))(t)
	want(face.DefaultGallery, model, 5)
	must(s.DeleteSubject(ctx, tenant, face.DefaultGallery, "a", by))(t)
	want(face.DefaultGallery, model, 3)
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
	best := map[string]face.Candidate{}
	for _, tm := range all {
		c := face.Candidate{SubjectID: tm.SubjectID, Name: "name of " + tm.SubjectID, TemplateID: tm.ID, Score: probe.Cosine(tm.Embedding)}
		if b, ok := best[c.SubjectID]; !ok || c.Score > b.Score {
			best[c.SubjectID] = c
		}
	}
	var list []face.Candidate
	for _, c := range best {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b face.Candidate) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.SubjectID, b.SubjectID))
	})
	return list[:min(k, len(list))]
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
	want := []face.Candidate{{SubjectID: "a", Name: name, TemplateID: high.ID, Score: probe.Cosine(high.Embedding)}}
	if d := gocmp.Diff(want, res.Candidates); d != "" || res.GallerySize != 1 {
		t.Errorf("gallery size %d, candidates %s", res.GallerySize, d)
	}
	must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", high.ID, by))(t)
	res = must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1))(t)
	if len(res.Candidates) != 1 || res.Candidates[0].TemplateID != low.ID {
		t.Errorf("after the best template went, %+v", res)
	}
}

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
	runTogether(5, func(i int) {
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
		runTogether(5, func(i int) {
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
	runTogether(5, func(i int) {
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
		for range each {
			e := randomEmbedding(rng, dim)
			tm := addTemplate(t, s, tenant, face.DefaultGallery, id, model, e)
			// Read your write: the file and the index know it at once.
			res, err := s.Search(ctx, tenant, face.DefaultGallery, model, e, 1)
			if err != nil || len(res.Candidates) != 1 || res.Candidates[0].Score < 0.999 {
				t.Errorf("%s is not found after its enrolment: %+v, %v", tm.ID, res, err)
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
