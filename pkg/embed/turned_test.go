package embed_test

import (
	"errors"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/internal/conditions"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// builtIn runs what the programs carry.
func builtIn(tb testing.TB) *embed.Pipeline {
	tb.Helper()
	const quality = "builtin-quality"
	return newPipeline(tb, embed.Options{
		Detector: orttest.Network(tb, orttest.Detector), DetectorModel: orttest.Model(tb, orttest.Detector).Manifest,
		Encoder: orttest.Network(tb, orttest.Encoder), EncoderModel: orttest.Model(tb, orttest.Encoder).Manifest,
		QualityNetwork: orttest.Network(tb, quality), QualityModel: orttest.Model(tb, quality).Manifest,
		Slots: 2, Queue: 64, QueueTime: time.Hour,
	})
}

// threshold is that of the built-in encoder at fmr_1e-4.
func threshold(tb testing.TB) float64 {
	tb.Helper()
	for _, p := range orttest.Model(tb, orttest.Encoder).Calibration.Points {
		if p.Name == "fmr_1e-4" {
			return p.Threshold
		}
	}
	tb.Fatal("the built-in encoder has no fmr_1e-4")
	return 0
}

// sitter is a photo of a person who does not exist, with their face.
type sitter struct {
	photo     conditions.Photo
	embedding face.Embedding
	roll      float32
}

// sitters are the first photos of everybody.
func sitters(tb testing.TB, p *embed.Pipeline) []sitter {
	tb.Helper()
	var out []sitter
	for person := range testfaces.People {
		photo := testfaces.Photo(tb, person+1, 1)
		samples, err := p.Embed(tb.Context(), photo, embed.PickOnly)
		if err != nil {
			tb.Fatal(err)
		}
		decoded, err := imaging.Decode(tb.Context(), photo, imaging.DefaultLimits(), math.MaxInt)
		if err != nil {
			tb.Fatal(err)
		}
		img := image.NewRGBA(image.Rect(0, 0, decoded.Width, decoded.Height))
		draw.Draw(img, img.Rect, decoded.RGBA, decoded.RGBA.Rect.Min, draw.Src)
		out = append(out, sitter{
			photo:     conditions.Small(conditions.Photo{Image: img, Points: samples[0].Face.Landmarks.Points()}, 45),
			embedding: samples[0].Embedding, roll: samples[0].Face.Quality.Pose.Roll,
		})
	}
	return out
}

// TestTurned: whoever is turned, by any angle, is the person that they are
// upright and nobody else, and the answer says by how much they were turned.
func TestTurned(t *testing.T) {
	t.Parallel()
	p, least := builtIn(t), threshold(t)
	people := sitters(t, p)
	for n, degrees := range []float64{0, 10, 22, 45, 52, 90, 108, 135, 180, -171, -90, -60, -27} {
		t.Run(fmt.Sprint(degrees), func(t *testing.T) {
			t.Parallel()
			for i, s := range people {
				pick := []embed.Pick{embed.PickOnly, embed.PickLargest, embed.PickAll}[(n+i)%3]
				samples, err := p.Embed(t.Context(), conditions.Turn(s.photo, degrees).JPEG(92), pick)
				if err != nil || len(samples) == 0 {
					t.Errorf("person %d: %d faces, %v", i+1, len(samples), err)
					continue
				}
				got := samples[0]
				if len(got.Face.Quality.Reasons) > 0 {
					t.Errorf("person %d: %v", i+1, got.Face.Quality.Reasons)
				}
				off := math.Remainder(float64(got.Face.Quality.Pose.Roll-s.roll)-degrees, 360)
				if math.Abs(off) > 5 {
					t.Errorf("person %d: a roll of %.1f, want %.1f", i+1, got.Face.Quality.Pose.Roll, float64(s.roll)+degrees)
				}
				for j, o := range people {
					if match := got.Embedding.Cosine(o.embedding) >= least; match != (i == j) {
						t.Errorf("person %d beside %d: match is %v at %.3f", i+1, j+1, match, got.Embedding.Cosine(o.embedding))
					}
				}
			}
		})
	}
}

// TestOutside: what lies outside the calibration is refused with a reason, or
// is at least nobody else.
func TestOutside(t *testing.T) {
	t.Parallel()
	p, least := builtIn(t), threshold(t)
	people := sitters(t, p)
	type photo = conditions.Photo
	for name, c := range map[string]struct {
		change  func(r *rand.Rand, p photo) photo
		reasons []face.Reason // any of them will do
	}{
		"wide":          {func(_ *rand.Rand, p photo) photo { return conditions.Stretch(p, 1.6, 1) }, []face.Reason{face.ReasonStretchedFace}},
		"high":          {func(_ *rand.Rand, p photo) photo { return conditions.Stretch(p, 1, 1.6) }, []face.Reason{face.ReasonStretchedFace}},
		"negative":      {func(_ *rand.Rand, p photo) photo { return conditions.Negative(p) }, []face.Reason{face.ReasonNegativeImage}},
		"grey negative": {func(_ *rand.Rand, p photo) photo { return conditions.Negative(conditions.Grey(p)) }, []face.Reason{face.ReasonNegativeImage}},
		"sunglasses":    {conditions.Sunglasses, []face.Reason{face.ReasonCoveredFace}},
		"mask":          {conditions.Mask, []face.Reason{face.ReasonCoveredFace}},
		"cut":           {func(_ *rand.Rand, p photo) photo { return conditions.Cut(p, 1.8, 0, 0) }, []face.Reason{face.ReasonCroppedFace}},
		"sketch":        {func(_ *rand.Rand, p photo) photo { return conditions.Sketch(p, 4) }, []face.Reason{face.ReasonNotAFace, face.ReasonHighBrightness}},
		"turned sketch": {func(_ *rand.Rand, p photo) photo { return conditions.Turn(conditions.Sketch(p, 4), 90) }, []face.Reason{face.ReasonNotAFace, face.ReasonHighBrightness}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			named := 0
			var seen []face.Embedding
			for i, s := range people {
				r := rand.New(rand.NewPCG(uint64(i), 7))
				samples, err := p.Embed(t.Context(), c.change(r, s.photo).JPEG(92), embed.PickLargest)
				switch {
				case errors.Is(err, face.NoFace), errors.Is(err, face.LowQuality):
					named++
				case err != nil:
					t.Error(err)
				case len(samples[0].Face.Quality.Reasons) == 0:
					for j, o := range people {
						if i != j && samples[0].Embedding.Cosine(o.embedding) >= least {
							t.Errorf("person %d is taken for person %d", i+1, j+1)
						}
					}
					for _, e := range seen {
						if samples[0].Embedding.Cosine(e) >= least {
							t.Errorf("person %d is taken for somebody else as changed", i+1)
						}
					}
					seen = append(seen, samples[0].Embedding)
				case slices.ContainsFunc(c.reasons, func(r face.Reason) bool { return hasReason(samples[0].Face.Quality, r) }):
					named++
				default:
					t.Logf("person %d: %v", i+1, samples[0].Face.Quality.Reasons)
				}
			}
			if named < len(people)-1 {
				t.Errorf("%d of %d are refused as %v", named, len(people), c.reasons)
			}
		})
	}
}

