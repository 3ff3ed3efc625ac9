package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/style"
)

// stylenet is a feature network that both sides of bench-style build, each in
// its own way.
type stylenet struct {
	name    string
	ops     []styleOp
	content string
	style   []weighted
	// The auto-normalised weights of the study.
	contentWeight, tvWeight float64
}

type weighted struct {
	layer  string
	weight float64
}

// styleOp is one step: "conv" (with bias and ReLU), "pool" (the mean) or
// "concat" (of channels).
type styleOp struct {
	Kind   string   `json:"kind"`
	Name   string   `json:"name"`
	In     []string `json:"in"`
	Kernel int      `json:"kernel"`
	Stride int      `json:"stride"`
	Pad    int      `json:"pad"`

	weights, bias []float32
	shape         []int64 // of the weights

	Weights numbersAt `json:"weights"`
	Bias    numbersAt `json:"bias"`
}

const styleImage = "image" // the name of the network's input

// conv adds a convolution with He's random weights.
func (n *stylenet) conv(rng *rand.Rand, name, in string, from, to int64, kernel, stride, pad int) {
	op := styleOp{
		Kind: "conv", Name: name, In: []string{in}, Kernel: kernel, Stride: stride, Pad: pad,
		shape: []int64{to, from, int64(kernel), int64(kernel)}, bias: make([]float32, to),
	}
	spread := math.Sqrt(2 / float64(from*int64(kernel*kernel)))
	op.weights = make([]float32, to*from*int64(kernel*kernel))
	for i := range op.weights {
		op.weights[i] = float32(rng.NormFloat64() * spread)
	}
	n.ops = append(n.ops, op)
}

func (n *stylenet) pool(name, in string, kernel, stride int) {
	n.ops = append(n.ops, styleOp{Kind: "pool", Name: name, In: []string{in}, Kernel: kernel, Stride: stride})
}

// vgg19 has the shape of VGG-19 up to conv5_1, with random weights: the time
// that it takes does not depend on them.
func vgg19() *stylenet {
	rng := rand.New(rand.NewPCG(19, 0))
	n := &stylenet{
		name: "VGG-19's shape", content: "conv4_2", contentWeight: 0.2, tvWeight: 1e-4,
		style: []weighted{{"conv1_1", 1}, {"conv2_1", 1}, {"conv3_1", 1}, {"conv4_1", 1}, {"conv5_1", 1}},
	}
	from, in := int64(3), styleImage
	for block, b := range []struct {
		convs    int
		channels int64
	}{{2, 64}, {2, 128}, {4, 256}, {4, 512}, {1, 512}} {
		if block > 0 {
			name := fmt.Sprintf("pool%d", block)
			n.pool(name, in, 2, 2)
			in = name
		}
		for i := range b.convs {
			name := fmt.Sprintf("conv%d_%d", block+1, i+1)
			n.conv(rng, name, in, from, b.channels, 3, 1, 1)
			from, in = b.channels, name
		}
	}
	return n
}

// squeezeNet is SqueezeNet 1.1 up to fire8, with the weights of the file, or
// random ones where there is none.
func squeezeNet(dirs []string) (*stylenet, error) {
	rng := rand.New(rand.NewPCG(11, 0))
	n := &stylenet{
		name: "SqueezeNet 1.1, random weights", content: "fire3/concat", contentWeight: 0.2, tvWeight: 1e-4,
		style: []weighted{{"conv1", 8}, {"fire2/concat", 4}, {"fire4/concat", 2}, {"fire6/concat", 1}, {"fire8/concat", 0.5}},
	}
	n.conv(rng, "conv1", styleImage, 3, 64, 3, 2, 0)
	n.pool("pool1", "conv1", 3, 2)
	from, in := int64(64), "pool1"
	for i, f := range []struct{ squeeze, expand int64 }{{16, 64}, {16, 64}, {32, 128}, {32, 128}, {48, 192}, {48, 192}, {64, 256}} {
		fire := fmt.Sprintf("fire%d", i+2)
		n.conv(rng, fire+"/squeeze1x1", in, from, f.squeeze, 1, 1, 0)
		n.conv(rng, fire+"/expand1x1", fire+"/squeeze1x1", f.squeeze, f.expand, 1, 1, 0)
		n.conv(rng, fire+"/expand3x3", fire+"/squeeze1x1", f.squeeze, f.expand, 3, 1, 1)
		in, from = fire+"/concat", 2*f.expand
		n.ops = append(n.ops, styleOp{Kind: "concat", Name: in, In: []string{fire + "/expand1x1", fire + "/expand3x3"}})
		if i == 1 || i == 3 {
			pool := fmt.Sprintf("pool%d", i+2)
			n.pool(pool, in, 3, 2)
			in = pool
		}
	}
	found, err := n.load("squeezenet11-features.onnx", dirs)
	if found {
		n.name = "SqueezeNet 1.1"
	}
	return n, err
}

