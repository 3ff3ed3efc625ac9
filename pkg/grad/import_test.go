package grad_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// makeAttributes makes attributes from names and values in turn.
func makeAttributes(pairs ...any) []*onnxpb.Attribute {
	var all []*onnxpb.Attribute
	for i := 0; i < len(pairs); i += 2 {
		a := &onnxpb.Attribute{Name: pairs[i].(string)}
		switch v := pairs[i+1].(type) {
		case int:
			a.Type, a.I = onnxpb.Attribute_INT, new(int64(v))
		case int64:
			a.Type, a.I = onnxpb.Attribute_INT, &v
		case float64:
			a.Type, a.F = onnxpb.Attribute_FLOAT, new(float32(v))
		case string:
			a.Type, a.S = onnxpb.Attribute_STRING, []byte(v)
		case []int64:
			a.Type, a.Ints = onnxpb.Attribute_INTS, v
		case []float32:
			a.Type, a.Floats = onnxpb.Attribute_FLOATS, v
		case *onnxpb.Tensor:
			a.Type, a.T = onnxpb.Attribute_TENSOR, v
		default:
			panic(fmt.Sprintf("an attribute of type %T", v))
		}
		all = append(all, a)
	}
	return all
}

// node reads "x, w -> y".
func node(op, wiring string, pairs ...any) *onnxpb.Node {
	in, out, _ := strings.Cut(wiring, " -> ")
	return &onnxpb.Node{
		OpType: op, Name: "the " + op, Attribute: makeAttributes(pairs...),
		Input: strings.Split(in, ", "), Output: strings.Split(out, ", "),
	}
}

func floatTensor(name string, shape []int64, data ...float32) *onnxpb.Tensor {
	return &onnxpb.Tensor{Name: name, Dims: shape, DataType: onnxpb.Tensor_FLOAT, FloatData: data}
}

func intTensor(name string, data ...int64) *onnxpb.Tensor {
	return &onnxpb.Tensor{Name: name, Dims: []int64{int64(len(data))}, DataType: onnxpb.Tensor_INT64, Int64Data: data}
}

func scalarIndex(name string, i int64) *onnxpb.Tensor {
	return &onnxpb.Tensor{Name: name, DataType: onnxpb.Tensor_INT64, Int64Data: []int64{i}}
}

// model has the input x and the output y.
func model(opset int64, nodes []*onnxpb.Node, weights ...*onnxpb.Tensor) *onnxpb.Model {
	return &onnxpb.Model{
		IrVersion: 7, OpsetImport: []*onnxpb.OperatorSet{{Version: opset}},
		Graph: &onnxpb.Graph{
			Node: nodes, Initializer: weights,
			Input: []*onnxpb.ValueInfo{{Name: "x"}}, Output: []*onnxpb.ValueInfo{{Name: "y"}},
		},
	}
}

func mustMarshal(tb testing.TB, m *onnxpb.Model) []byte {
	tb.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func mustParse(tb testing.TB, m *onnxpb.Model) *grad.Model {
	tb.Helper()
	parsed, err := grad.Parse(mustMarshal(tb, m))
	if err != nil {
		tb.Fatal(err)
	}
	return parsed
}

func rawTensor[T any](name string, kind onnxpb.Tensor_Type, shape []int64, data ...T) *onnxpb.Tensor {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, data); err != nil {
		panic(err)
	}
	return &onnxpb.Tensor{Name: name, Dims: shape, DataType: kind, RawData: b.Bytes()}
}

// form is a model of an input x of the shape [2,3,4,4] and an output y, and
// what y is in the words of the builder.
type form struct {
	model *onnxpb.Model
	want  func(g *grad.Graph, x *grad.Value) *grad.Value
}

