package handlers_test

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// TestVerify compares in every combination, in both encodings.
func TestVerify(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	ada, again, bob := photo(person{number: 1}), photo(person{number: 1, noise: 9}), photo(person{number: 2})
	for _, c := range []struct {
		name  string
		body  fields
		match bool
	}{
		{"photo and subject", fields{"probe": again, "subject_id": "ada"}, true},
		{"stranger and subject", fields{"probe": bob, "subject_id": "ada", "gallery": "default"}, false},
		{"two photos", fields{"probe": again, "reference": ada}, true},
		{"two people", fields{"probe": bob, "reference": ada}, false},
		{"largest face", fields{"probe": photo(person{number: 1}, person{number: 2}), "reference": ada, "face": "largest"}, true},
		{"two embeddings", fields{"probe_embedding": vector(1, 0), "reference_embedding": vector(1, 5), "model_id": modelID}, true},
		{"embedding and subject", fields{"probe_embedding": vector(2, 0), "subject_id": "ada", "model_id": modelID}, false},
		{"photo and embedding", fields{"probe": ada, "reference_embedding": vector(1, 0), "model_id": modelID}, true},
		{"another operating point", fields{"probe": again, "subject_id": "ada", "operating_point": "fmr_1e-5"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			asJSON := good[api.VerifyResponse](t, h.ask(t, c.body.json(t, http.MethodPost, "/verify")), 200)
			asForm := good[api.VerifyResponse](t, h.ask(t, c.body.form(t, http.MethodPost, "/verify")), 200)
			if diff := cmp.Diff(asJSON, asForm); diff != "" {
				t.Errorf("multipart is answered otherwise (-JSON +multipart):\n%s", diff)
			}
			if asJSON.Match != c.match || asJSON.Match != (asJSON.Score >= asJSON.Threshold) || asJSON.FmrAtScore == nil || asJSON.Probability != nil {
				t.Errorf("got %+v", asJSON)
			}
			if (asJSON.Probe != nil) != (c.body["probe"] != nil) || (asJSON.Reference != nil) != (c.body["reference"] != nil) {
				t.Errorf("faces: %+v", asJSON)
			}
		})
	}
}

