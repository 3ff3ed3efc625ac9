package grad

import (
	"fmt"

	"github.com/likeness-id/likeness/pkg/face"
)

// Field is what one axis of a layer sees of an axis of the input: place i of
// the layer depends on Size numbers of the input from Start + i*Stride on.
// Some of them lie in the padding.
type Field struct{ Start, Stride, Size int64 }

// Fields works out the receptive fields of a layer, one for each spatial axis
// (Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
// Networks", Distill 2019; here over all paths between input and layer). A
// layer that is not a map of places any more sees everything: a stride of 0.
// Invalid: the layer does not depend on the input, or an operator moves places
// in a way that is not known.
func (g *Graph) Fields(layer, input *Value) ([]Field, error) {
	const op = "grad.Fields"
	rank := len(input.shape) - 2
	if rank < 1 {
		return nil, face.Errorf(face.Invalid, op, "%v has no spatial axes", input.shape)
	}
	whole := make([]Field, rank)
	start := make([]Field, rank)
	for i := range rank {
		whole[i] = Field{0, 0, input.shape[2+i]}
		start[i] = Field{0, 1, 1}
	}
	fields := map[*Value][]Field{input: start}
	for _, n := range g.nodes {
		var seen []Field
		for _, in := range n.inputs {
			f := fields[in]
			if in == nil || f == nil {
				continue
			}
			if seen == nil {
				seen = f
				continue
			}
			var err error
			if seen, err = union(seen, f); err != nil {
				return nil, face.Errorf(face.Invalid, op, "node %s (%s): %v", n.name, n.op, err)
			}
		}
		if seen == nil {
			continue
		}
		out := n.outputs[0]
		switch n.op {
		case "Conv", "MaxPool", "AveragePool":
			kernel := n.attrs.ints("kernel_shape")
			if n.op == "Conv" {
				kernel = n.inputs[1].shape[2:]
			}
			win, err := windowOf(n, kernel)
			if err != nil {
				return nil, face.Errorf(face.Invalid, op, "node %s (%s): %v", n.name, n.op, err)
			}
			moved := make([]Field, rank)
			for i, f := range seen {
				moved[i] = Field{f.Start - win.before[i]*f.Stride, f.Stride * win.strides[i], f.Size + (win.extent(i)-1)*f.Stride}
			}
			seen = moved
		case "Concat", "Identity", "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Clip", "BatchNormalization",
			"Add", "Sub", "Mul", "Div", "Sum", "Sqrt", "Exp", "Log", "Neg":
			// Places stay where they are.
		default:
			if len(out.shape) == len(input.shape) {
				return nil, face.Errorf(face.Invalid, op, "node %s: what %s does to places is not known", n.name, n.op)
			}
			seen = whole
		}
		for _, v := range n.outputs {
			fields[v] = seen
		}
	}
	if fields[layer] == nil {
		return nil, face.Errorf(face.Invalid, op, "layer %q does not depend on %q", layer.name, input.name)
	}
	return fields[layer], nil
}

// union is what two paths see together.
func union(a, b []Field) ([]Field, error) {
	out := make([]Field, len(a))
	for i := range a {
		if a[i].Stride != b[i].Stride {
			return nil, fmt.Errorf("paths with strides %d and %d meet", a[i].Stride, b[i].Stride)
		}
		start := min(a[i].Start, b[i].Start)
		end := max(a[i].Start+a[i].Size, b[i].Start+b[i].Size)
		out[i] = Field{start, a[i].Stride, end - start}
	}
	return out, nil
}
