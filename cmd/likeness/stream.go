package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
)

// patience lets a transfer go on after a fault, as long as it gets anywhere.
type patience struct {
	failures int // since it last got further
	wait     time.Duration
}

// progressed forgets the faults before.
func (p *patience) progressed() { p.failures, p.wait = 0, client.DefaultOptions().FirstWait }

// bear waits before the next attempt, or returns the fault when there is to be
// none.
func (p *patience) bear(ctx context.Context, t *tool, fault error) error {
	limits := client.DefaultOptions()
	p.failures++
	p.wait = max(p.wait, limits.FirstWait)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	pause, again := client.CanRetry(fault)
	if _, forGood := errors.AsType[permanent](fault); forGood || !again || pause > limits.MaxWait || p.failures == limits.Attempts {
		return fault
	}
	// Longer each time: a server needs a while to notice that a connection is
	// gone, and until then the key's import is still under way.
	pause, p.wait = max(pause, p.wait), 2*p.wait
	fmt.Fprintf(t.stderr, "likeness: %v; going on in %v\n", fault, pause)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}

// permanent is an error that a further attempt would meet again.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }
