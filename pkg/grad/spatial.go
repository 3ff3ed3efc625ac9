package grad

import (
	"errors"
	"fmt"
	"slices"
)

// window is how a kernel moves over the spatial axes of [N,C,spatial...].
type window struct {
	kernel, strides, dilations []int64
	before, after              []int64 // padding
	group                      int64
}

// windowOf reads the attributes of a convolution or a pooling over x. They have
// no automatic padding and no rounding up: the import writes both as pads,
// because runtimes interpret them differently.
func windowOf(n *node, kernel []int64) (window, error) {
	x := n.inputs[0].shape
	rank := len(x) - 2
	if rank < 1 {
		return window{}, fmt.Errorf("%v has no spatial axes", x)
	}
	if len(kernel) != rank {
		return window{}, fmt.Errorf("a kernel of %v for %v", kernel, x)
	}
	w := window{
		kernel: kernel, strides: n.attrs.ints("strides"), dilations: n.attrs.ints("dilations"),
		before: make([]int64, rank), after: make([]int64, rank), group: n.attrs.int("group", 1),
	}
	ones := slices.Repeat([]int64{1}, rank)
	if w.strides == nil {
		w.strides = ones
	}
	if w.dilations == nil {
		w.dilations = ones
	}
	if len(w.strides) != rank || len(w.dilations) != rank {
		return w, fmt.Errorf("strides %v and dilations %v for %v", w.strides, w.dilations, x)
	}
	for i := range rank {
		for _, v := range []int64{w.kernel[i], w.strides[i], w.dilations[i]} {
			if v < 1 || v > maxElements {
				return w, fmt.Errorf("kernel %v, strides %v, dilations %v", w.kernel, w.strides, w.dilations)
			}
		}
	}
	pads := n.attrs.ints("pads")
	if pads == nil {
		return w, nil
	}
	if len(pads) != 2*rank || slices.ContainsFunc(pads, func(p int64) bool { return p < 0 || p > maxElements }) {
		return w, fmt.Errorf("pads %v for %v", pads, x)
	}
	copy(w.before, pads)
	copy(w.after, pads[rank:])
	return w, nil
}

// extent is how many numbers of an axis the kernel spans.
func (w window) extent(i int) int64 { return (w.kernel[i]-1)*w.dilations[i] + 1 }

// over is how often the kernel fits on an axis of the padded input.
func (w window) over(i int, size int64) (int64, error) {
	room := size + w.before[i] + w.after[i] - w.extent(i)
	if room < 0 {
		return 0, fmt.Errorf("a kernel that spans %d over %d with pads %d and %d", w.extent(i), size, w.before[i], w.after[i])
	}
	return room/w.strides[i] + 1, nil
}

// reaches refuses windows that all lie in the padding: they compute nothing.
func (w window) reaches(i int, windows int64) error {
	if (windows-1)*w.strides[i]+w.extent(i) <= w.before[i] {
		return fmt.Errorf("pads of %d that no window reaches over", w.before[i])
	}
	return nil
}

// attributes are the window's, written out.
func (w window) attributes() attributes {
	return attributes{
		"kernel_shape": w.kernel, "strides": w.strides, "dilations": w.dilations,
		"pads": slices.Concat(w.before, w.after), "group": w.group,
	}
}

// ---- Convolutions

func convWindow(n *node) (window, error) {
	x, w := n.inputs[0].shape, n.inputs[1].shape
	if len(w) != len(x) || len(w) < 3 {
		return window{}, fmt.Errorf("weights %v over %v", w, x)
	}
	if k := n.attrs.ints("kernel_shape"); k != nil && !slices.Equal(k, w[2:]) {
		return window{}, fmt.Errorf("kernel_shape %v, but weights %v", k, w)
	}
	return windowOf(n, w[2:])
}

func checkBias(n *node, channels int64) error {
	if len(n.inputs) > 2 && n.inputs[2] != nil && !slices.Equal(n.inputs[2].shape, []int64{channels}) {
		return fmt.Errorf("a bias of %v for %d channels", n.inputs[2].shape, channels)
	}
	return nil
}

