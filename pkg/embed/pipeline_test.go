package embed_test

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestDetectPixels finds faces of each grid where they were put, in pixels of
// the full-size photo, whatever its size.
func TestDetectPixels(t *testing.T) {
	t.Parallel()
	faces := []spot{{x: 200, y: 180, side: 120, score: 0.9}, {x: 60, y: 70, side: 64, score: 0.8}, {x: 300, y: 20, side: 20, score: 0.7}}
	for name, size := range map[string]int{"as is": 320, "enlarged": 160, "shrunk": 1600} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(t, options(newDetector(faces...), newEncoder(1)))
			got, _, err := p.Detect(t.Context(), blank(t, size, size), 0)
			if err != nil {
				t.Fatal(err)
			}
			scale := float32(size) / 320
			want := make([]face.Face, len(faces))
			for i, f := range faces {
				at := func(x, y float32) face.Point {
					return face.Point{X: (f.x + x*f.side) * scale, Y: (f.y + y*f.side) * scale}
				}
				want[i] = face.Face{
					Box: face.Box{X: at(-0.5, 0).X, Y: at(0, -0.5).Y, Width: f.side * scale, Height: f.side * scale},
					Landmarks: face.Landmarks{ // the subject's right is the image's left
						RightEye: at(-0.2, -0.2), LeftEye: at(0.2, -0.2), Nose: at(0, 0.03),
						RightMouth: at(-0.17, 0.26), LeftMouth: at(0.17, 0.26),
					},
					DetectionScore: f.score,
				}
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(face.Face{}, "Quality"), cmpopts.EquateApprox(1e-3, 0.02)); diff != "" {
				t.Errorf("faces (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSuppress keeps one detection of a face, the best, and no face apart.
func TestSuppress(t *testing.T) {
	t.Parallel()
	best := spot{x: 100, y: 100, side: 60, score: 0.9}
	for name, tt := range map[string]struct {
		faces []spot
		want  int
	}{
		"the same face, shifted": {[]spot{best, {x: 116, y: 100, side: 60, score: 0.8}}, 1},
		"the same face, larger":  {[]spot{best, {x: 100, y: 116, side: 80, score: 0.8}}, 1},
		"a shoulder apart":       {[]spot{best, {x: 150, y: 100, side: 60, score: 0.8}}, 2},
		"too weak":               {[]spot{best, {x: 250, y: 250, side: 60, score: 0.59}}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(t, options(newDetector(tt.faces...), newEncoder(1)))
			got, _, err := p.Detect(t.Context(), blank(t, 320, 320), 0)
			if err != nil || len(got) != tt.want {
				t.Fatalf("%d faces, %v; want %d", len(got), err, tt.want)
			}
			if !slices.ContainsFunc(got, func(f face.Face) bool { return f.DetectionScore == best.score }) {
				t.Error("the best detection was dropped")
			}
		})
	}
}

// TestPick holds what counts as one face, and as the largest.
func TestPick(t *testing.T) {
	t.Parallel()
	main := spot{x: 200, y: 160, side: 120, score: 0.9}
	for name, tt := range map[string]struct {
		faces []spot
		pick  embed.Pick
		want  []float32 // sides
		kind  face.Kind
		why   []face.Reason
	}{
		"only, one":                       {faces: []spot{main}, want: []float32{120}},
		"only, none":                      {kind: face.NoFace, why: []face.Reason{face.ReasonNoFace}},
		"only, two alike":                 {faces: []spot{main, {60, 60, 100, 0.9}}, kind: face.ManyFaces, why: []face.Reason{face.ReasonExceedsMaxFaces}},
		"only, nearly as large, beside":   {faces: []spot{{160, 160, 120, 0.9}, {60, 160, 100, 0.9}}, kind: face.ManyFaces, why: []face.Reason{face.ReasonExceedsMaxFaces}},
		"only, half as large, aside":      {faces: []spot{main, {60, 60, 60, 0.9}}, want: []float32{120}},
		"only, as large, cut by the edge": {faces: []spot{main, {10, 160, 110, 0.9}}, want: []float32{120}},
		"only, larger, at the edge":       {faces: []spot{{160, 160, 100, 0.9}, {5, 60, 110, 0.9}}, want: []float32{100}},
		"only, background":                {faces: []spot{main, {60, 60, 36, 0.9}, {60, 260, 20, 0.9}}, want: []float32{120}},
		"only, beside a hand":             {faces: []spot{main, {60, 60, 100, 0.65}}, want: []float32{120}},
		"only, nothing better":            {faces: []spot{{160, 160, 100, 0.65}}, want: []float32{100}},
		"largest, a hand":                 {faces: []spot{main, {70, 70, 130, 0.65}}, pick: embed.PickLargest, want: []float32{120}},
		"largest":                         {faces: []spot{{60, 60, 100, 0.95}, main}, pick: embed.PickLargest, want: []float32{120}},
		"largest, none":                   {pick: embed.PickLargest, kind: face.NoFace, why: []face.Reason{face.ReasonNoFace}},
		"all":                             {faces: []spot{{60, 60, 100, 0.95}, {60, 260, 20, 0.9}, main}, pick: embed.PickAll, want: []float32{120, 100, 20}},
		"all, none":                       {pick: embed.PickAll, want: []float32{}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(t, options(newDetector(tt.faces...), newEncoder(3, 0, 4, 0)))
			samples, err := p.Embed(t.Context(), blank(t, 320, 320), tt.pick)
			if tt.why != nil {
				if !errors.Is(err, tt.kind) || !slices.Equal(reasons(err), tt.why) {
					t.Fatalf("got %v %v, want %v %v", err, reasons(err), tt.kind, tt.why)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := make([]float32, len(samples))
			for i, s := range samples {
				got[i] = s.Face.Box.Width
				if diff := cmp.Diff(face.Embedding{0.6, 0, 0.8, 0}, s.Embedding, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
					t.Errorf("embedding (-want +got):\n%s", diff)
				}
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateApprox(1e-4, 0)); diff != "" {
				t.Errorf("sides (-want +got):\n%s", diff)
			}
		})
	}
}

// TestMaxFaces keeps the largest faces.
func TestMaxFaces(t *testing.T) {
	t.Parallel()
	o := options(newDetector(spot{40, 40, 30, 0.9}, spot{120, 120, 60, 0.9}, spot{240, 240, 90, 0.9}), newEncoder(1))
	o.MaxFaces = 2
	p := newPipeline(t, o)
	for _, tt := range []struct{ ask, want int }{{0, 2}, {1, 1}, {3, 2}} {
		faces, found, err := p.Detect(t.Context(), blank(t, 320, 320), tt.ask)
		if err != nil || len(faces) != tt.want || found != 3 || faces[0].Box.Width < 89 {
			t.Errorf("at most %d: %d faces of %d, %v; want %d of 3, the largest first", tt.ask, len(faces), found, err, tt.want)
		}
	}
	samples, err := p.Embed(t.Context(), blank(t, 320, 320), embed.PickAll)
	if err != nil || len(samples) != 2 || samples[0].Found != 3 {
		t.Errorf("%d samples, %v; want 2 of 3", len(samples), err)
	}
}

// TestSecondLook holds when the detector looks again, and at which size.
func TestSecondLook(t *testing.T) {
	t.Parallel()
	large, small := spot{160, 160, 100, 0.9}, spot{160, 160, 30, 0.9}
	for name, tt := range map[string]struct {
		photo int
		faces []spot
		pick  embed.Pick
		looks []int
	}{
		"nothing more to see":             {320, nil, embed.PickAll, []int{320, 320, 320, 320}}, // upright and by quarter turns
		"one face, large":                 {1000, []spot{large}, embed.PickOnly, []int{320}},
		"largest, large":                  {1000, []spot{large}, embed.PickLargest, []int{320}},
		"one face, small":                 {1000, []spot{small}, embed.PickOnly, []int{320, 1024}},
		"none found":                      {1000, nil, embed.PickLargest, []int{320, 1024, 320, 320, 320, 640, 640, 640}},
		"all":                             {1000, []spot{large}, embed.PickAll, []int{320, 1024}},
		"all, in a middling photo":        {400, []spot{large}, embed.PickAll, []int{320, 640}},
		"all, in a photo past the ladder": {2100, []spot{large}, embed.PickAll, []int{320, 1024}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var looks []int
			d := newDetector(tt.faces...)
			write := d.run
			d.run = func(ctx context.Context, s *scriptedSession) error {
				looks = append(looks, s.side)
				return write(ctx, s)
			}
			p := newPipeline(t, options(d, newEncoder(1)))
			_, err := p.Embed(t.Context(), blank(t, tt.photo, tt.photo), tt.pick)
			if err != nil && !errors.Is(err, face.NoFace) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.looks, looks); diff != "" {
				t.Errorf("looks (-want +got):\n%s", diff)
			}
		})
	}
}

// TestBadNumbers feeds outputs that no sound network gives.
func TestBadNumbers(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	t.Run("detector", func(t *testing.T) {
		t.Parallel()
		for _, v := range []float32{nan, inf, -inf, math.MaxFloat32, 1e20, 0.7} {
			d := newDetector()
			d.run = func(_ context.Context, s *scriptedSession) error {
				for i, out := range s.outputs {
					for j := range out {
						if out[j] = v; i%outKinds <= outObj {
							out[j] = 0.9
						}
					}
				}
				return nil
			}
			p := newPipeline(t, options(d, newEncoder(1)))
			faces, _, err := p.Detect(t.Context(), blank(t, 320, 320), 0)
			if err != nil || len(faces) != 0 {
				t.Errorf("outputs of %v: %d faces, %v", v, len(faces), err)
			}
		}
	})
	for name, numbers := range map[string][]float32{"NaN": {1, nan}, "infinity": {1, inf}, "zeros": {0, 0}} {
		t.Run("encoder "+name, func(t *testing.T) {
			t.Parallel()
			p := newPipeline(t, options(newDetector(spot{160, 160, 100, 0.9}), newEncoder(numbers...)))
			if _, err := p.Embed(t.Context(), blank(t, 320, 320), embed.PickOnly); face.KindOf(err) != face.Internal {
				t.Errorf("got %v, want an internal error", err)
			}
		})
	}
}

// TestNewRefuses holds what options are refused, and that the error says why.
func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*embed.Options){
		"Options.Detector":        func(o *embed.Options) { o.Detector = nil },
		"Options.Encoder":         func(o *embed.Options) { o.Encoder = nil },
		"Options.DetectorModel":   func(o *embed.Options) { o.DetectorModel = encoderModel() },
		"Options.EncoderModel":    func(o *embed.Options) { o.EncoderModel = detectorModel() },
		"want a square":           func(o *embed.Options) { o.DetectorModel.Input.Width, o.DetectorModel.Input.Height = 640, 480 },
		"no fixed input":          func(o *embed.Options) { o.EncoderModel.Input.Width = 0 },
		"alignment points":        func(o *embed.Options) { o.EncoderModel.Alignment = o.EncoderModel.Alignment[:4] },
		"Options.Slots":           func(o *embed.Options) { o.Slots = -1 },
		"Options.QueueTime":       func(o *embed.Options) { o.QueueTime = -1 },
		"Options.MaxFaces":        func(o *embed.Options) { o.MaxFaces = -1 },
		`decoder "other"`:         func(o *embed.Options) { o.DetectorModel.Decoder = "other" },
		"output kps_8 is missing": func(o *embed.Options) { o.DetectorModel.Outputs = o.DetectorModel.Outputs[:11] },
		"gives 4 numbers":         func(o *embed.Options) { o.EncoderModel.Dimension = 5 },
		"detector output": func(o *embed.Options) {
			slices.Reverse(o.DetectorModel.Outputs)
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			detector, encoder := newDetector(), newEncoder()
			o := options(detector, encoder)
			change(&o)
			_, err := embed.New(o)
			if !errors.Is(err, face.Invalid) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want one that says %q", err, want)
			}
			if detector.open+encoder.open != 0 {
				t.Error("sessions were left open")
			}
		})
	}
}

