package grad_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/grad"
)

// tensors is a graph with the numbers of its inputs.
type tensors struct {
	*grad.Graph
	r    *rand.Rand
	with []*grad.Value // what the gradient is asked for
	data map[*grad.Value][]float32
}

func newTensors(seed uint64) *tensors {
	return &tensors{Graph: grad.NewGraph(), r: rand.New(rand.NewPCG(seed, 7)), data: map[*grad.Value][]float32{}}
}

// between is a whole number, both ends included.
func (s *tensors) between(low, high int64) int64 { return low + s.r.Int64N(high-low+1) }

func (s *tensors) maybe() bool { return s.r.IntN(2) == 0 }

func pick[T any](s *tensors, all ...T) T { return all[s.r.IntN(len(all))] }

// list is a number for each axis.
func (s *tensors) list(n int, low, high int64) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = s.between(low, high)
	}
	return all
}

// shape is one of some axes.
func (s *tensors) shape(least, most int64) []int64 {
	return s.list(int(s.between(least, most)), 1, 5)
}

// span makes an input, or a constant, of numbers between two: all different,
// evenly apart and none of them in the middle, so that no two tie and none is
// at the kink of a Relu.
func (s *tensors) span(low, high float64, shape ...int64) *grad.Value {
	n := 1
	for _, d := range shape {
		n *= int(d)
	}
	data := make([]float32, n)
	for i, k := range s.r.Perm(n) {
		data[i] = float32(low + (high-low)*(float64(k)+0.3)/float64(n))
	}
	var v *grad.Value
	switch {
	case len(s.data) > 0 && s.maybe():
		v = s.Constant(data, shape...)
	case len(shape) == 0:
		v = s.Input(fmt.Sprintf("x%d", len(s.data)), 1)
	default:
		v = s.Input(fmt.Sprintf("x%d", len(s.data)), shape...)
	}
	s.with, s.data[v] = append(s.with, v), data
	if len(shape) != len(v.Shape()) {
		return s.Reshape(v)
	}
	return v
}

// in makes an input or a constant of numbers around 0.
func (s *tensors) in(shape ...int64) *grad.Value { return s.span(-1, 1, shape...) }

// weighed is the loss of an output: its sum with random coefficients.
func (s *tensors) weighed(out *grad.Value) *grad.Value {
	coefficients := make([]float32, out.Len())
	for i := range coefficients {
		coefficients[i] = float32(s.r.Float64()*2 - 1)
	}
	return s.Total(s.Mul(out, s.Constant(coefficients, out.Shape()...)))
}