func inferConv(n *node) ([][]int64, error) {
	win, err := convWindow(n)
	if err != nil {
		return nil, err
	}
	x, w := n.inputs[0].shape, n.inputs[1].shape
	if win.group < 1 || x[1] != w[1]*win.group || w[0]%win.group != 0 {
		return nil, fmt.Errorf("weights %v in %d groups over %v", w, win.group, x)
	}
	shape := []int64{x[0], w[0]}
	for i := range win.kernel {
		out, err := win.over(i, x[2+i])
		if err != nil {
			return nil, err
		}
		if err := win.reaches(i, out); err != nil {
			return nil, err
		}
		shape = append(shape, out)
	}
	return [][]int64{shape}, checkBias(n, w[0])
}

func vjpConv(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	win, err := convWindow(n)
	if err != nil {
		return nil, err
	}
	x, w := n.inputs[0], n.inputs[1]
	grads := make([]*Value, 3)
	if need[0] {
		grads[0] = g.convInputGradient(dy, w, x.shape, win)
	}
	if need[1] {
		grads[1] = g.convWeightGradient(x, dy, w.shape, win)
	}
	if len(need) > 2 && need[2] {
		grads[2] = g.sumChannels(dy)
	}
	return grads, nil
}

// sumChannels sums over everything but the channels.
func (g *Graph) sumChannels(v *Value) *Value {
	axes := []int64{0}
	for i := 2; i < len(v.shape); i++ {
		axes = append(axes, int64(i))
	}
	return g.Reshape(g.ReduceSum(v, axes...), v.shape[1])
}

// convInputGradient is the gradient of a convolution's input x: dy convolved
// with the same weights, transposed.
func (g *Graph) convInputGradient(dy, w *Value, x []int64, win window) *Value {
	if g.err != nil {
		return dy
	}
	rank := len(win.kernel)
	if win.whole(x, w.shape) {
		return g.Mul(dy, g.Reshape(w, slices.Concat([]int64{1, w.shape[0]}, w.shape[2:])...))
	}
	direct := true
	back := window{kernel: win.kernel, strides: win.strides, dilations: win.dilations, group: win.group}
	for i := range rank {
		before, after := win.extent(i)-1-win.before[i], win.extent(i)-1-win.after[i]
		direct = direct && win.strides[i] == 1 && before >= 0 && after >= 0
		back.before, back.after = append(back.before, before), append(back.after, after)
	}
	if direct {
		// With a stride of 1 it is again a convolution, with flipped weights,
		// for which runtimes have faster kernels.
		return g.apply("Conv", back.attributes(), dy, g.flipped(w, win.group))
	}
	attrs := win.attributes()
	rest := make([]int64, rank)
	for i := range rest {
		rest[i] = x[2+i] - ((dy.shape[2+i]-1)*win.strides[i] - win.before[i] - win.after[i] + win.extent(i))
	}
	attrs["output_padding"] = rest // what the last window did not reach: less than a stride
	return g.apply("ConvTranspose", attrs, dy, w)
}

// whole reports whether a depthwise kernel covers its whole input once, which
// makes it a weighted sum for each channel.
func (w window) whole(x, weights []int64) bool {
	if weights[1] != 1 || weights[0] != w.group || !slices.Equal(x[2:], w.kernel) {
		return false
	}
	for i := range w.kernel {
		if w.dilations[i] != 1 || w.before[i] != 0 || w.after[i] != 0 {
			return false
		}
	}
	return true
}

// flipped are the weights of a convolution with in and out exchanged in each
// group and every spatial axis reversed.
func (g *Graph) flipped(w *Value, groups int64) *Value {
	var axes, starts, ends, steps []int64
	for i := 2; i < len(w.shape); i++ {
		if w.shape[i] > 1 {
			axes, starts, ends, steps = append(axes, int64(i)), append(starts, -1), append(ends, -w.shape[i]-1), append(steps, -1)
		}
	}
	of := w
	out, in, kernel := w.shape[0]/groups, w.shape[1], w.shape[2:]
	if out > 1 || in > 1 {
		perm := []int64{0, 2, 1}
		for i := range kernel {
			perm = append(perm, int64(3+i))
		}
		w = g.Transpose(g.Reshape(w, slices.Concat([]int64{groups, out, in}, kernel)...), perm...)
		w = g.Reshape(w, slices.Concat([]int64{groups * in, out}, kernel)...)
	}
	if axes != nil {
		w = g.apply("Slice", nil, w, g.integers(starts...), g.integers(ends...), g.integers(axes...), g.integers(steps...))
	}
	if w != of {
		g.turned[w] = of
	}
	return w
}

