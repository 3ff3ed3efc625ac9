package identity_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/identity/identitytest"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// TestRecognize searches a gallery in which two subjects are one person.
func TestRecognize(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	for id, p := range map[string]person{"ada": {Number: 1}, "bob": {Number: 2}, "cid": {Number: 3}, "eve": {Number: 9}, "eve2": {Number: 9, Noise: 1}} {
		b.enrolled(t, "default", id, p)
	}
	type request = identity.RecognizeRequest
	frames := func(frames ...[]byte) [][]byte { return frames }
	ada := photo(person{Number: 1, Noise: 8})
	for _, tt := range []struct {
		name       string
		request    request
		decisions  []match.Decision
		candidates []string // of the first face
		found      *int
	}{
		{
			"every decision", request{Probe: frames(photo(person{Number: 1, Noise: 8}, person{Number: 77}, person{Number: 9}, person{Number: 2, Poor: true}))},
			[]match.Decision{"match", "unknown", "ambiguous", "low_quality"}, []string{"ada", "", "", "", ""}, new(4),
		},
		{
			"k and largest", request{Probe: frames(photo(person{Number: 9}, person{Number: 1})), K: 1, Faces: identity.FaceLargest},
			[]match.Decision{"ambiguous"}, []string{"eve"}, new(2),
		},
		{"no face", request{Probe: frames(photo())}, nil, nil, new(0)},
		{
			"fused", request{Fuse: new(true), K: 1, Probe: frames(
				photo(), photo(person{Number: 2, Noise: 30}), photo(person{Number: 2, Noise: 33}), photo(person{Number: 5, Poor: true}),
			)},
			[]match.Decision{"match"}, []string{"bob"}, nil,
		},
		{"fused, all poor", request{Fuse: new(true), Probe: frames(photo(), photo(person{Number: 2, Poor: true}))}, []match.Decision{"low_quality"}, nil, nil},
		{"fused, no face", request{Fuse: new(true), Probe: frames(photo(), photo())}, nil, nil, nil},
		{"embedding", request{ProbeEmbedding: vector(1, 8), ModelID: modelID, K: 1}, []match.Decision{"match"}, []string{"ada"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := must(t, b.Recognize, tt.request)
			var decisions []match.Decision
			for _, f := range got.Faces {
				decisions = append(decisions, f.Decision)
				if (f.Face != nil) != (tt.request.Probe != nil) || (f.Decision == match.DecisionLowQuality) != (len(f.Candidates) == 0) {
					t.Errorf("face %+v", f)
				}
			}
			if diff := cmp.Diff(tt.decisions, decisions); diff != "" {
				t.Errorf("decisions (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.found, got.FacesFound); diff != "" {
				t.Errorf("faces found (-want +got):\n%s", diff)
			}
			if searched := slices.ContainsFunc(decisions, func(d match.Decision) bool { return d != match.DecisionLowQuality }); searched != (got.GallerySize != nil) {
				t.Errorf("gallery size: %v", got.GallerySize)
			}
			if tt.candidates == nil {
				return
			}
			first := got.Faces[0]
			if len(first.Candidates) != len(tt.candidates) || *got.GallerySize != 5 || first.Margin == nil {
				t.Fatalf("got %+v", got)
			}
			for i, c := range first.Candidates {
				if want := tt.candidates[i]; c.Rank != i+1 || want != "" && (c.SubjectID != want || c.Name != "Name of "+want) {
					t.Errorf("candidate %d: %+v", i, c)
				}
			}
		})
	}
	for _, tt := range []struct {
		name    string
		request request
		kind    face.Kind
		pointer string
	}{
		{"no probe", request{K: 3}, face.Invalid, "/probe"},
		{"both", request{Probe: frames(ada), ProbeEmbedding: vector(1, 0), ModelID: modelID}, face.Invalid, "/probe_embedding"},
		{"embedding without its model", request{ProbeEmbedding: vector(1, 0)}, face.Invalid, "/model_id"},
		{"embedding of another model", request{ProbeEmbedding: vector(1, 0), ModelID: "sface"}, face.ModelMismatch, "/model_id"},
		{"short embedding", request{ProbeEmbedding: []float32{1}, ModelID: modelID}, face.ModelMismatch, "/probe_embedding"},
		{"embedding and faces", request{ProbeEmbedding: vector(1, 0), ModelID: modelID, Faces: identity.FaceAll}, face.Invalid, "/faces"},
		{"embedding and fuse", request{ProbeEmbedding: vector(1, 0), ModelID: modelID, Fuse: new(false)}, face.Invalid, "/fuse"},
		{"no photo", request{Probe: frames()}, face.Invalid, "/probe"},
		{"frames without fuse", request{Probe: frames(ada, ada)}, face.Invalid, "/fuse"},
		{"nine frames", request{Probe: slices.Repeat(frames(ada), 9), Fuse: new(true)}, face.Invalid, "/probe"},
		{"k", request{Probe: frames(ada), K: 101}, face.Invalid, "/k"},
		{"k below 1", request{Probe: frames(ada), K: -1}, face.Invalid, "/k"},
		{"the only face", request{Probe: frames(ada), Faces: identity.FaceOnly}, face.Invalid, "/faces"},
		{"no gallery", request{Probe: frames(ada), Gallery: "a b"}, face.Invalid, "/gallery"},
		{"unknown gallery", request{Probe: frames(ada), Gallery: "nobody"}, face.NotFound, ""},
		{"no photo at all", request{Probe: frames([]byte("text"))}, face.UnsupportedImage, "/probe"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := b.Recognize(t.Context(), nobody(), tt.request)
			fails(t, err, tt.kind, tt.pointer)
		})
	}
}

