package grad

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// Apply adds any operator: for tests, which know more than the builder says.
func (g *Graph) Apply(op string, attrs map[string]any, inputs ...*Value) *Value {
	return g.apply(op, attrs, inputs...)
}

// Integers adds a constant list of int64.
func (g *Graph) Integers(list ...int64) *Value { return g.integers(list...) }

// Describe says what the first operator is.
func (g *Graph) Describe() string {
	if len(g.nodes) == 0 {
		return "nothing"
	}
	n := g.nodes[0]
	text := fmt.Sprintf("%s %v", n.op, n.attrs)
	for _, v := range n.inputs {
		if v != nil {
			text += fmt.Sprint(" ", v.shape, v.ints)
		}
	}
	return text
}

// Nodes are the operators of what computes some values.
func (g *Graph) Nodes(of ...*Value) []string {
	used := g.used(g.nodes, of)
	var ops []string
	for _, n := range g.nodes {
		if used[n.outputs[0]] {
			ops = append(ops, n.op)
		}
	}
	return ops
}

// Interpret computes values in float64 by plain loops, after the text of the
// ONNX standard: what the runtime and the gradients are held against. feed
// gives the inputs, and may stand for constants.
func (g *Graph) Interpret(feed map[*Value][]float64, want ...*Value) [][]float64 {
	p := plain(maps.Clone(feed))
	used := g.used(g.nodes, want)
	for _, n := range g.nodes {
		if !slices.ContainsFunc(n.outputs, func(v *Value) bool { return used[v] }) {
			continue
		}
		for i, data := range p.run(n) {
			if int64(len(data)) != elements(n.outputs[i].shape) {
				panic(fmt.Sprintf("%s (%s): %d numbers for the shape %v", n.name, n.op, len(data), n.outputs[i].shape))
			}
			p[n.outputs[i]] = data
		}
	}
	var out [][]float64
	for _, v := range want {
		out = append(out, p.of(v))
	}
	return out
}

// plain are the values that are known.
type plain map[*Value][]float64

func (p plain) of(v *Value) []float64 {
	if data, ok := p[v]; ok {
		return data
	}
	data := make([]float64, 0, len(v.floats)+len(v.ints))
	for _, x := range v.floats {
		data = append(data, float64(x))
	}
	for _, x := range v.ints {
		data = append(data, float64(x))
	}
	p[v] = data
	return data
}

// integers are integers; nil for an input that is left out.
func (p plain) integers(n *node, i int) []int64 {
	if i >= len(n.inputs) || n.inputs[i] == nil {
		return nil
	}
	var list []int64
	for _, x := range p.of(n.inputs[i]) {
		list = append(list, int64(x))
	}
	return list
}

// positions are all indices of a shape, row-major.
func positions(shape []int64, visit func(at int, index []int64)) {
	index := make([]int64, len(shape))
	for at := range int(elements(shape)) {
		visit(at, index)
		for i := len(shape) - 1; i >= 0; i-- {
			if index[i]++; index[i] < shape[i] {
				break
			}
			index[i] = 0
		}
	}
}

// offset is where an index is; axes of size 1 are repeated, and missing ones
// in front left out.
func offset(shape, index []int64) int64 {
	at := int64(0)
	index = index[len(index)-len(shape):]
	for i, d := range shape {
		if d > 1 {
			at = at*d + index[i]
		}
	}
	return at
}

// gatherFrom computes every number of an output from the place that it comes from.
func gatherFrom(n *node, x []float64, from func(index []int64) (source []int64, inside bool)) []float64 {
	out := make([]float64, elements(n.outputs[0].shape))
	positions(n.outputs[0].shape, func(at int, index []int64) {
		source, inside := from(index)
		if inside {
			out[at] = x[offset(n.inputs[0].shape, source)]
		}
	})
	return out
}

func mapEach(x []float64, f func(float64) float64) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = f(v)
	}
	return out
}

func (p plain) repeated(v *Value, shape []int64) []float64 {
	x := p.of(v)
	if slices.Equal(v.shape, shape) {
		return x
	}
	out := make([]float64, elements(shape))
	positions(shape, func(at int, index []int64) { out[at] = x[offset(v.shape, index)] })
	return out
}