// convWeightGradient is the gradient of the weights w of y = Conv(x, w): x
// convolved with dy, where the batch is what is summed over, and strides and
// dilations change places.
func (g *Graph) convWeightGradient(x, dy *Value, w []int64, win window) *Value {
	if g.err != nil {
		return x
	}
	if win.whole(x.shape, w) {
		return g.Reshape(g.ReduceSum(g.Mul(x, dy), 0), w...)
	}
	rank := len(win.kernel)
	n, perGroup, out := x.shape[0], w[1], w[0]
	pointwise := win.group == 1
	for i := range rank {
		pointwise = pointwise && win.kernel[i] == 1 && win.strides[i] == 1 && win.before[i] == 0 && win.after[i] == 0
	}
	if pointwise {
		// A matrix product for each of the batch, summed.
		area := elements(x.shape[2:])
		each := g.MatMul(g.Reshape(dy, n, out, area), g.transposed(g.Reshape(x, n, perGroup, area)))
		return g.Reshape(g.ReduceSum(each, 0), w...)
	}
	over := window{kernel: dy.shape[2:], strides: win.dilations, dilations: slices.Clone(win.strides), group: win.group}
	for i := range rank {
		// The part that the last window did not reach is left out, so that the
		// result has exactly the kernel's size.
		reach := (dy.shape[2+i]-1)*win.strides[i] + win.extent(i)
		over.before, over.after = append(over.before, win.before[i]), append(over.after, reach-x.shape[2+i]-win.before[i])
	}
	x, over.after = g.cropped(x, over.after)
	spatial, last := x.shape[2:], rank-1
	if perGroup > 1 && win.dilations[last] > 1 {
		// [N, G, I/G, ...] -> [I/G, G*N, ...] and [N, O, ...] -> [O, N, ...]: a
		// convolution in G groups whose channels are the batch.
		perm := []int64{2, 1, 0}
		swap := []int64{1, 0}
		for i := range int64(rank) {
			perm = append(perm, 3+i)
			swap = append(swap, 2+i)
		}
		xs := g.Reshape(x, slices.Concat([]int64{n, win.group, perGroup}, spatial)...)
		xs = g.Reshape(g.Transpose(xs, perm...), slices.Concat([]int64{perGroup, win.group * n}, spatial)...)
		dw := g.apply("Conv", over.attributes(), xs, g.Transpose(dy, swap...)) // [I/G, O, k...]
		return g.Transpose(dw, swap...)
	}
	// Each group of each of the batch is a group of its own. With its channels
	// side by side at every place it is as one channel with a longer last axis,
	// on which the kernel steps from place to place: all of [O, k... * I/G] comes
	// out of one product, which is large enough to be fast.
	over.group = n * win.group
	if perGroup > 1 {
		perm := []int64{0}
		for i := range int64(rank) {
			perm = append(perm, 2+i)
		}
		x = g.Transpose(g.Reshape(x, slices.Concat([]int64{over.group, perGroup}, spatial)...), append(perm, 1)...)
	}
	wide := slices.Concat([]int64{1, over.group}, spatial)
	for _, along := range [][]int64{wide[2:], over.dilations, over.before, over.after} {
		along[last] *= perGroup
	}
	dw := g.apply("Conv", over.attributes(), g.Reshape(x, wide...), g.Reshape(dy, slices.Concat([]int64{n * out, 1}, dy.shape[2:])...))
	dw = g.ReduceSum(g.Reshape(dw, n, -1), 0)
	if perGroup == 1 {
		return g.Reshape(dw, w...)
	}
	perm := []int64{0, int64(1 + rank)}
	for i := range int64(rank) {
		perm = append(perm, 1+i)
	}
	return g.Transpose(g.Reshape(dw, slices.Concat([]int64{out}, w[2:], []int64{perGroup})...), perm...)
}

// cropped cuts as much from the ends of the spatial axes as the paddings there
// are below zero, and returns what is left of them.
func (g *Graph) cropped(v *Value, after []int64) (*Value, []int64) {
	pads := make([]int64, 2*len(v.shape))
	rest := slices.Clone(after)
	cut := false
	for i, a := range after {
		if a < 0 {
			pads[len(v.shape)+2+i], rest[i], cut = a, 0, true
		}
	}
	if cut {
		v = g.pad(v, pads)
	}
	return v, rest
}

