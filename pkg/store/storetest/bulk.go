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

// record is a subject with templates of the given embeddings.
func record(id string, embeddings ...face.Embedding) store.Record {
	r := store.Record{Subject: face.Subject{ID: id, Name: "name of " + id}}
	for _, e := range embeddings {
		r.Templates = append(r.Templates, face.Template{
			ID: face.NewID(), SubjectID: id, ModelID: model, Embedding: e, Quality: 0.5,
		})
	}
	return r
}

// imported imports into the default gallery what must not fail as a whole.
func imported(t *testing.T, s store.Store, records ...store.Record) []store.Outcome {
	t.Helper()
	out := must(s.Import(t.Context(), tenant, face.DefaultGallery, records))(t)
	if len(out) != len(records) {
		t.Fatalf("%d outcomes of %d records", len(out), len(records))
	}
	return out
}

// outcome wants a record to have been taken.
func outcome(t *testing.T, got store.Outcome, created bool, templates int) {
	t.Helper()
	if d := cmp.Diff(store.Outcome{Created: created, Templates: templates}, got, cmpopts.EquateErrors()); d != "" {
		t.Error(d)
	}
}

// refused wants a record to have been refused, and nothing of it counted.
func refused(t *testing.T, got store.Outcome, kind face.Kind) {
	t.Helper()
	wantKind(t, got.Err, kind)
	if got.Created || got.Templates != 0 {
		t.Errorf("a refused record counts: %+v", got)
	}
}

// exported is all of a gallery after an id.
func exported(t *testing.T, s store.Store, gallery, after string) (all []store.Record) {
	t.Helper()
	check(t, s.Export(t.Context(), tenant, gallery, after, func(r store.Record) error {
		all = append(all, r)
		return nil
	}))
	return all
}

// counted wants the gallery to hold so much.
func counted(t *testing.T, s store.Store, subjects, templates int) {
	t.Helper()
	g := must(s.Gallery(t.Context(), tenant, face.DefaultGallery))(t)
	if g.Subjects != subjects || g.Templates != templates {
		t.Errorf("%d subjects and %d templates, want %d and %d", g.Subjects, g.Templates, subjects, templates)
	}
}

// asSent leaves aside what a store may fill in.
func asSent() cmp.Options {
	return cmp.Options{cmpopts.IgnoreFields(face.Template{}, "SampleID"), cmpopts.IgnoreFields(face.Subject{}, "Templates")}
}

func importNew(t *testing.T, place Place) {
	s, rng := start(t, place), newRand(t)
	at := time.Date(2025, 1, 2, 3, 4, 5, 6000, time.UTC)
	ada := record("ada", unit(rng, 64), unit(rng, 64))
	ada.Subject.Name, ada.Subject.ExternalID = "Ada Ünicode", "ext-1"
	ada.Subject.Metadata = json.RawMessage(`{"badge": 7}`)
	ada.Subject.CreatedAt, ada.Subject.UpdatedAt = at, at.Add(time.Hour)
	ada.Templates[0].CreatedAt, ada.Templates[1].CreatedAt = at, at.Add(time.Minute)
	ada.Templates[1].ModelID, ada.Templates[1].Embedding = "some.other-model", unit(rng, 128)
	bare := record("bare")
	out := imported(t, s, ada, bare)
	outcome(t, out[0], true, 2)
	outcome(t, out[1], true, 0)
	counted(t, s, 2, 2)

	got := exported(t, s, face.DefaultGallery, "")
	if len(got) != 2 {
		t.Fatalf("exported %+v", got)
	}
	if d := cmp.Diff(ada, got[0], asSent()); d != "" {
		t.Error(d)
	}
	if b := got[1]; b.Subject.ID != "bare" || len(b.Templates) != 0 || time.Since(b.Subject.CreatedAt) > time.Hour || !b.Subject.UpdatedAt.Equal(b.Subject.CreatedAt) {
		t.Errorf("a subject without times or templates came back as %+v", b)
	}
	if ids := found(t, s, tenant, face.DefaultGallery, model, ada.Templates[0].Embedding, 5); !slices.Equal(ids, []string{"ada"}) {
		t.Errorf("found %v", ids)
	}
	if ids := found(t, s, tenant, face.DefaultGallery, "some.other-model", ada.Templates[1].Embedding, 5); !slices.Equal(ids, []string{"ada"}) {
		t.Errorf("found %v", ids)
	}
	if out := imported(t, s); len(out) != 0 {
		t.Errorf("nothing became %+v", out)
	}
}

