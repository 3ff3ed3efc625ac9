package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/draw"
	"image/gif"
	"image/png"
	"io"
	"iter"
	"slices"
	"strings"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"
	"golang.org/x/image/webp"

	"github.com/likeness-id/likeness/pkg/face"
)

// Formats lists the image types that [Decode] reads, for help and for errors.
const Formats = "JPEG, PNG, WebP, GIF, BMP or TIFF"

// format is one image type.
type format struct {
	// header reads the size and refuses variants that decode must not see.
	header func(data []byte) (image.Point, error)
	// maxPixels lowers [Limits.MaxPixels], unless it is 0.
	maxPixels int64
	// decode returns opaque pixels, not yet upright, and [Image.Scale]. The
	// size is the header's, within the limits. It ends soon after the context
	// does, with a result that must not be used.
	decode func(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error)
	// exif returns the blocks of EXIF, the most reliable first.
	exif func(data []byte) iter.Seq[[]byte]
}

// sniff finds the type from the first bytes.
func sniff(data []byte) (format, error) {
	at := func(offset int, magic string) bool {
		return len(data) >= offset && bytes.HasPrefix(data[offset:], []byte(magic))
	}
	switch {
	case at(0, "\xff\xd8\xff"):
		return format{header: jpegHeader, decode: decodeJPEG, exif: jpegEXIF}, nil
	case at(0, "\x89PNG\r\n\x1a\n"):
		return format{header: sizeHeader(png.DecodeConfig), decode: fullSizeDecoder(png.Decode), exif: pngEXIF}, nil
	case at(0, "RIFF") && at(8, "WEBP"):
		return format{header: webpHeader, decode: fullSizeDecoder(webp.Decode), exif: webpEXIF}, nil
	case at(0, "GIF87a"), at(0, "GIF89a"):
		return format{header: sizeHeader(gif.DecodeConfig), decode: decodeGIF, exif: noEXIF}, nil
	case at(0, "BM") && at(15, "\x00\x00\x00"): // a header of less than 256 bytes
		return format{header: sizeHeader(bmp.DecodeConfig), decode: fullSizeDecoder(bmp.Decode), exif: noEXIF}, nil
	case at(0, "II*\x00"), at(0, "MM\x00*"):
		return format{header: tiffHeader, maxPixels: maxTIFFPixels, decode: fullSizeDecoder(tiff.Decode), exif: tiffEXIF}, nil
	}
	const send = "send " + Formats
	switch name := unreadTypeName(data); name {
	case "":
		return format{}, refuse(face.UnsupportedImage, "not an image of a type that is read; "+send)
	case heic:
		return format{}, refuse(face.UnsupportedImage,
			"%s images are not read; %s. iPhones take JPEG when Settings, Camera, Formats is set to Most Compatible", name, send)
	default:
		return format{}, refuse(face.UnsupportedImage, "%s images are not read; %s", name, send)
	}
}

const heic = "HEIC (HEIF)"

// unreadTypeName names a type that people send and that is not read. It is
// empty if the type is unknown.
func unreadTypeName(data []byte) string {
	for _, known := range [...]struct{ magic, name string }{
		{"\xff\x0a", "JPEG XL"}, {"\x00\x00\x00\x0cJXL ", "JPEG XL"},
		{"\xff\x4f\xff\x51", "JPEG 2000"}, {"\x00\x00\x00\x0cjP  ", "JPEG 2000"},
		{"%PDF-", "PDF"},
	} {
		if bytes.HasPrefix(data, []byte(known.magic)) {
			return known.name
		}
	}
	// HEIC and AVIF begin with a box that lists brands: its size, its type,
	// the major brand, a version, and the brands that it is compatible with.
	if len(data) < 16 || string(data[4:8]) != "ftyp" {
		return ""
	}
	size := min(max(16, binary.BigEndian.Uint32(data)), uint32(len(data)), 256)
	has := func(names string) bool {
		for brand := range slices.Chunk(slices.Concat(data[8:12], data[16:size]), 4) {
			if len(brand) == 4 && strings.Contains(names, string(brand)) {
				return true
			}
		}
		return false
	}
	switch {
	case has("avif avis"):
		return "AVIF"
	case has("heic heix heim heis hevc hevx hevm hevs mif1 msf1"):
		return heic
	}
	return ""
}

