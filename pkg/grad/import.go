package grad

import (
	"errors"
	"fmt"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// ImportOptions say how a model becomes part of a graph. The zero value, which
// is the default, imports the model as it is, with all its weights constant.
type ImportOptions struct {
	// AveragePools replaces every maximum pooling by mean pooling.
	AveragePools bool
	// Variable says which weights become inputs of the graph, so that they can
	// be learnt. If it is nil, all weights are constants. Single numbers
	// without an axis are always constants.
	Variable func(name string, shape []int64) bool
	// Training uses the batch's own mean and variance in BatchNormalization.
	Training bool
	// Store is how constants of 64 numbers and more are kept in a written model.
	Store Storage
	// Known leaves out layers that are no float32 tensors, such as the shapes
	// that some models compute. Without it they are an error.
	Known bool
}

// Imported lists the parts of a model that are now in a graph.
type Imported struct {
	// Layers are the values that were asked for, by name.
	Layers map[string]*Value
	// Variables are the inputs that were weights, by name, and Initial their
	// numbers in the model.
	Variables map[string]*Value
	Initial   map[string][]float32
	// Statistics are the batch's own mean and variance of each
	// BatchNormalization, by the names of the weights that hold the running
	// ones (training form only).
	Statistics map[string]*Value
}

// Import adds the part of a model that computes some layers. inputs gives, for
// each input of the model, its value in this graph. It may also give a value for
// a layer: then only the part of the model behind that layer is added. The error
// is Invalid if a layer is missing, or if an operator on the way to a layer is
// unknown. Known operators that have no gradient are only found by
// [Graph.Gradient].
func (g *Graph) Import(m *Model, inputs map[string]*Value, layers []string, o ImportOptions) (*Imported, error) {
	if g.err != nil {
		return nil, g.err
	}
	im := &importer{
		g: g, m: m, options: o, values: map[string]*Value{},
		out: &Imported{
			Layers: map[string]*Value{}, Variables: map[string]*Value{},
			Initial: map[string][]float32{}, Statistics: map[string]*Value{},
		},
	}
	for name, v := range inputs {
		if !slices.Contains(m.Inputs(), name) && m.maker[name] == nil {
			return nil, face.Errorf(face.Invalid, "grad.Import", "the model has no input or layer %q; its inputs are %q", name, m.Inputs())
		}
		im.values[name] = v
	}
	wanted := map[*onnxpb.Node]bool{}
	var reach func(name string)
	reach = func(name string) {
		n := m.maker[name]
		if n == nil || wanted[n] || inputs[name] != nil {
			return
		}
		wanted[n] = true
		for _, in := range n.Input {
			reach(in)
		}
	}
	for _, name := range layers {
		if m.maker[name] == nil {
			return nil, face.Errorf(face.Invalid, "grad.Import", "the model has no layer %q", name)
		}
		reach(name)
	}
	// Nodes stand in an order in which each comes after what it reads.
	for _, n := range m.graph.Node {
		if !wanted[n] {
			continue
		}
		if err := im.node(n); err != nil {
			return nil, face.Errorf(face.Invalid, "grad.Import", "node %q (%s): %v", nodeName(n), n.OpType, err)
		}
		if g.err != nil {
			return nil, g.err
		}
	}
	for _, name := range layers {
		v := im.values[name]
		if v == nil || v.kind == integers {
			if o.Known {
				continue
			}
			return nil, face.Errorf(face.Invalid, "grad.Import", "layer %q is not a float32 tensor that is known here", name)
		}
		im.out.Layers[name] = v
	}
	return im.out, nil
}

type importer struct {
	g       *Graph
	m       *Model
	options ImportOptions
	values  map[string]*Value
	out     *Imported
}

// value finds a tensor: an input, a weight or what a node computed.
func (im *importer) value(name string) (*Value, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // an optional input that is left out
	}
	if v := im.values[name]; v != nil {
		return v, nil
	}
	t := im.m.tensor[name]
	if t == nil {
		return nil, fmt.Errorf("nothing gives %q", name)
	}
	shape, floats, ints, err := readTensor(t)
	if err != nil {
		return nil, fmt.Errorf("weight %q: %w", name, err)
	}
	var v *Value
	switch {
	case t.DataType == onnxpb.Tensor_INT64 || t.DataType == onnxpb.Tensor_INT32:
		v = &Value{graph: im.g, name: im.g.name(name), shape: shape, ints: ints, kind: integers}
	case elements(shape) == 0:
		return nil, nil //nolint:nilnil // empty means left out, as the roi of a Resize
	case len(shape) > 0 && im.options.Variable != nil && im.options.Variable(name, shape):
		v = im.g.Input(im.g.free(name), shape...)
		im.out.Variables[name], im.out.Initial[name] = v, floats
	default:
		v = im.g.Constant(floats, shape...)
		im.g.Name(v, im.g.free(name))
		if len(floats) >= 64 && im.options.Store != Float32 {
			im.g.Store(v, im.options.Store)
		}
	}
	im.values[name] = v
	return v, im.g.err
}