func importAgain(t *testing.T, place Place) {
	s, ctx, rng := start(t, place), t.Context(), newRand(t)
	var all []store.Record
	for i := range 50 {
		all = append(all, record(number("s", i), unit(rng, 32), unit(rng, 32)))
	}
	for _, o := range imported(t, s, all...) {
		outcome(t, o, true, 2)
	}
	before := exported(t, s, face.DefaultGallery, "")
	for _, o := range imported(t, s, all...) {
		outcome(t, o, false, 0)
	}
	if d := cmp.Diff(before, exported(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
	// A subject that is there keeps what is known of it and gets what it lacks.
	must(s.UpdateSubject(ctx, tenant, face.DefaultGallery, "s-0007", nameChange("renamed")))(t)
	kept := must(s.Subject(ctx, tenant, face.DefaultGallery, "s-0007"))(t)
	more := all[7]
	more.Subject.Name, more.Subject.ExternalID = "another name", "another id"
	more.Templates = append(slices.Clone(more.Templates), record("s-0007", unit(rng, 32)).Templates...)
	more.Templates[0].Quality = 0.9 // the stored one stays as it is
	outcome(t, imported(t, s, more)[0], false, 1)
	kept.Templates = 3
	got := exported(t, s, face.DefaultGallery, "s-0006")[0]
	if d := cmp.Diff(kept, got.Subject); d != "" {
		t.Error(d)
	}
	if len(got.Templates) != 3 || got.Templates[0].Quality != 0.5 {
		t.Errorf("templates afterwards: %+v", got.Templates)
	}
	counted(t, s, 50, 101)
}

// importPoisoned has one bad record among good ones, each bad in its own way.
func importPoisoned(t *testing.T, place Place) {
	s, rng := start(t, place), newRand(t)
	outcome(t, imported(t, s, record("first", unit(rng, 16)))[0], true, 1)
	taken := exported(t, s, face.DefaultGallery, "")[0].Templates[0].ID
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	with := func(change func(*store.Record)) store.Record {
		r := record("poison", unit(rng, 16), unit(rng, 16), unit(rng, 16))
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
		"dimension":     {with(func(r *store.Record) { r.Templates[2].Embedding = unit(rng, 17) }), face.ModelMismatch},
		"taken id":      {with(func(r *store.Record) { r.Templates[2].ID = taken }), face.Conflict},
		"its own id":    {with(func(r *store.Record) { r.Templates[2].ID = r.Templates[0].ID }), face.Conflict},
		"its own dimension": {with(func(r *store.Record) {
			r.Templates[1].ModelID, r.Templates[2].ModelID = "new", "new"
			r.Templates[2].Embedding = unit(rng, 17)
		}), face.ModelMismatch},
	} {
		before, after := record(face.NewID(), unit(rng, 16)), record(face.NewID(), unit(rng, 16))
		out := imported(t, s, before, c.bad, after)
		outcome(t, out[0], true, 1)
		refused(t, out[1], c.kind)
		outcome(t, out[2], true, 1)
		subjects, templates = subjects+2, templates+2
		if t.Failed() {
			t.Fatalf("that was %s", name)
		}
	}
	counted(t, s, subjects, templates)
	_, err := s.Subject(t.Context(), tenant, face.DefaultGallery, "poison")
	wantKind(t, err, face.NotFound)
	for _, r := range exported(t, s, face.DefaultGallery, "") {
		if len(r.Templates) != 1 || r.Subject.ID == "poison" {
			t.Errorf("%s has %d templates", r.Subject.ID, len(r.Templates))
		}
	}
	if ids := found(t, s, tenant, face.DefaultGallery, model, unit(rng, 16), 1000); len(ids) != subjects || slices.Contains(ids, "poison") {
		t.Errorf("%d of %d subjects are found: %v", len(ids), subjects, ids)
	}
	// What a refused record would have taken is free: ids, a new model's length.
	outcome(t, imported(t, s, with(func(r *store.Record) {
		for i := range r.Templates {
			r.Templates[i].ModelID, r.Templates[i].Embedding = "new", unit(rng, 99)
		}
	}))[0], true, 3)
}

// importPoisonsAnother: a refused record also leaves a subject alone that was
// there before.
func importPoisonsAnother(t *testing.T, place Place) {
	s, rng := start(t, place), newRand(t)
	imported(t, s, record("ada", unit(rng, 16)))
	before := exported(t, s, face.DefaultGallery, "")
	bad := record("ada", unit(rng, 16), unit(rng, 17))
	refused(t, imported(t, s, bad)[0], face.ModelMismatch)
	if d := cmp.Diff(before, exported(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
}

func importDuplicates(t *testing.T, place Place) {
	s, rng := start(t, place), newRand(t)
	a, again, b := record("a", unit(rng, 8)), record("a", unit(rng, 8)), record("b", unit(rng, 8))
	thief := record("c", unit(rng, 8))
	thief.Templates[0].ID = b.Templates[0].ID
	twin := record("d", unit(rng, 8))
	twin.Templates = append(twin.Templates, twin.Templates[0])
	out := imported(t, s, a, again, b, thief, twin)
	outcome(t, out[0], true, 1)
	refused(t, out[1], face.Conflict)
	outcome(t, out[2], true, 1)
	refused(t, out[3], face.Conflict)
	outcome(t, out[4], true, 1) // the same template twice is one
	counted(t, s, 3, 3)
}

func importLimits(t *testing.T, place Place) {
	s, ctx := start(t, place), t.Context()
	all := make([]store.Record, store.MaxImport+1)
	for i := range all {
		all[i] = record(number("s", i))
	}
	_, err := s.Import(ctx, tenant, face.DefaultGallery, all)
	wantKind(t, err, face.Invalid)
	_, err = s.Import(ctx, tenant, "nobody", all[:1])
	wantKind(t, err, face.NotFound)
	wantKind(t, s.Export(ctx, tenant, "nobody", "", func(store.Record) error { return nil }), face.NotFound)
	counted(t, s, 0, 0)
	for _, o := range imported(t, s, all[:store.MaxImport]...) {
		outcome(t, o, true, 0)
	}
	counted(t, s, store.MaxImport, 0)
	ended := canceledContext(t)
	_, err = s.Import(ended, tenant, face.DefaultGallery, all[:1])
	wantKind(t, err, face.Canceled)
	wantKind(t, s.Export(ended, tenant, face.DefaultGallery, "", func(store.Record) error { return nil }), face.Canceled)
}

func exportOrder(t *testing.T, place Place) {
	s, ctx, rng := start(t, place), t.Context(), newRand(t)
	ids := []string{"a", "B", "b", "Z", "a.b", "a_b", "a-b", "10", "9", "ab", "A"}
	for _, id := range ids {
		outcome(t, imported(t, s, record(id, unit(rng, 8)))[0], true, 1)
	}
	slices.Sort(ids) // by bytes, wherever the database comes from
	list := func(after string) (got []string) {
		for _, r := range exported(t, s, face.DefaultGallery, after) {
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
	check(t, s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
		_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, r.Subject.ID, by)
		return err
	}))
	counted(t, s, 0, 0)
}

// exportAll compares a whole gallery with what the other methods say of it.
func exportAll(t *testing.T, place Place) {
	s, ctx, rng := start(t, place), t.Context(), newRand(t)
	const n = 1100 // more than one import
	want := map[string][]face.Embedding{}
	var batch []store.Record
	for i := range n {
		r := record(number("s", i))
		for j := range i % 4 {
			e := unit(rng, 16)
			r.Templates = append(r.Templates, record(r.Subject.ID, e).Templates...)
			r.Templates[j].CreatedAt = time.Date(2026, 1, 1, 0, 0, j, 0, time.UTC)
			want[r.Subject.ID] = append(want[r.Subject.ID], e)
		}
		if batch = append(batch, r); len(batch) == store.MaxImport {
			imported(t, s, batch...)
			batch = nil
		}
	}
	imported(t, s, batch...)
	got := exported(t, s, face.DefaultGallery, "")
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
			check(t, o.Err)
		}
	}
	for i, r := range exported(t, s, "copy", "") {
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
	s, ctx, rng := start(t, place), t.Context(), newRand(t)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "seen", StoreImages: true}))(t)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "copy", StoreImages: true}))(t)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := record("ada", unit(rng, 8), unit(rng, 8), unit(rng, 8), unit(rng, 8))
	for i := range r.Templates {
		r.Templates[i].CreatedAt = at.Add(time.Duration(i) * time.Minute)
	}
	r.Templates[0].SampleID, r.Templates[0].Crop = "photo-1", []byte("sealed 1")
	r.Templates[1].SampleID, r.Templates[1].ModelID = "photo-1", "encoder-b"
	r.Templates[2].Crop = []byte("sealed 2") // its own sample
	crops := func(gallery string) (list []string) {
		for _, r := range exported(t, s, gallery, "") {
			for _, tm := range r.Templates {
				list = append(list, tm.SampleID+" "+string(tm.Crop))
			}
		}
		return list
	}
	import1 := func(gallery string, r store.Record) {
		t.Helper()
		outcome(t, must(s.Import(ctx, tenant, gallery, []store.Record{r}))(t)[0], true, len(r.Templates))
	}
	import1("seen", r)
	want := []string{"photo-1 sealed 1", "photo-1 ", r.Templates[2].ID + " sealed 2", r.Templates[3].ID + " "}
	if d := cmp.Diff(want, crops("seen")); d != "" {
		t.Error(d)
	}
	if got := must(s.Sample(ctx, tenant, "seen", "photo-1"))(t); string(got.Crop) != "sealed 1" || got.SubjectID != "ada" || got.Quality != 0.5 || !got.CreatedAt.Equal(at) {
		t.Errorf("the sample is %+v", got)
	}
	back := exported(t, s, "seen", "")[0]
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
	thief := record("thief", unit(rng, 8), unit(rng, 8))
	thief.Templates[1].SampleID = "photo-1"
	refused(t, imported(t, s, thief)[0], face.Conflict)
	counted(t, s, 1, 4)
}

