package handlers

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// burst is how long a line may be, in requests a slot, while it has not
	// stood for as long as they take; a line that does is no burst.
	burst = 4
	// lookback is how often the requests that came are held against those that
	// could be done.
	lookback = 250 * time.Millisecond
	// tooMuch is how many times what can be done is more than can be done. A few
	// clients, each of whom waits for one answer before it asks again, come to 1.
	tooMuch = 1.1
	// leastWait is what every place in line is good for, so that requests which
	// fail at once do not make the time of others short.
	leastWait = 20 * time.Millisecond
	// firstGuess is what a request takes before any was measured.
	firstGuess = 100 * time.Millisecond
)

// admission lets as many requests at a time have their photos read as there
// are slots. A few others wait, first come, first served; whoever would wait
// for too long is turned away at once, before the body is read. While more
// comes than can be done, too long is more than half of what a request takes, as
// measured: a line that does not get shorter makes everybody in it late and
// nothing faster.
type admission struct {
	slots   int                   // requests at work
	most    int                   // requests that wait
	wait    time.Duration         // bound on the wait while more comes than can be done; 0: half of what a request takes
	observe func(seconds float64) // told how long a request waited

	mu     sync.Mutex
	busy   int
	line   []*turn
	places int           // kept for requests whose bodies arrive
	takes  time.Duration // what a request takes, a moving average
	empty  time.Time     // when nobody waited last
	over   bool          // more comes than can be done

	came, before  int       // requests for a slot since looked, and between since and looked
	looked, since time.Time // lookback apart
}

func newAdmission(o Options) *admission {
	return &admission{slots: cmp.Or(o.Slots, math.MaxInt), most: o.Queue, wait: o.QueueTime, observe: o.ObserveWait, takes: firstGuess}
}

// turn is a request that waits.
type turn struct{ come chan struct{} }

// place is kept in line while a request's body arrives.
type place struct {
	*admission
	kept   bool
	expiry *time.Timer
}

// keep keeps a place, unless its owner would wait too long: then it reports
// false. A body that takes longer than a burst loses its place, for whoever
// sends slowly must not hold others up.
func (a *admission) keep() (*place, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.room() {
		a.came++
		return nil, false
	}
	p := &place{admission: a, kept: true}
	a.places++
	p.expiry = time.AfterFunc(max(burst*a.takes, leastWait), p.free)
	return p, true
}

// free gives the place up, if it is still kept.
func (p *place) free() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop()
}

// drop gives the place up and reports whether it was kept.
func (p *place) drop() bool {
	p.expiry.Stop()
	kept := p.kept
	if kept {
		p.kept = false
		p.places--
	}
	return kept
}

// enter waits for a slot, which leave gives back. p may be nil. Errors:
// Overloaded where the wait would be or was too long, Canceled and Deadline.
func (a *admission) enter(ctx context.Context, p *place) (leave func(), err error) {
	const op = "handlers.admit"
	a.mu.Lock()
	a.came++
	if kept := p != nil && p.drop(); !kept && !a.room() {
		a.mu.Unlock()
		return nil, face.Errorf(face.Overloaded, op, "all %d slots are busy, and the wait would be too long", a.slots)
	}
	start := time.Now()
	if a.busy < a.slots {
		a.busy++
		a.mu.Unlock()
	} else {
		t := &turn{make(chan struct{})}
		a.line = append(a.line, t)
		patience := time.NewTimer(max(a.bound(), leastWait))
		defer patience.Stop()
		a.mu.Unlock()
		select {
		case <-t.come:
		case <-patience.C:
			err = face.Errorf(face.Overloaded, op, "all %d slots are busy, and the wait was too long", a.slots)
		case <-ctx.Done():
			err = face.Wrap(face.Canceled, op, ctx.Err())
		}
		if err != nil && a.quit(t) {
			return nil, err
		}
	}
	begun := time.Now()
	a.observe(begun.Sub(start).Seconds())
	return sync.OnceFunc(func() { a.leave(time.Since(begun)) }), nil
}

// quit takes a turn out of the line. It reports false where it has come.
func (a *admission) quit(t *turn) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.line, t)
	if i >= 0 {
		a.line = slices.Delete(a.line, i, i+1)
	}
	return i >= 0
}

// leave gives a slot to the first in line, or back. A request that took less
// than others counts for less, for one that fails at once says nothing about
// how long the others take.
func (a *admission) leave(took time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	weight := min(1, float64(took)/float64(a.takes))
	a.takes += time.Duration(weight * float64(took-a.takes) / 16)
	if len(a.line) > 0 {
		close(a.line[0].come)
		a.line = a.line[1:]
	} else {
		a.busy--
	}
	a.look()
}

// room reports whether one more may come: a slot is free for it, or its wait
// is likely short enough.
func (a *admission) room() bool {
	a.look()
	ahead := a.busy + len(a.line) + a.places - a.slots
	if ahead < 0 {
		return true
	}
	likely := time.Duration((float64(ahead) + 0.5) / float64(a.slots) * float64(a.takes))
	return ahead < a.most && likely <= a.bound()
}

// bound is how long a request may wait.
func (a *admission) bound() time.Duration {
	wait := a.wait
	if wait == 0 {
		wait = a.takes / 2
	}
	if !a.over {
		wait = max(wait, burst*a.takes)
	}
	return wait
}

// look sees whether more comes than can be done: it does once there is a line
// for as long as a burst takes, and until less has come for a while.
func (a *admission) look() {
	now := time.Now()
	if now.Sub(a.looked) >= lookback {
		a.before, a.came = a.came, 0
		a.since, a.looked = a.looked, now
	}
	if len(a.line) == 0 {
		a.empty = now
	}
	much := float64(a.before+a.came)*float64(a.takes) > tooMuch*float64(a.slots)*float64(now.Sub(a.since))
	a.over = much && (a.over || now.Sub(a.empty) > burst*a.takes)
}