func toFloat64(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

// relativeError is the largest difference, relative to the largest number.
func relativeError(got, want []float64) float64 { return relativeErrorAtLeast(1e-3, got, want) }

// relativeErrorAtLeast is relative to at least scale.
func relativeErrorAtLeast(scale float64, got, want []float64) float64 {
	difference := 0.0
	for i, w := range want {
		if math.IsNaN(got[i]) {
			return math.Inf(1)
		}
		difference, scale = max(difference, math.Abs(got[i]-w)), max(scale, math.Abs(w))
	}
	return difference / scale
}

// compute computes values in ONNX Runtime.
func compute(tb testing.TB, b grad.Backend, s *tensors, outputs ...*grad.Value) ([][]float64, error) {
	tb.Helper()
	p, err := s.Compile(b, outputs...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	}()
	for i, v := range s.Inputs(outputs...) {
		copy(p.Input(i), s.data[v])
	}
	if err := p.Run(tb.Context()); err != nil {
		return nil, err
	}
	var all [][]float64
	for i := range outputs {
		all = append(all, toFloat64(p.Output(i)))
	}
	return all, nil
}

// worst are the largest errors that were met.
type worst struct {
	cases    int
	forward  float64 // ONNX Runtime's outputs against the interpreter's
	gradient float64 // ONNX Runtime's gradients against central differences
	formula  float64 // the interpreter's gradients, in float64, against them
}

func (w *worst) add(o worst) {
	w.cases += o.cases
	w.forward, w.gradient, w.formula = max(w.forward, o.forward), max(w.gradient, o.gradient), max(w.formula, o.formula)
}

func (w worst) String() string {
	return fmt.Sprintf("%4d cases, gradient off by at most %.1e (its formula in float64: %.1e), output by %.1e",
		w.cases, w.gradient, w.formula, w.forward)
}

const most = 16 // central differences for each tensor

// checkOperator holds the output and the gradients against the interpreter.
func checkOperator(tb testing.TB, b grad.Backend, s *tensors, out *grad.Value) (worst, error) {
	tb.Helper()
	loss := s.weighed(out)
	gradients, err := s.Gradient(loss, s.with...)
	if err != nil {
		return worst{}, err
	}
	got, err := compute(tb, b, s, append([]*grad.Value{out}, gradients...)...)
	if err != nil {
		return worst{}, fmt.Errorf("%w (%s)", err, strings.Join(s.Nodes(gradients...), " "))
	}
	feed := map[*grad.Value][]float64{}
	for v, data := range s.data {
		feed[v] = toFloat64(data)
	}
	exact := s.Interpret(feed, append([]*grad.Value{out}, gradients...)...)
	w := worst{cases: 1, forward: relativeError(got[0], exact[0])}
	for i, v := range s.with {
		x := feed[v]
		at := s.r.Perm(len(x))
		at = at[:min(most, len(at))]
		var differences, runtime, formula []float64
		for _, k := range at {
			const h = 1e-6
			was := x[k]
			x[k] = was + h
			high := s.Interpret(feed, loss)[0][0]
			x[k] = was - h
			low := s.Interpret(feed, loss)[0][0]
			x[k] = was
			differences = append(differences, (high-low)/(2*h))
			runtime, formula = append(runtime, got[1+i][k]), append(formula, exact[1+i][k])
		}
		w.gradient = max(w.gradient, relativeError(runtime, differences))
		w.formula = max(w.formula, relativeError(formula, differences))
	}
	return w, nil
}

type operatorCase struct {
	name  string
	cases int
	make  func(s *tensors) *grad.Value
}

// convolution draws a convolution's window over some spatial axes, and a size
// that it fits into.
func (s *tensors) convolution(rank int) (w grad.Window, kernel, size []int64) {
	w = grad.Window{
		Strides: s.list(rank, 1, 3), Dilations: s.list(rank, 1, 3), Pads: s.list(2*rank, 0, 3),
		Group: s.between(1, 3),
	}
	kernel = s.list(rank, 1, 3)
	for i, k := range kernel {
		fits := (k-1)*w.Dilations[i] + 1 - w.Pads[i] - w.Pads[i+rank]
		size = append(size, max(fits, 1)+s.between(0, int64(4-rank)+1))
		if w.Pads[i] > (k-1)*w.Dilations[i] { // some window leaves the padding
			size[i] = max(size[i], 4)
		}
	}
	switch s.r.IntN(4) {
	case 0:
		w.Pads = nil
		for i, k := range kernel {
			size[i] = max(size[i], (k-1)*w.Dilations[i]+1)
		}
	case 1:
		w.Strides = nil
	case 2:
		w.Dilations = nil
	}
	return w, kernel, size
}

func attributesOf(w grad.Window) map[string]any {
	a := map[string]any{}
	for name, list := range map[string][]int64{
		"kernel_shape": w.Kernel, "strides": w.Strides, "dilations": w.Dilations, "pads": w.Pads,
	} {
		if list != nil {
			a[name] = list
		}
	}
	return a
}

// pooling draws a pooling: its attributes and a size that it fits into.
func (s *tensors) pooling(dilated bool) (attrs map[string]any, shape []int64) {
	rank := int(s.between(1, 3))
	w := grad.Window{Kernel: s.list(rank, 1, 4-int64(rank)/2), Strides: s.list(rank, 1, 3), Pads: make([]int64, 2*rank)}
	if dilated && s.maybe() {
		w.Dilations = s.list(rank, 1, 2)
	}
	shape = []int64{s.between(1, 2), s.between(1, 3)}
	for i, k := range w.Kernel {
		extent := k
		if w.Dilations != nil {
			extent = (k-1)*w.Dilations[i] + 1
		}
		w.Pads[i], w.Pads[i+rank] = s.between(0, k-1), s.between(0, k-1)
		shape = append(shape, max(extent-min(w.Pads[i], w.Pads[i+rank]), 1)+s.between(0, 5-int64(rank)))
	}
	attrs = attributesOf(w)
	if s.r.IntN(4) == 0 { // side by side
		attrs["strides"] = w.Kernel
		delete(attrs, "pads")
		delete(attrs, "dilations")
		for i, k := range w.Kernel {
			shape[2+i] = k*s.between(1, 2) + s.between(0, k-1)
		}
	}
	return attrs, shape
}

func (s *tensors) conv(rank int, group func(w *grad.Window) (perGroup, out int64)) *grad.Value {
	w, kernel, size := s.convolution(rank)
	perGroup, out := group(&w)
	x := s.in(slices.Concat([]int64{s.between(1, 3), perGroup * w.Group}, size)...)
	weights := s.in(slices.Concat([]int64{out * w.Group, perGroup}, kernel)...)
	var bias *grad.Value
	if s.maybe() {
		bias = s.in(out * w.Group)
	}
	return s.Conv(x, weights, bias, w)
}

func (s *tensors) anyGroup(*grad.Window) (int64, int64) { return s.between(1, 3), s.between(1, 3) }

func (s *tensors) depthwise(w *grad.Window) (int64, int64) {
	w.Group = s.between(2, 5)
	return 1, s.between(1, 2)
}

// repeats draws a shape that is repeated to another.
func (s *tensors) repeats(shape []int64) []int64 {
	shape = slices.Clone(shape[s.r.IntN(len(shape)+1):])
	for i := range shape {
		if s.r.IntN(3) == 0 {
			shape[i] = 1
		}
	}
	return shape
}

func (s *tensors) axis(rank int) int64 { return s.between(int64(-rank), int64(rank)-1) }

// arithmetic draws two operands; the second may be kept away from 0.
func (s *tensors) arithmetic(op string, low, high float64) *grad.Value {
	shape := s.shape(1, 4)
	a, b := s.in(shape...), s.span(low, high, s.repeats(shape)...)
	if op != "Div" && s.maybe() {
		a, b = b, a
	} else if op != "Div" && s.r.IntN(6) == 0 {
		b = a
	}
	return s.Apply(op, nil, a, b)
}

func elementwise(op string, low, high float64) operatorCase {
	return operatorCase{op, 4, func(s *tensors) *grad.Value { return s.Apply(op, nil, s.span(low, high, s.shape(0, 4)...)) }}
}

func reduction(op string) operatorCase {
	return operatorCase{op, 12, func(s *tensors) *grad.Value {
		x := s.in(s.shape(1, 4)...)
		rank := len(x.Shape())
		attrs := map[string]any{"keepdims": s.between(0, 1)}
		if s.r.IntN(4) == 0 {
			return s.Apply(op, attrs, x)
		}
		var axes []int64
		for _, a := range s.r.Perm(rank)[:s.between(1, int64(rank))] {
			axes = append(axes, int64(a-rank*s.r.IntN(2)))
		}
		return s.Apply(op, attrs, x, s.Integers(axes...))
	}}
}

// operators are all that have a gradient.
func operators() []operatorCase {
	return []operatorCase{
		{"Conv 1-D", 24, func(s *tensors) *grad.Value { return s.conv(1, s.anyGroup) }},
		{"Conv 2-D", 32, func(s *tensors) *grad.Value { return s.conv(2, s.anyGroup) }},
		{"Conv 3-D", 16, func(s *tensors) *grad.Value { return s.conv(3, s.anyGroup) }},
		{"Conv depthwise", 24, func(s *tensors) *grad.Value { return s.conv(int(s.between(1, 3)), s.depthwise) }},
		{"Conv pointwise", 8, func(s *tensors) *grad.Value {
			x := s.in(slices.Concat([]int64{s.between(1, 3), 4}, s.list(2, 1, 4))...)
			return s.Conv(x, s.in(3, 4, 1, 1), nil, grad.Window{Strides: s.list(2, 1, s.between(1, 2))})
		}},
		{"ConvTranspose", 48, func(s *tensors) *grad.Value {
			w, kernel, size := s.convolution(int(s.between(1, 3)))
			attrs := attributesOf(w)
			attrs["group"] = w.Group
			var rest []int64
			for i, k := range kernel {
				stride, dilation := int64(1), int64(1)
				if w.Strides != nil {
					stride = w.Strides[i]
				}
				if w.Dilations != nil {
					dilation = w.Dilations[i]
				}
				rest = append(rest, s.between(0, stride-1))
				if w.Pads != nil { // something must be left
					for (size[i]-1)*stride+(k-1)*dilation+1+rest[i] <= w.Pads[i]+w.Pads[i+len(kernel)] {
						size[i]++
					}
				}
			}
			if s.maybe() {
				attrs["output_padding"] = rest
			} else if w.Pads != nil {
				for i := range size {
					size[i] += 2
				}
			}
			perGroup, out := s.between(1, 2), s.between(1, 2)
			inputs := []*grad.Value{
				s.in(slices.Concat([]int64{s.between(1, 2), perGroup * w.Group}, size)...),
				s.in(slices.Concat([]int64{perGroup * w.Group, out}, kernel)...),
			}
			if s.maybe() {
				inputs = append(inputs, s.in(out*w.Group))
			}
			return s.Apply("ConvTranspose", attrs, inputs...)
		}},
		{"MaxPool", 48, func(s *tensors) *grad.Value {
			attrs, shape := s.pooling(true)
			return s.Apply("MaxPool", attrs, s.in(shape...))
		}},
		{"AveragePool", 64, func(s *tensors) *grad.Value {
			attrs, shape := s.pooling(false)
			attrs["count_include_pad"] = s.between(0, 1)
			return s.Apply("AveragePool", attrs, s.in(shape...))
		}},
		{"GlobalAveragePool", 6, func(s *tensors) *grad.Value { return s.GlobalAveragePool(s.in(s.shape(3, 5)...)) }},
		{"BatchNormalization", 8, func(s *tensors) *grad.Value {
			x := s.in(s.shape(2, 5)...)
			c := x.Dim(1)
			mean, variance := s.in(c), s.span(0.5, 2, c)
			s.with = s.with[:1]
			return s.BatchNorm(x, s.in(c), s.in(c), mean, variance, 1e-3)
		}},
		{"BatchNormalization training", 12, func(s *tensors) *grad.Value {
			shape := slices.Concat([]int64{s.between(3, 5), s.between(1, 4)}, s.list(int(s.between(0, 3)), 2, 3))
			c := shape[1]
			y, mean, variance := s.BatchNormTraining(s.in(shape...), s.in(c), s.in(c), 1e-3)
			if s.maybe() { // the statistics count as well
				y = s.Add(s.Mul(y, y), s.Total(s.Mul(mean, variance)))
			}
			return y
		}},
		elementwise("Relu", -1, 1), elementwise("LeakyRelu", -1, 1), elementwise("Sigmoid", -4, 4),
		elementwise("Sqrt", 0.2, 3), elementwise("Exp", -2, 2), elementwise("Log", 0.2, 3), elementwise("Neg", -1, 1),
		elementwise("Identity", -1, 1),
		{"LeakyRelu alpha", 3, func(s *tensors) *grad.Value { return s.LeakyRelu(s.in(3, 4), s.r.Float64()) }},
		{"PRelu", 8, func(s *tensors) *grad.Value {
			shape := s.shape(0, 4)
			return s.PRelu(s.in(shape...), s.span(0, 0.5, s.repeats(shape)...))
		}},
		{"Clip", 8, func(s *tensors) *grad.Value {
			x := s.in(s.shape(0, 4)...)
			low, high := s.Constant([]float32{-0.51}), s.Constant([]float32{0.423})
			switch s.r.IntN(4) {
			case 0:
				return s.Apply("Clip", nil, x)
			case 1:
				return s.Apply("Clip", nil, x, low)
			case 2:
				return s.Apply("Clip", nil, x, nil, high)
			}
			return s.Apply("Clip", nil, x, low, high)
		}},
		{"Add", 10, func(s *tensors) *grad.Value { return s.arithmetic("Add", -1, 1) }},
		{"Sub", 10, func(s *tensors) *grad.Value { return s.arithmetic("Sub", -1, 1) }},
		{"Mul", 10, func(s *tensors) *grad.Value { return s.arithmetic("Mul", -1, 1) }},
		{"Div", 10, func(s *tensors) *grad.Value { return s.arithmetic("Div", 0.5, 2) }},
		{"Div by a larger", 6, func(s *tensors) *grad.Value {
			shape := s.shape(1, 4)
			return s.Div(s.in(s.repeats(shape)...), s.span(-2, -0.5, shape...))
		}},
		{"Sum", 6, func(s *tensors) *grad.Value {
			shape := s.shape(1, 4)
			all := []*grad.Value{s.in(shape...)}
			for range s.between(0, 3) {
				all = append(all, s.in(s.repeats(shape)...))
			}
			return s.Apply("Sum", nil, append(all, all[0])...)
		}},
		{"MatMul", 16, func(s *tensors) *grad.Value {
			batch := s.shape(0, 2)
			m, k, n := s.between(1, 4), s.between(1, 4), s.between(1, 4)
			ba, bb := batch, s.repeats(batch)
			if s.maybe() {
				ba, bb = bb, ba
			}
			return s.MatMul(s.in(slices.Concat(ba, []int64{m, k})...), s.in(slices.Concat(bb, []int64{k, n})...))
		}},
		{"MatMul of itself", 2, func(s *tensors) *grad.Value {
			x := s.in(2, 3, 3)
			return s.MatMul(x, x)
		}},
		{"Gemm", 20, func(s *tensors) *grad.Value {
			m, k, n := s.between(1, 4), s.between(1, 4), s.between(1, 4)
			attrs := map[string]any{"transA": s.between(0, 1), "transB": s.between(0, 1), "alpha": float32(1.3), "beta": float32(-0.7)}
			a, b := []int64{m, k}, []int64{k, n}
			if attrs["transA"] == int64(1) {
				slices.Reverse(a)
			}
			if attrs["transB"] == int64(1) {
				slices.Reverse(b)
			}
			inputs := []*grad.Value{s.in(a...), s.in(b...)}
			if s.maybe() {
				inputs = append(inputs, s.in(pick(s, []int64{}, []int64{n}, []int64{1}, []int64{m, 1}, []int64{1, n}, []int64{m, n})...))
			}
			return s.Apply("Gemm", attrs, inputs...)
		}},
		{"Gemm of itself", 8, func(s *tensors) *grad.Value {
			n := s.between(2, 4)
			x := s.in(n, n)
			return s.Apply("Gemm", map[string]any{"transA": s.between(0, 1), "transB": s.between(0, 1), "alpha": float32(0.4)}, x, x)
		}},
		{"Gram", 6, func(s *tensors) *grad.Value {
			return s.Gram(s.in(slices.Concat([]int64{1, s.between(1, 5)}, s.list(int(s.between(1, 3)), 1, 4))...))
		}},
		{"Softmax", 8, func(s *tensors) *grad.Value {
			x := s.span(-2, 2, s.shape(1, 4)...)
			return s.Softmax(x, int(s.axis(len(x.Shape()))))
		}},
		{"LpNormalization", 8, func(s *tensors) *grad.Value {
			x := s.in(s.shape(1, 4)...)
			return s.Normalize(x, int(s.axis(len(x.Shape()))))
		}},
		reduction("ReduceSum"), reduction("ReduceMean"), reduction("ReduceSumSquare"), reduction("ReduceL2"),
		{"Concat", 10, func(s *tensors) *grad.Value {
			shape := s.shape(1, 4)
			axis := s.axis(len(shape))
			var all []*grad.Value
			for range s.between(1, 4) {
				each := slices.Clone(shape)
				each[(axis+int64(len(shape)))%int64(len(shape))] = s.between(1, 4)
				all = append(all, s.in(each...))
			}
			return s.Concat(int(axis), append(all, all[0])...)
		}},
		{"Slice", 48, func(s *tensors) *grad.Value {
			shape := s.shape(1, 4)
			rank := len(shape)
			var starts, ends, axes, steps []int64
			for _, a := range s.r.Perm(rank)[:s.between(1, int64(rank))] {
				start, end := s.between(0, shape[a]-1), s.between(0, shape[a]-1)
				step := s.between(1, 3)
				if start > end {
					step = -step
				}
				last := end + 1 // the number after the last
				if step < 0 {
					if last = end - 1; last < 0 {
						last = pick(s, -shape[a]-1, math.MinInt64, math.MinInt64+1)
					}
				} else if last == shape[a] && s.maybe() {
					last = math.MaxInt64
				}
				if s.maybe() {
					start -= shape[a]
				}
				starts, ends, steps = append(starts, start), append(ends, last), append(steps, step)
				axes = append(axes, int64(a-rank*s.r.IntN(2)))
			}
			return s.Apply("Slice", nil, s.in(shape...), s.Integers(starts...), s.Integers(ends...), s.Integers(axes...), s.Integers(steps...))
		}},
		{"Slice builder", 4, func(s *tensors) *grad.Value { return s.Slice(s.in(3, 5), 1, 1, pick(s, int64(4), -1, 100)) }},
		{"Pad", 48, func(s *tensors) *grad.Value {
			mode := pick(s, "constant", "edge", "reflect")
			shape := s.list(int(s.between(1, 4)), 1, 4)
			pads := make([]int64, 2*len(shape))
			for i := range pads {
				size := shape[i%len(shape)]
				switch mode {
				case "constant":
					pads[i] = s.between(-((size - 1) / 2), 2)
				case "edge":
					pads[i] = s.between(0, 3)
				case "reflect":
					pads[i] = s.between(0, size-1)
				}
			}
			return s.Pad(s.in(shape...), mode, pads...)
		}},
		{"Gather", 16, func(s *tensors) *grad.Value {
			x := s.in(s.shape(1, 4)...)
			axis := s.axis(len(x.Shape()))
			size := x.Dim(int(axis+int64(len(x.Shape()))) % len(x.Shape()))
			return s.Apply("Gather", map[string]any{"axis": axis}, x, s.Integers(s.list(int(s.between(1, 5)), -size, size-1)...))
		}},
		{"Resize up by whole times", 8, func(s *tensors) *grad.Value {
			times := s.list(int(s.between(1, 3)), 1, 3)
			return s.Enlarge(s.in(slices.Concat([]int64{2, 2}, s.list(len(times), 1, 3))...), times...)
		}},
		{"Resize", 96, func(s *tensors) *grad.Value {
			shape := s.list(int(s.between(1, 4)), 1, 5)
			sizes := s.list(len(shape), 1, 7)
			if len(shape) > 2 && s.maybe() {
				sizes[0], sizes[1] = shape[0], shape[1]
			}
			return s.Apply("Resize", map[string]any{
				"mode":                           "nearest",
				"coordinate_transformation_mode": pick(s, "half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
				"nearest_mode":                   pick(s, "floor", "ceil", "round_prefer_floor", "round_prefer_ceil"),
			}, s.in(shape...), nil, nil, s.Integers(sizes...))
		}},
		{"Reshape", 4, func(s *tensors) *grad.Value {
			return s.Reshape(s.in(2, 3, 4), pick(s, []int64{-1}, []int64{4, -1}, []int64{0, 12}, []int64{24, 1, 1})...)
		}},
		{"Reshape to none", 2, func(s *tensors) *grad.Value { return s.Reshape(s.in(1, 1)) }},
		{"Flatten", 5, func(s *tensors) *grad.Value {
			return s.Apply("Flatten", map[string]any{"axis": s.between(-3, 3)}, s.in(2, 3, 4))
		}},
		{"Transpose", 8, func(s *tensors) *grad.Value {
			x := s.in(s.shape(1, 5)...)
			if s.r.IntN(4) == 0 {
				return s.Apply("Transpose", nil, x)
			}
			var perm []int64
			for _, a := range s.r.Perm(len(x.Shape())) {
				perm = append(perm, int64(a))
			}
			return s.Transpose(x, perm...)
		}},
		{"Expand", 8, func(s *tensors) *grad.Value {
			shape := s.shape(1, 4)
			return s.Expand(s.in(s.repeats(shape)...), shape...)
		}},
		{"a gradient's own gradient", 6, func(s *tensors) *grad.Value {
			x, w := s.in(1, 2, 5, 4), s.in(3, 2, 3, 3)
			y := s.Sigmoid(s.Conv(x, w, nil, grad.Window{Strides: []int64{2, 1}, Pads: []int64{1, 0, 0, 1}}))
			d, err := s.Gradient(s.SumSquares(y), x)
			if err != nil {
				panic(err)
			}
			return s.Add(d[0], x)
		}},
	}
}

// The gradient of every operator, computed by ONNX Runtime in float32, is what
// central differences of plain loops in float64 say.
func TestGradients(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	all := operators()
	results := make([]worst, len(all))
	t.Run("operators", func(t *testing.T) {
		for i, op := range all {
			t.Run(op.name, func(t *testing.T) {
				t.Parallel()
				for seed := range uint64(op.cases) {
					s := newTensors(seed)
					out := op.make(s)
					w, err := checkOperator(t, b, s, out)
					if err != nil {
						t.Errorf("case %d: %v: %v", seed, s.Describe(), err)
						continue
					}
					if w.gradient > 1e-3 || w.formula > 1e-6 || w.forward > 1e-5 {
						t.Errorf("case %d: %v: %v", seed, s.Describe(), w)
					}
					results[i].add(w)
				}
			})
		}
	})
	var total worst
	for i, op := range all {
		t.Logf("%-27s %v", op.name, results[i])
		total.add(results[i])
	}
	t.Logf("%-27s %v", "worst over all operators", total)
}
