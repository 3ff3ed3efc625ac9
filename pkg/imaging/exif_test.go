package imaging_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"image"
	"maps"
	"runtime"
	"slices"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// isTurned is what was found in a photo that is stored as 64 x 48 pixels, of a
// camera that was held so that orientation 6 results.
func isTurned(img *imaging.Image) bool { return img.Width == 48 && img.Height == 64 }

// exifThatTurns are blocks of EXIF that say 6, each in its own way.
func exifThatTurns() map[string][]byte {
	const orientation = 0x0112
	blocks := map[string][]byte{}
	for _, order := range []binary.AppendByteOrder{binary.LittleEndian, binary.BigEndian} {
		add := func(name string, block []byte) { blocks[fmt.Sprint(order, ", ", name)] = block }
		six := tiffEntry(order, orientation, 3, 1, 6)
		outside := func(tag, kind uint16, count uint32, values []byte, more ...[]byte) []byte {
			at := uint32(8 + 2 + 12*(1+len(more)) + 4)
			return append(tiffOf(order, append([][]byte{tiffEntry(order, tag, kind, count, at)}, more...)...), values...)
		}
		for name, kind := range map[string]uint16{"byte": 1, "short": 3, "long": 4, "signed byte": 6, "signed short": 8, "signed long": 9} {
			add(name, tiffOf(order, tiffEntry(order, orientation, kind, 1, 6)))
		}
		add("two shorts", tiffOf(order, tiffEntry(order, orientation, 3, 2, 8<<16|6)))
		add("four bytes", tiffOf(order, tiffEntry(order, orientation, 1, 4, 0x01020306)))
		add("three shorts, elsewhere", outside(orientation, 3, 3, order.AppendUint16(order.AppendUint16(order.AppendUint16(nil, 6), 1), 1)))
		add("two longs, elsewhere", outside(orientation, 4, 2, order.AppendUint32(order.AppendUint32(nil, 6), 1)))
		add("six bytes, elsewhere", outside(orientation, 1, 6, []byte{6, 1, 1, 1, 1, 1}))
		for name, before := range map[string][]byte{
			"an unknown type":           tiffEntry(order, 0x010f, 99, 1, 5),
			"a text that is elsewhere":  tiffEntry(order, 0x010f, 2, 1000, 0xfffffff0),
			"a count without end":       tiffEntry(order, 0x010f, 5, 1<<32-1, 8),
			"a broken pointer to GPS":   tiffEntry(order, 0x8825, 4, 1, 0x7fffffff),
			"a pointer that is a text":  tiffEntry(order, 0x8769, 2, 4, 0x20202020),
			"an endless pointer":        tiffEntry(order, 0x8769, 4, 1, 8),
			"an orientation of 0":       tiffEntry(order, orientation, 3, 1, 0),
			"an orientation of 9":       tiffEntry(order, orientation, 3, 1, 9),
			"an orientation of -1":      tiffEntry(order, orientation, 8, 1, 0xffff),
			"an orientation as text":    tiffEntry(order, orientation, 2, 2, 0x36363636),
			"no orientation at all":     tiffEntry(order, orientation, 3, 0, 0),
			"one that is elsewhere":     tiffEntry(order, orientation, 4, 2, 1<<20),
			"one of more than there is": tiffEntry(order, orientation, 3, 1<<31, 8),
		} {
			add("behind "+name, tiffOf(order, before, six))
		}
		add("fewer entries than it says", slices.Concat(order.AppendUint16(tiffOf(order)[:8], 500), six))
		far := append(order.AppendUint32(tiffOf(order)[:4], 500), make([]byte, 492)...)
		add("its directory far away", append(far, tiffOf(order, six)[8:]...))
		add("cut behind it", tiffOf(order, six)[:22])
	}
	return blocks
}

// rawProfile is EXIF as ImageMagick writes it into a PNG's text.
func rawProfile(block []byte) []byte {
	b := fmt.Appendf(nil, "\nexif\n%8d\n", len(block))
	for line := range slices.Chunk(block, 36) {
		b = append(hex.AppendEncode(b, line), '\n')
	}
	return b
}

