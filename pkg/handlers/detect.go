package handlers

import (
	"context"
	"encoding/binary"
	"math"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
)

// Detect lists the faces of a photo.
func (s *server) Detect(ctx context.Context, r api.DetectRequestObject) (api.DetectResponseObject, error) {
	found, err := s.Identity.Detect(ctx, callerOf(ctx), identity.DetectRequest{Image: r.JSONBody.Image, MaxFaces: numberOf(r.JSONBody.MaxFaces)})
	if err != nil {
		return nil, err
	}
	answer := api.Detect200JSONResponse{Faces: make([]api.Face, len(found.Faces)), FacesFound: found.Found}
	for i, f := range found.Faces {
		answer.Faces[i] = faceAnswer(f)
	}
	return answer, nil
}

// Embed gives the embeddings of a photo's faces.
func (s *server) Embed(ctx context.Context, r api.EmbedRequestObject) (api.EmbedResponseObject, error) {
	b := r.JSONBody
	found, err := s.Identity.Embed(ctx, callerOf(ctx), identity.EmbedRequest{Image: b.Image, Face: identity.FaceRule(textOf(b.Face)), FaceAt: b.FaceAt})
	if err != nil {
		return nil, err
	}
	answer := api.Embed200JSONResponse{ModelID: found.ModelID, Faces: make([]api.EmbeddedFace, len(found.Faces)), FacesFound: found.Found}
	for i, f := range found.Faces {
		answer.Faces[i] = api.EmbeddedFace{Face: faceAnswer(f.Face), Embedding: []float32(f.Embedding)}
		if valueOr(b.Encoding, api.EmbeddingEncodingJSON) == api.EmbeddingEncodingFloat32 {
			answer.Faces[i].Embedding = littleEndian(f.Embedding)
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
