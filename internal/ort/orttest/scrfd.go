package orttest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// SCRFD says what the file is like that [SCRFDDetector] writes.
type SCRFD struct {
	Anchors int  // in a cell: 1 or 2
	Batch   bool // the outputs have a batch dimension
	Logits  bool // the graph ends before the sigmoid of the scores
}

// SCRFDDetector writes a detector into a models folder, with its manifest, and
// returns its id. It is the network of the YuNet family that is called base,
// behind which a few nodes encode the same faces as SCRFD does: distances and
// offsets from anchors, nine outputs that are named by numbers, an RGB input of
// (value-127.5)/128. So a decoder can be tested on real photos without the
// weights of others: it must find what base finds.
func SCRFDDetector(tb testing.TB, dir, base string, o SCRFD) (id string) {
	tb.Helper()
	m := Model(tb, base)
	data, err := m.ReadVerified()
	if err != nil {
		tb.Fatal(err)
	}
	var model onnxpb.Model
	if err := proto.Unmarshal(data, &model); err != nil {
		tb.Fatal(err)
	}
	const input = "input.1"
	b := &scrfdBuilder{graph: model.Graph}
	b.floats("to_bytes", 128)
	b.floats("to_zero", 127.5)
	b.floats("half", 0.5)
	b.floats("lower", 0.9) // the second anchor of a cell sees the same face less clearly
	b.floats("one", 1)
	b.floats("least", 1e-6)
	b.floats("most", 1-1e-6)
	b.ints("swap", 2, 1, 0)
	b.ints("first", 0, 1)
	b.ints("last", 2, 3)
	// The input comes first: nodes are in the order in which they run.
	nodes := model.Graph.Node
	model.Graph.Node = nil
	b.node("Mul", "scaled", nil, input, "to_bytes")
	b.node("Add", "rgb", nil, "scaled", "to_zero")
	b.node("Gather", m.Input.Name, axis(1), "rgb", "swap")
	model.Graph.Node = append(model.Graph.Node, nodes...)
	model.Graph.Input = []*onnxpb.ValueInfo{valueInfo(input, 1, 3, -1, -1)}
	model.Graph.Output = nil
	m.Outputs = nil
	next := 443 // as the published files are numbered, more or less
	for _, kind := range []struct {
		name  string
		width int64
	}{{"score", 1}, {"box", 4}, {"points", 10}} {
		for _, stride := range []int64{8, 16, 32} {
			var one string
			switch kind.name {
			case "score":
				one = b.score(stride, o.Logits)
			case "box":
				one = b.box(stride)
			default:
				one = fmt.Sprintf("kps_%d", stride)
			}
			name := fmt.Sprint(next)
			next += 3
			b.anchors(one, name, kind.width, o)
			// A graph whose input is free may declare the sizes for 640x640 all the same.
			shape, known := []int64{640 / stride * 640 / stride * int64(o.Anchors), kind.width}, []int64{-1, kind.width}
			if o.Batch {
				shape, known = append([]int64{1}, shape...), append([]int64{1}, known...)
			}
			model.Graph.Output = append(model.Graph.Output, valueInfo(name, shape...))
			m.Outputs = append(m.Outputs, embed.Output{Name: name, Shape: known})
		}
	}
	onnx, err := proto.Marshal(&model)
	if err != nil {
		tb.Fatal(err)
	}
	m.ID = fmt.Sprintf("scrfd-%s-%d-%t-%t", base, o.Anchors, o.Batch, o.Logits)
	m.File, m.Size = m.ID+".onnx", int64(len(onnx))
	sum := sha256.Sum256(onnx)
	m.SHA256 = hex.EncodeToString(sum[:])
	m.Decoder = "scrfd"
	if o.Logits {
		m.Scores = "logit"
	}
	m.Input.Name, m.Input.Order = input, "rgb"
	m.Input.Mean, m.Input.Scale = [3]float32{127.5, 127.5, 127.5}, [3]float32{1. / 128, 1. / 128, 1. / 128}
	manifest, err := json.Marshal(m.Manifest)
	if err != nil {
		tb.Fatal(err)
	}
	for name, data := range map[string][]byte{m.File: onnx, m.ID + ".json": manifest} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return m.ID
}

