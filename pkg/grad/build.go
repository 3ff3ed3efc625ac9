package grad

// Window says how a kernel moves over the spatial axes of [N,C,spatial...]:
// one number for each axis, or nil for ones (Pads: zeros).
type Window struct {
	Kernel             []int64 // pooling only: a convolution's is its weights'
	Strides, Dilations []int64 // AveragePool takes no dilations
	Pads               []int64 // before each axis, then after each
	Group              int64   // convolutions only; 0 is 1
}

func (w Window) attributes() attributes {
	a := attributes{}
	for name, list := range map[string][]int64{
		"kernel_shape": w.Kernel, "strides": w.Strides, "dilations": w.Dilations, "pads": w.Pads,
	} {
		if list != nil {
			a[name] = list
		}
	}
	if w.Group != 0 {
		a["group"] = w.Group
	}
	return a
}

// Conv convolves x [N,C,spatial...] with weights [O,C/group,kernel...]; bias
// [O] may be nil.
func (g *Graph) Conv(x, weights, bias *Value, w Window) *Value {
	return g.apply("Conv", w.attributes(), optional(x, weights, bias)...)
}

// ConvTranspose is the transposed convolution of x [N,C,spatial...] with
// weights [C,O/group,kernel...]; bias [O] may be nil.
func (g *Graph) ConvTranspose(x, weights, bias *Value, w Window) *Value {
	return g.apply("ConvTranspose", w.attributes(), optional(x, weights, bias)...)
}

// optional leaves out a last input that is nil.
func optional(inputs ...*Value) []*Value {
	for len(inputs) > 0 && inputs[len(inputs)-1] == nil {
		inputs = inputs[:len(inputs)-1]
	}
	return inputs
}

// MaxPool takes the maximum of each window.
func (g *Graph) MaxPool(x *Value, w Window) *Value { return g.apply("MaxPool", w.pooling(), x) }

// AveragePool takes the mean of each window without its padding. Pads must be
// smaller than the kernel, as for MaxPool.
func (g *Graph) AveragePool(x *Value, w Window) *Value {
	return g.apply("AveragePool", w.pooling(), x)
}

func (w Window) pooling() attributes {
	a := w.attributes()
	delete(a, "group")
	return a
}

// GlobalAveragePool is the mean over all spatial axes, which stay with size 1.
func (g *Graph) GlobalAveragePool(x *Value) *Value { return g.apply("GlobalAveragePool", nil, x) }

// Elementwise functions. The caller keeps the inputs of Log and Sqrt in range.

func (g *Graph) Relu(x *Value) *Value    { return g.apply("Relu", nil, x) }
func (g *Graph) Sigmoid(x *Value) *Value { return g.apply("Sigmoid", nil, x) }
func (g *Graph) Sqrt(x *Value) *Value    { return g.apply("Sqrt", nil, x) }
func (g *Graph) Exp(x *Value) *Value     { return g.apply("Exp", nil, x) }
func (g *Graph) Log(x *Value) *Value     { return g.apply("Log", nil, x) }

// LeakyRelu is x above 0 and alpha x below.
func (g *Graph) LeakyRelu(x *Value, alpha float64) *Value {
	return g.apply("LeakyRelu", attributes{"alpha": float32(alpha)}, x)
}

// PRelu is x above 0 and slope x below; slope is repeated as arithmetic is.
func (g *Graph) PRelu(x, slope *Value) *Value { return g.apply("PRelu", nil, x, slope) }

// Clip limits x to low..high.
func (g *Graph) Clip(x *Value, low, high float64) *Value {
	return g.apply("Clip", nil, x, g.Constant([]float32{float32(low)}), g.Constant([]float32{float32(high)}))
}

// Arithmetic. Axes of size 1, and those missing in front, are repeated.

func (g *Graph) Add(a, b *Value) *Value { return g.apply("Add", nil, a, b) }
func (g *Graph) Sub(a, b *Value) *Value { return g.apply("Sub", nil, a, b) }
func (g *Graph) Mul(a, b *Value) *Value { return g.apply("Mul", nil, a, b) }
func (g *Graph) Div(a, b *Value) *Value { return g.apply("Div", nil, a, b) }

// Scale is x times a number.
func (g *Graph) Scale(x *Value, by float64) *Value { return g.Mul(x, g.Scalar(by)) }

// MatMul multiplies matrices [...,M,K] and [...,K,N].
func (g *Graph) MatMul(a, b *Value) *Value { return g.apply("MatMul", nil, a, b) }

// Gemm is alpha op(a) op(b) for matrices, where op transposes or does not.
func (g *Graph) Gemm(a, b *Value, transA, transB bool, alpha float64) *Value {
	return g.gemm(a, b, transA, transB, float32(alpha))
}

