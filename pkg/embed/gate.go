package embed

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// gate lets as many requests in as there are workers and makes a bounded
// number of others wait, first come, first served. Whoever comes after that
// is turned away at once: a request that would wait too long is better
// answered now.
type gate struct {
	free    chan *worker // receivers on a channel are served in their order
	queue   int64        // how many may wait
	waiting atomic.Int64
	closing chan struct{}
	once    sync.Once
}

func newGate(workers []*worker, queue int) *gate {
	g := &gate{free: make(chan *worker, len(workers)), queue: int64(queue), closing: make(chan struct{})}
	for _, w := range workers {
		g.free <- w
	}
	return g
}

// enter takes a worker, which leave must give back. Errors: Overloaded when
// the queue is full, Unavailable once the gate closes, Deadline or Canceled
// when ctx ends first.
func (g *gate) enter(ctx context.Context) (*worker, error) {
	const op = "embed.gate"
	if err := ctx.Err(); err != nil {
		return nil, face.Wrap(face.Canceled, op, err)
	}
	select {
	case <-g.closing:
		return nil, face.Errorf(face.Unavailable, op, "the service is stopping")
	default:
	}
	select {
	case w := <-g.free:
		return w, nil
	default:
	}
	if g.waiting.Add(1) > g.queue {
		g.waiting.Add(-1)
		return nil, face.Errorf(face.Overloaded, op, "all %d inference slots are busy and %d requests wait", cap(g.free), g.queue)
	}
	defer g.waiting.Add(-1)
	select {
	case w := <-g.free:
		return w, nil
	case <-ctx.Done():
		return nil, face.Wrap(face.Canceled, op, ctx.Err())
	case <-g.closing:
		return nil, face.Errorf(face.Unavailable, op, "the service is stopping")
	}
}

// leave gives a worker back; the first in the queue gets it. One whose decoder
// still runs, for nobody, comes back when that has ended, so that no request
// waits for it while another worker is free.
func (g *gate) leave(w *worker) {
	select {
	case <-w.decoding:
		g.free <- w
	default:
		if w.decoding == nil {
			g.free <- w
			return
		}
		go func() {
			<-w.decoding
			g.free <- w
		}()
	}
}

// close turns everybody away, waits until the last worker is back and returns
// them all; the second call returns none.
func (g *gate) close() []*worker {
	var workers []*worker
	g.once.Do(func() {
		close(g.closing)
		for range cap(g.free) {
			workers = append(workers, <-g.free)
		}
	})
	return workers
}
