package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// framesPoint names the operating point at which frames must match each other
// to be fused: strangers rarely do, and frames of one camera within seconds
// score far above it.
func framesPoint() string { return match.PointName(1e-3) }

// fused makes one sample of the largest faces of several frames: of those that
// pass the quality gate, weighted by quality. If none passes, it is the best of
// those that do not; if no frame has a face, there is no sample. Frames that
// show different people are FramesDisagree: nobody may be matched with a face
// that is in one of the frames only.
func (s *Service) fused(ctx context.Context, slot embed.Slot, enc Encoder, frames [][]byte) ([]embed.Sample, error) {
	var passed, refused []embed.Sample
	var places []int // of the frames that passed
	for i, frame := range frames {
		samples, err := slot.Embed(ctx, frame, embed.PickLargest, want(enc))
		switch {
		case errors.Is(err, face.NoFace), errors.Is(err, face.LowQuality): // too dark or too bright to find one
		case err != nil:
			return nil, face.PointAt(err, "/probe")
		case len(samples[0].Face.Quality.Reasons) > 0:
			refused = append(refused, samples[0])
		default:
			passed, places = append(passed, samples[0]), append(places, i)
		}
	}
	if len(passed) == 0 {
		if len(refused) == 0 {
			s.notAcquired([]face.Reason{face.ReasonNoFace})
		}
		return bestSample(refused), nil
	}
	embeddings := make([]face.Embedding, len(passed))
	weights := make([]float32, len(passed))
	for i, sample := range passed {
		embeddings[i], weights[i] = sample.Embedding, sample.Face.Quality.Score
	}
	if err := s.checkOnePerson(enc, embeddings, places); err != nil {
		return nil, err
	}
	fused, err := match.Fuse(embeddings, weights)
	if err != nil {
		return nil, face.PointAt(err, "/probe")
	}
	return []embed.Sample{{Face: bestSample(passed)[0].Face, Embedding: fused}}, nil
}

// checkOnePerson refuses frames of which two do not match each other. places
// are the frames' places in the request.
func (s *Service) checkOnePerson(enc Encoder, frames []face.Embedding, places []int) error {
	point, err := enc.Policy.Point(framesPoint())
	if err != nil {
		point, err = s.DefaultPoint(enc)
	}
	if err != nil {
		return err
	}
	for i := range frames {
		for j := range i {
			score, _, err := match.Verify(frames[i], []face.Template{{Embedding: frames[j]}})
			if err != nil {
				return face.PointAt(err, "/probe")
			}
			if score >= point.Threshold {
				continue
			}
			s.notAcquired([]face.Reason{face.ReasonFramesDisagree})
			e := face.Errorf(face.FramesDisagree, "identity.checkOnePerson",
				"Frames %d and %d do not show one person: their score is %.3f, and %s, at which frames must match, begins at %.3f.",
				places[j]+1, places[i]+1, score, point.Name, point.Threshold)
			e.Reasons = []face.Reason{face.ReasonFramesDisagree}
			e.Fields = []face.FieldError{{Pointer: fmt.Sprintf("/probe/%d", places[i]), Detail: "does not show the person of the other frames"}}
			return e
		}
	}
	return nil
}

// bestSample is the sample of the highest quality, or none.
func bestSample(samples []embed.Sample) []embed.Sample {
	best := 0
	for i, sample := range samples {
		if sample.Face.Quality.Score > samples[best].Face.Quality.Score {
			best = i
		}
	}
	return samples[min(best, len(samples)):min(best+1, len(samples))]
}
