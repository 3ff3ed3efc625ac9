//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// newRecord is a subject with templates of the given embeddings.
func newRecord(id string, embeddings ...face.Embedding) store.Record {
	r := store.Record{Subject: face.Subject{ID: id, Name: "name of " + id}}
	for _, e := range embeddings {
		r.Templates = append(r.Templates, face.Template{
			ID: face.NewID(), SubjectID: id, ModelID: model, Embedding: e, Quality: 0.5,
		})
	}
	return r
}

// importAll imports into the default gallery what must not fail as a whole.
func importAll(t *testing.T, s store.Store, records ...store.Record) []store.Outcome {
	t.Helper()
	out := must(s.Import(t.Context(), tenant, face.DefaultGallery, records))(t)
	if len(out) != len(records) {
		t.Fatalf("%d outcomes of %d records", len(out), len(records))
	}
	return out
}

// wantOutcome wants a record to have been taken.
func wantOutcome(t *testing.T, got store.Outcome, created bool, templates int) {
	t.Helper()
	if d := cmp.Diff(store.Outcome{Created: created, Templates: templates}, got, cmpopts.EquateErrors()); d != "" {
		t.Error(d)
	}
}

// wantRefused wants a record to have been refused, and nothing of it counted.
func wantRefused(t *testing.T, got store.Outcome, kind face.Kind) {
	t.Helper()
	wantKind(t, got.Err, kind)
	if got.Created || got.Templates != 0 {
		t.Errorf("a refused record counts: %+v", got)
	}
}

// exportRecords is all of a gallery after an id.
func exportRecords(t *testing.T, s store.Store, gallery, after string) (all []store.Record) {
	t.Helper()
	noError(t, s.Export(t.Context(), tenant, gallery, after, func(r store.Record) error {
		all = append(all, r)
		return nil
	}))
	return all
}

// wantCounts wants the gallery to hold so much.
func wantCounts(t *testing.T, s store.Store, subjects, templates int) {
	t.Helper()
	g := must(s.Gallery(t.Context(), tenant, face.DefaultGallery))(t)
	if g.Subjects != subjects || g.Templates != templates {
		t.Errorf("%d subjects and %d templates, want %d and %d", g.Subjects, g.Templates, subjects, templates)
	}
}

// ignoreStored leaves aside what a store may fill in.
func ignoreStored() cmp.Options {
	return cmp.Options{cmpopts.IgnoreFields(face.Template{}, "SampleID"), cmpopts.IgnoreFields(face.Subject{}, "Templates")}
}

func importNew(t *testing.T, place Place) {
	s, rng := openReady(t, place), newRand(t)
	at := time.Date(2025, 1, 2, 3, 4, 5, 6000, time.UTC)
	ada := newRecord("ada", randomEmbedding(rng, 64), randomEmbedding(rng, 64))
	ada.Subject.Name, ada.Subject.ExternalID = "Ada Ünicode", "ext-1"
	ada.Subject.Metadata = json.RawMessage(`{"badge": 7}`)
	ada.Subject.CreatedAt, ada.Subject.UpdatedAt = at, at.Add(time.Hour)
	ada.Templates[0].CreatedAt, ada.Templates[1].CreatedAt = at, at.Add(time.Minute)
	ada.Templates[1].ModelID, ada.Templates[1].Embedding = "some.other-model", randomEmbedding(rng, 128)
	bare := newRecord("bare")
	out := importAll(t, s, ada, bare)
	wantOutcome(t, out[0], true, 2)
	wantOutcome(t, out[1], true, 0)
	wantCounts(t, s, 2, 2)

	got := exportRecords(t, s, face.DefaultGallery, "")
	if len(got) != 2 {
		t.Fatalf("exported %+v", got)
	}
	if d := cmp.Diff(ada, got[0], ignoreStored()); d != "" {
		t.Error(d)
	}
	if b := got[1]; b.Subject.ID != "bare" || len(b.Templates) != 0 || time.Since(b.Subject.CreatedAt) > time.Hour || !b.Subject.UpdatedAt.Equal(b.Subject.CreatedAt) {
		t.Errorf("a subject without times or templates came back as %+v", b)
	}
	if ids := searchIDs(t, s, tenant, face.DefaultGallery, model, ada.Templates[0].Embedding, 5); !slices.Equal(ids, []string{"ada"}) {
		t.Errorf("found %v", ids)
	}
	if ids := searchIDs(t, s, tenant, face.DefaultGallery, "some.other-model", ada.Templates[1].Embedding, 5); !slices.Equal(ids, []string{"ada"}) {
		t.Errorf("found %v", ids)
	}
	if out := importAll(t, s); len(out) != 0 {
		t.Errorf("nothing became %+v", out)
	}
}

