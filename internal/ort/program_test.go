package ort_test

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// compiled is a program whose output is twice its input.
func compiled(t *testing.T, r *ort.Runtime, shape ...int64) grad.Program {
	t.Helper()
	g := grad.NewGraph()
	p, err := g.Compile(r, g.Scale(g.Input("x", shape...), 2))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closed(t *testing.T, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestProgramRefuses(t *testing.T) {
	t.Parallel()
	r := orttest.Runtime(t)
	g := grad.NewGraph()
	x := g.Input("x", 2)
	good, err := g.Marshal(g.Relu(x))
	if err != nil {
		t.Fatal(err)
	}
	in, out := []grad.Port{{Name: "x", Shape: []int64{2}}}, []grad.Port{{Name: "Relu:0", Shape: []int64{2}}}
	for name, c := range map[string]struct {
		model   []byte
		in, out []grad.Port
		words   string
	}{
		"nothing":           {nil, in, out, "refuses"},
		"text":              {[]byte("not a model"), in, out, "refuses"},
		"unknown operator":  {bytes.ReplaceAll(good, []byte("Relu"), []byte("Rule")), in, []grad.Port{{Name: "Rule:0", Shape: []int64{2}}}, "refuses"},
		"truncated":         {good[:len(good)/2], in, out, "refuses"},
		"no inputs":         {good, nil, out, "0 inputs"},
		"no outputs":        {good, in, nil, "0 outputs"},
		"a shape of none":   {good, []grad.Port{{Name: "x"}}, out, "x"},
		"an empty shape":    {good, []grad.Port{{Name: "x", Shape: []int64{0}}}, out, "x"},
		"a shape too large": {good, in, []grad.Port{{Name: "Relu:0", Shape: []int64{1 << 40, 1 << 40}}}, "Relu:0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Compile(c.model, c.in, c.out)
			wantError(t, err, face.Invalid, c.words)
		})
	}

	// A graph that no input has a part in.
	g = grad.NewGraph()
	_, err = g.Compile(r, g.Relu(g.Scalar(1)))
	wantError(t, err, face.Invalid, "0 inputs")
}

func TestProgramsAtOnce(t *testing.T) {
	t.Parallel()
	r := orttest.Runtime(t)
	var wg sync.WaitGroup
	for i := range 2 {
		p := compiled(t, r, 64)
		defer closed(t, p)
		wg.Go(func() {
			for k := range 50 {
				x := float32(100*i + k)
				copy(p.Input(0), slices.Repeat([]float32{x}, 64))
				if err := p.Run(t.Context()); err != nil {
					t.Error(err)
					return
				}
				if got := p.Output(0); slices.Min(got) != 2*x || slices.Max(got) != 2*x {
					t.Errorf("twice %v is %v", x, got)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestProgramCanceled(t *testing.T) {
	t.Parallel()
	g := grad.NewGraph()
	x := g.Input("x", 1, 16, 256, 256)
	y := x
	for range 24 {
		y = g.Conv(y, g.Constant(slices.Repeat([]float32{0.01}, 16*16*9), 16, 16, 3, 3), nil, grad.Window{Pads: []int64{1, 1, 1, 1}})
	}
	p, err := g.Compile(orttest.Runtime(t), g.Total(y))
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, p)
	fill(p.Input(0), 3)
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := p.Output(0)[0]

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, p.Run(ended), face.Canceled)
	// Nobody says when a run is in its middle, so it is tried until one was
	// met there.
	for met := false; !met; {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := p.Run(ctx); err != nil {
			wantError(t, err, face.Canceled)
			met = strings.Contains(err.Error(), "terminate")
		}
	}
	late, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	<-late.Done()
	wantError(t, p.Run(late), face.Deadline)

	if err := p.Run(t.Context()); err != nil {
		t.Fatalf("the program is of no use after a cancelled run: %v", err)
	}
	if got := p.Output(0)[0]; got != want {
		t.Errorf("%v after a cancelled run, was %v", got, want)
	}
}

// A program outlives the runtime that made it, and nothing runs after Close.
func TestProgramClosed(t *testing.T) {
	t.Parallel()
	r, err := ort.Open(ort.Options{Library: orttest.Library(t)})
	if err != nil {
		t.Fatal(err)
	}
	first, second := compiled(t, r, 4), compiled(t, r, 4)
	closed(t, r)
	g := grad.NewGraph()
	_, err = g.Compile(r, g.Relu(g.Input("x", 1)))
	wantError(t, err, face.Internal, "closed")

	closed(t, first)
	closed(t, first)
	wantError(t, first.Run(t.Context()), face.Internal, "closed")
	for name, memory := range map[string]func(int) []float32{"input": first.Input, "output": first.Output} {
		if len(memory(0)) > 0 {
			t.Errorf("the memory of the closed program's %s is there", name)
		}
	}
	fill(second.Input(0), 1)
	if err := second.Run(t.Context()); err != nil {
		t.Errorf("an open program of a closed runtime does not run: %v", err)
	}
	closed(t, second)
}
