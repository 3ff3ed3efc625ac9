package ort_test

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// detail is what the operator reads.
func detail(err error) string {
	if e, ok := errors.AsType[*face.Error](err); ok {
		return e.Detail
	}
	return ""
}

// wantError checks an error's kind, and that its detail has all the words.
func wantError(t *testing.T, err error, kind face.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", kind)
	}
	if got := face.KindOf(err); got != kind {
		t.Errorf("kind %v, want %v: %v", got, kind, err)
	}
	for _, w := range words {
		if !strings.Contains(detail(err), w) {
			t.Errorf("detail %q lacks %q", detail(err), w)
		}
	}
}

func open(t *testing.T, n embed.Network, shape ...int64) embed.Session {
	t.Helper()
	s, err := n.Session(shape...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func fill(x []float32, seed uint32) {
	for i := range x {
		seed = seed*1664525 + 1013904223
		x[i] = float32(seed >> 24)
	}
}

func TestShapes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		model   string
		shape   []int64
		outputs []int // lengths
	}{
		{orttest.Encoder, []int64{1, 3, 112, 112}, []int{256}},
		{orttest.Detector, []int64{1, 3, 320, 256}, []int{1280, 320, 80, 1280, 320, 80, 5120, 1280, 320, 12800, 3200, 800}},
		{orttest.Detector, []int64{2, 3, 64, 64}, []int{128, 32, 8, 128, 32, 8, 512, 128, 32, 1280, 320, 80}},
	} {
		t.Run(c.model, func(t *testing.T) {
			t.Parallel()
			s := open(t, orttest.Network(t, c.model), c.shape...)
			fill(s.Input(), 1)
			if err := s.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			for i, n := range c.outputs {
				out := s.Output(i)
				if len(out) != n {
					t.Errorf("output %d has %d numbers, want %d", i, len(out), n)
				}
				for _, v := range out {
					if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
						t.Fatalf("output %d is not finite", i)
					}
				}
			}
		})
	}
}

