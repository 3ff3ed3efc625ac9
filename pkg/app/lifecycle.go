package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// closeTimeout is how long closing the pipeline may take.
const closeTimeout = 5 * time.Second

// runWithin waits for work, for as long as limit. After that it returns an error
// and the work goes on, so the work must be something that ends with the process.
func runWithin(limit time.Duration, work func() error) error {
	done := make(chan error, 1)
	go func() { done <- work() }()
	select {
	case err := <-done:
		return err
	case <-time.After(limit):
		return fmt.Errorf("it does not end; given up after %s", limit)
	}
}

// teardown undoes what was set up, last first. Each step runs once, however
// often unwind is called, and every step runs even when an earlier one fails.
type teardown struct {
	mu    sync.Mutex
	steps []step
}

type step struct {
	name string
	undo func(context.Context) error
}

func (t *teardown) push(name string, undo func(context.Context) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, step{name, undo})
}

// unwind runs the steps; ctx bounds each step that can be bounded.
func (t *teardown) unwind(ctx context.Context) error {
	t.mu.Lock()
	steps := t.steps
	t.steps = nil
	t.mu.Unlock()
	var errs []error
	for _, s := range slices.Backward(steps) {
		if err := s.undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	return errors.Join(errs...)
}
