package identity_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/identity/identitytest"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// TestVerify compares in every combination.
func TestVerify(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.enrolled(t, "default", "ada", person{Number: 1})
	ada, again, bob := photo(person{Number: 1}), photo(person{Number: 1, Noise: 9}), photo(person{Number: 2})
	both := photo(person{Number: 2}, person{Number: 1, Noise: 5})
	type request = identity.VerifyRequest
	for _, tt := range []struct {
		name    string
		request request
		match   bool
		found   [2]int // faces in the photos of the probe and the reference
	}{
		{"photo and subject", request{Probe: again, SubjectID: "ada"}, true, [2]int{1, 0}},
		{"stranger and subject", request{Probe: bob, SubjectID: "ada", Gallery: "default"}, false, [2]int{1, 0}},
		{"two photos", request{Probe: again, Reference: ada}, true, [2]int{1, 1}},
		{"two people", request{Probe: bob, Reference: ada}, false, [2]int{1, 1}},
		{"the largest face", request{Probe: both, Reference: bob, Face: identity.FaceLargest}, true, [2]int{2, 1}},
		{"a place in the probe", request{Probe: both, SubjectID: "ada", FaceAt: []float32{1.5, 0.5}}, true, [2]int{2, 0}},
		{"a place in the reference", request{Probe: ada, Reference: both, ReferenceFaceAt: []float32{1, 0}}, true, [2]int{1, 2}},
		{"two embeddings", request{ProbeEmbedding: vector(1, 0), ReferenceEmbedding: vector(1, 5), ModelID: modelID}, true, [2]int{}},
		{"embedding and subject", request{ProbeEmbedding: vector(2, 0), SubjectID: "ada", ModelID: modelID}, false, [2]int{}},
		{"photo and embedding", request{Probe: ada, ReferenceEmbedding: vector(1, 0), ModelID: modelID}, true, [2]int{1, 0}},
		{"another operating point", request{Probe: again, SubjectID: "ada", OperatingPoint: "fmr_1e-5"}, true, [2]int{1, 0}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := must(t, b.Verify, tt.request)
			if got.Match != tt.match || got.Match != (got.Score >= got.Point.Threshold) || got.FMRAtScore == nil || got.Probability != nil || got.ModelID != modelID {
				t.Errorf("got %+v", got)
			}
			if want := tt.request.OperatingPoint; want != "" && got.Point.Name != want || want == "" && got.Point.Name != "fmr_1e-4" {
				t.Errorf("decided at %+v", got.Point)
			}
			found := [2]int{}
			for i, s := range []*identity.Sample{got.Probe, got.Reference} {
				if s != nil {
					found[i] = s.Found
				}
			}
			if found != tt.found {
				t.Errorf("found %v faces, want %v", found, tt.found)
			}
			if want := min(1, len(tt.request.SubjectID)); got.Templates != want {
				t.Errorf("compared with %d templates, want %d", got.Templates, want)
			}
		})
	}
}

