package imaging

import (
	"bytes"
	"errors"
	"image"
	"image/jpeg"

	"github.com/likeness-id/likeness/pkg/face"
)

// maxScans bounds the work that a JPEG can ask for: a scan over the whole
// image takes a few bytes. Encoders write ten of them, or a dozen.
const maxScans = 50

func jpegHeader(data []byte) (image.Point, error) {
	c, err := jpeg.DecodeConfig(bytes.NewReader(data))
	if err != nil {
		return image.Point{}, jpegError(err)
	}
	if scans(data) > maxScans {
		return image.Point{}, refuse(face.TooLarge, "the JPEG has more than %d scans", maxScans)
	}
	return image.Pt(c.Width, c.Height), nil
}

func jpegError(err error) error {
	if e := jpeg.UnsupportedError(""); errors.As(err, &e) {
		return &face.Error{
			Kind: face.UnsupportedImage, Op: op, Err: err,
			Detail: "a JPEG of a rare kind that is not read (lossless, arithmetic coding, 12 bits or uncommon components)",
		}
	}
	return corrupt(err)
}

// scans counts the scans up to the end of the image, those of thumbnails in
// application segments left out.
func scans(data []byte) int {
	const (
		stuffed, restart0, restart7 = 0x00, 0xd0, 0xd7
		startImage, endImage        = 0xd8, 0xd9
		startScan, fill             = 0xda, 0xff
	)
	n := 0
	for {
		i := bytes.IndexByte(data, 0xff)
		if i < 0 || i+1 >= len(data) {
			return n
		}
		marker := data[i+1]
		data = data[i+1:]
		switch {
		case marker == fill: // the marker may be the next byte
			continue
		case marker == endImage:
			return n
		case marker == startScan:
			n++
		case marker == stuffed, marker == startImage, marker >= restart0 && marker <= restart7:
			data = data[1:]
			continue
		}
		if len(data) < 3 {
			return n
		}
		segment := 1 + int(data[1])<<8 + int(data[2])
		data = data[min(segment, len(data)):]
	}
}

// decodeStrict decodes a JPEG with the standard library at full size and
// reduces it afterwards. It takes nothing that is truncated or corrupt.
func decodeStrict(data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	img, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		return nil, 0, jpegError(err)
	}
	if img.Bounds().Size() != size {
		return nil, 0, corrupt(errSize)
	}
	rgba, scale := flatten(img, longSide)
	return rgba, scale, nil
}