// TestStrangersTurned: the pairs of strangers that once matched, since false
// landmarks made them alike, are righted and differ, or are refused.
func TestStrangersTurned(t *testing.T) {
	t.Parallel()
	p, least := builtIn(t), threshold(t)
	for _, name := range []string{"35", "45", "90", "180", "wide"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var passed []face.Embedding
			for _, half := range []string{"a", "b"} {
				photo, err := os.ReadFile(sharedtest.Path(t, "cases/door/strangers-"+name+"-"+half+".jpg"))
				if err != nil {
					t.Fatal(err)
				}
				samples, err := p.Embed(t.Context(), photo, embed.PickOnly)
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: roll %.0f, reasons %v", half, samples[0].Face.Quality.Pose.Roll, samples[0].Face.Quality.Reasons)
				if len(samples[0].Face.Quality.Reasons) == 0 {
					passed = append(passed, samples[0].Embedding)
				}
			}
			if name != "wide" && len(passed) != 2 {
				t.Error("a turned face is refused")
			}
			if len(passed) == 2 && passed[0].Cosine(passed[1]) >= least {
				t.Errorf("two people match at %.3f", passed[0].Cosine(passed[1]))
			}
		})
	}
}

// TestDark: a photo that is too dark or too bright to find a face in is refused
// as such.
func TestDark(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	for reason, level := range map[face.Reason]uint8{face.ReasonLowBrightness: 6, face.ReasonHighBrightness: 252} {
		img := image.NewGray(image.Rect(0, 0, 320, 240))
		for i := range img.Pix {
			img.Pix[i] = level
		}
		_, err := p.Embed(t.Context(), encodeJPEG(t, img), embed.PickOnly)
		if !errors.Is(err, face.LowQuality) || !slices.Equal(reasons(err), []face.Reason{reason}) {
			t.Errorf("a level of %d: %v %v", level, err, reasons(err))
		}
	}
	_, err := p.Embed(t.Context(), testfaces.Nobody(t), embed.PickOnly)
	if !errors.Is(err, face.NoFace) {
		t.Errorf("a landscape: %v", err)
	}
}

// TestFaceAt picks the face at a place, in the group of three.
func TestFaceAt(t *testing.T) {
	t.Parallel()
	p := builtIn(t)
	photo, people := testfaces.Group(t)
	all, err := p.Embed(t.Context(), photo, embed.PickAll)
	if err != nil || len(all) != len(people) {
		t.Fatalf("%d faces, %v", len(all), err)
	}
	for _, want := range all {
		b := want.Face.Box
		got, err := p.EmbedWith(t.Context(), photo, embed.PickOnly, embed.Want{At: &face.Point{X: b.X + b.Width/3, Y: b.Y + b.Height/3}})
		if err != nil || len(got) != 1 || got[0].Embedding.Cosine(want.Embedding) < 0.999 || got[0].Found != len(people) {
			t.Errorf("the face at (%.0f, %.0f): %d faces, %v", b.X, b.Y, len(got), err)
		}
	}
	if _, err := p.EmbedWith(t.Context(), photo, embed.PickOnly, embed.Want{At: &face.Point{X: 1, Y: 1}}); !errors.Is(err, face.NoFace) {
		t.Errorf("at a corner: %v", err)
	}
}
