package grad

import (
	"errors"
	"fmt"
	"slices"
)

// operator describes an ONNX operator.
type operator struct {
	arity [2]int // least and most inputs; 0 is any number
	// infer computes the shapes of the outputs, and refuses wrong inputs.
	infer func(n *node) ([][]int64, error)
	// vjp makes the gradients of the inputs that need one from dy, the gradient
	// of the first output: the vector-Jacobian product. It is nil if the
	// operator has no gradient.
	vjp func(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error)
}

// operatorOf finds an operator of opset 18.
func operatorOf(op string) (operator, bool) {
	switch op {
	case "Conv":
		return operator{[2]int{2, 3}, inferConv, vjpConv}, true
	case "ConvTranspose":
		return operator{[2]int{2, 3}, inferConvTranspose, vjpConvTranspose}, true
	case "MaxPool":
		return operator{[2]int{1, 1}, inferMaxPool, vjpMaxPool}, true
	case "TopK":
		return operator{[2]int{2, 2}, inferTopK, nil}, true
	case "AveragePool":
		return operator{[2]int{1, 1}, inferPool, vjpAveragePool}, true
	case "GlobalAveragePool":
		return operator{[2]int{1, 1}, inferGlobalAveragePool, vjpGlobalAveragePool}, true
	case "BatchNormalization":
		return operator{[2]int{5, 5}, inferBatchNorm, vjpBatchNorm}, true
	case "Relu", "LeakyRelu", "Sigmoid", "Sqrt", "Exp", "Log", "Neg":
		return operator{[2]int{1, 1}, sameShape, vjpUnary}, true
	case "Identity":
		return operator{[2]int{1, 1}, sameShape, passOn}, true
	case "PRelu":
		return operator{[2]int{2, 2}, inferPRelu, vjpPRelu}, true
	case "Clip":
		return operator{[2]int{1, 3}, inferClip, vjpClip}, true
	case "HardSigmoid":
		return operator{[2]int{1, 1}, sameShape, nil}, true
	case "Add", "Sub", "Mul", "Div":
		return operator{[2]int{2, 2}, inferBroadcast, vjpArithmetic}, true
	case "Sum":
		return operator{[2]int{1, 0}, inferBroadcast, vjpArithmetic}, true
	case "MatMul":
		return operator{[2]int{2, 2}, inferMatMul, vjpMatMul}, true
	case "Gemm":
		return operator{[2]int{2, 3}, inferGemm, vjpGemm}, true
	case "Softmax":
		return operator{[2]int{1, 1}, inferAxis, vjpSoftmax}, true
	case "LpNormalization":
		return operator{[2]int{1, 1}, inferLpNormalization, vjpLpNormalization}, true
	case "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2":
		return operator{[2]int{1, 2}, inferReduce, vjpReduce}, true
	case "Concat":
		return operator{[2]int{1, 0}, inferConcat, vjpConcat}, true
	case "Slice":
		return operator{[2]int{3, 5}, inferSlice, vjpSlice}, true
	case "Pad":
		return operator{[2]int{2, 3}, inferPad, vjpPad}, true
	case "Gather":
		return operator{[2]int{2, 2}, inferGather, vjpGather}, true
	case "Resize":
		return operator{[2]int{1, 4}, inferResize, vjpResize}, true
	case "Reshape":
		return operator{[2]int{2, 2}, inferReshape, vjpReshape}, true
	case "Flatten":
		return operator{[2]int{1, 1}, inferFlatten, vjpReshape}, true
	case "Transpose":
		return operator{[2]int{1, 1}, inferTranspose, vjpTranspose}, true
	case "Expand":
		return operator{[2]int{2, 2}, inferExpand, vjpExpand}, true
	case "ScatterElements":
		return operator{[2]int{3, 3}, sameShape, nil}, true
	}
	return operator{}, false
}

// takesIntegers says which inputs are lists of integers, or may be.
func takesIntegers(op string, input int) bool {
	switch op {
	case "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL2", "Pad", "Gather", "ScatterElements", "TopK":
		return input == 1
	case "Slice":
		return input > 0
	case "Resize":
		return input == 3
	case "Reshape", "Expand": // indices, as well
		return true
	}
	return false
}

func sameShape(n *node) ([][]int64, error) { return [][]int64{n.inputs[0].shape}, nil }

