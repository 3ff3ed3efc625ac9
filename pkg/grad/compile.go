package grad

import (
	"context"
	"encoding/binary"
	"math"
	"slices"

	"github.com/x448/float16"
	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// opset and ir are the versions that graphs are written in.
const (
	opset     = 18
	irVersion = 8
)

// Port is a float32 tensor that goes into or comes out of a program.
type Port struct {
	Name  string
	Shape []int64
}

// Backend runs graphs. internal/ort implements it; this package knows no
// runtime.
//
// If a backend has a method Provider() string that returns "cpu", a small
// program finds out whether it has ONNX Runtime's convolutions over blocks of
// channels. Convolutions whose weights are not constant are then written in
// that form.
type Backend interface {
	// Compile makes a program of an ONNX model with tensors for its inputs
	// and outputs, which have the given names and shapes. Invalid: the runtime
	// refuses the model.
	Compile(model []byte, inputs, outputs []Port) (Program, error)
}

// Program is a graph ready to run. It is not safe for concurrent use.
type Program interface {
	// Input is the memory of the i-th input, row-major. It keeps its numbers
	// from run to run.
	Input(i int) []float32
	// Output is the memory of the i-th output, valid until the next Run.
	Output(i int) []float32
	// Run computes the outputs. When ctx ends, the run is terminated, and the
	// error is Deadline or Canceled.
	Run(ctx context.Context) error
	// Close releases the tensors and the session.
	Close() error
}

// Compile makes a program that computes some values. Its inputs are those of
// the graph that any output depends on, in the order in which [Graph.Input]
// made them: [Graph.Inputs] tells which they are. What no output needs is
// left out.
func (g *Graph) Compile(b Backend, outputs ...*Value) (Program, error) {
	// A runtime requires that every output is made by a node, is listed once,
	// and has axes.
	outputs = slices.Clone(outputs)
	for i, v := range outputs {
		switch {
		case len(v.shape) == 0:
			outputs[i] = g.Reshape(v, 1)
		case v.from == nil || slices.Contains(outputs[:i], v):
			outputs[i] = g.apply("Identity", nil, v)
		}
	}
	nodes := g.nodes
	if g.err == nil && g.learns(outputs) {
		if block := channelBlock(b); block > 0 {
			nodes = g.blockedNodes(outputs, block)
		}
	}
	model, err := g.marshal(nodes, outputs...)
	if err != nil {
		return nil, err
	}
	ports := func(values []*Value) []Port {
		p := make([]Port, len(values))
		for i, v := range values {
			p[i] = Port{v.name, v.shape}
		}
		return p
	}
	return b.Compile(model, ports(g.Inputs(outputs...)), ports(outputs))
}

// Inputs are the inputs that some values depend on, in their order.
func (g *Graph) Inputs(outputs ...*Value) []*Value {
	used := g.used(g.nodes, outputs)
	return slices.DeleteFunc(slices.Clone(g.inputs), func(v *Value) bool { return !used[v] })
}

// used are the values that others depend on, with themselves.
func (g *Graph) used(nodes []*node, outputs []*Value) map[*Value]bool {
	used := map[*Value]bool{}
	for _, v := range outputs {
		used[v] = true
	}
	for _, n := range slices.Backward(nodes) {
		if !slices.ContainsFunc(n.outputs, func(v *Value) bool { return used[v] }) {
			continue
		}
		for _, in := range n.inputs {
			if in != nil {
				used[in] = true
			}
		}
	}
	return used
}

// Marshal writes the part of the graph that computes some values as an ONNX
// model. Each of them must be computed by a node.
func (g *Graph) Marshal(outputs ...*Value) ([]byte, error) { return g.marshal(g.nodes, outputs...) }

// marshal is Marshal of nodes that may be others than the graph's own.
func (g *Graph) marshal(nodes []*node, outputs ...*Value) ([]byte, error) {
	if g.err != nil {
		return nil, g.err
	}
	if len(outputs) == 0 {
		return nil, face.Errorf(face.Invalid, "grad.Marshal", "no outputs")
	}
	used := g.used(nodes, outputs)
	out := &onnxpb.Graph{Name: "likeness"}
	model := &onnxpb.Model{
		IrVersion: irVersion, ProducerName: "likeness", Graph: out,
		OpsetImport: []*onnxpb.OperatorSet{{Version: opset}},
	}
	for i, v := range outputs {
		if v.graph != g || v.from == nil || v.kind == integers {
			return nil, face.Errorf(face.Invalid, "grad.Marshal", "output %d is not a tensor that a node of this graph computes", i)
		}
		if slices.Contains(outputs[:i], v) {
			return nil, face.Errorf(face.Invalid, "grad.Marshal", "output %q is asked for twice", v.name)
		}
		out.Output = append(out.Output, valueInfo(v))
	}
	for _, v := range g.inputs {
		if used[v] {
			out.Input = append(out.Input, valueInfo(v))
		}
	}
	written := map[*Value]bool{}
	initializer := func(v *Value) {
		if written[v] || v.from != nil || v.kind == input {
			return
		}
		written[v] = true
		t := tensor(v)
		if v.stored != Float32 {
			name := t.Name
			t.Name = g.free(name + ":stored")
			out.Node = append(out.Node, &onnxpb.Node{
				Name: t.Name + ":cast", OpType: "Cast", Input: []string{t.Name}, Output: []string{name},
				Attribute: encodeAttributes(attributes{"to": int64(onnxpb.Tensor_FLOAT)}),
			})
		}
		out.Initializer = append(out.Initializer, t)
	}
	for _, n := range nodes {
		if !slices.ContainsFunc(n.outputs, func(v *Value) bool { return used[v] }) {
			continue
		}
		if n.domain != "" && len(model.OpsetImport) == 1 {
			model.OpsetImport = append(model.OpsetImport, &onnxpb.OperatorSet{Domain: &n.domain, Version: 1})
		}
		m := &onnxpb.Node{Name: n.name, OpType: n.op, Domain: n.domain, Attribute: encodeAttributes(n.attrs)}
		for _, in := range n.inputs {
			name := ""
			if in != nil {
				name = in.name
				initializer(in)
			}
			m.Input = append(m.Input, name)
		}
		for i, v := range n.outputs {
			if i > 0 && !used[v] && n.op != "TopK" { // which needs both
				break // indices that nobody asked for
			}
			m.Output = append(m.Output, v.name)
		}
		out.Node = append(out.Node, m)
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(model)
	return data, face.Wrap(face.Internal, "grad.Marshal", err)
}

func valueInfo(v *Value) *onnxpb.ValueInfo {
	shape := &onnxpb.Shape{}
	for _, d := range v.shape {
		shape.Dim = append(shape.Dim, &onnxpb.Dimension{Size: &onnxpb.Dimension_Value{Value: d}})
	}
	return &onnxpb.ValueInfo{Name: v.name, Type: &onnxpb.Type{
		TensorType: &onnxpb.TensorType{ElemType: onnxpb.Tensor_FLOAT, Shape: shape},
	}}
}

func tensor(v *Value) *onnxpb.Tensor {
	t := &onnxpb.Tensor{Name: v.name, Dims: v.shape, DataType: onnxpb.Tensor_FLOAT}
	if v.kind == integers {
		t.DataType = onnxpb.Tensor_INT64
		for _, x := range v.ints {
			t.RawData = binary.LittleEndian.AppendUint64(t.RawData, uint64(x)) //nolint:gosec // the same bits
		}
		return t
	}
	switch v.stored {
	case Float16:
		t.DataType = onnxpb.Tensor_FLOAT16
		for _, x := range v.floats {
			t.RawData = binary.LittleEndian.AppendUint16(t.RawData, float16.Fromfloat32(x).Bits())
		}
		return t
	case Int8:
		t.DataType = onnxpb.Tensor_INT8
		for _, x := range v.floats {
			t.RawData = append(t.RawData, byte(int8(x)))
		}
		return t
	}
	t.RawData = make([]byte, 4*len(v.floats))
	for i, x := range v.floats {
		binary.LittleEndian.PutUint32(t.RawData[4*i:], math.Float32bits(x))
	}
	return t
}

func encodeAttributes(attrs attributes) []*onnxpb.Attribute {
	var all []*onnxpb.Attribute
	for name, value := range attrs {
		a := &onnxpb.Attribute{Name: name}
		switch v := value.(type) {
		case int64:
			a.Type, a.I = onnxpb.Attribute_INT, &v
		case float32:
			a.Type, a.F = onnxpb.Attribute_FLOAT, &v
		case string:
			a.Type, a.S = onnxpb.Attribute_STRING, []byte(v)
		case []float32:
			a.Type, a.Floats = onnxpb.Attribute_FLOATS, v
		case []int64:
			a.Type, a.Ints = onnxpb.Attribute_INTS, v
		}
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *onnxpb.Attribute) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}
