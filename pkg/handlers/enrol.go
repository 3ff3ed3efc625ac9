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

// EnrolTemplate adds a template to a subject, and one more where the gallery
// is on its way to another encoder.
func (s *server) EnrolTemplate(ctx context.Context, r api.EnrolTemplateRequestObject) (api.EnrolTemplateResponseObject, error) {
	b := r.JSONBody
	if err := oneOf(choice{"image", b.Image != nil}, choice{"embedding", b.Embedding != nil}); err != nil {
		return nil, err
	}
	g, err := s.Store.Gallery(ctx, tenant(ctx), r.Gallery)
	if err != nil {
		return nil, err
	}
	encoders, err := s.enrolledWith(g)
	if err != nil {
		return nil, err
	}
	if b.Image == nil {
		encoders = encoderNamed(encoders, b.ModelID)
	}
	which, err := chosenFace("face_at", b.Face, b.FaceAt)
	if err == nil && b.Image == nil && (b.Face != nil || b.FaceAt != nil) {
		err = api.InvalidField("face", "and face_at go with image, not with embedding")
	}
	if err != nil {
		return nil, err
	}
	duplicate, err := s.duplicatePoint(encoders[0], b)
	if err != nil {
		return nil, err
	}
	// An unknown subject costs no inference.
	own, err := s.Store.Templates(ctx, tenant(ctx), r.Gallery, r.Subject, encoders[0].id)
	if err != nil {
		return nil, err
	}
	sample, found, err := s.enrollable(ctx, b, encoders, g.StoreImages, which)
	if err != nil {
		return nil, err
	}
	warnings, err := s.doubts(ctx, r, encoders[0], sample.Embedding, own, duplicate)
	if err != nil {
		return nil, err
	}
	if sample.Found > 1 {
		warnings = append(warnings, api.Warning{Code: face.ReasonOtherFaces})
	}
	id, repeatable := newID(ctx)
	t := face.Template{ID: id, SubjectID: r.Subject, SampleID: id, ModelID: encoders[0].id, Embedding: sample.Embedding}
	if found != nil {
		t.Quality = found.Quality.Score
	}
	if sample.Crop != nil {
		t.Crop = s.Sealer.SealCrop(tenant(ctx), r.Gallery, id, sample.Crop)
	}
	stored, err := s.Store.Enrol(ctx, tenant(ctx), r.Gallery, t)
	if i := slices.IndexFunc(own, func(o face.Template) bool { return o.ID == id }); repeatable && errors.Is(err, face.Conflict) && i >= 0 {
		// Enrolled before a crash, with an embedding that differs in its last bits.
		stored, err = own[i], nil
	}
	if err == nil {
		err = s.enrolFurther(ctx, r, stored, encoders, sample, which)
	}
	if err != nil {
		return nil, err
	}
	return api.EnrolTemplate201JSONResponse{
		Headers: api.EnrolTemplate201ResponseHeaders{
			Location: s.PathPrefix + "/galleries/" + r.Gallery + "/subjects/" + r.Subject + "/templates/" + stored.ID,
		},
		Body: api.EnrolResponse{
			TemplateID: stored.ID, SubjectID: stored.SubjectID, ModelID: stored.ModelID, Quality: stored.Quality,
			CreatedAt: stored.CreatedAt, Face: found, Warnings: warnings,
		},
	}, nil
}

// enrolFurther adds to the sample of a stored template what the other
// encoders made of it, unless it was erased meanwhile. A gallery that begins a move or ends one meanwhile
// must not leave the subject behind, so it is looked at again afterwards.
func (s *server) enrolFurther(ctx context.Context, r api.EnrolTemplateRequestObject, first face.Template, encoders []encoder, sample embed.Sample, which faceChoice) error {
	done := []string{first.ModelID}
	for {
		for i, e := range encoders {
			if slices.Contains(done, e.id) {
				continue
			}
			t := face.Template{
				ID: face.SampleTemplateID(first.SampleID, e.id), SubjectID: first.SubjectID, SampleID: first.SampleID, ModelID: e.id,
				Embedding: sample.Embeddings[i], Quality: first.Quality, CreatedAt: first.CreatedAt,
			}
			// A conflict: the mover, or this request before a crash, was faster.
			if _, err := s.Store.AddToSample(ctx, tenant(ctx), r.Gallery, t); err != nil && !errors.Is(err, face.Conflict) {
				return err
			}
			done = append(done, e.id)
		}
		g, err := s.Store.Gallery(ctx, tenant(ctx), r.Gallery)
		if err != nil {
			return err
		}
		if encoders, err = s.enrolledWith(g); err != nil {
			return err
		}
		if g.NextModelID != "" {
			s.Mover.Wake()
		}
		has := func(e encoder) bool { return slices.Contains(done, e.id) }
		if r.JSONBody.Image == nil && !slices.ContainsFunc(encoders, has) {
			// Nobody would find the subject by it; it is harmless, and of use on the way back.
			return withPointer(face.Errorf(face.ModelMismatch, "handlers.EnrolTemplate",
				"The gallery has moved to %s meanwhile.", encoders[0].id), "model_id")
		}
		lacking := slices.ContainsFunc(encoders, func(e encoder) bool { return !has(e) })
		if !lacking || r.JSONBody.Image == nil {
			return nil
		}
		if sample, _, err = s.enrollable(ctx, r.JSONBody, encoders, false, which); err != nil {
			return err
		}
	}
}

