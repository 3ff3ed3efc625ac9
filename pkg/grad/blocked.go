package grad

import (
	"context"
	"maps"
	"slices"
)

// blockedDomain is the operator domain of ONNX Runtime's convolutions over
// blocks of channels.
const blockedDomain = "com.microsoft.nchwc"

// blocker rewrites a graph so that feature maps [N,C,H,W] are held as
// [N,C/block,H,W,block], the layout of ONNX Runtime's fastest convolutions. The
// runtime itself does this only for constant weights, and weights that are
// learnt are not constant.
//
// A value has two forms, and each is made when it is first needed: plain is the
// value itself, blocked is another value of the same shape. Convolutions
// produce blocked values; operators that act on each number or each channel
// keep the form of their input. So a map is converted only if another operator
// reads it.
type blocker struct {
	g       *Graph
	block   int64
	nodes   []*node
	blocked map[*Value]*Value
	plain   map[*Value]bool // of those that a blocked one was made for first
	readers map[*Value]int
}

// blockedNodes are the nodes that compute some values, in blocked form where
// that is known to be faster. There are none if no convolution gets faster.
func (g *Graph) blockedNodes(outputs []*Value, block int64) []*node {
	b := &blocker{g: g, block: block, blocked: map[*Value]*Value{}, plain: map[*Value]bool{}, readers: map[*Value]int{}}
	used := g.used(g.nodes, outputs)
	wanted := slices.DeleteFunc(slices.Clone(g.nodes), func(n *node) bool {
		return !slices.ContainsFunc(n.outputs, func(v *Value) bool { return used[v] })
	})
	for _, n := range wanted {
		for _, in := range n.inputs {
			b.readers[in]++
		}
	}
	for _, v := range outputs {
		b.readers[v]++
	}
	for _, n := range wanted {
		if v := b.rewrite(n); v != nil {
			b.blocked[n.outputs[0]] = v
			continue
		}
		if b.reduce(n) || b.channelsLast(n) {
			continue
		}
		for _, in := range n.inputs {
			b.toPlain(in)
		}
		b.nodes = append(b.nodes, n)
	}
	for _, v := range outputs {
		b.toPlain(v)
	}
	return b.nodes
}

// apply adds a node of a shape that is known.
func (b *blocker) apply(op, domain string, attrs attributes, shape []int64, inputs ...*Value) *Value {
	n := &node{op: op, domain: domain, name: b.g.name(op), attrs: attrs, inputs: inputs}
	v := &Value{graph: b.g, name: b.g.name(n.name + ":0"), shape: shape, from: n}
	n.outputs = []*Value{v}
	b.nodes = append(b.nodes, n)
	return v
}

func (b *blocker) reshape(v *Value, shape ...int64) *Value {
	if slices.Equal(v.shape, shape) {
		return v
	}
	return b.apply("Reshape", "", nil, shape, v, b.g.integers(shape...))
}

// toPlain makes the plain form of a value.
func (b *blocker) toPlain(v *Value) *Value {
	from := b.blocked[v]
	if from == nil || b.plain[v] || v.from == nil {
		return v
	}
	if _, made := b.plain[v]; !made {
		return v // it was there first
	}
	b.plain[v] = true
	b.nodes = append(b.nodes, &node{
		op: "ReorderOutput", domain: blockedDomain, name: b.g.name("ReorderOutput"),
		attrs: attributes{"channels": v.shape[1]}, inputs: []*Value{from}, outputs: []*Value{v},
	})
	return v
}

// fits says whether a value can be blocked.
func (b *blocker) fits(v *Value) bool {
	return len(v.shape) == 4 && v.shape[1]%b.block == 0 && v.kind != integers
}