// TestVerifyRefuses is the bad input that is /verify's own.
func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "empty"}), 201)
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "old"}), 201)
	old := face.Template{ID: "old", SubjectID: "old", ModelID: "older-encoder", Embedding: face.Embedding{1, 0}}
	if _, err := h.store.Enrol(t.Context(), face.DefaultTenant, "default", old); err != nil {
		t.Fatal(err)
	}
	one, long := photo(person{number: 1}), make([]float32, dimension+1)
	long[0] = 1
	for _, c := range []struct {
		name    string
		body    fields
		kind    face.Kind
		pointer string
	}{
		{"nothing", fields{}, face.Invalid, "/probe"},
		{"no reference", fields{"probe": one}, face.Invalid, "/reference"},
		{"two probes", fields{"probe": one, "probe_embedding": vector(1, 0), "subject_id": "ada"}, face.Invalid, "/probe_embedding"},
		{"two references", fields{"probe": one, "reference": one, "subject_id": "ada"}, face.Invalid, "/subject_id"},
		{"unknown field", fields{"probe": one, "subjct_id": "ada"}, face.Invalid, "/subjct_id"},
		{"unknown subject", fields{"probe": one, "subject_id": "eve"}, face.NotFound, ""},
		{"unknown gallery", fields{"probe": one, "subject_id": "ada", "gallery": "staff"}, face.NotFound, ""},
		{"no gallery", fields{"probe": one, "subject_id": "ada", "gallery": "a b"}, face.Invalid, "/gallery"},
		{"no subject", fields{"probe": one, "subject_id": "../ada"}, face.Invalid, "/subject_id"},
		{"subject without a template", fields{"probe": one, "subject_id": "empty"}, face.NotFound, ""},
		{"subject of another model", fields{"probe": one, "subject_id": "old"}, face.ModelMismatch, ""},
		{"embedding without a model", fields{"probe_embedding": vector(1, 0), "subject_id": "ada"}, face.Invalid, "/model_id"},
		{"embedding of another model", fields{"probe_embedding": vector(1, 0), "subject_id": "ada", "model_id": "sface"}, face.ModelMismatch, "/model_id"},
		{"embedding too long", fields{"probe_embedding": long, "subject_id": "ada", "model_id": modelID}, face.ModelMismatch, "/probe_embedding"},
		{"embedding empty", fields{"probe_embedding": []float32{}, "subject_id": "ada", "model_id": modelID}, face.Invalid, "/probe_embedding"},
		{"embedding zero", fields{"probe_embedding": make([]float32, dimension), "subject_id": "ada", "model_id": modelID}, face.Invalid, "/probe_embedding"},
		{"operating point unknown", fields{"probe": one, "subject_id": "ada", "operating_point": "strict"}, face.Invalid, "/operating_point"},
		{"operating point unsupported", fields{"probe": one, "subject_id": "ada", "operating_point": "fmr_1e-6"}, face.OperatingPointUnsupported, "/operating_point"},
		{"face rule", fields{"probe": one, "subject_id": "ada", "face": "all"}, face.Invalid, "/face"},
		{"no face", fields{"probe": photo(), "subject_id": "ada"}, face.NoFace, "/probe"},
		{"no face in the reference", fields{"probe": one, "reference": photo()}, face.NoFace, "/reference"},
		{"two faces", fields{"probe": photo(person{number: 1}, person{number: 2}), "subject_id": "ada"}, face.ManyFaces, "/probe"},
		{"poor probe", fields{"probe": photo(person{number: 1, poor: true}), "subject_id": "ada"}, face.LowQuality, "/probe"},
		{"poor reference", fields{"probe": one, "reference": photo(person{number: 1, poor: true})}, face.LowQuality, "/reference"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad(t, h.ask(t, c.body.json(t, http.MethodPost, "/verify")), c.kind, c.pointer)
			if len(c.body) > 0 {
				bad(t, h.ask(t, c.body.form(t, http.MethodPost, "/verify")), c.kind, c.pointer)
			}
		})
	}
}

// TestDefaultPointUnsupported: who asks for no operating point gets the
// server's, and where the calibration lacks it, what to set and what is missing.
func TestDefaultPointUnsupported(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Identity.OperatingPoint = "fmr_1e-6" })
	h.enrolled(t, "default", "ada", person{number: 1})
	one := photo(person{number: 1})
	const option = "--operating-point (LIKENESS_OPERATING_POINT)"
	missing := []string{"supports fmr_1e-3, fmr_1e-4, fmr_1e-5; fmr_1e-6 needs 30000000", "27000000 more", "more people"}
	for name, p := range map[string]api.Problem{
		"verify":    bad(t, h.post(t, "/verify", fields{"probe": one, "subject_id": "ada"}), face.OperatingPointUnsupported, "/operating_point"),
		"recognize": bad(t, h.post(t, "/recognize", fields{"probe": one}), face.OperatingPointUnsupported, "/operating_point"),
	} {
		for _, s := range append(missing, option) {
			if !strings.Contains(*p.Detail, s) {
				t.Errorf("%s: %q does not say %q", name, *p.Detail, s)
			}
		}
	}
	p := bad(t, h.post(t, "/verify", fields{"probe": one, "subject_id": "ada", "operating_point": "fmr_1e-6"}), face.OperatingPointUnsupported, "/operating_point")
	if !strings.Contains(*p.Detail, missing[0]) || strings.Contains(*p.Detail, option) {
		t.Errorf("a point that the caller named: %q", *p.Detail)
	}
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": one, "subject_id": "ada", "operating_point": "fmr_1e-4"}), 200)
}

