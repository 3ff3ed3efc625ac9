package grad_test

import (
	"math"
	"os"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/grad"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	goleak.VerifyTestMain(m)
}

// One thing said in two ways has one value and one gradient.
func TestComposed(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	for name, both := range map[string]func(s *tensors) (one, other *grad.Value){
		"Softmax": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(3, 5, 2)
			e := s.Exp(x)
			return s.Softmax(x, 1), s.Div(e, s.ReduceSum(e, 1))
		},
		"LpNormalization": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(4, 6)
			return s.Normalize(x, 1), s.Div(x, s.Sqrt(s.ReduceSum(s.Mul(x, x), 1)))
		},
		"BatchNormalization training": func(s *tensors) (_, _ *grad.Value) {
			x, scale, bias := s.in(4, 3, 3, 2), s.in(3), s.in(3)
			y, _, _ := s.BatchNormTraining(x, scale, bias, 1e-3)
			difference := s.Sub(x, s.ReduceMean(x, 0, 2, 3))
			variance := s.ReduceMean(s.Mul(difference, difference), 0, 2, 3)
			normal := s.Div(difference, s.Sqrt(s.Add(variance, s.Scalar(1e-3))))
			return y, s.Add(s.Mul(normal, s.Reshape(scale, 1, 3, 1, 1)), s.Reshape(bias, 1, 3, 1, 1))
		},
		"Gemm": func(s *tensors) (_, _ *grad.Value) {
			a, c := s.in(5, 3), s.in(4, 5)
			return s.Gemm(a, c, true, true, 0.5), s.Scale(s.MatMul(s.Transpose(a, 1, 0), s.Transpose(c, 1, 0)), 0.5)
		},
		"Gram": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(1, 4, 3, 5)
			f := s.Reshape(x, 4, 15)
			return s.Gram(x), s.MatMul(f, s.Transpose(f, 1, 0))
		},
		"Conv in groups": func(s *tensors) (_, _ *grad.Value) {
			x, w := s.in(2, 6, 5, 5), s.in(4, 3, 3, 2)
			window := grad.Window{Strides: []int64{2, 1}, Pads: []int64{1, 0, 2, 1}}
			half := func(i int64) *grad.Value {
				return s.Conv(s.Slice(x, 1, 3*i, 3*i+3), s.Slice(w, 0, 2*i, 2*i+2), nil, window)
			}
			apart := s.Concat(1, half(0), half(1))
			window.Group = 2
			return s.Conv(x, w, nil, window), apart
		},
		"Conv depthwise": func(s *tensors) (_, _ *grad.Value) {
			x, w := s.in(2, 3, 5, 4), s.in(3, 1, 3, 3)
			window := grad.Window{Dilations: []int64{1, 2}, Pads: []int64{1, 2, 1, 2}}
			var each []*grad.Value
			for c := range int64(3) {
				each = append(each, s.Conv(s.Slice(x, 1, c, c+1), s.Slice(w, 0, c, c+1), nil, window))
			}
			window.Group = 3
			return s.Conv(x, w, nil, window), s.Concat(1, each...)
		},
		"Conv with padding": func(s *tensors) (_, _ *grad.Value) {
			x, w := s.in(1, 2, 4, 5), s.in(3, 2, 3, 3)
			return s.Conv(x, w, nil, grad.Window{Pads: []int64{1, 2, 0, 1}}), s.Conv(s.Pad(x, "constant", 0, 0, 1, 2, 0, 0, 0, 1), w, nil, grad.Window{})
		},
		"Conv pointwise": func(s *tensors) (_, _ *grad.Value) {
			x, w := s.in(2, 3, 4, 4), s.in(5, 3, 1, 1)
			return s.Conv(x, w, nil, grad.Window{}), s.Reshape(s.MatMul(s.Reshape(w, 5, 3), s.Reshape(x, 2, 3, 16)), 2, 5, 4, 4)
		},
		"ConvTranspose side by side": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(1, 1, 3, 3)
			return s.ConvTranspose(x, s.Constant([]float32{1, 1, 1, 1}, 1, 1, 2, 2), nil, grad.Window{Strides: []int64{2, 2}}), s.Enlarge(x, 2, 2)
		},
		"AveragePool": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(2, 2, 6, 5)
			w := s.Constant(slices.Repeat([]float32{1.0 / 6}, 12), 2, 1, 2, 3)
			return s.AveragePool(x, grad.Window{Kernel: []int64{2, 3}, Strides: []int64{1, 2}}), s.Conv(x, w, nil, grad.Window{Strides: []int64{1, 2}, Group: 2})
		},
		"AveragePool before fewer channels": func(s *tensors) (_, _ *grad.Value) {
			x, w := s.in(2, 4, 6, 5), s.in(2, 4, 1, 1)
			window := grad.Window{Kernel: []int64{3, 3}, Strides: []int64{2, 2}, Pads: []int64{1, 0, 1, 1}}
			return s.Conv(s.AveragePool(x, window), w, nil, grad.Window{}), s.AveragePool(s.Conv(x, w, nil, grad.Window{}), window)
		},
		"GlobalAveragePool": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(2, 3, 4, 5)
			return s.GlobalAveragePool(x), s.ReduceMean(x, 2, 3)
		},
		"LeakyRelu": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(4, 5)
			return s.LeakyRelu(x, 0.2), s.Sub(s.Relu(x), s.Scale(s.Relu(s.Scale(x, -1)), 0.2))
		},
		"Clip": func(s *tensors) (_, _ *grad.Value) {
			x := s.in(4, 5)
			return s.Clip(x, 0, 0.52), s.Sub(s.Relu(x), s.Relu(s.Sub(x, s.Scalar(0.52))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTensors(3)
			one, other := both(s)
			difference := s.Total(s.Mul(s.Sub(one, other), s.Sub(one, other)))
			weights := make([]float32, one.Len())
			for i := range weights {
				weights[i] = float32(s.r.NormFloat64())
			}
			coefficients := s.Constant(weights, one.Shape()...)
			all := []*grad.Value{difference}
			for _, y := range []*grad.Value{one, other} {
				d, err := s.Gradient(s.Total(s.Mul(y, coefficients)), s.with...)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, d...)
			}
			out, err := compute(t, b, s, all...)
			if err != nil {
				t.Fatal(err)
			}
			if out[0][0] > 1e-10 {
				t.Errorf("the values differ: %g", out[0][0])
			}
			n := len(s.with)
			for i := range n {
				if e := relativeError(out[1+i], out[1+n+i]); e > 1e-5 {
					t.Errorf("gradient %d differs by %g", i, e)
				}
			}
		})
	}
}

