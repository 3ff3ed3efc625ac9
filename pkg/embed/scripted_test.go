package embed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	goleak.VerifyTestMain(m)
}

// scripted is a network that gives the outputs a test wants: what no real
// weights would give on demand.
type scripted struct {
	outputs func(shape []int64) [][]float32 // allocates the outputs of one shape
	run     func(ctx context.Context, s *scriptedSession) error

	mu   sync.Mutex
	open int // sessions not closed
}

type scriptedSession struct {
	network *scripted
	side    int
	input   []float32
	outputs [][]float32
}

func (n *scripted) Session(shape ...int64) (embed.Session, error) {
	size := int64(1)
	for _, d := range shape {
		size *= d
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open++
	return &scriptedSession{n, int(shape[3]), make([]float32, size), n.outputs(shape)}, nil
}

func (n *scripted) Close() error { return nil }

func (s *scriptedSession) Input() []float32       { return s.input }
func (s *scriptedSession) Output(i int) []float32 { return s.outputs[i] }
func (s *scriptedSession) Run(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.network.run(ctx, s)
}

func (s *scriptedSession) Close() error {
	s.network.mu.Lock()
	defer s.network.mu.Unlock()
	s.network.open--
	return nil
}

// The outputs of the scripted detector, in an order that is not the usual one.
const (
	outCls = iota
	outObj
	outBox
	outPoints
	outKinds
)

func detectorModel() embed.Manifest {
	m := embed.Manifest{
		ID: "scripted-detector", Task: embed.TaskDetector, Decoder: "yunet", Threshold: 0.6,
		Input: embed.Input{Name: "input", Multiple: 32, Order: "bgr", Scale: [3]float32{1, 1, 1}},
	}
	for _, stride := range []int{32, 16, 8} {
		for _, kind := range []string{"cls", "obj", "bbox", "kps"} {
			m.Outputs = append(m.Outputs, embed.Output{Name: fmt.Sprintf("%s_%d", kind, stride)})
		}
	}
	return m
}

func encoderModel() embed.Manifest {
	return embed.Manifest{
		ID: "scripted-encoder", Task: embed.TaskEncoder, Dimension: 4,
		Input:     embed.Input{Name: "data", Width: 112, Height: 112, Order: "rgb", Scale: [3]float32{1, 1, 1}},
		Outputs:   []embed.Output{{Name: "out", Shape: []int64{1, 4}}},
		Alignment: [][2]float32{{38.2946, 51.6963}, {73.5318, 51.5014}, {56.0252, 71.7366}, {41.5493, 92.3655}, {70.7299, 92.2041}},
	}
}

// spot is a face that a scripted detector sees, in pixels of a 320x320 photo.
type spot struct {
	x, y, side float32 // centre and side of the box
	score      float32
}

// write puts the face into the outputs, at the grid whose cells suit its size.
func (f spot) write(s *scriptedSession) {
	scale := float32(s.side) / 320
	x, y, side := f.x*scale, f.y*scale, f.side*scale
	level := 0 // stride 32 is the first of the model's outputs
	switch {
	case side < 32:
		level = 2
	case side < 96:
		level = 1
	}
	stride := float32(int(32) >> level)
	columns := s.side / int(stride)
	column, row := int(x/stride), int(y/stride)
	i := row*columns + column
	out := s.outputs[level*outKinds:]
	out[outCls][i], out[outObj][i] = f.score, f.score
	put := func(at []float32, px, py float32) {
		at[0], at[1] = px/stride-float32(column), py/stride-float32(row)
	}
	box := out[outBox][4*i:]
	put(box, x, y)
	box[2] = float32(math.Log(float64(side / stride)))
	box[3] = box[2]
	// Points of a face that looks straight ahead.
	for k, p := range [][2]float32{{-0.2, -0.2}, {0.2, -0.2}, {0, 0.03}, {-0.17, 0.26}, {0.17, 0.26}} {
		put(out[outPoints][10*i+2*k:], x+p[0]*side, y+p[1]*side)
	}
}

// newDetector is a detector that sees the same faces in every photo.
func newDetector(faces ...spot) *scripted {
	return &scripted{
		outputs: func(shape []int64) [][]float32 {
			var out [][]float32
			for _, stride := range []int64{32, 16, 8} {
				cells := shape[2] / stride * (shape[3] / stride)
				for _, width := range []int64{outCls: 1, outObj: 1, outBox: 4, outPoints: 10} {
					out = append(out, make([]float32, cells*width))
				}
			}
			return out
		},
		run: func(_ context.Context, s *scriptedSession) error {
			for _, f := range faces {
				f.write(s)
			}
			return nil
		},
	}
}

// newEncoder is an encoder that gives the same numbers for every face.
func newEncoder(numbers ...float32) *scripted {
	return &scripted{
		outputs: func([]int64) [][]float32 { return [][]float32{make([]float32, 4)} },
		run: func(_ context.Context, s *scriptedSession) error {
			copy(s.outputs[0], numbers)
			return nil
		},
	}
}

func options(detector, encoder embed.Network) embed.Options {
	return embed.Options{
		Detector: detector, DetectorModel: detectorModel(),
		Encoder: encoder, EncoderModel: encoderModel(),
		Slots: 1,
	}
}

// newPipeline makes a pipeline and, at the end of the test, closes it and
// checks that it left no session open.
func newPipeline(tb testing.TB, o embed.Options) *embed.Pipeline {
	tb.Helper()
	p, err := embed.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
		for _, n := range []embed.Network{o.Detector, o.Encoder} {
			if s, ok := n.(*scripted); ok && s.open != 0 {
				tb.Errorf("%d sessions were left open", s.open)
			}
		}
	})
	return p
}

// blank is a grey PNG, not compressed: a compressed one would be refused as
// a decompression bomb.
func blank(tb testing.TB, width, height int) []byte {
	tb.Helper()
	encoder := png.Encoder{CompressionLevel: png.NoCompression}
	var buf bytes.Buffer
	img := image.NewGray(image.Rect(0, 0, width, height))
	for i := range img.Pix {
		img.Pix[i] = 128
	}
	if err := encoder.Encode(&buf, img); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func reasons(err error) []face.Reason {
	if e, ok := errors.AsType[*face.Error](err); ok {
		return e.Reasons
	}
	return nil
}

func hasReason(q face.Quality, r face.Reason) bool { return slices.Contains(q.Reasons, r) }
