package ort

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// fuseSlopes returns the model with every PRelu that has one slope for all
// channels written as LeakyRelu, which computes the same numbers. ONNX Runtime
// fuses a LeakyRelu with the convolution before it. A PRelu it computes in a
// pass of its own, for which it rearranges the tensor twice. A model without
// such a PRelu is returned as it is.
func fuseSlopes(model []byte) ([]byte, error) {
	if !bytes.Contains(model, []byte("PRelu")) {
		return model, nil
	}
	const op = "ort.Load"
	var p onnxpb.Model
	if err := proto.Unmarshal(model, &p); err != nil {
		return nil, face.Wrap(face.Invalid, op, fmt.Errorf("not an ONNX model: %w", err))
	}
	slopes := map[string]float32{}
	for _, t := range p.GetGraph().GetInitializer() {
		switch {
		case t.DataType != onnxpb.Tensor_FLOAT:
		case len(t.RawData) == 4:
			slopes[t.Name] = math.Float32frombits(binary.LittleEndian.Uint32(t.RawData))
		case len(t.FloatData) == 1:
			slopes[t.Name] = t.FloatData[0]
		}
	}
	changed := false
	for _, n := range p.GetGraph().GetNode() {
		if n.OpType != "PRelu" || n.Domain != "" || len(n.Input) != 2 {
			continue
		}
		if slope, ok := slopes[n.Input[1]]; ok {
			n.OpType, n.Input = "LeakyRelu", n.Input[:1]
			n.Attribute = []*onnxpb.Attribute{{Name: "alpha", Type: onnxpb.Attribute_FLOAT, F: &slope}}
			changed = true
		}
	}
	if !changed {
		return model, nil
	}
	data, err := proto.Marshal(&p)
	return data, face.Wrap(face.Internal, op, err)
}
