//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func galleries(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	before := time.Now().Add(-time.Second)
	made := must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "staff", RetentionDays: 30, StoreImages: true}))(t)
	if made.CreatedAt.Before(before) || made.CreatedAt.Location() != time.UTC ||
		!made.CreatedAt.Equal(made.CreatedAt.Truncate(time.Microsecond)) {
		t.Errorf("created at %v, want the present in UTC and microseconds", made.CreatedAt)
	}
	want := face.Gallery{ID: "staff", RetentionDays: 30, StoreImages: true, CreatedAt: made.CreatedAt}
	if d := cmp.Diff(want, must(s.Gallery(ctx, tenant, "staff"))(t)); d != "" {
		t.Error(d)
	}
	_, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: "staff"})
	wantKind(t, err, face.Conflict)

	days, images := 0, false
	must(s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{RetentionDays: &days}))(t)
	got := must(s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{StoreImages: &images}))(t)
	want.RetentionDays, want.StoreImages = 0, false
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	addSubject(t, s, tenant, "staff", "a")
	addSubject(t, s, tenant, "staff", "b")
	addTemplate(t, s, tenant, "staff", "a", model, axisEmbedding(4, 0, 0))
	addTemplate(t, s, tenant, "staff", "a", "encoder-b", axisEmbedding(8, 0, 0))
	want.Subjects, want.Templates = 2, 2
	if d := cmp.Diff(want, must(s.Gallery(ctx, tenant, "staff"))(t)); d != "" {
		t.Error(d)
	}
	counts := must(s.CountTemplates(ctx))(t)
	if d := cmp.Diff([]store.GalleryCount{{Tenant: tenant, Gallery: "staff", Templates: 2}}, counts); d != "" {
		t.Error(d)
	}

	_, err = s.Gallery(ctx, tenant, "nobody")
	wantKind(t, err, face.NotFound)
	_, err = s.UpdateGallery(ctx, tenant, "nobody", store.GalleryChange{})
	wantKind(t, err, face.NotFound)
	_, err = s.DeleteGallery(ctx, tenant, "nobody", by)
	wantKind(t, err, face.NotFound)
	days = -1
	_, err = s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{RetentionDays: &days})
	wantKind(t, err, face.Invalid)
	for _, id := range []string{"", "with space", "-x", strings.Repeat("x", 129), "a/b", "é"} {
		_, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: id})
		wantKind(t, err, face.Invalid)
	}
}

func defaultGallery(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	// Each first look is by another tenant and another method.
	items, _, err := s.ListGalleries(ctx, "t1", store.Page{Limit: 10})
	noError(t, err)
	if len(items) != 1 || items[0].ID != face.DefaultGallery {
		t.Errorf("galleries of a new tenant: %+v", items)
	}
	must(s.Gallery(ctx, "t2", face.DefaultGallery))(t)
	addSubject(t, s, "t3", face.DefaultGallery, "a")
	_, err = s.Subject(ctx, "t4", face.DefaultGallery, "a")
	wantKind(t, err, face.NotFound)
	if got := searchIDs(t, s, "t5", face.DefaultGallery, model, axisEmbedding(4, 0, 0), 1); got != nil {
		t.Errorf("search in a new gallery found %v", got)
	}
	_, err = s.CreateGallery(ctx, "t6", face.Gallery{ID: face.DefaultGallery})
	wantKind(t, err, face.Conflict)
	_, err = s.Enrol(ctx, "t7", face.DefaultGallery, face.Template{
		ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(4, 0, 0),
	})
	wantKind(t, err, face.NotFound)
	must(s.DeleteGallery(ctx, "t3", face.DefaultGallery, by))(t)
	if g := must(s.Gallery(ctx, "t3", face.DefaultGallery))(t); g.Subjects != 0 {
		t.Errorf("the default gallery came back with %d subjects", g.Subjects)
	}
}