func inferConvTranspose(n *node) ([][]int64, error) {
	win, err := convWindow(n)
	if err != nil {
		return nil, err
	}
	if n.attrs.ints("output_shape") != nil {
		return nil, errors.New("output_shape is not supported; say pads and output_padding")
	}
	x, w := n.inputs[0].shape, n.inputs[1].shape
	if win.group < 1 || x[1] != w[0] || w[0]%win.group != 0 {
		return nil, fmt.Errorf("weights %v in %d groups over %v", w, win.group, x)
	}
	rest := n.attrs.ints("output_padding")
	if rest == nil {
		rest = make([]int64, len(win.kernel))
	}
	if len(rest) != len(win.kernel) {
		return nil, fmt.Errorf("output_padding %v", rest)
	}
	shape := []int64{x[0], w[1] * win.group}
	for i := range win.kernel {
		// The standard also allows values below a dilation, but ONNX Runtime
		// returns NaN for them.
		if rest[i] < 0 || rest[i] >= win.strides[i] {
			return nil, fmt.Errorf("output_padding %v with strides %v", rest, win.strides)
		}
		if err := win.reaches(i, x[2+i]); err != nil {
			return nil, err
		}
		shape = append(shape, (x[2+i]-1)*win.strides[i]+win.extent(i)-win.before[i]-win.after[i]+rest[i])
	}
	return [][]int64{shape}, checkBias(n, shape[1])
}

// vjpConvTranspose: a transposed convolution is the gradient of a convolution,
// so its own gradients are those of that convolution with x and dy exchanged.
func vjpConvTranspose(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	win, err := convWindow(n)
	if err != nil {
		return nil, err
	}
	x, w := n.inputs[0], n.inputs[1]
	// The convolution is over what reaches into x, neither more nor less.
	over := win
	over.after = nil
	for i := range win.kernel {
		over.after = append(over.after, (x.shape[2+i]-1)*win.strides[i]+win.extent(i)-dy.shape[2+i]-win.before[i])
	}
	grads := make([]*Value, 3)
	inner, after := g.cropped(dy, over.after)
	over.after = after
	if need[0] {
		grads[0] = g.apply("Conv", over.attributes(), inner, w)
	}
	if need[1] {
		grads[1] = g.convWeightGradient(inner, x, w.shape, over)
	}
	if len(need) > 2 && need[2] {
		grads[2] = g.sumChannels(dy)
	}
	return grads, nil
}

// ---- Pooling

func inferPool(n *node) ([][]int64, error) {
	win, err := windowOf(n, n.attrs.ints("kernel_shape"))
	if err != nil {
		return nil, err
	}
	x := n.inputs[0].shape
	shape := slices.Clone(x[:2])
	if n.attrs.int("ceil_mode", 0) != 0 {
		return nil, errors.New("ceil_mode is not supported: say pads")
	}
	if n.op == "AveragePool" && slices.ContainsFunc(win.dilations, func(d int64) bool { return d != 1 }) {
		return nil, errors.New("a mean with dilations is not supported")
	}
	for i := range win.kernel {
		// A window must cover at least one number; a dilated window may step
		// over all of a short axis.
		if pad := max(win.before[i], win.after[i]); pad >= win.kernel[i] || pad > 0 && win.dilations[i] > x[2+i] {
			return nil, fmt.Errorf("pads %v and %v with a kernel of %v", win.before, win.after, win.kernel)
		}
		out, err := win.over(i, x[2+i])
		if err != nil {
			return nil, err
		}
		shape = append(shape, out)
	}
	return [][]int64{shape}, nil
}

// inferMaxPool: the second output are indices, for the gradient.
func inferMaxPool(n *node) ([][]int64, error) {
	if n.attrs.int("storage_order", 0) != 0 {
		return nil, errors.New("storage_order 1 is not supported")
	}
	shapes, err := inferPool(n)
	if err != nil {
		return nil, err
	}
	return [][]int64{shapes[0], shapes[0]}, nil
}

// vjpMaxPool adds each gradient to where its maximum was found. The indices
// count over the whole tensor. (MaxUnpool would be one operator, and wrong
// where windows overlap: it assigns, and does not add.)
func vjpMaxPool(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x, indices := n.inputs[0], n.outputs[1]
	indices.kind = integers
	flat := g.apply("Reshape", nil, indices, g.integers(-1))
	flat.kind = integers
	zeros := g.fill(0, []int64{elements(x.shape)})
	dx := g.apply("ScatterElements", attributes{"axis": int64(0), "reduction": "add"}, zeros, flat, g.Reshape(dy, -1))
	return []*Value{g.Reshape(dx, x.shape...)}, nil
}

