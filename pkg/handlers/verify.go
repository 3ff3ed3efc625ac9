package handlers

import (
	"context"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
)

// Verify compares a probe with a reference.
func (s *server) Verify(ctx context.Context, r api.VerifyRequestObject) (api.VerifyResponseObject, error) {
	b := r.JSONBody
	v, err := s.Identity.Verify(ctx, callerOf(ctx), identity.VerifyRequest{
		Probe: b.Probe, ProbeEmbedding: b.ProbeEmbedding,
		Reference: b.Reference, ReferenceEmbedding: b.ReferenceEmbedding, SubjectID: textOf(b.SubjectID), Gallery: textOf(b.Gallery),
		ModelID: textOf(b.ModelID), OperatingPoint: textOf(b.OperatingPoint),
		Face: identity.FaceRule(textOf(b.Face)), FaceAt: b.FaceAt, ReferenceFaceAt: b.ReferenceFaceAt,
	})
	if err != nil {
		return nil, err
	}
	var templates *int // absent without a subject
	if v.Templates > 0 {
		templates = &v.Templates
	}
	return api.Verify200JSONResponse{
		Match: v.Match, Score: v.Score, Threshold: v.Point.Threshold, OperatingPoint: v.Point.Name,
		FmrAtScore: v.FMRAtScore, Probability: v.Probability, ModelID: v.ModelID, SubjectID: b.SubjectID, Templates: templates,
		Probe: sampleAnswer(v.Probe), Reference: sampleAnswer(v.Reference),
	}, nil
}

// sampleAnswer writes a sample as the contract does; nil stays nil.
func sampleAnswer(s *identity.Sample) *api.Sample {
	if s == nil {
		return nil
	}
	return &api.Sample{Face: faceAnswer(s.Face), FacesFound: s.Found}
}

// faceAnswer writes a face as the contract does.
func faceAnswer(f face.Face) api.Face {
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

// optionalFaceAnswer is faceAnswer for a face that may be missing.
func optionalFaceAnswer(f *face.Face) *api.Face {
	if f == nil {
		return nil
	}
	return new(faceAnswer(*f))
}