// toBlocked makes the blocked form of a value that fits. A reshape that leaves
// the spatial axes alone shares the blocked form of its input.
func (b *blocker) toBlocked(v *Value) *Value {
	if done := b.blocked[v]; done != nil {
		return done
	}
	if n := v.from; n != nil && n.op == "Reshape" && b.fits(n.inputs[0]) && slices.Equal(n.inputs[0].shape[2:], v.shape[2:]) {
		b.blocked[v] = b.reshape(b.toBlocked(n.inputs[0]), v.shape...)
	} else {
		b.blocked[v] = b.apply("ReorderInput", blockedDomain, nil, v.shape, b.toPlain(v))
	}
	return b.blocked[v]
}

// is says that a value has a blocked form already.
func (b *blocker) is(v *Value) bool { return v != nil && b.blocked[v] != nil }

// rewrite computes the blocked form of a node's output, where there is one.
func (b *blocker) rewrite(n *node) *Value {
	out := n.outputs[0]
	if len(n.outputs) != 1 || len(out.shape) != 4 {
		return nil
	}
	var v *Value
	switch n.op {
	case "Conv":
		v = b.conv(n)
	case "ConvTranspose":
		v = b.convTranspose(n)
	case "BatchNormalization":
		v = b.batchNorm(n)
	case "Relu", "HardSigmoid", "LeakyRelu", "Sigmoid", "Neg", "Add", "Sub", "Mul", "Div", "Sum", "Identity":
		v = b.elementwise(n)
	case "Slice":
		v = b.everyOther(n)
	case "Reshape":
		if in := n.inputs[0]; b.is(in) && b.fits(in) && b.fits(out) && slices.Equal(in.shape[2:], out.shape[2:]) {
			v = b.reshape(b.blocked[in], out.shape...)
		}
	}
	if v != nil {
		b.plain[out] = false
	}
	return v
}

// convolve is a convolution of what is blocked already.
func (b *blocker) convolve(x, w *Value, win window, shape []int64, more ...*Value) *Value {
	return b.apply("Conv", blockedDomain, win.attributes(), shape, append([]*Value{x, w}, more...)...)
}

// filter orders the weights [O,I,h,w] of a convolution, depthwise or in one
// group. It is nil if they cannot be divided into blocks.
func (b *blocker) filter(w *Value, group int64) *Value {
	out, in, h, width := w.shape[0], w.shape[1], w.shape[2], w.shape[3]
	depthwise := in == 1 && group == out
	if out%b.block != 0 || !depthwise && (group != 1 || in%b.block != 0 && in >= b.block) {
		return nil
	}
	if of := b.g.turned[w]; of != nil && (depthwise || in%b.block == 0) {
		var numbers []int64
		for i := h*width - 1; i >= 0; i-- {
			numbers = append(numbers, i)
		}
		return b.turned(of, group, numbers, h, width)
	}
	if depthwise {
		// One kernel a channel: a picture of as many channels.
		image := []int64{1, out, h, width}
		if n := w.from; n != nil && n.op == "Reshape" && b.fits(n.inputs[0]) && slices.Equal(n.inputs[0].shape[2:], w.shape[2:]) {
			return b.reshape(b.toBlocked(n.inputs[0]), w.shape...)
		}
		if h*width == 1 {
			return b.toPlain(w)
		}
		return b.reshape(b.apply("ReorderInput", blockedDomain, nil, image, b.reshape(b.toPlain(w), image...)), w.shape...)
	}
	// [O/block, I, h, w, block], which is all for a plain picture of few channels.
	image := []int64{1, out, in * h, width}
	v := b.apply("ReorderInput", blockedDomain, nil, image, b.reshape(b.toPlain(w), image...))
	if in >= b.block && h*width > 1 {
		split := []int64{out / b.block, in / b.block, b.block, h * width, b.block}
		v = b.apply("Transpose", "", attributes{"perm": []int64{0, 1, 3, 2, 4}}, []int64{split[0], split[1], split[3], split[2], split[4]}, b.reshape(v, split...))
	}
	return b.reshape(v, w.shape...)
}

