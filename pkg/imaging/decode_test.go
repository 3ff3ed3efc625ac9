package imaging_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/gif"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/image/bmp"
	"golang.org/x/image/tiff"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// scene is smooth, so that it survives JPEG, and has no symmetry: each corner
// has another colour. The files in testdata are scene(64, 48), encoded by
// libjpeg-turbo's cjpeg, libwebp's cwebp and ImageMagick.
func scene(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			fx, fy := float64(x)/float64(w), float64(y)/float64(h)
			wave := 20 * math.Sin(9*fx+5*fy)
			img.SetRGBA(x, y, color.RGBA{uint8(30 + 190*fx + wave), uint8(30 + 190*fy - wave), uint8(120 + 80*fx*fy + wave), 255})
		}
	}
	return img
}

// photo is a scene with the grain of a sensor: as a JPEG it has the bits per
// pixel that a phone's photo has.
func photo(w, h int) *image.RGBA {
	img := scene(w, h)
	rng := rand.New(rand.NewPCG(7, 7))
	for i := 0; i < len(img.Pix); i += 4 {
		grain := int(rng.Uint32()%13) - 6
		for c := range 3 {
			img.Pix[i+c] = uint8(min(max(int(img.Pix[i+c])+grain, 0), 255))
		}
	}
	return img
}