// inferTopK: the largest numbers along an axis, then their indices.
func inferTopK(n *node) ([][]int64, error) {
	k, err := constants(n.inputs[1])
	if err != nil {
		return nil, err
	}
	shape := slices.Clone(n.inputs[0].shape)
	axis, err := axisOf(n.attrs.int("axis", -1), len(shape))
	if err != nil {
		return nil, err
	}
	if len(k) != 1 || k[0] < 1 || k[0] > shape[axis] {
		return nil, fmt.Errorf("the %v largest of %d", k, shape[axis])
	}
	shape[axis] = k[0]
	return [][]int64{shape, shape}, nil
}

func passOn(_ *Graph, _ *node, dy *Value, _ []bool) ([]*Value, error) { return []*Value{dy}, nil }

// axisOf reads an axis that may count from the end.
func axisOf(axis int64, rank int) (int, error) {
	if axis < 0 {
		axis += int64(rank)
	}
	if axis < 0 || axis >= int64(rank) {
		return 0, fmt.Errorf("axis %d of a tensor of %d axes", axis, rank)
	}
	return int(axis), nil
}

// constants are the numbers of an input that must be a list of integers.
func constants(v *Value) ([]int64, error) {
	if v == nil {
		return nil, nil
	}
	if v.kind != integers || v.from != nil || len(v.shape) != 1 {
		return nil, fmt.Errorf("%q must be a constant list of integers", v.name)
	}
	return v.ints, nil
}

// ---- Elementwise

// step is 1 where v is above 0, else 0. HardSigmoid does it in one operator.
func (g *Graph) step(v *Value) *Value {
	return g.apply("HardSigmoid", attributes{"alpha": float32(3e38), "beta": float32(0)}, v)
}

func vjpUnary(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x, y := n.inputs[0], n.outputs[0]
	var dx *Value
	switch n.op {
	case "Relu":
		dx = g.Mul(dy, g.step(y))
	case "LeakyRelu":
		alpha := float64(n.attrs.float("alpha", 0.01))
		dx = g.Mul(dy, g.Add(g.Mul(g.step(x), g.Scalar(1-alpha)), g.Scalar(alpha)))
	case "Sigmoid":
		dx = g.Mul(dy, g.Mul(y, g.Sub(g.Scalar(1), y)))
	case "Sqrt":
		dx = g.Div(dy, g.Mul(y, g.Scalar(2)))
	case "Exp":
		dx = g.Mul(dy, y)
	case "Log":
		dx = g.Div(dy, x)
	case "Neg":
		dx = g.apply("Neg", nil, dy)
	}
	// A tensor without axes meets scalars of shape [1].
	return []*Value{g.likeShape(dx, x)}, nil
}

// likeShape gives a gradient the shape of its value, when they only differ by axes
// of one.
func (g *Graph) likeShape(d, v *Value) *Value {
	if g.err != nil || slices.Equal(d.shape, v.shape) {
		return d
	}
	return g.Reshape(d, v.shape...)
}

func inferPRelu(n *node) ([][]int64, error) {
	shape, err := broadcast(n.inputs[0].shape, n.inputs[1].shape)
	if err != nil {
		return nil, err
	}
	if !slices.Equal(shape, n.inputs[0].shape) {
		return nil, fmt.Errorf("slope %v does not fit %v", n.inputs[1].shape, n.inputs[0].shape)
	}
	return [][]int64{shape}, nil
}

// vjpPRelu: y = x above 0, slope*x below.
func vjpPRelu(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	x, slope := n.inputs[0], n.inputs[1]
	above := g.step(x)
	below := g.Sub(g.Scalar(1), above)
	grads := make([]*Value, 2)
	if need[0] {
		grads[0] = g.likeShape(g.Mul(dy, g.Add(above, g.Mul(below, slope))), x)
	}
	if need[1] {
		grads[1] = g.reduceTo(g.Mul(g.Mul(dy, x), below), slope.shape)
	}
	return grads, nil
}

func inferClip(n *node) ([][]int64, error) {
	for _, bound := range n.inputs[1:] {
		if bound != nil && len(bound.shape) > 0 {
			return nil, fmt.Errorf("a bound is %v, not a single number", bound.shape)
		}
	}
	return sameShape(n)
}