// TestUncalibrated: without a calibration no decision is made.
func TestUncalibrated(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Pipeline = pipeline{Uncalibrated: true} })
	h.enrolled(t, "default", "ada", person{number: 1})
	h.enrolled(t, "default", "twin", person{number: 1})
	one := photo(person{number: 1})
	bad(t, h.post(t, "/verify", fields{"probe": one, "subject_id": "ada"}), face.OperatingPointUnsupported, "/operating_point")
	bad(t, h.post(t, "/recognize", fields{"probe": one}), face.OperatingPointUnsupported, "/operating_point")
}

func TestRecognize(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	good[api.Gallery](t, h.post(t, "/galleries", fields{"name": "staff"}), 201)
	for id, p := range map[string]person{"ada": {number: 1}, "bob": {number: 2}, "cid": {number: 3}, "eve": {number: 9}, "eve2": {number: 9, noise: 1}} {
		h.enrolled(t, "staff", id, p)
	}
	ask := func(t *testing.T, f fields) api.RecognizeResponse {
		t.Helper()
		f["gallery"] = "staff"
		asJSON := good[api.RecognizeResponse](t, h.ask(t, f.json(t, http.MethodPost, "/recognize")), 200)
		asForm := good[api.RecognizeResponse](t, h.ask(t, f.form(t, http.MethodPost, "/recognize")), 200)
		if diff := cmp.Diff(asJSON, asForm); diff != "" {
			t.Errorf("multipart is answered otherwise (-JSON +multipart):\n%s", diff)
		}
		return asJSON
	}
	t.Run("every decision", func(t *testing.T) {
		t.Parallel()
		got := ask(t, fields{"probe": photo(
			person{number: 1, noise: 8}, person{number: 77}, person{number: 9}, person{number: 2, poor: true},
		)})
		want := []api.RecognizedFaceDecision{"match", "unknown", "ambiguous", "low_quality"}
		if len(got.Faces) != len(want) || *got.GallerySize != 5 {
			t.Fatalf("got %+v", got)
		}
		for i, f := range got.Faces {
			if f.Decision != want[i] {
				t.Errorf("face %d: %s, want %s: %+v", i, f.Decision, want[i], f.Candidates)
			}
		}
		first := got.Faces[0]
		if c := first.Candidates[0]; c.SubjectID != "ada" || *c.Name != "Name of ada" || c.Rank != 1 || len(first.Candidates) != 5 {
			t.Errorf("candidates: %+v", first.Candidates)
		}
		if *first.Margin != first.Candidates[0].Score-first.Candidates[1].Score {
			t.Errorf("margin: %v", *first.Margin)
		}
		if last := got.Faces[3]; len(last.Candidates) != 0 || last.Face.Quality.Reasons[0] != face.ReasonLowSharpness {
			t.Errorf("low quality: %+v", last)
		}
	})
	t.Run("k and largest", func(t *testing.T) {
		t.Parallel()
		got := ask(t, fields{"probe": photo(person{number: 9}, person{number: 1}), "k": 1, "faces": "largest"})
		if len(got.Faces) != 1 || len(got.Faces[0].Candidates) != 1 || got.Faces[0].Decision != "ambiguous" || *got.FacesFound != 2 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		t.Parallel()
		if got := ask(t, fields{"probe": photo()}); got.Faces == nil || len(got.Faces) != 0 || *got.FacesFound != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("fused", func(t *testing.T) {
		t.Parallel()
		got := ask(t, fields{"fuse": true, "probe": [][]byte{
			photo(), photo(person{number: 2, noise: 30}), photo(person{number: 2, noise: 33}), photo(person{number: 5, poor: true}),
		}})
		alone := ask(t, fields{"probe": photo(person{number: 2, noise: 33})})
		if len(got.Faces) != 1 || got.Faces[0].Candidates[0].SubjectID != "bob" || got.Faces[0].Candidates[0].Score <= alone.Faces[0].Candidates[0].Score {
			t.Errorf("two frames score no better than one: %+v, %+v", got, alone)
		}
		if q := got.Faces[0].Face.Quality.Score; q != 1-float32(30)/255 {
			t.Errorf("not the best frame's face: quality %v", q)
		}
	})
	t.Run("fused, none good", func(t *testing.T) {
		t.Parallel()
		got := ask(t, fields{"fuse": true, "probe": [][]byte{photo(), photo(person{number: 2, poor: true})}})
		if len(got.Faces) != 1 || got.Faces[0].Decision != "low_quality" {
			t.Errorf("got %+v", got)
		}
		if got := ask(t, fields{"fuse": true, "probe": [][]byte{photo(), photo()}}); len(got.Faces) != 0 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("embedding", func(t *testing.T) {
		t.Parallel()
		ofPhoto := ask(t, fields{"probe": photo(person{number: 1, noise: 8})})
		got := ask(t, fields{"probe_embedding": vector(1, 8), "model_id": modelID})
		if got.FacesFound != nil || ofPhoto.Faces[0].Face == nil {
			t.Errorf("got %+v, of a photo %+v", got, ofPhoto)
		}
		ofPhoto.FacesFound, ofPhoto.Faces[0].Face = nil, nil // an embedding is of no photo
		if diff := cmp.Diff(ofPhoto, got); diff != "" {
			t.Errorf("an embedding is answered otherwise than its photo (-photo +embedding):\n%s", diff)
		}
	})
	one := photo(person{number: 1})
	for _, c := range []struct {
		name    string
		body    fields
		kind    face.Kind
		pointer string
	}{
		{"no probe", fields{"k": 3}, face.Invalid, "/probe"},
		{"both", fields{"probe": one, "probe_embedding": vector(1, 0), "model_id": modelID}, face.Invalid, "/probe_embedding"},
		{"embedding without its model", fields{"probe_embedding": vector(1, 0)}, face.Invalid, "/model_id"},
		{"embedding of another model", fields{"probe_embedding": vector(1, 0), "model_id": "sface"}, face.ModelMismatch, "/model_id"},
		{"short embedding", fields{"probe_embedding": []float32{1}, "model_id": modelID}, face.ModelMismatch, "/probe_embedding"},
		{"zero embedding", fields{"probe_embedding": make([]float32, dimension), "model_id": modelID}, face.Invalid, "/probe_embedding"},
		{"embedding and faces", fields{"probe_embedding": vector(1, 0), "model_id": modelID, "faces": "all"}, face.Invalid, "/faces"},
		{"embedding and fuse", fields{"probe_embedding": vector(1, 0), "model_id": modelID, "fuse": false}, face.Invalid, "/fuse"},
		{"frames without fuse", fields{"probe": [][]byte{one, one}}, face.Invalid, "/fuse"},
		{"nine frames", fields{"probe": [][]byte{one, one, one, one, one, one, one, one, one}, "fuse": true}, face.Invalid, "/probe"},
		{"k", fields{"probe": one, "k": 101}, face.Invalid, "/k"},
		{"k is text", fields{"probe": one, "k": "five"}, face.Invalid, "/k"},
		{"gallery", fields{"probe": one, "gallery": "nobody"}, face.NotFound, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad(t, h.ask(t, c.body.json(t, http.MethodPost, "/recognize")), c.kind, c.pointer)
			bad(t, h.ask(t, c.body.form(t, http.MethodPost, "/recognize")), c.kind, c.pointer)
		})
	}
}

func TestDetect(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	three := photo(person{number: 1}, person{number: 2}, person{number: 3, poor: true})
	if got := good[api.DetectResponse](t, h.post(t, "/detect", fields{"image": three}), 200); len(got.Faces) != 3 {
		t.Errorf("got %+v", got)
	}
	got := good[api.DetectResponse](t, h.ask(t, fields{"image": three, "max_faces": 2}.form(t, http.MethodPost, "/detect")), 200)
	if len(got.Faces) != 2 || got.Faces[1].Box.X != 1 || got.FacesFound != 3 {
		t.Errorf("got %+v", got)
	}
	if got := good[api.DetectResponse](t, h.post(t, "/detect", fields{"image": photo()}), 200); len(got.Faces) != 0 {
		t.Errorf("got %+v", got)
	}
	bad(t, h.post(t, "/detect", fields{"image": three, "max_faces": 0}), face.Invalid, "/max_faces")
}

func TestEmbed(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	got := good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}), "encoding": "float32"}), 200)
	raw, err := base64.StdEncoding.DecodeString(got.Faces[0].Embedding.(string))
	if err != nil {
		t.Fatal(err)
	}
	want := vector(4, 0)
	for i := range want {
		if v := math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])); v != want[i] {
			t.Fatalf("number %d: %v, want %v", i, v, want[i])
		}
	}
	got = good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5}), "face": "all"}), 200)
	if n := got.Faces[1].Embedding.([]any); len(got.Faces) != 2 || got.FacesFound != 2 || float32(n[0].(float64)) != vector(5, 0)[0] {
		t.Errorf("got %+v", got)
	}
	got = good[api.EmbedResponse](t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5}), "face": "largest"}), 200)
	if len(got.Faces) != 1 || got.FacesFound != 2 {
		t.Errorf("got %+v", got)
	}
	bad(t, h.post(t, "/embed", fields{"image": photo()}), face.NoFace, "/image")
	bad(t, h.post(t, "/embed", fields{"image": photo(person{number: 4}, person{number: 5})}), face.ManyFaces, "/image")
}

