package style

import (
	"fmt"
	"maps"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Params say how a picture is made. Start from [DefaultParams]: a 0 is a value,
// which is often refused, and does not stand for the default.
type Params struct {
	// Features names the network whose activations are compared: the id of a
	// model with the task "features", or "learned" (fitted to the task's own
	// images).
	Features string `json:"features"`
	// Size is the long side of the result in pixels, 64..2048.
	Size int `json:"size"`
	// Iterations is how many steps the optimiser takes over all scales,
	// 1..5000. More is sharper and closer to the style, and takes longer.
	Iterations int `json:"iterations"`
	// Weights is "auto" or "literal". With auto, each loss is divided by a
	// value computed from its targets, and the weights below multiply the
	// network's own, so that 1 looks right. With literal, they are alpha, beta
	// and the factor of L_tv exactly as in the formulas.
	Weights string `json:"weights"`
	// ContentWeight (alpha): a larger one keeps more of the photo. Above 0, to
	// 1e12.
	ContentWeight float64 `json:"content_weight"`
	// StyleWeight (beta): a larger one gives more style. Above 0, to 1e12.
	StyleWeight float64 `json:"style_weight"`
	// TVWeight: a larger one is smoother, 0 leaves grain. 0..1e12.
	TVWeight float64 `json:"tv_weight"`
	// Layers are the layers compared, with their weights (lambda); empty:
	// the network's own choice.
	Layers Layers `json:"layers"`
	// Optimizer is "lbfgs" or "adam".
	Optimizer string `json:"optimizer"`
	// Init is what G starts from: "content" or "noise".
	Init string `json:"init"`
	// PreserveColor is "none", "luminance" (the photo's chroma under the new
	// brightness) or "histogram" (the style's colours are first moved to the
	// photo's mean and covariance).
	PreserveColor string `json:"preserve_color"`
	// StyleScale is the size of a style image against the result, 0.25..4:
	// larger makes larger strokes.
	StyleScale float64 `json:"style_scale"`
	// StyleWeights are the shares of the style images, each above 0, one for
	// each; empty: equal.
	StyleWeights []float64 `json:"style_weights,omitempty"`
	// Seed makes a run reproducible on one machine.
	Seed uint64 `json:"seed"`
}

// Layers name layers of the network, with weights above 0.
type Layers struct {
	Content map[string]float64 `json:"content,omitempty"`
	Style   map[string]float64 `json:"style,omitempty"`
}

// What [Params.Features] may be beside the id of any other network.
const (
	BuiltIn = "builtin-features" // the network that the programs carry
	Learned = "learned"          // fitted to the task's own images
)

// Limits of the parameters.
const (
	MinSize, MaxSize = 64, 2048
	MaxIterations    = 5000
	maxWeight        = 1e12
)

// DefaultParams are the defaults of every parameter.
func DefaultParams() Params {
	return Params{
		Features: BuiltIn, Size: 512, Iterations: 300, Weights: "auto",
		ContentWeight: 1, StyleWeight: 1, TVWeight: 1,
		Optimizer: "lbfgs", Init: "content", PreserveColor: "none", StyleScale: 1,
	}
}

// Validate checks the parameters of a task with that many style images. The
// error is Invalid and names the field as in JSON. Layers that the network does
// not have are found by [Transferrer.Check].
func (p Params) Validate(styles int) error {
	bad := func(field, format string, args ...any) error {
		return face.Errorf(face.Invalid, "style.Params", "params.%s: %s", field, fmt.Sprintf(format, args...))
	}
	between := func(x, low, high float64) bool { return x >= low && x <= high } // false for NaN
	if p.Features == "" {
		return bad("features", "is empty: say %q or a model's id", Learned)
	}
	if p.Size < MinSize || p.Size > MaxSize {
		return bad("size", "%d is not within %d..%d", p.Size, MinSize, MaxSize)
	}
	if p.Iterations < 1 || p.Iterations > MaxIterations {
		return bad("iterations", "%d is not within 1..%d", p.Iterations, MaxIterations)
	}
	for _, choice := range []struct {
		field, is string
		of        []string
	}{
		{"weights", p.Weights, []string{"auto", "literal"}},
		{"optimizer", p.Optimizer, []string{"lbfgs", "adam"}},
		{"init", p.Init, []string{"content", "noise"}},
		{"preserve_color", p.PreserveColor, []string{"none", "luminance", "histogram"}},
	} {
		if !slices.Contains(choice.of, choice.is) {
			return bad(choice.field, "%q is not one of %v", face.Excerpt(choice.is), choice.of)
		}
	}
	for _, w := range []struct {
		field string
		is    float64
	}{{"content_weight", p.ContentWeight}, {"style_weight", p.StyleWeight}} {
		if w.is == 0 || !between(w.is, 0, maxWeight) {
			return bad(w.field, "%g is not above 0 and at most %g", w.is, maxWeight)
		}
	}
	if !between(p.TVWeight, 0, maxWeight) {
		return bad("tv_weight", "%g is not within 0..%g", p.TVWeight, maxWeight)
	}
	if !between(p.StyleScale, 0.25, 4) {
		return bad("style_scale", "%g is not within 0.25..4", p.StyleScale)
	}
	if n := len(p.StyleWeights); n != 0 && n != styles {
		return bad("style_weights", "%d weights for %d style images", n, styles)
	}
	for i, w := range p.StyleWeights {
		if w == 0 || !between(w, 0, maxWeight) {
			return bad(fmt.Sprintf("style_weights[%d]", i), "%g is not above 0 and at most %g", w, maxWeight)
		}
	}
	for _, l := range []struct {
		field  string
		layers map[string]float64
	}{{"layers.content", p.Layers.Content}, {"layers.style", p.Layers.Style}} {
		for _, name := range slices.Sorted(maps.Keys(l.layers)) {
			if w := l.layers[name]; w == 0 || !between(w, 0, maxWeight) {
				return bad(l.field+"."+name, "%g is not above 0 and at most %g", w, maxWeight)
			}
		}
	}
	return nil
}
