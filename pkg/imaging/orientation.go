package imaging

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"encoding/hex"
	"image"
	"io"
	"iter"

	"golang.org/x/image/riff"
)

// orientation is the EXIF tag 0x0112: how the stored image must be turned to
// stand upright. 1, or anything that is not 2 to 8, is upright already.
type orientation uint16

// swapsSides reports whether the upright image is as wide as the stored one
// is high.
func (o orientation) swapsSides() bool { return o >= 5 && o <= 8 }

// apply returns the image upright, or the image itself if it is upright
// already. If the context ends, the result is incomplete.
func (o orientation) apply(ctx context.Context, src *image.RGBA) *image.RGBA {
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
		if ctx.Err() != nil {
			break
		}
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

// readOrientation returns the first valid orientation in the blocks. Broken
// metadata is ignored: a photo is never refused for it.
func readOrientation(blocks iter.Seq[[]byte]) orientation {
	for block := range blocks {
		for v := range tagValues(block, 0x0112) {
			if v >= 1 && v <= 8 {
				return orientation(v)
			}
		}
	}
	return 1
}

// tagValues yields the first value of each entry of a tag in the main image's
// directory of a TIFF; a block of EXIF is a TIFF. It reads integers of every
// type and count, in the entry or elsewhere, and skips broken entries.
func tagValues(block []byte, tag uint16) iter.Seq[int64] {
	return func(yield func(int64) bool) {
		if len(block) < 8 {
			return
		}
		var order binary.ByteOrder = binary.LittleEndian
		switch string(block[:2]) {
		case "II":
		case "MM":
			order = binary.BigEndian
		default:
			return
		}
		directory := bytesFrom(block, order.Uint32(block[4:]))
		if len(directory) < 2 {
			return
		}
		n := int(order.Uint16(directory))
		for entry := directory[2:]; n > 0 && len(entry) >= 12; n, entry = n-1, entry[12:] {
			kind, count, value := order.Uint16(entry[2:]), uint64(order.Uint32(entry[4:])), entry[8:12]
			size := integerSize(kind)
			if order.Uint16(entry) != tag || size == 0 || count == 0 {
				continue
			}
			if size*count > uint64(len(value)) {
				if value = bytesFrom(block, order.Uint32(value)); size*count > uint64(len(value)) {
					continue
				}
			}
			v := int64(value[0]) // a negative one is no value of ours, whatever it is read as
			switch size {
			case 2:
				v = int64(order.Uint16(value))
			case 4:
				v = int64(order.Uint32(value))
			}
			if !yield(v) {
				return
			}
		}
	}
}

// integerSize is how many bytes a TIFF's integer type has, 0 for other types.
func integerSize(kind uint16) uint64 {
	switch kind {
	case 1, 6: // BYTE, SBYTE
		return 1
	case 3, 8: // SHORT, SSHORT
		return 2
	case 4, 9: // LONG, SLONG
		return 4
	}
	return 0
}

// bytesFrom returns the bytes from an offset on, or none if the offset is
// outside.
func bytesFrom(block []byte, offset uint32) []byte {
	return block[min(uint64(offset), uint64(len(block))):]
}

// exifPrefix stands before EXIF in a JPEG; some writers put it before EXIF in
// other types too.
const exifPrefix = "Exif\x00"

// cutPrefix returns the block after the prefix of six bytes. The last of them
// is padding, which some writers do not set to 0.
func cutPrefix(block []byte) (_ []byte, ok bool) {
	if !bytes.HasPrefix(block, []byte(exifPrefix)) || len(block) <= len(exifPrefix) {
		return block, false
	}
	return block[len(exifPrefix)+1:], true
}

// jpegEXIF yields the blocks of EXIF that stand before the first scan.
func jpegEXIF(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for marker, content := range segments(data) {
			if marker == startOfScan {
				return
			}
			if block, ok := cutPrefix(content); marker == app1 && ok && !yield(block) {
				return
			}
		}
	}
}

// pngEXIF yields the eXIf chunk, then the profiles that other programs keep in
// chunks of text.
func pngEXIF(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for kind, content := range pngChunks(data) {
			if kind == "eXIf" {
				block, _ := cutPrefix(content)
				if !yield(block) {
					return
				}
			}
		}
		profiles := 0
		for kind, content := range pngChunks(data) {
			text, compressed, ok := profileText(kind, content)
			if !ok {
				continue
			}
			if profiles++; profiles > maxProfiles || !yield(rawProfile(text, compressed)) {
				return
			}
		}
	}
}

// pngChunks yields the kind and the content of each chunk up to the last.
func pngChunks(data []byte) iter.Seq2[string, []byte] {
	const signature, size, checksum = 8, 8, 4
	return func(yield func(string, []byte) bool) {
		for data = data[signature:]; len(data) >= size; {
			kind, length := string(data[4:size]), uint64(binary.BigEndian.Uint32(data))
			data = data[size:]
			if kind == "IEND" || length > uint64(len(data)) || !yield(kind, data[:length]) {
				return
			}
			data = data[min(length+checksum, uint64(len(data))):]
		}
	}
}

// These limits bound the work of reading profiles. The directory that matters
// stands at a profile's beginning.
const (
	maxProfiles     = 4
	maxProfileBytes = 256 << 10 // as text
)

// profileText is the text of a chunk in which ImageMagick, exiftool and others
// keep EXIF.
func profileText(kind string, content []byte) (text []byte, compressed, ok bool) {
	keyword, text, _ := bytes.Cut(content, []byte{0})
	if !bytes.EqualFold(keyword, []byte("Raw profile type exif")) && !bytes.EqualFold(keyword, []byte("Raw profile type APP1")) {
		return nil, false, false
	}
	switch {
	case kind == "tEXt":
		return text, false, true
	case kind == "zTXt" && len(text) > 1: // the method of compression comes first
		return text[1:], true, true
	case kind == "iTXt" && len(text) > 2: // first a flag, the method, a language, and the keyword in it
		compressed = text[0] != 0
		_, text, _ = bytes.Cut(text[2:], []byte{0})
		_, text, ok = bytes.Cut(text, []byte{0})
		return text, compressed, ok
	}
	return nil, false, false
}

// rawProfile returns the EXIF in such a text, or the part that can be read. The
// text has a line with a name, one with a length, and lines of hexadecimal
// digits.
func rawProfile(text []byte, compressed bool) []byte {
	if compressed {
		z, err := zlib.NewReader(bytes.NewReader(text))
		if err != nil {
			return nil
		}
		text, _ = io.ReadAll(io.LimitReader(z, maxProfileBytes))
	}
	text = bytes.TrimLeft(text[:min(len(text), maxProfileBytes)], "\n")
	_, text, _ = bytes.Cut(text, []byte{'\n'})
	_, text, _ = bytes.Cut(text, []byte{'\n'})
	block, _ := hex.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
	block, _ = cutPrefix(block)
	return block
}

// webpEXIF yields the blocks of EXIF of a WebP.
func webpEXIF(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		_, r, err := riff.NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		for {
			id, _, chunk, err := r.Next()
			if err != nil {
				return
			}
			if id != (riff.FourCC{'E', 'X', 'I', 'F'}) {
				continue
			}
			block, err := io.ReadAll(chunk)
			if err != nil {
				return
			}
			if block, _ = cutPrefix(block); !yield(block) {
				return
			}
		}
	}
}
