// Package grad makes ONNX graphs that compute gradients. A forward graph is
// built node by node, or imported from a model; [Graph.Gradient] adds its
// reverse-mode gradient as ordinary ONNX operators. What comes out is one
// static graph that any ONNX runtime runs on any of its execution providers.
//
// Every shape is known while the graph is built: float32 tensors of fixed
// size. Operators work on any number of spatial dimensions, [N,C,spatial...].
//
// The first error is kept: building goes on with meaningless values, and
// [Graph.Err], [Graph.Gradient] and [Graph.Compile] return that error. So a
// formula needs no error check for each of its operators.
package grad

import (
	"fmt"
	"math"
	"slices"

	"github.com/x448/float16"

	"github.com/likeness-id/likeness/pkg/face"
)

// Graph is a graph under construction. It is not safe for concurrent use.
type Graph struct {
	nodes  []*node // each after what it reads
	inputs []*Value
	names  map[string]bool
	turned map[*Value]*Value // what flipped weights were before
	err    error
}

// Value is a tensor in a graph: an input, a constant, or what a node computes.
type Value struct {
	graph *Graph
	name  string
	shape []int64
	from  *node // nil for inputs and constants
	// A constant has its numbers, floats or integers.
	floats []float32
	ints   []int64
	kind   kind
	stored Storage
}

// Storage is how a constant's numbers are kept in a written model. Those that
// read the model see float32 in any case: a Cast follows, which ONNX Runtime
// computes once, when it loads the model.
type Storage int

// The ways to keep numbers.
const (
	Float32 Storage = iota
	Float16         // rounded to the nearest half
	Int8            // rounded to the nearest integer, -128..127
)

type kind int

const (
	computed kind = iota
	input
	constant
	integers // a constant of int64, or the indices that a node computes
)

// node is one operator, with the attributes of opset 18.
type node struct {
	op, name        string
	domain          string   // of the operator; empty is ONNX's own
	inputs, outputs []*Value // an input that is left out is nil
	attrs           attributes
	operator        operator
	// centred is the input of a BatchNormalization less its mean, where the mean
	// and the variance are those of that input.
	centred *Value
}

// attributes are int64, []int64, float32 and string values by name.
type attributes map[string]any

func (a attributes) int(name string, otherwise int64) int64 {
	if v, ok := a[name].(int64); ok {
		return v
	}
	return otherwise
}

func (a attributes) ints(name string) []int64 {
	v, _ := a[name].([]int64)
	return v
}

func (a attributes) float(name string, otherwise float32) float32 {
	if v, ok := a[name].(float32); ok {
		return v
	}
	return otherwise
}

func (a attributes) str(name, otherwise string) string {
	if v, ok := a[name].(string); ok {
		return v
	}
	return otherwise
}

// Bounds, checked before any memory is taken.
const (
	maxElements = 1 << 30 // of a tensor
	maxList     = 1 << 22 // of the indices that a gradient needs
	maxFolded   = 1 << 12 // of integers that an import computes: shapes, mostly
)

// NewGraph makes an empty graph.
func NewGraph() *Graph {
	return &Graph{names: map[string]bool{}, turned: map[*Value]*Value{}}
}

// Err is the first error of building: Invalid, naming the node.
func (g *Graph) Err() error { return g.err }

func (g *Graph) fail(format string, args ...any) *Value {
	if g.err == nil {
		g.err = face.Errorf(face.Invalid, "grad", format, args...)
	}
	return &Value{graph: g, shape: []int64{1}}
}

// Shape is the tensor's shape. It may not be changed.
func (v *Value) Shape() []int64 { return v.shape }

// Dim is the size of an axis, 1 where there is none.
func (v *Value) Dim(axis int) int64 {
	if axis < 0 || axis >= len(v.shape) {
		return 1
	}
	return v.shape[axis]
}

// Len is how many numbers the tensor has.
func (v *Value) Len() int { return int(elements(v.shape)) }

// Name is the tensor's name in the graph.
func (v *Value) Name() string { return v.name }

