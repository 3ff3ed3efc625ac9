package openvino

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/x448/float16"

	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// converter makes the nodes, one layer after the other.
type converter struct {
	sources map[[2]int]int // layer and port -> the layer that it reads
	weights []byte
	names   Names
	given   map[int]operand // what each layer gives
	written map[string]bool // names of the initializers
	numbers int64           // in them
	out     *onnxpb.Graph
}

// operand is what a layer gives: a tensor that is computed, or weights.
type operand struct {
	tensor  string   // empty: weights
	weights *weights // nil: computed
}

// weights are a part of the weights' file.
type weights struct {
	layer int
	raw   []byte
	half  bool // float16
	shape []int64
}

// operator says how a layer of one type becomes a node.
type operator struct {
	inputs  int
	attrs   []string // that must be there
	convert func(c *converter, l *layer, a attributes, in []operand) error
}

// operators are those of face-reidentification-retail-0095.
func operators() map[string]operator {
	kernel := []string{"strides", "pads_begin", "pads_end", "auto_pad"}
	convolution := append([]string{"dilations"}, kernel...)
	return map[string]operator{
		"Parameter":        {0, []string{"shape", "element_type"}, (*converter).parameter},
		"Const":            {0, []string{"element_type", "shape", "offset", "size"}, (*converter).constant},
		"Convert":          {1, []string{"destination_type"}, (*converter).decompress},
		"Convolution":      {2, convolution, (*converter).convolution},
		"GroupConvolution": {2, convolution, (*converter).convolution},
		"AvgPool":          {1, append([]string{"kernel", "exclude-pad", "rounding_type"}, kernel...), (*converter).averagePool},
		"Add":              {2, []string{"auto_broadcast"}, arithmetic("Add")},
		"Multiply":         {2, []string{"auto_broadcast"}, arithmetic("Mul")},
		"PReLU":            {2, nil, (*converter).prelu},
		"Sigmoid":          {1, nil, (*converter).sigmoid},
		"Result":           {1, nil, (*converter).result},
	}
}