// node adds one node, in the form that opset 18 has for it.
func (im *importer) node(p *onnxpb.Node) error {
	if p.Domain != "" && p.Domain != "ai.onnx" {
		return fmt.Errorf("the domain %q is not supported", p.Domain)
	}
	attrs, err := decodeAttributes(p)
	if err != nil {
		return err
	}
	in := make([]*Value, len(p.Input))
	for i, name := range p.Input {
		if in[i], err = im.value(name); err != nil {
			return err
		}
	}
	in = optional(in...)
	n := &node{op: p.OpType, name: im.g.name(nodeName(p)), inputs: in, attrs: attrs}
	done, err := im.normalise(n, p)
	if err != nil {
		return err
	}
	if done == nil {
		done = im.g.add(n)
	}
	im.values[p.Output[0]] = done
	return nil
}

// nodeName is a node's name, or that of what it computes: many have none.
func nodeName(p *onnxpb.Node) string {
	if p.Name != "" {
		return p.Name
	}
	return p.Output[0]
}

// requiredInput takes the i-th input, which must be there.
func requiredInput(n *node, i int) (*Value, error) {
	if i >= len(n.inputs) || n.inputs[i] == nil {
		return nil, fmt.Errorf("input %d is missing", i)
	}
	return n.inputs[i], nil
}