func subjects(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "staff"}))(t)
	sub := face.Subject{ID: "ann", Name: "Ann Ünicode", ExternalID: "ext-1", Metadata: json.RawMessage(`{"badge": 7}`)}
	made := must(s.CreateSubject(ctx, tenant, "staff", sub))(t)
	sub.CreatedAt, sub.UpdatedAt = made.CreatedAt, made.CreatedAt
	if d := cmp.Diff(sub, made); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(sub, must(s.Subject(ctx, tenant, "staff", "ann"))(t)); d != "" {
		t.Error(d)
	}
	_, err := s.CreateSubject(ctx, tenant, "staff", sub)
	wantKind(t, err, face.Conflict)
	_, err = s.CreateSubject(ctx, tenant, "nobody", sub)
	wantKind(t, err, face.NotFound)
	addSubject(t, s, tenant, face.DefaultGallery, "ann") // the id is free in another gallery

	name, external, none := "Ann B", "", json.RawMessage(nil)
	got := must(s.UpdateSubject(ctx, tenant, "staff", "ann", store.SubjectChange{Name: &name}))(t)
	if got.Name != name || got.ExternalID != "ext-1" || string(got.Metadata) != string(sub.Metadata) || got.UpdatedAt.Before(sub.UpdatedAt) {
		t.Errorf("after a change of the name: %+v", got)
	}
	must(s.UpdateSubject(ctx, tenant, "staff", "ann", store.SubjectChange{ExternalID: &external, Metadata: &none}))(t)
	addTemplate(t, s, tenant, "staff", "ann", model, axisEmbedding(4, 0, 0))
	got = must(s.Subject(ctx, tenant, "staff", "ann"))(t)
	if got.Name != name || got.ExternalID != "" || got.Metadata != nil || got.Templates != 1 {
		t.Errorf("after all changes: %+v", got)
	}
	for _, at := range [][2]string{{"staff", "bob"}, {"nobody", "ann"}} {
		_, err = s.Subject(ctx, tenant, at[0], at[1])
		wantKind(t, err, face.NotFound)
		_, err = s.UpdateSubject(ctx, tenant, at[0], at[1], store.SubjectChange{Name: &name})
		wantKind(t, err, face.NotFound)
		_, err = s.DeleteSubject(ctx, tenant, at[0], at[1], by)
		wantKind(t, err, face.NotFound)
	}
	_, _, err = s.ListSubjects(ctx, tenant, "nobody", store.SubjectFilter{}, store.Page{Limit: 1})
	wantKind(t, err, face.NotFound)

	past := time.Date(2020, 1, 2, 3, 4, 5, 678901234, time.FixedZone("", 3600))
	old := must(s.CreateSubject(ctx, tenant, "staff", face.Subject{ID: "old", CreatedAt: past}))(t)
	if want := past.UTC().Truncate(time.Microsecond); !old.CreatedAt.Equal(want) || old.CreatedAt.Location() != time.UTC {
		t.Errorf("a given time is kept as %v, want %v", old.CreatedAt, want)
	}
}

func subjectLimits(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	long := strings.Repeat("é", face.MaxNameLength)
	big := json.RawMessage(`"` + strings.Repeat("x", face.MaxMetadata-2) + `"`)
	must(s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: "a", Name: long, ExternalID: long, Metadata: big}))(t)
	tooLong, tooBig := long+"x", append(json.RawMessage(" "), big...)
	for name, sub := range map[string]face.Subject{
		"name":        {ID: "b", Name: tooLong},
		"external_id": {ID: "b", ExternalID: tooLong},
		"metadata":    {ID: "b", Metadata: tooBig},
		"NUL":         {ID: "b", Name: "a\x00b"},
		"not UTF-8":   {ID: "b", ExternalID: "a\xffb"},
		"no id":       {},
		"id":          {ID: "../b"},
	} {
		_, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, sub)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		wantKind(t, err, face.Invalid)
	}
	_, err := s.UpdateSubject(ctx, tenant, face.DefaultGallery, "a", store.SubjectChange{Metadata: &tooBig})
	wantKind(t, err, face.Invalid)
	_, err = s.UpdateSubject(ctx, tenant, face.DefaultGallery, "a", store.SubjectChange{Name: &tooLong})
	wantKind(t, err, face.Invalid)
	if got := must(s.Subject(ctx, tenant, face.DefaultGallery, "a"))(t); got.Name != long || len(got.Metadata) != len(big) {
		t.Error("a refused change left something behind")
	}
}

