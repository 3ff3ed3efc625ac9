// Package ort runs models in ONNX Runtime. It is the only importer of
// onnxruntime_go: everything else knows [embed.Network] and [embed.Session].
package ort

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	onnx "github.com/yalue/onnxruntime_go"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// Options says how to run models.
type Options struct {
	// Library is the path of the shared library. Empty: what [Find] finds.
	Library string
	// Provider is the execution provider: "cpu" (also when empty), "cuda",
	// "tensorrt", "coreml" or "openvino". What it does not support runs on
	// the CPU.
	Provider string
	// Threads is how many threads work on one Run; 0 means 1. The service runs
	// one request per core, so more threads would only compete.
	Threads int
	// Spin makes idle threads wait busily for a while. That is faster if
	// nothing else runs on the machine, as in training, and slower if something
	// does.
	Spin bool
}

// DefaultOptions are the options that zero fields stand for: the CPU, and one
// thread for each Run. The library is looked for, by [Find], when it is opened.
func DefaultOptions() Options { return Options{Provider: "cpu", Threads: 1} }

// process guards the one ONNX Runtime environment that a process can have. The
// binding keeps it in package variables, so the guard is one too.
var process struct { //nolint:gochecknoglobals // there is one per process, by the library's nature
	sync.Mutex
	library string
	users   int
}

// Runtime is an opened ONNX Runtime. It is safe for concurrent use.
type Runtime struct {
	provider string
	options  *onnx.SessionOptions
	life     *life
}

// Open loads the library and checks that it has the provider. A process can
// have one library at a time. The same library may be opened any number of
// times; the error for another one is Conflict until every Runtime and every
// Network is closed.
//
// The error is Unavailable if this machine or library cannot do what is needed,
// and Invalid if an option makes no sense. The detail says what to do.
func Open(o Options) (*Runtime, error) {
	const op = "ort.Open"
	if o.Threads < 0 {
		return nil, face.Errorf(face.Invalid, op, "threads: %d is below 0", o.Threads)
	}
	if err := checkCPU(); err != nil {
		return nil, err
	}
	d := DefaultOptions()
	o.Provider, o.Threads = cmp.Or(o.Provider, d.Provider), cmp.Or(o.Threads, d.Threads)
	if o.Library == "" {
		found, err := Find()
		if err != nil {
			return nil, err
		}
		o.Library = found
	}
	if err := acquireProcess(o.Library); err != nil {
		return nil, err
	}
	options, err := sessionOptions(o)
	if err != nil {
		return nil, errors.Join(err, releaseProcess())
	}
	return &Runtime{
		provider: o.Provider,
		options:  options,
		life:     newLife(func() error { return errors.Join(options.Destroy(), releaseProcess()) }),
	}, nil
}

// acquireProcess initialises the environment for its first user.
func acquireProcess(library string) error {
	const op = "ort.Open"
	library, err := filepath.EvalSymlinks(library)
	if err != nil {
		return face.Errorf(face.Unavailable, op, "ONNX Runtime library: %v", err)
	}
	if library, err = filepath.Abs(library); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	process.Lock()
	defer process.Unlock()
	switch {
	case process.users == 0:
		onnx.SetSharedLibraryPath(library)
		if err := onnx.InitializeEnvironment(onnx.WithLogLevelFatal()); err != nil {
			return face.Errorf(face.Unavailable, op,
				"%s is not a library that this build can use; it takes ONNX Runtime 1.%d or newer for this platform, such as `likeness runtime pull` gets: %v",
				library, minMinor, err)
		}
		process.library = library
	case process.library != library:
		return face.Errorf(face.Conflict, op, "this process has loaded %s already and cannot load %s too", process.library, library)
	}
	process.users++
	return nil
}

// releaseProcess destroys the environment after its last user.
func releaseProcess() error {
	process.Lock()
	defer process.Unlock()
	process.users--
	if process.users > 0 {
		return nil
	}
	return face.Wrap(face.Internal, "ort.Close", onnx.DestroyEnvironment())
}

