package handlers_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// heads are one that looks at the score alone and one that wants embeddings.
func heads() map[string]*face.Head {
	cosine := &face.Head{Variant: face.HeadCosine, Weights: []float64{10}, Bias: -4, Platt: face.Platt{Slope: 1}}
	squared := &face.Head{Variant: face.HeadSquared, Bias: 6, Platt: face.Platt{Slope: 1}}
	for i := range dimension {
		squared.Weights = append(squared.Weights, -4-float64(i%3))
	}
	return map[string]*face.Head{"cosine": cosine, "squared": squared}
}

// A probability is that of the template that gave the score, wherever the
// answer comes from.
func TestProbability(t *testing.T) {
	t.Parallel()
	for name, own := range heads() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, func(o *options) { o.Pipeline = pipeline{Head: own} })
			h.enrolled(t, "default", "ada", person{number: 1, noise: 20})
			good[api.EnrolResponse](t, h.post(t, "/galleries/default/subjects/ada/templates", fields{"image": photo(person{number: 1, noise: 5})}), 201)
			h.enrolled(t, "default", "bob", person{number: 2})
			probability := func(a, b face.Embedding) float64 {
				p, ok := match.NewHead(own).Probability(a, b)
				if !ok {
					t.Fatal("no probability")
				}
				return p
			}
			same := func(what string, got *float64, want float64) {
				t.Helper()
				if got == nil || math.Abs(*got-want) > 1e-9 {
					t.Errorf("%s: %v, want %v", what, got, want)
				}
			}
			ada := photo(person{number: 1, noise: 6})
			want := probability(vector(1, 6), vector(1, 5)) // the nearer of her two
			v := good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": ada, "subject_id": "ada"}), 200)
			same("a subject", v.Probability, want)
			v = good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": ada, "reference": photo(person{number: 2})}), 200)
			same("two photos", v.Probability, probability(vector(1, 6), vector(2, 0)))

			r := good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe": ada}), 200)
			if len(r.Faces) != 1 || len(r.Faces[0].Candidates) != 2 {
				t.Fatalf("got %+v", r)
			}
			same("the right candidate", r.Faces[0].Candidates[0].Probability, want)
			same("the other", r.Faces[0].Candidates[1].Probability, probability(vector(1, 6), vector(2, 0)))
		})
	}
}

// One comparison in 10,000 may err; in a search of many templates, that many
// times as often, unless the server holds the whole search to it.
func TestWholeSearch(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		h := open(t, func(o *options) { o.Identity.WholeSearch = whole })
		h.enrolled(t, "default", "ada", person{number: 1})
		ask := func(point string) answer {
			return h.post(t, "/recognize", fields{"probe": photo(person{number: 1}), "operating_point": point})
		}
		one := good[api.RecognizeResponse](t, ask("fmr_1e-4"), 200)
		if one.Threshold != 0.6 || one.FpirAtThreshold == nil || math.Abs(*one.FpirAtThreshold-1e-4) > 1e-12 {
			t.Errorf("one template, whole %v: %+v", whole, one)
		}
		// No search compares with what another model made.
		other := store.Record{Subject: face.Subject{ID: "cy"}}
		for i := range 999 {
			other.Templates = append(other.Templates, face.Template{
				ID: fmt.Sprint("other-", i), SubjectID: "cy", ModelID: "some-other-model", Embedding: face.Embedding{1, 0},
			})
		}
		if out, err := h.store.Import(t.Context(), face.DefaultTenant, "default", []store.Record{other}); err != nil || out[0].Err != nil {
			t.Fatal(err, out)
		}
		if d := cmp.Diff(one, good[api.RecognizeResponse](t, ask("fmr_1e-4"), 200)); d != "" {
			t.Errorf("beside templates of another model, whole %v: %s", whole, d)
		}
		h.enrolled(t, "default", "bob", person{number: 2})
		two := good[api.RecognizeResponse](t, ask("fmr_1e-4"), 200)
		fpir := *two.FpirAtThreshold
		switch {
		case !whole && (two.Threshold != 0.6 || math.Abs(fpir-match.FPIR(1e-4, 2)) > 1e-12):
			t.Errorf("two templates: %+v, FPIR %v", two, fpir)
		case whole && (two.Threshold != 0.7 || fpir > 1e-4):
			t.Errorf("two templates, the whole search: %+v, FPIR %v", two, fpir)
		}
		if v := good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": photo(person{number: 1}), "subject_id": "ada"}), 200); v.Threshold != 0.6 {
			t.Errorf("/verify, whole %v: %+v", whole, v)
		}
		strict := ask("fmr_1e-5")
		if !whole {
			good[api.RecognizeResponse](t, strict, 200)
		} else if p := bad(t, strict, face.OperatingPointUnsupported, "/operating_point"); !strings.Contains(*p.Detail, "2 templates") {
			t.Errorf("got %+v", p)
		}
	}
}