func asJPEG(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: 92}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func asPNG(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func asBMP(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := bmp.Encode(&b, img); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func asTIFF(tb testing.TB, img image.Image, c tiff.CompressionType) []byte {
	tb.Helper()
	var b bytes.Buffer
	if err := tiff.Encode(&b, img, &tiff.Options{Compression: c, Predictor: c != tiff.Uncompressed}); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// asGIF makes a GIF of frames that lie where their bounds say.
func asGIF(tb testing.TB, w, h int, frames ...*image.Paletted) []byte {
	tb.Helper()
	var b bytes.Buffer
	err := gif.EncodeAll(&b, &gif.GIF{Image: frames, Delay: make([]int, len(frames)), Config: image.Config{Width: w, Height: h}})
	if err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

func testdata(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// convertImage is img in another form of pixels.
func convertImage[T draw.Image](img image.Image, form func(image.Rectangle) T) T {
	out := form(img.Bounds())
	draw.Draw(out, out.Bounds(), img, img.Bounds().Min, draw.Src)
	return out
}

func newPaletted(r image.Rectangle) *image.Paletted { return image.NewPaletted(r, palette.Plan9) }

// seeThrough is img with the alpha of a, and what that looks like on white.
func seeThrough(img *image.RGBA, a uint8) (with *image.NRGBA, on *image.RGBA) {
	with, on = convertImage(img, image.NewNRGBA), image.NewRGBA(img.Rect)
	for i := range with.Pix {
		if i%4 == 3 {
			with.Pix[i], on.Pix[i] = a, 255
			continue
		}
		on.Pix[i] = uint8((int(img.Pix[i])*int(a) + 255*(255-int(a)) + 127) / 255)
	}
	return with, on
}

// chunk is a PNG chunk.
func chunk(kind string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, kind...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// withChunks puts chunks behind a PNG's header.
func withChunks(data []byte, chunks ...[]byte) []byte {
	const header = 8 + 25
	return slices.Concat(data[:header], bytes.Join(chunks, nil), data[header:])
}

// segment is a JPEG segment.
func segment(marker byte, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0xff, marker}, uint16(len(data)+2)), data...)
}

// withSegments puts segments at the head of a JPEG.
func withSegments(data []byte, segments ...[]byte) []byte {
	return slices.Concat(data[:2], bytes.Join(segments, nil), data[2:])
}

// tiffEntry is an entry of a TIFF's directory, its value in the entry: a short
// fills the first half of the field, a byte the first quarter.
func tiffEntry(order binary.AppendByteOrder, tag, kind uint16, count, value uint32) []byte {
	b := order.AppendUint32(order.AppendUint16(order.AppendUint16(nil, tag), kind), count)
	switch kind {
	case 1, 6:
		if count <= 4 {
			return append(b, byte(value), byte(value>>8), byte(value>>16), byte(value>>24))
		}
	case 3, 8:
		if count <= 2 {
			return order.AppendUint16(order.AppendUint16(b, uint16(value)), uint16(value>>16))
		}
	}
	return order.AppendUint32(b, value)
}

// tiffOf is a TIFF of these entries, no directory behind it; as a block of
// EXIF it has offset 8 + 2 + 12 n + 4 behind its end.
func tiffOf(order binary.AppendByteOrder, entries ...[]byte) []byte {
	mark := "II"
	if order.String() == binary.BigEndian.String() {
		mark = "MM"
	}
	b := order.AppendUint32(order.AppendUint16([]byte(mark), 42), 8)
	b = append(order.AppendUint16(b, uint16(len(entries))), bytes.Join(entries, nil)...)
	return order.AppendUint32(b, 0)
}

func orientationTag(order binary.AppendByteOrder, v uint32) []byte {
	return tiffOf(order, tiffEntry(order, 0x0112, 3, 1, v))
}

func exifSegment(block []byte) []byte { return segment(0xe1, append([]byte("Exif\x00\x00"), block...)) }

// withEXIF puts an EXIF chunk at the end of a WebP.
func withEXIF(data, block []byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(append(bytes.Clone(data), "EXIF"...), uint32(len(block)))
	b = append(b, block...)
	le.PutUint32(b[4:], uint32(len(b)-8))
	return b
}

// checkSimilar fails unless got is want but for a mean difference per channel.
func checkSimilar(t *testing.T, got, want *image.RGBA, tolerance float64) {
	t.Helper()
	if got.Rect != want.Rect {
		t.Fatalf("bounds %v, want %v", got.Rect, want.Rect)
	}
	var sum float64
	for i := range want.Pix {
		if i%4 == 3 && got.Pix[i] != 255 {
			t.Fatalf("pixel %d is not opaque", i/4)
		}
		sum += math.Abs(float64(got.Pix[i]) - float64(want.Pix[i]))
	}
	if mean := sum / float64(len(want.Pix)); mean > tolerance {
		t.Fatalf("mean difference %.2f, at most %v expected", mean, tolerance)
	}
}

func decode(tb testing.TB, data []byte, longSide int) *imaging.Image {
	tb.Helper()
	img, err := imaging.Decode(tb.Context(), data, imaging.DefaultLimits(), longSide)
	if err != nil {
		tb.Fatal(err)
	}
	return img
}

func TestDecode(t *testing.T) {
	t.Parallel()
	want := scene(64, 48)
	grey := convertImage(convertImage(want, image.NewGray), image.NewRGBA)
	half, halfOnWhite := seeThrough(want, 128)
	none, white := seeThrough(want, 0)
	fewColours := convertImage(want, newPaletted)
	part := fewColours.SubImage(image.Rect(8, 4, 40, 36)).(*image.Paletted)
	partOnWhite := convertImage(image.White, func(image.Rectangle) *image.RGBA { return image.NewRGBA(want.Rect) })
	draw.Draw(partOnWhite, part.Rect, part, part.Rect.Min, draw.Src)
	type test struct {
		data      []byte
		want      *image.RGBA
		tolerance float64
	}
	tests := map[string]test{
		"jpeg":              {asJPEG(t, want), want, 3},
		"jpeg grey":         {asJPEG(t, convertImage(want, image.NewGray)), grey, 2},
		"png":               {asPNG(t, want), want, 0},
		"png 16 bits":       {asPNG(t, convertImage(want, image.NewRGBA64)), want, 0},
		"png grey":          {asPNG(t, convertImage(want, image.NewGray)), grey, 0},
		"png grey 16 bits":  {asPNG(t, convertImage(want, image.NewGray16)), grey, 1},
		"png palette":       {asPNG(t, fewColours), convertImage(fewColours, image.NewRGBA), 0},
		"png alpha":         {asPNG(t, half), halfOnWhite, 1},
		"png alpha 16 bits": {asPNG(t, convertImage(half, image.NewNRGBA64)), halfOnWhite, 1},
		"png transparent":   {asPNG(t, none), white, 0},
		"png animated, its still image": {withChunks(asPNG(t, want),
			chunk("acTL", []byte{0, 0, 0, 2, 0, 0, 0, 0}),
			chunk("fcTL", append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(make([]byte, 4), 64), 48), make([]byte, 14)...))), want, 0},
		"bmp":                                {asBMP(t, want), want, 0},
		"bmp palette":                        {asBMP(t, fewColours), convertImage(fewColours, image.NewRGBA), 0},
		"bmp 32 bits":                        {asBMP(t, half), want, 0},
		"tiff":                               {asTIFF(t, want, tiff.Uncompressed), want, 0},
		"tiff deflate":                       {asTIFF(t, want, tiff.Deflate), want, 0},
		"tiff grey 16 bits":                  {asTIFF(t, convertImage(want, image.NewGray16), tiff.Deflate), grey, 1},
		"tiff alpha":                         {asTIFF(t, half, tiff.Deflate), halfOnWhite, 1},
		"gif":                                {asGIF(t, 64, 48, fewColours), convertImage(fewColours, image.NewRGBA), 0},
		"gif, a part":                        {asGIF(t, 64, 48, part), partOnWhite, 0},
		"gif, its first":                     {asGIF(t, 64, 48, fewColours, part, part), convertImage(fewColours, image.NewRGBA), 0},
		"gif, its first, cut":                {asGIF(t, 64, 48, fewColours, fewColours)[:3000], convertImage(fewColours, image.NewRGBA), 0},
		"jpeg and what phones put behind it": {append(asJPEG(t, want), "SEFH trailing"...), want, 3},
		"jpeg with extra bytes before a marker": {
			bytes.Replace(asJPEG(t, want), []byte("\xff\xc4"), []byte("\x00\x01\x02\xff\xc4"), 1), want, 3,
		},
		"jpeg with scans of thumbnails": {withSegments(asJPEG(t, want),
			segment(0xe2, bytes.Repeat([]byte("\xff\xda"), 1000)), segment(0xfe, bytes.Repeat([]byte("\xff\xda\x00\x02"), 1000))), want, 3},
	}
	for name, tolerance := range map[string]float64{
		"progressive.jpg": 3, "scans.jpg": 3, "rgb.jpg": 3, "restart-411.jpg": 4, "440.jpg": 3, "cmyk.jpg": 3,
		"interlaced.png": 0, "interlaced-16.png": 0, "lossy.webp": 5, "lossless.webp": 0, "orientation-6.webp": 0,
	} {
		tests[name] = test{testdata(t, name), want, tolerance}
	}
	tests["grey.jpg"] = test{testdata(t, "grey.jpg"), grey, 2}
	tests["alpha.webp"] = test{testdata(t, "alpha.webp"), halfOnWhite, 3}
	tests["alpha-lossless.webp"] = test{testdata(t, "alpha-lossless.webp"), halfOnWhite, 1}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := decode(t, tc.data, 0)
			checkSimilar(t, got.RGBA, tc.want, tc.tolerance)
			if got.Width != 64 || got.Height != 48 || got.Scale != 1 {
				t.Errorf("%d x %d, scale %v", got.Width, got.Height, got.Scale)
			}
		})
	}
}