// encoderNamed is the encoder that made an embedding, or the first of them, which
// then refuses it.
func encoderNamed(encoders []encoder, modelID *string) []encoder {
	for _, e := range encoders {
		if e.id == valueOr(modelID, "") {
			return []encoder{e}
		}
	}
	return encoders[:1]
}

// enrollable is what to enrol, with the face it came from where it came from a
// photo.
func (s *server) enrollable(ctx context.Context, b *api.EnrolRequest, encoders []encoder, crop bool, which faceChoice) (embed.Sample, *api.Face, error) {
	if b.Image == nil {
		e, err := s.embedding(encoders[0], "embedding", b.Embedding, b.ModelID)
		return embed.Sample{Embedding: e, Embeddings: []face.Embedding{e}}, nil, err
	}
	release, err := s.admit(ctx)
	if err != nil {
		return embed.Sample{}, nil, err
	}
	defer release()
	want := embed.Want{Crop: crop && s.Sealer != nil}
	for _, e := range encoders {
		want.Encoders = append(want.Encoders, e.id)
	}
	samples, err := s.acquire(ctx, "image", b.Image, which, want)
	if err != nil {
		return embed.Sample{}, nil, err
	}
	sample := samples[0]
	if valueOr(b.QualityGate, api.QualityGateAuto) == api.QualityGateAuto {
		if err := s.gate("image", sample); err != nil {
			return embed.Sample{}, nil, err
		}
	}
	f := faceOf(sample.Face)
	return sample, &f, nil
}

// doubts compares what is about to be enrolled with the others of the gallery
// and with the subject's own templates.
func (s *server) doubts(ctx context.Context, r api.EnrolTemplateRequestObject, enc encoder, e face.Embedding, own []face.Template, duplicate *face.OperatingPoint) ([]api.Warning, error) {
	warnings := []api.Warning{}
	if duplicate == nil {
		return warnings, nil
	}
	// Two, because the best one may be the subject.
	near, err := s.Store.Search(ctx, tenant(ctx), r.Gallery, enc.id, e, 2)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(near.Candidates, func(c face.Candidate) bool { return c.SubjectID != r.Subject })
	if i >= 0 && near.Candidates[i].Score >= duplicate.Threshold {
		other := near.Candidates[i]
		if valueOr(r.JSONBody.OnDuplicate, api.DuplicateRuleWarn) == api.DuplicateRuleRefuse {
			refusal := face.Errorf(face.Duplicate, "handlers.EnrolTemplate",
				"The face matches the subject %s at %s.", other.SubjectID, duplicate.Name)
			refusal.Reasons = []face.Reason{face.ReasonDuplicateOfSubject}
			return nil, refusal
		}
		warnings = append(warnings, api.Warning{Code: face.ReasonDuplicateOfSubject, SubjectID: &other.SubjectID, Score: &other.Score})
	}
	decides, err := enc.policy.Point(s.OperatingPoint)
	if err != nil || len(own) == 0 {
		return warnings, nil //nolint:nilerr // Without a threshold nobody can be said to be unlike themselves.
	}
	score, _, err := match.Verify(e, own)
	if errors.Is(err, face.Damaged) {
		return warnings, nil // the photo is what mends that
	}
	if err != nil {
		return nil, err
	}
	if score < decides.Threshold {
		warnings = append(warnings, api.Warning{Code: face.ReasonUnlikeSubject, Score: &score})
	}
	return warnings, nil
}

// duplicatePoint is the operating point from which a new template looks like
// somebody else: the one asked for, else that at which /verify matches, else
// the strictest that the calibration supports. It is nil for an encoder
// without a calibration, unless a point or a refusal was asked for.
func (s *server) duplicatePoint(enc encoder, b *api.EnrolRequest) (*face.OperatingPoint, error) {
	name, points := b.DuplicatePoint, enc.policy.Points()
	point, err := enc.policy.Point(valueOr(name, s.OperatingPoint))
	switch {
	case err == nil:
		return &point, nil
	case name != nil:
		return nil, withPointer(err, "duplicate_point")
	case len(points) > 0:
		return &points[len(points)-1], nil
	case valueOr(b.OnDuplicate, api.DuplicateRuleWarn) == api.DuplicateRuleRefuse:
		return nil, withPointer(err, "on_duplicate") // what cannot be looked for cannot be refused
	}
	return nil, nil
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
	return api.DeleteTemplate200JSONResponse{ErasedJSONResponse: erased(receipt)}, err
}
