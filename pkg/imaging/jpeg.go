package imaging

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"image"
	"image/jpeg"
	"io"
	"iter"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxScans bounds the work that a JPEG can ask for: a scan over the whole
// image takes a few bytes. Encoders write ten of them, or a dozen.
const maxScans = 50

// The markers of a JPEG that matter here.
const (
	startOfFrame0, startOfFrame2 = 0xc0, 0xc2 // baseline, progressive; between them the extended sequential one
	restart0, restart7           = 0xd0, 0xd7
	startOfImage, endOfImage     = 0xd8, 0xd9
	startOfScan                  = 0xda
	app1                         = 0xe1
)

func jpegHeader(data []byte) (image.Point, error) {
	c, err := jpeg.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return image.Point{}, jpegError(err)
	}
	scans, whole := countScans(data)
	switch {
	case scans > maxScans:
		return image.Point{}, refuseScans()
	case !whole:
		return image.Point{}, corruptError(io.ErrUnexpectedEOF)
	}
	return image.Pt(c.Width, c.Height), nil
}

func refuseScans() error {
	return refuse(face.TooLarge, "the JPEG has more than %d scans", maxScans)
}

func jpegError(err error) error {
	if e := jpeg.UnsupportedError(""); errors.As(err, &e) {
		return &face.Error{
			Kind: face.UnsupportedImage, Op: op, Err: err,
			Detail: "a JPEG of a rare kind that is not read (lossless, arithmetic coding, 12 bits or uncommon components)",
		}
	}
	return corruptError(err)
}

// segments yields the marker and the content of each segment up to and
// including the end of the image, which may be missing. It reads as decoders
// do: any number of 0xff may stand before a marker, markers without content may
// stand anywhere, and it skips the bytes of scans and all others that are no
// marker.
func segments(data []byte) iter.Seq2[byte, []byte] {
	return func(yield func(marker byte, content []byte) bool) {
		for {
			i := bytes.IndexByte(data, 0xff)
			if i < 0 || i+1 >= len(data) {
				return
			}
			marker := data[i+1]
			data = data[i+1:]
			switch {
			case marker == 0xff: // the marker may be the next byte
				continue
			case marker == endOfImage:
				yield(marker, nil)
				return
			case marker < startOfFrame0, marker >= restart0 && marker <= startOfImage:
				data = data[1:]
				continue
			}
			if len(data) < 3 {
				return
			}
			length := max(2, int(binary.BigEndian.Uint16(data[1:]))) // of the content and itself
			content := data[3:min(1+length, len(data))]
			data = data[3+len(content):]
			if !yield(marker, content) {
				return
			}
		}
	}
}

// countScans counts the scans of the image and reports whether all scans are
// there: the end of the image is marked, or each coefficient of each component
// has its last bit. Only decoding can show whether the last scan itself is
// complete.
func countScans(data []byte) (scans int, whole bool) {
	var (
		missing     [256]uint64 // by component; a bit for each coefficient
		progressive bool
	)
	for marker, content := range segments(data) {
		switch {
		case marker == endOfImage:
			return scans, true
		case marker >= startOfFrame0 && marker <= startOfFrame2:
			progressive = marker == startOfFrame2
			for i := 6; i < len(content); i += 3 {
				missing[content[i]] = ^uint64(0)
			}
		case marker == startOfScan:
			scans++
			if len(content) == 0 || len(content) != 4+2*int(content[0]) {
				return scans, false
			}
			parameters := content[len(content)-3:]
			first, last, bit := parameters[0], parameters[1], parameters[2]&0x0f
			if !progressive {
				first, last, bit = 0, 63, 0
			}
			for i := 1; i < len(content)-3; i += 2 {
				if bit == 0 {
					missing[content[i]] &^= ^uint64(0) << first & (^uint64(0) >> (63 - min(last, 63)))
				}
			}
		}
	}
	return scans, missing == [256]uint64{}
}

// decodeStrict decodes a JPEG with the standard library at full size and
// reduces it afterwards. It refuses an image that is truncated or corrupt; only
// the end-of-image marker may be missing.
func decodeStrict(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	img, err := jpeg.Decode(io.MultiReader(newReader(ctx, data), strings.NewReader("\xff\xd9")))
	if err != nil {
		return nil, 0, jpegError(err)
	}
	if img.Bounds().Size() != size {
		return nil, 0, corruptError(errSize)
	}
	rgba, scale := flatten(ctx, img, longSide)
	return rgba, scale, nil
}