// layer converts one layer. Those that it reads come before it.
func (c *converter) layer(l *layer) error {
	known := operators()
	o, ok := known[l.Type]
	if !ok {
		return fmt.Errorf("this operator is not converted, only %s", strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	}
	if l.Version != "opset1" {
		return fmt.Errorf("the operator is that of %q, and only that of opset1 is converted", l.Version)
	}
	outputs := 1
	if l.Type == "Result" {
		outputs = 0
	}
	if len(l.Inputs) != o.inputs || len(l.Outputs) != outputs {
		return fmt.Errorf("it has %d inputs and %d outputs, not %d and %d", len(l.Inputs), len(l.Outputs), o.inputs, outputs)
	}
	a := attributes{}
	for _, attr := range l.Data.Attrs {
		a[attr.Name.Local] = attr.Value
	}
	// An attribute that is not known could change what is computed.
	if got, want := slices.Sorted(maps.Keys(a)), slices.Sorted(slices.Values(o.attrs)); !slices.Equal(got, want) {
		return fmt.Errorf("it has the attributes %q, not %q", got, want)
	}
	var in []operand
	for _, p := range l.Inputs {
		from, ok := c.sources[[2]int{l.ID, p.ID}]
		v, before := c.given[from]
		if !ok || !before {
			return fmt.Errorf("port %d reads no layer before this one", p.ID)
		}
		in = append(in, v)
	}
	if _, twice := c.given[l.ID]; twice {
		return errors.New("another layer has the same id")
	}
	return o.convert(c, l, a, in)
}

// node adds the node that computes the layer's tensor.
func (c *converter) node(l *layer, op string, attrs []*onnxpb.Attribute, in ...operand) error {
	n := &onnxpb.Node{OpType: op, Output: []string{l.tensor()}, Attribute: attrs}
	for _, o := range in {
		name := o.tensor
		if o.weights != nil { // written on first use
			w, err := c.initializer(fmt.Sprintf("c%d", o.weights.layer), o.weights, o.weights.shape)
			if err != nil {
				return err
			}
			name = w.tensor
		}
		n.Input = append(n.Input, name)
	}
	c.out.Node = append(c.out.Node, n)
	c.given[l.ID] = operand{tensor: l.tensor()}
	return nil
}

func (c *converter) parameter(l *layer, a attributes, _ []operand) error {
	shape, err := a.numbers("shape", 4)
	if err == nil {
		err = a.want("element_type", "f32")
	}
	if err != nil {
		return err
	}
	c.out.Input = append(c.out.Input, declare(c.names.Input, shape))
	c.given[l.ID] = operand{tensor: c.names.Input}
	return nil
}

// constant finds the numbers, but does not read them yet.
func (c *converter) constant(l *layer, a attributes, _ []operand) error {
	shape, err := a.numbers("shape", 0)
	if err != nil {
		return err
	}
	var place [2]int64
	for i, name := range []string{"offset", "size"} {
		list, err := a.numbers(name, 1)
		if err != nil {
			return err
		}
		place[i] = list[0]
	}
	w := &weights{layer: l.ID, half: a["element_type"] == "f16", shape: shape}
	width := int64(4)
	if w.half {
		width = 2
	} else if err := a.want("element_type", "f32"); err != nil {
		return err
	}
	offset, size, have := place[0], place[1], int64(len(c.weights))
	if offset > have || size > have-offset {
		return fmt.Errorf("%d bytes from %d on are not in the weights, which have %d", size, offset, have)
	}
	n := int64(1)
	for _, d := range shape {
		if d < 1 || d > size/n {
			return fmt.Errorf("the shape %v does not fit %d bytes", shape, size)
		}
		n *= d
	}
	if n*width != size {
		return fmt.Errorf("the shape %v does not fit %d bytes", shape, size)
	}
	w.raw = c.weights[offset : offset+size]
	c.given[l.ID] = operand{weights: w}
	return nil
}

// decompress passes weights on: they are written as float32 anyway. They are
// called after this layer.
func (c *converter) decompress(l *layer, a attributes, in []operand) error {
	if in[0].weights == nil {
		return errors.New("it converts something other than weights")
	}
	w := *in[0].weights
	w.layer = l.ID
	c.given[l.ID] = operand{weights: &w}
	return a.want("destination_type", "f32")
}

func (c *converter) convolution(l *layer, a attributes, in []operand) error {
	w := in[1].weights
	rank := 4
	if l.Type == "GroupConvolution" {
		rank = 5
	}
	if w == nil || len(w.shape) != rank {
		return fmt.Errorf("its second input is not weights with %d axes", rank)
	}
	group, shape := int64(1), w.shape
	if rank == 5 { // group, outputs of each, inputs of each, kernel
		group, shape = shape[0], append([]int64{shape[0] * shape[1]}, shape[2:]...)
	}
	dilations, err := a.numbers("dilations", 2)
	if err != nil {
		return err
	}
	strides, pads, err := a.window()
	if err != nil {
		return err
	}
	kernel, err := c.initializer(fmt.Sprintf("w%d", l.ID), w, shape)
	if err != nil {
		return err
	}
	return c.node(l, "Conv", []*onnxpb.Attribute{
		list("dilations", dilations), {Name: "group", Type: onnxpb.Attribute_INT, I: &group},
		list("kernel_shape", shape[2:]), list("pads", pads), list("strides", strides),
	}, in[0], kernel)
}

func (c *converter) averagePool(l *layer, a attributes, in []operand) error {
	kernel, err := a.numbers("kernel", 2)
	if err != nil {
		return err
	}
	strides, pads, err := a.window()
	if err == nil {
		err = errors.Join(a.want("exclude-pad", "true"), a.want("rounding_type", "floor"))
	}
	if err != nil {
		return err
	}
	return c.node(l, "AveragePool", []*onnxpb.Attribute{list("kernel_shape", kernel), list("pads", pads), list("strides", strides)}, in...)
}

func arithmetic(op string) func(*converter, *layer, attributes, []operand) error {
	return func(c *converter, l *layer, a attributes, in []operand) error {
		if err := a.want("auto_broadcast", "numpy"); err != nil {
			return err
		}
		return c.node(l, op, nil, in...)
	}
}

// prelu gives the slopes, one for all channels or one for each, the axes behind
// that of the channels: ONNX repeats from the last axis on.
func (c *converter) prelu(l *layer, _ attributes, in []operand) error {
	w := in[1].weights
	if w == nil || len(w.shape) != 1 {
		return errors.New("its second input is not weights with one axis")
	}
	slopes, err := c.initializer(fmt.Sprintf("p%d", l.ID), w, []int64{w.shape[0], 1, 1})
	if err != nil {
		return err
	}
	return c.node(l, "PRelu", nil, in[0], slopes)
}

func (c *converter) sigmoid(l *layer, _ attributes, in []operand) error {
	return c.node(l, "Sigmoid", nil, in...)
}

// result makes an embedding of what the graph gives, which is N x C x 1 x 1.
func (c *converter) result(l *layer, _ attributes, in []operand) error {
	dims := l.Inputs[0].Dims
	if len(dims) != 4 || dims[2] != 1 || dims[3] != 1 {
		return fmt.Errorf("its shape is %v, not N x C x 1 x 1", dims)
	}
	if in[0].weights != nil {
		return errors.New("it is weights")
	}
	c.out.Node = append(c.out.Node, &onnxpb.Node{OpType: "Flatten", Input: []string{in[0].tensor}, Output: []string{c.names.Output}})
	c.out.Output = append(c.out.Output, declare(c.names.Output, dims[:2]))
	return nil
}

// initializer writes weights under a name, once.
func (c *converter) initializer(name string, w *weights, shape []int64) (operand, error) {
	if c.written[name] {
		return operand{tensor: name}, nil
	}
	width := 4
	if w.half {
		width = 2
	}
	n := len(w.raw) / width
	if c.numbers += int64(n); c.numbers > maxNumbers {
		return operand{}, fmt.Errorf("with it there are over %d weights", maxNumbers)
	}
	raw := make([]byte, 0, 4*n)
	if w.half {
		for i := range n {
			x := float16.Frombits(binary.LittleEndian.Uint16(w.raw[2*i:])).Float32()
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
		}
	} else {
		raw = append(raw, w.raw...)
	}
	c.written[name] = true
	c.out.Initializer = append(c.out.Initializer, &onnxpb.Tensor{Name: name, Dims: shape, DataType: onnxpb.Tensor_FLOAT, RawData: raw})
	return operand{tensor: name}, nil
}

// list is an attribute of ONNX.
func list(name string, ints []int64) *onnxpb.Attribute {
	return &onnxpb.Attribute{Name: name, Type: onnxpb.Attribute_INTS, Ints: ints}
}

// declare is an input or an output of the ONNX model.
func declare(name string, shape []int64) *onnxpb.ValueInfo {
	s := &onnxpb.Shape{}
	for _, d := range shape {
		s.Dim = append(s.Dim, &onnxpb.Dimension{Size: &onnxpb.Dimension_Value{Value: d}})
	}
	return &onnxpb.ValueInfo{Name: name, Type: &onnxpb.Type{TensorType: &onnxpb.TensorType{ElemType: onnxpb.Tensor_FLOAT, Shape: s}}}
}

// attributes are those of a layer, as they are written.
type attributes map[string]string

// want refuses another value than the one that is converted.
func (a attributes) want(name, value string) error {
	if a[name] != value {
		return fmt.Errorf("%s is %q, and only %q is converted", name, a[name], value)
	}
	return nil
}

// numbers reads "1, 2": so many numbers of 0 or more, any number for 0.
func (a attributes) numbers(name string, count int) ([]int64, error) {
	var out []int64
	for part := range strings.SplitSeq(a[name], ",") {
		n, err := strconv.ParseInt(strings.TrimSpace(part), 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%s is %q, not whole numbers", name, a[name])
		}
		out = append(out, n)
	}
	if count > 0 && len(out) != count {
		return nil, fmt.Errorf("%s is %q, not %d numbers", name, a[name], count)
	}
	return out, nil
}

// window reads how a kernel moves over height and width. The pads are those
// before both, then those after both.
func (a attributes) window() (strides, pads []int64, err error) {
	if err := a.want("auto_pad", "explicit"); err != nil {
		return nil, nil, err
	}
	if strides, err = a.numbers("strides", 2); err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"pads_begin", "pads_end"} {
		p, err := a.numbers(name, 2)
		if err != nil {
			return nil, nil, err
		}
		pads = append(pads, p...)
	}
	return strides, pads, nil
}
