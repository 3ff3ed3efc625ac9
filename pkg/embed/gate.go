package embed

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// burst is how long the queue may be while it is short-lived, in requests
	// a slot. A queue that lasts longer than these requests take is no burst.
	burst = 4
	// arrivalWindow is how often arrivals are compared with the capacity.
	arrivalWindow = 250 * time.Millisecond
	// overloadRatio is the ratio of arrivals to capacity from which the gate is
	// overloaded. Clients that each wait for an answer before they send the next
	// request come to 1.
	overloadRatio = 1.1
	// minWait is the least that a request may wait, and that a reservation holds,
	// so that requests which fail at once do not make the wait of others short.
	minWait = 20 * time.Millisecond
	// firstServiceTime is the service time that is assumed before any was measured.
	firstServiceTime = 100 * time.Millisecond
)

// gate admits as many requests at a time as there are workers. A few others
// wait, first come, first served. A request that would wait for too long is
// refused at once, before its body is read. During an overload, too long is
// half of the measured service time: a queue that does not get shorter makes
// every request late and none faster. See docs/adr/0020-overload.md.
type gate struct {
	slots      int
	maxWaiting int
	queueTime  time.Duration // bound on the wait during an overload; 0: half of the service time
	observe    func(seconds float64)
	closing    sync.Once

	mu          sync.Mutex
	free        []*worker
	allFree     *sync.Cond // len(free) == slots
	queue       []*waiter
	reserved    int           // places held for requests whose bodies arrive
	serviceTime time.Duration // how long a request holds its slot, a moving average
	lastEmpty   time.Time     // when the queue was empty last
	overloaded  bool          // more arrives than can be served
	closed      bool

	// Requests for a slot since windowStart, and in the window before it.
	arrivals, earlierArrivals       int
	windowStart, earlierWindowStart time.Time
}

func newGate(workers []*worker, o Options) *gate {
	g := &gate{
		slots: len(workers), maxWaiting: o.Queue, queueTime: o.QueueTime, observe: o.ObserveWait,
		free: slices.Clone(workers), serviceTime: firstServiceTime,
	}
	g.allFree = sync.NewCond(&g.mu)
	return g
}

// waiter is a request in the queue. It receives its worker; a closed channel
// says that the gate closes.
type waiter struct{ granted chan *worker }

// Reservation is a place at the gate that is held while the body of a request
// arrives.
type Reservation struct {
	gate   *gate
	held   bool
	expiry *time.Timer
}

func errOverloaded(op string, slots int) error {
	return face.Errorf(face.Overloaded, op, "all %d slots are busy, and the wait would be too long", slots)
}

func errClosed(op string) error {
	return face.Errorf(face.Unavailable, op, "the service is stopping")
}

// reserve holds a place for a request. It expires after the time that a burst
// takes, so that slow senders do not hold others up.
func (g *gate) reserve() (*Reservation, error) {
	const op = "embed.Reserve"
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, errClosed(op)
	}
	if !g.hasRoom() {
		g.arrivals++
		return nil, errOverloaded(op, g.slots)
	}
	r := &Reservation{gate: g, held: true}
	g.reserved++
	r.expiry = time.AfterFunc(max(burst*g.serviceTime, minWait), r.Cancel)
	return r, nil
}

// Cancel gives the place up. It does nothing for a reservation that is nil,
// zero, used, expired or canceled.
func (r *Reservation) Cancel() {
	if r == nil || r.gate == nil {
		return
	}
	r.gate.mu.Lock()
	defer r.gate.mu.Unlock()
	r.end()
}

// end gives the place up and reports whether it was still held. The caller
// holds the gate's lock.
func (r *Reservation) end() bool {
	r.expiry.Stop()
	held := r.held
	if held {
		r.held = false
		r.gate.reserved--
	}
	return held
}

// enter waits for a worker, which leave gives back. r may be nil; a reservation
// at another gate counts for nothing. Errors: Overloaded when the wait would be
// or was too long, Unavailable when the gate is closed, Canceled or Deadline
// when ctx ends first.
func (g *gate) enter(ctx context.Context, r *Reservation) (*worker, error) {
	return g.admit(ctx, r, g.observe)
}

// enterBackground is enter for work that no caller waits for, such as the crops
// of a move. It waits as a request does, but it is not measured as one: many
// short tasks would look like more requests than can be served, and requests
// would be refused for them.
func (g *gate) enterBackground(ctx context.Context) (*worker, error) {
	return g.admit(ctx, nil, nil)
}

