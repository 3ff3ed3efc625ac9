package handlers

import (
	"context"
	"errors"
	"slices"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// EnrolTemplate adds a template to a subject.
func (s *server) EnrolTemplate(ctx context.Context, r api.EnrolTemplateRequestObject) (api.EnrolTemplateResponseObject, error) {
	b := r.JSONBody
	if err := oneOf(choice{"image", b.Image != nil}, choice{"embedding", b.Embedding != nil}); err != nil {
		return nil, err
	}
	// An unknown subject costs no inference.
	own, err := s.Store.Templates(ctx, tenant(ctx), r.Gallery, r.Subject, s.modelID)
	if err != nil {
		return nil, err
	}
	embedding, found, err := s.enrollable(ctx, b)
	if err != nil {
		return nil, err
	}
	warnings, err := s.doubts(ctx, r, embedding, own)
	if err != nil {
		return nil, err
	}
	id, repeatable := newID(ctx)
	t := face.Template{ID: id, SubjectID: r.Subject, ModelID: s.modelID, Embedding: embedding}
	if found != nil {
		t.Quality = found.Quality.Score
	}
	stored, err := s.Store.Enrol(ctx, tenant(ctx), r.Gallery, t)
	if i := slices.IndexFunc(own, func(o face.Template) bool { return o.ID == id }); repeatable && errors.Is(err, face.Conflict) && i >= 0 {
		// Enrolled before a crash, with an embedding that differs in its last bits.
		stored, err = own[i], nil
	}
	if err != nil {
		return nil, err
	}
	return api.EnrolTemplate201JSONResponse{
		Headers: api.EnrolTemplate201ResponseHeaders{
			Location: "/galleries/" + r.Gallery + "/subjects/" + r.Subject + "/templates/" + stored.ID,
		},
		Body: api.EnrolResponse{
			TemplateID: stored.ID, SubjectID: stored.SubjectID, ModelID: stored.ModelID, Quality: stored.Quality,
			CreatedAt: stored.CreatedAt, Face: found, Warnings: warnings,
		},
	}, nil
}

// enrollable is the embedding to enrol, with the face it came from where it
// came from a photo.
func (s *server) enrollable(ctx context.Context, b *api.EnrolRequest) (face.Embedding, *api.Face, error) {
	if b.Image == nil {
		e, err := s.embedding("embedding", b.Embedding, b.ModelID)
		return e, nil, err
	}
	release, err := s.admit()
	if err != nil {
		return nil, nil, err
	}
	defer release()
	samples, err := s.acquire(ctx, "image", b.Image, embed.PickOnly)
	if err != nil {
		return nil, nil, err
	}
	sample := samples[0]
	if or(b.QualityGate, api.QualityGateAuto) == api.QualityGateAuto {
		if err := s.gate("image", sample); err != nil {
			return nil, nil, err
		}
	}
	f := faceOf(sample.Face)
	return sample.Embedding, &f, nil
}

// doubts compares what is about to be enrolled with the others of the gallery
// and with the subject's own templates.
func (s *server) doubts(ctx context.Context, r api.EnrolTemplateRequestObject, e face.Embedding, own []face.Template) ([]api.Warning, error) {
	warnings := []api.Warning{}
	points := s.Policy.Points()
	if len(points) == 0 {
		return warnings, nil
	}
	// Two, because the best one may be the subject.
	near, err := s.Store.Search(ctx, tenant(ctx), r.Gallery, s.modelID, e, 2)
	if err != nil {
		return nil, err
	}
	strictest := points[len(points)-1]
	i := slices.IndexFunc(near.Candidates, func(c face.Candidate) bool { return c.SubjectID != r.Subject })
	if i >= 0 && near.Candidates[i].Score >= strictest.Threshold {
		other := near.Candidates[i]
		if or(r.JSONBody.OnDuplicate, api.DuplicateRuleWarn) == api.DuplicateRuleRefuse {
			refusal := face.Errorf(face.Duplicate, "handlers.EnrolTemplate",
				"The face matches the subject %s at %s.", other.SubjectID, strictest.Name)
			refusal.Reasons = []face.Reason{face.ReasonDuplicateOfSubject}
			return nil, refusal
		}
		warnings = append(warnings, api.Warning{Code: face.ReasonDuplicateOfSubject, SubjectID: &other.SubjectID, Score: &other.Score})
	}
	point, err := s.Policy.Point(s.OperatingPoint)
	if err != nil || len(own) == 0 {
		return warnings, nil //nolint:nilerr // Without a threshold nobody can be said to be unlike themselves.
	}
	score, _, err := match.Verify(e, own)
	if err != nil {
		return nil, err
	}
	if score < point.Threshold {
		warnings = append(warnings, api.Warning{Code: face.ReasonUnlikeSubject, Score: &score})
	}
	return warnings, nil
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
			TemplateID: t.ID, SubjectID: t.SubjectID, ModelID: t.ModelID, Quality: t.Quality, CreatedAt: t.CreatedAt,
		}
	}
	return answer, nil
}

// DeleteTemplate erases a template.
func (s *server) DeleteTemplate(ctx context.Context, r api.DeleteTemplateRequestObject) (api.DeleteTemplateResponseObject, error) {
	receipt, err := s.Store.DeleteTemplate(ctx, tenant(ctx), r.Gallery, r.Subject, r.Template, actor(ctx))
	return api.DeleteTemplate200JSONResponse{ErasedJSONResponse: erased(receipt)}, err
}
