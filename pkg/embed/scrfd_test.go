package embed_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// detectorPipeline is a pipeline of a detector in a models folder.
func detectorPipeline(tb testing.TB, dir, id string) *embed.Pipeline {
	tb.Helper()
	m := modelIn(tb, dir, id)
	data, err := m.ReadVerified()
	if err != nil {
		tb.Fatal(err)
	}
	n, err := orttest.Runtime(tb).Load(data, m.Manifest)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Error(err)
		}
	})
	return newPipeline(tb, embed.Options{
		Detector: n, DetectorModel: m.Manifest,
		Encoder: orttest.Network(tb, orttest.Encoder), EncoderModel: orttest.Model(tb, orttest.Encoder).Manifest,
		Slots: 2, Queue: 64,
	})
}

// modelIn finds a model in a folder, or one that is known without it.
func modelIn(tb testing.TB, dir, id string) embed.Model {
	tb.Helper()
	r, err := embed.OpenRegistry(models.FS, dir)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := r.Model(id)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// everyPhoto lists n photos of LFW, spread over all of them.
func everyPhoto(tb testing.TB, n int) []string {
	tb.Helper()
	all := sharedtest.LFW(tb).Names()
	names := make([]string, n)
	for i := range names {
		names[i] = all[i*len(all)/n]
	}
	return names
}

// look is what one detector finds in one photo.
type look struct {
	faces []face.Face
	err   error
}

// looks has a pipeline look at photos, two at a time.
func looks(tb testing.TB, p *embed.Pipeline, names []string) []look {
	tb.Helper()
	out := make([]look, len(names))
	var work sync.WaitGroup
	for part := range 2 {
		work.Go(func() {
			for i := part; i < len(names); i += 2 {
				out[i].faces, _, out[i].err = p.Detect(tb.Context(), sharedtest.Photo(tb, names[i]), 0)
			}
		})
	}
	work.Wait()
	for i, l := range out {
		if l.err != nil {
			tb.Fatalf("%s: %v", names[i], l.err)
		}
	}
	return out
}

// boxIoU is what two boxes share of what they cover together.
func boxIoU(a, b face.Box) float32 {
	w := min(a.X+a.Width, b.X+b.Width) - max(a.X, b.X)
	h := min(a.Y+a.Height, b.Y+b.Height) - max(a.Y, b.Y)
	shared := max(w, 0) * max(h, 0)
	return shared / (a.Area() + b.Area() - shared)
}

// pointsOff is the mean distance of the landmarks of two faces, in units of the
// distance between the eyes of the first.
func pointsOff(a, b face.Face) float64 {
	p, q := a.Landmarks.Points(), b.Landmarks.Points()
	apart := func(a, b face.Point) float64 { return math.Hypot(float64(a.X-b.X), float64(a.Y-b.Y)) }
	sum := 0.0
	for i := range p {
		sum += apart(p[i], q[i])
	}
	return sum / float64(len(p)) / apart(p[0], p[1])
}

// TestQualityThreshold has the quality gate doubt scores by the detector's own
// limit, unless the caller chose limits.
func TestQualityThreshold(t *testing.T) {
	t.Parallel()
	others, score := embed.DefaultQualityLimits(), embed.DefaultQualityLimits()
	others.MaxYaw--
	score.MinDetectionScore -= 0.01
	for name, tt := range map[string]struct {
		threshold float32
		limits    embed.QualityLimits
		doubted   bool
	}{
		"left out":             {0, embed.QualityLimits{}, true},
		"lower":                {0.62, embed.QualityLimits{}, false},
		"lower, with defaults": {0.62, embed.DefaultQualityLimits(), false},
		"higher":               {0.8, embed.QualityLimits{}, true},
		"other limits chosen":  {0.62, others, false},
		"its limit chosen":     {0.62, score, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(newDetector(spot{160, 160, 100, 0.65}), newEncoder(1))
			o.DetectorModel.QualityThreshold, o.Quality = tt.threshold, tt.limits
			faces, _, err := newPipeline(t, o).Detect(t.Context(), blank(t, 320, 320), 0)
			if err != nil || len(faces) != 1 {
				t.Fatalf("%d faces, %v", len(faces), err)
			}
			if got := hasReason(faces[0].Quality, face.ReasonLowDetectionScore); got != tt.doubted {
				t.Errorf("doubted: %v, want %v", got, tt.doubted)
			}
		})
	}
}

// agreement says how much of what one detector finds another finds too.
type agreement struct {
	photos   int       // in which the first finds a face
	found    int       // in which the other finds the largest of them, too: IoU of 0.5 or more
	offs     []float64 // of the landmarks of those, sorted
	scores   []float64 // of the other, sorted
	overlaps []float64 // IoU, sorted
}

