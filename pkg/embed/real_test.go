package embed_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// realPipeline runs real weights in the real ONNX Runtime.
func realPipeline(tb testing.TB, slots int) *embed.Pipeline {
	tb.Helper()
	return realPipelineWith(tb, "mobileface-v2", slots)
}

func realPipelineWith(tb testing.TB, encoder string, slots int) *embed.Pipeline {
	tb.Helper()
	return newPipeline(tb, embed.Options{
		Detector: orttest.Network(tb, "yunet_n"), DetectorModel: orttest.Model(tb, "yunet_n").Manifest,
		Encoder: orttest.Network(tb, encoder), EncoderModel: orttest.Model(tb, encoder).Manifest,
		Slots: slots, Queue: 64, QueueTime: time.Hour,
	})
}

// pixels decodes a photo of LFW.
func pixels(tb testing.TB, name string) *image.RGBA {
	tb.Helper()
	img, err := jpeg.Decode(bytes.NewReader(sharedtest.Photo(tb, name)))
	if err != nil {
		tb.Fatal(err)
	}
	out := image.NewRGBA(img.Bounds())
	draw.Copy(out, image.Point{}, img, img.Bounds(), draw.Src, nil)
	return out
}

func encodeJPEG(tb testing.TB, img image.Image) []byte {
	tb.Helper()
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: 92}); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// resized scales a picture to the sides given.
func resized(src image.Image, width, height int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.BiLinear.Scale(out, out.Rect, src, src.Bounds(), draw.Src, nil)
	return out
}

// pair is a line of the pairs file.
type pair struct {
	probe, reference string
	same             bool
}

