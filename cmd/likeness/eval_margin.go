package main

import (
	"bytes"
	"context"
	"image/png"

	"github.com/likeness-id/likeness/internal/conditions"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// marginSet is a set of photos with a margin around each: for photos that were
// cut close to the face. The detector and the quality gate expect something
// around a face, and without it turn some faces that are upright.
type marginSet struct {
	photos.Set
	share float64 // of the longer side
}

// ReadFile returns the photo with its margin, in a lossless format. What is no
// photo is returned as it is: the pipeline says what is wrong with it.
func (s marginSet) ReadFile(name string) ([]byte, error) {
	data, err := s.Set.ReadFile(name)
	if err != nil {
		return nil, err
	}
	photo, err := imaging.Decode(context.Background(), data, imaging.DefaultLimits(), 0)
	if err != nil {
		return data, nil //nolint:nilerr // see above
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestSpeed}
	err = encoder.Encode(&out, conditions.Margin(conditions.Photo{Image: photo.RGBA}, s.share).Image)
	return out.Bytes(), err
}