func modelForms() map[string]form {
	type nodes = []*onnxpb.Node
	return map[string]form{
		"Clip 6": {
			model(6, nodes{node("Clip", "x -> y", "min", -0.5, "max", 0.25)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Clip(x, -0.5, 0.25) },
		},
		"Clip 6, one bound": {
			model(6, nodes{node("Clip", "x -> y", "max", 0.25)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Clip(x, -9, 0.25) },
		},
		"Clip 11": {
			model(11, nodes{node("Clip", "x, , high -> y")}, floatTensor("high", nil, 0.25)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Clip(x, -9, 0.25) },
		},
		"Max and Min": {
			model(12, nodes{node("Max", "zero, x -> a"), node("Min", "a, six -> b"), node("Max", "b, low -> y")},
				floatTensor("zero", []int64{1}, 0), floatTensor("six", nil, 0.6), floatTensor("low", nil, 0.1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Clip(x, 0.1, 0.6) },
		},
		"Slice 1": {
			model(9, nodes{node("Slice", "x -> y", "starts", []int64{1, -3}, "ends", []int64{99, -1}, "axes", []int64{1, 3})}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Slice(g.Slice(x, 1, 1, 3), 3, 1, 3) },
		},
		"Slice 10, without axes": {
			model(10, nodes{node("Slice", "x, from, to -> y")}, intTensor("from", 0, 1), intTensor("to", 2, 3)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Slice(x, 1, 1, 3) },
		},
		"Pad 2": {
			model(10, nodes{node("Pad", "x -> y", "pads", []int64{0, 0, 1, 2, 0, 0, 0, 1}, "mode", "edge", "value", 0.0)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Pad(x, "edge", 0, 0, 1, 2, 0, 0, 0, 1) },
		},
		"Pad 11": {
			model(11, nodes{node("Pad", "x, pads,  -> y")}, intTensor("pads", 0, 0, 1, 2, 0, 0, -1, 1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Pad(x, "constant", 0, 0, 1, 2, 0, 0, -1, 1) },
		},
		"ReduceMean 11": {
			model(11, nodes{node("ReduceMean", "x -> y", "axes", []int64{-1, 2}, "keepdims", 0)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(g.ReduceMean(x, 2, 3), 2, 3) },
		},
		"ReduceSum 11, all": {
			model(11, nodes{node("ReduceSum", "x -> y", "keepdims", 0)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Total(x) },
		},
		"ReduceSum 13": {
			model(13, nodes{node("ReduceSum", "x, axes -> y")}, intTensor("axes", 1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.ReduceSum(x, 1) },
		},
		"ReduceL2 18": {
			model(18, nodes{node("ReduceL2", "x, axes -> y")}, intTensor("axes", 1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Sqrt(g.ReduceSum(g.Mul(x, x), 1)) },
		},
		"Softmax 11": {
			model(11, nodes{node("Softmax", "x -> y", "axis", 2)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Reshape(g.Softmax(g.Reshape(x, 6, 16), 1), 2, 3, 4, 4)
			},
		},
		"Softmax 13": {
			model(13, nodes{node("Softmax", "x -> y", "axis", 2)}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Softmax(x, 2) },
		},
		"Upsample 7": {
			model(7, nodes{node("Upsample", "x -> y", "scales", []float32{1, 1, 2, 3}, "mode", "nearest")}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Enlarge(x, 2, 3) },
		},
		"Upsample 9": {
			model(9, nodes{node("Upsample", "x, scales -> y")}, floatTensor("scales", []int64{4}, 1, 1, 2, 3)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Enlarge(x, 2, 3) },
		},
		"Resize 10": {
			model(10, nodes{node("Resize", "x, scales -> y", "mode", "nearest")}, floatTensor("scales", []int64{4}, 1, 1, 2, 0.5)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Apply("Slice", nil, g.Enlarge(x, 2, 1), g.Integers(0), g.Integers(4), g.Integers(3), g.Integers(2))
			},
		},
		"Resize 11, scales": {
			model(11, nodes{node("Resize", "x, roi, scales -> y", "coordinate_transformation_mode", "asymmetric", "nearest_mode", "floor")},
				floatTensor("roi", []int64{0}), floatTensor("scales", []int64{4}, 1, 1, 2, 3)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Enlarge(x, 2, 3) },
		},
		"Resize 13, sizes": {
			model(13, nodes{node("Resize", "x, , , sizes -> y")}, intTensor("sizes", 2, 3, 8, 12)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Enlarge(x, 2, 3) },
		},
		"Unsqueeze and Squeeze 11": {
			model(11, nodes{
				node("Unsqueeze", "x -> a", "axes", []int64{0, -1}), node("Squeeze", "a -> b", "axes", []int64{0}),
				node("Squeeze", "b -> c"), node("Unsqueeze", "c -> y", "axes", []int64{1}),
			}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(x, 2, 1, 3, 4, 4) },
		},
		"Unsqueeze and Squeeze 13": {
			model(13, nodes{node("Unsqueeze", "x, two -> a"), node("Unsqueeze", "a, last -> b"), node("Squeeze", "b, two -> y")},
				intTensor("two", 2), intTensor("last", -1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(x, 2, 3, 4, 4, 1) },
		},
		"a shape that is worked out": {
			model(12, nodes{
				node("Shape", "x -> s"), node("Gather", "s, zero -> n"), node("Unsqueeze", "n -> n1", "axes", []int64{0}),
				node("Cast", "n1 -> n2", "to", 7), node("Concat", "n2, rest -> to", "axis", 0), node("Reshape", "x, to -> y"),
			}, scalarIndex("zero", 0), intTensor("rest", -1, 8)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(x, 2, -1, 8) },
		},
		"part of a shape": {
			model(15, nodes{
				node("Shape", "x -> s", "start", -2), node("Shape", "x -> a", "end", 2), node("Slice", "a, back, end, , minus -> b"),
				node("Concat", "b, s -> to", "axis", 0), node("Reshape", "x, to -> y"),
			}, intTensor("back", -1), intTensor("end", -99), intTensor("minus", -1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(x, 3, 2, 4, 4) },
		},
		"part of a shape 9": {
			model(9, nodes{
				node("Shape", "x -> s"), node("Slice", "s -> a", "starts", []int64{0}, "ends", []int64{1}, "axes", []int64{0}),
				node("Squeeze", "a -> b"), node("Unsqueeze", "b -> c", "axes", []int64{0}),
				node("Concat", "c, rest -> to", "axis", 0), node("Reshape", "x, to -> y"),
			}, intTensor("rest", -1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Reshape(x, 2, -1) },
		},
		"Constant": {
			model(13, nodes{
				node("Constant", " -> a", "value", rawTensor("", onnxpb.Tensor_FLOAT, []int64{2}, float32(1), float32(2))), node("Constant", " -> b", "value_float", 0.5),
				node("Constant", " -> to", "value_ints", []int64{48, 2}), node("Constant", " -> first", "value_int", 0),
				node("Reshape", "x, to -> c"), node("Mul", "c, a -> d"), node("Add", "d, b -> e"), node("Gather", "e, first -> y"),
			}),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Reshape(g.Slice(g.Add(g.Mul(g.Reshape(x, 48, 2), g.Constant([]float32{1, 2}, 2)), g.Scalar(0.5)), 0, 0, 1), 2)
			},
		},
		"Identity, Dropout and Cast": {
			model(12, nodes{node("Identity", "x -> a"), node("Dropout", "a -> b, mask", "ratio", 0.5), node("Cast", "b -> c", "to", 1), node("Neg", "c -> y")}),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.Scale(x, -1) },
		},
		"MatMul with a vector": {
			model(13, nodes{node("MatMul", "x, v -> y")}, floatTensor("v", []int64{4}, 1, 2, 3, 4)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Reshape(g.MatMul(x, g.Constant([]float32{1, 2, 3, 4}, 4, 1)), 2, 3, 4)
			},
		},
		"MatMul of a vector": {
			model(13, nodes{node("MatMul", "v, x -> y")}, floatTensor("v", []int64{4}, 1, 2, 3, 4)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Reshape(g.MatMul(g.Constant([]float32{1, 2, 3, 4}, 1, 4), x), 2, 3, 4)
			},
		},
		"MatMul of vectors": {
			model(13, nodes{node("Reshape", "x, all -> a"), node("MatMul", "a, a -> y")}, intTensor("all", -1)),
			func(g *grad.Graph, x *grad.Value) *grad.Value { return g.SumSquares(x) },
		},
		"Add 6": {
			model(6, nodes{node("Add", "x, b -> a", "broadcast", 1, "axis", 1), node("Mul", "a, c -> y", "broadcast", 1)},
				floatTensor("b", []int64{3}, 1, 2, 3), floatTensor("c", []int64{4}, 1, 2, 3, 4)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Mul(g.Add(x, g.Constant([]float32{1, 2, 3}, 3, 1, 1)), g.Constant([]float32{1, 2, 3, 4}, 4))
			},
		},
		"PRelu 6": {
			model(6, nodes{node("PRelu", "x, s -> y")}, floatTensor("s", []int64{3}, 0.1, 0.2, 0.3)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.PRelu(x, g.Constant([]float32{0.1, 0.2, 0.3}, 3, 1, 1))
			},
		},
		"PRelu 18, one slope": {
			model(18, nodes{node("PRelu", "x, s -> y")}, floatTensor("s", []int64{1, 1, 1}, -2)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.PRelu(x, g.Constant([]float32{-2, -2, -2}, 3, 1, 1))
			},
		},
		"Gemm 6": {
			model(6, nodes{node("Flatten", "x -> a"), node("Gemm", "a, a, c -> y", "transB", 1, "broadcast", 1)}, floatTensor("c", []int64{2}, 1, 2)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				f := g.Reshape(x, 2, -1)
				return g.Add(g.Gemm(f, f, false, true, 1), g.Constant([]float32{1, 2}, 2))
			},
		},
		"BatchNormalization 7": {
			model(7, nodes{node("BatchNormalization", "x, s, b, m, v -> y", "epsilon", 0.01, "spatial", 1, "momentum", 0.9)},
				floatTensor("s", []int64{3}, 1, 2, 3), floatTensor("b", []int64{3}, 3, 2, 1), floatTensor("m", []int64{3}, 0, 0.1, 0.2), floatTensor("v", []int64{3}, 1, 2, 3)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				c := func(data ...float32) *grad.Value { return g.Constant(data, 3, 1, 1) }
				return g.Add(g.Div(g.Mul(c(1, 2, 3), g.Sub(x, c(0, 0.1, 0.2))), g.Sqrt(c(1.01, 2.01, 3.01))), c(3, 2, 1))
			},
		},
		"weights of any type": {
			model(13, nodes{node("Mul", "x, half -> a"), node("Mul", "a, double -> b"), node("Mul", "b, halves -> c"), node("Mul", "c, doubles -> d"), node("Reshape", "d, to -> e"), node("ReduceSum", "e, axes -> y")},
				rawTensor("half", onnxpb.Tensor_FLOAT16, []int64{4}, uint16(0x3c00), uint16(0x4000), uint16(0xb800), uint16(0x3555)),
				rawTensor("double", onnxpb.Tensor_DOUBLE, nil, 2.5),
				&onnxpb.Tensor{Name: "halves", Dims: []int64{1}, DataType: onnxpb.Tensor_FLOAT16, Int32Data: []int32{0x4000}},
				&onnxpb.Tensor{Name: "doubles", Dims: []int64{1}, DataType: onnxpb.Tensor_DOUBLE, DoubleData: []float64{0.1}},
				rawTensor("to", onnxpb.Tensor_INT32, []int64{2}, int32(-1), int32(4)),
				&onnxpb.Tensor{Name: "axes", Dims: []int64{1}, DataType: onnxpb.Tensor_INT32, Int32Data: []int32{0}}),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Scale(g.ReduceSum(g.Mul(g.Reshape(x, -1, 4), g.Constant([]float32{1, 2, -0.5, 0.33325195}, 4)), 0), 0.5)
			},
		},
		"Conv VALID, with the kernel said": {
			model(11, nodes{node("Conv", "x, w -> y", "auto_pad", "VALID", "kernel_shape", []int64{2, 2})}, floatTensor("w", []int64{1, 3, 2, 2}, slices.Repeat([]float32{1}, 12)...)),
			func(g *grad.Graph, x *grad.Value) *grad.Value {
				return g.Conv(x, g.Constant(slices.Repeat([]float32{1}, 12), 1, 3, 2, 2), nil, grad.Window{})
			},
		},
	}
}

// What a model says in the words of any opset is what the builder says in
// those of one.
func TestImport(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	for name, c := range modelForms() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newTensors(1)
			x := s.span(-1, 1, 2, 3, 4, 4)
			im, err := s.Import(mustParse(t, c.model), map[string]*grad.Value{"x": x}, []string{"y"}, grad.ImportOptions{})
			if err != nil {
				t.Fatal(err)
			}
			y, want := im.Layers["y"], c.want(s.Graph, x)
			loss, wantLoss := s.Total(s.Mul(y, y)), s.Total(s.Mul(want, want))
			d, err := s.Gradient(loss, x)
			if err != nil {
				t.Fatal(err)
			}
			wantD, err := s.Gradient(wantLoss, x)
			if err != nil {
				t.Fatal(err)
			}
			if len(y.Shape()) > 0 && !slices.Equal(y.Shape(), want.Shape()) {
				t.Errorf("shape %v, want %v", y.Shape(), want.Shape())
			}
			out, err := compute(t, b, s, y, want, d[0], wantD[0])
			if err != nil {
				t.Fatal(err)
			}
			if e := relativeError(out[0], out[1]); e > 1e-6 {
				t.Errorf("off by %g: %v, want %v", e, out[0], out[1])
			}
			if e := relativeError(out[2], out[3]); e > 1e-5 {
				t.Errorf("the gradient is off by %g: %v, want %v", e, out[2], out[3])
			}
		})
	}
}

// A part of a model begins at a layer that is given.
func TestImportBehindLayer(t *testing.T) {
	t.Parallel()
	m := mustParse(t, model(18, []*onnxpb.Node{node("Mul", "x, w -> first"), node("Add", "first, v -> y")},
		floatTensor("w", []int64{1}, 3), floatTensor("v", []int64{1}, 5)))
	s := newTensors(1)
	given := s.in(2, 3)
	im, err := s.Import(m, map[string]*grad.Value{"first": given}, []string{"y"}, grad.ImportOptions{
		Variable: func(string, []int64) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if im.Variables["w"] != nil || im.Variables["v"] == nil {
		t.Errorf("the weights are %v, want only that behind the layer", im.Variables)
	}
	out, err := compute(t, orttest.Runtime(t), s, im.Layers["y"], s.Add(given, im.Variables["v"]))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(out[0], out[1]) {
		t.Errorf("got %v, want %v", out[0], out[1])
	}
	if _, err := s.Import(m, map[string]*grad.Value{"second": given}, []string{"y"}, grad.ImportOptions{}); face.KindOf(err) != face.Invalid {
		t.Errorf("a layer that is not there: %v", err)
	}
}

// Automatic padding, and rounding up, as the standard's text has them.
func TestImportPadding(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	for seed := range uint64(120) {
		s := newTensors(seed)
		op := pick(s, "Conv", "MaxPool", "AveragePool", "AveragePool")
		rank := int(s.between(1, 3))
		kernel, strides := s.list(rank, 1, 3), s.list(rank, 1, 3)
		attrs := map[string]any{"strides": strides}
		pairs := []any{"strides", strides}
		in, out := []int64{2, 2}, []int64{2, 2}
		auto := pick(s, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
		ceil := op != "Conv" && (auto == "NOTSET" || auto == "VALID") && s.maybe()
		pads := make([]int64, 2*rank)
		for i, k := range kernel {
			if auto == "NOTSET" {
				pads[i], pads[i+rank] = s.between(0, k-1), s.between(0, k-1)
			}
			size := k + s.between(0, 5-int64(rank))
			in = append(in, size)
			room := size + pads[i] + pads[i+rank] - k
			windows := room/strides[i] + 1
			if strings.HasPrefix(auto, "SAME") {
				windows = (size + strides[i] - 1) / strides[i]
			} else if ceil && room%strides[i] != 0 && windows*strides[i] < size+pads[i] {
				windows++
			}
			out = append(out, windows)
		}
		set := func(name string, value any) { attrs[name], pairs = value, append(pairs, name, value) }
		set("auto_pad", auto)
		if auto == "NOTSET" {
			set("pads", pads)
		}
		if ceil {
			set("ceil_mode", int64(1))
		}
		if op != "Conv" {
			set("kernel_shape", kernel)
		}
		if op == "AveragePool" {
			set("count_include_pad", s.between(0, 1))
		}
		x := s.span(-1, 1, in...)
		m := model(12, []*onnxpb.Node{node(op, "x -> y", pairs...)})
		var weights []float32
		shape := append([]int64{2, 2}, kernel...)
		if op == "Conv" {
			m.Graph.Node[0].Input = append(m.Graph.Node[0].Input, "w")
			n := 4
			for _, k := range kernel {
				n *= int(k)
			}
			for range n {
				weights = append(weights, float32(s.r.NormFloat64()))
			}
			m.Graph.Initializer = append(m.Graph.Initializer, floatTensor("w", shape, weights...))
		}
		im, err := s.Import(mustParse(t, m), map[string]*grad.Value{"x": x}, []string{"y"}, grad.ImportOptions{})
		if err != nil {
			t.Errorf("%s of %v, %v: %v", op, in, attrs, err)
			continue
		}
		got, err := compute(t, b, s, im.Layers["y"])
		if err != nil {
			t.Errorf("%s of %v, %v: %v", op, in, attrs, err)
			continue
		}
		want := grad.Plainly(op, attrs, toFloat64(s.data[x]), in, toFloat64(weights), shape, out)
		if !slices.Equal(im.Layers["y"].Shape(), out) {
			t.Errorf("%s of %v, %v: shape %v, want %v", op, in, attrs, im.Layers["y"].Shape(), out)
		} else if e := relativeError(got[0], want); e > 1e-5 {
			t.Errorf("%s of %v, %v: off by %g", op, in, attrs, e)
		}
		if w, err := checkOperator(t, b, s, im.Layers["y"]); err != nil || w.gradient > 1e-3 {
			t.Errorf("%s of %v, %v: %v %v", op, in, attrs, w, err)
		}
	}
}

// checkRefused wants an Invalid error that has all the words.
func checkRefused(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if face.KindOf(err) != face.Invalid {
		t.Errorf("kind %v of %v", face.KindOf(err), err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q lacks %q", err, w)
		}
	}
}

// Weights that are stored as halves behind a Cast are weights like others: no
// layers, learnt by the names that their readers know, and written again.
func TestParseHalves(t *testing.T) {
	t.Parallel()
	m := mustParse(t, model(13, []*onnxpb.Node{node("Cast", "w/half -> w", "to", 1), node("MatMul", "x, w -> a"), node("Add", "a, b -> y")},
		rawTensor("w/half", onnxpb.Tensor_FLOAT16, []int64{4, 1}, uint16(0x3c00), uint16(0x4000), uint16(0xb800), uint16(0x3555)), floatTensor("b", []int64{1}, 3)))
	if got := m.Layers(); !slices.Equal(got, []string{"a", "y"}) {
		t.Errorf("layers %q", got)
	}
	if got := m.LastWeights(1); !slices.Equal(got, []string{"b", "w"}) {
		t.Errorf("last weights %q", got)
	}
	for name, c := range map[string]struct {
		others map[string][]float32
		want   *onnxpb.Tensor
	}{
		"as they were": {nil, rawTensor("w", onnxpb.Tensor_FLOAT, []int64{4, 1}, float32(1), float32(2), float32(-0.5), float32(0.33325195))},
		"others":       {map[string][]float32{"w": {4, 3, 2, 1}}, rawTensor("w", onnxpb.Tensor_FLOAT, []int64{4, 1}, float32(4), float32(3), float32(2), float32(1))},
	} {
		data, err := m.Rewrite(c.others)
		if err != nil {
			t.Fatal(err)
		}
		var written onnxpb.Model
		if err := proto.Unmarshal(data, &written); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(written.Graph.Initializer, func(t *onnxpb.Tensor) bool { return t.Name == "w" })
		if i < 0 || !proto.Equal(written.Graph.Initializer[i], c.want) || len(written.Graph.Node) != 2 {
			t.Errorf("%s: %v", name, &written)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	relu := func() *onnxpb.Model { return model(13, []*onnxpb.Node{node("Relu", "x -> y")}) }
	for name, c := range map[string]struct {
		change func(m *onnxpb.Model)
		words  string
	}{
		"no graph":           {func(m *onnxpb.Model) { m.Graph = nil }, "no graph"},
		"no nodes":           {func(m *onnxpb.Model) { m.Graph.Node = nil }, "no graph"},
		"no opset":           {func(m *onnxpb.Model) { m.OpsetImport = nil }, "opset 0"},
		"old":                {func(m *onnxpb.Model) { m.OpsetImport[0].Version = 5 }, "opset 5"},
		"other domain":       {func(m *onnxpb.Model) { m.OpsetImport[0].Domain = proto.String("com.example") }, "opset 0"},
		"two compute one":    {func(m *onnxpb.Model) { m.Graph.Node = append(m.Graph.Node, node("Neg", "x -> y")) }, `"y"`},
		"computes its input": {func(m *onnxpb.Model) { m.Graph.Node = append(m.Graph.Node, node("Neg", "y -> x")) }, `"x"`},
		"computes a weight":  {func(m *onnxpb.Model) { m.Graph.Initializer = append(m.Graph.Initializer, floatTensor("y", nil, 1)) }, `"y"`},
		"two weights, one name": {func(m *onnxpb.Model) {
			m.Graph.Initializer = append(m.Graph.Initializer, floatTensor("w", nil, 1), intTensor("w", 1))
		}, `"w"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := relu()
			c.change(m)
			_, err := grad.Parse(mustMarshal(t, m))
			checkRefused(t, err, c.words)
		})
	}
	for name, data := range map[string][]byte{"nothing": nil, "text": []byte("a text that is no model"), "truncated": mustMarshal(t, relu())[:20]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := grad.Parse(data)
			checkRefused(t, err, "not an ONNX model")
		})
	}
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	type nodes = []*onnxpb.Node
	weights := floatTensor("w", []int64{4, 3, 3, 3}, slices.Repeat([]float32{1}, 108)...)
	one := func(op, wiring string, pairs ...any) *onnxpb.Model {
		return model(13, nodes{node(op, wiring, pairs...)}, weights, intTensor("list", 1, 2), floatTensor("s", nil, 1), floatTensor("v", []int64{3}, 1, 2, 3))
	}
	huge := &onnxpb.Tensor{Name: "huge", Dims: []int64{1 << 40, 1 << 40}, DataType: onnxpb.Tensor_FLOAT, RawData: make([]byte, 4)}
	with := func(weight *onnxpb.Tensor) *onnxpb.Model {
		return model(13, nodes{node("Add", "x, "+weight.Name+" -> y")}, weight)
	}
	for name, c := range map[string]struct {
		model *onnxpb.Model
		words []string
	}{
		"unknown operator":        {one("Einsum", "x -> y"), []string{"the Einsum", "Einsum"}},
		"unknown domain":          {func() *onnxpb.Model { m := one("Relu", "x -> y"); m.Graph.Node[0].Domain = "com.example"; return m }(), []string{"the Relu", "com.example"}},
		"unnamed node":            {func() *onnxpb.Model { m := one("Einsum", "x -> y"); m.Graph.Node[0].Name = ""; return m }(), []string{`y`, "Einsum"}},
		"unknown input":           {one("Relu", "z -> y"), []string{"the Relu", `"z"`}},
		"no inputs":               {one("Relu", " -> y"), []string{"the Relu", "input 0"}},
		"missing input":           {one("Add", "x, -> y"), []string{"the Add"}},
		"missing in the middle":   {one("Concat", "x, , x -> y", "axis", 0), []string{"the Concat", "input 1"}},
		"too many inputs":         {one("Relu", "x, x -> y"), []string{"the Relu", "2 inputs"}},
		"in a circle":             {model(13, nodes{node("Relu", "a -> y"), node("Neg", "y -> a")}), []string{"the Relu", `"a"`}},
		"out of order":            {model(13, nodes{node("Relu", "a -> y"), node("Neg", "x -> a")}), []string{"the Relu", `"a"`}},
		"channels":                {one("Conv", "v, w -> y"), []string{"the Conv"}},
		"groups":                  {one("Conv", "x, w -> y", "group", 2), []string{"the Conv", "2 groups"}},
		"no groups":               {one("Conv", "x, w -> y", "group", 0), []string{"the Conv"}},
		"groups below 0":          {one("Conv", "x, w -> y", "group", -1), []string{"the Conv"}},
		"a kernel too large":      {one("Conv", "x, w -> y", "dilations", []int64{4, 4}), []string{"the Conv", "kernel"}},
		"strides of 0":            {one("Conv", "x, w -> y", "strides", []int64{0, 1}), []string{"the Conv", "strides"}},
		"too few strides":         {one("Conv", "x, w -> y", "strides", []int64{1}), []string{"the Conv", "strides"}},
		"pads below 0":            {one("Conv", "x, w -> y", "pads", []int64{-1, 0, 0, 0}), []string{"the Conv", "pads"}},
		"too few pads":            {one("Conv", "x, w -> y", "pads", []int64{1, 1}), []string{"the Conv", "pads"}},
		"another kernel":          {one("Conv", "x, w -> y", "kernel_shape", []int64{1, 1}), []string{"the Conv", "kernel_shape"}},
		"auto_pad":                {one("Conv", "x, w -> y", "auto_pad", "NICE"), []string{"the Conv", "NICE"}},
		"bias":                    {one("Conv", "x, w, v -> y"), []string{"the Conv", "bias"}},
		"transposed auto_pad":     {one("ConvTranspose", "x, w -> y", "auto_pad", "SAME_UPPER"), []string{"the ConvTranspose", "auto_pad"}},
		"transposed shape":        {one("ConvTranspose", "x, w -> y", "output_shape", []int64{9, 9}), []string{"the ConvTranspose"}},
		"weights that overflow":   {one("MaxPool", "x -> y", "kernel_shape", []int64{1 << 62, 1 << 62}), []string{"the MaxPool"}},
		"a pool too large":        {one("MaxPool", "x -> y", "kernel_shape", []int64{9, 9}), []string{"the MaxPool", "kernel"}},
		"no kernel":               {one("MaxPool", "x -> y"), []string{"the MaxPool", "kernel"}},
		"pads of a kernel":        {one("AveragePool", "x -> y", "kernel_shape", []int64{1, 1}, "pads", []int64{1, 1, 1, 1}), []string{"the AveragePool", "pads"}},
		"dilated means":           {one("AveragePool", "x -> y", "kernel_shape", []int64{2, 2}, "dilations", []int64{2, 2}), []string{"the AveragePool", "dilations"}},
		"indices":                 {one("MaxPool", "x -> y, i", "kernel_shape", []int64{2, 2}), []string{"the MaxPool", "indices"}},
		"storage order":           {one("MaxPool", "x -> y", "kernel_shape", []int64{2, 2}, "storage_order", 1), []string{"the MaxPool", "storage_order"}},
		"shapes that differ":      {one("Add", "x, v -> y"), []string{"the Add"}},
		"integers":                {one("Add", "x, list -> y"), []string{"the Add", "integers"}},
		"integers of a Relu":      {one("Relu", "list -> y"), []string{"the Relu", "integers"}},
		"a list of floats":        {one("Reshape", "x, v -> y"), []string{"the Reshape", "integers"}},
		"no such reshape":         {one("Reshape", "x, list -> y"), []string{"the Reshape"}},
		"matrices":                {one("Gemm", "x, v -> y"), []string{"the Gemm"}},
		"a product":               {one("MatMul", "x, w -> y"), []string{"the MatMul"}},
		"a product of a number":   {one("MatMul", "x, s -> y"), []string{"the MatMul"}},
		"an axis that is no list": {model(13, nodes{node("ReduceSum", "x, i -> y")}, scalarIndex("i", 1)), []string{"the ReduceSum", "list"}},
		"axis":                    {one("Concat", "x, x -> y", "axis", 4), []string{"the Concat", "axis 4"}},
		"axis below 0":            {one("Softmax", "x -> y", "axis", -5), []string{"the Softmax", "axis"}},
		"permutation":             {one("Transpose", "x -> y", "perm", []int64{7, 0, 1, 2}), []string{"the Transpose", "perm"}},
		"permutation twice":       {one("Transpose", "x -> y", "perm", []int64{0, 0, 1, 2}), []string{"the Transpose", "perm"}},
		"nothing left":            {one("Slice", "x, list, list -> y"), []string{"the Slice"}},
		"a step of 0":             {model(13, nodes{node("Slice", "x, a, b, a, a -> y")}, intTensor("a", 0), intTensor("b", 2)), []string{"the Slice", "step"}},
		"an axis twice":           {model(13, nodes{node("Slice", "x, a, b, a -> y")}, intTensor("a", 0, 0), intTensor("b", 2, 2)), []string{"the Slice", "twice"}},
		"pads":                    {one("Pad", "x, list -> y"), []string{"the Pad", "2 pads"}},
		"pad mode":                {model(13, nodes{node("Pad", "x, p -> y", "mode", "wrap")}, intTensor("p", 0, 0, 0, 0, 0, 0, 0, 0)), []string{"the Pad", "wrap"}},
		"reflected too far":       {model(13, nodes{node("Pad", "x, p -> y", "mode", "reflect")}, intTensor("p", 0, 0, 0, 0, 0, 0, 0, 9)), []string{"the Pad"}},
		"pads without end":        {model(13, nodes{node("Pad", "x, p -> y")}, intTensor("p", 0, 0, 0, 0, 0, 0, 0, math.MaxInt64)), []string{"the Pad"}},
		"an index":                {one("Gather", "v, list -> z"), nil},
		"an index too large":      {model(13, nodes{node("Gather", "x, i -> y")}, intTensor("i", 2)), []string{"the Gather", "index 2"}},
		"no indices":              {model(13, nodes{node("Shape", "x -> s"), node("Gather", "s -> y")}), []string{"the Gather"}},
		"resize mode":             {model(13, nodes{node("Resize", "x, , , i -> y", "mode", "cubic")}, intTensor("i", 2, 3, 8, 8)), []string{"the Resize", "cubic"}},
		"resize sizes":            {model(13, nodes{node("Resize", "x, , , i -> y")}, intTensor("i", 2, 3, 8)), []string{"the Resize"}},
		"resize to nothing":       {model(13, nodes{node("Resize", "x, , , i -> y")}, intTensor("i", 2, 3, 8, 0)), []string{"the Resize"}},
		"resize, half a number":   {model(13, nodes{node("Resize", "x, , i -> y")}, floatTensor("i", []int64{4}, 1, 1, 1.3, 1)), []string{"the Resize", "scale"}},
		"resize by NaN":           {model(13, nodes{node("Resize", "x, , i -> y")}, floatTensor("i", []int64{4}, 1, 1, float32(math.NaN()), 1)), []string{"the Resize", "scale"}},
		"resize counting":         {model(13, nodes{node("Resize", "x, , , i -> y", "coordinate_transformation_mode", "tf_crop_and_resize")}, intTensor("i", 2, 3, 8, 8)), []string{"the Resize", "tf_crop"}},
		"too large":               {model(13, nodes{node("Expand", "x, i -> y")}, intTensor("i", 1<<31, 1, 1, 1, 1)), []string{"the Expand", "large"}},
		"expand to nothing":       {model(13, nodes{node("Expand", "x, i -> y")}, intTensor("i", 0, 1, 1, 1, 1)), []string{"the Expand"}},
		"clip by a tensor":        {one("Clip", "x, v -> y"), []string{"the Clip", "bound"}},
		"max of tensors":          {one("Max", "x, x -> y"), []string{"the Max", "constant"}},
		"squeezed":                {model(13, nodes{node("Squeeze", "x, list -> y")}, intTensor("list", 1)), []string{"the Squeeze", "not 1"}},
		"unsqueezed twice":        {model(13, nodes{node("Unsqueeze", "x, list -> y")}, intTensor("list", 1, 1)), []string{"the Unsqueeze"}},
		"norm":                    {one("LpNormalization", "x -> y", "p", 1), []string{"the LpNormalization", "p = 1"}},
		"statistics":              {one("BatchNormalization", "x, s, s, s, s -> y"), []string{"the BatchNormalization"}},
		"statistics of a place":   {model(8, nodes{node("BatchNormalization", "x, v, v, v, v -> y", "spatial", 0)}, floatTensor("v", []int64{3}, 1, 2, 3)), []string{"the BatchNormalization", "spatial"}},
		"cast":                    {one("Cast", "x -> y", "to", 7), []string{"the Cast"}},
		"a constant of strings":   {one("Constant", " -> y", "value_string", "text"), []string{"the Constant"}},
		"no constant":             {one("Constant", " -> y", "value", (*onnxpb.Tensor)(nil)), []string{"the Constant", "tensor"}},
		"a graph in a node": {func() *onnxpb.Model {
			m := one("If", "x -> y", "a", 1)
			m.Graph.Node[0].Attribute[0].Type = onnxpb.Attribute_GRAPH
			return m
		}(), []string{"the If", `"a"`}},
		"integers come out":  {model(13, nodes{node("Shape", "x -> y")}), []string{`"y"`}},
		"a second output":    {one("Dropout", "x -> z, y"), []string{`"y"`}},
		"huge weights":       {with(huge), []string{`"huge"`}},
		"too few numbers":    {with(floatTensor("f", []int64{3}, 1)), []string{`"f"`, "1 numbers"}},
		"odd bytes":          {with(&onnxpb.Tensor{Name: "f", Dims: []int64{1}, DataType: onnxpb.Tensor_FLOAT, RawData: make([]byte, 5)}), []string{`"f"`}},
		"numbers of another": {with(&onnxpb.Tensor{Name: "f", Dims: []int64{1}, DataType: onnxpb.Tensor_FLOAT, Int64Data: []int64{1}}), []string{`"f"`}},
		"a type unknown":     {with(&onnxpb.Tensor{Name: "f", Dims: []int64{1}, DataType: 9, RawData: make([]byte, 1)}), []string{`"f"`, "type"}},
		"below 0":            {with(floatTensor("f", []int64{-1})), []string{`"f"`}},
		"in another file": {with(&onnxpb.Tensor{
			Name: "f", Dims: []int64{1}, DataType: onnxpb.Tensor_FLOAT, RawData: make([]byte, 4),
			ExternalData: []*onnxpb.Entry{{Key: "location", Value: "weights.bin"}},
		}), []string{`"f"`, "another file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := grad.NewGraph()
			x := g.Input("x", 2, 3, 4, 4)
			_, err := g.Import(mustParse(t, c.model), map[string]*grad.Value{"x": x}, []string{"y"}, grad.ImportOptions{})
			checkRefused(t, err, c.words...)
		})
	}

	m := mustParse(t, one("Relu", "x -> y"))
	g := grad.NewGraph()
	x := g.Input("x", 2)
	_, err := g.Import(m, map[string]*grad.Value{"x": x}, []string{"conv1"}, grad.ImportOptions{})
	checkRefused(t, err, `"conv1"`)
	_, err = g.Import(m, map[string]*grad.Value{"image": x}, []string{"y"}, grad.ImportOptions{})
	checkRefused(t, err, `"image"`, `"x"`)
	_, err = g.Import(m, nil, []string{"y"}, grad.ImportOptions{})
	checkRefused(t, err, "the Relu", `"x"`)

	// Integers are left out where only what is known is wanted.
	m = mustParse(t, model(13, nodes{node("Shape", "x -> s"), node("Relu", "x -> y")}))
	im, err := g.Import(m, map[string]*grad.Value{"x": x}, m.Layers(), grad.ImportOptions{Known: true})
	if err != nil || len(im.Layers) != 1 || im.Layers["y"] == nil {
		t.Errorf("%v, %v", im, err)
	}
}