func readModel(tb testing.TB, name string) *grad.Model {
	tb.Helper()
	data, err := os.ReadFile(sharedtest.Path(tb, "models/"+name+".onnx"))
	if err != nil {
		tb.Fatal(err)
	}
	m, err := grad.Parse(data)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// A real network with style-transfer losses: ONNX Runtime's gradient of every
// pixel, in float32, is that of the same formulas in float64, and this is what
// central differences say.
func TestSqueezeNet(t *testing.T) {
	t.Parallel()
	m, b := readModel(t, "squeezenet11-features"), orttest.Runtime(t)
	for name, average := range map[string]bool{"average pools": true, "maximum pools": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTensors(5)
			image := s.span(-120, 130, 1, 3, 31, 26)
			style, content := []string{"conv1", "fire2/concat"}, "fire4/concat"
			im, err := s.Import(m, map[string]*grad.Value{"image": image}, append(style, content), grad.ImportOptions{AveragePools: average})
			if err != nil {
				t.Fatal(err)
			}
			target := s.Constant(make([]float32, im.Layers[content].Len()), im.Layers[content].Shape()...)
			d := s.Sub(im.Layers[content], target)
			loss := s.Scale(s.SumSquares(d), 1e-9)
			for _, name := range style {
				f := im.Layers[name]
				n := float64(f.Dim(1) * f.Dim(2) * f.Dim(3))
				loss = s.Add(loss, s.Scale(s.SumSquares(s.Scale(s.Gram(f), 1/(2*n))), 1e-4))
			}
			g, err := s.Gradient(loss, image)
			if err != nil {
				t.Fatal(err)
			}
			got, err := compute(t, b, s, loss, g[0])
			if err != nil {
				t.Fatal(err)
			}
			feed := map[*grad.Value][]float64{image: toFloat64(s.data[image])}
			want := s.Interpret(feed, loss, g[0])
			differences(t, s, feed, image, loss, want[1], 3)
			if e := relativeError(got[0], want[0]); e > 1e-5 {
				t.Errorf("the loss is off by %g", e)
			}
			e := relativeError(got[1], want[1])
			if e > 1e-4 {
				t.Errorf("the gradient is off by %g", e)
			}
			t.Logf("gradient of %d pixels off by %.1e", len(want[1]), e)
		})
	}
}