func importAgain(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	var all []store.Record
	for i := range 50 {
		all = append(all, newRecord(numberedID("s", i), randomEmbedding(rng, 32), randomEmbedding(rng, 32)))
	}
	for _, o := range importAll(t, s, all...) {
		wantOutcome(t, o, true, 2)
	}
	before := exportRecords(t, s, face.DefaultGallery, "")
	for _, o := range importAll(t, s, all...) {
		wantOutcome(t, o, false, 0)
	}
	if d := cmp.Diff(before, exportRecords(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
	// A subject that is there keeps what is known of it and gets what it lacks.
	must(s.UpdateSubject(ctx, tenant, face.DefaultGallery, "s-0007", nameChange("renamed")))(t)
	kept := must(s.Subject(ctx, tenant, face.DefaultGallery, "s-0007"))(t)
	more := all[7]
	more.Subject.Name, more.Subject.ExternalID = "another name", "another id"
	more.Templates = append(slices.Clone(more.Templates), newRecord("s-0007", randomEmbedding(rng, 32)).Templates...)
	more.Templates[0].Quality = 0.9 // the stored one stays as it is
	wantOutcome(t, importAll(t, s, more)[0], false, 1)
	kept.Templates = 3
	got := exportRecords(t, s, face.DefaultGallery, "s-0006")[0]
	if d := cmp.Diff(kept, got.Subject); d != "" {
		t.Error(d)
	}
	if len(got.Templates) != 3 || got.Templates[0].Quality != 0.5 {
		t.Errorf("templates afterwards: %+v", got.Templates)
	}
	wantCounts(t, s, 50, 101)
}

// importPoisoned has one bad record among good ones, each bad in its own way.
func importPoisoned(t *testing.T, place Place) {
	s, rng := openReady(t, place), newRand(t)
	wantOutcome(t, importAll(t, s, newRecord("first", randomEmbedding(rng, 16)))[0], true, 1)
	taken := exportRecords(t, s, face.DefaultGallery, "")[0].Templates[0].ID
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	with := func(change func(*store.Record)) store.Record {
		r := newRecord("poison", randomEmbedding(rng, 16), randomEmbedding(rng, 16), randomEmbedding(rng, 16))
		change(&r)
		return r
	}
	subjects, templates := 1, 1
	for name, c := range map[string]struct {
		bad  store.Record
		kind face.Kind
	}{
		"no id":         {with(func(r *store.Record) { r.Subject.ID = "" }), face.Invalid},
		"bad id":        {with(func(r *store.Record) { r.Subject.ID = "a/b" }), face.Invalid},
		"long name":     {with(func(r *store.Record) { r.Subject.Name = strings.Repeat("ü", face.MaxNameLength+1) }), face.Invalid},
		"long metadata": {with(func(r *store.Record) { r.Subject.Metadata = make(json.RawMessage, face.MaxMetadata+1) }), face.Invalid},
		"template id":   {with(func(r *store.Record) { r.Templates[2].ID = "" }), face.Invalid},
		"model id":      {with(func(r *store.Record) { r.Templates[2].ModelID = "" }), face.Invalid},
		"quality":       {with(func(r *store.Record) { r.Templates[2].Quality = 1.5 }), face.Invalid},
		"no numbers":    {with(func(r *store.Record) { r.Templates[2].Embedding = nil }), face.Invalid},
		"NaN":           {with(func(r *store.Record) { r.Templates[2].Embedding[3] = nan }), face.Invalid},
		"infinite":      {with(func(r *store.Record) { r.Templates[2].Embedding[3] = inf }), face.Invalid},
		"zeros":         {with(func(r *store.Record) { r.Templates[2].Embedding = make(face.Embedding, 16) }), face.Invalid},
		"not of unit":   {with(func(r *store.Record) { r.Templates[2].Embedding[3] += 1 }), face.Invalid},
		"dimension":     {with(func(r *store.Record) { r.Templates[2].Embedding = randomEmbedding(rng, 17) }), face.ModelMismatch},
		"taken id":      {with(func(r *store.Record) { r.Templates[2].ID = taken }), face.Conflict},
		"its own id":    {with(func(r *store.Record) { r.Templates[2].ID = r.Templates[0].ID }), face.Conflict},
		"its own dimension": {with(func(r *store.Record) {
			r.Templates[1].ModelID, r.Templates[2].ModelID = "new", "new"
			r.Templates[2].Embedding = randomEmbedding(rng, 17)
		}), face.ModelMismatch},
	} {
		before, after := newRecord(face.NewID(), randomEmbedding(rng, 16)), newRecord(face.NewID(), randomEmbedding(rng, 16))
		out := importAll(t, s, before, c.bad, after)
		wantOutcome(t, out[0], true, 1)
		wantRefused(t, out[1], c.kind)
		wantOutcome(t, out[2], true, 1)
		subjects, templates = subjects+2, templates+2
		if t.Failed() {
			t.Fatalf("that was %s", name)
		}
	}
	wantCounts(t, s, subjects, templates)
	_, err := s.Subject(t.Context(), tenant, face.DefaultGallery, "poison")
	wantKind(t, err, face.NotFound)
	for _, r := range exportRecords(t, s, face.DefaultGallery, "") {
		if len(r.Templates) != 1 || r.Subject.ID == "poison" {
			t.Errorf("%s has %d templates", r.Subject.ID, len(r.Templates))
		}
	}
	if ids := searchIDs(t, s, tenant, face.DefaultGallery, model, randomEmbedding(rng, 16), 1000); len(ids) != subjects || slices.Contains(ids, "poison") {
		t.Errorf("%d of %d subjects are found: %v", len(ids), subjects, ids)
	}
	// What a refused record would have taken is free: ids, a new model's length.
	wantOutcome(t, importAll(t, s, with(func(r *store.Record) {
		for i := range r.Templates {
			r.Templates[i].ModelID, r.Templates[i].Embedding = "new", randomEmbedding(rng, 99)
		}
	}))[0], true, 3)
}

// importPoisonsAnother: a refused record also leaves a subject alone that was
// there before.
func importPoisonsAnother(t *testing.T, place Place) {
	s, rng := openReady(t, place), newRand(t)
	importAll(t, s, newRecord("ada", randomEmbedding(rng, 16)))
	before := exportRecords(t, s, face.DefaultGallery, "")
	bad := newRecord("ada", randomEmbedding(rng, 16), randomEmbedding(rng, 17))
	wantRefused(t, importAll(t, s, bad)[0], face.ModelMismatch)
	if d := cmp.Diff(before, exportRecords(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
}

func importDuplicates(t *testing.T, place Place) {
	s, rng := openReady(t, place), newRand(t)
	a, again, b := newRecord("a", randomEmbedding(rng, 8)), newRecord("a", randomEmbedding(rng, 8)), newRecord("b", randomEmbedding(rng, 8))
	thief := newRecord("c", randomEmbedding(rng, 8))
	thief.Templates[0].ID = b.Templates[0].ID
	twin := newRecord("d", randomEmbedding(rng, 8))
	twin.Templates = append(twin.Templates, twin.Templates[0])
	out := importAll(t, s, a, again, b, thief, twin)
	wantOutcome(t, out[0], true, 1)
	wantRefused(t, out[1], face.Conflict)
	wantOutcome(t, out[2], true, 1)
	wantRefused(t, out[3], face.Conflict)
	wantOutcome(t, out[4], true, 1) // the same template twice is one
	wantCounts(t, s, 3, 3)
}

func importLimits(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	all := make([]store.Record, store.MaxImport+1)
	for i := range all {
		all[i] = newRecord(numberedID("s", i))
	}
	_, err := s.Import(ctx, tenant, face.DefaultGallery, all)
	wantKind(t, err, face.Invalid)
	_, err = s.Import(ctx, tenant, "nobody", all[:1])
	wantKind(t, err, face.NotFound)
	wantKind(t, s.Export(ctx, tenant, "nobody", "", func(store.Record) error { return nil }), face.NotFound)
	wantCounts(t, s, 0, 0)
	for _, o := range importAll(t, s, all[:store.MaxImport]...) {
		wantOutcome(t, o, true, 0)
	}
	wantCounts(t, s, store.MaxImport, 0)
	ended := canceledContext(t)
	_, err = s.Import(ended, tenant, face.DefaultGallery, all[:1])
	wantKind(t, err, face.Canceled)
	wantKind(t, s.Export(ended, tenant, face.DefaultGallery, "", func(store.Record) error { return nil }), face.Canceled)
}

func exportOrder(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	ids := []string{"a", "B", "b", "Z", "a.b", "a_b", "a-b", "10", "9", "ab", "A"}
	for _, id := range ids {
		wantOutcome(t, importAll(t, s, newRecord(id, randomEmbedding(rng, 8)))[0], true, 1)
	}
	slices.Sort(ids) // by bytes, wherever the database comes from
	list := func(after string) (got []string) {
		for _, r := range exportRecords(t, s, face.DefaultGallery, after) {
			got = append(got, r.Subject.ID)
		}
		return got
	}
	if d := cmp.Diff(ids, list("")); d != "" {
		t.Error(d)
	}
	for i, id := range ids {
		if d := cmp.Diff(ids[i+1:], list(id), cmpopts.EquateEmpty()); d != "" {
			t.Errorf("after %s: %s", id, d)
		}
	}
	if d := cmp.Diff([]string{"B", "Z"}, list("Azzz")[:2]); d != "" { // of somebody who is not there
		t.Error(d)
	}
	// It ends with the first error of emit, and that is the one returned.
	stop, n := errors.New("stop"), 0
	err := s.Export(ctx, tenant, face.DefaultGallery, "", func(store.Record) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || n != 3 {
		t.Errorf("after %d records: %v", n, err)
	}
	// The store may be used meanwhile, by emit too.
	noError(t, s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
		_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, r.Subject.ID, by)
		return err
	}))
	wantCounts(t, s, 0, 0)
}

// exportAll compares a whole gallery with what the other methods say of it.
func exportAll(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	const n = 1100 // more than one import
	want := map[string][]face.Embedding{}
	var batch []store.Record
	for i := range n {
		r := newRecord(numberedID("s", i))
		for j := range i % 4 {
			e := randomEmbedding(rng, 16)
			r.Templates = append(r.Templates, newRecord(r.Subject.ID, e).Templates...)
			r.Templates[j].CreatedAt = time.Date(2026, 1, 1, 0, 0, j, 0, time.UTC)
			want[r.Subject.ID] = append(want[r.Subject.ID], e)
		}
		if batch = append(batch, r); len(batch) == store.MaxImport {
			importAll(t, s, batch...)
			batch = nil
		}
	}
	importAll(t, s, batch...)
	got := exportRecords(t, s, face.DefaultGallery, "")
	if len(got) != n {
		t.Fatalf("%d subjects were exported of %d", len(got), n)
	}
	for i, r := range got {
		if !slices.EqualFunc(want[r.Subject.ID], r.Templates, func(e face.Embedding, tm face.Template) bool {
			return slices.Equal(e, tm.Embedding) // bit for bit
		}) {
			t.Fatalf("%s has other templates than were imported", r.Subject.ID)
		}
		if i%100 != 7 {
			continue
		}
		if d := cmp.Diff(must(s.Subject(ctx, tenant, face.DefaultGallery, r.Subject.ID))(t), r.Subject); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(must(s.Templates(ctx, tenant, face.DefaultGallery, r.Subject.ID, ""))(t), r.Templates, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(face.Template{}, "Crop")); d != "" {
			t.Error(d)
		}
	}
	// What was exported can be imported elsewhere, and is the same there.
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "copy"}))(t)
	for part := range slices.Chunk(got, store.MaxImport) {
		for i := range part { // a template's id is unique in the store
			part[i].Templates = slices.Clone(part[i].Templates)
			for j := range part[i].Templates {
				part[i].Templates[j].ID = "copy-" + part[i].Templates[j].ID
				part[i].Templates[j].SampleID = ""
			}
		}
		for _, o := range must(s.Import(ctx, tenant, "copy", part))(t) {
			noError(t, o.Err)
		}
	}
	for i, r := range exportRecords(t, s, "copy", "") {
		for j := range r.Templates {
			r.Templates[j].SampleID = ""
		}
		if !reflect.DeepEqual(r, got[i]) { // much faster than a diff
			t.Fatal(cmp.Diff(got[i], r))
		}
	}
}

