//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// The models that the samples of these tests are made with.
const (
	oldModel = "encoder-a"
	newModel = "encoder-b"
)

// photos is a gallery that keeps crops.
const photos = "photos"

// startWithPhotos opens a store with a gallery that keeps crops.
func startWithPhotos(t *testing.T, place Place) store.Store {
	t.Helper()
	s := openReady(t, place)
	must(s.CreateGallery(t.Context(), tenant, face.Gallery{ID: photos, StoreImages: true}))(t)
	return s
}

// addSample enrols one photo with the given models. Its id is that of its
// first template; an empty crop is none.
func addSample(tb testing.TB, s store.Store, gallery, subject, crop string, models ...string) (id string) {
	tb.Helper()
	for i, m := range models {
		t := face.Template{
			ID: face.NewID(), SubjectID: subject, SampleID: id, ModelID: m, Embedding: axisEmbedding(8, i, 0.1), Quality: 0.5,
			CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC),
		}
		if crop != "" {
			t.Crop = []byte(crop)
		}
		stored, err := s.Enrol(tb.Context(), tenant, gallery, t)
		noError(tb, err)
		id = stored.SampleID
	}
	return id
}

func hasCrop(tb testing.TB, s store.Store, gallery, sample string) bool {
	tb.Helper()
	_, err := s.Sample(tb.Context(), tenant, gallery, sample)
	if err != nil && !errors.Is(err, face.NotFound) {
		tb.Error(err)
	}
	return err == nil
}

// samplesShared has two models make templates of one photo, which is erased
// as one.
func samplesShared(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	for _, gallery := range []string{face.DefaultGallery, photos} {
		addSubject(t, s, tenant, gallery, "a")
		sample := addSample(t, s, gallery, "a", "crop", oldModel, newModel)
		kept := addSample(t, s, gallery, "a", "crop 2", oldModel)
		list := must(s.Templates(ctx, tenant, gallery, "a", ""))(t)
		if len(list) != 3 || list[0].ID != sample || list[0].SampleID != sample || list[1].ID == sample || list[1].SampleID != sample || list[2].SampleID != kept {
			t.Errorf("%s: templates %+v", gallery, list)
		}
		for _, tm := range list {
			if tm.Crop != nil {
				t.Error("a list of templates brings crops along")
			}
		}
		images := 0
		if gallery == photos {
			images = 1
		}
		// The second template stands for the photo as well as the first.
		r := must(s.DeleteTemplate(ctx, tenant, gallery, "a", list[1].ID, by))(t)
		want := face.Receipt{Gallery: gallery, SubjectID: "a", Templates: 2, Images: images, AuditID: r.AuditID}
		if d := cmp.Diff(want, r); d != "" {
			t.Error(d)
		}
		if got := searchIDs(t, s, tenant, gallery, newModel, axisEmbedding(8, 1, 0), 5); got != nil {
			t.Errorf("%s: the other template of the photo is still found: %v", gallery, got)
		}
		if got := searchIDs(t, s, tenant, gallery, oldModel, axisEmbedding(8, 0, 0), 5); len(got) != 1 {
			t.Errorf("%s: the other photo is not found any more", gallery)
		}
		_, err := s.DeleteTemplate(ctx, tenant, gallery, "a", sample, by)
		wantKind(t, err, face.NotFound)
	}
}

func sampleOfAnother(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	addSubject(t, s, tenant, photos, "a")
	addSubject(t, s, tenant, photos, "b")
	sample := addSample(t, s, photos, "a", "crop", oldModel)
	stolen := face.Template{ID: face.NewID(), SubjectID: "b", SampleID: sample, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0), Crop: []byte("x")}
	_, err := s.Enrol(ctx, tenant, photos, stolen)
	if err == nil {
		t.Error("one photo was enrolled for two people")
	}
	wantKind(t, err, face.Conflict)
	if got := must(s.Templates(ctx, tenant, photos, "b", ""))(t); len(got) != 0 {
		t.Errorf("the refused template is there: %+v", got)
	}
	if got := searchIDs(t, s, tenant, photos, newModel, axisEmbedding(8, 0, 0), 5); got != nil {
		t.Errorf("the refused template is found: %v", got)
	}
	// Nor may a template take the name of somebody's sample.
	must(s.Enrol(ctx, tenant, photos, face.Template{ID: "t-1", SubjectID: "a", SampleID: "photo-1", ModelID: oldModel, Embedding: axisEmbedding(8, 0, 0)}))(t)
	_, err = s.Enrol(ctx, tenant, photos, face.Template{ID: "photo-1", SubjectID: "b", ModelID: oldModel, Embedding: axisEmbedding(8, 0, 0)})
	if err == nil {
		t.Error("a template of one subject has the sample of another")
	}
	wantKind(t, err, face.Conflict)
}

