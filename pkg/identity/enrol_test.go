package identity_test

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/identity/identitytest"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

func TestEnrol(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.enrolled(t, "default", "ada", person{Number: 1})
	bob := func(r identity.EnrolRequest) identity.EnrolRequest {
		r.SubjectID = "bob"
		return r
	}
	_, err := b.Enrol(t.Context(), nobody(), bob(identity.EnrolRequest{Image: photo(person{Number: 2})}))
	fails(t, err, face.NotFound, "")
	b.subject(t, "default", "bob")

	e := must(t, b.Enrol, bob(identity.EnrolRequest{Image: photo(person{Number: 2, Noise: 51})}))
	if m := e.Template; m.SubjectID != "bob" || m.ModelID != modelID || m.Quality != 0.8 || e.Face == nil || len(e.Warnings) != 0 {
		t.Errorf("enrolled %+v", e)
	}
	e = must(t, b.Enrol, bob(identity.EnrolRequest{Embedding: vector(2, 3), ModelID: modelID}))
	if e.Face != nil || e.Template.Quality != 0 {
		t.Errorf("enrolled %+v", e)
	}
	// Ada's face as Bob's: like another, and unlike himself.
	e = must(t, b.Enrol, bob(identity.EnrolRequest{Image: photo(person{Number: 1, Noise: 4}, person{Number: 8}), Face: identity.FaceLargest}))
	codes := make([]face.Reason, len(e.Warnings))
	for i, w := range e.Warnings {
		codes[i] = w.Code
	}
	if diff := cmp.Diff([]face.Reason{face.ReasonDuplicateOfSubject, face.ReasonUnlikeSubject, face.ReasonOtherFaces}, codes); diff != "" {
		t.Fatalf("warnings (-want +got):\n%s", diff)
	}
	if w := e.Warnings; w[0].SubjectID != "ada" || *w[0].Score < 0.65 || *w[1].Score >= 0.6 {
		t.Errorf("warnings %+v", w)
	}
	_, err = b.Enrol(t.Context(), nobody(), bob(identity.EnrolRequest{Image: photo(person{Number: 1}), RefuseDuplicate: true}))
	if e := fails(t, err, face.Duplicate, ""); !slices.Equal(e.Reasons, []face.Reason{face.ReasonDuplicateOfSubject}) || !strings.Contains(e.Detail, "ada") {
		t.Errorf("refusal %v", e)
	}
	poor := photo(person{Number: 2, Poor: true})
	_, err = b.Enrol(t.Context(), nobody(), bob(identity.EnrolRequest{Image: poor}))
	if e := fails(t, err, face.LowQuality, "/image"); !slices.Equal(e.Reasons, []face.Reason{face.ReasonLowSharpness}) {
		t.Errorf("refusal %v", e)
	}
	must(t, b.Enrol, bob(identity.EnrolRequest{Image: poor, IgnoreQuality: true}))
	for _, tt := range []struct {
		name    string
		request identity.EnrolRequest
		kind    face.Kind
		pointer string
	}{
		{"nothing", identity.EnrolRequest{}, face.Invalid, "/image"},
		{"both", identity.EnrolRequest{Image: poor, Embedding: vector(1, 0), ModelID: modelID}, face.Invalid, "/embedding"},
		{"no model", identity.EnrolRequest{Embedding: vector(1, 0)}, face.Invalid, "/model_id"},
		{"another model", identity.EnrolRequest{Embedding: vector(1, 0), ModelID: "sface"}, face.ModelMismatch, "/model_id"},
		{"too short", identity.EnrolRequest{Embedding: []float32{1}, ModelID: modelID}, face.ModelMismatch, "/embedding"},
		{"face of an embedding", identity.EnrolRequest{Embedding: vector(1, 0), ModelID: modelID, Face: identity.FaceOnly}, face.Invalid, "/face"},
		{"place of three numbers", identity.EnrolRequest{Image: poor, FaceAt: []float32{1, 2, 3}}, face.Invalid, "/face_at"},
		{"no face", identity.EnrolRequest{Image: photo()}, face.NoFace, "/image"},
		{"two faces", identity.EnrolRequest{Image: photo(person{Number: 2}, person{Number: 3})}, face.ManyFaces, "/image"},
		{"unknown gallery", identity.EnrolRequest{Gallery: "../up", Image: poor}, face.NotFound, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := b.Enrol(t.Context(), nobody(), bob(tt.request))
			fails(t, err, tt.kind, tt.pointer)
		})
	}
}

