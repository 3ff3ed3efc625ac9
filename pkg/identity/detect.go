package identity

import (
	"context"
	"fmt"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxFaces is how many faces [Service.Detect] lists at most.
const maxFaces = 100

// DetectRequest asks for the faces of a photo.
type DetectRequest struct {
	Image    []byte
	MaxFaces int // 1..100; 0: 100
}

// DetectResult lists them, the largest first.
type DetectResult struct {
	Faces []face.Face
	Found int // those over MaxFaces included
}

// Detect lists the faces of a photo. Errors: Invalid, with the field; those of
// a photo's bytes; and those of the pipeline.
func (s *Service) Detect(ctx context.Context, by Caller, r DetectRequest) (DetectResult, error) {
	n := r.MaxFaces
	if n == 0 {
		n = maxFaces
	}
	if n < 1 || n > maxFaces {
		return DetectResult{}, invalidField("max_faces", fmt.Sprintf("must be 1 to %d", maxFaces))
	}
	slot, err := s.o.Pipeline.Enter(ctx, by.Reservation)
	if err != nil {
		return DetectResult{}, err
	}
	defer slot.Leave()
	faces, found, err := slot.Detect(ctx, r.Image, n)
	return DetectResult{faces, found}, face.PointAt(err, "/image")
}

// EmbedRequest asks for the embeddings of a photo's faces.
type EmbedRequest struct {
	Image []byte
	// Face is [FaceOnly], the default, [FaceLargest] or [FaceAll].
	Face FaceRule
	// FaceAt is a place inside the wanted face: x and y in pixels of the
	// upright photo. Nil: Face decides. It excludes Face.
	FaceAt []float32
}

// EmbedResult has the embeddings.
type EmbedResult struct {
	ModelID string // the default encoder
	Faces   []EmbeddedFace
	Found   int // faces in the photo, those that were not wanted included
}

// EmbeddedFace is a face with its embedding.
type EmbeddedFace struct {
	Face      face.Face
	Embedding face.Embedding
}

// Embed gives the embeddings of a photo's faces. The quality gate refuses
// none; what it has against a face is in the face's quality. Errors: Invalid,
// with the field; NoFace, ManyFaces and the others of a photo; and those of the
// pipeline.
func (s *Service) Embed(ctx context.Context, by Caller, r EmbedRequest) (EmbedResult, error) {
	which, err := chosenFace(r.Face, "face_at", r.FaceAt, FaceOnly, FaceLargest, FaceAll)
	if err != nil {
		return EmbedResult{}, err
	}
	slot, err := s.o.Pipeline.Enter(ctx, by.Reservation)
	if err != nil {
		return EmbedResult{}, err
	}
	defer slot.Leave()
	enc := s.encoders.Default()
	samples, err := s.acquire(ctx, slot, "image", r.Image, which, want(enc))
	if err != nil {
		return EmbedResult{}, err
	}
	result := EmbedResult{ModelID: enc.ID, Faces: make([]EmbeddedFace, len(samples)), Found: facesFound(samples)}
	for i, sample := range samples {
		result.Faces[i] = EmbeddedFace{sample.Face, sample.Embedding}
	}
	return result, nil
}