// turned orders weights for the convolution back: from the channels O of
// [O,I,h,w] to I, or depthwise, with some numbers of each kernel as its own.
func (b *blocker) turned(w *Value, group int64, numbers []int64, h, width int64) *Value {
	all, taps := w.shape[2]*w.shape[3], h*width
	if group > 1 {
		blocks := w.shape[0] / b.block
		v := b.reshape(b.filter(w, group), blocks, all, b.block)
		return b.reshape(b.gather(1, v, numbers), w.shape[0], 1, h, width)
	}
	in, out := w.shape[0]/b.block, w.shape[1]/b.block
	v := b.gather(3, b.reshape(b.toBlocked(w), in, b.block, out, all, b.block), numbers)
	v = b.apply("Transpose", "", attributes{"perm": []int64{2, 0, 3, 1, 4}}, []int64{out, in, taps, b.block, b.block}, v)
	return b.reshape(v, w.shape[1], w.shape[0], h, width)
}

// gather picks from an axis.
func (b *blocker) gather(axis int, v *Value, which []int64) *Value {
	if len(which) == 1 && v.shape[axis] == 1 {
		return v
	}
	shape := slices.Clone(v.shape)
	shape[axis] = int64(len(which))
	return b.apply("Gather", "", attributes{"axis": int64(axis)}, shape, v, b.g.integers(which...))
}

func (b *blocker) conv(n *node) *Value {
	x, w := n.inputs[0], n.inputs[1]
	win, err := convWindow(n)
	if err != nil || len(n.inputs) > 2 || w.kind == constant || len(x.shape) != 4 {
		return nil
	}
	if x.shape[1] >= b.block && !b.fits(x) {
		return nil
	}
	f := b.filter(w, win.group)
	if f == nil {
		return nil
	}
	if x.shape[1] < b.block {
		return b.convolve(b.toPlain(x), f, win, n.outputs[0].shape)
	}
	return b.convolve(b.toBlocked(x), f, win, n.outputs[0].shape)
}

// convTranspose does a stride by as many convolutions as it has phases: each
// number of the kernel reaches the places of one phase only.
func (b *blocker) convTranspose(n *node) *Value {
	x, w, out := n.inputs[0], n.inputs[1], n.outputs[0]
	win, err := windowOf(n, w.shape[2:])
	depthwise := win.group == x.shape[1] && w.shape[1] == 1
	if err != nil || len(n.inputs) > 2 || w.kind == constant || !b.fits(x) || !b.fits(out) || win.group != 1 && !depthwise {
		return nil
	}
	var phases [2][]phase
	for i, s := range win.strides {
		if win.dilations[i] != 1 || out.shape[2+i]%s != 0 {
			return nil
		}
		for a := range s {
			p, ok := phaseOf(a, s, win.kernel[i], win.before[i], x.shape[2+i], out.shape[2+i]/s)
			if !ok {
				return nil
			}
			phases[i] = append(phases[i], p)
		}
	}
	from := b.toBlocked(x)
	size := []int64{out.shape[0], out.shape[1], out.shape[2] / win.strides[0], out.shape[3] / win.strides[1]}
	blocks := size[0] * size[1] / b.block
	var rows []*Value
	for _, p := range phases[0] {
		var columns []*Value
		for _, q := range phases[1] {
			over := window{
				kernel: []int64{p.taps, q.taps}, strides: []int64{1, 1}, dilations: []int64{1, 1},
				before: []int64{p.before, q.before}, after: []int64{p.after, q.after}, group: win.group,
			}
			var numbers []int64
			for i := range p.taps {
				for j := range q.taps {
					numbers = append(numbers, (p.last-i*win.strides[0])*win.kernel[1]+q.last-j*win.strides[1])
				}
			}
			y := b.convolve(from, b.turned(w, win.group, numbers, p.taps, q.taps), over, size)
			columns = append(columns, b.reshape(y, blocks*size[2], size[3], 1, b.block))
		}
		rows = append(rows, b.reshape(b.concat(2, columns), blocks*size[2], 1, out.shape[3]*b.block))
	}
	return b.reshape(b.concat(1, rows), out.shape...)
}