func deleteTemplate(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	addSubject(t, s, tenant, face.DefaultGallery, "b")
	keep := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 0, 0))
	gone := addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, 2, 0))

	_, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "b", gone.ID, by)
	wantKind(t, err, face.NotFound) // it is there, but not b's
	_, err = s.DeleteTemplate(ctx, tenant, "nobody", "a", gone.ID, by)
	wantKind(t, err, face.NotFound)
	r := must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", gone.ID, by))(t)
	if r.AuditID == "" {
		t.Error("no audit record")
	}
	want := face.Receipt{Gallery: face.DefaultGallery, SubjectID: "a", Templates: 1, AuditID: r.AuditID}
	if d := cmp.Diff(want, r); d != "" {
		t.Error(d)
	}
	_, err = s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", gone.ID, by)
	wantKind(t, err, face.NotFound)
	left := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", ""))(t)
	if d := cmp.Diff([]face.Template{keep}, left); d != "" {
		t.Error(d)
	}
	res := must(s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 2, 0), 5))(t)
	if len(res.Candidates) != 1 || res.Candidates[0].Templates != 1 || res.Candidates[0].Score != 0 || res.GallerySize != 1 {
		t.Errorf("after the erase a search gives %+v", res)
	}
	must(s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "a", keep.ID, by))(t)
	res = must(s.Search(ctx, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 5))(t)
	if len(res.Candidates) != 0 || res.GallerySize != 0 {
		t.Errorf("after the last erase a search gives %+v", res)
	}
}

func deleteSubject(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	addSubject(t, s, tenant, face.DefaultGallery, "b")
	for i := range 3 {
		addTemplate(t, s, tenant, face.DefaultGallery, "a", model, axisEmbedding(4, i, 0))
	}
	addTemplate(t, s, tenant, face.DefaultGallery, "a", "encoder-b", axisEmbedding(8, 0, 0))
	addTemplate(t, s, tenant, face.DefaultGallery, "b", model, axisEmbedding(4, 0, 0.5))
	r := must(s.DeleteSubject(ctx, tenant, face.DefaultGallery, "a", by))(t)
	want := face.Receipt{Gallery: face.DefaultGallery, SubjectID: "a", Subjects: 1, Templates: 4, AuditID: r.AuditID}
	if d := cmp.Diff(want, r); d != "" || r.AuditID == "" {
		t.Error("receipt", d)
	}
	_, err := s.Subject(ctx, tenant, face.DefaultGallery, "a")
	wantKind(t, err, face.NotFound)
	_, err = s.Templates(ctx, tenant, face.DefaultGallery, "a", "")
	wantKind(t, err, face.NotFound)
	if d := cmp.Diff([]string{"b"}, searchIDs(t, s, tenant, face.DefaultGallery, model, axisEmbedding(4, 0, 0), 5)); d != "" {
		t.Error(d)
	}
	if got := searchIDs(t, s, tenant, face.DefaultGallery, "encoder-b", axisEmbedding(8, 0, 0), 5); got != nil {
		t.Errorf("search by the other model found %v", got)
	}
	if g := must(s.Gallery(ctx, tenant, face.DefaultGallery))(t); g.Subjects != 1 || g.Templates != 1 {
		t.Errorf("counts after the erase: %+v", g)
	}
	// The id is free again, and nothing of the old subject comes with it.
	addSubject(t, s, tenant, face.DefaultGallery, "a")
	if got := must(s.Templates(ctx, tenant, face.DefaultGallery, "a", ""))(t); len(got) != 0 {
		t.Errorf("the new subject has %d templates", len(got))
	}
}