// normalise turns older forms of an operator into that of opset 18. If it
// returns a value, that replaces the node; if it returns nil, the changed node
// is used.
func (im *importer) normalise(n *node, p *onnxpb.Node) (*Value, error) {
	g := im.g
	listAsInput := func(name string, at int) {
		if list := n.attrs.ints(name); list != nil {
			for len(n.inputs) < at {
				n.inputs = append(n.inputs, nil)
			}
			n.inputs = append(n.inputs[:at], g.integers(list...))
		}
		delete(n.attrs, name)
	}
	switch n.op {
	case "Identity", "Dropout":
		v, err := requiredInput(n, 0)
		return v, err
	case "Constant":
		return im.constant(n.attrs)
	case "Slice":
		if im.m.opset < 10 {
			starts, ends, axes := n.attrs.ints("starts"), n.attrs.ints("ends"), n.attrs.ints("axes")
			n.attrs, n.inputs = nil, append(n.inputs[:min(1, len(n.inputs))], g.integers(starts...), g.integers(ends...))
			if axes != nil {
				n.inputs = append(n.inputs, g.integers(axes...))
			}
		}
	}
	if v, err := im.fold(n); v != nil || err != nil {
		return v, err
	}
	switch n.op {
	case "PRelu":
		// ONNX Runtime computes a LeakyRelu together with the convolution before it.
		if slope, err := requiredInput(n, 1); err != nil {
			return nil, err
		} else if slope.kind == constant && slope.Len() == 1 {
			n.op, n.attrs, n.inputs = "LeakyRelu", attributes{"alpha": slope.floats[0]}, n.inputs[:1]
			return nil, nil //nolint:nilnil // the node itself
		}
		return nil, im.oldBroadcast(n)
	case "Add", "Sub", "Mul", "Div", "Gemm":
		return nil, im.oldBroadcast(n)
	case "Max", "Min":
		return im.constantLimit(n)
	case "BatchNormalization":
		if n.attrs.int("spatial", 1) == 0 {
			return nil, errors.New("spatial = 0 is not supported")
		}
		for _, drop := range []string{"spatial", "momentum", "is_test", "consumed_inputs", "training_mode"} {
			delete(n.attrs, drop)
		}
		if im.options.Training {
			if len(n.inputs) != 5 || slices.Contains(n.inputs, nil) {
				return nil, errors.New("it does not have five inputs")
			}
			if len(n.inputs[0].shape) < 2 {
				return nil, fmt.Errorf("%v has no channels", n.inputs[0].shape)
			}
			y, mean, variance := g.BatchNormTraining(n.inputs[0], n.inputs[1], n.inputs[2], float64(n.attrs.float("epsilon", 1e-5)))
			im.out.Statistics[p.Input[3]], im.out.Statistics[p.Input[4]] = mean, variance
			return y, nil
		}
	case "Clip":
		if im.m.opset < 11 {
			x, err := requiredInput(n, 0)
			if err != nil {
				return nil, err
			}
			low, high := g.Constant([]float32{n.attrs.float("min", -3.4028235e38)}), g.Constant([]float32{n.attrs.float("max", 3.4028235e38)})
			n.inputs, n.attrs = []*Value{x, low, high}, nil
		}
	case "Conv", "ConvTranspose", "AveragePool":
		return nil, im.window(n)
	case "MaxPool":
		if len(p.Output) > 1 && p.Output[1] != "" {
			return nil, errors.New("its indices are not supported")
		}
		if im.options.AveragePools {
			n.op = "AveragePool"
			delete(n.attrs, "storage_order")
		}
		return nil, im.window(n)
	case "ReduceSum":
		if im.m.opset < 13 {
			listAsInput("axes", 1)
		}
	case "ReduceMean", "ReduceSumSquare", "ReduceL2":
		if im.m.opset < 18 {
			listAsInput("axes", 1)
		}
	case "Pad":
		if im.m.opset < 11 {
			if n.attrs.float("value", 0) != 0 {
				return nil, errors.New("padding with another number than 0 is not supported")
			}
			delete(n.attrs, "value")
			listAsInput("pads", 1)
		}
		if len(n.inputs) > 3 {
			return nil, errors.New("axes are not supported")
		}
	case "Squeeze", "Unsqueeze":
		return im.squeeze(n)
	case "Softmax":
		x, err := requiredInput(n, 0)
		if err != nil || im.m.opset >= 13 {
			return nil, err
		}
		// Until opset 12, everything from the axis on was one axis.
		axis, err := axisOf(n.attrs.int("axis", 1), len(x.shape))
		if err != nil {
			return nil, err
		}
		flat := g.Reshape(x, elements(x.shape[:axis]), elements(x.shape[axis:]))
		return g.Reshape(g.Softmax(flat, 1), x.shape...), nil
	case "Resize", "Upsample":
		return nil, im.resize(n)
	case "MatMul":
		return im.vectors(n)
	}
	return nil, nil //nolint:nilnil // the node itself
}

// constant makes a Constant node's tensor.
func (im *importer) constant(attrs attributes) (*Value, error) {
	switch {
	case attrs["value"] != nil:
		t, ok := attrs["value"].(*onnxpb.Tensor)
		if !ok {
			return nil, errors.New("its value is no tensor")
		}
		shape, floats, ints, err := readTensor(t)
		if err != nil {
			return nil, err
		}
		if floats == nil {
			return &Value{graph: im.g, name: im.g.name("i"), shape: shape, ints: ints, kind: integers}, nil
		}
		return im.g.Constant(floats, shape...), nil
	case attrs["value_float"] != nil:
		return im.g.Constant([]float32{attrs.float("value_float", 0)}), nil
	case attrs["value_int"] != nil:
		v := im.g.integers(attrs.int("value_int", 0))
		v.shape = []int64{}
		return v, nil
	case attrs["value_ints"] != nil:
		return im.g.integers(attrs.ints("value_ints")...), nil
	}
	return nil, errors.New("its value is of a type that is not supported")
}

