package embed

import (
	stdcmp "cmp"
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
)

// heads is a session with the outputs of an SCRFD network: scores, boxes and
// points, of the strides 8, 16 and 32 each.
type heads struct {
	side, anchors int
	outputs       [9][]float32
}

func newHeads(side, anchors int) *heads {
	h := &heads{side: side, anchors: anchors}
	for level, stride := range strides() {
		n := anchors * (side / stride) * (side / stride)
		for kind, width := range [3]int{1, 4, 10} {
			h.outputs[3*kind+level] = make([]float32, n*width)
		}
	}
	return h
}

func (h *heads) Input() []float32          { return nil }
func (h *heads) Run(context.Context) error { return nil }
func (h *heads) Output(i int) []float32    { return h.outputs[i] }
func (h *heads) Close() error              { return nil }

// encode writes a detection into one anchor: the inverse of decode.
func (h *heads) encode(d detection, level, column, row, anchor int, logit bool) {
	stride := float32(strides()[level])
	columns := h.side / strides()[level]
	i := (row*columns+column)*h.anchors + anchor
	x, y := float32(column)*stride, float32(row)*stride
	score := d.score
	if logit {
		score = float32(math.Log(float64(score / (1 - score))))
	}
	h.outputs[level][i] = score
	copy(h.outputs[3+level][4*i:], []float32{(x - d.x0) / stride, (y - d.y0) / stride, (d.x1 - x) / stride, (d.y1 - y) / stride})
	for k, p := range d.points {
		h.outputs[6+level][10*i+2*k], h.outputs[6+level][10*i+2*k+1] = (p.X-x)/stride, (p.Y-y)/stride
	}
}

// scrfdManifest is a detector with outputs named by numbers, as published ones are.
func scrfdManifest(scores string) Manifest {
	m := Manifest{
		ID: "d", Task: TaskDetector, Decoder: "scrfd", Scores: scores, Threshold: 0.5,
		Input: Input{Name: "input.1", Multiple: 32, Order: "rgb", Scale: [3]float32{1, 1, 1}},
	}
	for i := range 9 {
		m.Outputs = append(m.Outputs, Output{Name: strconv.Itoa(443 + i), Shape: []int64{-1, []int64{1, 4, 10}[i/3]}})
	}
	return m
}

func mustDecoder(tb testing.TB, m Manifest) decoder {
	tb.Helper()
	d, err := newDecoder(m)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// TestSCRFDDecodes writes faces whose boxes and points are known into the
// outputs, and reads them back.
func TestSCRFDDecodes(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(27, 1))
	for range 200 {
		side := ladder()[rng.IntN(3)]
		anchors := 1 + rng.IntN(2)
		scores := []string{"", scoresProbability, scoresLogit}[rng.IntN(3)]
		h := newHeads(side, anchors)
		if scores == scoresLogit {
			for _, out := range h.outputs[:3] {
				for i := range out {
					out[i] = -9
				}
			}
		}
		w := &worker{decoder: mustDecoder(t, scrfdManifest(scores))}
		if err := w.decoder.check(h, side); err != nil {
			t.Fatal(err)
		}
		var want []detection
		for level, stride := range strides() {
			columns := side / stride
			column, row := rng.IntN(columns), rng.IntN(columns)
			x, y := float32(column*stride), float32(row*stride)
			size := float32(stride) * (2 + 6*rng.Float32())
			left, up := size*(0.1+0.8*rng.Float32()), size*(0.1+0.8*rng.Float32())
			d := detection{x0: x - left, y0: y - up, x1: x - left + size, y1: y - up + 1.2*size, score: 0.55 + 0.4*rng.Float32()}
			for k, p := range qualityTemplate() {
				d.points[k] = face.Point{X: d.x0 + p.X/qualitySide*size + rng.Float32(), Y: d.y0 + p.Y/qualitySide*size + rng.Float32()}
			}
			h.encode(d, level, column, row, rng.IntN(anchors), scores == scoresLogit)
			d.seen = d.side()
			want = append(want, d)
		}
		got, err := w.detect(t.Context(), rung{side, h})
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(detection{}), cmpopts.EquateApprox(0, 0.01)); err != nil || diff != "" {
			t.Fatalf("side %d, %d anchors, scores %q: %v (-want +got):\n%s", side, anchors, scores, err, diff)
		}
	}
}

// TestSCRFDRefusesManifests holds the errors for outputs that are not those of
// an SCRFD network with landmarks.
func TestSCRFDRefusesManifests(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*Manifest){
		"want 9, three of each":       func(m *Manifest) { m.Outputs = m.Outputs[1:] },
		"8 outputs, of which 2":       func(m *Manifest) { m.Outputs = m.Outputs[1:] },
		"no outputs for landmarks":    func(m *Manifest) { m.Outputs = m.Outputs[:6] },
		"10 outputs":                  func(m *Manifest) { m.Outputs = append(m.Outputs, m.Outputs[0]) },
		"output 443 has no shape":     func(m *Manifest) { m.Outputs[0].Shape = nil },
		`must be "scrfd" or "yunet"`:  func(m *Manifest) { m.Decoder = "retina" },
		`decoder "retina" is not kno`: func(m *Manifest) { m.Decoder = "retina" },
	} {
		m := scrfdManifest("")
		change(&m)
		if _, err := newDecoder(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error that says %q", err, want)
		}
	}
}