func vjpClip(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	x, dx := n.inputs[0], dy
	for i, sign := range []float64{1, -1} {
		if len(n.inputs) <= 1+i || n.inputs[1+i] == nil {
			continue
		}
		bound := n.inputs[1+i]
		if need[1+i] {
			return nil, errors.New("the bounds have no gradient")
		}
		inside := g.Sub(x, bound)
		if sign < 0 {
			inside = g.Sub(bound, x)
		}
		dx = g.Mul(dx, g.step(inside))
	}
	return []*Value{g.likeShape(dx, x)}, nil
}

// ---- Arithmetic with broadcasting

func broadcast(a, b []int64) ([]int64, error) {
	out := make([]int64, max(len(a), len(b)))
	for i := range out {
		x, y := int64(1), int64(1)
		if k := i - len(out) + len(a); k >= 0 {
			x = a[k]
		}
		if k := i - len(out) + len(b); k >= 0 {
			y = b[k]
		}
		if x != y && x != 1 && y != 1 {
			return nil, fmt.Errorf("%v and %v do not fit together", a, b)
		}
		out[i] = max(x, y)
	}
	return out, nil
}

func inferBroadcast(n *node) ([][]int64, error) {
	shape := n.inputs[0].shape
	for _, in := range n.inputs[1:] {
		var err error
		if shape, err = broadcast(shape, in.shape); err != nil {
			return nil, err
		}
	}
	return [][]int64{shape}, nil
}

// reduceTo sums a gradient over the axes along which its value was repeated.
func (g *Graph) reduceTo(d *Value, shape []int64) *Value {
	if g.err != nil || slices.Equal(d.shape, shape) {
		return d
	}
	var axes []int64
	extra := len(d.shape) - len(shape)
	for i, size := range d.shape {
		if size != 1 && (i < extra || shape[i-extra] == 1) {
			axes = append(axes, int64(i))
		}
	}
	if len(axes) > 0 {
		d = g.ReduceSum(d, axes...)
	}
	if slices.Equal(d.shape, shape) {
		return d
	}
	return g.Reshape(d, shape...)
}

func vjpArithmetic(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	grads := make([]*Value, len(n.inputs))
	for i, in := range n.inputs {
		if !need[i] {
			continue
		}
		d := dy
		switch {
		case n.op == "Sub" && i == 1:
			d = g.apply("Neg", nil, dy)
		case n.op == "Mul":
			d = g.Mul(dy, n.inputs[1-i])
		case n.op == "Div" && i == 0:
			d = g.Div(dy, n.inputs[1])
		case n.op == "Div":
			d = g.apply("Neg", nil, g.Div(g.Mul(dy, n.outputs[0]), n.inputs[1]))
		}
		grads[i] = g.reduceTo(d, in.shape)
	}
	return grads, nil
}

// ---- Products

func inferMatMul(n *node) ([][]int64, error) {
	a, b := n.inputs[0].shape, n.inputs[1].shape
	if len(a) < 2 || len(b) < 2 {
		return nil, fmt.Errorf("%v times %v: both need two axes", a, b)
	}
	if a[len(a)-1] != b[len(b)-2] {
		return nil, fmt.Errorf("%v times %v", a, b)
	}
	batch, err := broadcast(a[:len(a)-2], b[:len(b)-2])
	if err != nil {
		return nil, err
	}
	return [][]int64{append(batch, a[len(a)-2], b[len(b)-1])}, nil
}

// transposed swaps the last two axes.
func (g *Graph) transposed(v *Value) *Value {
	perm := make([]int64, len(v.shape))
	for i := range perm {
		perm[i] = int64(i)
	}
	last := len(perm) - 1
	perm[last], perm[last-1] = perm[last-1], perm[last]
	return g.Transpose(v, perm...)
}

func vjpMatMul(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	a, b := n.inputs[0], n.inputs[1]
	grads := make([]*Value, 2)
	if need[0] {
		grads[0] = g.reduceTo(g.MatMul(dy, g.transposed(b)), a.shape)
	}
	if need[1] {
		grads[1] = g.reduceTo(g.MatMul(g.transposed(a), dy), b.shape)
	}
	return grads, nil
}

