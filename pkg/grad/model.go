package grad

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/x448/float16"
	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// Model is an ONNX model as it was read. It is not changed by importing it.
type Model struct {
	graph     *onnxpb.Graph
	opset     int64
	irVersion int64
	tensor    map[string]*onnxpb.Tensor
	maker     map[string]*onnxpb.Node // of each tensor that a node computes
}

// oldestOpset is the oldest opset whose differences from 18 the import handles.
const oldestOpset = 6

// Parse reads an ONNX model. The error is Invalid if the bytes are no valid
// model. Whether the operators are known is checked when the model is imported.
func Parse(data []byte) (*Model, error) {
	const op = "grad.Parse"
	var p onnxpb.Model
	if err := proto.Unmarshal(data, &p); err != nil {
		return nil, face.Errorf(face.Invalid, op, "not an ONNX model: %v", err)
	}
	m := &Model{graph: p.Graph, irVersion: p.IrVersion, tensor: map[string]*onnxpb.Tensor{}, maker: map[string]*onnxpb.Node{}}
	for _, o := range p.OpsetImport {
		if d := o.GetDomain(); d == "" || d == "ai.onnx" {
			m.opset = o.Version
		}
	}
	if m.graph == nil || len(m.graph.Node) == 0 {
		return nil, face.Errorf(face.Invalid, op, "not an ONNX model: it has no graph")
	}
	if m.opset < oldestOpset {
		return nil, face.Errorf(face.Invalid, op, "opset %d is older than %d", m.opset, oldestOpset)
	}
	resolveStoredWeights(m.graph)
	for _, t := range m.graph.Initializer {
		if m.tensor[t.Name] != nil {
			return nil, face.Errorf(face.Invalid, op, "two weights are called %q", t.Name)
		}
		m.tensor[t.Name] = t
	}
	given := map[string]bool{}
	for _, in := range m.graph.Input {
		given[in.Name] = true
	}
	for _, n := range m.graph.Node {
		for _, out := range n.Output {
			if out == "" {
				continue
			}
			if m.maker[out] != nil || m.tensor[out] != nil || given[out] {
				return nil, face.Errorf(face.Invalid, op, "two nodes, or a node and a weight or an input, give %q", out)
			}
			m.maker[out] = n
		}
	}
	return m, nil
}

// resolveStoredWeights replaces each weight in half precision, or in bytes, and
// the Cast that follows it by one float32 tensor with the name of the Cast's output.
func resolveStoredWeights(g *onnxpb.Graph) {
	readers := map[string]int{}
	for _, n := range g.Node {
		for _, in := range n.Input {
			readers[in]++
		}
	}
	stored := map[string]*onnxpb.Tensor{}
	for _, t := range g.Initializer {
		if (t.DataType == onnxpb.Tensor_FLOAT16 || t.DataType == onnxpb.Tensor_INT8) && readers[t.Name] == 1 {
			stored[t.Name] = t
		}
	}
	g.Node = slices.DeleteFunc(g.Node, func(n *onnxpb.Node) bool {
		if n.OpType != "Cast" || len(n.Input) != 1 || len(n.Output) != 1 || len(n.Attribute) != 1 ||
			n.Attribute[0].GetI() != int64(onnxpb.Tensor_FLOAT) || readers[n.Output[0]] == 0 {
			return false
		}
		t := stored[n.Input[0]]
		if t == nil {
			return false
		}
		_, numbers, _, err := readTensor(t)
		if err != nil {
			return false // importing it says so
		}
		t.Name, t.DataType, t.RawData, t.Int32Data = n.Output[0], onnxpb.Tensor_FLOAT, rawFloats(numbers), nil
		return true
	})
}