// asCameraStores is how a camera that was held so that EXIF orientation o results
// would have stored the upright image.
func asCameraStores(upright *image.RGBA, o uint32) *image.RGBA {
	w, h := upright.Rect.Dx(), upright.Rect.Dy()
	sw, sh := w, h
	if o >= 5 {
		sw, sh = h, w
	}
	out := image.NewRGBA(image.Rect(0, 0, sw, sh))
	for y := range h {
		for x := range w {
			// The standard says where row 0 and column 0 of what is stored lie.
			p := [...]image.Point{
				1: {x, y},                 // top, left
				2: {w - 1 - x, y},         // top, right
				3: {w - 1 - x, h - 1 - y}, // bottom, right
				4: {x, h - 1 - y},         // bottom, left
				5: {y, x},                 // left, top
				6: {y, w - 1 - x},         // right, top
				7: {h - 1 - y, w - 1 - x}, // right, bottom
				8: {h - 1 - y, x},         // left, bottom
			}[o]
			out.SetRGBA(p.X, p.Y, upright.RGBAAt(x, y))
		}
	}
	return out
}

func TestOrientation(t *testing.T) {
	t.Parallel()
	upright := scene(64, 48)
	small := scene(32, 24)
	for o := uint32(1); o <= 8; o++ {
		t.Run(fmt.Sprint(o), func(t *testing.T) {
			t.Parallel()
			asStored := asCameraStores(upright, o)
			for name, tc := range map[string]struct {
				data      []byte
				tolerance float64
			}{
				"jpeg little-endian": {withSegments(asJPEG(t, asStored), exifSegment(orientationTag(binary.LittleEndian, o))), 3},
				"jpeg big-endian":    {withSegments(asJPEG(t, asStored), exifSegment(orientationTag(binary.BigEndian, o))), 3},
				"jpeg behind JFIF": {withSegments(asJPEG(t, asStored), segment(0xe0, []byte("JFIF\x00\x01\x02\x00\x00\x01\x00\x01\x00\x00")),
					exifSegment(orientationTag(binary.BigEndian, o))), 3},
				"png": {withChunks(asPNG(t, asStored), chunk("eXIf", orientationTag(binary.BigEndian, o))), 0},
				"png behind the picture": {bytes.Replace(asPNG(t, asStored), chunk("IEND", nil),
					slices.Concat(chunk("eXIf", orientationTag(binary.LittleEndian, o)), chunk("IEND", nil)), 1), 0},
			} {
				got := decode(t, tc.data, 0)
				checkSimilar(t, got.RGBA, upright, tc.tolerance)
				half := decode(t, tc.data, 32)
				if half.Width != 64 || half.Height != 48 || half.Scale != 0.5 {
					t.Errorf("%s: %d x %d, scale %v", name, half.Width, half.Height, half.Scale)
				}
				checkSimilar(t, half.RGBA, small, 5)
			}
		})
	}
}

// TestBrokenEXIF checks that a good photo with bad metadata is a good photo,
// as it is stored.
func TestBrokenEXIF(t *testing.T) {
	t.Parallel()
	want := scene(64, 48)
	for name, block := range brokenEXIF() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkSimilar(t, decode(t, withSegments(asJPEG(t, want), exifSegment(block)), 0).RGBA, want, 3)
			checkSimilar(t, decode(t, withChunks(asPNG(t, want), chunk("eXIf", block)), 0).RGBA, want, 0)
			checkSimilar(t, decode(t, withEXIF(testdata(t, "lossless.webp"), block), 0).RGBA, want, 0)
		})
	}
}

