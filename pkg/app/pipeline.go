package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// PipelineOptions is what the face pipeline alone needs; the operator's tool
// uses it without a server.
type PipelineOptions struct {
	ModelsDirs []string // folders with models, beside those that are built in
	Detector   string   // model id
	Encoder    string   // model id
	// WithoutQuality asks no quality network, so that every face passes: to
	// teach one, and to measure what it is for.
	WithoutQuality bool

	Library  string // ONNX Runtime; empty: looked for
	Provider string // execution provider; empty: cpu
	Slots    int    // photos worked on at the same time; 0: one a core
	Queue    int    // photos that may wait; 0: eight a slot
	Limits   imaging.Limits

	Observe     func(stage string, seconds float64) // may be nil
	ObserveWait func(seconds float64)               // may be nil
}

// qualityModel is the network that says whether a crop shows a face as
// encoders know them. A models folder may give it another threshold.
const qualityModel = "builtin-quality"

// OpenPipeline loads the runtime and both models and returns the pipeline
// with the registry they came from. Closing the pipeline releases them all.
// The errors say what an operator can do.
func OpenPipeline(ctx context.Context, o PipelineOptions) (*Pipeline, error) {
	registry, err := embed.OpenRegistry(models.FS, o.ModelsDirs...)
	if err != nil {
		return nil, fmt.Errorf("--models-dir: %w", err)
	}
	// The files come before the library: they are the likelier thing to lack.
	detector, err := loadable(registry, o.Detector, embed.TaskDetector)
	if err != nil {
		return nil, err
	}
	encoder, err := loadable(registry, o.Encoder, embed.TaskEncoder)
	if err != nil {
		return nil, err
	}
	quality, err := loadable(registry, qualityModel, embed.TaskQuality)
	if err != nil {
		return nil, err
	}
	rt, err := ort.Open(ort.Options{Library: o.Library, Provider: o.Provider})
	switch {
	case err != nil && o.Library != "":
		return nil, fmt.Errorf("--ort-library: %w", err)
	case err != nil:
		return nil, err
	}
	var undo, further teardown
	undo.push("runtime", func(context.Context) error { return rt.Close() })
	fail := func(err error) (*Pipeline, error) { return nil, errors.Join(err, undo.unwind(ctx)) }

	load := func(m embed.Model, undo *teardown) (embed.Network, error) {
		onnx, err := m.ReadVerified()
		if err != nil {
			return nil, err
		}
		n, err := rt.Load(onnx, m.Manifest)
		if err == nil {
			undo.push(m.ID, func(context.Context) error { return n.Close() })
		}
		return n, err
	}
	undo.push("further encoders", further.unwind)
	detectorNet, err := load(detector, &undo)
	if err != nil {
		return fail(err)
	}
	encoderNet, err := load(encoder, &undo)
	if err != nil {
		return fail(err)
	}
	var qualityNet embed.Network
	if !o.WithoutQuality {
		if qualityNet, err = load(quality, &undo); err != nil {
			return fail(err)
		}
	}
	p, err := embed.New(embed.Options{
		Detector: detectorNet, DetectorModel: detector.Manifest,
		Encoder: encoderNet, EncoderModel: encoder.Manifest,
		QualityNetwork: qualityNet, QualityModel: quality.Manifest,
		Load: func(id string) (embed.Network, embed.Manifest, error) {
			m, err := registry.Model(id)
			if err != nil {
				return nil, embed.Manifest{}, err
			}
			n, err := load(m, &further)
			return n, m.Manifest, err
		},
		Slots: o.Slots, Queue: o.Queue, Limits: o.Limits,
		Observe: o.Observe, ObserveWait: o.ObserveWait,
	})
	if err != nil {
		return fail(err)
	}
	undo.push("pipeline", func(context.Context) error { return p.Close() })
	return &Pipeline{Pipeline: p, Registry: registry, undo: &undo}, nil
}

// Pipeline is a face pipeline with what it stands on.
type Pipeline struct {
	*embed.Pipeline
	Registry *embed.Registry
	undo     *teardown
}

// Close waits for photos under way and releases sessions, models and runtime.
func (p *Pipeline) Close() error { return p.undo.unwind(context.Background()) }

// loadable finds a model whose file is there and whose task is the wanted one.
func loadable(r *embed.Registry, id string, task embed.Task) (embed.Model, error) {
	m, err := r.Model(id)
	if err != nil {
		return m, fmt.Errorf("--%s: no model is called %q; `likeness models list` shows which there are", task, id)
	}
	if m.Task != task {
		return m, fmt.Errorf("--%s: %s is a model of another kind (%s)", task, id, m.Task)
	}
	if m.Path != "" {
		return m, nil
	}
	var others []string
	for _, other := range r.Models() {
		if other.Task == task && other.Path != "" {
			others = append(others, other.ID)
		}
	}
	return m, fmt.Errorf("--%s: the file of %s (%s) is not there: %s, or choose LIKENESS_%s=%s, which is there",
		task, id, m.File, howToGet(m), strings.ToUpper(string(task)), strings.Join(others, " or "))
}

// howToGet says what brings the file of a model.
func howToGet(m embed.Model) string {
	if m.URL != "" {
		return fmt.Sprintf("run `likeness models pull %s`", m.ID)
	}
	return fmt.Sprintf("put %s into a folder and name the folder in LIKENESS_MODELS_DIR", m.File)
}

// PulledModels is the folder, within the data folder, that `likeness models
// pull` writes to.
func PulledModels(dataDir string) string { return filepath.Join(dataDir, "models") }

// ModelFolders are the folders that models are looked for in: that of the
// pulled ones, once it is there, and the operator's own.
func ModelFolders(dataDir string, own []string) []string {
	if info, err := os.Stat(PulledModels(dataDir)); err == nil && info.IsDir() {
		return append([]string{PulledModels(dataDir)}, own...)
	}
	return own
}