func deleteGallery(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	audits := map[string]bool{}
	for round := range 2 {
		must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "visitors"}))(t)
		if g := must(s.Gallery(ctx, tenant, "visitors"))(t); g.Subjects != 0 || g.Templates != 0 {
			t.Errorf("round %d starts with %+v", round, g)
		}
		for i := range 5 {
			addSubject(t, s, tenant, "visitors", numberedID("s", i))
			addTemplate(t, s, tenant, "visitors", numberedID("s", i), model, axisEmbedding(8, i, 0))
			addTemplate(t, s, tenant, "visitors", numberedID("s", i), model, axisEmbedding(8, i, 0.1))
		}
		r := must(s.DeleteGallery(ctx, tenant, "visitors", by))(t)
		want := face.Receipt{Gallery: "visitors", Subjects: 5, Templates: 10, AuditID: r.AuditID}
		if d := cmp.Diff(want, r); d != "" {
			t.Error(d)
		}
		audits[r.AuditID] = true
		_, err := s.Gallery(ctx, tenant, "visitors")
		wantKind(t, err, face.NotFound)
		_, err = s.Search(ctx, tenant, "visitors", model, axisEmbedding(8, 0, 0), 1)
		wantKind(t, err, face.NotFound)
		_, err = s.Subject(ctx, tenant, "visitors", numberedID("s", 0))
		wantKind(t, err, face.NotFound)
	}
	if len(audits) != 2 || audits[""] {
		t.Errorf("audit ids %v", audits)
	}
	if counts := must(s.CountTemplates(ctx))(t); len(counts) != 0 {
		t.Errorf("counts after everything went: %+v", counts)
	}
}

func isolation(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	// Two tenants and two galleries with the same names and one face.
	places := [][2]string{{"t1", "g1"}, {"t1", "g2"}, {"t2", "g1"}, {"t2", "g2"}}
	e := axisEmbedding(4, 0, 0)
	templates := map[[2]string]face.Template{}
	for i, p := range places {
		must(s.CreateGallery(ctx, p[0], face.Gallery{ID: p[1]}))(t)
		addSubject(t, s, p[0], p[1], "same")
		templates[p] = addTemplate(t, s, p[0], p[1], "same", model, axisEmbedding(4, 0, float64(i)/100)) // nearly
	}
	for _, p := range places {
		res := must(s.Search(ctx, p[0], p[1], model, e, 10))(t)
		if len(res.Candidates) != 1 || res.Candidates[0].Score != e.Cosine(templates[p].Embedding) || res.GallerySize != 1 {
			t.Errorf("%v finds %+v", p, res)
		}
		got := must(s.Templates(ctx, p[0], p[1], "same", ""))(t)
		if d := cmp.Diff([]face.Template{templates[p]}, got); d != "" {
			t.Errorf("%v: %s", p, d)
		}
	}
	// Nobody reaches over: not with a template id, not by deleting a namesake.
	_, err := s.DeleteTemplate(ctx, "t2", "g1", "same", templates[places[0]].ID, by)
	wantKind(t, err, face.NotFound)
	// The id of another's template is free here, and tells nothing.
	namesake := templates[places[0]]
	namesake.Embedding = axisEmbedding(4, 2, 0)
	must(s.Enrol(ctx, "t2", "g1", namesake))(t)
	if d := cmp.Diff([]face.Template{templates[places[0]]}, must(s.Templates(ctx, "t1", "g1", "same", ""))(t)); d != "" {
		t.Error(d)
	}
	must(s.DeleteSubject(ctx, "t1", "g1", "same", by))(t)
	must(s.DeleteGallery(ctx, "t1", "g2", by))(t)
	for _, p := range places[2:] {
		if d := cmp.Diff([]string{"same"}, searchIDs(t, s, p[0], p[1], model, e, 10)); d != "" {
			t.Errorf("%v: %s", p, d)
		}
	}
	items, _, err := s.ListGalleries(ctx, "t1", store.Page{Limit: 10})
	noError(t, err)
	var names []string
	for _, g := range items {
		names = append(names, g.ID)
	}
	if d := cmp.Diff([]string{face.DefaultGallery, "g1"}, names); d != "" {
		t.Error(d)
	}
}