// pairs reads every step-th of the pairs.
func pairs(tb testing.TB, step int) []pair {
	tb.Helper()
	f, err := os.Open(sharedtest.Path(tb, "data/lfw-dev-pairs.txt"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var out []pair
	lines := bufio.NewScanner(f)
	for n := 0; lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) != 3 {
			continue // the heading
		}
		if n++; n%step == 0 {
			out = append(out, pair{w[0], w[1], w[2] == "1"})
		}
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	return out
}

// TestPairs tells people apart: pairs of LFW with one threshold. All 6,000 give
// 98.4 % at the best threshold with mobileface-v2; see docs/adr/0004.
func TestPairs(t *testing.T) {
	t.Parallel()
	for encoder, c := range map[string]struct {
		step  int // one of so many pairs
		right float64
	}{"mobileface-v2": {20, 0.96}, "intel-0095": {29, 0.98}} {
		t.Run(encoder, func(t *testing.T) {
			t.Parallel()
			checkPairs(t, encoder, c.step, c.right)
		})
	}
}

func checkPairs(t *testing.T, encoder string, step int, right float64) {
	const slots = 2
	p := realPipelineWith(t, encoder, slots)
	list := pairs(t, step)
	var mu sync.Mutex
	var genuine, impostor []float64
	var doubted int
	var work sync.WaitGroup
	for part := range slots {
		work.Go(func() {
			for i := part; i < len(list); i += slots {
				var e [2]embed.Sample
				for k, name := range []string{list[i].probe, list[i].reference} {
					s, err := p.Embed(t.Context(), sharedtest.Photo(t, name), embed.PickLargest)
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					e[k] = s[0]
				}
				score := e[0].Embedding.Cosine(e[1].Embedding)
				mu.Lock()
				if list[i].same {
					genuine = append(genuine, score)
				} else {
					impostor = append(impostor, score)
				}
				for _, s := range e {
					if len(s.Face.Quality.Reasons) > 0 {
						doubted++
					}
				}
				mu.Unlock()
			}
		})
	}
	work.Wait()
	if len(genuine) < 100 || len(impostor) < 100 {
		t.Fatalf("%d genuine and %d impostor scores", len(genuine), len(impostor))
	}
	slices.Sort(impostor)
	best := 0.0
	for _, threshold := range slices.Concat(genuine, impostor) {
		right := 0
		for _, s := range genuine {
			if s >= threshold {
				right++
			}
		}
		rejected, _ := slices.BinarySearch(impostor, threshold)
		best = max(best, float64(right+rejected)/float64(len(list)))
	}
	t.Logf("%d pairs: %.4f right at the best threshold, %d of %d photos doubted", len(list), best, doubted, 2*len(list))
	if best < right {
		t.Errorf("%.4f of the pairs are right at the best threshold, want %v", best, right)
	}
	if doubted*100 > 2*len(list)*2 {
		t.Errorf("the quality gate doubts %d of %d photos", doubted, 2*len(list))
	}
}

// The main faces of these are plain frontal ones, with nobody else beside.
func plain() []string {
	return []string{
		"lfw/Kofi_Annan/Kofi_Annan_0001.jpg",
		"lfw/Rachel_Griffiths/Rachel_Griffiths_0001.jpg",
		"lfw/Tony_Blair/Tony_Blair_0003.jpg",
	}
}

// TestDegraded spoils real photos, one thing at a time, and expects the
// quality gate to say which.
func TestDegraded(t *testing.T) {
	t.Parallel()
	p := realPipeline(t, 1)
	light := func(mul, add float64) func(*image.RGBA, face.Face) *image.RGBA {
		return func(img *image.RGBA, _ face.Face) *image.RGBA {
			for i, v := range img.Pix {
				if i%4 != 3 {
					img.Pix[i] = uint8(min(float64(v)*mul+add, 255))
				}
			}
			return img
		}
	}
	// cut keeps a part of the photo, given in sides of the face's box.
	cut := func(left, bottom float32) func(*image.RGBA, face.Face) *image.RGBA {
		return func(img *image.RGBA, f face.Face) *image.RGBA {
			r := img.Rect
			r.Min.X = int(f.Box.X + left*f.Box.Width)
			r.Max.Y = int(f.Box.Y + bottom*f.Box.Height)
			return resized(img.SubImage(r), r.Dx(), r.Dy())
		}
	}
	for name, tt := range map[string]struct {
		spoil func(*image.RGBA, face.Face) *image.RGBA
		want  face.Reason
	}{
		"nothing":    {spoil: light(1, 0)},
		"half size":  {spoil: func(img *image.RGBA, _ face.Face) *image.RGBA { return resized(img, 125, 125) }},
		"dimmed":     {spoil: light(0.5, 0)},
		"blurred":    {func(img *image.RGBA, _ face.Face) *image.RGBA { return resized(resized(img, 25, 25), 250, 250) }, face.ReasonLowSharpness},
		"near black": {light(0.06, 0), face.ReasonLowBrightness},
		"glaring":    {light(0.3, 215), face.ReasonHighBrightness},
		"20 pixels": {func(img *image.RGBA, f face.Face) *image.RGBA {
			n := int(250 * 20 / f.Box.Width)
			return resized(img, n, n)
		}, face.ReasonSmallFace},
		"half a face": {cut(0.4, 2), face.ReasonCroppedFace},
		"no chin":     {cut(-1, 0.65), face.ReasonCroppedFace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, photo := range plain() {
				img := pixels(t, photo)
				whole, _, err := p.Detect(t.Context(), encodeJPEG(t, img), 1)
				if err != nil || len(whole) != 1 {
					t.Fatalf("%s: %d faces, %v", photo, len(whole), err)
				}
				faces, _, err := p.Detect(t.Context(), encodeJPEG(t, tt.spoil(img, whole[0])), 1)
				if err != nil {
					t.Fatal(err)
				}
				if len(faces) == 0 {
					if tt.want == "" {
						t.Errorf("%s: no face", photo)
					}
					continue
				}
				q := faces[0].Quality
				switch {
				case tt.want == "" && len(q.Reasons) > 0:
					t.Errorf("%s: doubted for %v: %+v", photo, q.Reasons, q)
				case tt.want != "" && !hasReason(q, tt.want):
					t.Errorf("%s: reasons %v, want %v: %+v", photo, q.Reasons, tt.want, q)
				case (q.Score < 0.5) != (len(q.Reasons) > 0):
					t.Errorf("%s: score %v with reasons %v", photo, q.Score, q.Reasons)
				}
			}
		})
	}
	t.Run("profile", func(t *testing.T) {
		t.Parallel()
		for photo, sign := range map[string]float32{ // negative: to the image's left, the subject's right
			"lfw/Jacques_Chirac/Jacques_Chirac_0010.jpg": -1,
			"lfw/Larry_Brown/Larry_Brown_0006.jpg":       -1,
			"lfw/Sherry_Fisher/Sherry_Fisher_0001.jpg":   1,
		} {
			faces, _, err := p.Detect(t.Context(), sharedtest.Photo(t, photo), 0)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(faces, func(f face.Face) bool {
				return hasReason(f.Quality, face.ReasonExtremePose) && f.Quality.Pose.Yaw*sign > 0
			}) {
				t.Errorf("%s: no face in profile among %+v", photo, faces)
			}
		}
	})
}