// sizeHeader makes a header function from a library's function.
func sizeHeader(read func(io.Reader) (image.Config, error)) func([]byte) (image.Point, error) {
	return func(data []byte) (image.Point, error) {
		c, err := read(bytes.NewReader(data))
		if err != nil {
			return image.Point{}, decoderError(err)
		}
		return image.Pt(c.Width, c.Height), nil
	}
}

// fullSizeDecoder makes a decoder from a library's function that decodes at
// full size.
func fullSizeDecoder(read func(io.Reader) (image.Image, error)) func(context.Context, []byte, image.Point, int) (*image.RGBA, float64, error) {
	return func(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
		img, err := read(newReader(ctx, data))
		switch {
		case err != nil:
			return nil, 0, decoderError(err)
		case img.Bounds().Size() != size:
			return nil, 0, corruptError(errSize)
		}
		rgba, scale := flatten(ctx, img, longSide)
		return rgba, scale, nil
	}
}

// decoderError turns a decoder's error into one for the caller.
func decoderError(err error) error {
	if e, ok := errors.AsType[*face.Error](err); ok { // of our reader
		return e
	}
	if e := tiff.UnsupportedError(""); errors.Is(err, bmp.ErrUnsupported) || errors.As(err, &e) {
		return &face.Error{
			Kind: face.UnsupportedImage, Op: op, Err: err,
			Detail: "an image of a rare kind of its type that is not read; send JPEG",
		}
	}
	return corruptError(err)
}

// reader fails when its context is done, which ends the decoder that reads from
// it. Each read returns only a few bytes, because a few bytes can be much work.
type reader struct {
	ctx  context.Context
	data *bytes.Reader
	left int64 // bytes that ReadAt may still give
}

func newReader(ctx context.Context, data []byte) *reader {
	return &reader{ctx, bytes.NewReader(data), 2*int64(len(data)) + readAtSpare}
}

// readAtSpare is how many bytes ReadAt may return beyond every byte twice.
const readAtSpare = 1 << 20

// Read implements [io.Reader].
func (r *reader) Read(p []byte) (int, error) {
	const atOnce = 256
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.data.Read(p[:min(len(p), atOnce)])
}

// ReadAt implements [io.ReaderAt] for TIFF. It limits how much is read in all,
// because the strips of a malicious small TIFF can all point to the same bytes,
// which would then be read thousands of times.
func (r *reader) ReadAt(p []byte, offset int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := r.data.ReadAt(p, offset)
	if r.left -= int64(n); r.left < 0 {
		return 0, refuse(face.TooLarge, "the TIFF reads its own bytes many times over")
	}
	return n, err
}

// webpHeader refuses animations with a clear message; the decoder would call
// them corrupt.
func webpHeader(data []byte) (image.Point, error) {
	const flags, animation = 20, 1 << 1
	if len(data) > flags && string(data[12:16]) == "VP8X" && data[flags]&animation != 0 {
		return image.Point{}, refuse(face.UnsupportedImage, "an animated WebP is not read; send a still image")
	}
	return sizeHeader(webp.DecodeConfig)(data)
}

// decodeGIF decodes the first picture, which may cover a part of the canvas.
func decodeGIF(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	return fullSizeDecoder(func(r io.Reader) (image.Image, error) {
		img, err := gif.Decode(r)
		if canvas := (image.Rectangle{Max: size}); err == nil && img.Bounds() != canvas {
			all := image.NewNRGBA(canvas)
			draw.Draw(all, img.Bounds(), img, img.Bounds().Min, draw.Src)
			img = all
		}
		return img, err
	})(ctx, data, size, longSide)
}

// maxTIFFPixels is less than for other types, because the decoder may hold 16
// bytes for each pixel. Few TIFFs within the limit of bytes are larger.
const maxTIFFPixels = 16e6

// tiffHeader refuses raw photos, which begin with a thumbnail.
func tiffHeader(data []byte) (image.Point, error) {
	const kindOfPicture, reduced = 0x00fe, 1
	for v := range tagValues(data, kindOfPicture) {
		if v&reduced != 0 {
			return image.Point{}, refuse(face.UnsupportedImage, "a camera's raw photo is not read; send JPEG")
		}
	}
	return sizeHeader(tiff.DecodeConfig)(data)
}

func tiffEXIF(data []byte) iter.Seq[[]byte] { return slices.Values([][]byte{data}) }
func noEXIF([]byte) iter.Seq[[]byte]        { return slices.Values[[][]byte](nil) }