func (p plain) run(n *node) [][]float64 {
	x := p.of(n.inputs[0])
	in, out := n.inputs[0].shape, n.outputs[0].shape
	var y []float64
	switch n.op {
	case "Identity", "Reshape", "Flatten":
		y = x
	case "Relu":
		y = mapEach(x, func(v float64) float64 { return max(v, 0) })
	case "LeakyRelu":
		alpha := float64(n.attrs.float("alpha", 0.01))
		y = mapEach(x, func(v float64) float64 {
			if v < 0 {
				return alpha * v
			}
			return v
		})
	case "Sigmoid":
		y = mapEach(x, func(v float64) float64 { return 1 / (1 + math.Exp(-v)) })
	case "HardSigmoid":
		alpha, beta := float64(n.attrs.float("alpha", 0.2)), float64(n.attrs.float("beta", 0.5))
		y = mapEach(x, func(v float64) float64 { return max(0, min(1, alpha*v+beta)) })
	case "Sqrt":
		y = mapEach(x, math.Sqrt)
	case "Exp":
		y = mapEach(x, math.Exp)
	case "Log":
		y = mapEach(x, math.Log)
	case "Neg":
		y = mapEach(x, func(v float64) float64 { return -v })
	case "Clip":
		low, high := math.Inf(-1), math.Inf(1)
		if len(n.inputs) > 1 && n.inputs[1] != nil {
			low = p.of(n.inputs[1])[0]
		}
		if len(n.inputs) > 2 && n.inputs[2] != nil {
			high = p.of(n.inputs[2])[0]
		}
		y = mapEach(x, func(v float64) float64 { return min(max(v, low), high) })
	case "PRelu", "Add", "Sub", "Mul", "Div", "Sum":
		y = slices.Clone(p.repeated(n.inputs[0], out))
		for _, v := range n.inputs[1:] {
			for i, b := range p.repeated(v, out) {
				switch n.op {
				case "Add", "Sum":
					y[i] += b
				case "Sub":
					y[i] -= b
				case "Mul":
					y[i] *= b
				case "Div":
					y[i] /= b
				case "PRelu":
					if y[i] < 0 {
						y[i] *= b
					}
				}
			}
		}
	case "MatMul", "Gemm":
		y = p.product(n)
	case "Softmax", "LpNormalization":
		y = normalised(n, x)
	case "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2":
		y = p.reduced(n)
	case "Expand":
		y = p.repeated(n.inputs[0], out)
	case "Transpose":
		perm := n.attrs.ints("perm")
		y = gatherFrom(n, x, func(index []int64) ([]int64, bool) {
			source := make([]int64, len(in))
			for i := range in {
				if perm == nil {
					source[len(in)-1-i] = index[i]
				} else {
					source[perm[i]] = index[i]
				}
			}
			return source, true
		})
	case "Concat":
		axis := (n.attrs.int("axis", 0) + int64(len(in))) % int64(len(in))
		y = make([]float64, elements(out))
		begin := int64(0)
		for _, v := range n.inputs {
			data := p.of(v)
			positions(v.shape, func(at int, index []int64) {
				to := slices.Clone(index)
				to[axis] += begin
				y[offset(out, to)] = data[at]
			})
			begin += v.shape[axis]
		}
	case "Slice":
		y = p.slice(n)
	case "Pad":
		pads, mode := p.integers(n, 1), n.attrs.str("mode", "constant")
		y = gatherFrom(n, x, func(index []int64) ([]int64, bool) {
			source, inside := make([]int64, len(in)), true
			for i, size := range in {
				at := index[i] - pads[i]
				switch {
				case mode == "edge":
					at = max(0, min(at, size-1))
				case mode == "reflect" && at < 0:
					at = -at
				case mode == "reflect" && at >= size:
					at = 2*(size-1) - at
				}
				source[i], inside = at, inside && at >= 0 && at < size
			}
			return source, inside
		})
	case "Gather":
		axis := (n.attrs.int("axis", 0) + int64(len(in))) % int64(len(in))
		indices, shape := p.integers(n, 1), n.inputs[1].shape
		y = gatherFrom(n, x, func(index []int64) ([]int64, bool) {
			pick := indices[offset(shape, index[axis:axis+int64(len(shape))])]
			if pick < 0 {
				pick += in[axis]
			}
			return slices.Concat(index[:axis], []int64{pick}, index[axis+int64(len(shape)):]), true
		})
	case "Resize":
		y = gatherFrom(n, x, func(index []int64) ([]int64, bool) {
			source := make([]int64, len(in))
			for i := range in {
				source[i] = nearestOf(n, index[i], in[i], out[i])
			}
			return source, true
		})
	case "ScatterElements":
		axis := n.attrs.int("axis", 0)
		y = slices.Clone(x)
		indices, updates := p.of(n.inputs[1]), p.of(n.inputs[2])
		positions(n.inputs[2].shape, func(at int, index []int64) {
			to := slices.Clone(index)
			to[axis] = int64(indices[at])
			y[offset(out, to)] += updates[at]
		})
	case "BatchNormalization":
		scale, bias, mean, variance := p.of(n.inputs[1]), p.of(n.inputs[2]), p.of(n.inputs[3]), p.of(n.inputs[4])
		eps := float64(n.attrs.float("epsilon", 1e-5))
		area := elements(in[2:])
		y = make([]float64, len(x))
		for i := range y {
			c := int64(i) / area % in[1]
			y[i] = scale[c]*(x[i]-mean[c])/math.Sqrt(variance[c]+eps) + bias[c]
		}
	case "GlobalAveragePool":
		y = make([]float64, elements(out))
		area := len(x) / len(y)
		for i, v := range x {
			y[i/area] += v / float64(area)
		}
	case "MaxPool":
		return maxPool(n, x)
	case "AveragePool":
		y = averagePool(n, x)
	case "Conv":
		y = p.convolution(n)
	case "ConvTranspose":
		y = p.transposedConvolution(n)
	default:
		panic("no interpretation of " + n.op)
	}
	return [][]float64{y}
}