func brokenEXIF() map[string][]byte {
	le := binary.LittleEndian
	good := orientationTag(le, 6)
	loop := tiffOf(le, tiffEntry(le, 0x8769, 4, 1, 8)) // its sub-directory and its next are itself
	le.PutUint32(loop[len(loop)-4:], 8)
	many := le.AppendUint32(le.AppendUint16([]byte("II"), 42), 8)
	many = le.AppendUint16(many, 5000)
	for range 5000 {
		many = append(le.AppendUint32(le.AppendUint32(le.AppendUint16(le.AppendUint16(nil, 0x8769), 4), 1), 8), many...)
	}
	return map[string][]byte{
		"empty":                {},
		"text":                 []byte("not a TIFF block"),
		"cut off":              good[:len(good)-10],
		"no such order":        append([]byte("XX"), good[2:]...),
		"orientation 0":        orientationTag(le, 0),
		"orientation 9":        orientationTag(le, 9),
		"orientation 65535":    orientationTag(le, 65535),
		"orientation is ASCII": tiffOf(le, tiffEntry(le, 0x0112, 2, 4, 0x36363636)),
		"orientations":         tiffOf(le, tiffEntry(le, 0x0112, 3, 1<<31, 8)),
		"far away":             tiffOf(le, tiffEntry(le, 0x0112, 4, 1<<20, 0xfffffff0)),
		"a loop":               loop,
		"thousands of loops":   many[:min(len(many), 65000)],
		"only the thumbnail's": append(withNumbers(tiffOf(le, tiffEntry(le, 0x010f, 2, 1, 0)), 22, 26), orientationTag(le, 6)[8:]...),
	}
}

func TestDecodeReduced(t *testing.T) {
	t.Parallel()
	for _, size := range []image.Point{{64, 48}, {200, 150}, {67, 201}, {160, 16}, {17, 5}} {
		img := scene(size.X, size.Y)
		for kind, data := range map[string][]byte{"jpeg": asJPEG(t, img), "png": asPNG(t, img)} {
			long := max(size.X, size.Y)
			for _, longSide := range []int{-1, 0, 1, 2, 7, long / 8, long / 4, long/3 + 1, long / 2, long/2 + 1, long - 1, long, 5000} {
				got := decode(t, data, longSide)
				side := max(got.RGBA.Rect.Dx(), got.RGBA.Rect.Dy())
				if got.Width != size.X || got.Height != size.Y {
					t.Errorf("%s %v to %d: says %d x %d", kind, size, longSide, got.Width, got.Height)
				}
				if (longSide <= 0 || longSide > (long+1)/2) && side != long {
					t.Errorf("%s %v to %d: %d pixels, not full size", kind, size, longSide, side)
				}
				if longSide > 0 && side < min(longSide, long) {
					t.Errorf("%s %v to %d: only %d pixels", kind, size, longSide, side)
				}
				if longSide > long/8 && longSide <= long/2 && side >= long {
					t.Errorf("%s %v to %d: %d pixels, not reduced", kind, size, longSide, side)
				}
				want := image.Pt(int(math.Ceil(float64(size.X)*got.Scale-1e-9)), int(math.Ceil(float64(size.Y)*got.Scale-1e-9)))
				if got.RGBA.Rect != (image.Rectangle{Max: want}) {
					t.Errorf("%s %v to %d: bounds %v at scale %v", kind, size, longSide, got.RGBA.Rect, got.Scale)
				}
				if side >= 48 {
					checkSimilar(t, got.RGBA, scene(want.X, want.Y), 6)
				}
			}
		}
	}
}

// TestReducedIsTheMean checks a whole factor against means in float64, with
// what is left over at the right and bottom edges.
func TestReducedIsTheMean(t *testing.T) {
	t.Parallel()
	img := image.NewRGBA(image.Rect(0, 0, 23, 17))
	draw.Draw(img, img.Rect, noiseImage(23, 17), image.Pt(2, 1), draw.Src)
	got := decode(t, asPNG(t, img), 7) // by three
	if got.RGBA.Rect != image.Rect(0, 0, 8, 6) {
		t.Fatalf("bounds %v", got.RGBA.Rect)
	}
	for y := range 6 {
		for x := range 8 {
			for c := range 3 {
				var sum, n float64
				for j := 3 * y; j < min(3*y+3, 17); j++ {
					for i := 3 * x; i < min(3*x+3, 23); i++ {
						sum, n = sum+channelAt(img, i, j, c), n+1
					}
				}
				if v := channelAt(got.RGBA, x, y, c); math.Abs(v-sum/n) > 0.5 {
					t.Fatalf("(%d,%d) channel %d: %v, want %v", x, y, c, v, sum/n)
				}
			}
		}
	}
}