func addToSample(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	addSubject(t, s, tenant, photos, "a")
	addSubject(t, s, tenant, photos, "b")
	sample, bare := addSample(t, s, photos, "a", "crop", oldModel), addSample(t, s, photos, "a", "", oldModel)
	more := face.Template{ID: "more", SubjectID: "a", SampleID: sample, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0), Quality: 0.5}
	stored := must(s.AddToSample(ctx, tenant, photos, more))(t)
	more.CreatedAt = stored.CreatedAt
	if d := cmp.Diff(more, stored); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(more, must(s.AddToSample(ctx, tenant, photos, more))(t)); d != "" {
		t.Error("a second time", d)
	}
	for name, c := range map[string]struct {
		gallery string
		change  func(*face.Template)
		kind    face.Kind
	}{
		"no sample":       {photos, func(t *face.Template) { t.SampleID = "nothing" }, face.NotFound},
		"unnamed":         {photos, func(t *face.Template) { t.SampleID = "" }, face.NotFound},
		"subject":         {photos, func(t *face.Template) { t.SubjectID = "c" }, face.NotFound},
		"another subject": {photos, func(t *face.Template) { t.SubjectID = "b" }, face.Conflict},
		"gallery":         {"nobody", func(*face.Template) {}, face.NotFound},
		"length":          {photos, func(t *face.Template) { t.Embedding = axisEmbedding(4, 0, 0) }, face.ModelMismatch},
		"numbers":         {photos, func(t *face.Template) { t.Embedding = face.Embedding{1, 1} }, face.Invalid},
	} {
		bad := more
		bad.ID = "bad"
		c.change(&bad)
		if _, err := s.AddToSample(ctx, tenant, c.gallery, bad); !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %s", name, err, c.kind)
		}
	}
	// A sample without a crop is one, too.
	plain := more
	plain.ID, plain.SampleID, plain.CreatedAt = "plain", bare, time.Time{}
	if stored := must(s.AddToSample(ctx, tenant, photos, plain))(t); stored.SampleID != bare {
		t.Errorf("stored %+v", stored)
	}
	if got := searchIDs(t, s, tenant, photos, newModel, more.Embedding, 5); len(got) != 1 {
		t.Errorf("found at once: %v", got)
	}
	for _, erased := range []face.Template{more, plain} {
		must(s.DeleteTemplate(ctx, tenant, photos, "a", erased.SampleID, by))(t)
		_, err := s.AddToSample(ctx, tenant, photos, erased)
		if err == nil {
			t.Error("what was erased came back")
		}
		wantKind(t, err, face.NotFound)
	}
}

// addToSampleWhileErasing has photos erased while another model's templates
// of them come in: nothing of an erased photo is left.
func addToSampleWhileErasing(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	const n = 50
	samples := make([]string, n)
	for i := range samples {
		addSubject(t, s, tenant, photos, numberedID("s", i))
		samples[i] = addSample(t, s, photos, numberedID("s", i), []string{"crop", ""}[i%2], oldModel)
	}
	runTogether(2*n, func(i int) {
		subject := numberedID("s", i/2)
		if i%2 == 0 {
			_, err := s.DeleteTemplate(ctx, tenant, photos, subject, samples[i/2], by)
			noError(t, err)
			return
		}
		_, err := s.AddToSample(ctx, tenant, photos, face.Template{
			ID: numberedID("new", i), SubjectID: subject, SampleID: samples[i/2], ModelID: newModel, Embedding: axisEmbedding(8, 0, 0),
		})
		if err != nil {
			wantKind(t, err, face.NotFound)
		}
	})
	if g := must(s.Gallery(ctx, tenant, photos))(t); g.Templates != 0 {
		t.Errorf("%d templates of erased photos are left", g.Templates)
	}
	if got := searchIDs(t, s, tenant, photos, newModel, axisEmbedding(8, 0, 0), 5); got != nil {
		t.Errorf("of erased photos are found: %v", got)
	}
}