// crowd is a large grey picture with photos pasted on it in a grid, each
// scaled to side pixels.
func crowd(tb testing.TB, width, height, side, gap int, names []string) (*image.RGBA, []image.Rectangle) {
	tb.Helper()
	scene := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range scene.Pix {
		scene.Pix[i] = 140
	}
	var at []image.Rectangle
	for i, name := range names {
		columns := width / gap
		tile := image.Rect(0, 0, side, side).Add(image.Pt(i%columns*gap+gap/3, i/columns*gap+gap/3))
		draw.CatmullRom.Scale(scene, tile, pixels(tb, name), image.Rect(0, 0, 250, 250), draw.Src, nil)
		at = append(at, tile)
	}
	return scene, at
}

// TestSmallFaces finds the small faces of a large photo, of which the first
// look sees nothing.
func TestSmallFaces(t *testing.T) {
	t.Parallel()
	p := realPipeline(t, 1)
	var names []string
	for _, q := range pairs(t, 250) {
		names = append(names, q.probe)
	}
	for _, tt := range []struct{ width, height, side, gap int }{
		{1600, 1200, 100, 260}, // faces of 38 pixels
		{3000, 2250, 150, 490}, // faces of 56 pixels, found in a reduced picture
	} {
		t.Run(fmt.Sprintf("%dx%d", tt.width, tt.height), func(t *testing.T) {
			t.Parallel()
			scene, at := crowd(t, tt.width, tt.height, tt.side, tt.gap, names)
			photo := encodeJPEG(t, scene)
			faces, _, err := p.Detect(t.Context(), photo, 0)
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, tile := range at {
				centre := tile.Min.Add(tile.Size().Div(2))
				if slices.ContainsFunc(faces, func(f face.Face) bool {
					return float32(centre.X) > f.Box.X && float32(centre.X) < f.Box.X+f.Box.Width &&
						float32(centre.Y) > f.Box.Y && float32(centre.Y) < f.Box.Y+f.Box.Height
				}) {
					found++
				}
			}
			t.Logf("%d of %d faces", found, len(at))
			if found < len(at) {
				t.Errorf("found %d of %d faces", found, len(at))
			}
		})
	}
}

// TestSmallFacesInFull encodes small faces of a 12-megapixel photo from its
// own pixels, not from those of the reduced picture that they were found in.
func TestSmallFacesInFull(t *testing.T) {
	t.Parallel()
	p := realPipeline(t, 1)
	scene, at := crowd(t, 4000, 3000, 160, 1200, plain()) // eyes 29 pixels apart
	photo := encodeJPEG(t, scene)
	if _, err := p.Embed(t.Context(), photo, embed.PickOnly); !errors.Is(err, face.ManyFaces) {
		t.Errorf("one face asked of three: %v", err)
	}
	samples, err := p.Embed(t.Context(), photo, embed.PickAll)
	if err != nil || len(samples) != len(at) {
		t.Fatalf("%d faces, %v; want %d", len(samples), err, len(at))
	}
	for _, name := range plain() {
		alone, err := p.Embed(t.Context(), encodeJPEG(t, resized(pixels(t, name), 160, 160)), embed.PickOnly)
		if err != nil {
			t.Fatal(err)
		}
		best := -1.0
		for _, s := range samples {
			best = max(best, s.Embedding.Cosine(alone[0].Embedding))
		}
		t.Logf("%s: score %.3f with itself", name, best)
		if best < 0.8 {
			t.Errorf("%s: score %.3f with itself", name, best)
		}
	}
}