func inferGemm(n *node) ([][]int64, error) {
	a, b := n.inputs[0].shape, n.inputs[1].shape
	if len(a) != 2 || len(b) != 2 {
		return nil, fmt.Errorf("%v times %v: both are matrices", a, b)
	}
	rows, inner := a[0], a[1]
	if n.attrs.int("transA", 0) != 0 {
		rows, inner = inner, rows
	}
	inner2, columns := b[0], b[1]
	if n.attrs.int("transB", 0) != 0 {
		inner2, columns = columns, inner2
	}
	if inner != inner2 {
		return nil, fmt.Errorf("%v times %v with transA=%d transB=%d", a, b, n.attrs.int("transA", 0), n.attrs.int("transB", 0))
	}
	shape := []int64{rows, columns}
	if len(n.inputs) > 2 && n.inputs[2] != nil {
		if all, err := broadcast(shape, n.inputs[2].shape); err != nil || !slices.Equal(all, shape) {
			return nil, fmt.Errorf("the addend %v does not fit %v", n.inputs[2].shape, shape)
		}
	}
	return [][]int64{shape}, nil
}

// gemm is alpha op(a) op(b).
func (g *Graph) gemm(a, b *Value, transA, transB bool, alpha float32) *Value {
	attrs := attributes{"alpha": alpha, "transA": int64(0), "transB": int64(0)}
	if transA {
		attrs["transA"] = int64(1)
	}
	if transB {
		attrs["transB"] = int64(1)
	}
	return g.apply("Gemm", attrs, a, b)
}

func vjpGemm(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	a, b := n.inputs[0], n.inputs[1]
	ta, tb := n.attrs.int("transA", 0) != 0, n.attrs.int("transB", 0) != 0
	alpha, beta := n.attrs.float("alpha", 1), n.attrs.float("beta", 1)
	grads := make([]*Value, 3)
	switch {
	case a == b && ta != tb:
		// A Gram matrix: both gradients in one product of the small dy + dy'.
		both := g.Add(dy, g.transposed(dy))
		if tb { // a a'
			grads[0] = g.gemm(both, a, false, false, alpha)
		} else { // a' a
			grads[0] = g.gemm(a, both, false, false, alpha)
		}
		need[1] = false
	default:
		if need[0] && ta {
			grads[0] = g.gemm(b, dy, tb, true, alpha)
		} else if need[0] {
			grads[0] = g.gemm(dy, b, false, !tb, alpha)
		}
		if need[1] && tb {
			grads[1] = g.gemm(dy, a, true, ta, alpha)
		} else if need[1] {
			grads[1] = g.gemm(a, dy, !ta, false, alpha)
		}
	}
	if len(need) > 2 && need[2] {
		grads[2] = g.reduceTo(g.Mul(dy, g.Scalar(float64(beta))), n.inputs[2].shape)
	}
	return grads, nil
}

// ---- Normalisation

func inferAxis(n *node) ([][]int64, error) {
	_, err := axisOf(n.attrs.int("axis", -1), len(n.inputs[0].shape))
	return [][]int64{n.inputs[0].shape}, err
}

func inferLpNormalization(n *node) ([][]int64, error) {
	if p := n.attrs.int("p", 2); p != 2 {
		return nil, fmt.Errorf("p = %d: only the L2 norm is supported", p)
	}
	return inferAxis(n)
}

// vjpSoftmax: dx = y (dy - sum(dy y)).
func vjpSoftmax(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	y := n.outputs[0]
	axis, err := axisOf(n.attrs.int("axis", -1), len(y.shape))
	return []*Value{g.Mul(y, g.Sub(dy, g.ReduceSum(g.Mul(dy, y), int64(axis))))}, err
}

// vjpLpNormalization: y = x / |x|, dx = (dy - y sum(dy y)) / |x|.
func vjpLpNormalization(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x, y := n.inputs[0], n.outputs[0]
	axis, err := axisOf(n.attrs.int("axis", -1), len(y.shape))
	norm := g.reduce("ReduceL2", x, int64(axis))
	return []*Value{g.Div(g.Sub(dy, g.Mul(y, g.ReduceSum(g.Mul(dy, y), int64(axis)))), norm)}, err
}

func inferBatchNorm(n *node) ([][]int64, error) {
	x := n.inputs[0].shape
	if len(x) < 2 {
		return nil, fmt.Errorf("%v has no channels", x)
	}
	for _, p := range n.inputs[1:] {
		if !slices.Equal(p.shape, x[1:2]) {
			return nil, fmt.Errorf("%q is %v for %d channels", p.name, p.shape, x[1])
		}
	}
	return [][]int64{x}, nil
}