// bulkCrops: a crop is given out once, with the first template of its sample,
// and taken in where the gallery keeps images.
func bulkCrops(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "seen", StoreImages: true}))(t)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "copy", StoreImages: true}))(t)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := newRecord("ada", randomEmbedding(rng, 8), randomEmbedding(rng, 8), randomEmbedding(rng, 8), randomEmbedding(rng, 8))
	for i := range r.Templates {
		r.Templates[i].CreatedAt = at.Add(time.Duration(i) * time.Minute)
	}
	r.Templates[0].SampleID, r.Templates[0].Crop = "photo-1", []byte("sealed 1")
	r.Templates[1].SampleID, r.Templates[1].ModelID = "photo-1", "encoder-b"
	r.Templates[2].Crop = []byte("sealed 2") // its own sample
	crops := func(gallery string) (list []string) {
		for _, r := range exportRecords(t, s, gallery, "") {
			for _, tm := range r.Templates {
				list = append(list, tm.SampleID+" "+string(tm.Crop))
			}
		}
		return list
	}
	import1 := func(gallery string, r store.Record) {
		t.Helper()
		wantOutcome(t, must(s.Import(ctx, tenant, gallery, []store.Record{r}))(t)[0], true, len(r.Templates))
	}
	import1("seen", r)
	want := []string{"photo-1 sealed 1", "photo-1 ", r.Templates[2].ID + " sealed 2", r.Templates[3].ID + " "}
	if d := cmp.Diff(want, crops("seen")); d != "" {
		t.Error(d)
	}
	if got := must(s.Sample(ctx, tenant, "seen", "photo-1"))(t); string(got.Crop) != "sealed 1" || got.SubjectID != "ada" || got.Quality != 0.5 || !got.CreatedAt.Equal(at) {
		t.Errorf("the sample is %+v", got)
	}
	back := exportRecords(t, s, "seen", "")[0]
	must(s.DeleteGallery(ctx, tenant, "seen", by))(t)
	import1("copy", back)
	if d := cmp.Diff(want, crops("copy")); d != "" {
		t.Error(d)
	}
	must(s.DeleteGallery(ctx, tenant, "copy", by))(t)
	import1(face.DefaultGallery, back) // which keeps no images
	for i := range want {
		want[i] = want[i][:strings.Index(want[i], " ")+1]
	}
	if d := cmp.Diff(want, crops(face.DefaultGallery)); d != "" {
		t.Error(d)
	}
	// A sample that is another subject's is refused, and the rest with it.
	thief := newRecord("thief", randomEmbedding(rng, 8), randomEmbedding(rng, 8))
	thief.Templates[1].SampleID = "photo-1"
	wantRefused(t, importAll(t, s, thief)[0], face.Conflict)
	wantCounts(t, s, 1, 4)
}