func cropsKept(t *testing.T, place Place) {
	open, ctx := place(t), t.Context()
	s := open()
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: photos, StoreImages: true}))(t)
	for _, gallery := range []string{face.DefaultGallery, photos} {
		addSubject(t, s, tenant, gallery, "a")
	}
	addSubject(t, s, tenant, photos, "b")
	if hasCrop(t, s, face.DefaultGallery, addSample(t, s, face.DefaultGallery, "a", "crop", oldModel)) {
		t.Error("a gallery that stores no images stores one")
	}
	if hasCrop(t, s, photos, addSample(t, s, photos, "a", "", oldModel)) {
		t.Error("a sample has a crop that came without one")
	}
	crop := string(make([]byte, store.MaxCrop-4)) + "\x00\xff\"'"
	sample := addSample(t, s, photos, "b", crop, oldModel)
	want := store.Sample{
		ID: sample, SubjectID: "b", Quality: 0.5, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Crop: []byte(crop),
	}
	if d := cmp.Diff(want, must(s.Sample(ctx, tenant, photos, sample))(t)); d != "" {
		t.Error(d)
	}
	// A second one of the same photo is not needed.
	must(s.Enrol(ctx, tenant, photos, face.Template{
		ID: face.NewID(), SubjectID: "b", SampleID: sample, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0), Crop: []byte("another"),
	}))(t)
	noError(t, s.Close())
	s = open()
	defer func() { noError(t, s.Close()) }()
	if d := cmp.Diff(want, must(s.Sample(ctx, tenant, photos, sample))(t)); d != "" {
		t.Error(d)
	}
	for _, at := range [][3]string{{tenant, photos, "nothing"}, {tenant, "nobody", sample}, {"other", face.DefaultGallery, sample}, {tenant, face.DefaultGallery, sample}} {
		_, err := s.Sample(ctx, at[0], at[1], at[2])
		wantKind(t, err, face.NotFound)
	}
}

func cropsErased(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	samples := map[string]string{}
	for _, id := range []string{"a", "b", "c"} {
		addSubject(t, s, tenant, photos, id)
		samples[id] = addSample(t, s, photos, id, "crop of "+id, oldModel, newModel)
		addSample(t, s, photos, id, "second crop", oldModel)
		addSample(t, s, photos, id, "", oldModel)
	}
	r := must(s.DeleteSubject(ctx, tenant, photos, "a", by))(t)
	if d := cmp.Diff(face.Receipt{Gallery: photos, SubjectID: "a", Subjects: 1, Templates: 4, Images: 2, AuditID: r.AuditID}, r); d != "" {
		t.Error(d)
	}
	if hasCrop(t, s, photos, samples["a"]) || !hasCrop(t, s, photos, samples["b"]) {
		t.Error("a subject's crops went not, or others too")
	}
	r = must(s.DeleteGallery(ctx, tenant, photos, by))(t)
	if d := cmp.Diff(face.Receipt{Gallery: photos, Subjects: 2, Templates: 8, Images: 4, AuditID: r.AuditID}, r); d != "" {
		t.Error(d)
	}
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: photos, StoreImages: true}))(t)
	if hasCrop(t, s, photos, samples["b"]) {
		t.Error("a new gallery has a crop of the old one")
	}
}

func cropsPurged(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	must(s.CreateGallery(ctx, tenant, face.Gallery{ID: photos, StoreImages: true, RetentionDays: 1}))(t)
	addSubject(t, s, tenant, photos, "a")
	enrol := func(id, sample, model string, age time.Duration) {
		must(s.Enrol(ctx, tenant, photos, face.Template{
			ID: id, SubjectID: "a", SampleID: sample, ModelID: model, Embedding: axisEmbedding(8, 0, 0), CreatedAt: now.Add(-age), Crop: []byte("crop of " + id),
		}))(t)
	}
	enrol("old", "", oldModel, 25*time.Hour)
	enrol("old-b", "old", newModel, 25*time.Hour)
	enrol("new", "", oldModel, time.Hour)
	enrol("both", "", oldModel, 25*time.Hour)
	enrol("both-b", "both", newModel, time.Hour)
	if n := must(s.PurgeExpired(ctx, now))(t); n != 3 {
		t.Errorf("purged %d templates, want 3", n)
	}
	// The crop goes with the last template of its sample.
	for sample, want := range map[string]bool{"old": false, "new": true, "both": true} {
		if hasCrop(t, s, photos, sample) != want {
			t.Errorf("%s: the crop is there: %v", sample, !want)
		}
	}
	must(s.PurgeExpired(ctx, now.Add(48*time.Hour)))(t)
	for _, sample := range []string{"new", "both"} {
		if hasCrop(t, s, photos, sample) {
			t.Errorf("%s: the crop outlived its retention", sample)
		}
	}
}