func reopen(t *testing.T, place Place) {
	open, ctx, rng := place(t), t.Context(), newRand(t)
	s := open()
	var want []face.Template
	for i := range 40 {
		id := numberedID("s", i)
		addSubject(t, s, tenant, face.DefaultGallery, id)
		want = append(want, addTemplate(t, s, tenant, face.DefaultGallery, id, model, randomEmbedding(rng, 32)))
	}
	must(s.DeleteSubject(ctx, tenant, face.DefaultGallery, numberedID("s", 39), by))(t)
	want = want[:39]
	_, key := face.NewKey(tenant, "door", face.Scopes(), time.Time{})
	noError(t, s.CreateKey(ctx, key))
	probe := randomEmbedding(rng, 32)
	before := must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 10))(t)
	noError(t, s.Close())

	s = open()
	defer func() { noError(t, s.Close()) }()
	for i, w := range want {
		got := must(s.Templates(ctx, tenant, face.DefaultGallery, numberedID("s", i), model))(t)
		if d := cmp.Diff([]face.Template{w}, got); d != "" {
			t.Error(d)
		}
	}
	if d := cmp.Diff(before, must(s.Search(ctx, tenant, face.DefaultGallery, model, probe, 10))(t)); d != "" {
		t.Error(d)
	}
	if g := must(s.Gallery(ctx, tenant, face.DefaultGallery))(t); g.Subjects != 39 || g.Templates != 39 {
		t.Errorf("counts after the restart: %+v", g)
	}
	must(s.KeyByHash(ctx, key.Hash))(t)
	// Rows made after a restart do not take the place of earlier ones.
	addSubject(t, s, tenant, face.DefaultGallery, "late")
	addTemplate(t, s, tenant, face.DefaultGallery, "late", model, probe)
	if got := searchIDs(t, s, tenant, face.DefaultGallery, model, probe, 1); len(got) != 1 || got[0] != "late" {
		t.Errorf("found %v after the restart", got)
	}
}

func purge(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for _, g := range []face.Gallery{{ID: "short", RetentionDays: 1}, {ID: "long", RetentionDays: 30}, {ID: "ever"}} {
		for _, tn := range []string{"t1", "t2"} {
			must(s.CreateGallery(ctx, tn, g))(t)
			addSubject(t, s, tn, g.ID, "a")
			for i, age := range []time.Duration{0, 24 * time.Hour, 24*time.Hour + time.Microsecond, 31 * 24 * time.Hour} {
				must(s.Enrol(ctx, tn, g.ID, face.Template{
					ID: face.NewID(), SubjectID: "a", ModelID: model, Embedding: axisEmbedding(8, i, 0), CreatedAt: now.Add(-age),
				}))(t)
			}
		}
	}
	if n := must(s.PurgeExpired(ctx, now))(t); n != 2*(2+1) {
		t.Errorf("purged %d, want 6", n)
	}
	for g, want := range map[string]int{"short": 2, "long": 3, "ever": 4} {
		for _, tn := range []string{"t1", "t2"} {
			if got := must(s.Templates(ctx, tn, g, "a", ""))(t); len(got) != want {
				t.Errorf("%s has %d templates left, want %d", g, len(got), want)
			}
			c := must(s.Search(ctx, tn, g, model, axisEmbedding(8, 3, 0), 1))(t).Candidates[0]
			if gone := c.Score == 0; gone != (g != "ever") || c.Templates != want {
				t.Errorf("%s: with an expired template, %+v", g, c)
			}
		}
	}
	if n := must(s.PurgeExpired(ctx, now))(t); n != 0 {
		t.Errorf("purged %d again", n)
	}
}