// differences holds a gradient in float64 against central differences of some
// of its largest numbers.
func differences(t *testing.T, s *tensors, feed map[*grad.Value][]float64, v, loss *grad.Value, gradient []float64, count int) {
	t.Helper()
	order := s.r.Perm(len(gradient))
	slices.SortFunc(order, func(a, b int) int { return -sign(math.Abs(gradient[a]) - math.Abs(gradient[b])) })
	for _, k := range order[:min(count, len(order))] {
		x := feed[v]
		was, h := x[k], 1e-6*max(1, math.Abs(x[k]))
		x[k] = was + h
		high := s.Interpret(feed, loss)[0][0]
		x[k] = was - h
		low := s.Interpret(feed, loss)[0][0]
		x[k] = was
		if d := (high - low) / (2 * h); math.Abs(d-gradient[k]) > 1e-4*math.Abs(gradient[k])+1e-9 {
			t.Errorf("%s[%d]: the loss changes by %g, the gradient says %g", v.Name(), k, d, gradient[k])
		}
	}
}

func sign(x float64) int {
	switch {
	case x < 0:
		return -1
	case x > 0:
		return 1
	}
	return 0
}

// A face network learns: the gradients of all its weights, with the running
// statistics and with the batch's own. The whole network runs in ONNX Runtime;
// against float64 it is held up to a layer of its trunk, over small faces.
func TestMobileFace(t *testing.T) {
	t.Parallel()
	m, b := readModel(t, "mobileface-v2"), orttest.Runtime(t)
	for name, training := range map[string]bool{"inference": false, "training": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			build := func(layer string, shape ...int64) (*tensors, *grad.Imported, *grad.Value, []*grad.Value, []string) {
				s := newTensors(9)
				faces := s.span(0, 255, shape...)
				im, err := s.Import(m, map[string]*grad.Value{"data": faces}, []string{layer}, grad.ImportOptions{
					Training: training,
					Variable: func(_ string, shape []int64) bool { return !slices.Equal(shape, []int64{1}) },
				})
				if err != nil {
					t.Fatal(err)
				}
				var weights []*grad.Value
				var names []string
				for name, v := range im.Variables {
					if im.Statistics[name] == nil && (training || !isStatistic(name)) {
						weights, names = append(weights, v), append(names, name)
					}
					s.data[v] = im.Initial[name]
				}
				loss := s.weighed(s.Normalize(s.Reshape(im.Layers[layer], shape[0], -1), 1))
				return s, im, loss, weights, names
			}

			s, im, loss, weights, names := build("batchnorm8", 3, 3, 17, 14)
			if training != (len(im.Statistics) > 0) {
				t.Errorf("%d statistics", len(im.Statistics))
			}
			gradients, err := s.Gradient(loss, weights...)
			if err != nil {
				t.Fatal(err)
			}
			feed := map[*grad.Value][]float64{}
			for v, data := range s.data {
				feed[v] = toFloat64(data)
			}
			want := s.Interpret(feed, gradients...)
			got, err := compute(t, b, s, gradients...)
			if err != nil {
				t.Fatal(err)
			}
			// The gradient of a bias in front of a normalisation is zero but
			// for rounding: that is measured by the others.
			scale := 0.0
			for _, v := range slices.Concat(want...) {
				scale = max(scale, math.Abs(v))
			}
			worst, where := 0.0, ""
			for i := range weights {
				if i%10 == 0 {
					differences(t, s, feed, weights[i], loss, want[i], 1)
				}
				if e := relativeErrorAtLeast(1e-3*scale, got[i], want[i]); e > worst {
					worst, where = e, names[i]
				}
			}
			if worst > 1e-3 {
				t.Errorf("the gradient of %s is off by %g", where, worst)
			}
			t.Logf("gradients of %d weights up to batchnorm8: off by at most %.1e", len(weights), worst)

			s, _, loss, weights, _ = build("fc5_bn", 4, 3, 112, 112)
			if gradients, err = s.Gradient(loss, weights...); err != nil {
				t.Fatal(err)
			}
			if got, err = compute(t, b, s, gradients...); err != nil {
				t.Fatal(err)
			}
			still := 0
			for _, g := range got {
				largest := 0.0
				for _, v := range g {
					if math.IsNaN(v) || math.IsInf(v, 0) {
						t.Fatal("a gradient is not finite")
					}
					largest = max(largest, math.Abs(v))
				}
				if largest == 0 {
					still++
				}
			}
			if still > 0 {
				t.Errorf("%d of %d gradients are zero", still, len(got))
			}
		})
	}
}

