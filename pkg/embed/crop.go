package embed

import (
	"bytes"
	"context"
	"encoding/binary"
	"image"
	"image/jpeg"
	"math"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// A crop is stored so that other encoders can see the face when the photo is
// gone. It is a header with a version and the positions of the five landmarks,
// followed by a JPEG of the face, upright, with enough around it for any
// encoder's frame. ADR 0011 says how its size was chosen.
const (
	cropSide    = 224
	cropScale   = 1.5 // pixels of a crop for one of the 112-pixel template
	cropQuality = 95
	maxCropJPEG = 60 << 10

	cropVersion = 1
	cropHeader  = 1 + 5*2*4 // the version and the landmarks, float32, little-endian
)

// cropFrame is the usual template of 112 x 112 pixels, enlarged, in the middle.
func cropFrame() frame {
	f := frame{width: cropSide, height: cropSide, points: [5]face.Point{
		{X: 38.2946, Y: 51.6963}, {X: 73.5318, Y: 51.5014}, {X: 56.0252, Y: 71.7366}, {X: 41.5493, Y: 92.3655}, {X: 70.7299, Y: 92.2041},
	}}
	for i, p := range f.points {
		f.points[i] = face.Point{X: (p.X-55.5)*cropScale + cropSide/2 - 0.5, Y: (p.Y-55.5)*cropScale + cropSide/2 - 0.5}
	}
	return f
}

// crop makes the crop of a face.
func (n faceArea) crop() ([]byte, error) {
	const op = "embed.crop"
	f := cropFrame()
	toCrop, err := imaging.FitSimilarity(n.points, f.points)
	if err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	toSrc, err := n.warpFrom(f.points)
	if err != nil {
		return nil, err
	}
	img := image.NewRGBA(image.Rect(0, 0, f.width, f.height))
	imaging.WarpRGBA(img, n.img, toSrc)
	header := []byte{cropVersion}
	for _, p := range n.points {
		x, y := toCrop.Apply(float64(p.X), float64(p.Y))
		header = binary.LittleEndian.AppendUint32(header, math.Float32bits(float32(x)))
		header = binary.LittleEndian.AppendUint32(header, math.Float32bits(float32(y)))
	}
	for quality := cropQuality; ; quality -= 10 {
		b := bytes.NewBuffer(bytes.Clone(header))
		if err := jpeg.Encode(b, img, &jpeg.Options{Quality: quality}); err != nil {
			return nil, face.Wrap(face.Internal, op, err)
		}
		if b.Len() <= maxCropJPEG { // photos are far smaller; at quality 65 even noise is
			return b.Bytes(), nil
		}
	}
}

// AlignCrop reads a [Sample.Crop]. It returns the picture, and the map from the
// pixels of an encoder's input to those of the picture; alignment is the
// encoder's [Manifest.Alignment]. Data that is no crop is InvalidImage.
func AlignCrop(crop []byte, alignment [][2]float32) (*image.RGBA, imaging.Affine, error) {
	n, err := parseCrop(context.Background(), crop) // a crop is small, so nobody waits for it
	if err != nil {
		return nil, imaging.Affine{}, err
	}
	toSrc, err := n.warpFrom(templateOf(alignment))
	return n.img, toSrc, err
}

// parseCrop reads a crop.
func parseCrop(ctx context.Context, crop []byte) (n faceArea, err error) {
	const op = "embed.crop"
	if len(crop) <= cropHeader || crop[0] != cropVersion {
		return n, face.Errorf(face.InvalidImage, op, "not a crop of this version")
	}
	limits := imaging.DefaultLimits()
	limits.MaxPixels = cropSide * cropSide
	img, err := imaging.Decode(ctx, crop[cropHeader:], limits, 0)
	if err != nil {
		return n, face.Wrap(face.InvalidImage, op, err)
	}
	for i := range n.points {
		number := func(at int) float32 {
			return math.Float32frombits(binary.LittleEndian.Uint32(crop[1+8*i+at:]))
		}
		n.points[i] = face.Point{X: number(0), Y: number(4)}
	}
	n.img, n.visible = img.RGBA, 1
	return n, nil
}