// TestVerifyRefuses: a field that is wrong comes back with its pointer.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.enrolled(t, "default", "ada", person{Number: 1})
	b.subject(t, "default", "empty")
	b.subject(t, "default", "old")
	old := face.Template{ID: "old", SubjectID: "old", ModelID: "older-encoder", Embedding: face.Embedding{1, 0}}
	if _, err := b.store.Enrol(t.Context(), face.DefaultTenant, "default", old); err != nil {
		t.Fatal(err)
	}
	one, long := photo(person{Number: 1}), make([]float32, dimension+1)
	long[0] = 1
	type request = identity.VerifyRequest
	for _, tt := range []struct {
		name    string
		request request
		kind    face.Kind
		pointer string
	}{
		{"nothing", request{}, face.Invalid, "/probe"},
		{"no reference", request{Probe: one}, face.Invalid, "/reference"},
		{"two probes", request{Probe: one, ProbeEmbedding: vector(1, 0), SubjectID: "ada"}, face.Invalid, "/probe_embedding"},
		{"two references", request{Probe: one, Reference: one, SubjectID: "ada"}, face.Invalid, "/subject_id"},
		{"unknown subject", request{Probe: one, SubjectID: "eve"}, face.NotFound, ""},
		{"unknown gallery", request{Probe: one, SubjectID: "ada", Gallery: "staff"}, face.NotFound, ""},
		{"no gallery", request{Probe: one, SubjectID: "ada", Gallery: "a b"}, face.Invalid, "/gallery"},
		{"no subject", request{Probe: one, SubjectID: "../ada"}, face.Invalid, "/subject_id"},
		{"subject without a template", request{Probe: one, SubjectID: "empty"}, face.NotFound, ""},
		{"subject of another model", request{Probe: one, SubjectID: "old"}, face.ModelMismatch, ""},
		{"embedding without a model", request{ProbeEmbedding: vector(1, 0), SubjectID: "ada"}, face.Invalid, "/model_id"},
		{"embedding of another model", request{ProbeEmbedding: vector(1, 0), SubjectID: "ada", ModelID: "sface"}, face.ModelMismatch, "/model_id"},
		{"embedding too long", request{ProbeEmbedding: long, SubjectID: "ada", ModelID: modelID}, face.ModelMismatch, "/probe_embedding"},
		{"embedding empty", request{ProbeEmbedding: []float32{}, SubjectID: "ada", ModelID: modelID}, face.ModelMismatch, "/probe_embedding"},
		{"embedding zero", request{Probe: one, ReferenceEmbedding: make([]float32, dimension), ModelID: modelID}, face.Invalid, "/reference_embedding"},
		{"operating point unknown", request{Probe: one, SubjectID: "ada", OperatingPoint: "strict"}, face.Invalid, "/operating_point"},
		{"operating point unsupported", request{Probe: one, SubjectID: "ada", OperatingPoint: "fmr_1e-6"}, face.OperatingPointUnsupported, "/operating_point"},
		{"all faces", request{Probe: one, SubjectID: "ada", Face: identity.FaceAll}, face.Invalid, "/face"},
		{"face of an embedding", request{ProbeEmbedding: vector(1, 0), SubjectID: "ada", ModelID: modelID, Face: identity.FaceOnly}, face.Invalid, "/face"},
		{"place and rule", request{Probe: one, SubjectID: "ada", FaceAt: []float32{0, 0}, Face: identity.FaceOnly}, face.Invalid, "/face_at"},
		{"place of an embedding", request{ProbeEmbedding: vector(1, 0), Reference: one, ModelID: modelID, FaceAt: []float32{0, 0}}, face.Invalid, "/face_at"},
		{"place of a subject", request{Probe: one, SubjectID: "ada", ReferenceFaceAt: []float32{0, 0}}, face.Invalid, "/reference_face_at"},
		{"place without a face", request{Probe: one, SubjectID: "ada", FaceAt: []float32{7, 7}}, face.NoFace, "/probe"},
		{"no face", request{Probe: photo(), SubjectID: "ada"}, face.NoFace, "/probe"},
		{"no face in the reference", request{Probe: one, Reference: photo()}, face.NoFace, "/reference"},
		{"two faces", request{Probe: photo(person{Number: 1}, person{Number: 2}), SubjectID: "ada"}, face.ManyFaces, "/probe"},
		{"poor probe", request{Probe: photo(person{Number: 1, Poor: true}), SubjectID: "ada"}, face.LowQuality, "/probe"},
		{"poor reference", request{Probe: one, Reference: photo(person{Number: 1, Poor: true})}, face.LowQuality, "/reference"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := b.Verify(t.Context(), nobody(), tt.request)
			fails(t, err, tt.kind, tt.pointer)
		})
	}
}

// TestDefaultPointUnsupported: a request that names no operating point gets
// the service's. If the calibration lacks it, the error says what to set and
// what is missing.
func TestDefaultPointUnsupported(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *identity.Options) { o.OperatingPoint = "fmr_1e-6" })
	b.enrolled(t, "default", "ada", person{Number: 1})
	verify := identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"}
	_, ofVerify := b.Verify(t.Context(), nobody(), verify)
	_, ofRecognize := b.Recognize(t.Context(), nobody(), identity.RecognizeRequest{Probe: [][]byte{verify.Probe}})
	const option = "--operating-point (LIKENESS_OPERATING_POINT)"
	missing := []string{"supports fmr_1e-3, fmr_1e-4, fmr_1e-5; fmr_1e-6 needs 30000000", "27000000 more", "more people"}
	for name, err := range map[string]error{"verify": ofVerify, "recognize": ofRecognize} {
		e := fails(t, err, face.OperatingPointUnsupported, "/operating_point")
		for _, s := range append(missing, option) {
			if !strings.Contains(e.Detail, s) {
				t.Errorf("%s: %q does not say %q", name, e.Detail, s)
			}
		}
	}
	verify.OperatingPoint = "fmr_1e-6"
	_, err := b.Verify(t.Context(), nobody(), verify)
	if e := fails(t, err, face.OperatingPointUnsupported, "/operating_point"); !strings.Contains(e.Detail, missing[0]) || strings.Contains(e.Detail, option) {
		t.Errorf("a point that the caller named: %q", e.Detail)
	}
	verify.OperatingPoint = "fmr_1e-4"
	must(t, b.Verify, verify)
}