func agree(first, other []look) (a agreement) {
	for i, l := range first {
		if len(l.faces) == 0 {
			continue
		}
		a.photos++
		f := l.faces[0]
		var best face.Face
		for _, g := range other[i].faces {
			if boxIoU(f.Box, g.Box) > boxIoU(f.Box, best.Box) {
				best = g
			}
		}
		if iou := boxIoU(f.Box, best.Box); iou >= 0.5 {
			a.found++
			a.overlaps = append(a.overlaps, float64(iou))
			a.offs = append(a.offs, pointsOff(f, best))
			a.scores = append(a.scores, float64(best.DetectionScore))
		}
	}
	for _, v := range [][]float64{a.offs, a.scores, a.overlaps} {
		slices.Sort(v)
	}
	return a
}

func (a agreement) share() float64 { return float64(a.found) / float64(a.photos) }

func (a agreement) String() string {
	quantile := func(v []float64, q float64) float64 {
		if len(v) == 0 {
			return math.NaN()
		}
		return v[min(int(q*float64(len(v))), len(v)-1)]
	}
	return fmt.Sprintf("finds the largest face of %d of %d photos (%.2f %%); IoU: median %.3f, 5 %% below %.3f; landmarks apart: median %.2f %%, 95 %% within %.2f %% of the distance of the eyes; its score: median %.3f, 0.5 %% below %.3f, 5 %% below %.3f",
		a.found, a.photos, 100*a.share(), quantile(a.overlaps, 0.5), quantile(a.overlaps, 0.05),
		100*quantile(a.offs, 0.5), 100*quantile(a.offs, 0.95), quantile(a.scores, 0.5), quantile(a.scores, 0.005), quantile(a.scores, 0.05))
}

// TestSCRFDFindsWhatYuNetFinds compares SCRFD detectors with YuNet on 500
// photos, both ways. Published files are not part of the project: name a models
// folder that has some with LIKENESS_TEST_SCRFD. Without it, the file is the
// built-in detector with its outputs encoded as SCRFD's are.
func TestSCRFDFindsWhatYuNetFinds(t *testing.T) {
	t.Parallel()
	dir, photos := os.Getenv("LIKENESS_TEST_SCRFD"), 500
	if dir == "" {
		dir, photos = t.TempDir(), 200
		orttest.SCRFDDetector(t, dir, orttest.Detector, orttest.SCRFD{Anchors: 2})
	}
	r, err := embed.OpenRegistry(models.FS, dir)
	if err != nil {
		t.Fatal(err)
	}
	names := everyPhoto(t, photos)
	want := looks(t, detectorPipeline(t, sharedtest.Path(t, "models"), "yunet_n"), names)
	tried := 0
	for _, m := range r.Models() {
		if m.Decoder != "scrfd" {
			continue
		}
		tried++
		got := looks(t, detectorPipeline(t, dir, m.ID), names)
		there, back := agree(want, got), agree(got, want)
		var doubted int
		for _, l := range got {
			if len(l.faces) > 0 && hasReason(l.faces[0].Quality, face.ReasonLowDetectionScore) {
				doubted++
			}
		}
		t.Logf("%s %s", m.ID, there)
		t.Logf("of what %s finds, yunet_n %s", m.ID, back)
		t.Logf("the quality gate doubts the score of %d largest faces", doubted)
		if there.share() < 0.98 || back.share() < 0.98 {
			t.Errorf("%s finds %.2f %% of what YuNet finds, and YuNet %.2f %% of what it finds; want 98 %%", m.ID, 100*there.share(), 100*back.share())
		}
	}
	if tried == 0 {
		t.Errorf("%s has no manifest of decoder scrfd", dir)
	}
}

// TestSCRFDEncoding gives the same faces as the detector whose outputs are
// encoded as SCRFD does, on real photos in the real runtime.
func TestSCRFDEncoding(t *testing.T) {
	t.Parallel()
	names := everyPhoto(t, 60)
	want := looks(t, detectorPipeline(t, t.TempDir(), orttest.Detector), names)
	for _, o := range []orttest.SCRFD{{Anchors: 2}, {Anchors: 1, Batch: true, Logits: true}} {
		t.Run(fmt.Sprintf("%+v", o), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got := looks(t, detectorPipeline(t, dir, orttest.SCRFDDetector(t, dir, orttest.Detector, o)), names)
			faces := 0
			for i := range want {
				if len(got[i].faces) != len(want[i].faces) {
					t.Errorf("%s: %d faces, want %d", names[i], len(got[i].faces), len(want[i].faces))
					continue
				}
				for j, f := range want[i].faces {
					faces++
					g := got[i].faces[j]
					if iou := boxIoU(f.Box, g.Box); iou < 0.99 || pointsOff(f, g) > 0.01 || math.Abs(float64(f.DetectionScore-g.DetectionScore)) > 0.01 {
						t.Errorf("%s: face %d is %+v, want %+v", names[i], j, g, f)
					}
				}
			}
			t.Logf("%d faces of %d photos", faces, len(names))
		})
	}
}