// fold computes lists of integers while the graph is built, because every shape
// is known here. Exporters compute the shape of a Reshape with such lists. It
// returns nil if the node does not work on integers.
func (im *importer) fold(n *node) (*Value, error) {
	x, err := requiredInput(n, 0)
	if err != nil {
		return nil, err
	}
	switch n.op {
	case "Shape":
		rank := int64(len(x.shape))
		clamp := func(i int64) int64 {
			if i < 0 {
				i += rank
			}
			return max(0, min(rank, i))
		}
		start, end := clamp(n.attrs.int("start", 0)), clamp(n.attrs.int("end", rank))
		return im.g.integers(x.shape[start:max(start, end)]...), nil
	case "Cast":
		to := onnxpb.Tensor_Type(n.attrs.int("to", 0)) //nolint:gosec // an enumeration
		float := to == onnxpb.Tensor_FLOAT || to == onnxpb.Tensor_FLOAT16 || to == onnxpb.Tensor_DOUBLE
		whole := to == onnxpb.Tensor_INT64 || to == onnxpb.Tensor_INT32
		if (x.kind == integers) != whole || (x.kind != integers) != float {
			return nil, fmt.Errorf("to %v is not supported", to)
		}
		return x, nil // all floats are float32 here
	case "Squeeze", "Unsqueeze", "Gather", "Concat", "Slice":
	default:
		return nil, nil //nolint:nilnil // not an operator on lists
	}
	size := 0
	for i, in := range n.inputs {
		if i > 0 && in == nil {
			continue
		}
		if in.kind != integers || in.from != nil {
			return nil, nil //nolint:nilnil // not a list of integers
		}
		size += len(in.ints)
		if len(in.shape) > 1 || size > maxFolded {
			return nil, fmt.Errorf("integers of the shape %v are not supported", in.shape)
		}
	}
	var out []int64
	switch n.op {
	case "Squeeze", "Unsqueeze":
		out = x.ints // a list stays a list
	case "Gather":
		indices, err := requiredInput(n, 1)
		if err != nil {
			return nil, err
		}
		for _, i := range indices.ints {
			if i < 0 {
				i += int64(len(x.ints))
			}
			if i < 0 || i >= int64(len(x.ints)) {
				return nil, fmt.Errorf("index %d of %d", i, len(x.ints))
			}
			out = append(out, x.ints[i])
		}
	case "Concat":
		for i := range n.inputs {
			in, err := requiredInput(n, i)
			if err != nil {
				return nil, err
			}
			out = append(out, in.ints...)
		}
	case "Slice":
		cuts, err := slicesOf(&node{inputs: append([]*Value{{shape: []int64{int64(len(x.ints))}}}, n.inputs[1:]...)})
		if err != nil || len(cuts) != 1 {
			return nil, errors.Join(err, errors.New("a slice of a list that is not supported"))
		}
		for i := range cuts[0].size {
			out = append(out, x.ints[cuts[0].start+i*cuts[0].step])
		}
	}
	return im.g.integers(out...), nil
}

