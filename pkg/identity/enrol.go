package identity

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// EnrolRequest asks for a template of a subject, made of a photo or an
// embedding.
type EnrolRequest struct {
	Gallery   string // empty: [face.DefaultGallery]
	SubjectID string // is there already
	Image     []byte
	Embedding []float32 // of the encoder ModelID: the gallery's, or the one that it is being moved to
	ModelID   string

	// Face is [FaceOnly], the default, or [FaceLargest].
	Face FaceRule
	// FaceAt is a place inside the wanted face: x and y in pixels of the
	// upright photo. Nil: Face decides. It excludes Face.
	FaceAt []float32

	// IgnoreQuality enrols a face that the quality gate would refuse.
	IgnoreQuality bool
	// RefuseDuplicate refuses a face that matches another subject. Otherwise
	// that is a warning.
	RefuseDuplicate bool
	// DuplicatePoint is the operating point from which the face matches another
	// subject. Empty: the service's; where the calibration does not support it,
	// the strictest that it supports.
	DuplicatePoint string

	// TemplateID is the id of the new template. An enrolment that is repeated
	// under its id gets the template that is there. Empty: a new id.
	TemplateID string
}

// EnrolResult is the template that was stored.
type EnrolResult struct {
	Template face.Template // of the gallery's encoder, or of the embedding's
	Face     *face.Face    // nil for an embedding
	Warnings []Warning
}

// Warning is a doubt about an enrolment.
type Warning struct {
	Code      face.Reason // ReasonDuplicateOfSubject, ReasonUnlikeSubject or ReasonOtherFaces
	SubjectID string      // whom the face matches, of a duplicate
	Score     *float64    // of the duplicate, or with the subject's own templates
}

// Enrol adds a template to a subject and, if the gallery is being moved to
// another encoder, one of that encoder. Errors: Invalid, with the field;
// NotFound: the gallery or the subject; Duplicate; ModelMismatch;
// OperatingPointUnsupported; those of a photo, such as NoFace, ManyFaces and
// LowQuality; and those of the pipeline and the store.
func (s *Service) Enrol(ctx context.Context, by Caller, r EnrolRequest) (EnrolResult, error) {
	none := EnrolResult{}
	if err := exactlyOne(field{"image", r.Image != nil}, field{"embedding", r.Embedding != nil}); err != nil {
		return none, err
	}
	r.Gallery = cmp.Or(r.Gallery, face.DefaultGallery)
	g, err := s.o.Store.Gallery(ctx, by.tenant(), r.Gallery)
	if err != nil {
		return none, err
	}
	encoders, err := s.encoders.EnrolledWith(g)
	if err != nil {
		return none, err
	}
	if r.Image == nil {
		encoders = encoderOfEmbedding(encoders, r.ModelID)
	}
	which, err := chosenFace(r.Face, "face_at", r.FaceAt, FaceOnly, FaceLargest)
	if err == nil && r.Image == nil && (r.Face != "" || r.FaceAt != nil) {
		err = invalidField("face", "and face_at go with image, not with embedding")
	}
	if err != nil {
		return none, err
	}
	duplicate, err := s.duplicatePoint(encoders[0], r)
	if err != nil {
		return none, err
	}
	// An unknown subject costs no inference.
	own, err := s.o.Store.Templates(ctx, by.tenant(), r.Gallery, r.SubjectID, encoders[0].ID)
	if err != nil {
		return none, err
	}
	e := enrolment{Service: s, by: by, request: r, which: which}
	sample, err := e.sample(ctx, encoders, g.StoreImages)
	if err != nil {
		return none, err
	}
	warnings, err := e.compare(ctx, encoders[0], sample.Embedding, own, duplicate)
	if err != nil {
		return none, err
	}
	if sample.Found > 1 {
		warnings = append(warnings, Warning{Code: face.ReasonOtherFaces})
	}
	stored, err := e.store(ctx, encoders[0], sample, own)
	if err == nil {
		err = e.addFurther(ctx, stored, encoders, sample)
	}
	if err != nil {
		return none, err
	}
	result := EnrolResult{Template: stored, Warnings: warnings}
	if r.Image != nil {
		result.Face = &sample.Face
	}
	return result, nil
}

// enrolment is an enrolment under way.
type enrolment struct {
	*Service
	by      Caller
	request EnrolRequest // with its gallery
	which   wanted       // face of the photo
}

// encoderOfEmbedding is the encoder that made an embedding, or the first of
// them, which then refuses it.
func encoderOfEmbedding(encoders []Encoder, modelID string) []Encoder {
	for _, e := range encoders {
		if e.ID == modelID {
			return []Encoder{e}
		}
	}
	return encoders[:1]
}

// sample acquires what is enrolled: the face of the photo, encoded by each of
// the encoders, or the embedding.
func (e enrolment) sample(ctx context.Context, encoders []Encoder, crop bool) (embed.Sample, error) {
	r := e.request
	if r.Image == nil {
		v, err := encoders[0].embedding("embedding", r.Embedding, r.ModelID)
		return embed.Sample{Embedding: v, Embeddings: []face.Embedding{v}}, err
	}
	slot, err := e.o.Pipeline.Enter(ctx, e.by.Reservation)
	if err != nil {
		return embed.Sample{}, err
	}
	defer slot.Leave()
	w := want(encoders...)
	w.Crop = crop && e.KeepsCrops()
	samples, err := e.acquire(ctx, slot, "image", r.Image, e.which, w)
	if err == nil && !r.IgnoreQuality {
		err = e.checkQuality("image", samples[0])
	}
	if err != nil {
		return embed.Sample{}, err
	}
	return samples[0], nil
}