// TestUncalibrated: without a calibration no decision is made.
func TestUncalibrated(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *identity.Options) { o.Pipeline = identitytest.Pipeline{Uncalibrated: true} })
	b.enrolled(t, "default", "ada", person{Number: 1})
	b.enrolled(t, "default", "twin", person{Number: 1})
	one := photo(person{Number: 1})
	_, err := b.Verify(t.Context(), nobody(), identity.VerifyRequest{Probe: one, SubjectID: "ada"})
	fails(t, err, face.OperatingPointUnsupported, "/operating_point")
	_, err = b.Recognize(t.Context(), nobody(), identity.RecognizeRequest{Probe: [][]byte{one}})
	fails(t, err, face.OperatingPointUnsupported, "/operating_point")
	_, err = b.Enrol(t.Context(), nobody(), identity.EnrolRequest{Image: one, SubjectID: "ada", RefuseDuplicate: true})
	fails(t, err, face.OperatingPointUnsupported, "/on_duplicate")
}

// damaging is a store in which the embeddings of some templates are damaged.
type damaging struct {
	store.Store
	templates []string
}

func (d damaging) Templates(ctx context.Context, tenant, gallery, subject, modelID string) ([]face.Template, error) {
	list, err := d.Store.Templates(ctx, tenant, gallery, subject, modelID)
	for i, t := range list {
		if slices.Contains(d.templates, t.ID) {
			list[i].Embedding = nil
		}
	}
	return list, err
}

// TestDamagedTemplates verifies against subjects with damaged templates: by
// those that are sound, or with an error that says what to do.
func TestDamagedTemplates(t *testing.T) {
	t.Parallel()
	b := open(t, func(o *identity.Options) { o.Store = damaging{o.Store, []string{"ada-1", "bob-1"}} })
	for n, subject := range []string{"ada", "bob"} {
		b.subject(t, "default", subject)
		for i := range 2 - n { // ada has a sound one, too
			must(t, b.Enrol, identity.EnrolRequest{SubjectID: subject, Image: photo(person{Number: uint8(n + 1)}), TemplateID: fmt.Sprintf("%s-%d", subject, i+1)})
		}
	}
	ada := identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"}
	if v := must(t, b.Verify, ada); !v.Match {
		t.Errorf("ada is verified as %+v", v)
	}
	bob := identity.VerifyRequest{Probe: photo(person{Number: 2}), SubjectID: "bob"}
	_, err := b.Verify(t.Context(), nobody(), bob)
	if e := fails(t, err, face.Damaged, ""); !strings.Contains(e.Detail, "enrol again") {
		t.Errorf("the detail is %q", e.Detail)
	}
	must(t, b.Enrol, identity.EnrolRequest{SubjectID: "bob", Image: bob.Probe})
	if v := must(t, b.Verify, bob); !v.Match {
		t.Errorf("bob is verified as %+v", v)
	}
}

// TestSeveralTemplates: a probe is compared with what a subject's templates
// give together, in both ways of asking, and with what is left when one is
// erased.
func TestSeveralTemplates(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.subject(t, "default", "ada")
	b.enrolled(t, "default", "bob", person{Number: 2})
	noises := map[string]uint8{"c": 3, "a": 20, "d": 9, "b": 14}
	check := func(ids ...string) {
		t.Helper()
		var all []face.Embedding
		for _, id := range ids {
			all = append(all, vector(1, noises[id]))
		}
		want := vector(1, 1).Cosine(face.FuseEmbeddings(all))
		probe := photo(person{Number: 1, Noise: 1})
		if v := must(t, b.Verify, identity.VerifyRequest{Probe: probe, SubjectID: "ada"}); v.Score != want || v.Templates != len(ids) {
			t.Errorf("%v: verified with %v of %d templates, want %v", ids, v.Score, v.Templates, want)
		}
		r := must(t, b.Recognize, identity.RecognizeRequest{Probe: [][]byte{probe}})
		if c := r.Faces[0].Candidates[0]; c.SubjectID != "ada" || c.Score != want || c.Templates != len(ids) || *r.GallerySize != 2 {
			t.Errorf("%v: recognised %+v, want a score of %v", ids, c, want)
		}
		if want := match.FPIR(1e-4, 2); *r.FPIRAtThreshold != want {
			t.Errorf("%v: an FPIR of %v, want that of two comparisons, %v", ids, *r.FPIRAtThreshold, want)
		}
	}
	for _, id := range []string{"c", "a", "d", "b"} {
		must(t, b.Enrol, identity.EnrolRequest{SubjectID: "ada", Image: photo(person{Number: 1, Noise: noises[id]}), TemplateID: id})
	}
	check("a", "b", "c", "d")
	for _, id := range []string{"a", "c", "d"} {
		if _, err := b.store.DeleteTemplate(t.Context(), face.DefaultTenant, "default", "ada", id, store.Actor{}); err != nil {
			t.Fatal(err)
		}
		delete(noises, id)
		check(slices.Sorted(maps.Keys(noises))...)
	}
}