// TestFramesDisagree: frames of two people are refused, whoever is enrolled and
// in whatever order they come; frames of one are fused.
func TestFramesDisagree(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.enrolled(t, "default", "ada", person{Number: 1})
	b.enrolled(t, "default", "bob", person{Number: 2})
	ada, again, bob := photo(person{Number: 1, Noise: 3}), photo(person{Number: 1, Noise: 6}), photo(person{Number: 2, Noise: 3})
	poor := photo(person{Number: 2, Poor: true})
	for _, tt := range []struct {
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
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := b.Recognize(t.Context(), nobody(), identity.RecognizeRequest{Probe: tt.frames, Fuse: new(true)})
			if tt.pointer == "" {
				if err != nil || len(got.Faces) != 1 || got.Faces[0].Decision != match.DecisionMatch {
					t.Errorf("got %+v, %v", got, err)
				}
				return
			}
			e := fails(t, err, face.FramesDisagree, tt.pointer)
			if diff := cmp.Diff([]face.Reason{face.ReasonFramesDisagree}, e.Reasons); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// heads are one that looks at the score alone and one that needs embeddings.
func heads() map[string]*face.Head {
	cosine := &face.Head{Variant: face.HeadCosine, Weights: []float64{10}, Bias: -4, Platt: face.Platt{Slope: 1}}
	squared := &face.Head{Variant: face.HeadSquared, Bias: 6, Platt: face.Platt{Slope: 1}}
	for i := range dimension {
		squared.Weights = append(squared.Weights, -4-float64(i%3))
	}
	return map[string]*face.Head{"cosine": cosine, "squared": squared}
}

// TestProbability: a probability is that of the fused template that gave the
// score, for each kind of decision.
func TestProbability(t *testing.T) {
	t.Parallel()
	for name, head := range heads() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := open(t, func(o *identity.Options) { o.Pipeline = identitytest.Pipeline{Head: head} })
			b.enrolled(t, "default", "ada", person{Number: 1, Noise: 20})
			must(t, b.Enrol, identity.EnrolRequest{SubjectID: "ada", Image: photo(person{Number: 1, Noise: 5})})
			b.enrolled(t, "default", "bob", person{Number: 2})
			probability := func(a, b face.Embedding) float64 {
				p, ok := match.NewHead(head).Probability(a, b)
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
			ada := photo(person{Number: 1, Noise: 6})
			both := face.FuseEmbeddings([]face.Embedding{vector(1, 20), vector(1, 5)})
			want := probability(vector(1, 6), both)
			same("a subject", must(t, b.Verify, identity.VerifyRequest{Probe: ada, SubjectID: "ada"}).Probability, want)
			same("two photos", must(t, b.Verify, identity.VerifyRequest{Probe: ada, Reference: photo(person{Number: 2})}).Probability,
				probability(vector(1, 6), vector(2, 0)))

			r := must(t, b.Recognize, identity.RecognizeRequest{Probe: [][]byte{ada}})
			if len(r.Faces) != 1 || len(r.Faces[0].Candidates) != 2 {
				t.Fatalf("got %+v", r)
			}
			same("the right candidate", r.Faces[0].Candidates[0].Probability, want)
			same("the other", r.Faces[0].Candidates[1].Probability, probability(vector(1, 6), vector(2, 0)))
		})
	}
}