func storeImagesOff(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	addSubject(t, s, tenant, photos, "a")
	sample := addSample(t, s, photos, "a", "crop", oldModel)
	on, off, days := true, false, 5
	must(s.UpdateGallery(ctx, tenant, photos, store.GalleryChange{RetentionDays: &days, StoreImages: &on}))(t)
	if !hasCrop(t, s, photos, sample) {
		t.Error("another change of the gallery erased a crop")
	}
	must(s.UpdateGallery(ctx, tenant, photos, store.GalleryChange{StoreImages: &off}))(t)
	must(s.UpdateGallery(ctx, tenant, photos, store.GalleryChange{StoreImages: &on}))(t)
	if hasCrop(t, s, photos, sample) {
		t.Error("a crop is there after its gallery stored no images")
	}
	if got := must(s.Templates(ctx, tenant, photos, "a", ""))(t); len(got) != 1 {
		t.Errorf("%d templates are left, want 1", len(got))
	}
}

func pendingSamples(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	var want []string
	for i := range 25 {
		id := numberedID("s", i)
		addSubject(t, s, tenant, photos, id)
		sample := numberedID("photo", 24-i)
		must(s.Enrol(ctx, tenant, photos, face.Template{
			ID: sample, SubjectID: id, ModelID: oldModel, Embedding: axisEmbedding(8, 0, 0), Quality: 0.25, Crop: []byte("crop"),
		}))(t)
		want = append([]string{sample}, want...)
	}
	addSample(t, s, photos, numberedID("s", 0), "", oldModel)               // no crop
	addSample(t, s, photos, numberedID("s", 0), "crop", oldModel, newModel) // done
	var got []string
	for after := ""; ; {
		list := must(s.PendingSamples(ctx, tenant, photos, newModel, after, 7))(t)
		for _, m := range list {
			if m.Crop != nil || m.Quality != 0.25 || m.SubjectID == "" || m.CreatedAt.IsZero() {
				t.Errorf("pending sample %+v", m)
			}
			got = append(got, m.ID)
			after = m.ID
		}
		if len(list) < 7 {
			break
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	// What is done is not pending any more.
	first := must(s.PendingSamples(ctx, tenant, photos, newModel, "", 1))(t)[0]
	must(s.Enrol(ctx, tenant, photos, face.Template{
		ID: face.NewID(), SubjectID: first.SubjectID, SampleID: first.ID, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0),
	}))(t)
	if next := must(s.PendingSamples(ctx, tenant, photos, newModel, "", 1))(t); len(next) != 1 || next[0].ID != want[1] {
		t.Errorf("after the first was done, the next is %+v, want %s", next, want[1])
	}
	for _, limit := range []int{0, -1, 1001} {
		_, err := s.PendingSamples(ctx, tenant, photos, newModel, "", limit)
		wantKind(t, err, face.Invalid)
	}
	_, err := s.PendingSamples(ctx, tenant, "nobody", newModel, "", 1)
	wantKind(t, err, face.NotFound)
}

func coverage(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	is := func(step string, want store.Coverage) {
		t.Helper()
		if d := cmp.Diff(want, must(s.Coverage(ctx, tenant, photos, newModel))(t)); d != "" {
			t.Error(step, d)
		}
	}
	is("empty", store.Coverage{})
	addSubject(t, s, tenant, photos, "no-templates") // nobody to lose
	for _, id := range []string{"one-crop", "two-crops", "both", "no-crop", "new-alone"} {
		addSubject(t, s, tenant, photos, id)
	}
	addSample(t, s, photos, "one-crop", "crop", oldModel)
	first := addSample(t, s, photos, "two-crops", "crop", oldModel)
	addSample(t, s, photos, "two-crops", "crop", oldModel)
	addSample(t, s, photos, "two-crops", "", oldModel)
	addSample(t, s, photos, "both", "crop", oldModel, newModel)
	addSample(t, s, photos, "no-crop", "", oldModel)
	addSample(t, s, photos, "new-alone", "", newModel)
	is("mixed", store.Coverage{Subjects: 5, Covered: 2, Pending: 3, Uncovered: 1})
	must(s.Enrol(ctx, tenant, photos, face.Template{
		ID: face.NewID(), SubjectID: "two-crops", SampleID: first, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0),
	}))(t)
	is("one of two samples done", store.Coverage{Subjects: 5, Covered: 3, Pending: 2, Uncovered: 1})
	addSample(t, s, photos, "no-crop", "", newModel)
	is("a new photo", store.Coverage{Subjects: 5, Covered: 4, Pending: 2})
}