// window writes automatic padding, and the rounding up of a pooling, out as
// pads.
func (im *importer) window(n *node) error {
	auto, ceil := n.attrs.str("auto_pad", "NOTSET"), n.attrs.int("ceil_mode", 0) != 0
	same := auto == "SAME_UPPER" || auto == "SAME_LOWER"
	if !same && auto != "NOTSET" && auto != "VALID" || same && n.op == "ConvTranspose" {
		return fmt.Errorf("auto_pad %q is not supported", auto)
	}
	if auto != "NOTSET" {
		delete(n.attrs, "pads")
	}
	delete(n.attrs, "auto_pad")
	delete(n.attrs, "ceil_mode")
	if !same && !ceil {
		return nil
	}
	x, err := requiredInput(n, 0)
	if err != nil {
		return err
	}
	kernel := n.attrs.ints("kernel_shape")
	if n.op == "Conv" {
		weights, err := requiredInput(n, 1)
		if err != nil {
			return err
		}
		kernel = weights.shape[min(2, len(weights.shape)):]
	}
	w, err := windowOf(n, kernel)
	if err != nil {
		return err
	}
	after := slices.Clone(w.after)
	for i := range kernel {
		size, stride := x.shape[2+i], w.strides[i]
		if same {
			total := max(0, (size-1)/stride*stride+w.extent(i)-size)
			w.before[i], w.after[i] = total/2, total-total/2
			if auto == "SAME_LOWER" {
				w.before[i], w.after[i] = w.after[i], w.before[i]
			}
			continue
		}
		out, err := w.over(i, size)
		if err != nil {
			return err
		}
		// Add one more window if numbers are left, unless it would begin in the
		// padding.
		if rest := out*stride + w.extent(i) - size - w.before[i]; rest-w.after[i] < stride && out*stride < size+w.before[i] {
			w.after[i] = rest
		}
	}
	if !same && n.attrs.int("count_include_pad", 0) != 0 {
		// The mean counts the padding, but not what lies beyond it, so the
		// padding becomes part of the tensor.
		n.inputs[0] = im.g.pad(x, slices.Concat([]int64{0, 0}, w.before, []int64{0, 0}, after))
		for i := range kernel {
			w.before[i], w.after[i] = 0, w.after[i]-after[i]
		}
		delete(n.attrs, "count_include_pad")
	}
	n.attrs["pads"] = slices.Concat(w.before, w.after)
	return nil
}

// oldBroadcast writes out how the second operand of opset 6 is repeated: along
// axes that an attribute names.
func (im *importer) oldBroadcast(n *node) error {
	if im.m.opset >= 7 {
		return nil
	}
	if len(n.inputs) < 2 || n.inputs[0] == nil || n.inputs[1] == nil {
		return errors.New("it does not have two inputs")
	}
	x, b := n.inputs[0], n.inputs[1]
	axis := n.attrs.int("axis", int64(len(x.shape)-len(b.shape)))
	if n.op == "PRelu" && len(b.shape) == 1 {
		axis = 1 // a slope for each channel
	}
	delete(n.attrs, "broadcast")
	delete(n.attrs, "axis")
	if n.op == "Gemm" || b.Len() == 1 {
		return nil
	}
	after := int64(len(x.shape)-len(b.shape)) - axis
	if axis < 0 || after < 0 {
		return fmt.Errorf("%v along axis %d of %v", b.shape, axis, x.shape)
	}
	if after > 0 {
		n.inputs[1] = im.g.Reshape(b, slices.Concat(b.shape, slices.Repeat([]int64{1}, int(after)))...)
	}
	return nil
}

// constantLimit turns Max or Min with a constant number into Relu or Clip,
// which have a gradient. Some exporters write every Relu like this.
func (im *importer) constantLimit(n *node) (*Value, error) {
	if len(n.inputs) != 2 || n.inputs[0] == nil || n.inputs[1] == nil {
		return nil, errors.New("it does not have two inputs")
	}
	x, bound := n.inputs[0], n.inputs[1]
	if len(x.floats) == 1 {
		x, bound = bound, x
	}
	if len(bound.floats) != 1 || len(bound.shape) > len(x.shape) {
		return nil, errors.New("only with a constant number")
	}
	switch limit := im.g.Constant(bound.floats); {
	case n.op == "Max" && bound.floats[0] == 0:
		n.op, n.inputs = "Relu", []*Value{x}
	case n.op == "Max":
		n.op, n.inputs = "Clip", []*Value{x, limit}
	default:
		n.op, n.inputs = "Clip", []*Value{x, nil, limit}
	}
	return nil, nil //nolint:nilnil // the node itself
}

