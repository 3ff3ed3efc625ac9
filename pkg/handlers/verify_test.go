package handlers_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
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
			if n := asJSON.Templates; (n != nil) != (c.body["subject_id"] != nil) || n != nil && *n != 1 {
				t.Errorf("templates: %+v", asJSON)
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

// TestEmptyIsNotMissing: an empty text or a 0 that a caller sends is refused. It
// does not stand for the default, as it does in package identity.
func TestEmptyIsNotMissing(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	one := photo(person{number: 1})
	const templates = "/galleries/default/subjects/ada/templates"
	for _, c := range []struct {
		route string
		body  fields
		kind  face.Kind
		field string
	}{
		{"/verify", fields{"probe": one, "subject_id": ""}, face.Invalid, "subject_id"},
		{"/verify", fields{"probe": one, "reference": one, "subject_id": ""}, face.Invalid, "subject_id"},
		{"/verify", fields{"probe": one, "subject_id": "ada", "gallery": ""}, face.Invalid, "gallery"},
		{"/verify", fields{"probe": one, "subject_id": "ada", "operating_point": ""}, face.Invalid, "operating_point"},
		{"/verify", fields{"probe": one, "subject_id": "ada", "face": ""}, face.Invalid, "face"},
		{"/verify", fields{"probe": one, "subject_id": "ada", "face_at": []float32{}}, face.Invalid, "face_at"},
		{"/verify", fields{"probe_embedding": vector(1, 0), "subject_id": "ada", "model_id": ""}, face.ModelMismatch, "model_id"},
		{"/recognize", fields{"probe": one, "gallery": ""}, face.Invalid, "gallery"},
		{"/recognize", fields{"probe": one, "k": 0}, face.Invalid, "k"},
		{"/recognize", fields{"probe": one, "faces": ""}, face.Invalid, "faces"},
		{"/recognize", fields{"probe": one, "operating_point": ""}, face.Invalid, "operating_point"},
		{"/detect", fields{"image": one, "max_faces": 0}, face.Invalid, "max_faces"},
		{"/embed", fields{"image": one, "face": ""}, face.Invalid, "face"},
		{templates, fields{"image": one, "face": ""}, face.Invalid, "face"},
		{templates, fields{"image": one, "quality_gate": ""}, face.Invalid, "quality_gate"},
		{templates, fields{"image": one, "on_duplicate": ""}, face.Invalid, "on_duplicate"},
		{templates, fields{"image": one, "duplicate_point": ""}, face.Invalid, "duplicate_point"},
		{templates, fields{"embedding": vector(1, 0), "model_id": ""}, face.ModelMismatch, "model_id"},
		{"/models/" + nextModelID + "/migrate", fields{"gallery": ""}, face.Invalid, ""},
	} {
		t.Run(c.route+" "+c.field, func(t *testing.T) {
			t.Parallel()
			pointer := ""
			if c.field != "" {
				pointer = "/" + c.field
			}
			bad(t, h.post(t, c.route, c.body), c.kind, pointer)
		})
	}
}
