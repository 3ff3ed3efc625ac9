package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// MaxFrames is how many photos of one person may be fused.
const MaxFrames = 8

const (
	defaultCandidates = 5
	maxCandidates     = 100
)

// RecognizeRequest asks which of the people in a gallery a probe shows.
type RecognizeRequest struct {
	Probe          [][]byte  // one photo or, with Fuse, up to MaxFrames of one person
	ProbeEmbedding []float32 // instead of photos, of the encoder ModelID
	ModelID        string
	Gallery        string // empty: [face.DefaultGallery]
	K              int    // candidates at most, 1..100; 0: 5
	OperatingPoint string // empty: the service's
	// Faces is [FaceAll], the default, or [FaceLargest].
	Faces FaceRule
	// Fuse makes one sample of the largest faces of several photos. Nil is
	// false; either value is refused beside an embedding.
	Fuse *bool
}

// RecognizeResult has a decision for each face of the probe.
type RecognizeResult struct {
	ModelID string              // the encoder that searched
	Point   face.OperatingPoint // with WholeSearch, its threshold is for the gallery's size
	// FPIRAtThreshold is how often a search for a stranger names somebody, by
	// [match.FPIR]. Nil: nothing was measured.
	FPIRAtThreshold *float64
	GallerySize     *int // subjects with a template of the encoder; nil: nothing was searched
	FacesFound      *int // in the photo, those that Faces leaves out included; nil for frames and embeddings
	Faces           []RecognizedFace
}

// RecognizedFace says who a face is.
type RecognizedFace struct {
	Face       *face.Face // nil for an embedding
	Decision   match.Decision
	Margin     *float64    // see [match.Identify]; nil: there is no second candidate
	Candidates []Candidate // best first; none of a face of low quality
}

// Candidate is somebody whom the face may be of.
type Candidate struct {
	Rank int // from 1
	face.Candidate
	Probability *float64 // that both are of one person; nil: the encoder has no head
}

// Recognize searches a gallery for the faces of a probe. A photo without a face
// has no decision, and one whose face has a low quality has that decision;
// neither is an error. Errors: Invalid, with the field; NotFound: the gallery;
// ModelMismatch; OperatingPointUnsupported; FramesDisagree; InvalidImage and
// the others of a photo's bytes; and those of the pipeline and the store.
func (s *Service) Recognize(ctx context.Context, by Caller, r RecognizeRequest) (RecognizeResult, error) {
	none := RecognizeResult{}
	pick, err := r.check()
	if err != nil {
		return none, err
	}
	gallery, err := galleryOf(r.Gallery)
	if err != nil {
		return none, err
	}
	enc, err := s.encoderOf(ctx, by, gallery)
	if err != nil {
		return none, err
	}
	subjects, err := s.o.Store.Comparisons(ctx, by.tenant(), gallery, enc.ID)
	if err != nil {
		return none, err
	}
	point, err := s.point(enc, r.OperatingPoint)
	if err == nil && s.o.WholeSearch {
		point, err = enc.Policy.Identification(point.Name, subjects)
		err = face.PointAt(err, "/operating_point")
	}
	if err != nil {
		return none, err
	}
	var slot embed.Slot
	if r.Probe != nil {
		if slot, err = s.o.Pipeline.Enter(ctx, by.Reservation); err != nil {
			return none, err
		}
		defer slot.Leave() // after the search, which works a core too
	}
	samples, err := s.probes(ctx, slot, enc, r, pick)
	if err != nil {
		return none, err
	}
	result := RecognizeResult{ModelID: enc.ID, Point: point, Faces: make([]RecognizedFace, 0, len(samples))}
	if r.Probe != nil && !r.fuse() {
		found := facesFound(samples)
		result.FacesFound = &found
	}
	if fmr, ok := enc.Policy.FMRAt(point.Threshold); ok {
		fpir := match.FPIR(fmr, subjects)
		result.FPIRAtThreshold = &fpir
	}
	a := attempt{Service: s, by: by, action: store.AuditIdentify, gallery: gallery}
	for _, sample := range samples {
		f, size, err := a.identify(ctx, enc, sample, r.candidates(), point.Threshold)
		if err != nil {
			return none, err
		}
		if size != nil {
			result.GallerySize = size
		}
		if r.Probe != nil {
			f.Face = &sample.Face
		}
		result.Faces = append(result.Faces, f)
	}
	// Only now, so that a search that fails or is late leaves no decision about other faces.
	for i, f := range result.Faces {
		a.subject = ""
		if f.Decision == match.DecisionMatch {
			a.subject = f.Candidates[0].SubjectID
		}
		if err := a.decided(ctx, string(f.Decision), samples[i].Face.Quality.Reasons...); err != nil {
			return none, err
		}
	}
	return result, nil
}

