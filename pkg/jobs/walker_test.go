package jobs_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"image"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/style"
)

// walker is a small Transferrer that really walks: each iteration changes a
// state from which the picture is drawn, so that one which was left out, or
// made twice, or made of other inputs, shows.
type walker struct {
	// step is called in each iteration, and its error ends the run; may be nil.
	step func(ctx context.Context, t style.Task, iteration int) error
	// check, if there is one, is what Check says.
	check func(style.Task) error
}

func (w walker) Check(t style.Task) error {
	if w.check != nil {
		return w.check(t)
	}
	return nil
}

func initialState(t style.Task) [32]byte {
	h := sha256.New()
	h.Write(t.Content.Pix)
	for _, s := range t.Styles {
		h.Write(s.Pix)
	}
	for _, m := range t.Masks {
		h.Write(m.Pix)
	}
	_ = binary.Write(h, binary.LittleEndian, t.Params.Seed)
	return [32]byte(h.Sum(nil))
}

func draw(state [32]byte) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range img.Pix {
		img.Pix[i] = state[i%32] | byte(i%4/3*255)
	}
	return img
}

func (w walker) Transfer(ctx context.Context, t style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	state, done := initialState(t), 0
	first := state
	if c := t.Checkpoint; c != nil {
		if len(c) != 72 || [32]byte(c[:32]) != first {
			return nil, face.Errorf(face.Invalid, "walker", "params.checkpoint: another task's")
		}
		done, state = int(binary.LittleEndian.Uint64(c[32:])), [32]byte(c[40:])
	}
	for n := t.Params.Iterations; done < n; {
		if err := ctx.Err(); err != nil {
			return nil, face.Wrap(face.Canceled, "walker", err)
		}
		if w.step != nil {
			if err := w.step(ctx, t, done+1); err != nil {
				return nil, err
			}
		}
		state = sha256.Sum256(state[:])
		done++
		err := observe(style.Report{
			Iteration: done, Iterations: n, Width: 64, Height: 64, Shrunk: 1,
			Loss: style.Loss{Total: 6 / float64(done), Content: 1 / float64(done), Style: 2 / float64(done), TV: 3 / float64(done)},
			ETA:  time.Duration(n-done) * time.Second,
			Checkpoint: func() ([]byte, error) {
				c := append(first[:len(first):len(first)], binary.LittleEndian.AppendUint64(nil, uint64(done))...)
				return append(c, state[:]...), nil
			},
			Preview: func() *image.RGBA { return draw(state) },
		})
		if err != nil {
			return nil, err
		}
	}
	return draw(state), nil
}