// TestEnrolRepeated: an enrolment under an id makes one template, however often
// it is repeated.
func TestEnrolRepeated(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.subject(t, "default", "ada")
	var first identity.EnrolResult
	for i, p := range []person{{Number: 1}, {Number: 1}, {Number: 1, Noise: 1}} { // the last one differs in its last bits
		got := must(t, b.Enrol, identity.EnrolRequest{SubjectID: "ada", Image: photo(p), TemplateID: "one"})
		if i == 0 {
			first = got
		}
		if diff := cmp.Diff(first.Template, got.Template); diff != "" {
			t.Errorf("time %d (-first +got):\n%s", i, diff)
		}
	}
	b.subject(t, "default", "bob")
	_, err := b.Enrol(t.Context(), nobody(), identity.EnrolRequest{SubjectID: "bob", Image: photo(person{Number: 2}), TemplateID: "one"})
	fails(t, err, face.Conflict, "")
}

// TestDuplicatePoint: a face that a verification takes for somebody else is not
// enrolled without a warning, and a request may choose another point.
func TestDuplicatePoint(t *testing.T) {
	t.Parallel()
	// A photo of Ada that a verification matches, below the strictest point.
	between := person{Number: 1}
	for score := 1.0; score <= 0.605 || score >= 0.645; score = vector(1, 0).Cosine(vector(1, between.Noise)) {
		if between.Noise++; between.Noise == 255 {
			t.Fatal("no photo scores between the points")
		}
	}
	for _, tt := range []struct {
		name    string
		request identity.EnrolRequest
		kind    face.Kind
		pointer string
		warns   bool
	}{
		{"as a verification decides", identity.EnrolRequest{}, 0, "", true},
		{"refused as a verification decides", identity.EnrolRequest{RefuseDuplicate: true}, face.Duplicate, "", false},
		{"a stricter point", identity.EnrolRequest{DuplicatePoint: "fmr_1e-5"}, 0, "", false},
		{"a stricter point, refused", identity.EnrolRequest{DuplicatePoint: "fmr_1e-5", RefuseDuplicate: true}, 0, "", false},
		{"a point that is none", identity.EnrolRequest{DuplicatePoint: "strict"}, face.Invalid, "/duplicate_point", false},
		{"a point that is not supported", identity.EnrolRequest{DuplicatePoint: "fmr_1e-6"}, face.OperatingPointUnsupported, "/duplicate_point", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := open(t, nil)
			b.enrolled(t, "default", "ada", person{Number: 1})
			b.subject(t, "default", "bob")
			tt.request.SubjectID, tt.request.Image = "bob", photo(between)
			e, err := b.Enrol(t.Context(), nobody(), tt.request)
			if tt.kind != 0 {
				fails(t, err, tt.kind, tt.pointer)
				return
			}
			if warns := len(e.Warnings) > 0 && e.Warnings[0].Code == face.ReasonDuplicateOfSubject; err != nil || warns != tt.warns {
				t.Errorf("got %+v, %v", e, err)
			}
		})
	}
}

// modelsOf are the models of a subject's templates, sorted, which must be of one
// sample.
func (b *bench) modelsOf(tb testing.TB, gallery, subject string) []string {
	tb.Helper()
	list, err := b.store.Templates(tb.Context(), face.DefaultTenant, gallery, subject, "")
	if err != nil {
		tb.Fatal(err)
	}
	var ids []string
	for _, t := range list {
		ids = append(ids, t.ModelID)
		if t.SampleID != list[0].SampleID || t.Quality != list[0].Quality || !t.CreatedAt.Equal(list[0].CreatedAt) {
			tb.Errorf("templates of one photo differ: %+v, %+v", t.SampleID, list[0].SampleID)
		}
	}
	slices.Sort(ids)
	return ids
}