// scrfdBuilder adds nodes and constants to a graph.
type scrfdBuilder struct{ graph *onnxpb.Graph }

func (b *scrfdBuilder) node(op, output string, attributes []*onnxpb.Attribute, inputs ...string) string {
	b.graph.Node = append(b.graph.Node, &onnxpb.Node{OpType: op, Input: inputs, Output: []string{output}, Attribute: attributes})
	return output
}

func (b *scrfdBuilder) floats(name string, v ...float32) {
	b.graph.Initializer = append(b.graph.Initializer, &onnxpb.Tensor{Name: name, Dims: []int64{int64(len(v))}, DataType: onnxpb.Tensor_FLOAT, FloatData: v})
}

func (b *scrfdBuilder) ints(name string, v ...int64) {
	b.graph.Initializer = append(b.graph.Initializer, &onnxpb.Tensor{Name: name, Dims: []int64{int64(len(v))}, DataType: onnxpb.Tensor_INT64, Int64Data: v})
}

// score is the geometric mean of the two scores of a cell, or its logit.
func (b *scrfdBuilder) score(stride int64, logit bool) string {
	name := func(s string) string { return fmt.Sprintf("score_%s_%d", s, stride) }
	b.node("Mul", name("product"), nil, fmt.Sprintf("cls_%d", stride), fmt.Sprintf("obj_%d", stride))
	p := b.node("Sqrt", name("root"), nil, name("product"))
	if !logit {
		return p
	}
	p = b.node("Min", name("below"), nil, b.node("Max", name("above"), nil, p, "least"), "most")
	q := b.node("Sub", name("other"), nil, "one", p)
	return b.node("Log", name("logit"), nil, b.node("Div", name("odds"), nil, p, q))
}

// box is the distances from the corner of a cell to the edges: half of the
// size less the offset of the centre, and half of the size plus it.
func (b *scrfdBuilder) box(stride int64) string {
	name := func(s string) string { return fmt.Sprintf("box_%s_%d", s, stride) }
	box := fmt.Sprintf("bbox_%d", stride)
	b.node("Gather", name("offset"), axis(2), box, "first")
	b.node("Exp", name("size"), nil, b.node("Gather", name("log"), axis(2), box, "last"))
	b.node("Mul", name("half"), nil, name("size"), "half")
	b.node("Sub", name("near"), nil, name("half"), name("offset"))
	b.node("Add", name("far"), nil, name("half"), name("offset"))
	return b.node("Concat", name("distances"), axis(2), name("near"), name("far"))
}

// anchors writes what one anchor of each cell gives as an output, once or twice.
func (b *scrfdBuilder) anchors(one, output string, width int64, o SCRFD) {
	if o.Anchors == 2 {
		second := one
		switch {
		case width == 1 && o.Logits:
			second = b.node("Sub", one+"_second", nil, one, "half")
		case width == 1:
			second = b.node("Mul", one+"_second", nil, one, "lower")
		}
		one = b.node("Concat", one+"_both", axis(2), one, second)
	}
	shape := []int64{-1, width}
	if o.Batch {
		shape = []int64{1, -1, width}
	}
	b.ints(output+"_shape", shape...)
	b.node("Reshape", output, nil, one, output+"_shape")
}

func axis(n int64) []*onnxpb.Attribute {
	return []*onnxpb.Attribute{{Name: "axis", I: &n, Type: onnxpb.Attribute_INT}}
}

// valueInfo declares a tensor of float32; -1 is a size that is free.
func valueInfo(name string, shape ...int64) *onnxpb.ValueInfo {
	var s onnxpb.Shape
	for i, n := range shape {
		d := &onnxpb.Dimension{Size: &onnxpb.Dimension_Value{Value: n}}
		if n < 0 {
			d.Size = &onnxpb.Dimension_Param{Param: fmt.Sprintf("free_%d", i)}
		}
		s.Dim = append(s.Dim, d)
	}
	return &onnxpb.ValueInfo{Name: name, Type: &onnxpb.Type{TensorType: &onnxpb.TensorType{ElemType: onnxpb.Tensor_FLOAT, Shape: &s}}}
}