func uncovered(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	var want []string
	for i := range 12 {
		id := numberedID("s", i)
		addSubject(t, s, tenant, photos, id)
		switch i % 3 {
		case 0:
			addSample(t, s, photos, id, "", oldModel)
			want = append(want, id)
		case 1:
			addSample(t, s, photos, id, "crop", oldModel)
		case 2:
			addSample(t, s, photos, id, "", oldModel)
			addSample(t, s, photos, id, "", newModel)
		}
	}
	addSubject(t, s, tenant, photos, "without-templates")
	for _, limit := range []int{1, 3, 4, 1000} {
		var got []string
		for p := (store.Page{Limit: limit}); ; {
			list, next, err := s.Uncovered(ctx, tenant, photos, newModel, p)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) > limit {
				t.Errorf("a page of %d has %d subjects", limit, len(list))
			}
			got = append(got, list...)
			if p.Cursor = next; next == "" {
				break
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("limit %d: %s", limit, d)
		}
	}
	_, next, err := s.Uncovered(ctx, tenant, photos, newModel, store.Page{Limit: 1})
	noError(t, err)
	_, _, err = s.Uncovered(ctx, tenant, photos, oldModel, store.Page{Limit: 1, Cursor: next})
	wantKind(t, err, face.Invalid)
	_, _, err = s.Uncovered(ctx, tenant, photos, newModel, store.Page{})
	wantKind(t, err, face.Invalid)
	_, _, err = s.Uncovered(ctx, tenant, "nobody", newModel, store.Page{Limit: 1})
	wantKind(t, err, face.NotFound)
	_, err = s.Coverage(ctx, tenant, "nobody", newModel)
	wantKind(t, err, face.NotFound)
}

// galleryModels keeps the models of a gallery through everything but a cut
// over.
func galleryModels(t *testing.T, place Place) {
	open, ctx := place(t), t.Context()
	s := open()
	made := must(s.CreateGallery(ctx, tenant, face.Gallery{ID: "staff", ModelID: oldModel, NextModelID: newModel}))(t)
	if made.ModelID != oldModel || made.NextModelID != newModel {
		t.Errorf("made %+v", made)
	}
	days, none, bad := 7, "", "no model"
	got := must(s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{RetentionDays: &days}))(t)
	if got.ModelID != oldModel || got.NextModelID != newModel {
		t.Errorf("another change left %+v", got)
	}
	got = must(s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{NextModelID: &none}))(t)
	if got.ModelID != oldModel || got.NextModelID != "" {
		t.Errorf("the end of a move left %+v", got)
	}
	_, err := s.UpdateGallery(ctx, tenant, "staff", store.GalleryChange{NextModelID: &bad})
	wantKind(t, err, face.Invalid)
	for _, g := range []face.Gallery{{ID: "x", ModelID: bad}, {ID: "x", NextModelID: bad}} {
		_, err := s.CreateGallery(ctx, tenant, g)
		wantKind(t, err, face.Invalid)
	}
	noError(t, s.Close())
	s = open()
	defer func() { noError(t, s.Close()) }()
	if d := cmp.Diff(got, must(s.Gallery(ctx, tenant, "staff"))(t)); d != "" {
		t.Error(d)
	}
	list, _, err := s.ListGalleries(ctx, tenant, store.Page{Limit: 10})
	noError(t, err)
	if d := cmp.Diff(got, list[len(list)-1]); d != "" {
		t.Error(d)
	}
}