// TestSCRFDChecks gives the decoder sessions whose outputs are not what the
// manifest says.
func TestSCRFDChecks(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		scores string
		change func(*heads)
		side   int // 0: that of the heads
		want   string
	}{
		"as it should be":      {"", func(*heads) {}, 0, ""},
		"coarsest first":       {"", func(h *heads) { h.outputs[0], h.outputs[2] = h.outputs[2], h.outputs[0] }, 0, "order of the strides 8, 16, 32"},
		"boxes coarsest first": {"", func(h *heads) { h.outputs[3], h.outputs[5] = h.outputs[5], h.outputs[3] }, 0, "output 446 has 800 numbers"},
		"three anchors":        {"", func(h *heads) { *h = *newHeads(320, 3) }, 0, "1 or 2 anchors"},
		"of another size":      {"", func(h *heads) { *h = *newHeads(640, 2) }, 320, "320x320"},
		"not in multiples":     {"", func(*heads) {}, 300, "multiples of 32"},
		"logits unsaid":        {"", func(h *heads) { h.outputs[1][7] = -4.5 }, 0, `must say "scores": "logit"`},
		"above one":            {"", func(h *heads) { h.outputs[1][7] = 1.5 }, 0, "probabilities are 0 to 1"},
		"no logits":            {scoresLogit, func(*heads) {}, 0, `must not say "scores": "logit"`},
		"not a number":         {"", func(h *heads) { h.outputs[2][3] = float32(math.NaN()) }, 0, "output 445 gives scores that are not numbers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHeads(320, 2)
			side := stdcmp.Or(tt.side, h.side)
			tt.change(h)
			err := mustDecoder(t, scrfdManifest(tt.scores)).check(h, side)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	// One number less or more in any output is refused, never read.
	for i := range 9 {
		for _, by := range []int{-1, 1} {
			h := newHeads(320, 2)
			h.outputs[i] = make([]float32, len(h.outputs[i])+by)
			if mustDecoder(t, scrfdManifest("")).check(h, 320) == nil {
				t.Errorf("%d numbers in output %d are taken", len(h.outputs[i]), i)
			}
		}
	}
}

// TestSCRFDBadNumbers passes over what no sound network gives.
func TestSCRFDBadNumbers(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	for _, scores := range []string{"", scoresLogit} {
		for _, score := range []float32{0.9, nan, inf, -inf, 30} {
			for _, v := range []float32{nan, inf, -inf, math.MaxFloat32, -math.MaxFloat32, 1e20, 0.7, -3} {
				h := newHeads(320, 2)
				for i, out := range h.outputs {
					for j := range out {
						out[j] = v
						if i < 3 {
							out[j] = score
						}
					}
				}
				w := &worker{decoder: mustDecoder(t, scrfdManifest(scores))}
				if got, err := w.detect(t.Context(), rung{320, h}); err != nil || len(got) != 0 {
					t.Errorf("scores of %v, other outputs of %v: %d detections, %v", score, v, len(got), err)
				}
			}
		}
	}
}

// FuzzSCRFD fills the outputs with any numbers: what comes out is finite and
// near the picture.
func FuzzSCRFD(f *testing.F) {
	f.Add([]byte{}, false)
	f.Add([]byte{0, 0, 0x80, 0x3f, 0xff, 0xff, 0xff, 0x7f, 0xcd, 0xcc, 0x4c, 0x3f}, true)
	f.Add([]byte{0xcd, 0xcc, 0x4c, 0x3f, 0, 0, 0x80, 0x40, 0, 0, 0, 0x40, 0x9a, 0x99, 0x19, 0x3f, 0, 0, 0xa0, 0x40}, false)
	f.Fuzz(func(t *testing.T, data []byte, logit bool) {
		scores := ""
		if logit {
			scores = scoresLogit
		}
		h := newHeads(64, 2)
		i := 0
		for _, out := range h.outputs {
			for j := range out {
				if len(data) >= 4 {
					out[j] = math.Float32frombits(binary.LittleEndian.Uint32(data[i:]))
					i = (i + 4) % (len(data) - 3)
				}
			}
		}
		w := &worker{decoder: mustDecoder(t, scrfdManifest(scores))}
		found, err := w.detect(t.Context(), rung{64, h})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range suppress(nil, slices.Clone(found)) {
			numbers := []float32{d.x0, d.y0, d.x1, d.y1, d.seen}
			for _, p := range d.points {
				numbers = append(numbers, p.X, p.Y)
			}
			if slices.ContainsFunc(numbers, func(v float32) bool { return !(v > -128 && v < 512) }) || !(d.area() > 0) || !(d.score >= 0.5 && d.score <= 1) {
				t.Errorf("detection %+v", d)
			}
		}
	})
}
