package embed

import "context"

// Network is one model loaded in an inference runtime. internal/ort
// implements it; this package knows no runtime.
type Network interface {
	// Session makes a session for one fixed input shape, with its tensors
	// allocated once. Shapes are few and fixed on purpose: ever-changing
	// shapes make ONNX Runtime's arenas grow until the kernel kills it.
	//
	// The outputs of a new session hold what the network gives for an input of
	// zeros.
	Session(shape ...int64) (Session, error)
	// Close releases the model. Sessions must be closed first.
	Close() error
}

// Session runs one model at one input shape. It is not safe for concurrent
// use: whoever holds it fills the input, runs it, and reads the outputs.
type Session interface {
	// Input is the input tensor's memory, row-major. It is filled before Run
	// and belongs to the session.
	Input() []float32
	// Run computes the outputs. When ctx ends, the run is terminated inside
	// the runtime and the error is Deadline or Canceled.
	Run(ctx context.Context) error
	// Output is the memory of the i-th output that the manifest names,
	// row-major, valid until the next Run.
	Output(i int) []float32
	// Close releases the tensors.
	Close() error
}
