package handlers_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// TestFramesDisagree: frames of two people are refused, whoever is enrolled and
// in whatever order they come; frames of one are fused.
func TestFramesDisagree(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	h.enrolled(t, "default", "bob", person{number: 2})
	ada, again, bob := photo(person{number: 1, noise: 3}), photo(person{number: 1, noise: 6}), photo(person{number: 2, noise: 3})
	poor := photo(person{number: 2, poor: true})
	for _, c := range []struct {
		name    string
		frames  [][]byte
		pointer string // of the frame that is refused; empty: none is
	}{
		{"one person", [][]byte{ada, again, ada}, ""},
		{"somebody else who is not seen well", [][]byte{ada, poor, again}, ""},
		{"two people", [][]byte{ada, bob}, "/probe/1"},
		{"the other way round", [][]byte{bob, ada}, "/probe/1"},
		{"one frame of eight", [][]byte{ada, again, ada, again, ada, again, bob, ada}, "/probe/6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			a := h.post(t, "/recognize", fields{"probe": c.frames, "fuse": true})
			if c.pointer == "" {
				got := good[api.RecognizeResponse](t, a, 200)
				if len(got.Faces) != 1 || got.Faces[0].Decision != api.RecognizedFaceDecisionMatch {
					t.Errorf("got %s", a.body)
				}
				return
			}
			var p api.Problem
			a.into(t, &p)
			if a.status != 422 || p.Code != api.ProblemCodeFramesDisagree || len(p.Errors) != 1 || p.Errors[0].Pointer != c.pointer {
				t.Errorf("got %d %s", a.status, a.body)
			}
			if diff := cmp.Diff([]face.Reason{face.ReasonFramesDisagree}, p.Reasons); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDuplicatePoint: whoever /verify takes for somebody else is not enrolled
// without a word, and a request may choose another point.
func TestDuplicatePoint(t *testing.T) {
	t.Parallel()
	// A photo of Ada that /verify matches, below the strictest point.
	var between person
	for noise := uint8(1); ; noise++ {
		if noise == 255 {
			t.Fatal("no photo scores between the points")
		}
		score := vector(1, 0).Cosine(vector(1, noise))
		if score > 0.605 && score < 0.695 {
			between = person{number: 1, noise: noise}
			break
		}
	}
	for _, c := range []struct {
		name   string
		change fields
		status int
		warns  bool
	}{
		{"as /verify decides", nil, 201, true},
		{"refused as /verify decides", fields{"on_duplicate": "refuse"}, 422, false},
		{"a stricter point", fields{"duplicate_point": "fmr_1e-5"}, 201, false},
		{"a stricter point, refused", fields{"duplicate_point": "fmr_1e-5", "on_duplicate": "refuse"}, 201, false},
		{"a point that is none", fields{"duplicate_point": "strict"}, 400, false},
		{"a point that is not supported", fields{"duplicate_point": "fmr_1e-6"}, 422, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			h.enrolled(t, "default", "ada", person{number: 1})
			good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "bob"}), 201)
			body := fields{"image": photo(between)}
			for k, v := range c.change {
				body[k] = v
			}
			a := h.post(t, "/galleries/default/subjects/bob/templates", body)
			if a.status != c.status {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			if c.status != 201 {
				return
			}
			e := good[api.EnrolResponse](t, a, 201)
			if got := len(e.Warnings) > 0 && e.Warnings[0].Code == face.ReasonDuplicateOfSubject; got != c.warns {
				t.Errorf("warnings: %s", a.body)
			}
		})
	}
}