func bulkTenants(t *testing.T, place Place) {
	s, ctx, rng := openReady(t, place), t.Context(), newRand(t)
	mine := newRecord("ada", randomEmbedding(rng, 8))
	wantOutcome(t, importAll(t, s, mine)[0], true, 1)
	theirs := newRecord("ada", randomEmbedding(rng, 8))
	wantOutcome(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{theirs}))(t)[0], true, 1)
	// A template's id is unique in its gallery, and says nothing of anybody else's.
	namesake := newRecord("carl", randomEmbedding(rng, 8))
	namesake.Templates[0].ID = mine.Templates[0].ID
	wantOutcome(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{newRecord("bob"), namesake}))(t)[1], true, 1)
	wantRefused(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{{
		Subject: face.Subject{ID: "thief"}, Templates: namesake.Templates,
	}}))(t)[0], face.Conflict)
	var ids []string
	noError(t, s.Export(ctx, "t2", face.DefaultGallery, "", func(r store.Record) error {
		ids = append(ids, r.Subject.ID)
		for _, tm := range r.Templates {
			if d := cmp.Diff(map[string]face.Embedding{
				theirs.Templates[0].ID: theirs.Templates[0].Embedding, namesake.Templates[0].ID: namesake.Templates[0].Embedding,
			}[tm.ID], tm.Embedding); d != "" {
				t.Errorf("exported the template %s: %s", tm.ID, d)
			}
		}
		return nil
	}))
	if d := cmp.Diff([]string{"ada", "bob", "carl"}, ids); d != "" {
		t.Error(d)
	}
	wantCounts(t, s, 1, 1)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "mine"}))(t)
	_, err := s.Import(ctx, "t2", "mine", []store.Record{theirs})
	wantKind(t, err, face.NotFound)
}

