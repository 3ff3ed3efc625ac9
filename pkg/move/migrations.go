package move

import (
	"cmp"
	"context"
	"errors"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// State of a gallery's move to an encoder.
type State string

// The states.
const (
	StateRunning          State = "running"            // templates are being made
	StateWaitingForPhotos State = "waiting_for_photos" // some subjects need a new photo
	StateDone             State = "done"               // the gallery is searched with the encoder
	StateCanceled         State = "canceled"           // the gallery is not on its way to the encoder
)

// Migration says how far a gallery is on its way to an encoder.
type Migration struct {
	Gallery    string
	State      State
	Subjects   int      // all of the gallery
	Covered    int      // subjects with a template of the encoder
	Pending    int      // crops that are still to be encoded
	Uncovered  int      // subjects with neither a template nor a usable crop
	ETASeconds *float64 // until the pending crops are encoded; nil: not running, or not known
}

// Uncovered is a subject whom a gallery's move would lose.
type Uncovered struct {
	SubjectID    string
	CropUnusable bool // there is a crop, and it cannot be opened or encoded; otherwise there is none
}

// invalidParameter is an Invalid error about one parameter of a request.
func invalidParameter(name, detail string) error {
	return &face.Error{
		Kind: face.Invalid, Op: "move.request", Detail: "The request breaks the contract.",
		Fields: []face.FieldError{{Pointer: name, Detail: detail}},
	}
}

// Migrate begins to move a gallery of the tenant to an encoder, or all its
// galleries if gallery is empty, and says how far each is. A gallery that has
// arrived already stays as it is; if it was on its way elsewhere, that ends.
//
// Errors: NotFound: the model or the gallery; Invalid: the model is no encoder;
// Conflict: its file is not there; OperatingPointUnsupported: its calibration
// does not support the operating point of requests that name none, so that no
// decision could be made; Unavailable: it cannot be loaded; and those of
// [embed.Pipeline.Enter] and the store.
func (m *Mover) Migrate(ctx context.Context, tenant, modelID, gallery string) ([]Migration, error) {
	if err := m.checkTarget(ctx, modelID); err != nil {
		return nil, err
	}
	defer m.Wake()
	return m.migrations(ctx, tenant, gallery, modelID, func(g face.Gallery) (face.Gallery, bool, error) {
		next := modelID
		if m.encoders.IDOf(g) == modelID {
			c, err := m.o.Store.Coverage(ctx, tenant, g.ID, modelID)
			if err != nil {
				return g, false, err
			}
			if c.Covered == c.Subjects {
				next = "" // it has arrived
			}
		}
		if g.NextModelID == next {
			return g, true, nil
		}
		g, err := m.o.Store.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &next})
		return g, true, err
	})
}

// checkTarget refuses a model that galleries cannot be moved to.
func (m *Mover) checkTarget(ctx context.Context, modelID string) error {
	const op = "move.Migrate"
	model, ok := m.findModel(modelID)
	switch {
	case !ok:
		return face.Errorf(face.NotFound, op, "The server knows no model %s.", face.Excerpt(modelID))
	case model.Task != embed.TaskEncoder:
		return invalidParameter("model", "must be an encoder")
	case model.Path == "":
		return face.Errorf(face.Conflict, op, "The file of the model %s is not there.", modelID)
	}
	if e, _ := m.encoders.Find(modelID); modelID != m.encoders.Default().ID {
		if _, err := e.DefaultPoint(m.o.OperatingPoint); err != nil {
			return err
		}
	}
	return m.o.Pipeline.Prepare(ctx, modelID)
}

// Migrations says how far the move of a gallery to an encoder is. If gallery is
// empty, it lists the galleries of the tenant that are being moved to the
// encoder or are searched with it. Errors: NotFound: the encoder or the
// gallery; and those of the store.
func (m *Mover) Migrations(ctx context.Context, tenant, modelID, gallery string) ([]Migration, error) {
	if _, ok := m.encoders.Find(modelID); !ok {
		return nil, face.Errorf(face.NotFound, "move.Migrations", "The server knows no encoder %s.", face.Excerpt(modelID))
	}
	return m.migrations(ctx, tenant, gallery, modelID, func(g face.Gallery) (face.Gallery, bool, error) {
		return g, gallery != "" || g.NextModelID == modelID || m.encoders.IDOf(g) == modelID, nil
	})
}

