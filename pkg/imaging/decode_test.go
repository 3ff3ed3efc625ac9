package imaging_test

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// scene is smooth, so that it survives JPEG, and has no symmetry: each corner
// has another colour.
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

// like fails unless got is want but for a mean difference per channel.
func like(t *testing.T, got, want *image.RGBA, tolerance float64) {
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

func TestDecode(t *testing.T) {
	t.Parallel()
	want := scene(64, 48)
	for name, tc := range map[string]struct {
		data      []byte
		tolerance float64
	}{
		"jpeg": {asJPEG(t, want), 3},
		"png":  {asPNG(t, want), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := imaging.Decode(tc.data, imaging.DefaultLimits(), 0)
			if err != nil {
				t.Fatal(err)
			}
			like(t, got.RGBA, want, tc.tolerance)
			if got.Width != 64 || got.Height != 48 || got.Scale != 1 {
				t.Errorf("%d x %d, scale %v", got.Width, got.Height, got.Scale)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	whole := asJPEG(t, scene(64, 48))
	for name, tc := range map[string]struct {
		data []byte
		want face.Kind
	}{
		"nothing":        {nil, face.Invalid},
		"text":           {[]byte("hello"), face.UnsupportedImage},
		"truncated jpeg": {whole[:len(whole)*2/3], face.InvalidImage},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := imaging.Decode(tc.data, imaging.DefaultLimits(), 0); face.KindOf(err) != tc.want {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// photo is a scene with the grain of a sensor: as a JPEG it has the two to
// three bits a pixel that a phone's photo has.
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

func BenchmarkDecode(b *testing.B) {
	for _, size := range []image.Point{{250, 250}, {1152, 864}, {4000, 3000}} {
		data := asJPEG(b, photo(size.X, size.Y))
		for _, longSide := range []int{0, 1280, 640} {
			b.Run(fmt.Sprintf("%dx%d to %d", size.X, size.Y, longSide), func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if _, err := imaging.Decode(data, imaging.DefaultLimits(), longSide); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