// everyOther takes places in strides from a map, which may be padded with
// zeros: a convolution with one number for each channel.
func (b *blocker) everyOther(n *node) *Value {
	x, out := n.inputs[0], n.outputs[0]
	pads := make([]int64, 8)
	if p := x.from; p != nil && p.op == "Pad" && p.attrs.str("mode", "constant") == "constant" && len(p.inputs) == 2 {
		x, pads = p.inputs[0], p.inputs[1].ints
	}
	if !b.is(x) || !b.fits(x) || len(n.inputs) != 5 || !slices.Equal(n.inputs[3].ints, []int64{2, 3}) || pads[0]+pads[1]+pads[4]+pads[5] != 0 {
		return nil
	}
	win := window{kernel: []int64{1, 1}, strides: n.inputs[4].ints, dilations: []int64{1, 1}, before: []int64{0, 0}, after: []int64{0, 0}, group: x.shape[1]}
	for i, stride := range win.strides {
		size := x.shape[2+i]
		win.before[i] = pads[2+i] - n.inputs[1].ints[i]
		win.after[i] = max(0, (out.shape[2+i]-1)*stride+1-win.before[i]-size)
		if fit, err := win.over(i, size); err != nil || stride < 1 || win.before[i] < 0 || n.inputs[1].ints[i] < 0 || pads[6+i] < win.after[i] || fit != out.shape[2+i] {
			return nil
		}
	}
	return b.convolve(b.blocked[x], b.g.Constant(slices.Repeat([]float32{1}, int(x.shape[1])), x.shape[1], 1, 1, 1), win, out.shape)
}

// concat joins tensors of one shape.
func (b *blocker) concat(axis int, all []*Value) *Value {
	if len(all) == 1 {
		return all[0]
	}
	shape := slices.Clone(all[0].shape)
	shape[axis] *= int64(len(all))
	return b.apply("Concat", "", attributes{"axis": int64(axis)}, shape, all...)
}

// phase is the part of a transposed convolution that reaches every stride-th
// place of an axis: a convolution with the kernel's numbers last, last-stride,
// ...
type phase struct {
	last, taps, before, after int64
}

// phaseOf is the phase of the places a, a+stride, ..., of which there are size.
func phaseOf(a, stride, kernel, pad, from, size int64) (phase, bool) {
	k := (a + pad) % stride
	if k >= kernel {
		return phase{}, false // nothing reaches them
	}
	p := phase{taps: (kernel-1-k)/stride + 1}
	p.last = k + (p.taps-1)*stride
	first := (a + pad - p.last) / stride // what the place 0 is reached from
	p.before, p.after = -first, size+first+p.taps-1-from
	return p, p.before >= 0 && p.after >= 0
}

// perChannel is a vector of numbers for each channel, where v is one.
func (b *blocker) perChannel(v *Value, like []int64) *Value {
	c := like[1]
	if v.Len() != int(c) || c == 1 {
		return nil
	}
	if len(v.shape) == 4 && v.shape[1] == c {
		return b.reshape(b.toPlain(v), c)
	}
	return nil
}

// affine is x a + c for each channel: a convolution of one number a channel.
func (b *blocker) affine(x, a, c *Value) *Value {
	channels := x.shape[1]
	var more []*Value
	if c != nil {
		more = append(more, c)
	}
	win := window{kernel: []int64{1, 1}, strides: []int64{1, 1}, dilations: []int64{1, 1}, before: []int64{0, 0}, after: []int64{0, 0}, group: channels}
	return b.convolve(x, b.reshape(a, channels, 1, 1, 1), win, x.shape, more...)
}

func (b *blocker) batchNorm(n *node) *Value {
	x := n.inputs[0]
	if !b.is(x) {
		return nil
	}
	for _, p := range n.inputs[1:] {
		b.toPlain(p)
	}
	scale, bias, mean, variance := n.inputs[1], n.inputs[2], n.inputs[3], n.inputs[4]
	c, epsilon := scale.shape, n.attrs.float("epsilon", 1e-5)
	if mean.filled(0) && variance.filled(1) && epsilon == 0 {
		return b.affine(b.blocked[x], scale, bias)
	}
	deviation := b.apply("Sqrt", "", nil, c, b.apply("Add", "", nil, c, variance, b.g.Scalar(float64(epsilon))))
	a := b.apply("Div", "", nil, c, scale, deviation)
	if b.is(n.centred) {
		return b.affine(b.blocked[n.centred], a, bias)
	}
	bias = b.apply("Sub", "", nil, c, bias, b.apply("Mul", "", nil, c, mean, a))
	return b.affine(b.blocked[x], a, bias)
}