func (p plain) product(n *node) []float64 {
	a, b := p.of(n.inputs[0]), p.of(n.inputs[1])
	sa, sb, out := n.inputs[0].shape, n.inputs[1].shape, n.outputs[0].shape
	ta, tb := n.attrs.int("transA", 0) != 0, n.attrs.int("transB", 0) != 0
	inner := sa[len(sa)-1]
	if ta {
		inner = sa[0]
	}
	y := make([]float64, elements(out))
	var addend []float64
	if len(n.inputs) > 2 && n.inputs[2] != nil {
		addend = p.repeated(n.inputs[2], out)
	}
	positions(out, func(at int, index []int64) {
		row, column := slices.Clone(index), slices.Clone(index)
		last := len(index) - 1
		for k := range inner {
			row[last-1], row[last] = index[last-1], k
			if ta {
				row[0], row[1] = k, index[0]
			}
			column[last-1], column[last] = k, index[last]
			if tb {
				column[0], column[1] = index[1], k
			}
			y[at] += a[offset(sa, row)] * b[offset(sb, column)]
		}
		y[at] *= float64(n.attrs.float("alpha", 1))
		if addend != nil {
			y[at] += float64(n.attrs.float("beta", 1)) * addend[at]
		}
	})
	return y
}

// normalised does Softmax and LpNormalization along an axis.
func normalised(n *node, x []float64) []float64 {
	shape := n.inputs[0].shape
	axis := n.attrs.int("axis", -1)
	if axis < 0 {
		axis += int64(len(shape))
	}
	size, inner := shape[axis], elements(shape[axis+1:])
	y := make([]float64, len(x))
	for i := range x {
		k := int64(i) / inner % size
		first := int64(i) - k*inner
		var sum, top float64
		for j := range size {
			top = max(top, x[first+j*inner])
		}
		for j := range size {
			v := x[first+j*inner]
			if n.op == "Softmax" {
				sum += math.Exp(v - top)
			} else {
				sum += v * v
			}
		}
		if n.op == "Softmax" {
			y[i] = math.Exp(x[i]-top) / sum
		} else {
			y[i] = x[i] / math.Sqrt(sum)
		}
	}
	return y
}

func (p plain) reduced(n *node) []float64 {
	in, axes := n.inputs[0].shape, p.integers(n, 1)
	kept := slices.Clone(in)
	for i := range in {
		if axes == nil || slices.Contains(axes, int64(i)) || slices.Contains(axes, int64(i-len(in))) {
			kept[i] = 1
		}
	}
	y := make([]float64, elements(kept))
	x := p.of(n.inputs[0])
	positions(in, func(at int, index []int64) {
		v := x[at]
		switch n.op {
		case "ReduceSumSquare", "ReduceL2":
			v *= v
		case "ReduceMean":
			v *= float64(len(y)) / float64(len(x))
		}
		y[offset(kept, index)] += v
	})
	if n.op == "ReduceL2" {
		y = mapEach(y, math.Sqrt)
	}
	return y
}