// vjpBatchNorm: y = scale xhat + bias with xhat = (x - mean) / sqrt(var+eps).
//
// In training form the mean and the variance are the batch's own, over m
// numbers for each channel, and their gradients are part of x's (Ioffe and
// Szegedy, arXiv 1502.03167):
//
//	dx = scale/sqrt(var+eps) (dy - sum(dy)/m - xhat sum(dy xhat)/m)
func vjpBatchNorm(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	training := n.centred != nil
	if (need[3] || need[4]) && (!training || !need[0]) {
		return nil, errors.New("the mean and the variance have no gradient")
	}
	x, scale, mean, variance := n.inputs[0], n.inputs[1], n.inputs[3], n.inputs[4]
	eps := float64(n.attrs.float("epsilon", 1e-5))
	inverse := g.Div(g.Scalar(1), g.Sqrt(g.Add(variance, g.Scalar(eps)))) // [C]
	channels := x.shape[1]
	perChannel := make([]int64, len(x.shape)) // [1,C,1,...]
	var others []int64
	m := int64(1)
	for i := range perChannel {
		perChannel[i] = 1
		if i != 1 {
			others = append(others, int64(i))
			m *= x.shape[i]
		}
	}
	perChannel[1] = channels
	sum := func(v *Value) *Value { return g.Reshape(g.ReduceSum(v, others...), channels) }
	var sumDy, sumDyXhat *Value
	if training || need[1] || need[2] {
		sumDy = sum(dy)
	}
	switch {
	case training:
		sumDyXhat = g.Mul(inverse, sum(g.Mul(dy, n.centred)))
	case need[1]:
		sumDyXhat = g.Mul(inverse, g.Sub(sum(g.Mul(dy, x)), g.Mul(mean, sumDy)))
	}
	grads := []*Value{nil, sumDyXhat, sumDy, nil, nil}
	switch a := g.Mul(scale, inverse); {
	case !need[0]:
	case training:
		// One pass over x and one over dy, each an affine map per channel.
		share := g.Div(a, g.Scalar(-float64(m)))
		b := g.Mul(g.Mul(share, inverse), sumDyXhat)
		grads[0] = g.Add(g.Mul(dy, g.Reshape(a, perChannel...)), g.affine(n.centred, b, g.Mul(share, sumDy)))
	default:
		grads[0] = g.Mul(dy, g.Reshape(a, perChannel...))
	}
	return grads, nil
}

// affine is x a + b for each channel: a BatchNormalization in inference form
// does it in one pass.
func (g *Graph) affine(x, a, b *Value) *Value {
	zero, one := g.fill(0, a.shape), g.fill(1, a.shape)
	return g.apply("BatchNormalization", attributes{"epsilon": float32(0)}, x, a, b, zero, one)
}

// ---- Reductions

// reducedAxes are the axes that a reduction takes away; all, when none is said.
func reducedAxes(n *node) ([]int, error) {
	var list []int64
	if len(n.inputs) > 1 {
		var err error
		if list, err = constants(n.inputs[1]); err != nil {
			return nil, err
		}
	}
	rank := len(n.inputs[0].shape)
	var axes []int
	for _, a := range list {
		axis, err := axisOf(a, rank)
		if err != nil {
			return nil, err
		}
		axes = append(axes, axis)
	}
	if len(list) == 0 {
		if n.attrs.int("noop_with_empty_axes", 0) != 0 {
			return nil, errors.New("noop_with_empty_axes is not supported")
		}
		for i := range rank {
			axes = append(axes, i)
		}
	}
	return axes, nil
}

func inferReduce(n *node) ([][]int64, error) {
	axes, err := reducedAxes(n)
	if err != nil {
		return nil, err
	}
	var shape []int64
	for i, d := range n.inputs[0].shape {
		switch {
		case !slices.Contains(axes, i):
			shape = append(shape, d)
		case n.attrs.int("keepdims", 1) != 0:
			shape = append(shape, 1)
		}
	}
	return [][]int64{shape}, nil
}