func deflated(tb testing.TB, data []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// TestTurned checks that no way of saying that a photo is to be turned is
// missed.
func TestTurned(t *testing.T) {
	t.Parallel()
	jpg, png, webp := asJPEG(t, scene(64, 48)), asPNG(t, scene(64, 48)), testdata(t, "lossless.webp")
	tests := map[string][]byte{}
	blocks := exifThatTurns()
	for name, block := range blocks {
		tests["jpeg, "+name] = withSegments(jpg, exifSegment(block))
		tests["png, "+name] = withChunks(png, chunk("eXIf", block))
		tests["webp, "+name] = withEXIF(webp, block)
		tests["png, raw profile, "+name] = withChunks(png, chunk("tEXt", append([]byte("Raw profile type exif\x00"), rawProfile(block)...)))
	}
	upright, six := orientationTag(binary.LittleEndian, 1), orientationTag(binary.BigEndian, 6)
	broken := orientationTag(binary.LittleEndian, 77)
	prefixed := append([]byte("Exif\x00\x00"), six...)
	xmp := []byte("http://ns.adobe.com/xap/1.0/\x00<x:xmpmeta/>")
	fill := bytes.Repeat([]byte{0xff}, 70000)
	maps.Copy(tests, map[string][]byte{
		"jpeg, one fill byte":           withSegments(jpg, fill[:1], exifSegment(six)),
		"jpeg, many fill bytes":         withSegments(jpg, fill, exifSegment(six)),
		"jpeg, fill bytes between":      withSegments(jpg, segment(0xfe, []byte("a comment")), fill[:3], exifSegment(six)),
		"jpeg, behind a restart marker": withSegments(jpg, []byte("\xff\xd0"), exifSegment(six)),
		"jpeg, behind stray bytes":      withSegments(jpg, segment(0xfe, nil), []byte("\x00\x01\xff\x00"), exifSegment(six)),
		"jpeg, behind others":           withSegments(jpg, segment(0xe1, xmp), segment(0xe2, make([]byte, 65000)), exifSegment(six)),
		"jpeg, behind a broken one":     withSegments(jpg, exifSegment(broken), exifSegment(six)),
		"jpeg, odd padding":             withSegments(jpg, segment(0xe1, append([]byte("Exif\x00\xff"), six...))),
		"jpeg, before an upright one":   withSegments(jpg, exifSegment(six), exifSegment(upright)),
		"png, with a JPEG's prefix":     withChunks(png, chunk("eXIf", prefixed)),
		"png, behind a broken one":      withChunks(png, chunk("eXIf", broken), chunk("eXIf", six)),
		"png, zTXt":                     withChunks(png, chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated(t, rawProfile(prefixed))...))),
		"png, zTXt of APP1":             withChunks(png, chunk("zTXt", append([]byte("Raw profile type APP1\x00\x00"), deflated(t, rawProfile(prefixed))...))),
		"png, zTXt of APP1 behind XMP": withChunks(png,
			chunk("zTXt", append([]byte("Raw profile type APP1\x00\x00"), deflated(t, rawProfile(xmp))...)),
			chunk("zTXt", append([]byte("Raw profile type APP1\x00\x00"), deflated(t, rawProfile(prefixed))...))),
		"png, zTXt that is cut": withChunks(png,
			chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated(t, rawProfile(append(prefixed, make([]byte, 5000)...)))[:80]...))),
		"png, zTXt of a megabyte": withChunks(png,
			chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated(t, rawProfile(append(prefixed, make([]byte, 1<<20)...)))...))),
		"png, tEXt in one line": withChunks(png, chunk("tEXt", fmt.Appendf([]byte("Raw profile type exif\x00"), "\nexif\n%8d\n%X", len(prefixed), prefixed))),
		"png, iTXt":             withChunks(png, chunk("iTXt", append([]byte("Raw profile type exif\x00\x00\x00en\x00EXIF\x00"), rawProfile(prefixed)...))),
		"png, iTXt deflated":    withChunks(png, chunk("iTXt", append([]byte("Raw profile type exif\x00\x01\x00\x00\x00"), deflated(t, rawProfile(six))...))),
		"png, behind the picture": bytes.Replace(png, chunk("IEND", nil), slices.Concat(
			chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), deflated(t, rawProfile(prefixed))...)), chunk("IEND", nil)), 1),
		"png, eXIf before a profile": withChunks(png, chunk("tEXt", append([]byte("Raw profile type exif\x00"), rawProfile(upright)...)), chunk("eXIf", six)),
		"webp, with a JPEG's prefix": withEXIF(webp, prefixed),
		"webp, behind a broken one":  withEXIF(withEXIF(webp, broken), six),
		"tiff":                       tiffWith(t, tiffEntry(binary.LittleEndian, 0x0112, 3, 1, 6)),
	})
	for name, data := range tests {
		img, err := imaging.Decode(t.Context(), data, imaging.DefaultLimits(), 0)
		if err != nil || !isTurned(img) {
			t.Errorf("%s: not turned, %v", name, err)
		}
	}
	for name, data := range map[string][]byte{
		"upright first":               withSegments(jpg, exifSegment(upright), exifSegment(six)),
		"behind the first scan":       bytes.Replace(jpg, []byte("\xff\xd9"), append(exifSegment(six), 0xff, 0xd9), 1),
		"another application's":       withSegments(jpg, segment(0xe2, prefixed)),
		"png, eXIf over a profile":    withChunks(png, chunk("tEXt", append([]byte("Raw profile type exif\x00"), rawProfile(six)...)), chunk("eXIf", upright)),
		"png, another profile":        withChunks(png, chunk("tEXt", append([]byte("Raw profile type iptc\x00"), rawProfile(six)...))),
		"png, a profile without data": withChunks(png, chunk("zTXt", []byte("Raw profile type exif"))),
		"png, no hexadecimal":         withChunks(png, chunk("tEXt", []byte("Raw profile type exif\x00\nexif\n  5\nhello"))),
		"png, iTXt without data":      withChunks(png, chunk("iTXt", []byte("Raw profile type exif\x00\x01"))),
	} {
		if isTurned(decode(t, data, 0)) {
			t.Errorf("%s: turned", name)
		}
	}
}