// check refuses a request whose fields are wrong or do not go together.
func (r RecognizeRequest) check() (embed.Pick, error) {
	if err := exactlyOne(field{"probe", r.Probe != nil}, field{"probe_embedding", r.ProbeEmbedding != nil}); err != nil {
		return 0, err
	}
	switch {
	case r.Probe == nil && r.Faces != "":
		return 0, invalidField("faces", "goes with probe, not with probe_embedding")
	case r.Probe == nil && r.Fuse != nil:
		return 0, invalidField("fuse", "goes with probe, not with probe_embedding")
	case r.Probe != nil && (len(r.Probe) < 1 || len(r.Probe) > MaxFrames):
		return 0, invalidField("probe", fmt.Sprintf("must be 1 to %d images", MaxFrames))
	case len(r.Probe) > 1 && !r.fuse():
		return 0, invalidField("fuse", "must be true for several images")
	case r.candidates() < 1 || r.candidates() > maxCandidates:
		return 0, invalidField("k", fmt.Sprintf("must be 1 to %d", maxCandidates))
	}
	return pickOf("faces", r.Faces, FaceAll, FaceLargest)
}

func (r RecognizeRequest) fuse() bool { return r.Fuse != nil && *r.Fuse }

func (r RecognizeRequest) candidates() int {
	if r.K == 0 {
		return defaultCandidates
	}
	return r.K
}

// probes are the samples to search for: those of a photo's faces, the one of
// several frames, or the given embedding. A photo without a face has none.
func (s *Service) probes(ctx context.Context, slot embed.Slot, enc Encoder, r RecognizeRequest, pick embed.Pick) ([]embed.Sample, error) {
	if r.Probe == nil {
		e, err := enc.embedding("probe_embedding", r.ProbeEmbedding, r.ModelID)
		return []embed.Sample{{Embedding: e}}, err
	}
	if r.fuse() {
		return s.fused(ctx, slot, enc, r.Probe)
	}
	samples, err := s.acquire(ctx, slot, "probe", r.Probe[0], wanted{pick: pick}, want(enc))
	switch {
	case errors.Is(err, face.NoFace), errors.Is(err, face.LowQuality): // there is none, or it is too dark to find one
		return nil, nil // acquire has counted it
	case err == nil && len(samples) == 0:
		s.notAcquired([]face.Reason{face.ReasonNoFace})
	}
	return samples, err
}

// facesFound is how many faces the photo of the samples has.
func facesFound(samples []embed.Sample) int {
	if len(samples) == 0 {
		return 0
	}
	return samples[0].Found
}

// identify finds out who a face is. The size of the gallery is nil if the face
// was not searched for.
func (a attempt) identify(ctx context.Context, enc Encoder, sample embed.Sample, k int, threshold float64) (f RecognizedFace, size *int, err error) {
	if len(sample.Face.Quality.Reasons) > 0 {
		f.Decision = match.DecisionLowQuality
		return f, nil, nil
	}
	// The second best is needed for the decision, whatever k is.
	start := time.Now()
	found, err := a.o.Store.Search(ctx, a.by.tenant(), a.gallery, enc.ID, sample.Embedding, max(k, 2))
	if err != nil {
		return f, nil, err
	}
	a.o.Observe("search", time.Since(start).Seconds())
	var margin float64
	f.Decision, margin = match.Identify(found.Candidates, threshold, a.o.AmbiguityMargin)
	if len(found.Candidates) > 1 {
		f.Margin = &margin
	}
	for i, c := range found.Candidates[:min(k, len(found.Candidates))] {
		p, err := a.candidateProbability(ctx, enc, sample.Embedding, c)
		if err != nil {
			return f, nil, err
		}
		f.Candidates = append(f.Candidates, Candidate{Rank: i + 1, Candidate: c, Probability: p})
	}
	return f, &found.GallerySize, nil
}

// candidateProbability is the probability that goes with a candidate. Only a
// head that looks at more than the score reads the store: a search keeps no
// embeddings. Somebody who is erased meanwhile has no probability.
func (a attempt) candidateProbability(ctx context.Context, enc Encoder, probe face.Embedding, c face.Candidate) (*float64, error) {
	var reference match.Reference
	if _, ok := enc.Head.OfScore(c.Score); !ok && enc.Head != nil {
		templates, err := a.o.Store.Templates(ctx, a.by.tenant(), a.gallery, c.SubjectID, enc.ID)
		if err == nil {
			reference, err = match.NewReference(templates)
		}
		if err != nil && !errors.Is(err, face.NotFound) && !errors.Is(err, face.Damaged) {
			return nil, err
		}
	}
	return enc.probability(probe, c.Score, reference), nil
}
