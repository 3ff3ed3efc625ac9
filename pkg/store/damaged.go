package store

import (
	"errors"
	"log/slog"
	"sync"

	"github.com/likeness-id/likeness/pkg/face"
)

// Place is where a template is kept, in ids.
type Place struct{ Tenant, Gallery, SubjectID, TemplateID, ModelID string }

// maxNamed is how many damaged templates the log names before it refers to the
// check of the whole store.
const maxNamed = 100

// Damaged keeps account of the templates whose stored embeddings are damaged,
// and tells the log of each, once, by its ids. It is safe for concurrent use.
type Damaged struct {
	log *slog.Logger

	mu    sync.Mutex
	known map[Place]bool
}

// NewDamaged makes an account that tells the log.
func NewDamaged(log *slog.Logger) *Damaged {
	return &Damaged{log: log, known: map[Place]bool{}}
}

// Note takes a template down. The reason says what is wrong with its embedding,
// and has none of its numbers in it.
func (d *Damaged) Note(at Place, reason error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.known[at] {
		return
	}
	d.known[at] = true
	switch n := len(d.known); {
	case n <= maxNamed:
		d.log.Error("the embedding of a template is damaged: it is left out, and `likeness store check` says how to mend it",
			"tenant", at.Tenant, "gallery", at.Gallery, "subject_id", at.SubjectID, "template_id", at.TemplateID,
			"model_id", at.ModelID, "reason", Reason(reason))
	case n == maxNamed+1:
		d.log.Error("more embeddings are damaged: `likeness store check` names all of them")
	}
}

// Reason is an error in words for an operator.
func Reason(err error) string {
	if e, ok := errors.AsType[*face.Error](err); ok {
		return e.Detail
	}
	return err.Error()
}

// Count is how many there are.
func (d *Damaged) Count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.known)
}

// Templates are the ids of those of one model in a gallery.
func (d *Damaged) Templates(of Place) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := []string{}
	for at := range d.known {
		if of == (Place{Tenant: at.Tenant, Gallery: at.Gallery, ModelID: at.ModelID}) {
			ids = append(ids, at.TemplateID)
		}
	}
	return ids
}

// Recheck asks of those that are known, of a hundred at a time, whether they
// are still damaged, and forgets those that are not: they were erased, or
// mended. It ends at the first error.
func (d *Damaged) Recheck(still func(Place) (bool, error)) error {
	d.mu.Lock()
	known := make([]Place, 0, len(d.known))
	for at := range d.known {
		known = append(known, at)
	}
	d.mu.Unlock()
	for _, at := range known[:min(len(known), maxNamed)] {
		damaged, err := still(at)
		if err != nil {
			return err
		}
		if !damaged {
			d.mu.Lock()
			delete(d.known, at)
			d.mu.Unlock()
		}
	}
	return nil
}
