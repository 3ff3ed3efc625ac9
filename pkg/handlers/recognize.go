package handlers

import (
	"context"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/identity"
)

// Recognize searches a gallery with the faces of a photo.
func (s *server) Recognize(ctx context.Context, r api.RecognizeRequestObject) (api.RecognizeResponseObject, error) {
	b := r.JSONBody
	found, err := s.Identity.Recognize(ctx, callerOf(ctx), identity.RecognizeRequest{
		Probe: b.Probe, ProbeEmbedding: b.ProbeEmbedding, ModelID: textOf(b.ModelID),
		Gallery: textOf(b.Gallery), K: numberOf(b.K), OperatingPoint: textOf(b.OperatingPoint),
		Faces: identity.FaceRule(textOf(b.Faces)), Fuse: b.Fuse,
	})
	if err != nil {
		return nil, err
	}
	answer := api.Recognize200JSONResponse{
		ModelID: found.ModelID, OperatingPoint: found.Point.Name, Threshold: found.Point.Threshold,
		FpirAtThreshold: found.FPIRAtThreshold, GallerySize: found.GallerySize, FacesFound: found.FacesFound,
		Faces: make([]api.RecognizedFace, len(found.Faces)),
	}
	for i, f := range found.Faces {
		candidates := make([]api.Candidate, len(f.Candidates))
		for j, c := range f.Candidates {
			candidates[j] = api.Candidate{Rank: c.Rank, SubjectID: c.SubjectID, Name: optionalText(c.Name), Score: c.Score, Templates: c.Templates, Probability: c.Probability}
		}
		answer.Faces[i] = api.RecognizedFace{
			Face: optionalFaceAnswer(f.Face), Decision: api.RecognizedFaceDecision(f.Decision), Margin: f.Margin, Candidates: candidates,
		}
	}
	return answer, nil
}