func cutOver(t *testing.T, place Place) {
	s, ctx := startWithPhotos(t, place), t.Context()
	refused := func(step, model string) {
		t.Helper()
		if _, err := s.CutOver(ctx, tenant, photos, model); !errors.Is(err, face.Conflict) {
			t.Errorf("%s: %v, want a conflict", step, err)
		}
		if g := must(s.Gallery(ctx, tenant, photos))(t); g.ModelID != "" {
			t.Errorf("%s: the gallery is searched with %s", step, g.ModelID)
		}
	}
	refused("no move", newModel)
	refused("no model", "")
	next := newModel
	must(s.UpdateGallery(ctx, tenant, photos, store.GalleryChange{NextModelID: &next}))(t)
	refused("another model", oldModel)
	addSubject(t, s, tenant, photos, "a")
	addSubject(t, s, tenant, photos, "without-templates")
	sample := addSample(t, s, photos, "a", "crop", oldModel)
	refused("pending", newModel)
	must(s.Enrol(ctx, tenant, photos, face.Template{
		ID: face.NewID(), SubjectID: "a", SampleID: sample, ModelID: newModel, Embedding: axisEmbedding(8, 0, 0),
	}))(t)
	g := must(s.CutOver(ctx, tenant, photos, newModel))(t)
	if g.ModelID != newModel || g.NextModelID != "" || g.Subjects != 2 || g.Templates != 2 {
		t.Errorf("cut over to %+v", g)
	}
	if d := cmp.Diff(g, must(s.Gallery(ctx, tenant, photos))(t)); d != "" {
		t.Error(d)
	}
	if _, err := s.CutOver(ctx, tenant, photos, newModel); !errors.Is(err, face.Conflict) {
		t.Errorf("a second time: %v", err)
	}
	// The way back is the way there: everybody has a template of both.
	next = oldModel
	must(s.UpdateGallery(ctx, tenant, photos, store.GalleryChange{NextModelID: &next}))(t)
	if g := must(s.CutOver(ctx, tenant, photos, oldModel))(t); g.ModelID != oldModel {
		t.Errorf("back to %+v", g)
	}
	_, err := s.CutOver(ctx, tenant, "nobody", oldModel)
	wantKind(t, err, face.NotFound)
}

// cutOverWhileEnrolling has people come in with one template at a time while
// others try to cut over: whenever that succeeds, nobody is left behind.
func cutOverWhileEnrolling(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	const people = 40
	next := newModel
	must(s.UpdateGallery(ctx, tenant, face.DefaultGallery, store.GalleryChange{NextModelID: &next}))(t)
	done := make(chan struct{})
	runTogether(2, func(i int) {
		if i == 0 {
			defer close(done)
			for j := range people {
				addSubject(t, s, tenant, face.DefaultGallery, numberedID("s", j))
				addSample(t, s, face.DefaultGallery, numberedID("s", j), "", oldModel, newModel)
			}
			return
		}
		for ended := false; !ended; {
			select {
			case <-done:
				ended = true
			default:
			}
			_, err := s.CutOver(ctx, tenant, face.DefaultGallery, newModel)
			if err != nil {
				wantKind(t, err, face.Conflict)
				continue
			}
			_, err = s.UpdateGallery(ctx, tenant, face.DefaultGallery, store.GalleryChange{NextModelID: &next})
			noError(t, err)
		}
	})
	if c := must(s.Coverage(ctx, tenant, face.DefaultGallery, newModel))(t); c.Subjects != people || c.Covered != people {
		t.Errorf("coverage %+v", c)
	}
}

// samplesIsolation has two galleries of two tenants with the same names.
func samplesIsolation(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	next := newModel
	for _, tn := range []string{"t1", "t2"} {
		must(s.CreateGallery(ctx, tn, face.Gallery{ID: photos, StoreImages: true, NextModelID: newModel}))(t)
		addSubject(t, s, tn, photos, "same")
		must(s.Enrol(ctx, tn, photos, face.Template{
			ID: tn + "-photo", SubjectID: "same", SampleID: "sample", ModelID: oldModel, Embedding: axisEmbedding(8, 0, 0), Crop: []byte("crop of " + tn),
		}))(t)
	}
	for _, tn := range []string{"t1", "t2"} {
		if got := must(s.Sample(ctx, tn, photos, "sample"))(t); string(got.Crop) != "crop of "+tn {
			t.Errorf("%s has %q", tn, got.Crop)
		}
	}
	must(s.DeleteTemplate(ctx, "t1", photos, "same", "t1-photo", by))(t)
	must(s.Sample(ctx, "t2", photos, "sample"))(t)
	must(s.CutOver(ctx, "t1", photos, next))(t)
	if c := must(s.Coverage(ctx, "t2", photos, newModel))(t); c != (store.Coverage{Subjects: 1, Pending: 1}) {
		t.Errorf("coverage of the other tenant: %+v", c)
	}
	_, err := s.CutOver(ctx, "t2", photos, newModel)
	wantKind(t, err, face.Conflict)
	if g := must(s.Gallery(ctx, "t2", photos))(t); g.NextModelID != newModel {
		t.Errorf("the other tenant's gallery: %+v", g)
	}
}