func paging(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	var want []string
	for i := range 25 {
		want = append(want, numberedID("s", i))
	}
	for _, i := range newRand(t).Perm(25) {
		addSubject(t, s, tenant, face.DefaultGallery, want[i])
		must(s.CreateGallery(ctx, tenant, face.Gallery{ID: want[i]}))(t)
	}
	for _, limit := range []int{1, 7, 24, 25, 26, 1000} {
		if d := cmp.Diff(want, listSubjects(t, s, limit)); d != "" {
			t.Errorf("limit %d: %s", limit, d)
		}
		var got []string
		for p := (store.Page{Limit: limit}); ; {
			items, next, err := s.ListGalleries(ctx, tenant, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range items {
				got = append(got, g.ID)
			}
			if p.Cursor = next; next == "" {
				break
			}
		}
		if d := cmp.Diff(append([]string{face.DefaultGallery}, want...), got); d != "" {
			t.Errorf("galleries, limit %d: %s", limit, d)
		}
	}
}

// listSubjects lists the ids of the default gallery, page by page.
func listSubjects(t *testing.T, s store.Store, limit int) (ids []string) {
	t.Helper()
	for p := (store.Page{Limit: limit}); ; {
		items, next, err := s.ListSubjects(t.Context(), tenant, face.DefaultGallery, store.SubjectFilter{}, p)
		if err != nil {
			t.Fatal(err)
		}
		if len(items) > limit || (next != "" && len(items) < limit) {
			t.Errorf("a page of %d has %d items and the next cursor %q", limit, len(items), next)
		}
		for _, sub := range items {
			ids = append(ids, sub.ID)
		}
		if p.Cursor = next; next == "" {
			return ids
		}
	}
}

func pagingWhileInserting(t *testing.T, place Place) {
	s := openReady(t, place)
	there := map[string]bool{}
	for i := range 60 {
		id := numberedID("m", 2*i)
		there[id] = true
		addSubject(t, s, tenant, face.DefaultGallery, id)
	}
	var got []string
	runTogether(2, func(i int) {
		if i == 0 {
			for j := range 60 { // before, between and after
				addSubject(t, s, tenant, face.DefaultGallery, numberedID("m", 2*j+1))
				addSubject(t, s, tenant, face.DefaultGallery, numberedID("a", j))
				addSubject(t, s, tenant, face.DefaultGallery, numberedID("z", j))
			}
			return
		}
		got = listSubjects(t, s, 3)
	})
	last := ""
	for _, id := range got {
		if id <= last {
			t.Errorf("%s comes after %s", id, last)
		}
		last = id
		delete(there, id)
	}
	if len(there) != 0 {
		t.Errorf("%d subjects that were there from the start were not listed", len(there))
	}
}

func cursors(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "other"}))(t)
	for i := range 3 {
		addSubject(t, s, tenant, face.DefaultGallery, numberedID("s", i))
		addSubject(t, s, tenant, "other", numberedID("s", i))
	}
	_, next, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, store.SubjectFilter{}, store.Page{Limit: 2})
	noError(t, err)
	for _, cursor := range []string{"x", "!", next + "A", next[:len(next)-1], "A" + next[1:], strings.Repeat("A", 10000), "s-0001"} {
		_, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, store.SubjectFilter{}, store.Page{Limit: 2, Cursor: cursor})
		wantKind(t, err, face.Invalid)
		_, _, err = s.ListGalleries(ctx, tenant, store.Page{Limit: 2, Cursor: cursor})
		wantKind(t, err, face.Invalid)
	}
	_, _, err = s.ListSubjects(ctx, tenant, "other", store.SubjectFilter{}, store.Page{Limit: 2, Cursor: next})
	wantKind(t, err, face.Invalid)
	_, _, err = s.ListGalleries(ctx, tenant, store.Page{Limit: 2, Cursor: next})
	wantKind(t, err, face.Invalid)
	for _, limit := range []int{0, -1, 1001} {
		_, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, store.SubjectFilter{}, store.Page{Limit: limit})
		wantKind(t, err, face.Invalid)
		_, _, err = s.ListGalleries(ctx, tenant, store.Page{Limit: limit})
		wantKind(t, err, face.Invalid)
	}
	// The place stays when what it names is gone.
	must(s.DeleteSubject(ctx, tenant, face.DefaultGallery, numberedID("s", 1), by))(t)
	items, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, store.SubjectFilter{}, store.Page{Limit: 2, Cursor: next})
	noError(t, err)
	if len(items) != 1 || items[0].ID != numberedID("s", 2) {
		t.Errorf("after the cursor come %+v", items)
	}
}

