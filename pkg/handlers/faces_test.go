package handlers_test

import (
	"net/http"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestFaceAt picks a face of several by a place inside it, and tells of the
// others.
func TestFaceAt(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	both := photo(person{number: 2}, person{number: 1, noise: 5})
	ada := photo(person{number: 1})
	templates := "/galleries/default/subjects/ada/templates"
	for _, c := range []struct {
		name, path string
		body       fields
		status     int
		pointer    string
		code       face.Kind
	}{
		{"verify the second", "/verify", fields{"probe": both, "subject_id": "ada", "face_at": []float32{1.5, 0.5}}, 200, "", 0},
		{"verify against the second", "/verify", fields{"probe": ada, "reference": both, "reference_face_at": []float32{1.5, 0.5}}, 200, "", 0},
		{"enrol the second", templates, fields{"image": both, "face_at": []float32{1, 0}}, 201, "", 0},
		{"enrol the largest", templates, fields{"image": both, "face": "largest", "quality_gate": "off"}, 201, "", 0},
		{"embed the second", "/embed", fields{"image": both, "face_at": []float32{1, 0}}, 200, "", 0},
		{"nobody there", "/verify", fields{"probe": both, "subject_id": "ada", "face_at": []float32{7, 7}}, 422, "/probe", face.NoFace},
		{"one number", "/verify", fields{"probe": both, "subject_id": "ada", "face_at": []float32{1}}, 400, "/face_at", face.Invalid},
		{"three numbers", templates, fields{"image": both, "face_at": []float32{1, 2, 3}}, 400, "/face_at", face.Invalid},
		{"with a rule", "/embed", fields{"image": both, "face_at": []float32{1, 0}, "face": "largest"}, 400, "/face_at", face.Invalid},
		{"of the reference, one number", "/verify", fields{"probe": ada, "reference": both, "reference_face_at": []float32{1}}, 400, "/reference_face_at", face.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []*http.Request{c.body.json(t, http.MethodPost, c.path), c.body.form(t, http.MethodPost, c.path)} {
				a := h.ask(t, r)
				if c.status >= 400 {
					var p api.Problem
					a.into(t, &p)
					if a.status != c.status || string(p.Code) != c.code.Code() || len(p.Errors) != 1 || p.Errors[0].Pointer != c.pointer {
						t.Errorf("got %d %s", a.status, a.body)
					}
					continue
				}
				if a.status != c.status {
					t.Fatalf("got %d %s", a.status, a.body)
				}
				switch c.path {
				case "/verify":
					v := good[api.VerifyResponse](t, a, 200)
					if !v.Match || max(v.Probe.FacesFound, or(v.Reference).FacesFound) != 2 {
						t.Errorf("got %s", a.body)
					}
				case templates:
					e := good[api.EnrolResponse](t, a, 201)
					if len(e.Warnings) == 0 || e.Warnings[len(e.Warnings)-1].Code != face.ReasonOtherFaces {
						t.Errorf("nothing is said of the other face: %s", a.body)
					}
				}
			}
		})
	}
}

func or[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