// pngHeader is a PNG that says it has these sides, with next to nothing in it.
func pngHeader(w, h uint32) []byte {
	ihdr := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w), h)
	return slices.Concat([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", append(ihdr, 8, 2, 0, 0, 0)), chunk("IDAT", []byte("x")))
}

// jpegHeader is a JPEG that says so.
func jpegHeader(tb testing.TB, w, h uint16) []byte {
	tb.Helper()
	data := asJPEG(tb, scene(16, 16))
	sof := bytes.Index(data, []byte("\xff\xc0"))
	binary.BigEndian.PutUint16(data[sof+5:], h)
	binary.BigEndian.PutUint16(data[sof+7:], w)
	return data
}

// webpHeader is a WebP canvas that says so.
func webpHeader(w, h uint32) []byte {
	le := binary.LittleEndian
	b := append(le.AppendUint32([]byte("WEBPVP8X"), 10), 0, 0, 0, 0)
	b = append(b, byte(w-1), byte((w-1)>>8), byte((w-1)>>16), byte(h-1), byte((h-1)>>8), byte((h-1)>>16))
	return append(le.AppendUint32([]byte("RIFF"), uint32(len(b))), b...)
}

// manyScans is a grey JPEG of 8 x 8 pixels with so many scans, up to 883, that
// each bring one more bit, so that no decoder has anything to warn of. The
// same bytes stand before each of them but the first.
func manyScans(n int, before []byte) []byte {
	scan := func(first, last, bit int) []byte {
		was := bit + 1
		if first == 0 || bit == 13 {
			was = 0
		}
		return append(segment(0xda, []byte{1, 1, 0, byte(first), byte(last), byte(was<<4 | bit)}), 0x7f) // a code of one 0, padded
	}
	table := func(class byte) []byte { return append([]byte{class, 1}, make([]byte, 16)...) } // one code, for 0
	parts := [][]byte{
		[]byte("\xff\xd8"), segment(0xdb, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)),
		segment(0xc2, []byte{8, 0, 8, 0, 8, 1, 1, 0x11, 0}), segment(0xc4, table(0)), segment(0xc4, table(0x10)),
	}
	for i := range n {
		if i == 0 {
			parts = append(parts, scan(0, 0, 0))
			continue
		}
		coefficient := 1 + (i-1)/14
		parts = append(parts, before, scan(coefficient, coefficient, 13-(i-1)%14))
	}
	return bytes.Join(append(parts, []byte("\xff\xd9")), nil)
}

// withNumbers writes 32-bit numbers over a part of a file.
func withNumbers(data []byte, at int, numbers ...uint32) []byte {
	data = bytes.Clone(data)
	for i, n := range numbers {
		binary.LittleEndian.PutUint32(data[at+4*i:], n)
	}
	return data
}

// detailOf is what a caller is told.
func detailOf(err error) string {
	e, ok := errors.AsType[*face.Error](err)
	if !ok {
		return ""
	}
	return e.Detail
}

type refusal struct {
	data []byte
	lim  imaging.Limits
	want face.Kind
}