// compare compares what is about to be enrolled with the other subjects of the
// gallery and with the subject's own templates. duplicate is the point from
// which it matches another subject; nil: nothing is compared.
func (e enrolment) compare(ctx context.Context, enc Encoder, probe face.Embedding, own []face.Template, duplicate *face.OperatingPoint) ([]Warning, error) {
	if duplicate == nil {
		return nil, nil
	}
	var warnings []Warning
	// Two, because the best one may be the subject.
	near, err := e.o.Store.Search(ctx, e.by.tenant(), e.request.Gallery, enc.ID, probe, 2)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(near.Candidates, func(c face.Candidate) bool { return c.SubjectID != e.request.SubjectID })
	if i >= 0 && near.Candidates[i].Score >= duplicate.Threshold {
		other := near.Candidates[i]
		if e.request.RefuseDuplicate {
			refusal := face.Errorf(face.Duplicate, "identity.Enrol", "The face matches the subject %s at %s.", other.SubjectID, duplicate.Name)
			refusal.Reasons = []face.Reason{face.ReasonDuplicateOfSubject}
			return nil, refusal
		}
		warnings = append(warnings, Warning{Code: face.ReasonDuplicateOfSubject, SubjectID: other.SubjectID, Score: &other.Score})
	}
	point, err := enc.Policy.Point(e.o.OperatingPoint)
	if err != nil || len(own) == 0 {
		return warnings, nil //nolint:nilerr // Without a threshold nobody can be said to be unlike themselves.
	}
	score, _, err := match.Verify(probe, own)
	switch {
	case errors.Is(err, face.Damaged): // the new photo mends that
	case err != nil:
		return nil, err
	case score < point.Threshold:
		warnings = append(warnings, Warning{Code: face.ReasonUnlikeSubject, Score: &score})
	}
	return warnings, nil
}

// duplicatePoint is the operating point from which a new template matches
// somebody else: the one that the request names, else the service's, else the
// strictest that the calibration supports. It is nil for an encoder without a
// calibration, unless the request names a point or refuses duplicates.
func (s *Service) duplicatePoint(enc Encoder, r EnrolRequest) (*face.OperatingPoint, error) {
	name, points := r.DuplicatePoint, enc.Policy.Points()
	if name == "" {
		name = s.o.OperatingPoint
	}
	point, err := enc.Policy.Point(name)
	switch {
	case err == nil:
		return &point, nil
	case r.DuplicatePoint != "":
		return nil, face.PointAt(err, "/duplicate_point")
	case len(points) > 0:
		return &points[len(points)-1], nil
	case r.RefuseDuplicate:
		return nil, face.PointAt(err, "/on_duplicate") // a duplicate that cannot be found cannot be refused
	}
	return nil, nil
}

// store stores the first template of the sample.
func (e enrolment) store(ctx context.Context, enc Encoder, sample embed.Sample, own []face.Template) (face.Template, error) {
	r := e.request
	id := r.TemplateID
	if id == "" {
		id = face.NewID()
	}
	t := face.Template{
		ID: id, SubjectID: r.SubjectID, SampleID: id, ModelID: enc.ID,
		Embedding: sample.Embedding, Quality: sample.Face.Quality.Score, // 0 of an embedding
	}
	if sample.Crop != nil {
		t.Crop = e.o.Sealer.SealCrop(e.by.tenant(), r.Gallery, id, sample.Crop)
	}
	stored, err := e.o.Store.Enrol(ctx, e.by.tenant(), r.Gallery, t)
	i := slices.IndexFunc(own, func(o face.Template) bool { return o.ID == id })
	if r.TemplateID != "" && errors.Is(err, face.Conflict) && i >= 0 {
		// Enrolled before a crash, with an embedding that differs in its last bits.
		return own[i], nil
	}
	return stored, err
}

// addFurther adds to the sample of a stored template what the other encoders
// made of it, unless it was erased meanwhile. A gallery that begins or ends a
// move meanwhile must not leave the subject behind, so it is read again
// afterwards.
func (e enrolment) addFurther(ctx context.Context, first face.Template, encoders []Encoder, sample embed.Sample) error {
	tenant, r := e.by.tenant(), e.request
	done := []string{first.ModelID}
	isDone := func(enc Encoder) bool { return slices.Contains(done, enc.ID) }
	for {
		for i, enc := range encoders {
			if isDone(enc) {
				continue
			}
			t := face.Template{
				ID: face.SampleTemplateID(first.SampleID, enc.ID), SubjectID: first.SubjectID, SampleID: first.SampleID, ModelID: enc.ID,
				Embedding: sample.Embeddings[i], Quality: first.Quality, CreatedAt: first.CreatedAt,
			}
			// A conflict: the mover, or this request before a crash, was faster.
			if _, err := e.o.Store.AddToSample(ctx, tenant, r.Gallery, t); err != nil && !errors.Is(err, face.Conflict) {
				return err
			}
			done = append(done, enc.ID)
		}
		g, err := e.o.Store.Gallery(ctx, tenant, r.Gallery)
		if err != nil {
			return err
		}
		if encoders, err = e.encoders.EnrolledWith(g); err != nil {
			return err
		}
		if g.NextModelID != "" {
			e.o.WakeMover()
		}
		if r.Image == nil && !slices.ContainsFunc(encoders, isDone) {
			// Nobody would find the subject by it. It is harmless, and of use on the way back.
			return face.PointAt(face.Errorf(face.ModelMismatch, "identity.Enrol",
				"The gallery has moved to %s meanwhile.", encoders[0].ID), "/model_id")
		}
		lacking := slices.ContainsFunc(encoders, func(enc Encoder) bool { return !isDone(enc) })
		if !lacking || r.Image == nil {
			return nil
		}
		if sample, err = e.sample(ctx, encoders, false); err != nil {
			return err
		}
	}
}