// tiffWith is the scene as a TIFF with one more entry in its directory.
func tiffWith(tb testing.TB, extra []byte) []byte {
	tb.Helper()
	le := binary.LittleEndian
	pixels := make([]byte, 0, 64*48*3)
	for i, v := range scene(64, 48).Pix {
		if i%4 != 3 {
			pixels = append(pixels, v)
		}
	}
	entries := [][]byte{
		tiffEntry(le, 256, 3, 1, 64), tiffEntry(le, 257, 3, 1, 48), tiffEntry(le, 258, 3, 3, 0), tiffEntry(le, 259, 3, 1, 1), tiffEntry(le, 262, 3, 1, 2),
		tiffEntry(le, 273, 4, 1, 0), extra, tiffEntry(le, 277, 3, 1, 3), tiffEntry(le, 278, 3, 1, 48), tiffEntry(le, 279, 4, 1, uint32(len(pixels))),
	}
	behind := uint32(8 + 2 + 12*len(entries) + 4)
	le.PutUint32(entries[2][8:], behind)
	le.PutUint32(entries[5][8:], behind+6)
	return slices.Concat(tiffOf(le, entries...), []byte{8, 0, 8, 0, 8, 0}, pixels)
}

// TestMetadataBombs checks that what unpacks to much more than it is costs
// next to nothing.
func TestMetadataBombs(t *testing.T) {
	png := asPNG(t, image.NewGray(image.Rect(0, 0, 64, 48)))
	bomb := deflated(t, make([]byte, 64<<20))
	profile := chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), bomb...))
	for name, data := range map[string][]byte{
		"profiles":      withChunks(png, slices.Repeat([][]byte{profile}, 50)...),
		"text":          withChunks(png, chunk("iTXt", append([]byte("Raw profile type APP1\x00\x01\x00\x00\x00"), bomb...))),
		"colours":       withChunks(png, chunk("iCCP", append([]byte("sRGB\x00\x00"), bomb...))),
		"tiny profiles": withChunks(png, slices.Repeat([][]byte{chunk("zTXt", []byte("Raw profile type exif\x00\x00x\x9c"))}, 1000)...),
		"segments":      withSegments(asJPEG(t, scene(64, 48)), bytes.Repeat(segment(0xe1, []byte("Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff")), 20000)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := imaging.Decode(t.Context(), data, imaging.DefaultLimits(), 0)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; err != nil && face.KindOf(err) != face.InvalidImage || used > 8<<20 {
			t.Errorf("%s: %d bytes taken, %v", name, used, err)
		}
	}
}