// sessionOptions are the same for every model of a Runtime.
func sessionOptions(o Options) (*onnx.SessionOptions, error) {
	const op = "ort.Open"
	options, err := onnx.NewSessionOptions()
	if err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	spin := "0"
	if o.Spin {
		spin = "1"
	}
	for _, set := range []func() error{
		// ONNX Runtime would keep planned memory blocks for every shape that it
		// has seen. Without them a model is as fast and takes a quarter to a
		// half less memory.
		func() error { return options.SetMemPattern(false) },
		// Threads that wait busily take the core from the next request.
		func() error { return options.AddSessionConfigEntry("session.intra_op.allow_spinning", spin) },
		func() error { return options.SetIntraOpNumThreads(o.Threads) },
		func() error { return options.SetInterOpNumThreads(1) },
		func() error { return options.SetGraphOptimizationLevel(onnx.GraphOptimizationLevelEnableAll) },
	} {
		if err := set(); err != nil {
			return nil, errors.Join(face.Wrap(face.Internal, op, err), options.Destroy())
		}
	}
	if err := appendProvider(options, o.Provider); err != nil {
		return nil, errors.Join(err, options.Destroy())
	}
	return options, nil
}

// appendProvider puts the provider before the CPU, which is always there.
func appendProvider(options *onnx.SessionOptions, name string) error {
	const op = "ort.Open"
	var err error
	switch name {
	case "cpu":
	case "cuda":
		err = withProviderOptions(onnx.NewCUDAProviderOptions, options.AppendExecutionProviderCUDA)
	case "tensorrt":
		err = withProviderOptions(onnx.NewTensorRTProviderOptions, options.AppendExecutionProviderTensorRT)
	case "coreml":
		err = options.AppendExecutionProviderCoreMLV2(nil)
	case "openvino":
		err = options.AppendExecutionProviderOpenVINO(nil)
	default:
		return face.Errorf(face.Invalid, op, "execution provider %q: not one of cpu, cuda, tensorrt, coreml, openvino", name)
	}
	if err != nil {
		return face.Errorf(face.Unavailable, op,
			"execution provider %s is not to be had from this ONNX Runtime library: set %s to one that was built with it, or use cpu: %v",
			name, LibraryEnv, err)
	}
	return nil
}

func withProviderOptions[T interface{ Destroy() error }](make func() (T, error), add func(T) error) error {
	o, err := make()
	if err != nil {
		return err
	}
	return errors.Join(add(o), o.Destroy())
}

// Version is the version of the library: "1.27.0".
func (r *Runtime) Version() string { return onnx.GetVersion() }

// Provider is the execution provider in use: "cpu".
func (r *Runtime) Provider() string { return r.provider }

// Close releases the library, which stays loaded until all its networks are
// closed too. A second Close does nothing.
func (r *Runtime) Close() error { return r.life.close() }

// Load makes a Network of an ONNX file's bytes, which may be dropped
// afterwards. The error is Invalid if the file is no model or contradicts the
// manifest; the detail names every difference.
func (r *Runtime) Load(model []byte, m embed.Manifest) (embed.Network, error) {
	const op = "ort.Load"
	if !r.life.enter() {
		return nil, face.Errorf(face.Internal, op, "the runtime is closed")
	}
	n, err := r.load(model, m)
	if err != nil {
		return nil, errors.Join(err, r.life.leave())
	}
	return n, nil
}

func (r *Runtime) load(model []byte, m embed.Manifest) (*network, error) {
	const op = "ort.Load"
	if len(model) == 0 {
		return nil, face.Errorf(face.Invalid, op, "model %s: the file is empty", m.ID)
	}
	inputs, outputs, err := onnx.GetInputOutputInfoWithONNXData(model)
	if err != nil {
		return nil, face.Errorf(face.Invalid, op, "model %s: not a model that ONNX Runtime reads: %v", m.ID, err)
	}
	if err := checkContract(m, inputs, outputs); err != nil {
		return nil, err
	}
	if model, err = freeSizes(model, m, outputs); err != nil {
		return nil, err
	}
	if model, err = fuseSlopes(model); err != nil {
		return nil, err
	}
	names := make([]string, len(m.Outputs))
	for i, o := range m.Outputs {
		names[i] = o.Name
	}
	session, err := onnx.NewDynamicAdvancedSessionWithONNXData(model, []string{m.Input.Name}, names, r.options)
	if err != nil {
		return nil, face.Wrap(face.Internal, op, fmt.Errorf("model %s: %w", m.ID, err))
	}
	return &network{
		manifest: m,
		input:    inputs[0].Dimensions,
		session:  session,
		life:     newLife(func() error { return errors.Join(session.Destroy(), r.life.leave()) }),
	}, nil
}
