package style_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/style"
)

// checkClose compares with a relative tolerance.
func checkClose(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*max(math.Abs(want), 1e-30) {
		t.Errorf("%s is %g, plain loops say %g", what, got, want)
	}
}

// places is the product of sizes.
func places(size []int) int {
	n := 1
	for _, s := range size {
		n *= s
	}
	return n
}

// The formulas of the package comment, by plain loops.

func contentLoss(c, g style.Field) (sum float64) {
	for i := range c.Data {
		d := float64(c.Data[i]) - float64(g.Data[i])
		sum += d * d
	}
	return sum / 2
}

func gramOf(a style.Field, mask []float64) [][]float64 {
	n := places(a.Size)
	m := make([][]float64, a.Channels)
	for k := range m {
		m[k] = make([]float64, a.Channels)
		for l := range m[k] {
			for p := range n {
				w := 1.0
				if mask != nil {
					w = mask[p] * mask[p]
				}
				m[k][l] += w * float64(a.Data[k*n+p]) * float64(a.Data[l*n+p])
			}
		}
	}
	return m
}

// styleLoss compares Gram matrices; that of the style is rescaled to as many
// places as that of G has.
func styleLoss(target, own [][]float64, targetArea, area float64) (sum float64) {
	nC := float64(len(own))
	for k := range own {
		for l := range own {
			d := target[k][l]*area/targetArea - own[k][l]
			sum += d * d
		}
	}
	return sum / (4 * area * area * nC * nC)
}

func variation(x style.Field) (sum float64) {
	n := places(x.Size)
	step := 1
	for _, long := range slices.Backward(x.Size) {
		for c := range x.Channels {
			for p := range n {
				if p/step%long == long-1 {
					continue
				}
				d := float64(x.Data[c*n+p+step]) - float64(x.Data[c*n+p])
				sum += d * d
			}
		}
		step *= long
	}
	return sum
}

func TestLossesAreTheFormulas(t *testing.T) {
	t.Parallel()
	for _, rank := range []int{1, 2, 3} {
		for _, sameSize := range []bool{true, false} {
			t.Run(fmt.Sprintf("%dD same size %v", rank, sameSize), func(t *testing.T) {
				t.Parallel()
				b := orttest.Runtime(t)
				net, names := smallNetwork(t, 3, rank)
				sizes := [][]int{{70}, {22, 25}, {10, 12, 9}}
				others := [][]int{{90}, {31, 17}, {11, 9, 14}}
				if sameSize {
					others = sizes
				}
				content, picture := speckled(1, 3, sizes[rank-1]...), speckled(3, 3, sizes[rank-1]...)
				pattern := speckled(2, 3, others[rank-1]...)
				p := style.DefaultParams()
				p.Weights, p.ContentWeight, p.StyleWeight, p.TVWeight = "literal", 0.5, 3, 0.25
				p.Layers = style.Layers{
					Content: map[string]float64{names[0]: 0.7, names[1]: 0.3},
					Style:   map[string]float64{names[0]: 2, names[1]: 1.5},
				}
				o, err := style.NewObjective(t.Context(), b, net, p, content, []style.Field{pattern}, nil, 512)
				if err != nil {
					t.Fatal(err)
				}
				defer closeObjective(t, o)
				loss, dx, err := o.Eval(t.Context(), picture.Data)
				if err != nil {
					t.Fatal(err)
				}
				var layers [3][]style.Field
				for i, f := range []style.Field{content, pattern, picture} {
					if layers[i], err = style.Activations(t.Context(), b, net, f, names...); err != nil {
						t.Fatal(err)
					}
				}
				var wantContent, wantStyle float64
				for i, name := range names {
					c, s, g := layers[0][i], layers[1][i], layers[2][i]
					wantContent += p.Layers.Content[name] * contentLoss(c, g)
					wantStyle += p.Layers.Style[name] * styleLoss(gramOf(s, nil), gramOf(g, nil), float64(places(s.Size)), float64(places(g.Size)))
				}
				checkClose(t, "L_content", loss.Content, 0.5*wantContent, 1e-5)
				checkClose(t, "L_style", loss.Style, 3*wantStyle, 1e-4)
				checkClose(t, "L_tv", loss.TV, 0.25*variation(picture), 1e-5)
				checkClose(t, "L", loss.Total, loss.Content+loss.Style+loss.TV, 1e-12)

				// Along the gradient, L changes as it says.
				var norm float64
				for _, v := range dx {
					norm += float64(v) * float64(v)
				}
				norm = math.Sqrt(norm)
				at := func(h float64) float64 {
					x := make([]float32, len(dx))
					for i, v := range dx {
						x[i] = picture.Data[i] + float32(h*float64(v)/norm)
					}
					l, _, err := o.Eval(t.Context(), x)
					if err != nil {
						t.Fatal(err)
					}
					return l.Total
				}
				checkClose(t, "the gradient", norm, (at(1)-at(-1))/2, 5e-3)
			})
		}
	}
}