// TestWholeSearch: one comparison in 10,000 may err, and in a search of many
// subjects that many times as often, unless the rate is that of the whole
// search.
func TestWholeSearch(t *testing.T) {
	t.Parallel()
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprint(whole), func(t *testing.T) {
			t.Parallel()
			b := open(t, func(o *identity.Options) { o.WholeSearch = whole })
			b.enrolled(t, "default", "ada", person{Number: 1})
			ask := func(point string) identity.RecognizeRequest {
				return identity.RecognizeRequest{Probe: [][]byte{photo(person{Number: 1})}, OperatingPoint: point}
			}
			one := must(t, b.Recognize, ask("fmr_1e-4"))
			if one.Point.Threshold != 0.6 || one.FPIRAtThreshold == nil || math.Abs(*one.FPIRAtThreshold-1e-4) > 1e-12 {
				t.Errorf("one subject: %+v", one)
			}
			// No search compares with what another model made.
			other := store.Record{Subject: face.Subject{ID: "cy"}}
			for i := range 999 {
				other.Templates = append(other.Templates, face.Template{
					ID: fmt.Sprint("other-", i), SubjectID: "cy", ModelID: "some-other-model", Embedding: face.Embedding{1, 0},
				})
			}
			if out, err := b.store.Import(t.Context(), face.DefaultTenant, "default", []store.Record{other}); err != nil || out[0].Err != nil {
				t.Fatal(err, out)
			}
			if d := cmp.Diff(one, must(t, b.Recognize, ask("fmr_1e-4"))); d != "" {
				t.Errorf("beside templates of another model: %s", d)
			}
			b.enrolled(t, "default", "bob", person{Number: 2})
			two := must(t, b.Recognize, ask("fmr_1e-4"))
			fpir := *two.FPIRAtThreshold
			switch {
			case !whole && (two.Point.Threshold != 0.6 || math.Abs(fpir-match.FPIR(1e-4, 2)) > 1e-12):
				t.Errorf("two subjects: %+v, FPIR %v", two, fpir)
			case whole && (two.Point.Threshold != 0.7 || fpir > 1e-4):
				t.Errorf("two subjects, the whole search: %+v, FPIR %v", two, fpir)
			}
			if v := must(t, b.Verify, identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"}); v.Point.Threshold != 0.6 {
				t.Errorf("a verification: %+v", v)
			}
			_, err := b.Recognize(t.Context(), nobody(), ask("fmr_1e-5"))
			if !whole {
				if err != nil {
					t.Error(err)
				}
			} else if e := fails(t, err, face.OperatingPointUnsupported, "/operating_point"); !strings.Contains(e.Detail, "2 subjects") {
				t.Errorf("got %v", e)
			}
		})
	}
}
