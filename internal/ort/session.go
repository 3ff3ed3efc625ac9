package ort

import (
	"context"
	"errors"
	"fmt"
	"slices"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// maxElements bounds a tensor, before it is allocated: 1 GiB of float32.
const maxElements = 1 << 28

// network is one model. Its weights are in memory once, whatever the number
// of its sessions: ONNX Runtime's own session is safe for concurrent runs.
type network struct {
	manifest embed.Manifest
	input    []int64 // as the graph declares it, -1 where it is free
	session  *onnx.DynamicAdvancedSession
	life     *life
}

var _ embed.Network = (*network)(nil)

// Close releases the model once its sessions are closed too.
func (n *network) Close() error { return n.life.close() }

// Session makes the tensors of one input shape. It runs the model once on
// zeros, to learn the shapes of the outputs and to warm up the memory arena.
// The error is Invalid if the model or its manifest does not accept the shape.
func (n *network) Session(shape ...int64) (embed.Session, error) {
	const op = "ort.Session"
	if err := n.checkShape(shape); err != nil {
		return nil, err
	}
	if !n.life.enter() {
		return nil, face.Errorf(face.Internal, op, "the network of %s is closed", n.manifest.ID)
	}
	s := &session{net: n}
	if err := s.allocate(shape); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (n *network) checkShape(shape []int64) error {
	const op = "ort.Session"
	elements := int64(1)
	for _, d := range shape {
		if d < 1 || d > maxElements/elements {
			return face.Errorf(face.Invalid, op, "model %s: input shape %v is empty or too large", n.manifest.ID, shape)
		}
		elements *= d
	}
	if !compatible(n.input, shape) {
		return face.Errorf(face.Invalid, op, "model %s: input shape %v, but the graph takes %v", n.manifest.ID, shape, n.input)
	}
	in := n.manifest.Input
	for i, fixed := range []int{in.Height, in.Width} {
		switch got := shape[2+i]; {
		case fixed > 0 && got != int64(fixed):
			return face.Errorf(face.Invalid, op, "model %s: input shape %v, but the manifest says %dx%d", n.manifest.ID, shape, in.Width, in.Height)
		case fixed == 0 && got%int64(max(in.Multiple, 1)) != 0:
			return face.Errorf(face.Invalid, op, "model %s: input shape %v is not in multiples of %d", n.manifest.ID, shape, in.Multiple)
		}
	}
	return nil
}

// session is one input shape of a network, with its tensors.
type session struct {
	net     *network
	input   *onnx.Tensor[float32]
	outputs []*onnx.Tensor[float32]
	// What the binding takes, made once.
	in, out []onnx.Value
	control *onnx.RunOptions
	closed  bool
}

var _ embed.Session = (*session)(nil)

// allocate makes the input, finds the shapes of the outputs with a first run,
// and makes the outputs.
func (s *session) allocate(shape []int64) (err error) {
	const op = "ort.Session"
	if s.control, err = onnx.NewRunOptions(); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	if s.input, err = onnx.NewEmptyTensor[float32](shape); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	s.in = []onnx.Value{s.input}

	first := make([]onnx.Value, len(s.net.manifest.Outputs))
	defer func() {
		for _, v := range first {
			if v != nil {
				err = errors.Join(err, v.Destroy())
			}
		}
	}()
	if err := s.net.session.Run(s.in, first); err != nil {
		return face.Wrap(face.Internal, op, fmt.Errorf("model %s at %v: %w", s.net.manifest.ID, shape, err))
	}
	for i, v := range first {
		want := s.net.manifest.Outputs[i]
		got := []int64(v.GetShape())
		if !compatible(want.Shape, got) || slices.Contains(got, 0) {
			return face.Errorf(face.Invalid, op, "model %s: output %q is %v for the input %v, the manifest says %v",
				s.net.manifest.ID, want.Name, got, shape, want.Shape)
		}
		t, err := onnx.NewEmptyTensor[float32](got)
		if err != nil {
			return face.Wrap(face.Internal, op, err)
		}
		if given, ok := v.(*onnx.Tensor[float32]); ok {
			copy(t.GetData(), given.GetData())
		}
		s.outputs = append(s.outputs, t)
		s.out = append(s.out, t)
	}
	return nil
}

func (s *session) Input() []float32 { return s.input.GetData() }

func (s *session) Output(i int) []float32 { return s.outputs[i].GetData() }

// Run does what [embed.Session] says.
func (s *session) Run(ctx context.Context) error {
	if s.closed {
		return face.Errorf(face.Internal, "ort.Run", "the session is closed")
	}
	return runTerminable(ctx, s.control, func() error { return s.net.session.RunWithOptions(s.in, s.out, s.control) })
}

// runTerminable runs until it is done or ctx ends, which stops the run inside
// the library. A run that finishes before it can be stopped succeeds. A context
// that cannot end costs nothing.
func runTerminable(ctx context.Context, control *onnx.RunOptions, run func() error) error {
	const op = "ort.Run"
	if err := ctx.Err(); err != nil {
		return face.Wrap(face.Canceled, op, err)
	}
	if ctx.Done() == nil {
		return face.Wrap(face.Internal, op, run())
	}
	terminated := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { terminated <- control.Terminate() })
	err := run()
	if stop() {
		return face.Wrap(face.Internal, op, err)
	}
	// The flag is being set or is set. It must be cleared before the session is
	// used again.
	flag := errors.Join(<-terminated, control.UnsetTerminate())
	if err != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return face.Wrap(face.Internal, op, errors.Join(err, flag))
}

// Close releases the tensors. A second Close does nothing.
func (s *session) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	if s.control != nil {
		errs = append(errs, s.control.Destroy())
	}
	if s.input != nil {
		errs = append(errs, s.input.Destroy())
	}
	for _, t := range s.outputs {
		errs = append(errs, t.Destroy())
	}
	return face.Wrap(face.Internal, "ort.Close", errors.Join(append(errs, s.net.life.leave())...))
}