// rotten is a store in which the embeddings of some templates are damaged.
type rotten struct {
	store.Store
	templates []string
}

func (r rotten) Templates(ctx context.Context, tenant, gallery, subject, modelID string) ([]face.Template, error) {
	list, err := r.Store.Templates(ctx, tenant, gallery, subject, modelID)
	for i, t := range list {
		if slices.Contains(r.templates, t.ID) {
			list[i].Embedding = nil
		}
	}
	return list, err
}

// TestDamagedTemplates verifies against subjects with damaged templates: by
// those that are sound, or with an error that says what to do.
func TestDamagedTemplates(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Store = rotten{o.Store, []string{"ada-1", "bob-1"}} })
	for _, id := range []string{"ada-1", "ada-2", "bob-1"} {
		subject, n := id[:3], person{number: 1}
		if subject == "bob" {
			n.number = 2
		}
		if id != "ada-2" {
			good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": subject}), 201)
		}
		if _, err := h.store.Enrol(t.Context(), face.DefaultTenant, "default", face.Template{
			ID: id, SubjectID: subject, ModelID: modelID, Embedding: vector(n.number, 0),
		}); err != nil {
			t.Fatal(err)
		}
	}
	if v := good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": photo(person{number: 1}), "subject_id": "ada"}), 200); !v.Match {
		t.Errorf("ada is verified as %+v", v)
	}
	ask := fields{"probe": photo(person{number: 2}), "subject_id": "bob"}
	if p := bad(t, h.post(t, "/verify", ask), face.Damaged, ""); !strings.Contains(*p.Detail, "enrol again") {
		t.Errorf("the detail is %q", *p.Detail)
	}
	list := good[api.TemplateList](t, h.do(t, http.MethodGet, "/galleries/default/subjects/ada/templates"), 200)
	if len(list.Items) != 2 || list.Items[0].Damaged == nil || !*list.Items[0].Damaged || list.Items[1].Damaged != nil {
		t.Errorf("the templates are %+v", list)
	}
	good[api.EnrolResponse](t, h.post(t, "/galleries/default/subjects/bob/templates", fields{"image": photo(person{number: 2})}), 201)
	if v := good[api.VerifyResponse](t, h.post(t, "/verify", ask), 200); !v.Match {
		t.Errorf("bob is verified as %+v", v)
	}
}
