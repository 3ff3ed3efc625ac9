package imaging

import (
	"bytes"
	"image"
	"io"

	"github.com/bep/imagemeta"
	"golang.org/x/image/riff"
)

// orientation is the EXIF tag 0x0112: how the stored image must be turned to
// stand upright. 1, or anything that is not 2 to 8, is upright already.
type orientation uint16

// swapsSides reports whether the upright image is as wide as the stored one
// is high.
func (o orientation) swapsSides() bool { return o >= 5 && o <= 8 }

// apply returns the image upright; itself when it is.
func (o orientation) apply(src *image.RGBA) *image.RGBA {
	w, h := src.Rect.Dx(), src.Rect.Dy()
	// Where the upright image's first pixel is stored, and how far apart in
	// the stored image its neighbours to the right and below are.
	right, below := px, src.Stride
	firstX, firstY := 0, 0
	switch o {
	case 2:
		firstX, right = w-1, -px
	case 3:
		firstX, firstY, right, below = w-1, h-1, -px, -src.Stride
	case 4:
		firstY, below = h-1, -src.Stride
	case 5:
		right, below = src.Stride, px
	case 6:
		firstY, right, below = h-1, -src.Stride, px
	case 7:
		firstX, firstY, right, below = w-1, h-1, -src.Stride, -px
	case 8:
		firstX, right, below = w-1, src.Stride, -px
	default:
		return src
	}
	if o.swapsSides() {
		w, h = h, w
	}
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	row := firstY*src.Stride + firstX*px
	for y := range h {
		at := row
		out := dst.Pix[y*dst.Stride:][:w*px]
		for ; len(out) >= px; out = out[px:] {
			copy(out[:px], src.Pix[at:][:px])
			at += right
		}
		row += below
	}
	return dst
}

// readOrientation reads the orientation of the main image. Metadata that is
// broken says nothing: a photo is never refused for it.
func readOrientation(data []byte, f imagemeta.ImageFormat) (o orientation) {
	defer func() {
		if recover() != nil {
			o = 1
		}
	}()
	if f == imagemeta.WebP {
		// The library loses its way in a WebP whose picture has an odd number
		// of bytes, so it is shown the EXIF block alone, which is a TIFF.
		data, f = webpEXIF(data), imagemeta.TIFF
	}
	_, err := imagemeta.Decode(imagemeta.Options{
		R:           bytes.NewReader(data),
		ImageFormat: f,
		Sources:     imagemeta.EXIF,
		ShouldHandleTag: func(t imagemeta.TagInfo) bool {
			return t.Tag == "Orientation" && t.Namespace == "IFD0" // that of IFD1 is the thumbnail's
		},
		HandleTag: func(t imagemeta.TagInfo) error {
			if v, ok := t.Value.(uint16); ok {
				o = orientation(v)
			}
			return imagemeta.ErrStopWalking
		},
	})
	if err != nil {
		return 1
	}
	return o
}

// webpEXIF is the EXIF block of a WebP, nil when there is none. Some writers
// begin it as in a JPEG.
func webpEXIF(data []byte) []byte {
	_, r, err := riff.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	for {
		id, _, chunk, err := r.Next()
		if err != nil {
			return nil
		}
		if id == (riff.FourCC{'E', 'X', 'I', 'F'}) {
			block, err := io.ReadAll(chunk)
			if err != nil {
				return nil
			}
			return bytes.TrimPrefix(block, []byte("Exif\x00\x00"))
		}
	}
}