// TestEachGalleryItsEncoder asks galleries of two encoders, one of them on its
// way, for the same people.
func TestEachGalleryItsEncoder(t *testing.T) {
	t.Parallel()
	var woken atomic.Int64
	b := open(t, func(o *identity.Options) { o.WakeMover = func() { woken.Add(1) } })
	for _, g := range []face.Gallery{{ID: "moved", ModelID: nextModelID}, {ID: "moving"}} {
		if _, err := b.store.CreateGallery(t.Context(), face.DefaultTenant, g); err != nil {
			t.Fatal(err)
		}
	}
	b.move(t, "moving", nextModelID)
	for gallery, want := range map[string][]string{"default": {modelID}, "moved": {nextModelID}, "moving": {nextModelID, modelID}} {
		before := woken.Load()
		b.enrolled(t, gallery, "ada", person{Number: 1})
		if got := b.modelsOf(t, gallery, "ada"); !slices.Equal(got, want) {
			t.Errorf("%s: templates of %v, want %v", gallery, got, want)
		}
		if moving := len(want) > 1; moving != (woken.Load() > before) {
			t.Errorf("%s: the mover was woken %d times", gallery, woken.Load()-before)
		}
	}
	again := photo(person{Number: 1, Noise: 3})
	for gallery, model := range map[string]string{"default": modelID, "moved": nextModelID, "moving": modelID} {
		for _, r := range []identity.RecognizeRequest{
			{Probe: [][]byte{again}, Gallery: gallery},
			{Probe: [][]byte{again, photo(person{Number: 1, Noise: 5})}, Fuse: new(true), Gallery: gallery},
		} {
			if got := must(t, b.Recognize, r); got.ModelID != model || len(got.Faces) != 1 || got.Faces[0].Decision != match.DecisionMatch {
				t.Errorf("%s recognises %+v", gallery, got)
			}
		}
		if v := must(t, b.Verify, identity.VerifyRequest{Probe: again, SubjectID: "ada", Gallery: gallery}); v.ModelID != model || !v.Match {
			t.Errorf("%s verifies %+v", gallery, v)
		}
	}
	if v := must(t, b.Verify, identity.VerifyRequest{Probe: again, Reference: again}); v.ModelID != modelID {
		t.Errorf("two photos are compared by %s", v.ModelID)
	}
	// An embedding is of the gallery's encoder; without a gallery, of the default one.
	for _, tt := range []struct {
		gallery   string
		embedding []float32
		model     string
		pointer   string // empty: it is compared
	}{
		{"moved", nextVector(1), nextModelID, ""},
		{"moved", vector(1, 0), modelID, "/model_id"},
		{"moving", nextVector(1), nextModelID, "/model_id"},
		{"moved", vector(1, 0), nextModelID, "/probe_embedding"},
	} {
		r := identity.VerifyRequest{ProbeEmbedding: tt.embedding, ModelID: tt.model, SubjectID: "ada", Gallery: tt.gallery}
		if tt.pointer == "" {
			must(t, b.Verify, r)
			continue
		}
		_, err := b.Verify(t.Context(), nobody(), r)
		fails(t, err, face.ModelMismatch, tt.pointer)
	}
	// An embedding may be enrolled of either encoder of a move, and of no other.
	for _, tt := range []struct {
		gallery   string
		embedding []float32
		model     string
		refused   bool
	}{
		{"moving", vector(1, 0), modelID, false},
		{"moving", nextVector(1), nextModelID, false},
		{"moving", nextVector(1), "not-here", true},
		{"default", nextVector(1), nextModelID, true},
		{"moved", vector(1, 0), modelID, true},
	} {
		r := identity.EnrolRequest{Gallery: tt.gallery, SubjectID: "ada", Embedding: tt.embedding, ModelID: tt.model}
		if !tt.refused {
			if e := must(t, b.Enrol, r); e.Template.ModelID != tt.model {
				t.Errorf("enrolled %+v", e)
			}
			continue
		}
		_, err := b.Enrol(t.Context(), nobody(), r)
		fails(t, err, face.ModelMismatch, "/model_id")
	}
}

// TestCutOverMeanwhile ends a gallery's move, begun and carried out, while
// somebody is being enrolled: they come along.
func TestCutOverMeanwhile(t *testing.T) {
	t.Parallel()
	var once atomic.Bool
	b := open(t, func(o *identity.Options) {
		st := o.Store
		o.Pipeline = identitytest.Pipeline{Before: func(ctx context.Context) error {
			if !once.CompareAndSwap(false, true) {
				return nil
			}
			_, err := st.UpdateGallery(ctx, face.DefaultTenant, face.DefaultGallery, store.GalleryChange{NextModelID: new(nextModelID)})
			if err == nil {
				_, err = st.CutOver(ctx, face.DefaultTenant, face.DefaultGallery, nextModelID)
			}
			return err
		}}
	})
	b.enrolled(t, "default", "ada", person{Number: 1})
	if got := b.modelsOf(t, "default", "ada"); !slices.Equal(got, []string{nextModelID, modelID}) {
		t.Errorf("ada has templates of %v", got)
	}
	r := must(t, b.Recognize, identity.RecognizeRequest{Probe: [][]byte{photo(person{Number: 1, Noise: 3})}})
	if r.ModelID != nextModelID || r.Faces[0].Decision != match.DecisionMatch {
		t.Errorf("ada is recognised as %+v", r)
	}
}

// interrupted is a store in which something happens before or after an
// enrolment.
type interrupted struct {
	store.Store
	before, after func(context.Context, store.Store, face.Template) error // may be nil
}