func elements(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// checkShape refuses what is empty or too large.
func checkShape(shape []int64) error {
	n := int64(1)
	for _, d := range shape {
		if d < 1 || d > maxElements/n {
			return fmt.Errorf("shape %v is empty or too large", shape)
		}
		n *= d
	}
	return nil
}

// Input adds a tensor that is filled before each run.
func (g *Graph) Input(name string, shape ...int64) *Value {
	if err := checkShape(shape); err != nil {
		return g.fail("input %q: %v", name, err)
	}
	if name == "" || g.names[name] {
		return g.fail("input %q: the name is empty or taken", name)
	}
	v := &Value{graph: g, name: g.name(name), shape: slices.Clone(shape), kind: input}
	g.inputs = append(g.inputs, v)
	return v
}

// Constant adds a tensor whose numbers are part of the graph. The graph keeps
// the slice.
func (g *Graph) Constant(data []float32, shape ...int64) *Value {
	if err := checkShape(shape); err != nil {
		return g.fail("constant: %v", err)
	}
	if int64(len(data)) != elements(shape) {
		return g.fail("constant: %d numbers for the shape %v", len(data), shape)
	}
	return &Value{graph: g, name: g.name("c"), shape: slices.Clone(shape), floats: data, kind: constant}
}

// Store says how a constant is kept in the written model, and rounds its numbers
// as that needs.
func (g *Graph) Store(v *Value, as Storage) *Value {
	if v.kind != constant {
		return g.fail("%q is no constant", v.name)
	}
	v.floats, v.stored = slices.Clone(v.floats), as
	for i, x := range v.floats {
		switch as {
		case Float16:
			v.floats[i] = float16.Fromfloat32(x).Float32()
		case Int8:
			v.floats[i] = float32(math.RoundToEven(float64(max(-128, min(127, x)))))
		}
	}
	return v
}

// Scalar adds a constant of shape [1].
func (g *Graph) Scalar(x float64) *Value { return g.Constant([]float32{float32(x)}, 1) }

// integers adds a constant list of int64.
func (g *Graph) integers(data ...int64) *Value {
	return &Value{graph: g, name: g.name("i"), shape: []int64{int64(len(data))}, ints: data, kind: integers}
}

// name makes a name that is free in the graph.
func (g *Graph) name(want string) string {
	name := g.free(want)
	g.names[name] = true
	return name
}

// free finds a name that is not taken, like one that is wanted.
func (g *Graph) free(want string) string {
	name := want
	for i := len(g.names); g.names[name]; i++ {
		name = fmt.Sprintf("%s_%d", want, i)
	}
	return name
}

// apply adds a node and returns its first output.
func (g *Graph) apply(op string, attrs attributes, inputs ...*Value) *Value {
	return g.add(&node{op: op, attrs: attrs, inputs: inputs})
}

// add appends a node after working out the shapes of its outputs.
func (g *Graph) add(n *node) *Value {
	if g.err != nil {
		return &Value{graph: g, shape: []int64{1}}
	}
	if n.name == "" {
		n.name = g.name(n.op)
	}
	for i, v := range n.inputs {
		if v != nil && v.graph != g {
			return g.fail("node %s (%s): input %d is of another graph", n.name, n.op, i)
		}
	}
	var known bool
	if n.operator, known = operatorOf(n.op); !known {
		return g.fail("node %s: operator %s is not one that pkg/grad knows", n.name, n.op)
	}
	low, high := n.operator.arity[0], n.operator.arity[1]
	if len(n.inputs) < low || len(n.inputs) > high && high > 0 {
		return g.fail("node %s (%s): %d inputs", n.name, n.op, len(n.inputs))
	}
	for i, v := range n.inputs {
		switch {
		case v == nil && (i < low || high == 0):
			return g.fail("node %s (%s): input %d is missing", n.name, n.op, i)
		case v != nil && v.kind == integers && !takesIntegers(n.op, i):
			return g.fail("node %s (%s): input %d is of integers", n.name, n.op, i)
		}
	}
	shapes, err := n.operator.infer(n)
	if err != nil {
		return g.fail("node %s (%s): %v", n.name, n.op, err)
	}
	for i, shape := range shapes {
		if err := checkShape(shape); err != nil {
			return g.fail("node %s (%s): output %d: %v", n.name, n.op, i, err)
		}
		n.outputs = append(n.outputs, &Value{graph: g, name: g.name(n.name + ":" + fmt.Sprint(i)), shape: shape, from: n})
	}
	g.nodes = append(g.nodes, n)
	return n.outputs[0]
}

// Gradient adds the gradient of a loss, a tensor of one number, with respect to
// some values: inputs, constants or computed ones. Each gradient has its
// value's shape; it is zero where the loss does not depend on the value. The
// error is Invalid, and names the node, if an operator on the way has no
// gradient.
func (g *Graph) Gradient(loss *Value, with ...*Value) ([]*Value, error) {
	if g.err != nil {
		return nil, g.err
	}
	for _, v := range append([]*Value{loss}, with...) {
		if v.graph != g || v.kind == integers {
			return nil, face.Errorf(face.Invalid, "grad.Gradient", "%q is not a float32 tensor of this graph", v.name)
		}
	}
	if loss.Len() != 1 {
		return nil, face.Errorf(face.Invalid, "grad.Gradient", "the loss has the shape %v, not one number", loss.shape)
	}
	forward := slices.Clone(g.nodes)
	// The nodes that depend on the wanted values, and so must pass a gradient
	// on.
	needed := map[*Value]bool{}
	for _, v := range with {
		needed[v] = true
	}
	for _, n := range forward {
		for _, in := range n.inputs {
			if in != nil && needed[in] {
				for _, out := range n.outputs {
					needed[out] = true
				}
				break
			}
		}
	}
	parts := map[*Value][]*Value{}
	if needed[loss] {
		parts[loss] = []*Value{g.fill(1, loss.shape)}
	}
	sum := func(v *Value) *Value {
		p := parts[v]
		if len(p) == 0 {
			return nil
		}
		total := p[0]
		if len(p) > 1 {
			total = g.apply("Sum", nil, p...)
		}
		parts[v] = []*Value{total}
		return total
	}
	for _, n := range slices.Backward(forward) {
		out := n.outputs[0]
		dy := sum(out)
		if dy == nil {
			continue
		}
		need := make([]bool, len(n.inputs))
		for i, in := range n.inputs {
			need[i] = in != nil && needed[in]
		}
		if !slices.Contains(need, true) {
			continue
		}
		if n.operator.vjp == nil {
			return nil, face.Errorf(face.Invalid, "grad.Gradient", "node %s: operator %s has no gradient here", n.name, n.op)
		}
		grads, err := n.operator.vjp(g, n, dy, need)
		if err != nil {
			return nil, face.Errorf(face.Invalid, "grad.Gradient", "node %s (%s): %v", n.name, n.op, err)
		}
		for i, in := range n.inputs {
			if !need[i] || i >= len(grads) || grads[i] == nil {
				continue
			}
			if g.err == nil && !slices.Equal(grads[i].shape, in.shape) {
				return nil, face.Errorf(face.Internal, "grad.Gradient", "node %s (%s): input %d is %v, its gradient %v",
					n.name, n.op, i, in.shape, grads[i].shape)
			}
			parts[in] = append(parts[in], grads[i])
		}
	}
	all := make([]*Value, len(with))
	for i, v := range with {
		if all[i] = sum(v); all[i] == nil {
			all[i] = g.fill(0, v.shape)
		}
	}
	return all, g.err
}

// filled says whether v is x everywhere, by construction.
func (v *Value) filled(x float32) bool {
	if v.from != nil && v.from.op == "Expand" {
		v = v.from.inputs[0]
	}
	return v.kind == constant && !slices.ContainsFunc(v.floats, func(f float32) bool { return f != x })
}

// fill makes a tensor of one repeated number.
func (g *Graph) fill(x float64, shape []int64) *Value {
	if len(shape) == 0 {
		return g.Constant([]float32{float32(x)})
	}
	return g.Expand(g.Scalar(x), shape...)
}
