package handlers

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Mover makes templates, in the background, for galleries on their way to
// another encoder, and lets a gallery cut over when it is there.
type Mover interface {
	// Wake has it look for work.
	Wake()
	// Progress is what it knows of a gallery's move.
	Progress(tenant, gallery, modelID string) Progress
}

// Progress of a gallery's move, beside what the store knows.
type Progress struct {
	PerSecond float64 // crops encoded; 0: not known
	// Crops that cannot be opened or encoded, and the subjects, sorted, whom
	// that leaves without a template.
	UnusableCrops int
	Uncovered     []string
}

type noMover struct{}

func (noMover) Wake()                                    {}
func (noMover) Progress(string, string, string) Progress { return Progress{} }

// Migrate moves galleries to another encoder.
func (s *server) Migrate(ctx context.Context, r api.MigrateRequestObject) (api.MigrateResponseObject, error) {
	if err := s.movable(ctx, r.Model); err != nil {
		return nil, err
	}
	answer := api.Migrate202JSONResponse{ModelID: r.Model, Items: []api.Migration{}}
	err := s.eachGallery(ctx, r.Body.Gallery, func(g face.Gallery) error {
		next := r.Model
		if s.encoders.IDOf(g) == r.Model {
			c, err := s.Store.Coverage(ctx, tenant(ctx), g.ID, r.Model)
			if err != nil {
				return err
			}
			if c.Covered == c.Subjects {
				next = "" // it is there; if it was on its way elsewhere, it stays
			}
		}
		if g.NextModelID != next {
			var err error
			if g, err = s.Store.UpdateGallery(ctx, tenant(ctx), g.ID, store.GalleryChange{NextModelID: &next}); err != nil {
				return err
			}
		}
		return s.tell(ctx, &answer.Items, g, r.Model)
	})
	s.Mover.Wake()
	return answer, err
}

// movable refuses a model that galleries cannot be moved to: people would be
// moved to where no decision is made.
func (s *server) movable(ctx context.Context, modelID string) error {
	const op = "handlers.Migrate"
	i := slices.IndexFunc(s.Models, func(m embed.Model) bool { return m.ID == modelID })
	switch {
	case i < 0:
		return face.Errorf(face.NotFound, op, "The server knows no model %s.", face.Excerpt(modelID))
	case s.Models[i].Task != embed.TaskEncoder:
		return parameter("model", "must be an encoder")
	case s.Models[i].Path == "":
		return face.Errorf(face.Conflict, op, "The file of the model %s is not there.", modelID)
	}
	if enc, _ := s.encoders.Find(modelID); modelID != s.encoders.Default().ID {
		if _, err := s.Identity.DefaultPoint(enc); err != nil {
			return err
		}
	}
	return s.Pipeline.Prepare(ctx, modelID)
}

// GetMigration says how far the move to an encoder is.
func (s *server) GetMigration(ctx context.Context, r api.GetMigrationRequestObject) (api.GetMigrationResponseObject, error) {
	answer := api.GetMigration200JSONResponse{ModelID: r.Model, Items: []api.Migration{}}
	if _, ok := s.encoders.Find(r.Model); !ok {
		return nil, face.Errorf(face.NotFound, "handlers.GetMigration", "The server knows no encoder %s.", face.Excerpt(r.Model))
	}
	err := s.eachGallery(ctx, r.Params.Gallery, func(g face.Gallery) error {
		if g.NextModelID != r.Model && s.encoders.IDOf(g) != r.Model && r.Params.Gallery == nil {
			return nil
		}
		return s.tell(ctx, &answer.Items, g, r.Model)
	})
	return answer, err
}

// CancelMigration ends the move to an encoder.
func (s *server) CancelMigration(ctx context.Context, r api.CancelMigrationRequestObject) (api.CancelMigrationResponseObject, error) {
	answer := api.CancelMigration200JSONResponse{ModelID: r.Model, Items: []api.Migration{}}
	err := s.eachGallery(ctx, r.Params.Gallery, func(g face.Gallery) error {
		if g.NextModelID != r.Model {
			return nil
		}
		none := ""
		g, err := s.Store.UpdateGallery(ctx, tenant(ctx), g.ID, store.GalleryChange{NextModelID: &none})
		if err != nil {
			return err
		}
		return s.tell(ctx, &answer.Items, g, r.Model)
	})
	return answer, err
}

