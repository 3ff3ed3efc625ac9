package ort

import (
	"fmt"
	"slices"
	"strings"

	onnx "github.com/yalue/onnxruntime_go"
	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// checkContract compares what the graph declares with what the manifest says.
func checkContract(m embed.Manifest, inputs, outputs []onnx.InputOutputInfo) error {
	var wrong []string
	want := func(ok bool, format string, args ...any) {
		if !ok {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	if len(inputs) != 1 {
		want(false, "the graph has %d inputs (%s), the manifest speaks of one", len(inputs), names(inputs))
	} else {
		in := inputs[0]
		want(in.Name == m.Input.Name, "the input is %q, the manifest says %q", in.Name, m.Input.Name)
		want(isFloat32(in), "the input is %s, not a float32 tensor", describe(in))
		size := []int64{-1, 3, int64(m.Input.Height), int64(m.Input.Width)}
		for i, n := range size {
			if n == 0 {
				size[i] = -1
			}
		}
		want(accepts(in.Dimensions, size), "the input is %v, the manifest says %v", []int64(in.Dimensions), size)
	}
	for _, o := range m.Outputs {
		i := slices.IndexFunc(outputs, func(info onnx.InputOutputInfo) bool { return info.Name == o.Name })
		if i < 0 {
			want(false, "there is no output %q; the graph has %s", o.Name, names(outputs))
			continue
		}
		want(isFloat32(outputs[i]), "output %q is %s, not a float32 tensor", o.Name, describe(outputs[i]))
		want(compatible(outputs[i].Dimensions, o.Shape), "output %q is %v, the manifest says %v", o.Name, []int64(outputs[i].Dimensions), o.Shape)
	}
	if len(wrong) > 0 {
		return face.Errorf(face.Invalid, "ort.Load", "model %s: %s contradicts its manifest: %s", m.ID, m.File, strings.Join(wrong, "; "))
	}
	return nil
}

// freeSizes returns the model with the sizes of its outputs undeclared where the
// manifest says that they depend on the input (-1) and the graph declares a
// number. Published detectors declare the sizes for 640x640 although they take
// any input, and ONNX Runtime refuses the memory for outputs of other sizes. A
// model that declares no such size is returned as it is.
func freeSizes(model []byte, m embed.Manifest, outputs []onnx.InputOutputInfo) ([]byte, error) {
	free := map[string][]int64{} // shapes in the manifest, of the outputs to change
	for _, o := range m.Outputs {
		i := slices.IndexFunc(outputs, func(info onnx.InputOutputInfo) bool { return info.Name == o.Name })
		for j, n := range outputs[i].Dimensions {
			if n != -1 && o.Shape[j] == -1 {
				free[o.Name] = o.Shape
			}
		}
	}
	if len(free) == 0 {
		return model, nil
	}
	const op = "ort.Load"
	var p onnxpb.Model
	if err := proto.Unmarshal(model, &p); err != nil {
		return nil, face.Wrap(face.Invalid, op, fmt.Errorf("model %s: %w", m.ID, err))
	}
	for _, o := range p.GetGraph().GetOutput() {
		dims := o.GetType().GetTensorType().GetShape().GetDim()
		for j, n := range free[o.Name] {
			if n == -1 && j < len(dims) {
				dims[j].Size = nil
			}
		}
	}
	data, err := proto.Marshal(&p)
	return data, face.Wrap(face.Internal, op, err)
}

func isFloat32(info onnx.InputOutputInfo) bool {
	return info.OrtValueType == onnx.ONNXTypeTensor && info.DataType == onnx.TensorElementDataTypeFloat
}

func describe(info onnx.InputOutputInfo) string {
	return strings.TrimPrefix(info.DataType.String(), "ONNX_TENSOR_ELEMENT_DATA_TYPE_")
}

func names(infos []onnx.InputOutputInfo) string {
	out := make([]string, len(infos))
	for i, info := range infos {
		out[i] = info.Name
	}
	return strings.Join(out, ", ")
}

// accepts reports whether a graph's input takes tensors of the wanted shape. If
// the manifest leaves a size free (-1), the graph must leave it free too. Only
// the batch may be fixed to one image.
func accepts(graph, want []int64) bool {
	if len(graph) != len(want) {
		return false
	}
	for i, g := range graph {
		if g != -1 && g != want[i] && (i > 0 || want[i] != -1) {
			return false
		}
	}
	return true
}

// compatible reports whether two shapes have the same rank and, wherever both
// are fixed, the same size.
func compatible(a, b []int64) bool {
	return slices.EqualFunc(a, b, func(x, y int64) bool { return x == y || x == -1 || y == -1 })
}
