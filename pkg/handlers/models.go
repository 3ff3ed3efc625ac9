package handlers

import (
	"context"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store"
)

// Mover moves galleries to other encoders; [move.Mover] is one.
type Mover interface {
	Migrate(ctx context.Context, tenant, modelID, gallery string) ([]move.Migration, error)
	Migrations(ctx context.Context, tenant, modelID, gallery string) ([]move.Migration, error)
	CancelMigration(ctx context.Context, tenant, modelID, gallery string) ([]move.Migration, error)
	ListUncovered(ctx context.Context, tenant, gallery, modelID string, p store.Page) (list []move.Uncovered, next string, err error)
}

// Migrate moves galleries to another encoder.
func (s *server) Migrate(ctx context.Context, r api.MigrateRequestObject) (api.MigrateResponseObject, error) {
	list, err := s.Mover.Migrate(ctx, tenant(ctx), r.Model, textOf(r.Body.Gallery))
	return api.Migrate202JSONResponse(migrationList(r.Model, list)), err
}

// GetMigration says how far the move to an encoder is.
func (s *server) GetMigration(ctx context.Context, r api.GetMigrationRequestObject) (api.GetMigrationResponseObject, error) {
	list, err := s.Mover.Migrations(ctx, tenant(ctx), r.Model, textOf(r.Params.Gallery))
	return api.GetMigration200JSONResponse(migrationList(r.Model, list)), err
}

// CancelMigration ends the move to an encoder.
func (s *server) CancelMigration(ctx context.Context, r api.CancelMigrationRequestObject) (api.CancelMigrationResponseObject, error) {
	list, err := s.Mover.CancelMigration(ctx, tenant(ctx), r.Model, textOf(r.Params.Gallery))
	return api.CancelMigration200JSONResponse(migrationList(r.Model, list)), err
}

// migrationList writes migrations as the contract does.
func migrationList(modelID string, list []move.Migration) api.MigrationList {
	answer := api.MigrationList{ModelID: modelID, Items: make([]api.Migration, len(list))}
	for i, m := range list {
		answer.Items[i] = api.Migration{
			Gallery: m.Gallery, State: api.MigrationState(m.State),
			Subjects: m.Subjects, Covered: m.Covered, Pending: m.Pending, Uncovered: m.Uncovered, EtaSeconds: m.ETASeconds,
		}
	}
	return answer
}

// ListUncovered lists whom a gallery's move to a model would lose.
func (s *server) ListUncovered(ctx context.Context, r api.ListUncoveredRequestObject) (api.ListUncoveredResponseObject, error) {
	p := pageOf(r.Params.Limit, r.Params.Cursor)
	list, next, err := s.Mover.ListUncovered(ctx, tenant(ctx), r.Gallery, textOf(r.Params.ModelID), p)
	if err != nil {
		return nil, err
	}
	answer := api.ListUncovered200JSONResponse{Items: make([]api.Uncovered, len(list)), NextCursor: optionalText(next)}
	for i, u := range list {
		answer.Items[i] = api.Uncovered{SubjectID: u.SubjectID, Reason: api.UncoveredReasonNoCrop}
		if u.CropUnusable {
			answer.Items[i].Reason = api.UncoveredReasonCropUnusable
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
		score := api.ModelScoreCosine
		if m.Cohort != nil {
			score = api.ModelScoreNormalisedCosine
		}
		out.Score = &score
	}
	if m.Calibration != nil {
		out.Comparisons = &m.Calibration.Comparisons
		for _, p := range m.Calibration.Points {
			out.OperatingPoints = append(out.OperatingPoints, api.OperatingPoint{Name: p.Name, Fmr: p.FMR, Threshold: p.Threshold})
		}
	}
	return out
}
