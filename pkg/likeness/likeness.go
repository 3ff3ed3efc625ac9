// Package likeness is the door for Go programs: it opens the models, compares
// two photos of faces, and searches a gallery that is in memory. It links
// neither a server nor a database.
//
// [Open] makes a [Pipeline]. [Pipeline.Compare] says whether two photos show
// the same person, and [Pipeline.NewGallery] makes a gallery that says which
// of many people a photo shows. The detector, the encoder and the quality
// network are compiled into the program, so no file has to be installed
// beside it, except for one: the shared library of ONNX Runtime, which runs
// the models. [Options.Library] says where it is looked for, and
// [FetchRuntime] downloads it.
//
// For more control, use the packages that this one puts together: package
// embed finds and encodes faces, package match decides, and package index
// searches.
package likeness

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/match"
)

// Options of a [Pipeline]. The zero value is good: a field that is left zero
// has the default that [DefaultOptions] gives it.
type Options struct {
	// Detector and Encoder are the ids of the models that find faces and that
	// make embeddings of them. The defaults are compiled in.
	Detector, Encoder string
	// ModelsDirs are folders with more models: a manifest ID.json and its
	// file for each. Default: none.
	ModelsDirs []string
	// WithoutQuality leaves out the network that says whether a crop shows a
	// face as encoders know them, so that more faces pass: to teach such a
	// network, and to measure what it is for. Default: false.
	WithoutQuality bool

	// Library is the path of ONNX Runtime's shared library. Empty, which is
	// the default: the file that the environment variable
	// LIKENESS_ORT_LIBRARY names, or else what is found in the folders where
	// the system keeps libraries and in the user's cache, where [FetchRuntime]
	// puts it. A process can use one library at a time.
	Library string
	// Provider is ONNX Runtime's execution provider: "cpu", "cuda",
	// "tensorrt", "coreml" or "openvino". Default: "cpu".
	Provider string

	// OperatingPoint names the threshold of [Pipeline.Compare] and
	// [Gallery.Search] by its false match rate: "fmr_1e-2" to "fmr_1e-6".
	// Default: "fmr_1e-4", at which about one of 10,000 comparisons of
	// different people matches.
	OperatingPoint string
	// AmbiguityMargin is how far the best subject of a search must be ahead
	// of the second, in score, when both reach the threshold. Default: 0.05.
	// Less than 0: both reaching it is never ambiguous.
	AmbiguityMargin float64

	// Slots is how many requests are worked on at the same time, each with all
	// its photos. Each slot uses one core. Default: one a core (GOMAXPROCS).
	Slots int
	// Queue is how many requests may wait for a slot; one more is refused as
	// Overloaded. Default: any number, each as long as its context allows, which
	// is what a program with goroutines of its own wants. Less than 0: none. A
	// server sets it: see [embed.DefaultQueue].
	Queue int
	// QueueTime is how long a request may wait for a slot while more requests
	// arrive than can be served; one that would wait longer is refused as
	// Overloaded at once. It counts only with a Queue. Default: half as long
	// as a request takes, as measured.
	QueueTime time.Duration
	// Limits of one photo. Default: [imaging.DefaultLimits].
	Limits imaging.Limits
	// Quality is the limits of the quality gate. Default:
	// [embed.DefaultQualityLimits].
	Quality embed.QualityLimits

	// Observe is told how long each stage of a photo took, and ObserveWait
	// how long a request waited for a slot. They must be safe for concurrent
	// use. Default: nil, nobody is told.
	Observe     func(stage string, seconds float64)
	ObserveWait func(seconds float64)
}

// DefaultOptions are the options that zero fields stand for.
func DefaultOptions() Options {
	e := embed.DefaultOptions()
	return Options{
		Detector: "builtin-detector", Encoder: "builtin-encoder-2",
		Provider:       ort.DefaultOptions().Provider,
		OperatingPoint: match.PointName(1e-4), AmbiguityMargin: 0.05,
		Slots: e.Slots, Limits: e.Limits, Quality: e.Quality,
	}
}

func (o Options) withDefaults() Options {
	d := DefaultOptions()
	o.Detector = cmp.Or(o.Detector, d.Detector)
	o.Encoder = cmp.Or(o.Encoder, d.Encoder)
	o.Provider = cmp.Or(o.Provider, d.Provider)
	o.OperatingPoint = cmp.Or(o.OperatingPoint, d.OperatingPoint)
	o.AmbiguityMargin = cmp.Or(o.AmbiguityMargin, d.AmbiguityMargin)
	if o.Queue == 0 {
		o.Queue, o.QueueTime = math.MaxInt, math.MaxInt64
	}
	return o // package embed fills in the others
}

// qualityModel is the network that says whether a crop shows a face as
// encoders know them. A models folder may give it another threshold.
const qualityModel = "builtin-quality"

// Pipeline finds faces in photos, makes embeddings of them and compares them.
// The methods of [embed.Pipeline], such as Detect and Embed, are its own. It
// is safe for concurrent use.
type Pipeline struct {
	*embed.Pipeline
	// Registry is the models that there are to choose from.
	Registry *embed.Registry

	options Options
	policy  *match.Policy
	head    *match.Head
	undo    *undoStack
}