func refusals(tb testing.TB) map[string]refusal {
	tb.Helper()
	lim := imaging.DefaultLimits()
	tight := func(change func(*imaging.Limits)) imaging.Limits {
		l := lim
		change(&l)
		return l
	}
	jpg, pngs := asJPEG(tb, scene(64, 48)), asPNG(tb, scene(64, 48))
	webp := testdata(tb, "lossless.webp")
	le := binary.LittleEndian
	bomb := asPNG(tb, image.NewGray(image.Rect(0, 0, 1500, 1500)))
	wrongSum := bytes.Clone(pngs)
	wrongSum[len(wrongSum)-20]++
	return map[string]refusal{
		"nothing":                      {nil, lim, face.Invalid},
		"text":                         {[]byte("hello, world"), lim, face.UnsupportedImage},
		"gif without a picture":        {[]byte("GIF89a\x01\x00\x01\x00\x00\x00\x00;"), lim, face.InvalidImage},
		"gif 60,000 x 60,000":          {[]byte("GIF89a\x60\xea\x60\xea\x00\x00\x00;"), lim, face.TooLarge},
		"bmp 60,000 x 60,000":          {withNumbers(asBMP(tb, scene(2, 2)), 18, 60000, 60000), lim, face.TooLarge},
		"bmp of 16 bits":               {withNumbers(asBMP(tb, scene(2, 2)), 26, 16<<16|1), lim, face.UnsupportedImage},
		"tiff 4,500 x 4,500":           {asTIFF(tb, image.NewGray(image.Rect(0, 0, 4500, 4500)), tiff.Uncompressed), tight(func(l *imaging.Limits) { l.MaxBytes = 1 << 30 }), face.TooLarge},
		"tiff of floats":               {tiffOf(le, tiffEntry(le, 339, 3, 1, 3)), lim, face.UnsupportedImage},
		"raw photo, its thumbnail":     {tiffOf(le, tiffEntry(le, 254, 4, 1, 1), tiffEntry(le, 256, 3, 1, 160), tiffEntry(le, 257, 3, 1, 120)), lim, face.UnsupportedImage},
		"riff that is sound":           {[]byte("RIFF\x24\x00\x00\x00WAVEfmt "), lim, face.UnsupportedImage},
		"riff cut off":                 {[]byte("RIFF\x24\x00"), lim, face.UnsupportedImage},
		"arithmetic coding":            {testdata(tb, "arithmetic.jpg"), lim, face.UnsupportedImage},
		"animated webp":                {testdata(tb, "animated.webp"), lim, face.UnsupportedImage},
		"jpeg signature alone":         {jpg[:4], lim, face.InvalidImage},
		"png signature alone":          {pngs[:8], lim, face.InvalidImage},
		"webp signature alone":         {webp[:12], lim, face.InvalidImage},
		"jpeg of zeros":                {append(bytes.Clone(jpg[:3]), make([]byte, 500)...), lim, face.InvalidImage},
		"jpeg without width":           {jpegHeader(tb, 0, 48), lim, face.InvalidImage},
		"jpeg without height":          {jpegHeader(tb, 64, 0), lim, face.InvalidImage},
		"png with a wrong sum":         {wrongSum, lim, face.InvalidImage},
		"png 60,000 x 60,000":          {pngHeader(60000, 60000), lim, face.TooLarge},
		"png 2^31-1 x 2^31-1":          {pngHeader(1<<31-1, 1<<31-1), lim, face.InvalidImage},
		"jpeg 60,000 x 60,000":         {jpegHeader(tb, 60000, 60000), lim, face.TooLarge},
		"webp 40,000 x 40,000":         {webpHeader(40000, 40000), lim, face.TooLarge},
		"png bomb":                     {bomb, lim, face.TooLarge},
		"51 scans":                     {manyScans(51, nil), lim, face.TooLarge},
		"883 scans":                    {manyScans(883, nil), lim, face.TooLarge},
		"scans behind FF01":            {manyScans(51, []byte("\xff\x01")), lim, face.TooLarge},
		"scans behind restarts":        {manyScans(51, []byte("\xff\xd3")), lim, face.TooLarge},
		"scans behind fill":            {manyScans(51, []byte("\xff\xff\xff")), lim, face.TooLarge},
		"scans behind short segments":  {manyScans(51, []byte("\xff\xfe\x00\x00")), lim, face.TooLarge},
		"scans without an end":         {bytes.TrimSuffix(manyScans(51, nil), []byte("\xff\xd9")), lim, face.TooLarge},
		"a thin strip":                 {asPNG(tb, scene(300, 20)), lim, face.TooLarge},
		"a byte over the limit":        {jpg, tight(func(l *imaging.Limits) { l.MaxBytes = int64(len(jpg) - 1) }), face.TooLarge},
		"a pixel over the limit":       {jpg, tight(func(l *imaging.Limits) { l.MaxPixels = 64*48 - 1 }), face.TooLarge},
		"no limits, so nothing at all": {jpg, imaging.Limits{}, face.TooLarge},
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range refusals(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img, err := imaging.Decode(t.Context(), tc.data, tc.lim, 0)
			if err == nil || face.KindOf(err) != tc.want || img != nil {
				t.Fatalf("got %v, %v; want %v", img, err, tc.want)
			}
			if detailOf(err) == "" {
				t.Error("nothing is said to the caller")
			}
		})
	}
}

// TestForeign checks that a type that is not read is named, with those that
// are.
func TestForeign(t *testing.T) {
	t.Parallel()
	for start, want := range map[string]string{
		"hello, world": "not an image of a type that is read",
		"<svg":         "not an image of a type that is read",
		"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic":     "HEIC",
		"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heixmiaf": "HEIC",
		"\x00\x00\x00\x18ftyphevc\x00\x00\x00\x00msf1hevc":     "HEIC",
		"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf": "AVIF",
		"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf": "AVIF",
		"\x00\x00\x00\x00ftypavis\x00\x00\x00\x00":             "AVIF",
		"\x00\x00\x00\x14ftypqt  \x00\x00\x00\x00qt  heic":     "not an image of a type that is read",
		"\xff\xff\xff\xffftypisom\x00\x00\x00\x00mp4":          "not an image of a type that is read",
		"\xff\x0a\x00\x00":                                             "JPEG XL",
		"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a":                         "JPEG XL",
		"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a\x00\x00\x00\x14ftypjp2 ": "JPEG 2000",
		"\xff\x4f\xff\x51\x00":                                         "JPEG 2000",
		"%PDF-1.7":                                                     "PDF",
	} {
		_, err := imaging.Decode(t.Context(), []byte(start), imaging.DefaultLimits(), 0)
		detail := detailOf(err)
		if face.KindOf(err) != face.UnsupportedImage || !strings.HasPrefix(detail, want) ||
			!strings.Contains(detail, "send "+imaging.Formats) {
			t.Errorf("%q: %v, want %s", start, err, want)
		}
		if strings.Contains(detail, "Most Compatible") != (want == "HEIC") {
			t.Errorf("%q: what is to be done on a phone belongs to HEIC alone: %s", start, detail)
		}
	}
}