func (b *blocker) elementwise(n *node) *Value {
	out := n.outputs[0]
	follows := false
	for _, in := range n.inputs {
		follows = follows || b.is(in) && slices.Equal(in.shape, out.shape)
	}
	if !follows || !b.fits(out) {
		return nil
	}
	if len(n.inputs) == 2 && b.is(n.inputs[0]) {
		x := b.blocked[n.inputs[0]]
		if v := b.perChannel(n.inputs[1], out.shape); v != nil && out.shape[2]*out.shape[3] > 1 {
			switch n.op {
			case "Mul":
				return b.affine(x, v, nil)
			case "Sub":
				one := b.g.Constant(slices.Repeat([]float32{1}, int(out.shape[1])), out.shape[1])
				return b.affine(x, one, b.apply("Neg", "", nil, v.shape, v))
			}
			return nil
		}
	}
	inputs := make([]*Value, len(n.inputs))
	for _, in := range n.inputs {
		if in.Len() != 1 && !slices.Equal(in.shape, out.shape) {
			return nil
		}
	}
	for i, in := range n.inputs {
		if inputs[i] = in; in.Len() != 1 {
			inputs[i] = b.toBlocked(in)
		}
	}
	if n.op == "Add" && out.shape[2]*out.shape[3] > 1 {
		for i, in := range inputs {
			// A convolution whose output has no other reader can add in the
			// same pass.
			conv := in.from
			if conv != nil && conv.op == "Conv" && conv.domain == blockedDomain && conv.attrs["activation"] == nil && len(conv.inputs) < 4 && b.readers[n.inputs[i]] == 1 {
				more := append(slices.Clone(conv.inputs), nil)[:3]
				return b.apply("Conv", blockedDomain, conv.attrs, out.shape, append(more, inputs[1-i])...)
			}
		}
	}
	if (n.op == "Relu" || n.op == "LeakyRelu") && inputs[0].from.domain == blockedDomain && inputs[0].from.op == "Conv" && b.readers[n.inputs[0]] == 1 {
		conv := inputs[0].from
		attrs := maps.Clone(conv.attrs)
		attrs["activation"] = n.op
		if n.op == "LeakyRelu" {
			attrs["activation_params"] = []float32{n.attrs.float("alpha", 0.01)}
		}
		return b.apply("Conv", blockedDomain, attrs, out.shape, conv.inputs...)
	}
	return b.apply(n.op, "", n.attrs, out.shape, inputs...)
}

// reduce sums a blocked map over all but its channels, if that is what the
// node does. The sum is plain: there is one number a channel.
func (b *blocker) reduce(n *node) bool {
	if n.op != "ReduceSum" && n.op != "ReduceMean" && n.op != "ReduceSumSquare" {
		return false
	}
	x := n.inputs[0]
	if !b.is(x) || len(x.shape) != 4 || len(n.inputs) != 2 || !slices.Equal(n.inputs[1].ints, []int64{0, 2, 3}) || n.attrs.int("keepdims", 1) != 1 {
		return false
	}
	// The kernels add one number after the other, which is exact enough for so
	// few.
	if x.shape[2]*x.shape[3] > 1<<14 {
		return false
	}
	perPhoto := []int64{x.shape[0], x.shape[1], 1, 1}
	var sums *Value
	op, factor := n.op, 1.0
	product := x.from
	switch {
	case n.op == "ReduceSumSquare":
		op, sums = "ReduceSum", b.dot(b.blocked[x], b.blocked[x], perPhoto)
	case n.op == "ReduceSum" && product != nil && product.op == "Mul" && b.readers[x] == 1 &&
		slices.Equal(product.inputs[0].shape, x.shape) && slices.Equal(product.inputs[1].shape, x.shape):
		sums = b.dot(b.toBlocked(product.inputs[0]), b.toBlocked(product.inputs[1]), perPhoto)
	default:
		sums = b.apply("GlobalAveragePool", blockedDomain, nil, perPhoto, b.blocked[x])
		if n.op == "ReduceSum" {
			factor = float64(x.shape[2] * x.shape[3])
		}
	}
	last := &node{op: op, name: b.g.name(op), inputs: []*Value{sums, b.g.integers(0)}, outputs: n.outputs}
	if factor != 1 {
		total := b.apply(op, "", nil, n.outputs[0].shape, last.inputs...)
		last = &node{op: "Mul", name: b.g.name("Mul"), inputs: []*Value{total, b.g.Scalar(factor)}, outputs: n.outputs}
	}
	b.nodes = append(b.nodes, last)
	return true
}

