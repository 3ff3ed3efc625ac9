package grad

import (
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Reach says which part of another tensor a tensor depends on along each
// spatial axis: its number i depends on the numbers Stride*i-Before to
// Stride*i+After.
type Reach struct {
	Stride, Before, After []int64
}

// Reach computes which part of a tensor [N,C,spatial...] another one depends
// on, so that a large tensor can be computed in overlapping parts. The error is
// Invalid, and names the operator, if an operator between them mixes all places
// or moves them.
func (g *Graph) Reach(v, of *Value) (Reach, error) {
	const op = "grad.Reach"
	if g.err != nil {
		return Reach{}, g.err
	}
	if len(of.shape) < 3 {
		return Reach{}, face.Errorf(face.Invalid, op, "%v has no spatial axes", of.shape)
	}
	rank := len(of.shape) - 2
	known := map[*Value]Reach{of: {
		slices.Repeat([]int64{1}, rank), make([]int64, rank), make([]int64, rank),
	}}
	wanted := g.used(g.nodes, []*Value{v})
	for _, n := range g.nodes {
		if !slices.ContainsFunc(n.outputs, func(o *Value) bool { return wanted[o] }) {
			continue
		}
		var all []Reach
		for _, in := range n.inputs {
			if r, ok := known[in]; ok {
				all = append(all, r)
			}
		}
		if len(all) == 0 {
			continue
		}
		r, ok := reachOf(n, all)
		if !ok {
			return Reach{}, face.Errorf(face.Invalid, op, "node %s (%s) cannot be computed in parts", n.name, n.op)
		}
		known[n.outputs[0]] = r
	}
	r, ok := known[v]
	if !ok {
		return Reach{}, face.Errorf(face.Invalid, op, "%s does not depend on %s", v.name, of.name)
	}
	return r, nil
}

func reachOf(n *node, inputs []Reach) (Reach, bool) {
	first := inputs[0]
	out := Reach{slices.Clone(first.Stride), slices.Clone(first.Before), slices.Clone(first.After)}
	switch n.op {
	case "Conv", "MaxPool", "AveragePool":
		kernel := n.attrs.ints("kernel_shape")
		if n.op == "Conv" {
			kernel = n.inputs[1].shape[2:]
		}
		w, err := windowOf(n, kernel)
		if err != nil || len(inputs) > 1 {
			return Reach{}, false
		}
		for i := range out.Stride {
			out.Before[i] += first.Stride[i] * w.before[i]
			out.After[i] += first.Stride[i] * (w.extent(i) - 1 - w.before[i])
			out.Stride[i] *= w.strides[i]
		}
		return out, true
	case "Slice":
		axes, err := constants(n.inputs[3])
		if err != nil || !slices.Equal(axes, []int64{1}) {
			return Reach{}, false
		}
	case "Concat":
		if n.attrs.int("axis", 0) != 1 {
			return Reach{}, false
		}
	case "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Sqrt", "Exp", "Log", "Neg", "Identity", "Clip", "HardSigmoid",
		"Add", "Sub", "Mul", "Div", "Sum", "BatchNormalization":
	default:
		return Reach{}, false
	}
	for _, r := range inputs[1:] {
		if !slices.Equal(r.Stride, out.Stride) {
			return Reach{}, false
		}
		for i := range out.Stride {
			out.Before[i], out.After[i] = max(out.Before[i], r.Before[i]), max(out.After[i], r.After[i])
		}
	}
	return out, true
}
