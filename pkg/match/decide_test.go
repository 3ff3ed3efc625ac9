package match_test

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

func TestVerify(t *testing.T) {
	t.Parallel()
	nan := float32(math.NaN())
	ref := func(id string, e ...float32) face.Template { return face.Template{ID: id, Embedding: e} }
	tests := map[string]struct {
		probe face.Embedding
		refs  []face.Template
		score float64
		id    string
		err   error
	}{
		"best of several": {
			probe: face.Embedding{1, 0},
			refs:  []face.Template{ref("a", 0, 1), ref("b", 0.6, 0.8), ref("c", -1, 0)},
			score: float64(float32(0.6)), id: "b",
		},
		"opposite":             {probe: face.Embedding{1, 0}, refs: []face.Template{ref("a", -1, 0)}, score: -1, id: "a"},
		"tie by least id":      {probe: face.Embedding{1, 0}, refs: []face.Template{ref("z", 1, 0), ref("a", 1, 0), ref("m", 1, 0)}, score: 1, id: "a"},
		"no references":        {probe: face.Embedding{1, 0}, err: face.NotFound},
		"another length":       {probe: face.Embedding{1, 0}, refs: []face.Template{ref("a", 1, 0), ref("b", 1)}, err: face.ModelMismatch},
		"not a number":         {probe: face.Embedding{nan, 0}, refs: []face.Template{ref("a", 1, 0)}, err: face.Invalid},
		"a reference that not": {probe: face.Embedding{1, 0}, refs: []face.Template{ref("a", 1, 0), ref("b", nan, 0)}, err: face.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			score, id, err := match.Verify(tt.probe, tt.refs)
			if !errors.Is(err, tt.err) || score != tt.score && tt.err == nil || id != tt.id {
				t.Errorf("Verify = %v, %q, %v; want %v, %q, %v", score, id, err, tt.score, tt.id, tt.err)
			}
		})
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