func vjpAveragePool(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	win, err := windowOf(n, n.attrs.ints("kernel_shape"))
	if err != nil {
		return nil, err
	}
	x := n.inputs[0]
	rank, channels := len(win.kernel), x.shape[1]
	if elements(dy.shape[2:]) > maxList {
		return nil, fmt.Errorf("%v windows are too many", dy.shape[2:])
	}
	// How many numbers each window averaged, along each axis.
	counts := make([][]float32, rank)
	blocks := true // windows side by side, each of the same size
	size := 1.0
	for i := range rank {
		size *= float64(win.kernel[i])
		low, high := int64(0), x.shape[2+i]
		if n.attrs.int("count_include_pad", 0) != 0 {
			low, high = -win.before[i], high+win.after[i]
		}
		counts[i] = make([]float32, dy.shape[2+i])
		for o := range counts[i] {
			start := int64(o)*win.strides[i] - win.before[i]
			count := min(high, start+win.kernel[i]) - max(low, start)
			counts[i][o] = float32(count)
			blocks = blocks && count == win.kernel[i]
		}
		blocks = blocks && win.kernel[i] == win.strides[i] && win.before[i] == 0
	}
	if blocks {
		pads := make([]int64, 2*len(x.shape))
		for i := range rank {
			pads[len(x.shape)+2+i] = x.shape[2+i] - dy.shape[2+i]*win.kernel[i]
		}
		dx := g.Mul(g.enlarge(dy, win.kernel), g.Scalar(1/size))
		if slices.ContainsFunc(pads, func(p int64) bool { return p != 0 }) {
			dx = g.pad(dx, pads)
		}
		return []*Value{dx}, nil
	}
	// Otherwise a convolution for each channel, transposed, with ones.
	shares := []float32{1}
	for i := range rank {
		var next []float32
		for _, s := range shares {
			for _, c := range counts[i] {
				next = append(next, s/c)
			}
		}
		shares = next
	}
	// A convolution that only mixes channels at each place can also come after
	// the pooling's gradient. Networks that reduce their channels after pooling
	// then have fewer channels to spread.
	mix := pointwiseOf(dy)
	if mix != nil {
		dy, channels = mix.inputs[0], mix.inputs[0].shape[1]
	}
	dy = g.Mul(dy, g.Constant(shares, slices.Concat([]int64{1, 1}, dy.shape[2:])...))
	ones := slices.Concat([]int64{channels, 1}, win.kernel)
	if err := checkShape(ones); err != nil {
		return nil, err
	}
	win.group = channels
	dx := g.convInputGradient(dy, g.fill(1, ones), slices.Concat([]int64{x.shape[0], channels}, x.shape[2:]), win)
	if mix != nil {
		dx = g.apply("Conv", mix.attrs, dx, mix.inputs[1])
	}
	return []*Value{dx}, nil
}

// pointwiseOf is the convolution that v comes from, if that works at each place
// alone, adds no bias and makes more channels than it gets; else nil.
func pointwiseOf(v *Value) *node {
	n := v.from
	if n == nil || n.op != "Conv" || len(n.inputs) > 2 || n.inputs[0].shape[1] >= v.shape[1] {
		return nil
	}
	win, err := convWindow(n)
	if err != nil || win.group != 1 {
		return nil
	}
	for i := range win.kernel {
		if win.kernel[i] != 1 || win.strides[i] != 1 || win.before[i] != 0 || win.after[i] != 0 {
			return nil
		}
	}
	return n
}

func inferGlobalAveragePool(n *node) ([][]int64, error) {
	x := n.inputs[0].shape
	if len(x) < 3 {
		return nil, fmt.Errorf("%v has no spatial axes", x)
	}
	return [][]int64{append(slices.Clone(x[:2]), slices.Repeat([]int64{1}, len(x)-2)...)}, nil
}

func vjpGlobalAveragePool(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x := n.inputs[0].shape
	return []*Value{g.Expand(g.Mul(dy, g.Scalar(1/float64(elements(x[2:])))), x...)}, nil
}