func vjpReduce(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x, y := n.inputs[0], n.outputs[0]
	axes, err := reducedAxes(n)
	if err != nil {
		return nil, err
	}
	kept, count := slices.Clone(x.shape), int64(1)
	for _, a := range axes {
		count *= kept[a]
		kept[a] = 1
	}
	spread := func(v *Value) *Value { return g.likeShape(v, &Value{graph: g, shape: kept}) }
	dy = spread(dy)
	var dx *Value
	switch n.op {
	case "ReduceSum":
		dx = g.Expand(dy, x.shape...)
	case "ReduceMean":
		dx = g.Expand(g.Mul(dy, g.Scalar(1/float64(count))), x.shape...)
	case "ReduceSumSquare":
		dx = g.Mul(x, g.Mul(dy, g.Scalar(2)))
	case "ReduceL2":
		dx = g.Mul(x, g.Div(dy, spread(y)))
	}
	return []*Value{g.likeShape(dx, x)}, nil
}

// ---- Rearranging

func inferConcat(n *node) ([][]int64, error) {
	first := n.inputs[0].shape
	axis, err := axisOf(n.attrs.int("axis", 0), len(first))
	if err != nil {
		return nil, err
	}
	shape := slices.Clone(first)
	for _, in := range n.inputs[1:] {
		if len(in.shape) != len(shape) {
			return nil, fmt.Errorf("%v after %v", in.shape, first)
		}
		for i, d := range in.shape {
			if i == axis {
				shape[i] += d
			} else if d != shape[i] {
				return nil, fmt.Errorf("%v after %v along axis %d", in.shape, first, axis)
			}
		}
	}
	return [][]int64{shape}, nil
}

func vjpConcat(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	axis, err := axisOf(n.attrs.int("axis", 0), len(dy.shape))
	if err != nil {
		return nil, err
	}
	grads := make([]*Value, len(n.inputs))
	at := int64(0)
	for i, in := range n.inputs {
		if need[i] {
			grads[i] = g.Slice(dy, axis, at, at+in.shape[axis])
		}
		at += in.shape[axis]
	}
	return grads, nil
}

// sliced is what a Slice takes along one axis: size numbers from start.
type sliced struct {
	axis              int
	start, step, size int64
}

// slicesOf reads the inputs of a Slice, clamped as ONNX does.
func slicesOf(n *node) ([]sliced, error) {
	var lists [4][]int64
	for i := range lists {
		if i+1 < len(n.inputs) {
			var err error
			if lists[i], err = constants(n.inputs[i+1]); err != nil {
				return nil, err
			}
		}
	}
	starts, ends, axes, steps := lists[0], lists[1], lists[2], lists[3]
	seen := map[int]bool{}
	if len(starts) != len(ends) || axes != nil && len(axes) != len(starts) || steps != nil && len(steps) != len(starts) {
		return nil, errors.New("starts, ends, axes and steps differ in length")
	}
	shape := n.inputs[0].shape
	var all []sliced
	for i := range starts {
		a := int64(i)
		if axes != nil {
			a = axes[i]
		}
		axis, err := axisOf(a, len(shape))
		if err != nil {
			return nil, err
		}
		if seen[axis] {
			return nil, fmt.Errorf("axis %d is said twice", axis)
		}
		seen[axis] = true
		size, step := shape[axis], int64(1)
		if steps != nil {
			step = steps[i]
		}
		if step == 0 || step > size || step < -size {
			if step == 0 {
				return nil, errors.New("a step of 0")
			}
			step = max(-size, min(size, step)) // one number either way
		}
		low, high := int64(0), size
		if step < 0 {
			low, high = -1, size-1
		}
		clamp := func(x int64) int64 {
			if x < 0 {
				x = max(x, -size-1) + size
			}
			return max(low, min(high, x))
		}
		start, end := clamp(starts[i]), clamp(ends[i])
		if starts[i] < -size {
			start = max(low, 0)
		}
		s := sliced{axis: axis, start: start, step: step}
		if step > 0 {
			s.size = (end - start + step - 1) / step
		} else {
			s.size = (start - end - step - 1) / -step
		}
		if s.size < 1 {
			return nil, fmt.Errorf("nothing is left of axis %d", axis)
		}
		all = append(all, s)
	}
	return all, nil
}

func inferSlice(n *node) ([][]int64, error) {
	cuts, err := slicesOf(n)
	if err != nil {
		return nil, err
	}
	shape := slices.Clone(n.inputs[0].shape)
	for _, s := range cuts {
		shape[s.axis] = s.size
	}
	return [][]int64{shape}, nil
}