// TestRefusalIsCheap checks that what is refused for its header is refused
// before memory is taken for its pixels.
func TestRefusalIsCheap(t *testing.T) {
	for name, tc := range refusals(t) {
		if tc.want != face.TooLarge {
			continue
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := imaging.Decode(t.Context(), tc.data, tc.lim, 0)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20 {
			t.Errorf("%s: %d bytes taken to say %v", name, used, err)
		}
	}
}

// TestTruncated cuts each kind of file at many places, the last ones among
// them: none of it may pass for the picture.
func TestTruncated(t *testing.T) {
	t.Parallel()
	cutTIFF := asTIFF(t, photo(64, 48), tiff.Uncompressed)
	cutTIFF = cutTIFF[:len(cutTIFF)-16] // the resolution, which stands last, is not missed
	files := map[string][]byte{
		"jpeg": asJPEG(t, photo(64, 48)), "png": asPNG(t, photo(64, 48)), "bmp": asBMP(t, photo(64, 48)),
		"tiff": cutTIFF, "gif": asGIF(t, 64, 48, convertImage(photo(64, 48), newPaletted)),
	}
	for _, name := range []string{"progressive.jpg", "scans.jpg", "restart-411.jpg", "cmyk.jpg", "interlaced.png", "lossy.webp", "lossless.webp", "alpha.webp"} {
		files[name] = testdata(t, name)
	}
	for name, data := range files {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			last := len(data) - 1
			if bytes.HasSuffix(data, []byte("\xff\xd9")) {
				last-- // a JPEG is whole without these: see TestWithoutEnd
			}
			for n := 18; n < last; n++ {
				if n < len(data)-20 && n%17 != 0 {
					continue
				}
				for _, longSide := range []int{0, 16} {
					if img, err := imaging.Decode(t.Context(), data[:n], imaging.DefaultLimits(), longSide); face.KindOf(err) != face.InvalidImage {
						t.Fatalf("%d of %d bytes: %v, %v", n, len(data), img != nil, err)
					}
				}
			}
		})
	}
}

// TestManyScans checks that what an encoder may write is read.
func TestManyScans(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "\xff\xd3", "\xff\xff\xff"} {
		img := decode(t, manyScans(50, []byte(before)), 0)
		checkSimilar(t, img.RGBA, convertImage(image.NewUniform(color.Gray{128}), func(image.Rectangle) *image.RGBA { return image.NewRGBA(image.Rect(0, 0, 8, 8)) }), 0)
	}
}

// TestWithoutEnd checks that a JPEG whose end-of-image marker is missing is the
// same photo.
func TestWithoutEnd(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{
		"jpeg":              asJPEG(t, photo(64, 48)),
		"what is behind it": bytes.Replace(asJPEG(t, photo(64, 48)), []byte("\xff\xd9"), []byte("SEFH trailing\xff\xd9"), 1),
	}
	for _, name := range []string{"progressive.jpg", "scans.jpg", "grey.jpg", "restart-411.jpg", "cmyk.jpg"} {
		files[name] = testdata(t, name)
	}
	for name, data := range files {
		for _, longSide := range []int{0, 16} {
			want := decode(t, data, longSide).RGBA
			for lost := 1; lost <= 2; lost++ {
				img, err := imaging.Decode(t.Context(), data[:len(data)-lost], imaging.DefaultLimits(), longSide)
				if err != nil {
					t.Errorf("%s without %d bytes: %v", name, lost, err)
				} else if !bytes.Equal(img.RGBA.Pix, want.Pix) {
					t.Errorf("%s without %d bytes is another picture", name, lost)
				}
			}
		}
	}
}

// TestCorruptScan zeroes a part of a JPEG's scan. libjpeg would mend it and
// warn, which must not pass.
func TestCorruptScan(t *testing.T) {
	t.Parallel()
	data := asJPEG(t, photo(256, 256))
	clear(data[len(data)/2 : len(data)/2+2000])
	for _, longSide := range []int{0, 100} {
		if img, err := imaging.Decode(t.Context(), data, imaging.DefaultLimits(), longSide); face.KindOf(err) != face.InvalidImage {
			t.Errorf("%v, %v", img != nil, err)
		}
	}
}

