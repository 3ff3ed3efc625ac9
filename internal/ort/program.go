package ort

import (
	"context"
	"errors"
	"fmt"
	"slices"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// program is a graph with its own session and tensors.
type program struct {
	session         *onnx.DynamicAdvancedSession
	inputs, outputs []*onnx.Tensor[float32]
	in, out         []onnx.Value
	control         *onnx.RunOptions
	life            *life // the runtime's
	closed          bool
}

var (
	_ grad.Backend = (*Runtime)(nil)
	_ grad.Program = (*program)(nil)
)

// Compile does what [grad.Backend] says.
func (r *Runtime) Compile(model []byte, inputs, outputs []grad.Port) (grad.Program, error) {
	const op = "ort.Compile"
	if len(inputs) == 0 || len(outputs) == 0 {
		return nil, face.Errorf(face.Invalid, op, "a graph of %d inputs and %d outputs: nothing to run", len(inputs), len(outputs))
	}
	for _, port := range slices.Concat(inputs, outputs) {
		elements := int64(1)
		for _, d := range port.Shape {
			if d < 1 || d > maxElements/elements {
				return nil, face.Errorf(face.Invalid, op, "%s: the shape %v is empty or too large", port.Name, port.Shape)
			}
			elements *= d
		}
		if len(port.Shape) == 0 {
			return nil, face.Errorf(face.Invalid, op, "%s: a shape without axes", port.Name)
		}
	}
	if !r.life.enter() {
		return nil, face.Errorf(face.Internal, op, "the runtime is closed")
	}
	p := &program{life: r.life}
	if err := p.open(r, model, inputs, outputs); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *program) open(r *Runtime, model []byte, inputs, outputs []grad.Port) (err error) {
	const op = "ort.Compile"
	var in, out []string
	for _, port := range inputs {
		in = append(in, port.Name)
	}
	for _, port := range outputs {
		out = append(out, port.Name)
	}
	if p.session, err = onnx.NewDynamicAdvancedSessionWithONNXData(model, in, out, r.options); err != nil {
		return face.Errorf(face.Invalid, op, "ONNX Runtime refuses the graph: %v", err)
	}
	if p.control, err = onnx.NewRunOptions(); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	allocate := func(ports []grad.Port) (tensors []*onnx.Tensor[float32], values []onnx.Value, err error) {
		for _, port := range ports {
			t, err := onnx.NewEmptyTensor[float32](onnx.NewShape(port.Shape...))
			if err != nil {
				return tensors, values, face.Wrap(face.Internal, op, fmt.Errorf("%s %v: %w", port.Name, port.Shape, err))
			}
			tensors, values = append(tensors, t), append(values, t)
		}
		return tensors, values, nil
	}
	if p.inputs, p.in, err = allocate(inputs); err != nil {
		return err
	}
	p.outputs, p.out, err = allocate(outputs)
	return err
}

func (p *program) Input(i int) []float32 { return p.inputs[i].GetData() }

func (p *program) Output(i int) []float32 { return p.outputs[i].GetData() }

func (p *program) Run(ctx context.Context) error {
	const op = "ort.Run"
	if p.closed {
		return face.Errorf(face.Internal, op, "the program is closed")
	}
	return runTerminable(ctx, p.control, func() error { return p.session.RunWithOptions(p.in, p.out, p.control) })
}

// Close does what [grad.Program] says. A second Close does nothing.
func (p *program) Close() error {
	if p.closed {
		return nil
	}
	p.closed = true
	var errs []error
	for _, t := range append(p.inputs, p.outputs...) {
		errs = append(errs, t.Destroy())
	}
	if p.control != nil {
		errs = append(errs, p.control.Destroy())
	}
	if p.session != nil {
		errs = append(errs, p.session.Destroy())
	}
	return face.Wrap(face.Internal, "ort.Close", errors.Join(append(errs, p.life.leave())...))
}
