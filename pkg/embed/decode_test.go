package embed

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
)

// stubborn is the context of a decoder that only ends by itself: the first
// look at it returns when that is allowed.
type stubborn struct {
	context.Context
	asked           atomic.Bool
	looked, allowed chan struct{}
}

// Err implements [context.Context].
func (c *stubborn) Err() error {
	if c.asked.CompareAndSwap(false, true) {
		close(c.looked)
		<-c.allowed
	}
	return c.Context.Err()
}

// TestDecodeIsAnswered checks that a caller is answered while a decoder goes
// on, and that the worker decodes nothing else before that one has ended.
func TestDecodeIsAnswered(t *testing.T) {
	t.Parallel()
	w := &worker{p: &Pipeline{o: Options{Observe: func(string, float64) {}}}}
	ctx, cancel := context.WithCancel(t.Context())
	going := &stubborn{Context: ctx, looked: make(chan struct{}), allowed: make(chan struct{})}
	go func() {
		<-going.looked
		cancel()
	}()
	if _, err := w.decode(going, nil, 0); face.KindOf(err) != face.Canceled {
		t.Error(err)
	}
	first := w.decoding
	if _, err := w.decode(ctx, nil, 0); face.KindOf(err) != face.Canceled || w.decoding != first {
		t.Error("the next decode did not wait:", err)
	}
	close(going.allowed)
	if _, err := w.decode(t.Context(), nil, 0); face.KindOf(err) != face.Invalid || w.decoding == first {
		t.Error("an empty photo:", err)
	}
}