func subjectFilters(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	for i, sub := range []face.Subject{
		{Name: "Ada", ExternalID: "1"},
		{Name: "Ada", ExternalID: "2"},
		{Name: "ada", ExternalID: "1"},
		{Name: "Ada ", ExternalID: "1"},
		{Name: "Ada"},
		{Name: "Zoë", ExternalID: "%"},
		{},
	} {
		sub.ID = numberedID("s", i)
		must(s.CreateSubject(ctx, tenant, face.DefaultGallery, sub))(t)
	}
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "other"}))(t)
	must(s.CreateSubject(ctx, tenant, "other", face.Subject{ID: "x", Name: "Ada", ExternalID: "1"}))(t)
	for _, tt := range []struct {
		filter store.SubjectFilter
		want   []int
	}{
		{store.SubjectFilter{Name: "Ada"}, []int{0, 1, 4}},
		{store.SubjectFilter{ExternalID: "1"}, []int{0, 2, 3}},
		{store.SubjectFilter{Name: "Ada", ExternalID: "1"}, []int{0}},
		{store.SubjectFilter{Name: "1"}, nil},
		{store.SubjectFilter{ExternalID: "%"}, []int{5}},
		{store.SubjectFilter{Name: "Zoë"}, []int{5}},
		{store.SubjectFilter{Name: "Zoe\u0308"}, nil}, // the same to the eye
		{store.SubjectFilter{}, []int{0, 1, 2, 3, 4, 5, 6}},
	} {
		var got, want []string
		for _, i := range tt.want {
			want = append(want, numberedID("s", i))
		}
		for p := (store.Page{Limit: 2}); ; {
			items, next, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, tt.filter, p)
			noError(t, err)
			for _, sub := range items {
				got = append(got, sub.ID)
			}
			if p.Cursor = next; next == "" {
				break
			}
			other := tt.filter
			other.Name, other.ExternalID = other.ExternalID, other.Name
			for _, f := range []store.SubjectFilter{other, {Name: tt.filter.Name + "x"}} {
				if _, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, f, p); f != tt.filter {
					wantKind(t, err, face.Invalid)
				}
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%+v: %s", tt.filter, d)
		}
	}
	// Whoever changes their name is found by the new one.
	name, none := "Grace", ""
	must(s.UpdateSubject(ctx, tenant, face.DefaultGallery, numberedID("s", 0), store.SubjectChange{Name: &name, ExternalID: &none}))(t)
	for _, tt := range []struct {
		filter store.SubjectFilter
		n      int
	}{{store.SubjectFilter{Name: "Grace"}, 1}, {store.SubjectFilter{Name: "Ada"}, 2}, {store.SubjectFilter{ExternalID: "1"}, 2}} {
		if items, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, tt.filter, store.Page{Limit: 9}); err != nil || len(items) != tt.n {
			t.Errorf("%+v: %+v, %v", tt.filter, items, err)
		}
	}
	for _, f := range []store.SubjectFilter{{Name: "a\x00b"}, {ExternalID: "\xff"}, {Name: strings.Repeat("n", face.MaxNameLength+1)}} {
		_, _, err := s.ListSubjects(ctx, tenant, face.DefaultGallery, f, store.Page{Limit: 2})
		wantKind(t, err, face.Invalid)
	}
}