// ---- Resize

// enlarge repeats every number along the spatial axes.
func (g *Graph) enlarge(v *Value, times []int64) *Value {
	if len(times)+2 != len(v.shape) || slices.ContainsFunc(times, func(k int64) bool { return k < 1 || k > maxElements }) {
		return g.fail("%v enlarged by %v", v.shape, times)
	}
	sizes := slices.Clone(v.shape)
	for i, k := range times {
		sizes[2+i] *= k
	}
	return g.apply("Resize", attributes{
		"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
	}, v, nil, nil, g.integers(sizes...))
}

// inferResize takes sizes; an import makes them of scales.
func inferResize(n *node) ([][]int64, error) {
	if mode := n.attrs.str("mode", "nearest"); mode != "nearest" {
		return nil, fmt.Errorf("mode %q is not supported, only nearest", mode)
	}
	if len(n.inputs) != 4 || n.inputs[3] == nil {
		return nil, errors.New("sizes are missing")
	}
	sizes, err := constants(n.inputs[3])
	if err != nil {
		return nil, err
	}
	if len(sizes) != len(n.inputs[0].shape) {
		return nil, fmt.Errorf("%d sizes for %v", len(sizes), n.inputs[0].shape)
	}
	for i := range sizes {
		if sizes[i] < 1 || sizes[i] > maxElements {
			return nil, fmt.Errorf("sizes %v", sizes)
		}
		if _, err := nearest(n, n.inputs[0].shape[i], 1); err != nil {
			return nil, err
		}
	}
	return [][]int64{sizes}, nil
}

// nearest says for each number of an axis of the result which of the source
// it is.
func nearest(n *node, from, to int64) ([]int64, error) {
	if to > maxList {
		return nil, fmt.Errorf("an axis of %d is too large", to)
	}
	scale := float64(to) / float64(from)
	pick := make([]int64, to)
	for i := range pick {
		var at float64
		switch mode := n.attrs.str("coordinate_transformation_mode", "half_pixel"); mode {
		case "asymmetric":
			at = float64(i) / scale
		case "half_pixel":
			at = (float64(i)+0.5)/scale - 0.5
		case "pytorch_half_pixel":
			if to > 1 {
				at = (float64(i)+0.5)/scale - 0.5
			}
		case "align_corners":
			if to > 1 {
				at = float64(i) * float64(from-1) / float64(to-1)
			}
		default:
			return nil, fmt.Errorf("coordinate_transformation_mode %q is not supported", mode)
		}
		whole := int64(at)
		if at < 0 && float64(whole) != at {
			whole-- // floor
		}
		part := at - float64(whole)
		up := false
		switch mode := n.attrs.str("nearest_mode", "round_prefer_floor"); mode {
		case "floor":
		case "ceil":
			up = part > 0
		case "round_prefer_floor":
			up = part > 0.5
		case "round_prefer_ceil":
			up = part >= 0.5
		default:
			return nil, fmt.Errorf("nearest_mode %q is not supported", mode)
		}
		if up {
			whole++
		}
		pick[i] = max(0, min(from-1, whole))
	}
	return pick, nil
}

func vjpResize(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x := n.inputs[0]
	// Whole multiples of spatial axes are blocks, and their sum is a pooling.
	times := make([]int64, max(0, len(x.shape)-2))
	blocks, size := len(x.shape) > 2 && slices.Equal(x.shape[:2], dy.shape[:2]), int64(1)
	picks := make([][]int64, len(x.shape))
	for axis, from := range x.shape {
		pick, err := nearest(n, from, dy.shape[axis])
		if err != nil {
			return nil, err
		}
		picks[axis] = pick
		if axis < 2 || !blocks {
			continue
		}
		k := dy.shape[axis] / from
		times[axis-2] = k
		size *= k
		for i, p := range pick {
			blocks = blocks && k > 0 && p == int64(i)/k
		}
	}
	if blocks {
		mean := g.apply("AveragePool", attributes{"kernel_shape": times, "strides": times}, dy)
		return []*Value{g.Mul(mean, g.Scalar(float64(size)))}, nil
	}
	for axis, from := range x.shape {
		if dy.shape[axis] != from {
			dy = g.scatter(dy, axis, from, func(i int64) int64 { return picks[axis][i] })
		}
	}
	return []*Value{dy}, nil
}