// admit is enter. observe is nil for what is not measured.
func (g *gate) admit(ctx context.Context, r *Reservation, observe func(seconds float64)) (*worker, error) {
	const op = "embed.Enter"
	if err := ctx.Err(); err != nil {
		return nil, face.Wrap(face.Canceled, op, err)
	}
	start := time.Now()
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return nil, errClosed(op)
	}
	if observe != nil {
		g.arrivals++
	} else {
		observe = func(float64) {}
	}
	if held := r != nil && r.gate == g && r.end(); !held && !g.hasRoom() {
		g.mu.Unlock()
		return nil, errOverloaded(op, g.slots)
	}
	if n := len(g.free); n > 0 {
		w := g.free[n-1]
		g.free = g.free[:n-1]
		g.mu.Unlock()
		observe(time.Since(start).Seconds())
		return w, nil
	}
	waiting := &waiter{make(chan *worker, 1)}
	g.queue = append(g.queue, waiting)
	patience := time.NewTimer(max(g.maxWait(), minWait))
	defer patience.Stop()
	g.mu.Unlock()

	var err error
	select {
	case w, ok := <-waiting.granted:
		return begin(w, ok, start, observe)
	case <-patience.C:
		err = errOverloaded(op, g.slots)
	case <-ctx.Done():
		err = face.Wrap(face.Canceled, op, ctx.Err())
	}
	if g.abandon(waiting) {
		return nil, err
	}
	w, ok := <-waiting.granted // at the same moment
	return begin(w, ok, start, observe)
}

// begin ends a wait that the gate has ended: with a worker, or by closing.
func begin(w *worker, granted bool, start time.Time, observe func(seconds float64)) (*worker, error) {
	if !granted {
		return nil, errClosed("embed.Enter")
	}
	observe(time.Since(start).Seconds())
	return w, nil
}

// abandon takes a waiter out of the queue. It reports false for one that is no
// longer there.
func (g *gate) abandon(waiting *waiter) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.queue, waiting)
	if i >= 0 {
		g.queue = slices.Delete(g.queue, i, i+1)
	}
	return i >= 0
}

// leave gives back a worker that was entered with at the given time; the zero
// time is that of background work. A worker whose decoder still runs, for a
// request that has gone, comes back when that decoder has ended: until then it
// could serve nobody.
func (g *gate) leave(w *worker, entered time.Time) {
	if w.decoding != nil {
		select {
		case <-w.decoding:
		default:
			go func() {
				<-w.decoding
				g.handOver(w, entered)
			}()
			return
		}
	}
	g.handOver(w, entered)
}

// handOver gives a worker to the first in the queue, or makes it free. A
// request that took less time than the average counts for less: one that fails
// at once says nothing about how long the others take.
func (g *gate) handOver(w *worker, entered time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !entered.IsZero() {
		took := time.Since(entered)
		weight := min(1, float64(took)/float64(g.serviceTime))
		g.serviceTime += time.Duration(weight * float64(took-g.serviceTime) / 16)
	}
	if len(g.queue) > 0 {
		g.queue[0].granted <- w
		g.queue = g.queue[1:]
	} else if g.free = append(g.free, w); len(g.free) == g.slots {
		g.allFree.Signal()
	}
	g.updateOverload()
}

// hasRoom reports whether one more request may come: a slot is free for it, or
// its wait is likely short enough.
func (g *gate) hasRoom() bool {
	g.updateOverload()
	ahead := len(g.queue) + g.reserved - len(g.free)
	if ahead < 0 {
		return true
	}
	likely := time.Duration((float64(ahead) + 0.5) / float64(g.slots) * float64(g.serviceTime))
	return ahead < g.maxWaiting && likely <= g.maxWait()
}

// maxWait is how long a request may wait.
func (g *gate) maxWait() time.Duration {
	wait := g.queueTime
	if wait == 0 {
		wait = g.serviceTime / 2
	}
	if !g.overloaded {
		wait = max(wait, burst*g.serviceTime)
	}
	return wait
}

// updateOverload finds out whether more arrives than can be served. That is so
// once the queue has lasted for as long as a burst takes, and until fewer
// requests have arrived for a while.
func (g *gate) updateOverload() {
	now := time.Now()
	if now.Sub(g.windowStart) >= arrivalWindow {
		g.earlierArrivals, g.arrivals = g.arrivals, 0
		g.earlierWindowStart, g.windowStart = g.windowStart, now
	}
	if len(g.queue) == 0 {
		g.lastEmpty = now
	}
	work := float64(g.earlierArrivals+g.arrivals) * float64(g.serviceTime)
	capacity := float64(g.slots) * float64(now.Sub(g.earlierWindowStart))
	g.overloaded = work > overloadRatio*capacity && (g.overloaded || now.Sub(g.lastEmpty) > burst*g.serviceTime)
}

// close refuses new and waiting requests, waits until the last worker is back
// and returns them all. The second call returns none.
func (g *gate) close() (workers []*worker) {
	g.closing.Do(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = true
		for _, waiting := range g.queue {
			close(waiting.granted)
		}
		g.queue = nil
		for len(g.free) < g.slots {
			g.allFree.Wait()
		}
		workers = g.free
	})
	return workers
}
