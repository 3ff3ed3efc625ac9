package likeness

import (
	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/grad"
)

var _ grad.Backend = (*Backend)(nil)

// BackendOptions of a [Backend]. The zero value is good.
type BackendOptions struct {
	// Library is the path of ONNX Runtime's shared library; empty: it is
	// looked for as [Options.Library] says.
	Library string
	// Provider is ONNX Runtime's execution provider. Default: "cpu".
	Provider string
	// Threads is how many threads work on one run of a program. Default: 1.
	Threads int
	// Spin has threads wait busily for a while: faster where nothing else runs
	// beside them, slower where something does. Default: false.
	Spin bool
}

// DefaultBackendOptions are the options that zero fields stand for.
func DefaultBackendOptions() BackendOptions { return BackendOptions(ort.DefaultOptions()) }

// Backend runs the programs of package grad, and so those of the packages
// style, siamese and inspect, in ONNX Runtime. It is safe for concurrent use;
// its programs are not.
type Backend struct{ runtime *ort.Runtime }

// OpenBackend loads ONNX Runtime. [Backend.Close] releases it. Errors:
// Unavailable where there is no library that can be used (see [FetchRuntime]),
// Invalid for an option that makes no sense.
func OpenBackend(o BackendOptions) (*Backend, error) {
	r, err := ort.Open(ort.Options(o))
	if err != nil {
		return nil, err
	}
	return &Backend{r}, nil
}

// Compile does what [grad.Backend] says.
func (b *Backend) Compile(model []byte, inputs, outputs []grad.Port) (grad.Program, error) {
	return b.runtime.Compile(model, inputs, outputs)
}

// Provider is the execution provider in use: "cpu".
func (b *Backend) Provider() string { return b.runtime.Provider() }

// Close lets go of the library. Programs that are still open keep it loaded
// until they are closed as well. A second Close does nothing.
func (b *Backend) Close() error { return b.runtime.Close() }
