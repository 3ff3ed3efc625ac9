package handlers

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// maxTime is the time that a request allows for its answer; 0: it does not say.
func maxTime(request any) time.Duration {
	var ms *int
	switch r := request.(type) {
	case api.VerifyRequestObject:
		ms = r.JSONBody.MaxMs
	case api.RecognizeRequestObject:
		ms = r.JSONBody.MaxMs
	}
	return time.Duration(valueOr(ms, 0)) * time.Millisecond
}

// arrival is when the request was there with its whole body. Reading what the
// body says takes time too, and that counts.
func arrival(r *http.Request) time.Time {
	if b, ok := r.Body.(*body); ok && b.whole {
		return b.arrived
	}
	return time.Now()
}

// punctually answers at the deadline at the latest. The work behind the answer
// is told to stop then, but nobody waits for it: a native call may not heed
// that. It gives its slot back when it ends, and its outcome is dropped.
func (s *server) punctually(
	ctx context.Context, deadline time.Time, w http.ResponseWriter, r *http.Request, request any, next api.StrictHandlerFunc,
) (any, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var answer any
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if p := recover(); p != nil {
				err = panicked(p)
				if ctx.Err() != nil { // nobody else tells of it
					s.Logger.ErrorContext(ctx, "work that was left behind failed", "request_id", callOf(ctx).id, "error", err)
				}
			}
		}()
		answer, err = next(ctx, w, r, request)
	}()
	select {
	case <-ended:
		if ctx.Err() == nil {
			return answer, err
		}
	case <-ctx.Done():
		callOf(ctx).left = ended
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.metrics.missed.WithLabelValues(chi.RouteContext(ctx).RoutePattern()).Inc()
	}
	return nil, face.Wrap(face.Canceled, "handlers.punctually", ctx.Err())
}