// rawFloats are numbers as a tensor keeps them.
func rawFloats(numbers []float32) []byte {
	raw := make([]byte, 0, 4*len(numbers))
	for _, x := range numbers {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return raw
}

// Inputs are the names of the model's inputs, without weights.
func (m *Model) Inputs() []string {
	var names []string
	for _, in := range m.graph.Input {
		if m.tensor[in.Name] == nil {
			names = append(names, in.Name)
		}
	}
	return names
}

// Outputs are the names of the model's outputs.
func (m *Model) Outputs() []string {
	var names []string
	for _, out := range m.graph.Output {
		names = append(names, out.Name)
	}
	return names
}

// InputPorts are the model's inputs, without weights, with the shapes that the
// model declares: -1 is a size that it leaves free.
func (m *Model) InputPorts() []Port {
	return m.ports(slices.DeleteFunc(slices.Clone(m.graph.Input), func(v *onnxpb.ValueInfo) bool { return m.tensor[v.Name] != nil }))
}

// OutputPorts are the model's outputs with the shapes that the model declares.
func (m *Model) OutputPorts() []Port { return m.ports(m.graph.Output) }

func (m *Model) ports(values []*onnxpb.ValueInfo) []Port {
	var ports []Port
	for _, v := range values {
		p := Port{Name: v.Name}
		for _, d := range v.GetType().GetTensorType().GetShape().GetDim() {
			size := int64(-1)
			if n, fixed := d.Size.(*onnxpb.Dimension_Value); fixed && n.Value > 0 {
				size = n.Value
			}
			p.Shape = append(p.Shape, size)
		}
		ports = append(ports, p)
	}
	return ports
}

// Layers are the names of all tensors that nodes compute, in their order. A
// graph can be cut at each of them.
func (m *Model) Layers() []string {
	var names []string
	for _, n := range m.graph.Node {
		for _, out := range n.Output {
			if out != "" {
				names = append(names, out)
			}
		}
	}
	return names
}

// readTensor reads a tensor's numbers: floats from any float type, or integers.
func readTensor(t *onnxpb.Tensor) (shape []int64, floats []float32, ints []int64, err error) {
	if t == nil {
		return nil, nil, nil, errors.New("it has no tensor")
	}
	shape = slices.Clone(t.Dims)
	n := int64(1)
	for _, d := range shape {
		if d < 0 || d > 0 && n > maxElements/d {
			return nil, nil, nil, fmt.Errorf("shape %v", shape)
		}
		n *= d
	}
	if len(t.ExternalData) > 0 {
		return nil, nil, nil, fmt.Errorf("the numbers lie in another file")
	}
	size := map[onnxpb.Tensor_Type]int64{
		onnxpb.Tensor_FLOAT: 4, onnxpb.Tensor_FLOAT16: 2, onnxpb.Tensor_DOUBLE: 8, onnxpb.Tensor_INT64: 8, onnxpb.Tensor_INT32: 4, onnxpb.Tensor_INT8: 1,
	}[t.DataType]
	if size == 0 {
		return nil, nil, nil, fmt.Errorf("its type %v is not supported", t.DataType)
	}
	raw := t.RawData
	have := int64(len(raw)) / size
	if len(raw) == 0 {
		have = int64(max(len(t.FloatData), len(t.DoubleData), len(t.Int64Data), len(t.Int32Data)))
	}
	if have != n || int64(len(raw))%size != 0 {
		return nil, nil, nil, fmt.Errorf("%d numbers for the shape %v", have, shape)
	}
	little := binary.LittleEndian
	for i := range int(n) {
		switch {
		case t.DataType == onnxpb.Tensor_FLOAT && len(raw) > 0:
			floats = append(floats, math.Float32frombits(little.Uint32(raw[4*i:])))
		case t.DataType == onnxpb.Tensor_FLOAT16 && len(raw) > 0:
			floats = append(floats, float16.Frombits(little.Uint16(raw[2*i:])).Float32())
		case t.DataType == onnxpb.Tensor_INT8 && len(raw) > 0:
			floats = append(floats, float32(int8(raw[i])))
		case t.DataType == onnxpb.Tensor_DOUBLE && len(raw) > 0:
			floats = append(floats, float32(math.Float64frombits(little.Uint64(raw[8*i:]))))
		case t.DataType == onnxpb.Tensor_INT64 && len(raw) > 0:
			ints = append(ints, int64(little.Uint64(raw[8*i:]))) //nolint:gosec // the same bits
		case t.DataType == onnxpb.Tensor_INT32 && len(raw) > 0:
			ints = append(ints, int64(int32(little.Uint32(raw[4*i:])))) //nolint:gosec // the same bits
		case t.DataType == onnxpb.Tensor_FLOAT && i < len(t.FloatData):
			floats = append(floats, t.FloatData[i])
		case t.DataType == onnxpb.Tensor_FLOAT16 && i < len(t.Int32Data):
			floats = append(floats, float16.Frombits(uint16(t.Int32Data[i])).Float32()) //nolint:gosec // halves in the low bits
		case t.DataType == onnxpb.Tensor_DOUBLE && i < len(t.DoubleData):
			floats = append(floats, float32(t.DoubleData[i]))
		case t.DataType == onnxpb.Tensor_INT64 && i < len(t.Int64Data):
			ints = append(ints, t.Int64Data[i])
		case t.DataType == onnxpb.Tensor_INT32 && i < len(t.Int32Data):
			ints = append(ints, int64(t.Int32Data[i]))
		default:
			return nil, nil, nil, fmt.Errorf("its numbers are of another type than %v", t.DataType)
		}
	}
	return shape, floats, ints, nil
}

// decodeAttributes reads a node's attributes; a tensor becomes a *Tensor of
// the format.
func decodeAttributes(n *onnxpb.Node) (attributes, error) {
	all := attributes{}
	for _, a := range n.Attribute {
		switch a.Type {
		case onnxpb.Attribute_INT:
			all[a.Name] = a.GetI()
		case onnxpb.Attribute_FLOAT:
			all[a.Name] = a.GetF()
		case onnxpb.Attribute_STRING:
			all[a.Name] = string(a.GetS())
		case onnxpb.Attribute_INTS:
			all[a.Name] = slices.Clone(a.Ints)
		case onnxpb.Attribute_FLOATS:
			all[a.Name] = a.Floats
		case onnxpb.Attribute_TENSOR:
			all[a.Name] = a.T
		default:
			return nil, fmt.Errorf("attribute %q is of a type that is not supported", a.Name)
		}
	}
	return all, nil
}
