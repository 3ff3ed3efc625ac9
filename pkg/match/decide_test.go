package match_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	nan := float32(math.NaN())
	ref := func(id string, e ...float32) face.Template { return face.Template{ID: id, Embedding: e} }
	half := 0.5 / math.Pow(0.5, 9./32) // of two at right angles, by the length of their mean
	tests := map[string]struct {
		probe     face.Embedding
		templates []face.Template
		score     float64
		fused     int
		err       error
	}{
		"one, as it is": {face.Embedding{1, 0}, []face.Template{ref("a", 0.6, 0.8)}, float64(float32(0.6)), 1, nil},
		"the mean, not the best": {
			face.Embedding{1, 0}, []face.Template{ref("a", 0, 1), ref("b", 1, 0)}, half, 2, nil,
		},
		"three": {face.Embedding{1, 0}, []face.Template{ref("a", 0, 1), ref("b", 0, 1), ref("c", 1, 0)}, math.Pow(5./9, -9./32) / 3, 3, nil},
		"quality is no weight": {
			face.Embedding{1, 0}, []face.Template{{ID: "a", Embedding: face.Embedding{0, 1}, Quality: 1}, {ID: "b", Embedding: face.Embedding{1, 0}}}, half, 2, nil,
		},
		"opposite": {face.Embedding{1, 0}, []face.Template{ref("a", -1, 0)}, -1, 1, nil},
		"the least id of those that cancel out": {
			face.Embedding{1, 0}, []face.Template{ref("z", -1, 0), ref("a", 1, 0)}, 1, 2, nil,
		},
		"without the damaged": {
			face.Embedding{1, 0}, []face.Template{{ID: "a"}, ref("b", 0, 1), {ID: "c"}, ref("d", 1, 0)}, half, 2, nil,
		},
		"no templates":      {face.Embedding{1, 0}, nil, 0, 0, face.NotFound},
		"all damaged":       {face.Embedding{1, 0}, []face.Template{{ID: "a"}, {ID: "b"}}, 0, 0, face.Damaged},
		"another length":    {face.Embedding{1, 0}, []face.Template{ref("a", 1, 0), ref("b", 1)}, 0, 0, face.ModelMismatch},
		"a longer probe":    {face.Embedding{1, 0, 0}, []face.Template{ref("a", 1, 0)}, 0, 0, face.ModelMismatch},
		"not a number":      {face.Embedding{nan, 0}, []face.Template{ref("a", 1, 0)}, 0, 0, face.Invalid},
		"a template is not": {face.Embedding{1, 0}, []face.Template{ref("a", 1, 0), ref("b", nan, 0)}, 0, 0, face.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			score, reference, err := match.Verify(tt.probe, tt.templates)
			if !errors.Is(err, tt.err) || math.Abs(score-tt.score) > 1e-7 || reference.Templates != tt.fused {
				t.Errorf("Verify = %v, %+v, %v; want %v, %d templates, %v", score, reference, err, tt.score, tt.fused, tt.err)
			}
		})
	}
}

