package likeness

import (
	"fmt"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// OptionError says which field of [Options] is wrong, and why. [face.KindOf]
// tells its kind.
type OptionError struct {
	Field string // such as "Encoder"
	Err   error  // what is wrong; a [*ModelError] where the field names a model
}

// Error names the field and says what can be done.
func (e *OptionError) Error() string {
	text := "likeness.Options." + e.Field + ": " + e.Err.Error()
	if e.Field == "Library" && face.KindOf(e.Err) == face.Unavailable {
		text += "; a Go program can call likeness.FetchRuntime, which downloads ONNX Runtime to where it is found"
	}
	return text
}

// Unwrap returns what is wrong.
func (e *OptionError) Unwrap() error { return e.Err }

// ModelError says why a model cannot be used: no model has that id, or it is
// for another task, or its file is not there.
type ModelError struct {
	ID     string
	Task   embed.Task  // what a model is wanted for
	Model  embed.Model // the model of that id; zero: there is none
	Others []string    // ids of the models for the task whose files are there
}

// Error says which models could be used instead.
func (e *ModelError) Error() string {
	others := strings.Join(e.Others, " or ")
	switch {
	case e.Model.ID == "":
		return fmt.Sprintf("no model is called %q; for this task there is %s", e.ID, others)
	case e.Model.Task != e.Task:
		return fmt.Sprintf("%s is a model of another kind (%s); for this task there is %s", e.ID, e.Model.Task, others)
	}
	how := "put it into a folder and name the folder in ModelsDirs"
	if e.Model.CanBePulled() {
		how += fmt.Sprintf(" (`likeness models pull %s` downloads it)", e.ID)
	}
	return fmt.Sprintf("the file of %s (%s) is not there: %s, or use %s, which is there", e.ID, e.Model.File, how, others)
}

// Unwrap returns a [face.Error]: Invalid for a model of another task, else
// NotFound.
func (e *ModelError) Unwrap() error {
	kind := face.NotFound
	if e.Model.ID != "" && e.Model.Task != e.Task {
		kind = face.Invalid
	}
	return face.Errorf(kind, "likeness.Open", "model %s", e.ID)
}