func (s interrupted) Enrol(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error) {
	if s.before != nil {
		if err := s.before(ctx, s.Store, t); err != nil {
			return face.Template{}, err
		}
	}
	stored, err := s.Store.Enrol(ctx, tenant, gallery, t)
	if err == nil && s.after != nil {
		err = s.after(ctx, s.Store, stored)
	}
	return stored, err
}

// TestEmbeddingAfterCutOver has a gallery cut over, or its move end, while an
// embedding is being enrolled that is of no use any more: the caller is told.
func TestEmbeddingAfterCutOver(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		model     string
		embedding []float32
		meanwhile func(context.Context, store.Store) error
		refused   bool
	}{
		"cut over": {modelID, vector(1, 0), func(ctx context.Context, s store.Store) error {
			_, err := s.CutOver(ctx, face.DefaultTenant, face.DefaultGallery, nextModelID)
			return err
		}, true},
		"ended": {nextModelID, nextVector(1), func(ctx context.Context, s store.Store) error {
			_, err := s.UpdateGallery(ctx, face.DefaultTenant, face.DefaultGallery, store.GalleryChange{NextModelID: new("")})
			return err
		}, true},
		"in time": {modelID, vector(1, 0), func(context.Context, store.Store) error { return nil }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, func(o *identity.Options) {
				o.Store = interrupted{Store: o.Store, before: func(ctx context.Context, s store.Store, _ face.Template) error { return tt.meanwhile(ctx, s) }}
			})
			b.subject(t, "default", "ada")
			b.move(t, "default", nextModelID)
			_, err := b.Enrol(t.Context(), nobody(), identity.EnrolRequest{SubjectID: "ada", Embedding: tt.embedding, ModelID: tt.model})
			if tt.refused {
				fails(t, err, face.ModelMismatch, "/model_id")
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// sealer seals nothing, but says for what.
type sealer struct{}

func (sealer) SealCrop(tenant, gallery, sample string, crop []byte) []byte {
	return []byte(strings.Join([]string{tenant, gallery, sample, string(crop)}, "|"))
}

// TestErasedMeanwhile erases a template while the next encoder's is on its
// way: the photo does not come back.
func TestErasedMeanwhile(t *testing.T) {
	t.Parallel()
	for name, storeImages := range map[string]bool{"kept": true, "bare": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, func(o *identity.Options) {
				o.Sealer = sealer{}
				o.Store = interrupted{Store: o.Store, after: func(ctx context.Context, s store.Store, stored face.Template) error {
					sample, err := s.Sample(ctx, face.DefaultTenant, name, stored.SampleID)
					if want := "default|kept|" + stored.ID + "|crop of somebody"; (err == nil) != storeImages || storeImages && string(sample.Crop) != want {
						t.Errorf("kept %q, %v", sample.Crop, err)
					}
					_, err = s.DeleteTemplate(ctx, face.DefaultTenant, name, "ada", stored.ID, store.Actor{})
					return err
				}}
			})
			g := face.Gallery{ID: name, StoreImages: storeImages}
			if _, err := b.store.CreateGallery(t.Context(), face.DefaultTenant, g); err != nil {
				t.Fatal(err)
			}
			b.subject(t, name, "ada")
			b.move(t, name, nextModelID)
			_, err := b.Enrol(t.Context(), nobody(), identity.EnrolRequest{Gallery: name, SubjectID: "ada", Image: photo(person{Number: 1})})
			fails(t, err, face.NotFound, "")
			if got := b.modelsOf(t, name, "ada"); got != nil {
				t.Errorf("of what was erased there are templates of %v", got)
			}
		})
	}
}

// TestUnknownEncoderOfGallery asks a service to which a newer one has left a
// gallery.
func TestUnknownEncoderOfGallery(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	if _, err := b.store.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: "strange", ModelID: "from-the-future"}); err != nil {
		t.Fatal(err)
	}
	b.subject(t, "strange", "ada")
	one := photo(person{Number: 1})
	_, err := b.Recognize(t.Context(), nobody(), identity.RecognizeRequest{Probe: [][]byte{one}, Gallery: "strange"})
	fails(t, err, face.Unavailable, "")
	_, err = b.Verify(t.Context(), nobody(), identity.VerifyRequest{Probe: one, Gallery: "strange", SubjectID: "ada"})
	fails(t, err, face.Unavailable, "")
	_, err = b.Enrol(t.Context(), nobody(), identity.EnrolRequest{Image: one, Gallery: "strange", SubjectID: "ada"})
	fails(t, err, face.Unavailable, "")
}