// TestVerifyOrder: the order in which templates were enrolled is not in the
// score, not in its last bit either.
func TestVerifyOrder(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	unit := func() face.Embedding {
		e := make(face.Embedding, 256)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	probe := unit()
	for n := range 20 {
		var templates []face.Template
		for i := range n + 1 {
			templates = append(templates, face.Template{ID: string(rune('a' + i)), Embedding: unit()})
		}
		want, reference, err := match.Verify(probe, templates)
		if err != nil || reference.Templates != n+1 {
			t.Fatal(reference, err)
		}
		for range 5 {
			rng.Shuffle(len(templates), func(i, j int) { templates[i], templates[j] = templates[j], templates[i] })
			if score, _, err := match.Verify(probe, templates); err != nil || score != want {
				t.Errorf("%d templates: %v, then %v (%v)", len(templates), want, score, err)
			}
		}
	}
}

func TestIdentify(t *testing.T) {
	t.Parallel()
	list := func(scores ...float64) []face.Candidate {
		var c []face.Candidate
		for i, s := range scores {
			c = append(c, face.Candidate{SubjectID: string(rune('a' + i)), Score: s})
		}
		return c
	}
	twice := list(0.75, 0.75, 0.5)
	twice[1].SubjectID = "a"
	tests := map[string]struct {
		candidates           []face.Candidate
		threshold, ambiguity float64
		want                 match.Decision
		margin               float64
	}{
		"nobody":                      {nil, 0.5, 0.1, match.DecisionUnknown, 0},
		"below":                       {list(0.25), 0.5, 0.1, match.DecisionUnknown, 1.25},
		"just below":                  {list(math.Nextafter(0.5, 0)), 0.5, 0.1, match.DecisionUnknown, 1 + math.Nextafter(0.5, 0)},
		"at the threshold":            {list(0.5), 0.5, 0.1, match.DecisionMatch, 1.5},
		"clear of the second":         {list(0.875, 0.625), 0.5, 0.125, match.DecisionMatch, 0.25},
		"exactly the margin":          {list(0.75, 0.625), 0.5, 0.125, match.DecisionMatch, 0.125},
		"too close":                   {list(0.75, 0.6875), 0.5, 0.125, match.DecisionAmbiguous, 0.0625},
		"close, second below":         {list(0.5, 0.4375), 0.5, 0.125, match.DecisionMatch, 0.0625},
		"tie":                         {list(0.75, 0.75), 0.5, 0.125, match.DecisionAmbiguous, 0},
		"tie, no ambiguity asked for": {list(0.75, 0.75), 0.5, 0, match.DecisionMatch, 0},
		"same subject twice":          {twice, 0.5, 0.125, match.DecisionMatch, 0.25},
		"not a number":                {list(math.NaN()), 0.5, 0, match.DecisionUnknown, math.NaN()},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, margin := match.Identify(tt.candidates, tt.threshold, tt.ambiguity)
			if got != tt.want || margin != tt.margin && !math.IsNaN(tt.margin) {
				t.Errorf("Identify = %s, %v; want %s, %v", got, margin, tt.want, tt.margin)
			}
		})
	}
}

func TestFuse(t *testing.T) {
	t.Parallel()
	x, y := face.Embedding{1, 0}, face.Embedding{0, 1}
	r := float32(math.Sqrt(0.5))
	tests := map[string]struct {
		samples []face.Embedding
		weights []float32
		want    face.Embedding
		err     error
	}{
		"one":             {[]face.Embedding{x}, []float32{0.3}, x, nil},
		"even":            {[]face.Embedding{x, y}, []float32{0.5, 0.5}, face.Embedding{r, r}, nil},
		"weighted":        {[]face.Embedding{x, y}, []float32{0.75, 1}, face.Embedding{0.6, 0.8}, nil},
		"worthless frame": {[]face.Embedding{x, y}, []float32{1, 0}, x, nil},
		"all worthless":   {[]face.Embedding{x, y}, []float32{0, 0}, face.Embedding{r, r}, nil},
		"none":            {nil, nil, nil, face.Invalid},
		"weight missing":  {[]face.Embedding{x, y}, []float32{1}, nil, face.Invalid},
		"negative weight": {[]face.Embedding{x, y}, []float32{1, -1}, nil, face.Invalid},
		"NaN weight":      {[]face.Embedding{x}, []float32{float32(math.NaN())}, nil, face.Invalid},
		"infinite weight": {[]face.Embedding{x}, []float32{float32(math.Inf(1))}, nil, face.Invalid},
		"lengths":         {[]face.Embedding{x, {1}}, []float32{1, 1}, nil, face.ModelMismatch},
		"cancel out":      {[]face.Embedding{x, {-1, 0}}, []float32{1, 1}, nil, face.Invalid},
		"NaN sample":      {[]face.Embedding{{float32(math.NaN()), 1}}, []float32{1}, nil, face.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := match.Fuse(tt.samples, tt.weights)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			near := cmp.Comparer(func(a, b float32) bool { return math.Abs(float64(a-b)) < 1e-6 })
			if diff := cmp.Diff(tt.want, got, near); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}
