package grad

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// Cut writes the part of the model that computes some layers, which become its
// outputs: weights and nodes that they do not need are left out. The same
// model and layers give the same bytes.
func (m *Model) Cut(layers ...string) ([]byte, error) {
	const op = "grad.Cut"
	wanted, weights := map[*onnxpb.Node]bool{}, map[string]bool{}
	var reach func(name string)
	reach = func(name string) {
		weights[name] = true
		n := m.maker[name]
		if n == nil || wanted[n] {
			return
		}
		wanted[n] = true
		for _, in := range n.Input {
			reach(in)
		}
	}
	out := &onnxpb.Graph{Name: m.graph.Name}
	for _, name := range layers {
		if m.maker[name] == nil {
			return nil, face.Errorf(face.Invalid, op, "the model has no layer %q", name)
		}
		reach(name)
		// Of any shape: the input's may be any, too.
		out.Output = append(out.Output, &onnxpb.ValueInfo{
			Name: name, Type: &onnxpb.Type{TensorType: &onnxpb.TensorType{ElemType: onnxpb.Tensor_FLOAT}},
		})
	}
	for _, n := range m.graph.Node {
		if wanted[n] {
			out.Node = append(out.Node, n)
		}
	}
	for _, t := range m.graph.Initializer {
		if weights[t.Name] {
			out.Initializer = append(out.Initializer, t)
		}
	}
	out.Input = slices.DeleteFunc(slices.Clone(m.graph.Input), func(v *onnxpb.ValueInfo) bool { return !weights[v.Name] })
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&onnxpb.Model{
		IrVersion: m.irVersion, ProducerName: "likeness", Graph: out,
		OpsetImport: []*onnxpb.OperatorSet{{Version: m.opset}},
	})
	return data, face.Wrap(face.Internal, op, err)
}
