package style

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Network is a feature network: an ONNX file whose layers are compared.
type Network struct {
	ID string
	// Read gets the ONNX file, whose hash was checked.
	Read func() ([]byte, error)
	// Input is the name of its input [1,3,height,width], which takes
	// (v-Mean)*Scale for v in 0..255, by channel in their order there.
	Input       string
	BGR         bool
	Mean, Scale [3]float32
	// Defaults are the layers that are compared, and the weights at which
	// pictures look right with it.
	Defaults Defaults
	// Tile is the most pixels along a side that are computed at once; 0: that
	// of the engine. A network of wide layers needs less.
	Tile int
}

// Defaults are the choices of a network for weights that are "auto".
type Defaults struct {
	Layers             Layers
	Content, Style, TV float64 // factors of the whole losses
}

// features put the activations that are compared into a graph.
type features interface {
	// add gives layers of x, [1,C,spatial...] of 0..255.
	add(g *grad.Graph, x *grad.Value, layers []string) (map[string]*grad.Value, error)
	// names are the layers there are.
	names() []string
	defaults() Defaults
}

// model is a Network that was read.
type model struct {
	Network
	onnx *grad.Model
}

// readModel reads a network. A broken file is not the caller's fault, so the
// error does not describe it to the caller.
func readModel(n Network) (*model, error) {
	data, err := n.Read()
	if err == nil {
		var m *grad.Model
		if m, err = grad.Parse(data); err == nil {
			return &model{n, m}, nil
		}
	}
	return nil, &face.Error{Kind: face.Unavailable, Op: "style.readModel", Detail: fmt.Sprintf("the network %q cannot be read", n.ID), Err: err}
}

func (m *model) names() []string    { return m.onnx.Layers() }
func (m *model) defaults() Defaults { return m.Defaults }

// add replaces maximum pooling by mean pooling, which gives gradients to all
// pixels and pictures without speckle.
func (m *model) add(g *grad.Graph, x *grad.Value, layers []string) (map[string]*grad.Value, error) {
	if m.BGR {
		x = g.Concat(1, g.Slice(x, 1, 2, 3), g.Slice(x, 1, 1, 2), g.Slice(x, 1, 0, 1))
	}
	if m.Mean != [3]float32{} {
		x = g.Sub(x, g.Constant(m.Mean[:], 1, 3, 1, 1))
	}
	if m.Scale != [3]float32{1, 1, 1} {
		x = g.Mul(x, g.Constant(m.Scale[:], 1, 3, 1, 1))
	}
	im, err := g.Import(m.onnx, map[string]*grad.Value{m.Input: x}, layers, grad.ImportOptions{AveragePools: true})
	if err != nil {
		return nil, err
	}
	return im.Layers, nil
}

// layer is where the activations of a layer lie for an input of some size.
type layer struct {
	channels int
	size     []int
}

func (l layer) len() int { return l.channels * area(l.size) }

func layerOf(v *grad.Value) layer {
	l := layer{channels: int(v.Dim(1))}
	for _, d := range v.Shape()[2:] {
		l.size = append(l.size, int(d))
	}
	return l
}

// tensorShape is that of a tensor with one in the batch.
func tensorShape(channels int, size []int) []int64 {
	s := []int64{1, int64(channels)}
	for _, n := range size {
		s = append(s, int64(n))
	}
	return s
}

// geometry says how large the layers are for a whole input.
func geometry(f features, channels int, size []int, layers []string) (map[string]layer, error) {
	g := grad.NewGraph()
	values, err := f.add(g, g.Input("image", tensorShape(channels, size)...), layers)
	if err != nil {
		return nil, err
	}
	out := map[string]layer{}
	for name, v := range values {
		if len(v.Shape()) != len(size)+2 || v.Dim(0) != 1 {
			return nil, face.Errorf(face.Invalid, "style", "layer %q has the shape %v: it has no spatial axes to compare", name, v.Shape())
		}
		out[name] = layerOf(v)
	}
	return out, nil
}

// program is a compiled graph whose inputs are found by name.
type program struct {
	grad.Program
	index map[string]int
}

func compile(b grad.Backend, g *grad.Graph, outputs ...*grad.Value) (*program, error) {
	p := &program{index: map[string]int{}}
	for i, v := range g.Inputs(outputs...) {
		p.index[v.Name()] = i
	}
	var err error
	p.Program, err = g.Compile(b, outputs...)
	return p, err
}

// in is the memory of an input, nil if the outputs do not depend on it.
func (p *program) in(name string) []float32 {
	i, ok := p.index[name]
	if !ok {
		return nil
	}
	return p.Input(i)
}

// sorted are the keys of a map, in an order that is always the same.
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// close releases a program, if there is one.
func (p *program) close() error {
	if p == nil || p.Program == nil {
		return nil
	}
	return p.Close()
}

// runOnce runs a graph for some inputs and copies what comes out.
func runOnce(ctx context.Context, b grad.Backend, g *grad.Graph, x []float32, outputs ...*grad.Value) (out [][]float32, err error) {
	p, err := compile(b, g, outputs...)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := p.close(); err == nil {
			err = e
		}
	}()
	copy(p.in("image"), x)
	if err := p.Run(ctx); err != nil {
		return nil, err
	}
	for i := range outputs {
		out = append(out, slices.Clone(p.Output(i)))
	}
	return out, nil
}
