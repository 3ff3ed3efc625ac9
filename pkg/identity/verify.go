package identity

import (
	"context"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// VerifyRequest asks whether a probe and a reference are of one person. The
// probe is a photo or an embedding; the reference is a photo, an embedding or a
// subject.
type VerifyRequest struct {
	Probe              []byte    // a photo, as the file is
	ProbeEmbedding     []float32 // of the encoder ModelID; any length above 0
	Reference          []byte
	ReferenceEmbedding []float32
	SubjectID          string
	Gallery            string // of the subject; empty: [face.DefaultGallery]
	ModelID            string // of the embeddings

	OperatingPoint string // empty: the service's

	// Face is [FaceOnly], the default, or [FaceLargest], for both photos.
	Face FaceRule
	// FaceAt and ReferenceFaceAt are places inside the wanted faces: x and y in
	// pixels of the upright photo. Nil: Face decides. They exclude Face.
	FaceAt, ReferenceFaceAt []float32
}

// VerifyResult says whether they are of one person.
type VerifyResult struct {
	Match       bool    // Score reaches the threshold of Point
	Score       float64 // cosine similarity, -1..1
	Templates   int     // of the subject, fused into what the probe was compared with; 0 without a subject
	Point       face.OperatingPoint
	FMRAtScore  *float64 // measured share of impostors that score as high; nil: nothing was measured
	Probability *float64 // that both are of one person; nil: the encoder has no head
	ModelID     string   // the encoder that compared
	Probe       *Sample  // nil for an embedding
	Reference   *Sample  // nil for an embedding and for a subject
}

// Verify compares a probe with a reference. Errors: Invalid, with the field;
// NotFound: the gallery, the subject, or it has no templates; ModelMismatch;
// Damaged: all of the subject's templates are; OperatingPointUnsupported; those
// of a photo, such as NoFace, ManyFaces and LowQuality; and those of the
// pipeline and the store.
func (s *Service) Verify(ctx context.Context, by Caller, r VerifyRequest) (VerifyResult, error) {
	none := VerifyResult{}
	if err := exactlyOne(
		field{"probe", r.Probe != nil}, field{"probe_embedding", r.ProbeEmbedding != nil},
	); err != nil {
		return none, err
	}
	if err := exactlyOne(
		field{"reference", r.Reference != nil}, field{"subject_id", r.SubjectID != ""},
		field{"reference_embedding", r.ReferenceEmbedding != nil},
	); err != nil {
		return none, err
	}
	// What costs little comes first: an unknown subject costs no inference.
	a, enc, refs := attempt{Service: s, by: by, action: store.AuditVerify}, s.encoders.Default(), []face.Template(nil)
	if r.SubjectID != "" {
		var err error
		if enc, refs, err = a.claimed(ctx, r); err != nil {
			return none, err
		}
	}
	point, err := s.point(enc, r.OperatingPoint)
	if err != nil {
		return none, err
	}
	probeFace, referenceFace, err := r.faces()
	if err != nil {
		return none, err
	}
	var slot embed.Slot // for both photos
	if r.Probe != nil || r.Reference != nil {
		if slot, err = s.o.Pipeline.Enter(ctx, by.Reservation); err != nil {
			return none, err
		}
		defer slot.Leave()
	}
	probe, probeSample, err := s.presented(ctx, slot, enc, "probe", r.Probe, r.ProbeEmbedding, r.ModelID, probeFace)
	if err != nil {
		return none, err
	}
	result := VerifyResult{Point: point, ModelID: enc.ID, Probe: probeSample}
	if r.SubjectID == "" {
		var reference face.Embedding
		reference, result.Reference, err = s.presented(ctx, slot, enc, "reference", r.Reference, r.ReferenceEmbedding, r.ModelID, referenceFace)
		if err != nil {
			return none, err
		}
		refs = []face.Template{{Embedding: reference}}
	}
	score, reference, err := match.Verify(probe, refs)
	if err != nil {
		return none, err
	}
	result.Score = score
	if r.SubjectID != "" {
		result.Templates = reference.Templates
	}
	result.Probability = enc.probability(probe, score, reference)
	if fmr, ok := enc.Policy.FMRAt(result.Score); ok {
		result.FMRAtScore = &fmr
	}
	outcome := outcomeNonMatch
	if result.Match = result.Score >= point.Threshold; result.Match {
		outcome = outcomeMatch
	}
	if err := a.decided(ctx, outcome); err != nil {
		return none, err
	}
	return result, nil
}

// faces reads which faces of the two photos are meant.
func (r VerifyRequest) faces() (probe, reference wanted, err error) {
	if probe, err = chosenFace(r.Face, "face_at", r.FaceAt, FaceOnly, FaceLargest); err == nil {
		reference, err = chosenFace(r.Face, "reference_face_at", r.ReferenceFaceAt, FaceOnly, FaceLargest)
	}
	switch {
	case err != nil:
	case r.Probe == nil && r.FaceAt != nil:
		err = invalidField("face_at", "goes with probe")
	case r.Reference == nil && r.ReferenceFaceAt != nil:
		err = invalidField("reference_face_at", "goes with reference")
	case r.Probe == nil && r.Reference == nil && r.Face != "":
		err = invalidField("face", "goes with a photo")
	}
	return probe, reference, err
}

// claimed finds the encoder of the gallery and the templates that it made of
// the claimed subject: at least one. It notes in the attempt whom it is about.
func (a *attempt) claimed(ctx context.Context, r VerifyRequest) (Encoder, []face.Template, error) {
	const op = "identity.Verify"
	if !face.ValidID(r.SubjectID) {
		return Encoder{}, nil, invalidField("subject_id", face.IDRule)
	}
	gallery, err := galleryOf(r.Gallery)
	if err != nil {
		return Encoder{}, nil, err
	}
	a.gallery, a.subject = gallery, r.SubjectID
	enc, err := a.encoderOf(ctx, a.by, gallery)
	if err != nil {
		return enc, nil, err
	}
	refs, err := a.o.Store.Templates(ctx, a.by.tenant(), gallery, r.SubjectID, enc.ID)
	if err != nil || len(refs) > 0 {
		return enc, refs, err
	}
	others, err := a.o.Store.Templates(ctx, a.by.tenant(), gallery, r.SubjectID, "")
	switch {
	case err != nil:
		return enc, nil, err
	case len(others) > 0:
		return enc, nil, face.Errorf(face.ModelMismatch, op,
			"The subject has templates of other models only; the model in use is %s.", enc.ID)
	}
	return enc, nil, face.Errorf(face.NotFound, op, "The subject has no templates.")
}

// encoderOf is the encoder that a gallery is searched with.
func (s *Service) encoderOf(ctx context.Context, by Caller, gallery string) (Encoder, error) {
	g, err := s.o.Store.Gallery(ctx, by.tenant(), gallery)
	if err != nil {
		return Encoder{}, err
	}
	return s.encoders.Of(g)
}

// presented is the embedding of a photo's face, with the face, or an embedding
// that the caller computed. Errors point at the field name, at name_embedding
// or at model_id.
func (s *Service) presented(ctx context.Context, slot embed.Slot, enc Encoder, name string, photo []byte, numbers []float32, modelID string, which wanted) (face.Embedding, *Sample, error) {
	if photo == nil {
		e, err := enc.embedding(name+"_embedding", numbers, modelID)
		return e, nil, err
	}
	samples, err := s.acquire(ctx, slot, name, photo, which, want(enc))
	if err == nil {
		err = s.checkQuality(name, samples[0])
	}
	if err != nil {
		return nil, nil, err
	}
	return samples[0].Embedding, &Sample{Face: samples[0].Face, Found: samples[0].Found}, nil
}

// probability is that the probe and the reference with that score are of one
// person; nil if the encoder has no head.
func (e Encoder) probability(probe face.Embedding, score float64, reference match.Reference) *float64 {
	p, ok := e.Head.OfScore(score)
	if !ok {
		p, ok = e.Head.Probability(probe, reference.Embedding)
	}
	if !ok {
		return nil
	}
	return &p
}