// CancelMigration ends the move of a gallery to an encoder, or of all galleries
// of the tenant if gallery is empty, and lists those whose move it ended. The
// templates that were made stay. Errors: NotFound: the gallery; and those of
// the store.
func (m *Mover) CancelMigration(ctx context.Context, tenant, modelID, gallery string) ([]Migration, error) {
	return m.migrations(ctx, tenant, gallery, modelID, func(g face.Gallery) (face.Gallery, bool, error) {
		if g.NextModelID != modelID {
			return g, false, nil
		}
		none := ""
		g, err := m.o.Store.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &none})
		return g, true, err
	})
}

// migrations changes a gallery of the tenant, or all its galleries, and says
// how far each is. change reports whether the gallery is listed. A gallery that
// is erased meanwhile is left out.
func (m *Mover) migrations(ctx context.Context, tenant, gallery, modelID string, change func(face.Gallery) (face.Gallery, bool, error)) ([]Migration, error) {
	list := []Migration{}
	add := func(g face.Gallery) error {
		g, listed, err := change(g)
		if err != nil || !listed {
			return err
		}
		migration, err := m.migration(ctx, tenant, g, modelID)
		if err == nil {
			list = append(list, migration)
		}
		return err
	}
	if gallery != "" {
		if !face.ValidID(gallery) {
			return nil, invalidParameter("gallery", face.IDRule)
		}
		g, err := m.o.Store.Gallery(ctx, tenant, gallery)
		if err == nil {
			err = add(g)
		}
		return list, err
	}
	for p := (store.Page{Limit: store.MaxPage}); ; {
		galleries, next, err := m.o.Store.ListGalleries(ctx, tenant, p)
		if err != nil {
			return nil, err
		}
		for _, g := range galleries {
			if err := add(g); err != nil && !errors.Is(err, face.NotFound) {
				return nil, err
			}
		}
		if p.Cursor = next; next == "" {
			return list, nil
		}
	}
}

// migration says how far a gallery is on its way to an encoder.
func (m *Mover) migration(ctx context.Context, tenant string, g face.Gallery, modelID string) (Migration, error) {
	c, err := m.o.Store.Coverage(ctx, tenant, g.ID, modelID)
	if err != nil {
		return Migration{}, err
	}
	known := m.progressOf(tenant, g.ID, modelID)
	out := Migration{
		Gallery: g.ID, Subjects: c.Subjects, Covered: c.Covered,
		Pending: max(c.Pending-known.unusableCrops, 0), Uncovered: c.Uncovered + len(known.uncovered),
	}
	switch {
	case g.NextModelID != modelID && m.encoders.IDOf(g) == modelID:
		out.State = StateDone
	case g.NextModelID != modelID:
		out.State = StateCanceled
	case out.Pending == 0 && out.Uncovered > 0:
		out.State = StateWaitingForPhotos
	default:
		out.State = StateRunning
	}
	if out.State == StateRunning && known.perSecond > 0 {
		eta := float64(out.Pending) / known.perSecond
		out.ETASeconds = &eta
	}
	return out, nil
}

// ListUncovered lists a page of the subjects whom a gallery's move to an
// encoder would lose, in the order of their ids, and gives the cursor of the
// next page; those whose crop is unusable come with the last page. An empty
// modelID means the encoder that the gallery is being moved to, or else the one
// that it is searched with. Errors: NotFound: the gallery; Invalid: the encoder
// or the cursor; and those of the store.
func (m *Mover) ListUncovered(ctx context.Context, tenant, gallery, modelID string, p store.Page) (list []Uncovered, next string, err error) {
	g, err := m.o.Store.Gallery(ctx, tenant, gallery)
	if err != nil {
		return nil, "", err
	}
	modelID = cmp.Or(modelID, g.NextModelID, m.encoders.IDOf(g))
	if _, ok := m.encoders.Find(modelID); !ok {
		return nil, "", invalidParameter("model_id", "must be an encoder that the server knows")
	}
	ids, next, err := m.o.Store.Uncovered(ctx, tenant, gallery, modelID, p)
	if errors.Is(err, face.Invalid) {
		err = invalidParameter("cursor", "must be the next_cursor of an earlier page of this list")
	}
	if err != nil {
		return nil, "", err
	}
	for _, id := range ids {
		list = append(list, Uncovered{SubjectID: id})
	}
	if next == "" {
		unusable := m.progressOf(tenant, gallery, modelID).uncovered
		for _, id := range unusable[:min(len(unusable), store.MaxPage)] {
			list = append(list, Uncovered{SubjectID: id, CropUnusable: true})
		}
	}
	return list, next, nil
}