func vjpSlice(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	cuts, err := slicesOf(n)
	if err != nil {
		return nil, err
	}
	x := n.inputs[0]
	pads := make([]int64, 2*len(x.shape))
	for _, s := range cuts {
		size := x.shape[s.axis]
		if s.step == 1 {
			pads[s.axis], pads[s.axis+len(x.shape)] = s.start, size-s.start-s.size
			continue
		}
		dy = g.scatter(dy, s.axis, size, func(i int64) int64 { return s.start + i*s.step })
	}
	if slices.ContainsFunc(pads, func(p int64) bool { return p != 0 }) {
		dy = g.pad(dy, pads)
	}
	return []*Value{dy}, nil
}

// scatter adds what was gathered along an axis back to where it came from:
// the gradient of a Gather. from(i) is the source of number i.
func (g *Graph) scatter(dy *Value, axis int, size int64, from func(i int64) int64) *Value {
	if g.err != nil {
		return dy
	}
	if dy.shape[axis] > maxList {
		return g.fail("the gradient of %v by %d indices is too large", dy.shape, dy.shape[axis])
	}
	list := make([]int64, dy.shape[axis])
	for i := range list {
		list[i] = from(int64(i))
	}
	shape := slices.Clone(dy.shape)
	shape[axis] = size
	index := make([]int64, len(shape))
	for i := range index {
		index[i] = 1
	}
	index[axis] = int64(len(list))
	to := &Value{graph: g, name: g.name("i"), shape: index, ints: list, kind: integers}
	all := g.apply("Expand", nil, to, g.integers(dy.shape...))
	all.kind = integers
	zeros := g.fill(0, shape)
	return g.apply("ScatterElements", attributes{"axis": int64(axis), "reduction": "add"}, zeros, all, dy)
}

func (g *Graph) pad(v *Value, pads []int64) *Value {
	return g.apply("Pad", attributes{"mode": "constant"}, v, g.integers(pads...))
}

func inferPad(n *node) ([][]int64, error) {
	pads, err := constants(n.inputs[1])
	if err != nil {
		return nil, err
	}
	x := n.inputs[0].shape
	if len(pads) != 2*len(x) {
		return nil, fmt.Errorf("%d pads for %d axes", len(pads), len(x))
	}
	mode := n.attrs.str("mode", "constant")
	if mode != "constant" && mode != "edge" && mode != "reflect" {
		return nil, fmt.Errorf("mode %q is not supported", mode)
	}
	shape := make([]int64, len(x))
	for i, d := range x {
		before, after := pads[i], pads[i+len(x)]
		if limit := d; mode != "constant" {
			if mode == "reflect" {
				limit = d - 1
			}
			if before < 0 || after < 0 || max(before, after) > limit && mode == "reflect" {
				return nil, fmt.Errorf("pads %v do not fit %v with mode %s", pads, x, mode)
			}
		}
		if before > maxElements || after > maxElements || before < -d || after < -d {
			return nil, fmt.Errorf("pads %v do not fit %v", pads, x)
		}
		shape[i] = d + before + after
	}
	return [][]int64{shape}, nil
}

func vjpPad(g *Graph, n *node, dy *Value, need []bool) ([]*Value, error) {
	if len(need) > 2 && need[2] {
		return nil, errors.New("the value that is padded with has no gradient")
	}
	pads, err := constants(n.inputs[1])
	if err != nil {
		return nil, err
	}
	x := n.inputs[0]
	mode := n.attrs.str("mode", "constant")
	if mode == "constant" {
		back := make([]int64, len(pads))
		for i, p := range pads {
			back[i] = -p
		}
		return []*Value{g.pad(dy, back)}, nil
	}
	for axis, size := range x.shape {
		before := pads[axis]
		if before == 0 && pads[axis+len(x.shape)] == 0 {
			continue
		}
		dy = g.scatter(dy, axis, size, func(i int64) int64 {
			at := i - before
			if mode == "reflect" && at < 0 {
				at = -at
			} else if mode == "reflect" && at >= size {
				at = 2*size - 2 - at
			}
			return max(0, min(size-1, at))
		})
	}
	return []*Value{dy}, nil
}