// eachGallery calls f for the gallery of the name, or for all of the tenant.
// One that is erased meanwhile is left out.
func (s *server) eachGallery(ctx context.Context, name *string, f func(face.Gallery) error) error {
	if name != nil {
		if !face.ValidID(*name) {
			return parameter("gallery", invalidID)
		}
		g, err := s.Store.Gallery(ctx, tenant(ctx), *name)
		if err != nil {
			return err
		}
		return f(g)
	}
	for p := (store.Page{Limit: store.MaxPage}); ; {
		galleries, next, err := s.Store.ListGalleries(ctx, tenant(ctx), p)
		if err != nil {
			return err
		}
		for _, g := range galleries {
			if err := f(g); err != nil && !errors.Is(err, face.NotFound) {
				return err
			}
		}
		if p.Cursor = next; next == "" {
			return nil
		}
	}
}

// tell adds how far a gallery is on its way to a model.
func (s *server) tell(ctx context.Context, items *[]api.Migration, g face.Gallery, modelID string) error {
	m, err := s.migration(ctx, g, modelID)
	if err == nil {
		*items = append(*items, m)
	}
	return err
}

// migration says how far a gallery is on its way to a model.
func (s *server) migration(ctx context.Context, g face.Gallery, modelID string) (api.Migration, error) {
	c, err := s.Store.Coverage(ctx, tenant(ctx), g.ID, modelID)
	if err != nil {
		return api.Migration{}, err
	}
	known := s.Mover.Progress(tenant(ctx), g.ID, modelID)
	m := api.Migration{
		Gallery: g.ID, Subjects: c.Subjects, Covered: c.Covered,
		Pending: max(c.Pending-known.UnusableCrops, 0), Uncovered: c.Uncovered + len(known.Uncovered),
	}
	switch {
	case g.NextModelID != modelID && s.encoders.IDOf(g) == modelID:
		m.State = api.MigrationStateDone
	case g.NextModelID != modelID:
		m.State = api.MigrationStateCanceled
	case m.Pending == 0 && m.Uncovered > 0:
		m.State = api.MigrationStateWaitingForPhotos
	default:
		m.State = api.MigrationStateRunning
	}
	if m.State == api.MigrationStateRunning && known.PerSecond > 0 {
		eta := float64(m.Pending) / known.PerSecond
		m.EtaSeconds = &eta
	}
	return m, nil
}

// ListUncovered lists whom a gallery's move to a model would lose.
func (s *server) ListUncovered(ctx context.Context, r api.ListUncoveredRequestObject) (api.ListUncoveredResponseObject, error) {
	p := pageOf(r.Params.Limit, r.Params.Cursor)
	g, err := s.Store.Gallery(ctx, tenant(ctx), r.Gallery)
	if err != nil {
		return nil, err
	}
	modelID := valueOr(r.Params.ModelID, cmp.Or(g.NextModelID, s.encoders.IDOf(g)))
	if _, ok := s.encoders.Find(modelID); !ok {
		return nil, parameter("model_id", "must be an encoder that the server knows")
	}
	list, next, err := s.Store.Uncovered(ctx, tenant(ctx), r.Gallery, modelID, p)
	if err != nil {
		return nil, cursorError(err)
	}
	answer := api.ListUncovered200JSONResponse{Items: make([]api.Uncovered, len(list)), NextCursor: optionalText(next)}
	for i, id := range list {
		answer.Items[i] = api.Uncovered{SubjectID: id, Reason: api.UncoveredReasonNoCrop}
	}
	if next == "" {
		unusable := s.Mover.Progress(tenant(ctx), r.Gallery, modelID).Uncovered
		for _, id := range unusable[:min(len(unusable), store.MaxPage)] {
			answer.Items = append(answer.Items, api.Uncovered{SubjectID: id, Reason: api.UncoveredReasonCropUnusable})
		}
	}
	return answer, nil
}

// ListModels lists the models that the server knows.
func (s *server) ListModels(context.Context, api.ListModelsRequestObject) (api.ListModelsResponseObject, error) {
	answer := api.ListModels200JSONResponse{Items: make([]api.Model, len(s.Models))}
	for i, m := range s.Models {
		answer.Items[i] = modelAnswer(m)
		answer.Items[i].InUse = m.ID == s.encoders.Default().ID || m.ID == s.Pipeline.Detector().ID
	}
	return answer, nil
}

func modelAnswer(m embed.Model) api.Model {
	out := api.Model{
		ModelID: m.ID, Task: api.ModelTask(m.Task), Available: m.Path != "",
		License: m.License, Source: m.Source, Sha256: m.SHA256, Size: m.Size,
		TrainingData: m.TrainingData, Notes: optionalText(m.Notes),
	}
	if m.Task == embed.TaskEncoder {
		out.Dimension = &m.Dimension
	}
	if m.Calibration != nil {
		out.Comparisons = &m.Calibration.Comparisons
		for _, p := range m.Calibration.Points {
			out.OperatingPoints = append(out.OperatingPoints, api.OperatingPoint{Name: p.Name, Fmr: p.FMR, Threshold: p.Threshold})
		}
	}
	return out
}