// squeeze takes axes of size 1 away, or adds them.
func (im *importer) squeeze(n *node) (*Value, error) {
	x, err := requiredInput(n, 0)
	if err != nil {
		return nil, err
	}
	list := n.attrs.ints("axes")
	if len(n.inputs) > 1 {
		if list, err = constants(n.inputs[1]); err != nil {
			return nil, err
		}
	}
	var shape []int64
	if n.op == "Unsqueeze" {
		rank := len(x.shape) + len(list)
		at := map[int]bool{}
		for _, a := range list {
			axis, err := axisOf(a, rank)
			if err != nil || at[axis] {
				return nil, errors.Join(err, fmt.Errorf("axes %v of %v", list, x.shape))
			}
			at[axis] = true
		}
		rest := x.shape
		for i := range rank {
			if at[i] {
				shape = append(shape, 1)
			} else {
				shape, rest = append(shape, rest[0]), rest[1:]
			}
		}
		return im.g.Reshape(x, shape...), nil
	}
	at := map[int]bool{}
	for _, a := range list {
		axis, err := axisOf(a, len(x.shape))
		if err != nil {
			return nil, err
		}
		if x.shape[axis] != 1 {
			return nil, fmt.Errorf("axis %d of %v is not 1", axis, x.shape)
		}
		at[axis] = true
	}
	for i, d := range x.shape {
		if d != 1 || list != nil && !at[i] {
			shape = append(shape, d)
		}
	}
	return im.g.Reshape(x, shape...), nil
}

// resize works out the sizes.
func (im *importer) resize(n *node) error {
	x, err := requiredInput(n, 0)
	if err != nil {
		return err
	}
	var scales []float32
	var sizes []int64
	switch {
	case n.op == "Upsample" || im.m.opset < 11:
		// Older forms knew one way of counting only.
		n.attrs["coordinate_transformation_mode"], n.attrs["nearest_mode"] = "asymmetric", "floor"
		scales, _ = n.attrs["scales"].([]float32)
		delete(n.attrs, "scales")
		if len(n.inputs) > 1 && n.inputs[1] != nil {
			scales = n.inputs[1].floats
		}
	case len(n.inputs) > 3 && n.inputs[3] != nil:
		if sizes, err = constants(n.inputs[3]); err != nil {
			return err
		}
	case len(n.inputs) > 2 && n.inputs[2] != nil:
		scales = n.inputs[2].floats
	}
	for _, name := range []string{"axes", "keep_aspect_ratio_policy"} {
		if n.attrs[name] != nil {
			return fmt.Errorf("attribute %q is not supported", name)
		}
	}
	if sizes == nil {
		if len(scales) != len(x.shape) {
			return fmt.Errorf("scales %v for %v", scales, x.shape)
		}
		for i, s := range scales {
			size := float64(s) * float64(x.shape[i])
			if !(size >= 1 && size <= maxElements) || size != float64(int64(size)) {
				// If a size is rounded, runtimes would pick different numbers.
				return fmt.Errorf("a scale of %g over %d", s, x.shape[i])
			}
			sizes = append(sizes, int64(size))
		}
	}
	n.op, n.inputs = "Resize", []*Value{x, nil, nil, im.g.integers(sizes...)}
	return nil
}

// vectors gives the vector of a MatMul the axis that it lacks.
func (im *importer) vectors(n *node) (*Value, error) {
	if len(n.inputs) != 2 || n.inputs[0] == nil || n.inputs[1] == nil {
		return nil, errors.New("it does not have two inputs")
	}
	g, a, b := im.g, n.inputs[0], n.inputs[1]
	if len(a.shape) > 1 && len(b.shape) > 1 || len(a.shape) == 0 || len(b.shape) == 0 {
		return nil, nil //nolint:nilnil // the node itself
	}
	rowA, columnB := a, b
	if len(a.shape) == 1 {
		rowA = g.Reshape(a, 1, a.shape[0])
	}
	if len(b.shape) == 1 {
		columnB = g.Reshape(b, b.shape[0], 1)
	}
	y := g.MatMul(rowA, columnB)
	shape := slices.Clone(y.shape)
	if len(b.shape) == 1 {
		shape = shape[:len(shape)-1]
	}
	if len(a.shape) == 1 {
		at := len(shape) - 1
		if len(b.shape) > 1 {
			at--
		}
		if at+1 <= len(shape) && at >= 0 {
			shape = slices.Delete(shape, at, at+1)
		}
	}
	return g.Reshape(y, shape...), nil
}