// copyGallery exports a gallery into another one of the same store, and has
// the two go their own ways.
func copyGallery(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "copy", StoreImages: true}))(t)
	for i := range 20 {
		addSubject(t, s, tenant, photos, numberedID("s", i))
		addSample(t, s, photos, numberedID("s", i), "crop of "+numberedID("s", i), model, "encoder-b")
		addTemplate(t, s, tenant, photos, numberedID("s", i), model, randomEmbedding(rand.New(rand.NewPCG(uint64(i), 1)), 8))
	}
	all := exportRecords(t, s, photos, "")
	for range 2 { // and once more, as after a cut connection
		for _, o := range must(s.Import(ctx, tenant, "copy", all))(t) {
			noError(t, o.Err)
		}
		if d := cmp.Diff(all, exportRecords(t, s, "copy", "")); d != "" {
			t.Fatal(d)
		}
	}
	probe := randomEmbedding(newRand(t), 8)
	candidates := func(gallery string) []face.Candidate {
		return must(s.Search(ctx, tenant, gallery, model, probe, 100))(t).Candidates
	}
	if d := cmp.Diff(candidates(photos), candidates("copy")); d != "" {
		t.Error(d)
	}
	sample := all[0].Templates[0].SampleID
	third := face.Template{ID: face.NewID(), SubjectID: "s-0000", SampleID: sample, ModelID: "encoder-c", Embedding: axisEmbedding(4, 0, 0)}
	must(s.AddToSample(ctx, tenant, "copy", third))(t)
	must(s.AddToSample(ctx, tenant, photos, third))(t)
	receipt := must(s.DeleteTemplate(ctx, tenant, photos, "s-0000", all[0].Templates[0].ID, by))(t)
	if receipt.Templates != 3 || receipt.Images != 1 {
		t.Errorf("erased %+v", receipt)
	}
	_, err := s.AddToSample(ctx, tenant, photos, third)
	wantKind(t, err, face.NotFound)
	must(s.DeleteSubject(ctx, tenant, photos, "s-0001", by))(t)
	if left := must(s.Templates(ctx, tenant, "copy", "s-0000", ""))(t); len(left) != 4 || !hasCrop(t, s, "copy", sample) || hasCrop(t, s, photos, sample) {
		t.Errorf("%d templates of s-0000 are left in the copy", len(left))
	}
	must(s.DeleteGallery(ctx, tenant, photos, by))(t)
	if d := cmp.Diff(all[1:], exportRecords(t, s, "copy", "s-0000")); d != "" {
		t.Error(d)
	}
	if got := len(candidates("copy")); got != 20 {
		t.Errorf("%d are found in the copy", got)
	}
}

