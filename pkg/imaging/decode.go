package imaging

import (
	"context"
	"errors"
	"fmt"
	"image"

	"github.com/likeness-id/likeness/pkg/face"
)

// Limits bound what an image may cost. They are checked in this order, before
// any memory is taken for pixels. A limit of zero refuses everything, so start
// from [DefaultLimits].
type Limits struct {
	MaxBytes  int64   // of the encoded image
	MaxPixels int64   // width times height of the full-size photo
	MaxAspect float64 // longer side over shorter side
	// MaxPixelsPerByte catches decompression bombs. It does not apply to images
	// of less than a megapixel, which are too small to be one.
	MaxPixelsPerByte float64
}

// DefaultLimits are 10 MiB, 50 megapixels, sides of 10 to 1, and 200 pixels
// per byte. A photo has fewer than 50 of those, and no baseline JPEG with
// subsampled colours, however dark, can have more than 171.
func DefaultLimits() Limits {
	return Limits{MaxBytes: 10 << 20, MaxPixels: 50e6, MaxAspect: 10, MaxPixelsPerByte: 200}
}

// smallPixels is the size below which no image is a decompression bomb.
const smallPixels = 1 << 20

func (l Limits) check(width, height, size int) error {
	long, short := float64(max(width, height)), float64(min(width, height))
	pixels := int64(width) * int64(height)
	switch {
	case short < 1:
		return refuse(face.InvalidImage, "the image has no pixels")
	case pixels > l.MaxPixels:
		return refuse(face.TooLarge, "the image has %d x %d pixels; at most %d in all are read", width, height, l.MaxPixels)
	case long/short > l.MaxAspect:
		return refuse(face.TooLarge, "the image's sides are %d and %d pixels; at most %g to 1 is read", width, height, l.MaxAspect)
	case pixels > smallPixels && float64(pixels)/float64(size) > l.MaxPixelsPerByte:
		return refuse(face.TooLarge, "the image has %d x %d pixels in %d bytes; at most %g pixels per byte are read", width, height, size, l.MaxPixelsPerByte)
	}
	return nil
}

// Image is a decoded photo, upright and opaque.
type Image struct {
	// RGBA holds the pixels; its bounds begin at (0,0). Alpha is 255
	// everywhere: transparent parts are drawn on white, because dark hair would
	// not stand out from black.
	RGBA *image.RGBA
	// Width and Height are the upright photo's at full size, in pixels.
	Width, Height int
	// Scale is how many pixels of RGBA one pixel of the full-size photo
	// became along each axis, in (0,1]. The sides of RGBA are those of the
	// photo times Scale, rounded up.
	Scale float64
}

// Decode decodes a photo of one of the types of [Formats], which it finds from
// the content, and turns it upright according to its EXIF orientation.
// longSide is how many pixels the caller needs along the longer side: a photo
// that has at least twice as many is decoded at a reduced size, never below
// longSide. 0 or less asks for full size. Of an animated PNG the still image is
// decoded, of a GIF the first picture, of a TIFF the first page.
//
// It ends when the context does, with two exceptions that take up to two
// seconds of a core at 50 megapixels: golang.org/x/image while it decodes a
// WebP that it has read, and the standard library while it decodes a
// progressive JPEG.
//
// Errors are of kind Invalid (no bytes), TooLarge (a limit), UnsupportedImage
// (another type, or a rare variant of these) or InvalidImage (truncated or
// corrupt: half a picture is never returned), Deadline or Canceled (the end of
// the context).
func Decode(ctx context.Context, data []byte, lim Limits, longSide int) (img *Image, err error) {
	// Decoders parse what strangers send. A panic in a decoder is an error of
	// that image and must not end the process.
	defer func() {
		if r := recover(); r != nil {
			img, err = nil, corruptError(fmt.Errorf("panic: %v", r))
		}
	}()
	if err := ctx.Err(); err != nil {
		return nil, face.Wrap(face.Canceled, op, err)
	}
	switch {
	case len(data) == 0:
		return nil, refuse(face.Invalid, "the image is empty")
	case int64(len(data)) > lim.MaxBytes:
		return nil, refuse(face.TooLarge, "the image has %d bytes; at most %d are read", len(data), lim.MaxBytes)
	}
	f, err := sniff(data)
	if err != nil {
		return nil, err
	}
	size, err := f.header(data)
	if err != nil {
		return nil, err
	}
	if f.maxPixels > 0 {
		lim.MaxPixels = min(lim.MaxPixels, f.maxPixels)
	}
	if err := lim.check(size.X, size.Y, len(data)); err != nil {
		return nil, err
	}
	rgba, scale, err := f.decode(ctx, data, size, longSide)
	if err == nil {
		o := readOrientation(f.exif(data))
		if o.swapsSides() {
			size.X, size.Y = size.Y, size.X
		}
		img = &Image{RGBA: o.apply(ctx, rgba), Width: size.X, Height: size.Y, Scale: scale}
	}
	// All decoders stop at the end of the context, but each with an error of
	// its own.
	if ended := ctx.Err(); ended != nil {
		return nil, face.Wrap(face.Canceled, op, ended)
	}
	return img, err
}

const op = "imaging.Decode"

func refuse(kind face.Kind, detail string, args ...any) error {
	return face.Errorf(kind, op, detail, args...)
}

func corruptError(err error) error {
	return &face.Error{
		Kind: face.InvalidImage, Op: op, Err: err,
		Detail: "the image is truncated or corrupt",
	}
}

// errSize says that the decoded image has another size than its header.
var errSize = errors.New("the decoded size is not the header's")