func bulkTenants(t *testing.T, place Place) {
	s, ctx, rng := start(t, place), t.Context(), newRand(t)
	mine := record("ada", unit(rng, 8))
	outcome(t, imported(t, s, mine)[0], true, 1)
	theirs := record("ada", unit(rng, 8))
	outcome(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{theirs}))(t)[0], true, 1)
	// A template's id is unique in its gallery, and says nothing of anybody else's.
	namesake := record("carl", unit(rng, 8))
	namesake.Templates[0].ID = mine.Templates[0].ID
	outcome(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{record("bob"), namesake}))(t)[1], true, 1)
	refused(t, must(s.Import(ctx, "t2", face.DefaultGallery, []store.Record{{
		Subject: face.Subject{ID: "thief"}, Templates: namesake.Templates,
	}}))(t)[0], face.Conflict)
	var ids []string
	check(t, s.Export(ctx, "t2", face.DefaultGallery, "", func(r store.Record) error {
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
	counted(t, s, 1, 1)
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
		addSubject(t, s, tenant, photos, number("s", i))
		addSample(t, s, photos, number("s", i), "crop of "+number("s", i), model, "encoder-b")
		addTemplate(t, s, tenant, photos, number("s", i), model, unit(rand.New(rand.NewPCG(uint64(i), 1)), 8))
	}
	all := exported(t, s, photos, "")
	for range 2 { // and once more, as after a cut connection
		for _, o := range must(s.Import(ctx, tenant, "copy", all))(t) {
			check(t, o.Err)
		}
		if d := cmp.Diff(all, exported(t, s, "copy", "")); d != "" {
			t.Fatal(d)
		}
	}
	probe := unit(newRand(t), 8)
	candidates := func(gallery string) []face.Candidate {
		return must(s.Search(ctx, tenant, gallery, model, probe, 100))(t).Candidates
	}
	if d := cmp.Diff(candidates(photos), candidates("copy")); d != "" {
		t.Error(d)
	}
	sample := all[0].Templates[0].SampleID
	third := face.Template{ID: face.NewID(), SubjectID: "s-0000", SampleID: sample, ModelID: "encoder-c", Embedding: axis(4, 0, 0)}
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
	if d := cmp.Diff(all[1:], exported(t, s, "copy", "s-0000")); d != "" {
		t.Error(d)
	}
	if got := len(candidates("copy")); got != 20 {
		t.Errorf("%d are found in the copy", got)
	}
}

// bulkConcurrent imports from several sides, some of it the same, while
// searches, enrolments, erases and exports run.
func bulkConcurrent(t *testing.T, place Place) {
	s, ctx := start(t, place), t.Context()
	const importers, batches, size, dim = 6, 5, 20, 32
	embeddingOf := func(i, j int) face.Embedding { return unit(rand.New(rand.NewPCG(uint64(i), uint64(j))), dim) }
	together(2*importers+2, func(w int) {
		switch {
		case w < 2*importers: // each batch is imported twice, at about the same time
			w /= 2
			for b := range batches {
				var rs []store.Record
				for i := range size {
					n := (w*batches+b)*size + i
					r := record(number("s", n), embeddingOf(n, 0), embeddingOf(n, 1))
					r.Templates[0].ID, r.Templates[1].ID = number("t0", n), number("t1", n)
					rs = append(rs, r)
				}
				out, err := s.Import(ctx, tenant, face.DefaultGallery, rs)
				check(t, err)
				for _, o := range out {
					check(t, o.Err)
				}
				// Read your write.
				r, err := s.Search(ctx, tenant, face.DefaultGallery, model, rs[3].Templates[1].Embedding, 1)
				if err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != rs[3].Subject.ID {
					t.Errorf("%s is not found after its import: %+v, %v", rs[3].Subject.ID, r, err)
				}
			}
		case w == 2*importers:
			for i := range 40 {
				id := number("x", i)
				addSubject(t, s, tenant, face.DefaultGallery, id)
				addTemplate(t, s, tenant, face.DefaultGallery, id, model, embeddingOf(i, 9))
				_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, id, by)
				check(t, err)
			}
		default:
			for range 10 {
				check(t, s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
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
	counted(t, s, all, 2*all)
	if got := exported(t, s, face.DefaultGallery, ""); len(got) != all {
		t.Errorf("%d subjects are exported, want %d", len(got), all)
	}
	if ids := found(t, s, tenant, face.DefaultGallery, model, embeddingOf(0, 0), 1000); len(ids) != all {
		t.Errorf("%d subjects are found, want %d", len(ids), all)
	}
}

// bulkReopen: what was imported is there, and found, when the store comes back.
func bulkReopen(t *testing.T, place Place) {
	open, rng := place(t), newRand(t)
	s := open()
	var all []store.Record
	for i := range 300 {
		all = append(all, record(number("s", i), unit(rng, 16)))
	}
	imported(t, s, all...)
	before := exported(t, s, face.DefaultGallery, "")
	check(t, s.Close())
	_, err := s.Import(t.Context(), tenant, face.DefaultGallery, all)
	wantKind(t, err, face.Unavailable)
	s = open()
	defer func() { check(t, s.Close()) }()
	if d := cmp.Diff(before, exported(t, s, face.DefaultGallery, "")); d != "" {
		t.Error(d)
	}
	if ids := found(t, s, tenant, face.DefaultGallery, model, all[77].Templates[0].Embedding, 1); !slices.Equal(ids, []string{"s-0077"}) {
		t.Errorf("found %v", ids)
	}
}
