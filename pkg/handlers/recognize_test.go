package handlers_test

import (
	"math"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

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

// TestProbability: what only an encoder with a head answers.
func TestProbability(t *testing.T) {
	t.Parallel()
	head := &face.Head{Variant: face.HeadCosine, Weights: []float64{10}, Bias: -4, Platt: face.Platt{Slope: 1}}
	h := open(t, func(o *options) { o.Pipeline = pipeline{Head: head} })
	h.enrolled(t, "default", "ada", person{number: 1})
	again := photo(person{number: 1, noise: 6})
	v := good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": again, "subject_id": "ada"}), 200)
	r := good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe": again}), 200)
	want := 1 / (1 + math.Exp(4-10*v.Score))
	for door, got := range map[string]*float64{"/verify": v.Probability, "/recognize": r.Faces[0].Candidates[0].Probability} {
		if got == nil || math.Abs(*got-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", door, got, want)
		}
	}
	if r.FpirAtThreshold == nil || math.Abs(*r.FpirAtThreshold-1e-4) > 1e-12 { // of one template
		t.Errorf("fpir_at_threshold is %v", r.FpirAtThreshold)
	}
}