// With "auto", each loss is its weight where nothing is left of its target.
func TestAutoWeights(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	net, names := smallNetwork(t, 3, 2)
	p := style.DefaultParams()
	p.ContentWeight, p.StyleWeight, p.TVWeight = 2, 3, 5
	content, pattern, picture := speckled(1, 3, 20, 30), speckled(2, 3, 20, 30), speckled(3, 3, 20, 30)
	o, err := style.NewObjective(t.Context(), b, net, p, content, []style.Field{pattern}, nil, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer closeObjective(t, o)
	loss, _, err := o.Eval(t.Context(), picture.Data)
	if err != nil {
		t.Fatal(err)
	}
	var layers [3][]style.Field
	for i, f := range []style.Field{content, pattern, picture} {
		if layers[i], err = style.Activations(t.Context(), b, net, f, names...); err != nil {
			t.Fatal(err)
		}
	}
	zero := style.Field{Channels: 8, Size: layers[0][1].Size, Data: make([]float32, len(layers[0][1].Data))}
	checkClose(t, "L_content", loss.Content, 2*0.2*contentLoss(layers[0][1], layers[2][1])/contentLoss(layers[0][1], zero), 1e-4)
	var want float64
	for i, w := range []float64{2, 1} {
		s, g := layers[1][i], layers[2][i]
		n := float64(places(g.Size))
		nothing := gramOf(style.Field{Channels: s.Channels, Size: s.Size, Data: make([]float32, len(s.Data))}, nil)
		want += w * styleLoss(gramOf(s, nil), gramOf(g, nil), n, n) / styleLoss(gramOf(s, nil), nothing, n, n)
	}
	checkClose(t, "L_style", loss.Style, 3*want, 1e-4)
	checkClose(t, "L_tv", loss.TV, 5*1e-4*variation(picture)/(3*20*30), 1e-5)
}

// Styles without masks are mixed; a mask keeps a style to its region.
func TestSeveralStyles(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	net, names := smallNetwork(t, 3, 2)
	size := []int{24, 28}
	content, picture := speckled(1, 3, size...), speckled(3, 3, size...)
	styles := []style.Field{speckled(2, 3, size...), speckled(4, 3, size...)}
	p := style.DefaultParams()
	p.Weights, p.StyleWeights = "literal", []float64{1, 3}
	p.Layers.Style = map[string]float64{names[0]: 1} // of the picture's size
	var grams [3][][]float64
	n := float64(places(size))
	for i, f := range []style.Field{styles[0], styles[1], picture} {
		a, err := style.Activations(t.Context(), b, net, f, names[0])
		if err != nil {
			t.Fatal(err)
		}
		grams[i] = gramOf(a[0], nil)
	}
	mixed := make([][]float64, len(grams[0]))
	for k := range mixed {
		for l := range mixed {
			mixed[k] = append(mixed[k], 0.25*grams[0][k][l]+0.75*grams[1][k][l])
		}
	}
	o, err := style.NewObjective(t.Context(), b, net, p, content, styles, nil, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer closeObjective(t, o)
	loss, _, err := o.Eval(t.Context(), picture.Data)
	if err != nil {
		t.Fatal(err)
	}
	checkClose(t, "L_style of a mixture", loss.Style, styleLoss(mixed, grams[2], n, n), 1e-4)

	// The left third has one style, half of the strength of the rest's.
	masks := [][]float32{make([]float32, 24*28), make([]float32, 24*28)}
	plain := make([][]float64, 2)
	for i := range masks[0] {
		masks[0][i] = map[bool]float32{true: 1}[i%28 < 9]
		masks[1][i] = map[bool]float32{true: 0.5}[i%28 >= 9]
		for r := range plain {
			plain[r] = append(plain[r], float64(masks[r][i]))
		}
	}
	m, err := style.NewObjective(t.Context(), b, net, p, content, styles, masks, 512)
	if err != nil {
		t.Fatal(err)
	}
	defer closeObjective(t, m)
	if loss, _, err = m.Eval(t.Context(), picture.Data); err != nil {
		t.Fatal(err)
	}
	a, err := style.Activations(t.Context(), b, net, picture, names[0])
	if err != nil {
		t.Fatal(err)
	}
	var want float64
	for r, share := range []float64{0.25, 0.75} {
		var area float64
		for _, v := range plain[r] {
			area += v * v
		}
		want += 2 * share * area / n * styleLoss(grams[r], gramOf(a[0], plain[r]), n, area)
	}
	checkClose(t, "L_style of regions", loss.Style, want, 1e-4)
}

// Cut into tiles, everything is the same.
func TestTiles(t *testing.T) {
	t.Parallel()
	netOf := map[string]func(*testing.T) style.Network{
		"small":      func(t *testing.T) style.Network { t.Helper(); n, _ := smallNetwork(t, 3, 2); return n },
		"squeezenet": squeezenet,
	}
	for _, tt := range []struct {
		net         string
		size        []int
		tile, tiles int
		masks       bool
	}{
		{"small", []int{160, 224}, 128, 6, false},
		{"small", []int{160, 224}, 128, 6, true},
		{"small", []int{61, 160}, 128, 2, false}, // one axis is not cut, and odd
		{"squeezenet", []int{96, 416}, 320, 2, false},
	} {
		t.Run(fmt.Sprintf("%s %v masks %v", tt.net, tt.size, tt.masks), func(t *testing.T) {
			t.Parallel()
			b, net := orttest.Runtime(t), netOf[tt.net](t)
			content, picture := speckled(1, 3, tt.size...), speckled(3, 3, tt.size...)
			// One of the styles is cut, too.
			styles := []style.Field{speckled(2, 3, 64, 70), speckled(4, 3, tt.size...)}
			var masks [][]float32
			if tt.masks {
				masks = [][]float32{speckled(5, 1, tt.size...).Data, speckled(6, 1, tt.size...).Data}
				for _, m := range masks {
					for i := range m {
						m[i] /= 255
					}
				}
			}
			var losses [2]style.Loss
			var gradients [2][]float32
			for i, tile := range []int{4096, tt.tile} {
				o, err := style.NewObjective(t.Context(), b, net, style.DefaultParams(), content, styles, masks, tile)
				if err != nil {
					t.Fatal(err)
				}
				defer closeObjective(t, o)
				if n := []int{1, tt.tiles}[i]; o.Tiles() != n {
					t.Errorf("%d tiles, want %d", o.Tiles(), n)
				}
				if losses[i], gradients[i], err = o.Eval(t.Context(), picture.Data); err != nil {
					t.Fatal(err)
				}
			}
			checkClose(t, "L_content", losses[1].Content, losses[0].Content, 1e-5)
			checkClose(t, "L_style", losses[1].Style, losses[0].Style, 1e-4)
			var diff, norm float64
			for i, v := range gradients[0] {
				d := float64(v) - float64(gradients[1][i])
				diff, norm = diff+d*d, norm+float64(v)*float64(v)
			}
			if rel := math.Sqrt(diff / norm); rel > 1e-4 {
				t.Errorf("the gradients differ by %g", rel)
			} else {
				t.Logf("the gradients differ by %.1e", rel)
			}
		})
	}
}

func closeObjective(t *testing.T, o style.Objective) {
	t.Helper()
	if err := o.Close(); err != nil {
		t.Error(err)
	}
}