func (p plain) slice(n *node) []float64 {
	in := n.inputs[0].shape
	start, step := make([]int64, len(in)), slices.Repeat([]int64{1}, len(in))
	starts, axes, steps := p.integers(n, 1), p.integers(n, 3), p.integers(n, 4)
	for i, s := range starts {
		axis := int64(i)
		if axes != nil {
			axis = (axes[i] + int64(len(in))) % int64(len(in))
		}
		if steps != nil {
			step[axis] = steps[i]
		}
		if s < 0 {
			s += in[axis]
		}
		if start[axis] = max(0, min(s, in[axis])); step[axis] < 0 {
			start[axis] = max(0, min(s, in[axis]-1))
		}
	}
	return gatherFrom(n, p.of(n.inputs[0]), func(index []int64) ([]int64, bool) {
		source := make([]int64, len(in))
		for i := range in {
			source[i] = start[i] + index[i]*step[i]
		}
		return source, true
	})
}

// nearestOf is the number of an axis that a Resize takes for the i-th. It
// counts in float32, as runtimes do: at exact halves it matters.
func nearestOf(n *node, i, from, to int64) int64 {
	scale := float32(to) / float32(from)
	at := float32(i) / scale
	switch n.attrs.str("coordinate_transformation_mode", "half_pixel") {
	case "half_pixel":
		at = (float32(i)+0.5)/scale - 0.5
	case "pytorch_half_pixel":
		if at = 0; to > 1 {
			at = (float32(i)+0.5)/scale - 0.5
		}
	case "align_corners":
		if at = 0; to > 1 {
			at = float32(i) * float32(from-1) / float32(to-1)
		}
	}
	whole := math.Floor(float64(at))
	switch part := float64(at) - whole; n.attrs.str("nearest_mode", "round_prefer_floor") {
	case "round_prefer_floor":
		if part > 0.5 {
			whole++
		}
	case "round_prefer_ceil":
		if part >= 0.5 {
			whole++
		}
	case "ceil":
		if part > 0 {
			whole++
		}
	}
	return max(0, min(int64(whole), from-1))
}

// What a kernel position meets.
const (
	padding = -1
	nothing = -2 // beyond the padding, where rounding up has put the window
)

// kernelPositions says for each place of the windows, and each kernel position, which
// number of the (spatial) input is met.
func kernelPositions(n *node, kernel, in, places []int64) [][]int {
	rank := len(kernel)
	ones := slices.Repeat([]int64{1}, rank)
	or := func(name string, otherwise []int64) []int64 {
		if list := n.attrs.ints(name); list != nil {
			return list
		}
		return otherwise
	}
	strides, dilations := or("strides", ones), or("dilations", ones)
	pads := slices.Clone(or("pads", make([]int64, 2*rank)))
	for i := range rank {
		switch auto := n.attrs.str("auto_pad", "NOTSET"); auto {
		case "VALID":
			pads[i], pads[i+rank] = 0, 0
		case "SAME_UPPER", "SAME_LOWER":
			total := max(0, (places[i]-1)*strides[i]+(kernel[i]-1)*dilations[i]+1-in[i])
			pads[i] = total / 2
			if auto == "SAME_LOWER" {
				pads[i] = total - total/2
			}
			pads[i+rank] = total - pads[i]
		}
	}
	all := make([][]int, elements(places))
	positions(places, func(place int, index []int64) {
		index = slices.Clone(index)
		positions(kernel, func(_ int, k []int64) {
			at := int64(0)
			for i := range rank {
				x := index[i]*strides[i] - pads[i] + k[i]*dilations[i]
				switch {
				case x >= in[i]+pads[i+rank]:
					at = nothing
				case at == nothing:
				case x < 0 || x >= in[i]:
					at = padding
				case at >= 0:
					at = at*in[i] + x
				}
			}
			all[place] = append(all[place], int(at))
		})
	})
	return all
}

