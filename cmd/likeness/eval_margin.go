package main

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"math"

	"golang.org/x/image/draw"

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
	err = encoder.Encode(&out, withMargin(photo.RGBA, s.share))
	return out.Bytes(), err
}

// withMargin puts a margin in the mean colour around a photo.
func withMargin(photo *image.RGBA, share float64) *image.RGBA {
	width, height := photo.Rect.Dx(), photo.Rect.Dy()
	margin := int(math.Round(share * float64(max(width, height))))
	out := image.NewRGBA(image.Rect(0, 0, width+2*margin, height+2*margin))
	draw.Draw(out, out.Rect, image.NewUniform(meanColour(photo)), image.Point{}, draw.Src)
	draw.Draw(out, image.Rect(margin, margin, margin+width, margin+height), photo, photo.Rect.Min, draw.Src)
	return out
}

func meanColour(photo *image.RGBA) color.RGBA {
	var sum [3]int
	pixels := photo.Rect.Dx() * photo.Rect.Dy()
	for y := photo.Rect.Min.Y; y < photo.Rect.Max.Y; y++ {
		for x := photo.Rect.Min.X; x < photo.Rect.Max.X; x++ {
			at := photo.PixOffset(x, y)
			for k := range sum {
				sum[k] += int(photo.Pix[at+k])
			}
		}
	}
	mean := func(k int) uint8 { return uint8(sum[k] / max(pixels, 1)) } //nolint:gosec // a mean of bytes
	return color.RGBA{mean(0), mean(1), mean(2), 255}
}