// isStatistic knows a running mean or variance by its name in mobileface-v2.
func isStatistic(name string) bool {
	return len(name) > 2 && (name[len(name)-2:] == "_m" || name[len(name)-2:] == "_v")
}

func TestGradientRefuses(t *testing.T) {
	t.Parallel()
	g := grad.NewGraph()
	x := g.Input("x", 2, 3)
	hard := g.Apply("HardSigmoid", nil, x)
	_, err := g.Gradient(g.Total(hard), x)
	checkRefused(t, err, "HardSigmoid")
	if _, err := g.Gradient(g.Total(hard), hard); err != nil {
		t.Errorf("nothing asks for the gradient of HardSigmoid: %v", err)
	}
	_, err = g.Gradient(x, x)
	checkRefused(t, err, "[2 3]")
	_, err = g.Gradient(g.Total(x), grad.NewGraph().Input("x", 1))
	checkRefused(t, err, `"x"`)
	low := g.Constant([]float32{0})
	_, err = g.Gradient(g.Total(g.Apply("Clip", nil, x, low)), low)
	checkRefused(t, err, "Clip", "bounds")
	c := g.Constant([]float32{1, 1, 1}, 3)
	_, err = g.Gradient(g.Total(g.BatchNorm(x, c, c, c, g.Constant([]float32{1, 1, 1}, 3), 1e-5)), c)
	checkRefused(t, err, "BatchNormalization", "mean")
	if g.Err() != nil {
		t.Errorf("a graph that is refused a gradient stays good: %v", g.Err())
	}
	_, err = g.Marshal(x)
	checkRefused(t, err, "output 0")
	_, err = g.Marshal()
	checkRefused(t, err, "no outputs")

	for name, build := range map[string]func(g *grad.Graph, x *grad.Value){
		"an empty shape":   func(g *grad.Graph, _ *grad.Value) { g.Input("y", 0) },
		"a huge shape":     func(g *grad.Graph, _ *grad.Value) { g.Input("y", 1<<40, 1<<40) },
		"no name":          func(g *grad.Graph, _ *grad.Value) { g.Input("", 1) },
		"a name twice":     func(g *grad.Graph, _ *grad.Value) { g.Input("x", 1) },
		"a number missing": func(g *grad.Graph, _ *grad.Value) { g.Constant([]float32{1}, 2) },
		"another graph":    func(g *grad.Graph, x *grad.Value) { g.Add(x, grad.NewGraph().Input("x", 2, 3)) },
		"unknown":          func(g *grad.Graph, x *grad.Value) { g.Apply("Einsum", nil, x) },
		"times":            func(g *grad.Graph, x *grad.Value) { g.Enlarge(x, 2) },
		"huge times":       func(g *grad.Graph, x *grad.Value) { g.Enlarge(g.Reshape(x, 1, 1, 6), 1<<62) },
		"no constants":     func(g *grad.Graph, x *grad.Value) { g.Apply("Reshape", nil, x, x) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := grad.NewGraph()
			x := g.Input("x", 2, 3)
			build(g, x)
			checkRefused(t, g.Err())
			// What comes after means nothing, and does no harm.
			y := g.Total(g.Softmax(g.Conv(x, x, nil, grad.Window{}), 5))
			_, err := g.Gradient(y, x)
			checkRefused(t, err)
			if _, err = g.Marshal(y); err == nil || err.Error() != g.Err().Error() {
				t.Errorf("the first error is %v, Marshal says %v", g.Err(), err)
			}
		})
	}
}