// FuzzDecode checks that no bytes make Decode panic, exceed a limit or return
// something that its own words contradict.
func FuzzDecode(f *testing.F) {
	minimizeLittle(f)
	names, err := filepath.Glob("testdata/*.*")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		f.Add(testdata(f, filepath.Base(name)), 32)
	}
	for name, tc := range refusals(f) {
		if len(tc.data) < 4<<10 {
			f.Add(tc.data, len(name)%2*16)
		}
	}
	for _, data := range [][]byte{
		asJPEG(f, scene(64, 48)), asPNG(f, scene(64, 48)), asBMP(f, scene(16, 12)), asTIFF(f, scene(16, 12), tiff.Deflate),
		asGIF(f, 16, 12, convertImage(scene(16, 12), newPaletted)), manyScans(20, nil),
	} {
		f.Add(data, 0)
		f.Add(data[:len(data)/2], 20)
	}
	lim := imaging.DefaultLimits()
	lim.MaxPixels, lim.MaxBytes = 1<<13, 1<<13 // so that an execution is short
	f.Fuzz(func(t *testing.T, data []byte, longSide int) {
		img, err := imaging.Decode(t.Context(), data, lim, longSide)
		if err != nil {
			switch kind := face.KindOf(err); kind {
			case face.Invalid, face.TooLarge, face.UnsupportedImage, face.InvalidImage:
			default:
				t.Fatalf("kind %v: %v", kind, err)
			}
			return
		}
		b := img.RGBA.Rect
		if int64(img.Width)*int64(img.Height) > lim.MaxPixels || b.Min != (image.Point{}) ||
			b.Max.X != int(math.Ceil(float64(img.Width)*img.Scale-1e-9)) || b.Max.Y != int(math.Ceil(float64(img.Height)*img.Scale-1e-9)) {
			t.Fatalf("%d x %d at scale %v in %v", img.Width, img.Height, img.Scale, b)
		}
		for i := 3; i < len(img.RGBA.Pix); i += 4 {
			if img.RGBA.Pix[i] != 255 {
				t.Fatalf("pixel %d is not opaque", i/4)
			}
		}
	})
}

// FuzzOrientation puts any bytes where EXIF belongs: a good photo stays one,
// and all types turn it the same way.
func FuzzOrientation(f *testing.F) {
	minimizeLittle(f)
	for o := range uint32(10) {
		f.Add(orientationTag(binary.LittleEndian, o))
		f.Add(orientationTag(binary.BigEndian, o))
	}
	for _, block := range brokenEXIF() {
		f.Add(block)
	}
	for _, block := range exifThatTurns() {
		f.Add(block)
	}
	f.Add(deflated(f, rawProfile(orientationTag(binary.BigEndian, 6))))
	jpg, pngs, webp := asJPEG(f, scene(16, 8)), asPNG(f, scene(16, 8)), testdata(f, "lossless.webp")
	f.Fuzz(func(t *testing.T, block []byte) {
		if len(block) > 65000 {
			return
		}
		// Compressed text, which these bytes hardly ever are.
		img := decode(t, withChunks(pngs, chunk("zTXt", append([]byte("Raw profile type exif\x00\x00"), block...))), 0)
		if img.Width*img.Height != 16*8 {
			t.Fatalf("%d x %d", img.Width, img.Height)
		}
		var turned []bool
		for _, data := range [][]byte{
			withSegments(jpg, exifSegment(block)), withChunks(pngs, chunk("eXIf", block)), withEXIF(webp, block),
			withChunks(pngs, chunk("tEXt", append([]byte("Raw profile type exif\x00"), rawProfile(block)...))),
		} {
			img := decode(t, data, 0)
			size := img.Width * img.Height
			if got := (image.Rectangle{Max: image.Pt(img.Width, img.Height)}); img.RGBA.Rect != got || size != 16*8 && size != 64*48 {
				t.Fatalf("%v in %v", got, img.RGBA.Rect)
			}
			turned = append(turned, img.Width < img.Height)
		}
		if turned[0] != turned[1] && !bytes.HasPrefix(block, []byte("Exif\x00")) || turned[1] != turned[2] || turned[2] != turned[3] {
			t.Fatalf("turned as JPEG, PNG, WebP, profile: %v", turned)
		}
	})
}

// minimizeLittle makes an input that covers something new smaller in a hundred
// runs. Else Go's fuzzer spends a minute on each, and runs little else.
func minimizeLittle(f *testing.F) {
	f.Helper()
	if err := flag.Set("test.fuzzminimizetime", "100x"); err != nil {
		f.Fatal(err)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range []image.Point{{250, 250}, {1152, 864}, {4000, 3000}} {
		data := asJPEG(b, photo(size.X, size.Y))
		for _, longSide := range []int{0, 1280, 640} {
			b.Run(fmt.Sprintf("%dx%d to %d", size.X, size.Y, longSide), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					decode(b, data, longSide)
				}
			})
		}
	}
}
