package handlers

import (
	"context"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/identity"
)

// EnrolTemplate adds a template to a subject, and one more if the gallery is
// being moved to another encoder.
func (s *server) EnrolTemplate(ctx context.Context, r api.EnrolTemplateRequestObject) (api.EnrolTemplateResponseObject, error) {
	b := r.JSONBody
	e, err := s.Identity.Enrol(ctx, callerOf(ctx), identity.EnrolRequest{
		Gallery: r.Gallery, SubjectID: r.Subject, TemplateID: repeatableID(ctx),
		Image: b.Image, Embedding: b.Embedding, ModelID: textOf(b.ModelID),
		Face: identity.FaceRule(textOf(b.Face)), FaceAt: b.FaceAt,
		IgnoreQuality:   valueOr(b.QualityGate, api.QualityGateAuto) == api.QualityGateOff,
		RefuseDuplicate: valueOr(b.OnDuplicate, api.DuplicateRuleWarn) == api.DuplicateRuleRefuse,
		DuplicatePoint:  textOf(b.DuplicatePoint),
	})
	if err != nil {
		return nil, err
	}
	t, warnings := e.Template, make([]api.Warning, len(e.Warnings))
	for i, w := range e.Warnings {
		warnings[i] = api.Warning{Code: w.Code, SubjectID: optionalText(w.SubjectID), Score: w.Score}
	}
	return api.EnrolTemplate201JSONResponse{
		Headers: api.EnrolTemplate201ResponseHeaders{
			Location: s.PathPrefix + "/galleries/" + r.Gallery + "/subjects/" + r.Subject + "/templates/" + t.ID,
		},
		Body: api.EnrolResponse{
			TemplateID: t.ID, SubjectID: t.SubjectID, ModelID: t.ModelID, Quality: t.Quality,
			CreatedAt: t.CreatedAt, Face: optionalFaceAnswer(e.Face), Warnings: warnings,
		},
	}, nil
}

// ListTemplates lists a subject's templates.
func (s *server) ListTemplates(ctx context.Context, r api.ListTemplatesRequestObject) (api.ListTemplatesResponseObject, error) {
	list, err := s.Store.Templates(ctx, tenant(ctx), r.Gallery, r.Subject, "")
	if err != nil {
		return nil, err
	}
	answer := api.ListTemplates200JSONResponse{Items: make([]api.Template, len(list))}
	for i, t := range list {
		answer.Items[i] = api.Template{
			TemplateID: t.ID, SubjectID: t.SubjectID, SampleID: t.SampleID, ModelID: t.ModelID, Quality: t.Quality, CreatedAt: t.CreatedAt,
		}
		if t.Embedding == nil {
			damaged := true
			answer.Items[i].Damaged = &damaged
		}
	}
	return answer, nil
}

// DeleteTemplate erases a template.
func (s *server) DeleteTemplate(ctx context.Context, r api.DeleteTemplateRequestObject) (api.DeleteTemplateResponseObject, error) {
	receipt, err := s.Store.DeleteTemplate(ctx, tenant(ctx), r.Gallery, r.Subject, r.Template, actorOf(ctx))
	return api.DeleteTemplate200JSONResponse{ErasedJSONResponse: receiptAnswer(receipt)}, err
}