func (p plain) convolution(n *node) []float64 {
	x, w := p.of(n.inputs[0]), p.of(n.inputs[1])
	in, shape, out := n.inputs[0].shape, n.inputs[1].shape, n.outputs[0].shape
	windows := kernelPositions(n, shape[2:], in[2:], out[2:])
	area, size := int(elements(in[2:])), int(elements(shape[2:]))
	perGroup, outGroup := int(shape[1]), int(shape[0]/n.attrs.int("group", 1))
	channels, outs := int(in[1]), int(out[1])
	y := make([]float64, 0, elements(out))
	for b := range int(in[0]) {
		for o := range outs {
			bias := 0.0
			if len(n.inputs) > 2 && n.inputs[2] != nil {
				bias = p.of(n.inputs[2])[o]
			}
			for _, window := range windows {
				sum := bias
				for c := range perGroup {
					plane := x[(b*channels+o/outGroup*perGroup+c)*area:][:area]
					kernel := w[(o*perGroup+c)*size:][:size]
					for k, at := range window {
						if at >= 0 {
							sum += plane[at] * kernel[k]
						}
					}
				}
				y = append(y, sum)
			}
		}
	}
	return y
}

func (p plain) transposedConvolution(n *node) []float64 {
	x, w := p.of(n.inputs[0]), p.of(n.inputs[1])
	in, shape, out := n.inputs[0].shape, n.inputs[1].shape, n.outputs[0].shape
	windows := kernelPositions(n, shape[2:], out[2:], in[2:]) // each number of x is a window of y
	area, size := int(elements(out[2:])), int(elements(shape[2:]))
	group := int(n.attrs.int("group", 1))
	channels, outGroup := int(in[1]), int(shape[1])
	y := make([]float64, elements(out))
	for b := range int(in[0]) {
		for c := range channels {
			for o := range outGroup {
				plane := y[((b*group+c/(channels/group))*outGroup+o)*area:][:area]
				kernel := w[(c*outGroup+o)*size:][:size]
				for place, window := range windows {
					for k, at := range window {
						if at >= 0 {
							plane[at] += x[(b*channels+c)*len(windows)+place] * kernel[k]
						}
					}
				}
			}
		}
	}
	if len(n.inputs) > 2 && n.inputs[2] != nil {
		for i := range y {
			y[i] += p.of(n.inputs[2])[i/area%int(out[1])]
		}
	}
	return y
}

// maxPool does MaxPool, with indices that count over the whole tensor.
func maxPool(n *node, x []float64) [][]float64 {
	in, out := n.inputs[0].shape, n.outputs[0].shape
	windows, area := kernelPositions(n, n.attrs.ints("kernel_shape"), in[2:], out[2:]), int(elements(in[2:]))
	var y, indices []float64
	for plane := range int(in[0] * in[1]) {
		for _, window := range windows {
			best, index := math.Inf(-1), 0
			for _, at := range window {
				if at >= 0 && x[plane*area+at] > best {
					best, index = x[plane*area+at], plane*area+at
				}
			}
			y, indices = append(y, best), append(indices, float64(index))
		}
	}
	return [][]float64{y, indices}
}

func averagePool(n *node, x []float64) []float64 {
	in, out := n.inputs[0].shape, n.outputs[0].shape
	windows, area := kernelPositions(n, n.attrs.ints("kernel_shape"), in[2:], out[2:]), int(elements(in[2:]))
	var y []float64
	for plane := range int(in[0] * in[1]) {
		for _, window := range windows {
			sum, count := 0.0, 0.0
			for _, at := range window {
				if at >= 0 {
					sum += x[plane*area+at]
				}
				if at >= 0 || at == padding && n.attrs.int("count_include_pad", 0) != 0 {
					count++
				}
			}
			y = append(y, sum/count)
		}
	}
	return y
}

// Plainly interprets one operator as the standard has it, automatic padding
// and rounding up included, without a graph. out is the shape that comes out.
func Plainly(op string, attrs map[string]any, x []float64, in []int64, weights []float64, kernel, out []int64) []float64 {
	p := plain{}
	n := &node{op: op, attrs: attrs, inputs: []*Value{{shape: in}}, outputs: []*Value{{shape: out}}}
	p[n.inputs[0]] = x
	if weights != nil {
		n.inputs = append(n.inputs, &Value{shape: kernel})
		p[n.inputs[1]] = weights
	}
	return p.run(n)[0]
}
