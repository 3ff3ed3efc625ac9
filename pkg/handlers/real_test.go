package handlers_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestFaces enrols, verifies and recognises people with the real pipeline and
// what is built in, over HTTP.
func TestFaces(t *testing.T) {
	t.Parallel()
	detector, encoder := orttest.Model(t, orttest.Detector), orttest.Model(t, orttest.Encoder)
	// The test is about the way through the service; what the encoder's own
	// thresholds are worth is measured elsewhere.
	encoder.Manifest.Calibration = &face.Calibration{Points: []face.OperatingPoint{{Name: "fmr_1e-3", FMR: 1e-3, Threshold: 0.3}}}
	p, err := embed.New(embed.Options{
		Detector: orttest.Network(t, detector.ID), DetectorModel: detector.Manifest,
		Encoder: orttest.Network(t, encoder.ID), EncoderModel: encoder.Manifest,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	h := open(t, func(o *options) { o.Pipeline, o.Identity.OperatingPoint = p, "fmr_1e-3" })

	var people []string
	for i := range testfaces.People {
		people = append(people, fmt.Sprintf("person-%d", i+1))
	}
	for i, name := range people {
		path := "/galleries/default/subjects"
		good[api.Subject](t, h.post(t, path, fields{"subject_id": name}), 201)
		enrol := fields{"image": testfaces.Photo(t, i+1, 1), "quality_gate": "off"}
		e := good[api.EnrolResponse](t, h.ask(t, enrol.form(t, http.MethodPost, path+"/"+name+"/templates")), 201)
		if len(e.Warnings) != 0 {
			t.Errorf("%s is taken for somebody else: %+v", name, e.Warnings)
		}
	}
	for i, name := range people {
		again := testfaces.Photo(t, i+1, 2)
		same := fields{"probe": again, "subject_id": name, "face": "largest"}
		if v := good[api.VerifyResponse](t, h.ask(t, same.form(t, http.MethodPost, "/verify")), 200); !v.Match {
			t.Errorf("%s: score %.3f, threshold %.3f", name, v.Score, v.Threshold)
		}
		other := fields{"probe": again, "subject_id": people[(i+1)%len(people)], "face": "largest"}
		if v := good[api.VerifyResponse](t, h.ask(t, other.json(t, http.MethodPost, "/verify")), 200); v.Match {
			t.Errorf("%s passes for %s: score %.3f, threshold %.3f", name, other["subject_id"], v.Score, v.Threshold)
		}
		r := good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe": again, "faces": "largest", "k": 2}), 200)
		if f := r.Faces[0]; f.Decision != "low_quality" && (f.Decision != "match" || f.Candidates[0].SubjectID != name) {
			t.Errorf("%s: %s, %+v", name, f.Decision, f.Candidates)
		}
	}
}