// channelsLast puts the channels of a blocked map behind the places, if that is
// what the node does.
func (b *blocker) channelsLast(n *node) bool {
	if n.op != "Transpose" || !b.is(n.inputs[0]) || !slices.Equal(n.attrs.ints("perm"), []int64{0, 2, 3, 1}) {
		return false
	}
	x := n.inputs[0]
	b.nodes = append(b.nodes, &node{
		op: "ReorderOutput", domain: blockedDomain, name: b.g.name("ReorderOutput"),
		attrs: attributes{"channels": x.shape[1], "channels_last": int64(1)}, inputs: []*Value{b.blocked[x]}, outputs: n.outputs,
	})
	return true
}

// dot is the sum of products over the places of each channel of each photo: a
// convolution with one of them as kernels as large as the picture.
func (b *blocker) dot(x, y *Value, shape []int64) *Value {
	all, h, w := x.shape[0]*x.shape[1], x.shape[2], x.shape[3]
	win := window{kernel: []int64{h, w}, strides: []int64{1, 1}, dilations: []int64{1, 1}, before: []int64{0, 0}, after: []int64{0, 0}, group: all}
	v := b.convolve(b.reshape(x, 1, all, h, w), b.reshape(y, all, 1, h, w), win, []int64{1, all, 1, 1})
	return b.reshape(v, shape...)
}

// learns reports whether computing some values needs a convolution over maps
// whose weights are not constant.
func (g *Graph) learns(outputs []*Value) bool {
	used := g.used(g.nodes, outputs)
	return slices.ContainsFunc(g.nodes, func(n *node) bool {
		return (n.op == "Conv" || n.op == "ConvTranspose") && len(n.inputs[1].shape) == 4 && n.inputs[1].kind != constant && used[n.outputs[0]]
	})
}

// channelBlock finds the size of a backend's blocks of channels with a program
// that moves 16 channels of two places into blocks. It is 0 if the backend has
// no blocks.
func channelBlock(backend Backend) int64 {
	if p, ok := backend.(interface{ Provider() string }); !ok || p.Provider() != "cpu" {
		return 0
	}
	g := NewGraph()
	x := g.Input("x", 1, 16, 1, 2)
	b := &blocker{g: g}
	y := b.apply("Reshape", "", nil, []int64{32}, b.apply("ReorderInput", blockedDomain, nil, x.shape, x), g.integers(32))
	model, err := g.marshal(b.nodes, y)
	if err != nil {
		return 0
	}
	p, err := backend.Compile(model, []Port{{x.name, x.shape}}, []Port{{y.name, y.shape}})
	if err != nil {
		return 0
	}
	defer p.Close() //nolint:errcheck // nothing was written
	for i := range p.Input(0) {
		p.Input(0)[i] = float32(i)
	}
	if p.Run(context.Background()) != nil {
		return 0
	}
	// The second place of the first channel comes after the first block.
	switch at := slices.Index(p.Output(0), 1); at {
	case 8, 16:
		return int64(at)
	}
	return 0
}