// bulkConcurrent imports from several sides, some of it the same, while
// searches, enrolments, erases and exports run.
func bulkConcurrent(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	const importers, batches, size, dim = 6, 5, 20, 32
	embeddingOf := func(i, j int) face.Embedding {
		return randomEmbedding(rand.New(rand.NewPCG(uint64(i), uint64(j))), dim)
	}
	runTogether(2*importers+2, func(w int) {
		switch {
		case w < 2*importers: // each batch is imported twice, at about the same time
			w /= 2
			for b := range batches {
				var rs []store.Record
				for i := range size {
					n := (w*batches+b)*size + i
					r := newRecord(numberedID("s", n), embeddingOf(n, 0), embeddingOf(n, 1))
					r.Templates[0].ID, r.Templates[1].ID = numberedID("t0", n), numberedID("t1", n)
					rs = append(rs, r)
				}
				out, err := s.Import(ctx, tenant, face.DefaultGallery, rs)
				noError(t, err)
				for _, o := range out {
					noError(t, o.Err)
				}
				// Read your write. A subject is compared as the mean of its templates, so
				// that mean, and no one template, is surely nearest to its own subject.
				fused, _ := face.FuseTemplates(rs[3].Templates)
				probe, err := fused.Normalise()
				noError(t, err)
				r, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1)
				if err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != rs[3].Subject.ID {
					t.Errorf("%s is not found after its import: %+v, %v", rs[3].Subject.ID, r, err)
				}
			}
		case w == 2*importers:
			for i := range 40 {
				id := numberedID("x", i)
				addSubject(t, s, tenant, face.DefaultGallery, id)
				addTemplate(t, s, tenant, face.DefaultGallery, id, model, embeddingOf(i, 9))
				_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, id, by)
				noError(t, err)
			}
		default:
			for range 10 {
				noError(t, s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
					// Never half of somebody.
					if r.Subject.ID[0] == 's' && len(r.Templates) != 2 {
						t.Errorf("%s was exported with %d templates", r.Subject.ID, len(r.Templates))
					}
					return nil
				}))
			}
		}
	})
	const all = importers * batches * size
	wantCounts(t, s, all, 2*all)
	if got := exportRecords(t, s, face.DefaultGallery, ""); len(got) != all {
		t.Errorf("%d subjects are exported, want %d", len(got), all)
	}
	if ids := searchIDs(t, s, tenant, face.DefaultGallery, model, embeddingOf(0, 0), 1000); len(ids) != all {
		t.Errorf("%d subjects are found, want %d", len(ids), all)
	}
}

// bulkReopen: what was imported is there, and found, when the store comes back.
func bulkReopen(t *testing.T, place Place) {
	open, rng := place(t), newRand(t)
	s := open()
	var all []store.Record
	for i := range 300 {
		all = append(all, newRecord(numberedID("s", i), randomEmbedding(rng, 16)))
	}
	importAll(t, s, all...)
	before := exportRecords(t, s, face.DefaultGallery, "")
	noError(t, s.Close())
	_, err := s.Import(t.Context(), tenant, face.DefaultGallery, all)
	wantKind(t, err, face.Unavailable)
	s = open()
	defer func() { noError(t, s.Close()) }()
	if d := cmp.Diff(before, exportRecords(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
	if ids := searchIDs(t, s, tenant, face.DefaultGallery, model, all[77].Templates[0].Embedding, 1); !slices.Equal(ids, []string{"s-0077"}) {
		t.Errorf("found %v", ids)
	}
}