// A run gives the same numbers whatever else runs, and the sessions of one
// network do not share tensors.
func TestConcurrentSessions(t *testing.T) {
	t.Parallel()
	n := orttest.Network(t, orttest.Encoder)
	want := make([][]float32, 4)
	for i := range want {
		s := open(t, n, 1, 3, 112, 112)
		fill(s.Input(), uint32(i))
		if err := s.Run(context.Background()); err != nil {
			t.Fatal(err)
		}
		want[i] = append(want[i], s.Output(0)...)
	}
	var wg sync.WaitGroup
	for i := range want {
		s := open(t, n, 1, 3, 112, 112)
		wg.Go(func() {
			for range 5 {
				fill(s.Input(), uint32(i))
				if err := s.Run(t.Context()); err != nil {
					t.Error(err)
					return
				}
				for j, v := range s.Output(0) {
					if v != want[i][j] {
						t.Errorf("session %d: output %d is %v, want %v", i, j, v, want[i][j])
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestRunCanceled(t *testing.T) {
	t.Parallel()
	s := open(t, orttest.Network(t, orttest.Detector), 1, 3, 2048, 2048)
	fill(s.Input(), 7)
	if err := s.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	want := append([]float32(nil), s.Output(0)...)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, s.Run(ended), face.Canceled)

	// Nobody says when a run is in its middle, so it is tried until one was
	// met there. At this size that is nearly always the first.
	for met := false; !met; {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if err := s.Run(ctx); err != nil {
			wantError(t, err, face.Canceled)
			met = strings.Contains(err.Error(), "terminate")
		}
	}

	late, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	<-late.Done()
	wantError(t, s.Run(late), face.Deadline)

	clear(s.Output(0))
	if err := s.Run(t.Context()); err != nil {
		t.Fatalf("the session is of no use after a cancelled run: %v", err)
	}
	for i, v := range s.Output(0) {
		if v != want[i] {
			t.Fatalf("output %d is %v after a cancelled run, was %v", i, v, want[i])
		}
	}
}

func TestSessionShapeRefused(t *testing.T) {
	t.Parallel()
	free, fixed := orttest.Network(t, orttest.Detector), orttest.Network(t, orttest.Encoder)
	for name, c := range map[string]struct {
		net   embed.Network
		shape []int64
	}{
		"nothing":        {free, nil},
		"rank":           {free, []int64{3, 64, 64}},
		"zero":           {free, []int64{1, 3, 0, 64}},
		"negative":       {free, []int64{1, 3, -64, -64}},
		"channels":       {free, []int64{1, 4, 64, 64}},
		"not a multiple": {free, []int64{1, 3, 64, 65}},
		"too large":      {free, []int64{1, 3, 1 << 40, 1 << 40}},
		"other size":     {fixed, []int64{1, 3, 128, 128}},
		"batch":          {fixed, []int64{2, 3, 112, 112}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.net.Session(c.shape...)
			wantError(t, err, face.Invalid, "input shape")
		})
	}
}

func TestLoadRefusesContradictions(t *testing.T) {
	t.Parallel()
	r, model := orttest.Runtime(t), orttest.Model(t, orttest.Encoder)
	data, err := model.ReadVerified()
	if err != nil {
		t.Fatal(err)
	}
	in, out := model.Input.Name, model.Outputs[0].Name
	for name, c := range map[string]struct {
		change func(*embed.Manifest)
		words  []string
	}{
		"input name":  {func(m *embed.Manifest) { m.Input.Name = "else" }, []string{strconv.Quote(in), `"else"`}},
		"input size":  {func(m *embed.Manifest) { m.Input.Width = 128 }, []string{"[1 3 112 112]", "[-1 3 112 128]"}},
		"free size":   {func(m *embed.Manifest) { m.Input.Width, m.Input.Height, m.Input.Multiple = 0, 0, 32 }, []string{"[-1 3 -1 -1]"}},
		"output name": {func(m *embed.Manifest) { m.Outputs = []embed.Output{{Name: "fc1", Shape: []int64{1, 256}}} }, []string{`"fc1"`, out}},
		"output size": {func(m *embed.Manifest) { m.Outputs = []embed.Output{{Name: out, Shape: []int64{1, 128}}} }, []string{"[1 256]", "[1 128]"}},
		"output rank": {func(m *embed.Manifest) { m.Outputs = []embed.Output{{Name: out, Shape: []int64{256}}} }, []string{"[256]"}},
		"both": {func(m *embed.Manifest) {
			m.Input.Name = "else"
			m.Outputs = []embed.Output{{Name: "fc1", Shape: []int64{1, 256}}}
		}, []string{`"else"`, `"fc1"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := model.Manifest
			c.change(&m)
			_, err := r.Load(data, m)
			wantError(t, err, face.Invalid, append(c.words, model.ID)...)
		})
	}
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("not a model"), "truncated": data[:len(data)/2]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := r.Load(data, model.Manifest)
			wantError(t, err, face.Invalid, model.ID)
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	lib := orttest.Library(t)
	for name, c := range map[string]struct {
		options ort.Options
		kind    face.Kind
		words   []string
	}{
		"unknown provider": {ort.Options{Library: lib, Provider: "abacus"}, face.Invalid, []string{"abacus", "cuda"}},
		"threads":          {ort.Options{Library: lib, Threads: -1}, face.Invalid, []string{"threads"}},
		"no such library":  {ort.Options{Library: filepath.Join(t.TempDir(), "none.so")}, face.Unavailable, []string{"none.so"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ort.Open(c.options)
			wantError(t, err, c.kind, c.words...)
		})
	}
	for _, provider := range []string{"cuda", "tensorrt", "coreml", "openvino"} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			r, err := ort.Open(ort.Options{Library: lib, Provider: provider})
			if err == nil {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				sharedtest.Missing(t, "a library without "+provider)
			}
			wantError(t, err, face.Unavailable, provider, ort.LibraryEnv)
		})
	}
}

// Whatever is closed first, the last one to be closed frees, and only once.
func TestCloseInAnyOrder(t *testing.T) {
	t.Parallel()
	model := orttest.Model(t, orttest.Detector)
	data, err := model.ReadVerified()
	if err != nil {
		t.Fatal(err)
	}
	r, err := ort.Open(ort.Options{Library: orttest.Library(t)})
	if err != nil {
		t.Fatal(err)
	}
	n, err := r.Load(data, model.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.Session(1, 3, 64, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []func() error{r.Close, r.Close, n.Close, n.Close} {
		if err := c(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Run(t.Context()); err != nil {
		t.Errorf("an open session of a closed network does not run: %v", err)
	}
	_, err = n.Session(1, 3, 64, 64)
	wantError(t, err, face.Internal)
	_, err = r.Load(data, model.Manifest)
	wantError(t, err, face.Internal)
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, s.Run(t.Context()), face.Internal)
}

func TestVersion(t *testing.T) {
	t.Parallel()
	r := orttest.Runtime(t)
	if !strings.HasPrefix(r.Version(), "1.") || r.Provider() != "cpu" {
		t.Errorf("version %q, provider %q", r.Version(), r.Provider())
	}
}