// builtinFeatures is builtin-features as models/recipe/features.py makes it:
// SqueezeNet's stages as a chain of a 1x1 and a 3x3 each, the narrow part half
// again as wide.
func builtinFeatures(dirs []string) (*stylenet, error) {
	rng := rand.New(rand.NewPCG(8, 0))
	n := &stylenet{
		name: "builtin-features", content: "conv3", contentWeight: 0.2, tvWeight: 1e-4,
		style: []weighted{{"conv1", 8}, {"conv2", 4}, {"conv4", 2}, {"conv6", 1}, {"conv8", 0.5}},
	}
	n.conv(rng, "conv1", styleImage, 3, 64, 3, 2, 0)
	from, in := int64(64), "conv1"
	for i, s := range []struct{ narrow, channels int64 }{{24, 128}, {24, 128}, {48, 256}, {48, 256}, {72, 384}, {72, 384}, {96, 512}} {
		if i%2 == 0 && i < 6 {
			pool := fmt.Sprintf("pool%d", i+1)
			n.pool(pool, in, 3, 2)
			in = pool
		}
		squeeze, conv := fmt.Sprintf("squeeze%d", i+2), fmt.Sprintf("conv%d", i+2)
		n.conv(rng, squeeze, in, from, s.narrow, 1, 1, 0)
		n.conv(rng, conv, squeeze, s.narrow, s.channels, 3, 1, 1)
		from, in = s.channels, conv
	}
	found, err := n.load("builtin-features.onnx", append(dirs, "models"))
	if err == nil && !found {
		err = errors.New("no models/builtin-features.onnx here")
	}
	return n, err
}

// load takes the weights from the first of the folders that has the file.
func (n *stylenet) load(file string, dirs []string) (found bool, err error) {
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		return true, n.read(data)
	}
	return false, nil
}

// read takes the weights from a model whose convolutions have the same names.
func (n *stylenet) read(model []byte) error {
	m, err := grad.Parse(model)
	if err != nil {
		return err
	}
	g := grad.NewGraph()
	last := n.ops[len(n.ops)-1].Name
	im, err := g.Import(m, map[string]*grad.Value{m.Inputs()[0]: g.Input(styleImage, 1, 3, 64, 64)}, []string{last},
		grad.ImportOptions{Variable: func(string, []int64) bool { return true }})
	if err != nil {
		return err
	}
	for i := range n.ops {
		op := &n.ops[i]
		if op.Kind != "conv" {
			continue
		}
		w, b := initial(im, op.Name+".w"), initial(im, op.Name+".b")
		if len(w) != len(op.weights) || len(b) != len(op.bias) {
			return fmt.Errorf("the model has %d weights and %d biases for %s, not %d and %d", len(w), len(b), op.Name, len(op.weights), len(op.bias))
		}
		op.weights, op.bias = w, b
	}
	return nil
}

// initial is a weight as it stands in the model, or as the half floats that a
// Cast makes it of.
func initial(im *grad.Imported, name string) []float32 {
	if w := im.Initial[name]; w != nil {
		return w
	}
	return im.Initial[name+"/half"]
}

// build adds the network to a graph and returns its values by name. flops is
// what its convolutions cost, forward.
func (n *stylenet) build(g *grad.Graph, image *grad.Value) (values map[string]*grad.Value, flops float64) {
	values = map[string]*grad.Value{styleImage: image}
	square := func(x int) []int64 { return []int64{int64(x), int64(x)} }
	for _, op := range n.ops {
		x := values[op.In[0]]
		switch op.Kind {
		case "conv":
			w := grad.Window{Strides: square(op.Stride), Pads: append(square(op.Pad), square(op.Pad)...)}
			x = g.Conv(x, g.Constant(op.weights, op.shape...), g.Constant(op.bias, op.shape[0]), w)
			flops += 2 * float64(x.Len()) * float64(len(op.weights)) / float64(op.shape[0])
			x = g.Relu(x)
		case "pool":
			x = g.AveragePool(x, grad.Window{Kernel: square(op.Kernel), Strides: square(op.Stride)})
		case "concat":
			x = g.Concat(1, x, values[op.In[1]])
		}
		values[op.Name] = x
	}
	return values, flops
}

// network is the same as a model that the engine reads.
func (n *stylenet) network() (style.Network, error) {
	g := grad.NewGraph()
	image := g.Input(styleImage, 1, 3, 64, 64)
	values, _ := n.build(g, image)
	data, err := g.Marshal(values[n.ops[len(n.ops)-1].Name])
	if err != nil {
		return style.Network{}, err
	}
	// The graph named its values itself.
	layers := style.Layers{Content: map[string]float64{values[n.content].Name(): 1}, Style: map[string]float64{}}
	for _, l := range n.style {
		layers.Style[values[l.layer].Name()] = l.weight
	}
	return style.Network{
		ID: "measured", Read: func() ([]byte, error) { return data, nil }, Input: image.Name(),
		Mean: [3]float32{123, 117, 104}, Scale: [3]float32{1, 1, 1},
		Defaults: style.Defaults{Layers: layers, Content: n.contentWeight, Style: 1, TV: n.tvWeight},
	}, nil
}