// held is an encoder whose runs wait until the test lets each go.
type held struct {
	*scripted
	started chan struct{}
	release chan struct{}
}

func newHeld() held {
	h := held{newEncoder(1), make(chan struct{}), make(chan struct{})}
	run := h.run
	h.run = func(ctx context.Context, s *scriptedSession) error {
		h.started <- struct{}{}
		select {
		case <-h.release:
			return run(ctx, s)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return h
}

// TestGate fills the slots and the queue, and holds who is turned away, who
// waits, and what ends a wait.
func TestGate(t *testing.T) {
	t.Parallel()
	h := newHeld()
	o := options(newDetector(spot{160, 160, 100, 0.9}), h)
	o.Queue, o.QueueTime = 1, time.Hour
	waiting := make(chan float64, 8)
	o.ObserveWait = func(seconds float64) { waiting <- seconds }
	p := newPipeline(t, o)
	photo := blank(t, 320, 320)
	embedOne := func(ctx context.Context) <-chan error {
		done := make(chan error, 1)
		go func() {
			_, err := p.Embed(ctx, photo, embed.PickOnly)
			done <- err
		}()
		return done
	}
	expect := func(what string, done <-chan error, want face.Kind) {
		t.Helper()
		if err := <-done; !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}

	first := embedOne(t.Context())
	<-h.started
	// One of two more waits, the other is turned away: which is which only
	// the gate knows.
	ctx, cancel := context.WithCancel(t.Context())
	second, third := embedOne(ctx), embedOne(ctx)
	select {
	case err := <-second:
		second = third
		if !errors.Is(err, face.Overloaded) {
			t.Errorf("got %v, want overloaded", err)
		}
	case err := <-third:
		if !errors.Is(err, face.Overloaded) {
			t.Errorf("got %v, want overloaded", err)
		}
	}
	cancel()
	expect("cancelled in the queue", second, face.Canceled)

	expired, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	expect("late before the gate", embedOne(expired), face.Deadline)

	h.release <- struct{}{}
	if err := <-first; err != nil {
		t.Errorf("the request in the slot: %v", err)
	}

	// A cancelled run gives its slot back.
	ctx, cancel = context.WithCancel(t.Context())
	running := embedOne(ctx)
	<-h.started
	cancel()
	expect("cancelled while it ran", running, face.Canceled)
	last := embedOne(t.Context())
	<-h.started
	h.release <- struct{}{}
	if err := <-last; err != nil {
		t.Errorf("after a cancelled run: %v", err)
	}
	if len(waiting) != 3 { // those who got no slot are not counted
		t.Errorf("%d waits were observed, want 3", len(waiting))
	}
}

// TestClose waits for the request that runs and turns the others away.
func TestClose(t *testing.T) {
	t.Parallel()
	h := newHeld()
	detector := newDetector(spot{160, 160, 100, 0.9})
	o := options(detector, h)
	o.QueueTime = time.Hour
	p, err := embed.New(o)
	if err != nil {
		t.Fatal(err)
	}
	photo := blank(t, 320, 320)
	running := make(chan error, 1)
	go func() {
		_, err := p.Embed(context.Background(), photo, embed.PickOnly)
		running <- err
	}()
	<-h.started
	var closers sync.WaitGroup
	closed := make(chan struct{})
	closers.Go(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		close(closed)
	})
	// Close has begun when requests are refused as the service stops; before
	// that they wait in the queue until it does.
	if _, err := p.Embed(t.Context(), photo, embed.PickOnly); !errors.Is(err, face.Unavailable) {
		t.Errorf("a request while closing: %v, want unavailable", err)
	}
	select {
	case <-closed:
		t.Error("Close did not wait for the request that ran")
	default:
	}
	h.release <- struct{}{}
	if err := <-running; err != nil {
		t.Errorf("the request that ran: %v", err)
	}
	closers.Wait()
	if err := p.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
	if detector.open+h.open != 0 {
		t.Error("sessions were left open")
	}
	if _, _, err := p.Detect(t.Context(), photo, 0); !errors.Is(err, face.Unavailable) {
		t.Errorf("a request after Close: %v, want unavailable", err)
	}
}

// TestStages observes each stage of a request.
func TestStages(t *testing.T) {
	t.Parallel()
	stages := map[string]int{}
	o := options(newDetector(spot{160, 160, 100, 0.9}), newEncoder(1))
	o.Observe = func(stage string, seconds float64) {
		if stages[stage]++; seconds < 0 {
			t.Errorf("%s took %v", stage, seconds)
		}
	}
	p := newPipeline(t, o)
	if _, err := p.Embed(t.Context(), blank(t, 320, 320), embed.PickOnly); err != nil {
		t.Fatal(err)
	}
	want := map[string]int{embed.StageDecode: 1, embed.StageDetect: 1, embed.StageAlign: 1, embed.StageEncode: 1}
	if diff := cmp.Diff(want, stages); diff != "" {
		t.Errorf("stages (-want +got):\n%s", diff)
	}
}

// TestBadPhotos passes the errors of decoding through.
func TestBadPhotos(t *testing.T) {
	t.Parallel()
	p := newPipeline(t, options(newDetector(), newEncoder(1)))
	photo := blank(t, 320, 320)
	for name, tt := range map[string]struct {
		photo []byte
		want  face.Kind
	}{
		"empty":     {nil, face.Invalid},
		"text":      {[]byte("a photo, honestly"), face.UnsupportedImage},
		"truncated": {photo[:len(photo)/2], face.InvalidImage},
	} {
		if _, err := p.Embed(t.Context(), tt.photo, embed.PickOnly); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
	if _, _, err := p.Detect(t.Context(), photo, 0); err != nil {
		t.Errorf("a good photo afterwards: %v", err)
	}
}

// FuzzDetect gives the detector's outputs any numbers at all.
func FuzzDetect(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0x80, 0x3f}) // ones
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f, 0, 0, 0x80, 0x3f, 0xcd, 0xcc, 0x4c, 0x3f})
	photo := blank(f, 320, 320)
	var numbers []byte
	d := newDetector()
	d.run = func(_ context.Context, s *scriptedSession) error {
		i := 0
		for _, out := range s.outputs {
			for j := range out {
				out[j] = 0
				if len(numbers) >= 4 {
					out[j] = math.Float32frombits(binary.LittleEndian.Uint32(numbers[i:]))
					i = (i + 4) % (len(numbers) - 3)
				}
			}
		}
		return nil
	}
	p := newPipeline(f, options(d, newEncoder(1)))
	finite := func(numbers ...float32) bool {
		return !slices.ContainsFunc(numbers, func(v float32) bool { return v-v != 0 })
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		numbers = data
		faces, _, err := p.Detect(t.Context(), photo, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, got := range faces {
			b, q := got.Box, got.Quality
			if i > 0 && b.Area() > faces[i-1].Box.Area() {
				t.Error("not the largest first")
			}
			if !(b.Area() > 0) || !(got.DetectionScore >= 0.6 && got.DetectionScore <= 1) {
				t.Errorf("box %v of score %v", b, got.DetectionScore)
			}
			if !finite(b.X, b.Y, q.Sharpness, q.Brightness, q.Pose.Yaw, q.Pose.Pitch, q.Pose.Roll, q.InterocularPx) ||
				!(q.Score >= 0 && q.Score <= 1) || (q.Score < 0.5) != (len(q.Reasons) > 0) {
				t.Errorf("quality %+v", q)
			}
		}
	})
}