func inferGather(n *node) ([][]int64, error) {
	x := n.inputs[0].shape
	axis, err := axisOf(n.attrs.int("axis", 0), len(x))
	if err != nil {
		return nil, err
	}
	if n.inputs[1].kind != integers || n.inputs[1].from != nil {
		return nil, errors.New("the indices must be constant integers")
	}
	for _, i := range n.inputs[1].ints {
		if i < -x[axis] || i >= x[axis] {
			return nil, fmt.Errorf("index %d of %d", i, x[axis])
		}
	}
	return [][]int64{slices.Concat(x[:axis], n.inputs[1].shape, x[axis+1:])}, nil
}

func vjpGather(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	x := n.inputs[0]
	axis, err := axisOf(n.attrs.int("axis", 0), len(x.shape))
	if err != nil {
		return nil, err
	}
	from, size := n.inputs[1].ints, x.shape[axis]
	// Indices of any shape are a list here; a single one has no axis.
	dy = g.Reshape(dy, slices.Concat(x.shape[:axis], []int64{int64(len(from))}, x.shape[axis+1:])...)
	return []*Value{g.scatter(dy, axis, size, func(i int64) int64 { return (from[i] + size) % size })}, nil
}

func inferReshape(n *node) ([][]int64, error) {
	want, err := constants(n.inputs[1])
	if err != nil {
		return nil, err
	}
	x := n.inputs[0].shape
	shape, free := slices.Clone(want), -1
	known := int64(1)
	for i, d := range shape {
		switch {
		case d == 0 && n.attrs.int("allowzero", 0) == 0 && i < len(x):
			shape[i] = x[i]
		case d == -1 && free < 0:
			free = i
			continue
		case d < 1:
			return nil, fmt.Errorf("%v cannot become %v", x, want)
		}
		if shape[i] > maxElements/known {
			return nil, fmt.Errorf("%v cannot become %v", x, want)
		}
		known *= shape[i]
	}
	if free >= 0 {
		shape[free] = elements(x) / known
		known *= shape[free]
	}
	if known != elements(x) {
		return nil, fmt.Errorf("%v cannot become %v", x, want)
	}
	return [][]int64{shape}, nil
}

func inferFlatten(n *node) ([][]int64, error) {
	x := n.inputs[0].shape
	axis := n.attrs.int("axis", 1)
	if axis < 0 {
		axis += int64(len(x))
	}
	if axis < 0 || axis > int64(len(x)) {
		return nil, fmt.Errorf("axis %d of %v", axis, x)
	}
	return [][]int64{{elements(x[:axis]), elements(x[axis:])}}, nil
}

func vjpReshape(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	return []*Value{g.Reshape(dy, n.inputs[0].shape...)}, nil
}

// permutation is that of a Transpose; the axes reversed when none is said.
func permutation(n *node) []int64 {
	if perm := n.attrs.ints("perm"); perm != nil {
		return perm
	}
	perm := make([]int64, len(n.inputs[0].shape))
	for i := range perm {
		perm[i] = int64(len(perm) - 1 - i)
	}
	return perm
}

func inferTranspose(n *node) ([][]int64, error) {
	x, perm := n.inputs[0].shape, permutation(n)
	shape := make([]int64, len(x))
	sorted := slices.Sorted(slices.Values(perm))
	if len(perm) != len(x) {
		return nil, fmt.Errorf("perm %v of %v", perm, x)
	}
	for i, p := range sorted {
		if p != int64(i) {
			return nil, fmt.Errorf("perm %v of %v", perm, x)
		}
	}
	for i, p := range perm {
		shape[i] = x[p]
	}
	return [][]int64{shape}, nil
}

func vjpTranspose(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	perm := permutation(n)
	back := make([]int64, len(perm))
	for i, p := range perm {
		back[p] = int64(i)
	}
	return []*Value{g.Transpose(dy, back...)}, nil
}

func inferExpand(n *node) ([][]int64, error) {
	want, err := constants(n.inputs[1])
	if err != nil {
		return nil, err
	}
	if err := checkShape(want); err != nil {
		return nil, err
	}
	shape, err := broadcast(n.inputs[0].shape, want)
	return [][]int64{shape}, err
}

func vjpExpand(g *Graph, n *node, dy *Value, _ []bool) ([]*Value, error) {
	return []*Value{g.reduceTo(dy, n.inputs[0].shape)}, nil
}