// Open loads ONNX Runtime and the models, and checks each model's file against
// the hash in its manifest. [Pipeline.Close] releases them all.
//
// An error about a field of the options is an [*OptionError]. Its kind is
// Invalid for a value that makes no sense, NotFound for a model that is not
// there, and Unavailable for a library that is not there or of no use; the text
// says what to do.
func Open(ctx context.Context, o Options) (_ *Pipeline, err error) {
	o = o.withDefaults()
	registry, err := embed.OpenRegistry(models.FS, o.ModelsDirs...)
	if err != nil {
		return nil, &OptionError{Field: "ModelsDirs", Err: err}
	}
	// The files come before the library: they are more often what is missing.
	detector, err := loadable(registry, "Detector", o.Detector, embed.TaskDetector)
	if err != nil {
		return nil, err
	}
	encoder, err := loadable(registry, "Encoder", o.Encoder, embed.TaskEncoder)
	if err != nil {
		return nil, err
	}
	quality, err := registry.Model(qualityModel)
	if err != nil {
		return nil, err
	}
	policy := match.NewPolicy(encoder.Calibration)
	if _, err := policy.Point(o.OperatingPoint); face.KindOf(err) == face.Invalid {
		return nil, &OptionError{Field: "OperatingPoint", Err: err}
	}

	runtime, err := ort.Open(ort.Options{Library: o.Library, Provider: o.Provider})
	switch {
	case face.KindOf(err) == face.Invalid:
		return nil, &OptionError{Field: "Provider", Err: err}
	case err != nil:
		return nil, &OptionError{Field: "Library", Err: err}
	}
	var undo, further undoStack
	undo.push(runtime.Close)
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.unwind())
		}
	}()
	load := func(ctx context.Context, m embed.Model, undo *undoStack) (embed.Network, error) {
		if err := ctx.Err(); err != nil {
			return nil, face.Wrap(face.Canceled, "likeness.Open", err)
		}
		onnx, err := m.ReadVerified()
		if err != nil {
			return nil, err
		}
		n, err := runtime.Load(onnx, m.Manifest)
		if err == nil {
			undo.push(n.Close)
		}
		return n, err
	}
	undo.push(further.unwind)
	detectorNetwork, err := load(ctx, detector, &undo)
	if err != nil {
		return nil, err
	}
	encoderNetwork, err := load(ctx, encoder, &undo)
	if err != nil {
		return nil, err
	}
	var qualityNetwork embed.Network
	if !o.WithoutQuality {
		if qualityNetwork, err = load(ctx, quality, &undo); err != nil {
			return nil, err
		}
	}
	p, err := embed.New(embed.Options{
		Detector: detectorNetwork, DetectorModel: detector.Manifest,
		Encoder: encoderNetwork, EncoderModel: encoder.Manifest,
		QualityNetwork: qualityNetwork, QualityModel: quality.Manifest,
		Load: func(id string) (embed.Network, embed.Manifest, error) {
			m, err := registry.Model(id)
			if err != nil {
				return nil, embed.Manifest{}, err
			}
			n, err := load(context.Background(), m, &further) // others may wait for it, too
			return n, m.Manifest, err
		},
		Slots: o.Slots, Queue: o.Queue, QueueTime: o.QueueTime, Limits: o.Limits, Quality: o.Quality,
		Observe: o.Observe, ObserveWait: o.ObserveWait,
	})
	if err != nil {
		return nil, err
	}
	undo.push(p.Close)
	return &Pipeline{
		Pipeline: p, Registry: registry,
		options: o, policy: policy, head: match.NewHead(encoder.Head), undo: &undo,
	}, nil
}

// Close waits for the photos that are being worked on, then releases the
// models and ONNX Runtime. Calls that come later are refused as Unavailable.
// A second Close does nothing.
func (p *Pipeline) Close() error { return p.undo.unwind() }

// loadable finds a model that has a file and the wanted task.
func loadable(r *embed.Registry, field, id string, task embed.Task) (embed.Model, error) {
	m, err := r.Model(id)
	if err == nil && m.Task == task && m.Path != "" {
		return m, nil
	}
	wrong := &ModelError{ID: id, Task: task, Model: m}
	for _, other := range r.Models() {
		if other.Task == task && other.Path != "" {
			wrong.Others = append(wrong.Others, other.ID)
		}
	}
	return m, &OptionError{Field: field, Err: wrong}
}

// undoStack undoes what was set up, the last first, each step once.
type undoStack struct {
	mu    sync.Mutex
	steps []func() error
}

func (u *undoStack) push(undo func() error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.steps = append(u.steps, undo)
}

func (u *undoStack) unwind() error {
	u.mu.Lock()
	steps := u.steps
	u.steps = nil
	u.mu.Unlock()
	var errs []error
	for _, undo := range slices.Backward(steps) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}
