package grad

import (
	"math"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// Statistics are the weights that hold the running mean and variance of a
// BatchNormalization. They are updated from each batch, not learnt.
func (m *Model) Statistics() []string {
	var names []string
	for _, n := range m.graph.Node {
		if n.OpType == "BatchNormalization" && len(n.Input) == 5 {
			names = append(names, n.Input[3], n.Input[4])
		}
	}
	return names
}

// LastWeights are the weights of the last n convolutions and matrix products,
// and of everything behind the first of them.
func (m *Model) LastWeights(n int) []string {
	var names []string
	for _, node := range slices.Backward(m.graph.Node) {
		for _, in := range node.Input {
			if m.tensor[in] != nil {
				names = append(names, in)
			}
		}
		switch node.OpType {
		case "Conv", "ConvTranspose", "Gemm", "MatMul":
			if n--; n == 0 {
				return names
			}
		}
	}
	return names
}

// Rewrite is the model as ONNX bytes with other numbers in some weights, by
// name. A BatchNormalization right behind a convolution is folded into it: in
// inference form both are one affine map. Invalid: a weight that the model
// does not have, or another length.
func (m *Model) Rewrite(weights map[string][]float32) ([]byte, error) {
	const op = "grad.Rewrite"
	graph, _ := proto.Clone(m.graph).(*onnxpb.Graph)
	r := &rewriter{graph: graph, floats: map[string][]float32{}, dims: map[string][]int64{}}
	for _, t := range graph.Initializer {
		shape, floats, ints, err := readTensor(t)
		if err != nil {
			return nil, face.Errorf(face.Invalid, op, "weight %q: %v", t.Name, err)
		}
		if floats != nil && ints == nil {
			r.floats[t.Name], r.dims[t.Name] = floats, shape
		}
	}
	for name, data := range weights {
		if len(data) == 0 || len(r.floats[name]) != len(data) {
			return nil, face.Errorf(face.Invalid, op, "weight %q: %d numbers for %d", name, len(data), len(r.floats[name]))
		}
		r.floats[name] = slices.Clone(data)
	}
	r.fold()
	r.write()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&onnxpb.Model{
		IrVersion: irVersion, ProducerName: "likeness", Graph: graph,
		OpsetImport: []*onnxpb.OperatorSet{{Version: m.opset}},
	})
	return data, face.Wrap(face.Internal, op, err)
}

type rewriter struct {
	graph  *onnxpb.Graph
	floats map[string][]float32
	dims   map[string][]int64
}

// fold puts each BatchNormalization that alone reads a convolution into the
// convolution's weights and bias.
func (r *rewriter) fold() {
	readers := map[string]int{}
	maker := map[string]*onnxpb.Node{}
	for _, n := range r.graph.Node {
		for _, in := range n.Input {
			readers[in]++
		}
		for _, out := range n.Output {
			maker[out] = n
		}
	}
	for _, out := range r.graph.Output {
		readers[out.Name]++
	}
	gone := map[*onnxpb.Node]bool{}
	for _, bn := range r.graph.Node {
		if bn.OpType != "BatchNormalization" || len(bn.Input) != 5 || len(bn.Output) != 1 {
			continue
		}
		conv := maker[bn.Input[0]]
		if conv == nil || conv.OpType != "Conv" || readers[bn.Input[0]] != 1 || readers[conv.Input[1]] != 1 {
			continue
		}
		scale, bias, mean, variance := r.floats[bn.Input[1]], r.floats[bn.Input[2]], r.floats[bn.Input[3]], r.floats[bn.Input[4]]
		w := r.floats[conv.Input[1]]
		channels := len(scale)
		if channels == 0 || len(bias) != channels || len(mean) != channels || len(variance) != channels ||
			len(r.dims[conv.Input[1]]) < 3 || r.dims[conv.Input[1]][0] != int64(channels) {
			continue
		}
		old := make([]float32, channels)
		if len(conv.Input) > 2 && conv.Input[2] != "" {
			if old = r.floats[conv.Input[2]]; len(old) != channels || readers[conv.Input[2]] != 1 {
				continue
			}
		}
		epsilon := float32(1e-5)
		for _, a := range bn.Attribute {
			if a.Name == "epsilon" {
				epsilon = a.GetF()
			}
		}
		folded := make([]float32, channels)
		each := len(w) / channels
		for c := range channels {
			k := float64(scale[c]) / math.Sqrt(float64(variance[c])+float64(epsilon))
			for i := c * each; i < (c+1)*each; i++ {
				w[i] = float32(float64(w[i]) * k)
			}
			folded[c] = float32((float64(old[c])-float64(mean[c]))*k + float64(bias[c]))
		}
		name := bn.Output[0] + "_folded"
		r.floats[name], r.dims[name] = folded, []int64{int64(channels)}
		conv.Input = append(conv.Input[:2:2], name)
		conv.Output[0] = bn.Output[0]
		gone[bn] = true
	}
	r.graph.Node = slices.DeleteFunc(r.graph.Node, func(n *onnxpb.Node) bool { return gone[n] })
}

// write puts the numbers back as initializers, of those that are still read.
func (r *rewriter) write() {
	read := map[string]bool{}
	for _, n := range r.graph.Node {
		for _, in := range n.Input {
			read[in] = true
		}
	}
	kept := slices.DeleteFunc(r.graph.Initializer, func(t *onnxpb.Tensor) bool {
		_, float := r.floats[t.Name]
		return float || !read[t.Name]
	})
	var names []string
	for name := range r.floats {
		if read[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		kept = append(kept, &onnxpb.Tensor{
			Name: name, Dims: r.dims[name], DataType: onnxpb.Tensor_FLOAT, RawData: rawFloats(r.floats[name]),
		})
	}
	r.graph.Initializer = kept
	// Weights may be listed among the inputs; those that are gone are no longer.
	r.graph.Input = slices.DeleteFunc(r.graph.Input, func(v *onnxpb.ValueInfo) bool {
		_, weight := r.floats[v.Name]
		return weight
	})
}

// Weight adds a constant with a name of its own, by which [Graph.Import] of
// the written model offers it to be learnt.
func (g *Graph) Weight(name string, data []float32, shape ...int64) *Value {
	v := g.Constant(data, shape...)
	return g.Name(v, name)
}

// Name gives a value another name in the written model.
func (g *Graph) Name(v *Value, name string) *Value {
	if g.err != nil {
		return v
	}
	if name == "" || g.names[name] {
		return g.fail("the name %q is empty or taken", name)
	}
	g.names[name] = true
	v.name = name
	return v
}