// TestSameFaceAnySize gives a photo the same embedding, nearly, at sizes that
// are decoded at different scales and looked at on different rungs.
func TestSameFaceAnySize(t *testing.T) {
	t.Parallel()
	p := realPipeline(t, 1)
	photo := pixels(t, plain()[0])
	want, err := p.Embed(t.Context(), encodeJPEG(t, photo), embed.PickOnly)
	if err != nil {
		t.Fatal(err)
	}
	for _, side := range []int{400, 1300} {
		for _, pick := range []embed.Pick{embed.PickOnly, embed.PickAll} {
			got, err := p.Embed(t.Context(), encodeJPEG(t, resized(photo, side, side)), pick)
			if err != nil || len(got) != 1 {
				t.Fatalf("%d pixels, pick %d: %d faces, %v", side, pick, len(got), err)
			}
			if score := got[0].Embedding.Cosine(want[0].Embedding); score < 0.9 {
				t.Errorf("%d pixels, pick %d: score %.3f with itself", side, pick, score)
			}
			scale := float32(side) / 250
			if diff := got[0].Face.Box.Width/scale - want[0].Face.Box.Width; diff > 5 || diff < -5 {
				t.Errorf("%d pixels, pick %d: the box is %v, at 250 pixels it is %v", side, pick, got[0].Face.Box, want[0].Face.Box)
			}
		}
	}
}

// TestConcurrent gives every request its own answer.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	p := realPipeline(t, 2)
	var photos [][]byte
	var want [][]embed.Sample
	for _, q := range pairs(t, 1000) {
		photos = append(photos, sharedtest.Photo(t, q.probe))
		s, err := p.Embed(t.Context(), photos[len(photos)-1], embed.PickAll)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, s)
	}
	var work sync.WaitGroup
	for range 4 {
		work.Go(func() {
			for i, photo := range photos {
				got, err := p.Embed(t.Context(), photo, embed.PickAll)
				if err != nil {
					t.Error(err)
				} else if diff := cmp.Diff(want[i], got); diff != "" {
					t.Errorf("photo %d in parallel differs (-alone +parallel):\n%s", i, diff)
				}
			}
		})
	}
	work.Wait()
}

// BenchmarkEmbed is one face of photos of three sizes, whole and by stage.
func BenchmarkEmbed(b *testing.B) {
	var stages map[string]float64
	p := newPipeline(b, embed.Options{
		Detector: orttest.Network(b, "yunet_n"), DetectorModel: orttest.Model(b, "yunet_n").Manifest,
		Encoder: orttest.Network(b, "mobileface-v2"), EncoderModel: orttest.Model(b, "mobileface-v2").Manifest,
		Slots: 1, Observe: func(stage string, seconds float64) { stages[stage] += seconds },
	})
	photo := pixels(b, plain()[0])
	for _, size := range []struct {
		name          string
		width, height int
	}{{"250x250", 250, 250}, {"1MP", 1152, 864}, {"12MP", 4032, 3024}} {
		data := encodeJPEG(b, resized(photo, size.width, size.height))
		for name, pick := range map[string]embed.Pick{"only": embed.PickOnly, "all": embed.PickAll} {
			b.Run(size.name+"/"+name, func(b *testing.B) {
				stages = map[string]float64{}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Embed(b.Context(), data, pick); err != nil {
						b.Fatal(err)
					}
				}
				for stage, seconds := range stages {
					b.ReportMetric(seconds*1e3/float64(b.N), stage+"-ms/op")
				}
			})
		}
	}
}
