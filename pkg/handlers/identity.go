package handlers

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// Verify compares a probe with a reference.
func (s *server) Verify(ctx context.Context, r api.VerifyRequestObject) (api.VerifyResponseObject, error) {
	b := r.JSONBody
	if err := oneOf(
		choice{"probe", b.Probe != nil}, choice{"probe_embedding", b.ProbeEmbedding != nil},
	); err != nil {
		return nil, err
	}
	if err := oneOf(
		choice{"reference", b.Reference != nil}, choice{"subject_id", b.SubjectID != nil},
		choice{"reference_embedding", b.ReferenceEmbedding != nil},
	); err != nil {
		return nil, err
	}
	// What costs little comes first: an unknown subject costs no inference.
	enc, refs := s.own, []face.Template(nil)
	if b.SubjectID != nil {
		var err error
		if enc, refs, err = s.templatesOf(ctx, b.Gallery, *b.SubjectID); err != nil {
			return nil, err
		}
	}
	point, err := s.point(enc, b.OperatingPoint)
	if err != nil {
		return nil, err
	}
	probeChoice, err := chosenFace("face_at", b.Face, b.FaceAt)
	if err != nil {
		return nil, err
	}
	referenceChoice, err := chosenFace("reference_face_at", b.Face, b.ReferenceFaceAt)
	switch {
	case err != nil:
		return nil, err
	case b.Probe == nil && b.FaceAt != nil:
		return nil, api.InvalidField("face_at", "goes with probe")
	case b.Reference == nil && b.ReferenceFaceAt != nil:
		return nil, api.InvalidField("reference_face_at", "goes with reference")
	case b.Probe == nil && b.Reference == nil && b.Face != nil:
		return nil, api.InvalidField("face", "goes with a photo")
	}
	if b.Probe != nil || b.Reference != nil {
		release, err := s.admit(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	probe, probeFace, err := s.presented(ctx, enc, "probe", b.Probe, b.ProbeEmbedding, b.ModelID, probeChoice)
	if err != nil {
		return nil, err
	}
	answer := api.VerifyResponse{
		OperatingPoint: point.Name, Threshold: point.Threshold,
		ModelID: enc.id, SubjectID: b.SubjectID, Probe: probeFace,
	}
	if b.SubjectID == nil {
		var reference face.Embedding
		reference, answer.Reference, err = s.presented(ctx, enc, "reference", b.Reference, b.ReferenceEmbedding, b.ModelID, referenceChoice)
		if err != nil {
			return nil, err
		}
		refs = []face.Template{{Embedding: reference}}
	}
	var best string
	answer.Score, best, err = match.Verify(probe, refs)
	if err != nil {
		return nil, err
	}
	answer.Probability = enc.probability(probe, answer.Score, refs, best)
	answer.Match = answer.Score >= point.Threshold
	if fmr, ok := enc.policy.FMRAt(answer.Score); ok {
		answer.FmrAtScore = &fmr
	}
	decision := "non_match"
	if answer.Match {
		decision = "match"
	}
	if b.SubjectID != nil {
		err := s.audit(ctx, store.Decision{
			Action: store.AuditVerify, Gallery: valueOr(b.Gallery, face.DefaultGallery), SubjectID: *b.SubjectID, Decision: decision,
		})
		if err != nil {
			return nil, err
		}
	}
	s.metrics.decisions.WithLabelValues("/verify", decision).Inc()
	return api.Verify200JSONResponse(answer), nil
}

// audit records a decision, where that is asked for. No door opens on one that
// is not recorded.
func (s *server) audit(ctx context.Context, d store.Decision) error {
	if !s.AuditDecisions {
		return nil
	}
	return s.recorded(ctx, d)
}

// recorded puts a record in the audit chain; it is the answer's error where
// that fails.
func (s *server) recorded(ctx context.Context, d store.Decision) error {
	err := s.Store.RecordDecision(ctx, tenant(ctx), actorOf(ctx), d)
	if err == nil || errors.Is(err, face.Canceled) {
		return err
	}
	return &face.Error{Kind: face.Unavailable, Op: "handlers.recorded", Detail: "What was asked for could not be recorded, and so was not done.", Err: err}
}

// templatesOf are a subject's templates of the gallery's encoder: at least one.
func (s *server) templatesOf(ctx context.Context, gallery *string, subject string) (encoder, []face.Template, error) {
	if !face.ValidID(subject) {
		return encoder{}, nil, api.InvalidField("subject_id", invalidID)
	}
	name, err := galleryOf(gallery)
	if err != nil {
		return encoder{}, nil, err
	}
	enc, _, err := s.encoderOf(ctx, name)
	if err != nil {
		return enc, nil, err
	}
	refs, err := s.Store.Templates(ctx, tenant(ctx), name, subject, enc.id)
	if err != nil || len(refs) > 0 {
		return enc, refs, err
	}
	others, err := s.Store.Templates(ctx, tenant(ctx), name, subject, "")
	switch {
	case err != nil:
		return enc, nil, err
	case len(others) > 0:
		return enc, nil, face.Errorf(face.ModelMismatch, "handlers.Verify",
			"The subject has templates of other models only; the model in use is %s.", enc.id)
	}
	return enc, nil, face.Errorf(face.NotFound, "handlers.Verify", "The subject has no templates.")
}

// presented is the embedding of a photo, with its face, or one that was
// given. Errors point at the field name, or at name_embedding or model_id.
func (s *server) presented(ctx context.Context, enc encoder, name string, photo []byte, numbers []float32, modelID *string, which faceChoice) (face.Embedding, *api.Sample, error) {
	if photo == nil {
		e, err := s.embedding(enc, name+"_embedding", numbers, modelID)
		return e, nil, err
	}
	samples, err := s.acquire(ctx, name, photo, which, enc.want())
	if err == nil {
		err = s.gate(name, samples[0])
	}
	if err != nil {
		return nil, nil, err
	}
	return samples[0].Embedding, &api.Sample{Face: faceOf(samples[0].Face), FacesFound: samples[0].Found}, nil
}

// faceChoice says which face of a photo is meant: that at a place, if there is
// one, else what the pick says.
type faceChoice struct {
	pick embed.Pick
	at   *face.Point
}

// chosenFace reads the members face and face_at, of which the latter may have
// another name.
func chosenFace(name string, rule *api.FaceRule, at []float32) (faceChoice, error) {
	c := faceChoice{pick: embed.PickOnly}
	if valueOr(rule, api.FaceRuleOnly) == api.FaceRuleLargest {
		c.pick = embed.PickLargest
	}
	if at == nil {
		return c, nil
	}
	point, err := pointOf(name, at, rule != nil)
	c.at = &point
	return c, err
}

// pointOf reads a place in a photo. It does not go with a rule for faces.
func pointOf(name string, at []float32, ruled bool) (face.Point, error) {
	switch {
	case len(at) != 2:
		return face.Point{}, api.InvalidField(name, "must be two numbers: x and y in pixels of the upright image")
	case ruled:
		return face.Point{}, api.InvalidField(name, "must not be given together with face")
	}
	return face.Point{X: at[0], Y: at[1]}, nil
}

// gate refuses a face that the quality gate has something against, and counts
// it: what blurred or tiny faces score says little about who they are.
func (s *server) gate(field string, sample embed.Sample) error {
	reasons := sample.Face.Quality.Reasons
	if len(reasons) == 0 {
		return nil
	}
	s.metrics.notAcquired(reasons)
	e := face.Errorf(face.LowQuality, "handlers.gate", "The quality gate refuses the face.")
	e.Reasons = reasons
	return withPointer(e, field)
}

// embedding checks an embedding that the caller computed.
func (s *server) embedding(enc encoder, field string, numbers []float32, modelID *string) (face.Embedding, error) {
	const op = "handlers.embedding"
	switch {
	case modelID == nil:
		return nil, api.InvalidField("model_id", "is missing: an embedding needs the model that made it")
	case *modelID != enc.id:
		return nil, withPointer(face.Errorf(face.ModelMismatch, op, "The model in use is %s.", enc.id), "model_id")
	case len(numbers) != enc.size:
		return nil, withPointer(face.Errorf(face.ModelMismatch, op, "An embedding of %s has %d numbers, not %d.", enc.id, enc.size, len(numbers)), field)
	}
	e, err := face.Embedding(numbers).Normalise()
	return e, withPointer(err, field)
}

// acquire embeds the faces of a photo and counts what could not be acquired.
func (s *server) acquire(ctx context.Context, field string, photo []byte, which faceChoice, want embed.Want) ([]embed.Sample, error) {
	want.At = which.at
	samples, err := s.Pipeline.EmbedWith(ctx, photo, which.pick, want)
	if e, ok := errors.AsType[*face.Error](err); ok {
		s.metrics.notAcquired(e.Reasons)
	}
	return samples, withPointer(err, field)
}

// maxFrames is how many photos of one person may be fused.
const maxFrames = api.MaxImages

// Recognize searches a gallery with the faces of a photo.
func (s *server) Recognize(ctx context.Context, r api.RecognizeRequestObject) (api.RecognizeResponseObject, error) {
	b := r.JSONBody
	fuse, k := valueOr(b.Fuse, false), valueOr(b.K, 5)
	if err := oneOf(choice{"probe", b.Probe != nil}, choice{"probe_embedding", b.ProbeEmbedding != nil}); err != nil {
		return nil, err
	}
	switch {
	case b.Probe == nil && b.Faces != nil:
		return nil, api.InvalidField("faces", "goes with probe, not with probe_embedding")
	case b.Probe == nil && b.Fuse != nil:
		return nil, api.InvalidField("fuse", "goes with probe, not with probe_embedding")
	case b.Probe != nil && (len(b.Probe) < 1 || len(b.Probe) > maxFrames):
		return nil, api.InvalidField("probe", fmt.Sprintf("must be 1 to %d images", maxFrames))
	case len(b.Probe) > 1 && !fuse:
		return nil, api.InvalidField("fuse", "must be true for several images")
	case k < 1 || k > 100:
		return nil, api.InvalidField("k", "must be 1 to 100")
	}
	gallery, err := galleryOf(b.Gallery)
	if err != nil {
		return nil, err
	}
	enc, _, err := s.encoderOf(ctx, gallery)
	if err != nil {
		return nil, err
	}
	n, err := s.Store.Comparisons(ctx, tenant(ctx), gallery, enc.id)
	if err != nil {
		return nil, err
	}
	point, err := s.point(enc, b.OperatingPoint)
	if err == nil && s.WholeSearch {
		point, err = enc.policy.Identification(point.Name, n)
		err = withPointer(err, "operating_point")
	}
	if err != nil {
		return nil, err
	}
	if b.Probe != nil {
		release, err := s.admit(ctx)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	var samples []embed.Sample
	switch {
	case b.Probe == nil:
		var e face.Embedding
		e, err = s.embedding(enc, "probe_embedding", b.ProbeEmbedding, b.ModelID)
		samples = []embed.Sample{{Embedding: e}}
	case fuse:
		samples, err = s.fused(ctx, enc, b.Probe)
	default:
		which := faceChoice{pick: embed.PickAll}
		if valueOr(b.Faces, api.FacesRuleAll) == api.FacesRuleLargest {
			which.pick = embed.PickLargest
		}
		samples, err = s.acquire(ctx, "probe", b.Probe[0], which, enc.want())
		if errors.Is(err, face.NoFace) || errors.Is(err, face.LowQuality) { // there is none, or it is too dark to find one
			samples, err = nil, nil // acquire has counted it
		} else if err == nil && len(samples) == 0 {
			s.metrics.notAcquired([]face.Reason{face.ReasonNoFace})
		}
	}
	if err != nil {
		return nil, err
	}
	answer := api.RecognizeResponse{
		ModelID: enc.id, OperatingPoint: point.Name, Threshold: point.Threshold,
		Faces: make([]api.RecognizedFace, 0, len(samples)),
	}
	if b.Probe != nil && !fuse {
		found := facesFound(samples)
		answer.FacesFound = &found
	}
	if fmr, ok := enc.policy.FMRAt(point.Threshold); ok {
		fpir := match.FPIR(fmr, n)
		answer.FpirAtThreshold = &fpir
	}
	for _, sample := range samples {
		f, size, err := s.recognize(ctx, enc, gallery, sample, k, point.Threshold)
		if err != nil {
			return nil, err
		}
		if size != nil {
			answer.GallerySize = size
		}
		d := store.Decision{Action: store.AuditIdentify, Gallery: gallery, Decision: string(f.Decision)}
		if f.Decision == api.RecognizedFaceDecisionMatch {
			d.SubjectID = f.Candidates[0].SubjectID
		}
		if err := s.audit(ctx, d); err != nil {
			return nil, err
		}
		s.metrics.decisions.WithLabelValues("/recognize", string(f.Decision)).Inc()
		if b.Probe != nil {
			f.Face = new(faceOf(sample.Face))
		}
		answer.Faces = append(answer.Faces, f)
	}
	return api.Recognize200JSONResponse(answer), nil
}

// facesFound is how many faces the photo of the samples has.
func facesFound(samples []embed.Sample) int {
	if len(samples) == 0 {
		return 0
	}
	return samples[0].Found
}

// recognize decides who a face is. The size of the gallery is nil where the
// face was not searched for.
func (s *server) recognize(ctx context.Context, enc encoder, gallery string, sample embed.Sample, k int, threshold float64) (api.RecognizedFace, *int, error) {
	f := api.RecognizedFace{Candidates: []api.Candidate{}}
	if reasons := sample.Face.Quality.Reasons; len(reasons) > 0 {
		s.metrics.notAcquired(reasons)
		f.Decision = api.RecognizedFaceDecisionLowQuality
		return f, nil, nil
	}
	// The second best is needed for the decision, asked for or not.
	start := time.Now()
	found, err := s.Store.Search(ctx, tenant(ctx), gallery, enc.id, sample.Embedding, max(k, 2))
	if err != nil {
		return f, nil, err
	}
	s.Observe("search", time.Since(start).Seconds())
	decision, margin := match.Identify(found.Candidates, threshold, s.AmbiguityMargin)
	f.Decision = api.RecognizedFaceDecision(decision)
	if len(found.Candidates) > 1 {
		f.Margin = &margin
	}
	for i, c := range found.Candidates[:min(k, len(found.Candidates))] {
		p, err := s.candidateProbability(ctx, enc, gallery, sample.Embedding, c)
		if err != nil {
			return f, nil, err
		}
		f.Candidates = append(f.Candidates, api.Candidate{Rank: i + 1, SubjectID: c.SubjectID, Name: optionalText(c.Name), Score: c.Score, Probability: p})
	}
	return f, &found.GallerySize, nil
}

// candidateProbability is the probability that goes with a candidate. Only a
// head that looks at more than the score costs a look at the store: a search
// keeps no embeddings. Whoever is erased meanwhile has no probability.
func (s *server) candidateProbability(ctx context.Context, enc encoder, gallery string, probe face.Embedding, c face.Candidate) (*float64, error) {
	if p, ok := enc.head.OfScore(c.Score); ok || enc.head == nil {
		return probabilityOf(p, ok), nil
	}
	refs, err := s.Store.Templates(ctx, tenant(ctx), gallery, c.SubjectID, enc.id)
	if err != nil && !errors.Is(err, face.NotFound) {
		return nil, err
	}
	return enc.probability(probe, c.Score, refs, c.TemplateID), nil
}

// probability is that the probe and the reference of the best score are of one
// person; nil where the encoder has no head.
func (e encoder) probability(probe face.Embedding, score float64, refs []face.Template, best string) *float64 {
	if p, ok := e.head.OfScore(score); ok {
		return &p
	}
	for _, ref := range refs {
		if ref.ID == best {
			return probabilityOf(e.head.Probability(probe, ref.Embedding))
		}
	}
	return nil
}

func probabilityOf(p float64, ok bool) *float64 {
	if !ok {
		return nil
	}
	return &p
}

// agreement is the operating point at which frames must match each other to be
// fused: strangers rarely do, and frames of one camera within seconds score far
// above it.
const agreement = "fmr_1e-3"

// fused makes one sample of the largest faces of several frames: those that
// pass the quality gate, weighted by quality. Where none passes, it is the
// best of those that do not; where no frame has a face, there is no sample.
// Frames that show different people are FramesDisagree: nobody may be matched
// with a face that is in one of the frames only.
func (s *server) fused(ctx context.Context, enc encoder, frames [][]byte) ([]embed.Sample, error) {
	var passed, refused []embed.Sample
	var places []int // of the frames that passed
	for i, frame := range frames {
		samples, err := s.Pipeline.EmbedWith(ctx, frame, embed.PickLargest, enc.want())
		switch {
		case errors.Is(err, face.NoFace), errors.Is(err, face.LowQuality): // too dark or too bright to find one
		case err != nil:
			return nil, withPointer(err, "probe")
		case len(samples[0].Face.Quality.Reasons) > 0:
			refused = append(refused, samples[0])
		default:
			passed, places = append(passed, samples[0]), append(places, i)
		}
	}
	if len(passed) == 0 {
		if len(refused) == 0 {
			s.metrics.notAcquired([]face.Reason{face.ReasonNoFace})
		}
		return bestSample(refused), nil
	}
	embeddings := make([]face.Embedding, len(passed))
	weights := make([]float32, len(passed))
	for i, sample := range passed {
		embeddings[i], weights[i] = sample.Embedding, sample.Face.Quality.Score
	}
	if err := s.agree(enc, embeddings, places); err != nil {
		return nil, err
	}
	fused, err := match.Fuse(embeddings, weights)
	if err != nil {
		return nil, withPointer(err, "probe")
	}
	return []embed.Sample{{Face: bestSample(passed)[0].Face, Embedding: fused}}, nil
}

// agree is the error about the first two frames that do not match each other.
func (s *server) agree(enc encoder, frames []face.Embedding, places []int) error {
	point, err := enc.policy.Point(agreement)
	if err != nil {
		point, err = s.defaultPoint(enc)
	}
	if err != nil {
		return err
	}
	for i := range frames {
		for j := range i {
			score, _, err := match.Verify(frames[i], []face.Template{{Embedding: frames[j]}})
			if err != nil {
				return withPointer(err, "probe")
			}
			if score < point.Threshold {
				s.metrics.notAcquired([]face.Reason{face.ReasonFramesDisagree})
				e := face.Errorf(face.FramesDisagree, "handlers.agree",
					"Frames %d and %d do not show one person: their score is %.3f, and %s, at which frames must match, begins at %.3f.",
					places[j]+1, places[i]+1, score, point.Name, point.Threshold)
				e.Reasons = []face.Reason{face.ReasonFramesDisagree}
				e.Fields = []face.FieldError{{Pointer: fmt.Sprintf("/probe/%d", places[i]), Detail: "does not show the person of the other frames"}}
				return e
			}
		}
	}
	return nil
}

// bestSample is the sample of the highest quality, or none.
func bestSample(samples []embed.Sample) []embed.Sample {
	top := 0
	for i, sample := range samples {
		if sample.Face.Quality.Score > samples[top].Face.Quality.Score {
			top = i
		}
	}
	return samples[min(top, len(samples)):min(top+1, len(samples))]
}

// maxFaces is how many faces POST /detect lists at most.
const maxFaces = 100

// Detect lists the faces of a photo.
func (s *server) Detect(ctx context.Context, r api.DetectRequestObject) (api.DetectResponseObject, error) {
	n := valueOr(r.JSONBody.MaxFaces, maxFaces)
	if n < 1 || n > maxFaces {
		return nil, api.InvalidField("max_faces", fmt.Sprintf("must be 1 to %d", maxFaces))
	}
	release, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	faces, found, err := s.Pipeline.Detect(ctx, r.JSONBody.Image, n)
	if err != nil {
		return nil, withPointer(err, "image")
	}
	answer := api.Detect200JSONResponse{Faces: make([]api.Face, len(faces)), FacesFound: found}
	for i, f := range faces {
		answer.Faces[i] = faceOf(f)
	}
	return answer, nil
}

// Embed gives the embeddings of a photo's faces.
func (s *server) Embed(ctx context.Context, r api.EmbedRequestObject) (api.EmbedResponseObject, error) {
	which := faceChoice{pick: embed.PickOnly}
	switch valueOr(r.JSONBody.Face, api.EmbedFaceRuleOnly) {
	case api.EmbedFaceRuleLargest:
		which.pick = embed.PickLargest
	case api.EmbedFaceRuleAll:
		which.pick = embed.PickAll
	}
	if r.JSONBody.FaceAt != nil {
		point, err := pointOf("face_at", r.JSONBody.FaceAt, r.JSONBody.Face != nil)
		if err != nil {
			return nil, err
		}
		which.at = &point
	}
	release, err := s.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	samples, err := s.acquire(ctx, "image", r.JSONBody.Image, which, s.own.want())
	if err != nil {
		return nil, err
	}
	answer := api.Embed200JSONResponse{ModelID: s.own.id, Faces: make([]api.EmbeddedFace, len(samples)), FacesFound: facesFound(samples)}
	for i, sample := range samples {
		answer.Faces[i] = api.EmbeddedFace{Face: faceOf(sample.Face), Embedding: []float32(sample.Embedding)}
		if valueOr(r.JSONBody.Encoding, api.EmbeddingEncodingJSON) == api.EmbeddingEncodingFloat32 {
			answer.Faces[i].Embedding = littleEndian(sample.Embedding)
		}
	}
	return answer, nil
}

// littleEndian is an embedding as IEEE 754 numbers of 4 bytes; JSON writes it
// as base64.
func littleEndian(e face.Embedding) []byte {
	b := make([]byte, 0, 4*len(e))
	for _, v := range e {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// point is the operating point that a request asks for, or the server's.
func (s *server) point(enc encoder, name *string) (face.OperatingPoint, error) {
	if name == nil {
		p, err := s.defaultPoint(enc)
		return p, withPointer(err, "operating_point")
	}
	p, err := enc.policy.Point(*name)
	return p, withPointer(err, "operating_point")
}

// defaultPoint is the operating point of requests that name none. Where the
// encoder's calibration does not support it, the error says what to set.
func (s *server) defaultPoint(enc encoder) (face.OperatingPoint, error) {
	p, err := enc.policy.Point(s.OperatingPoint)
	if e, ok := errors.AsType[*face.Error](err); ok && len(enc.policy.Points()) > 0 {
		return p, face.Errorf(e.Kind, e.Op, "%s; a request that names no operating_point gets the server's, which --operating-point (LIKENESS_OPERATING_POINT) sets", e.Detail)
	}
	return p, err
}

const invalidID = "must be 1 to 128 letters, digits and ._@-, the first a letter or a digit"

// galleryOf is the gallery that a body names, or the default one.
func galleryOf(name *string) (string, error) {
	g := valueOr(name, face.DefaultGallery)
	if !face.ValidID(g) {
		return "", api.InvalidField("gallery", invalidID)
	}
	return g, nil
}

// choice is a field of which a request must have exactly one.
type choice struct {
	name  string
	given bool
}

// oneOf refuses a request that has none of the fields, or several.
func oneOf(choices ...choice) error {
	names, chosen := "", ""
	for i, c := range choices {
		if i > 0 {
			names += ", "
		}
		names += c.name
		if c.given && chosen != "" {
			return api.InvalidField(c.name, "only one may be given of "+names)
		}
		if c.given {
			chosen = c.name
		}
	}
	if chosen == "" {
		return api.InvalidField(choices[0].name, "is missing: one must be given of "+names)
	}
	return nil
}

// faceOf writes a face as the contract does.
func faceOf(f face.Face) api.Face {
	point := func(p face.Point) api.Point { return api.Point{p.X, p.Y} }
	reasons := f.Quality.Reasons
	if reasons == nil {
		reasons = []face.Reason{}
	}
	return api.Face{
		Box: api.Box{X: f.Box.X, Y: f.Box.Y, Width: f.Box.Width, Height: f.Box.Height},
		Landmarks: api.Landmarks{
			LeftEye: point(f.Landmarks.LeftEye), RightEye: point(f.Landmarks.RightEye), Nose: point(f.Landmarks.Nose),
			LeftMouth: point(f.Landmarks.LeftMouth), RightMouth: point(f.Landmarks.RightMouth),
		},
		DetectionScore: f.DetectionScore,
		Quality: api.Quality{
			Score: f.Quality.Score, Sharpness: f.Quality.Sharpness, Brightness: f.Quality.Brightness,
			Pose:          api.Pose{Yaw: f.Quality.Pose.Yaw, Pitch: f.Quality.Pose.Pitch, Roll: f.Quality.Pose.Roll},
			InterocularPx: f.Quality.InterocularPx, Reasons: reasons,
		},
	}
}