// Gram is the matrix F F' of the activations F of x [1,C,spatial...], a row
// for each channel: shape [C,C]. It is not divided by anything.
func (g *Graph) Gram(x *Value) *Value {
	f := g.Reshape(x, x.Dim(1), -1)
	return g.gemm(f, f, false, true, 1)
}

// Softmax is taken along an axis.
func (g *Graph) Softmax(x *Value, axis int) *Value {
	return g.apply("Softmax", attributes{"axis": int64(axis)}, x)
}

// Normalize divides by the L2 norm along an axis. If the norm is 0, the
// gradient is not finite.
func (g *Graph) Normalize(x *Value, axis int) *Value {
	return g.apply("LpNormalization", attributes{"axis": int64(axis), "p": int64(2)}, x)
}

// BatchNorm is scale (x - mean) / sqrt(variance + epsilon) + bias for each
// channel: the form for inference.
func (g *Graph) BatchNorm(x, scale, bias, mean, variance *Value, epsilon float64) *Value {
	return g.apply("BatchNormalization", attributes{"epsilon": float32(epsilon)}, x, scale, bias, mean, variance)
}

// BatchNormTraining normalises by the mean and the (biased) variance of x
// itself, which are returned, each [C], for running averages.
func (g *Graph) BatchNormTraining(x, scale, bias *Value, epsilon float64) (y, mean, variance *Value) {
	axes := []int64{0}
	for i := 2; i < len(x.shape); i++ {
		axes = append(axes, int64(i))
	}
	mean = g.ReduceMean(x, axes...)
	// The variance is computed from the centred numbers: the mean of the
	// squares minus the square of the mean would lose digits.
	centred := g.Sub(x, mean)
	squares := g.reduce("ReduceSumSquare", centred, axes...)
	variance = g.Div(squares, g.Scalar(float64(x.Len())/float64(x.Dim(1))))
	mean, variance = g.Reshape(mean, x.Dim(1)), g.Reshape(variance, x.Dim(1))
	y = g.add(&node{
		op: "BatchNormalization", attrs: attributes{"epsilon": float32(epsilon)}, centred: centred,
		inputs: []*Value{x, scale, bias, mean, variance},
	})
	return y, mean, variance
}

// Reductions keep the axes they reduce, with size 1. No axes means all.

func (g *Graph) ReduceSum(x *Value, axes ...int64) *Value { return g.reduce("ReduceSum", x, axes...) }

func (g *Graph) ReduceMean(x *Value, axes ...int64) *Value { return g.reduce("ReduceMean", x, axes...) }

// SumSquares is the sum of all squares: shape [1].
func (g *Graph) SumSquares(x *Value) *Value {
	return g.Reshape(g.reduce("ReduceSumSquare", x), 1)
}

// Total is the sum of all numbers: shape [1].
func (g *Graph) Total(x *Value) *Value { return g.Reshape(g.ReduceSum(x), 1) }

func (g *Graph) reduce(op string, x *Value, axes ...int64) *Value {
	if len(axes) == 0 {
		return g.apply(op, nil, x)
	}
	return g.apply(op, nil, x, g.integers(axes...))
}

// TopK is the k largest numbers along an axis, the largest first. It has no
// gradient.
func (g *Graph) TopK(x *Value, k int64, axis int) *Value {
	return g.apply("TopK", attributes{"axis": int64(axis)}, x, g.integers(k))
}

// Concat joins tensors along an axis.
func (g *Graph) Concat(axis int, all ...*Value) *Value {
	return g.apply("Concat", attributes{"axis": int64(axis)}, all...)
}

// Slice takes start..end of an axis; numbers below 0 count from its end.
func (g *Graph) Slice(x *Value, axis int, start, end int64) *Value {
	return g.apply("Slice", nil, x, g.integers(start), g.integers(end), g.integers(int64(axis)))
}

// Pad adds to every axis, before each and then after each; less than zero cuts.
// The mode is "constant" (zeros), "edge" or "reflect".
func (g *Graph) Pad(x *Value, mode string, pads ...int64) *Value {
	return g.apply("Pad", attributes{"mode": mode}, x, g.integers(pads...))
}

// Enlarge repeats every number along the spatial axes, whole times each.
func (g *Graph) Enlarge(x *Value, times ...int64) *Value { return g.enlarge(x, times) }

// Reshape gives the numbers another shape; one axis may be -1, the rest.
func (g *Graph) Reshape(x *Value, shape ...int64) *Value {
	return g.apply("Reshape", nil, x, g.integers(shape...))
}

// Transpose puts axis perm[i] in place i.
func (g *Graph) Transpose(x *Value, perm ...int64) *Value {
	return g.apply("Transpose", attributes{"perm": perm}, x)
}

// Expand repeats axes of size 1, and adds axes in front.
func (g *Graph) Expand(x *Value, shape ...int64) *Value {
	return g.apply("Expand", nil, x, g.integers(shape...))
}
