package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/move"
)

// OpenPipeline is [likeness.Open] for the commands: its errors name the flag
// that is wrong, and the environment variable or the command that mends it.
func OpenPipeline(ctx context.Context, o likeness.Options) (*likeness.Pipeline, error) {
	p, err := likeness.Open(ctx, o)
	if e, ok := errors.AsType[*likeness.OptionError](err); ok {
		return nil, flagError(e, o)
	}
	return p, err
}

// flagError is an error about an option of the pipeline as one about its flag.
func flagError(e *likeness.OptionError, o likeness.Options) error {
	flag := map[string]string{
		"ModelsDirs": "models-dir", "Detector": "detector", "Encoder": "encoder", "Library": "ort-library", "Provider": "provider",
		"OperatingPoint": "operating-point",
	}[e.Field]
	m, ok := errors.AsType[*likeness.ModelError](e.Err)
	switch {
	case e.Field == "Library" && o.Library == "":
		return e.Err // nobody gave the flag: the error says what to do
	case !ok:
		return fmt.Errorf("--%s: %w", flag, e.Err)
	case m.Model.ID == "":
		return fmt.Errorf("--%s: no model is called %q; `likeness models list` shows which there are", flag, m.ID)
	case m.Model.Task != m.Task:
		return fmt.Errorf("--%s: %s is a model of another kind (%s)", flag, m.ID, m.Model.Task)
	}
	return fmt.Errorf("--%s: the file of %s (%s) is not there: %s, or choose LIKENESS_%s=%s, which is there",
		flag, m.ID, m.Model.File, howToGet(m.Model), strings.ToUpper(flag), strings.Join(m.Others, " or "))
}

// howToGet says what brings the file of a model.
func howToGet(m embed.Model) string {
	if m.CanBePulled() {
		return fmt.Sprintf("run `likeness models pull %s`", m.ID)
	}
	return fmt.Sprintf("put %s into a folder and name the folder in LIKENESS_MODELS_DIR", m.File)
}

// galleryError is an error about what a gallery needs, with what an operator
// can do.
func galleryError(err error) error {
	if errors.Is(err, move.ErrNoKey) {
		return fmt.Errorf("--crop-key-file: %w", err)
	}
	if missing, ok := errors.AsType[*move.MissingFileError](err); ok {
		return fmt.Errorf("%w: %s", err, howToGet(missing.Model))
	}
	return err
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
