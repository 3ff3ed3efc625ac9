package handlers

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// crowd are requests to an admission, on a clock of their own.
type crowd struct {
	*admission
	random *rand.Rand

	mu       sync.Mutex
	admitted []time.Duration // from coming to leaving
	refused  []time.Duration
	tries    int
}

const typically = 15 * time.Millisecond // of a request

func newCrowd(change func(*Options)) *crowd {
	o := Options{Slots: 2, Queue: 16, ObserveWait: func(float64) {}}
	if change != nil {
		change(&o)
	}
	return &crowd{admission: newAdmission(o), random: rand.New(rand.NewPCG(1, 2))}
}

// ask comes, sends its body, waits and is served; it takes 10 to 20 ms.
func (c *crowd) ask(ctx context.Context, body time.Duration) error {
	c.mu.Lock()
	takes := typically + time.Duration((c.random.Float64()*10-5)*float64(time.Millisecond))
	c.tries++
	c.mu.Unlock()
	start := time.Now()
	err := func() error {
		p, ok := c.keep()
		if !ok {
			return face.Errorf(face.Overloaded, "test", "at the door")
		}
		defer p.free()
		time.Sleep(body)
		leave, err := c.enter(ctx, p)
		if err != nil {
			return err
		}
		time.Sleep(takes)
		leave()
		return nil
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.admitted = append(c.admitted, time.Since(start))
	} else {
		c.refused = append(c.refused, time.Since(start))
	}
	return err
}

// come has requests come for a while, so many times as fast as they can be
// served, at random.
func (c *crowd) come(load float64, length time.Duration) {
	var all sync.WaitGroup
	defer all.Wait()
	for end := time.Now().Add(length); time.Now().Before(end); {
		all.Go(func() { _ = c.ask(context.Background(), 2*time.Millisecond) })
		c.mu.Lock()
		pause := c.random.ExpFloat64() * float64(typically) / float64(c.slots) / load
		c.mu.Unlock()
		time.Sleep(time.Duration(pause))
	}
}

// forget begins to count anew.
func (c *crowd) forget() { c.admitted, c.refused, c.tries = nil, nil, 0 }

func at99(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)*99/100]
}

// TestOverload: at ten times the load those who are admitted take no longer
// than twice as long as on a server with nothing else to do, nothing is lost
// of what the slots can do, and the others are told at once.
func TestOverload(t *testing.T) {
	t.Parallel()
	loads := map[string]func(*crowd){
		"at random": func(c *crowd) { c.come(10, 20*time.Second) },
		"of clients who do not wait": func(c *crowd) {
			var all sync.WaitGroup
			defer all.Wait()
			end := time.Now().Add(20 * time.Second)
			for range 20 {
				all.Go(func() {
					for time.Now().Before(end) {
						if c.ask(context.Background(), time.Millisecond) != nil {
							time.Sleep(10 * time.Millisecond)
						}
					}
				})
			}
		},
	}
	for name, load := range loads {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(nil)
				c.come(0.05, 20*time.Second)
				unloaded := at99(c.admitted)
				c.forget()
				load(c)
				p99, refusal := at99(c.admitted), at99(c.refused)
				t.Logf("p99 %s unloaded, %s under load; %d admitted, %d refused within %s", unloaded, p99, len(c.admitted), len(c.refused), refusal)
				if p99 > 2*unloaded || refusal > 50*time.Millisecond {
					t.Error("that is too slow")
				}
				if could := int(20 * time.Second * 2 / typically); len(c.admitted) < could*95/100 {
					t.Errorf("%d were admitted of %d that could be served", len(c.admitted), could)
				}
			})
		})
	}
}

// TestBurst: what comes together and is no more than can be done is served.
func TestBurst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(nil)
		c.come(0.5, 10*time.Second)
		c.forget()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { // and again, as soon as each is answered
				for range 100 {
					if err := c.ask(t.Context(), 0); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		c.forget()
		for _, load := range []float64{0.5, 0.7, 0.9} {
			c.come(load, 20*time.Second)
			refused := float64(len(c.refused)) / float64(c.tries)
			t.Logf("load %.1f: %.2f %% refused, p99 %s", load, 100*refused, at99(c.admitted))
			if most := map[float64]float64{0.5: 0.002, 0.7: 0.01, 0.9: 0.15}[load]; refused > most {
				t.Errorf("load %.1f: %.2f %% refused", load, 100*refused)
			}
			c.forget()
		}
		c.come(10, 5*time.Second)
		c.forget()
		c.come(0.5, 10*time.Second) // after an overload
		if len(c.refused) > len(c.admitted)/50 {
			t.Errorf("after it is over %d of %d were refused", len(c.refused), c.tries)
		}
	})
}

// TestQueueTime: the operator's bound on the wait.
func TestQueueTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.QueueTime, o.Queue = 500*time.Millisecond, 1000 })
		c.come(2, 20*time.Second)
		if p99 := at99(c.admitted); p99 < 300*time.Millisecond || p99 > 600*time.Millisecond {
			t.Errorf("p99 %s", p99)
		}
		c = newCrowd(func(o *Options) { o.QueueTime, o.Queue = time.Hour, 3 })
		c.come(10, 5*time.Second)
		if p99 := at99(c.admitted); p99 > 80*time.Millisecond {
			t.Errorf("p99 %s with three in line", p99)
		}
	})
}

// TestPlaces: a place in line is no place in a slot, and slow bodies lose theirs.
func TestPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.Slots, o.Queue = 1, 2 })
		c.takes = typically
		leave, err := c.enter(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var slow []*place
		for { // in the slot is one, and two may wait
			p, ok := c.keep()
			if !ok {
				break
			}
			slow = append(slow, p)
		}
		if len(slow) != 2 || c.ask(t.Context(), 0) == nil {
			t.Errorf("%d places were kept", len(slow))
		}
		time.Sleep(time.Second) // their bodies take long
		synctest.Wait()
		if _, ok := c.keep(); !ok || c.places != 1 {
			t.Errorf("%d places are kept for bodies that do not come", c.places)
		}
		for _, p := range slow {
			p.free() // a second time
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(5 * time.Millisecond); cancel() }()
		if _, err := c.enter(ctx, slow[0]); !errors.Is(err, face.Canceled) {
			t.Errorf("canceled in line: %v", err)
		}
		if _, err := c.enter(t.Context(), nil); !errors.Is(err, face.Overloaded) {
			t.Errorf("waited: %v", err)
		}
		leave()
		leave() // a second time
		if c.busy != 0 || len(c.line) != 0 {
			t.Errorf("%d are busy, %d wait", c.busy, len(c.line))
		}
	})
}

// TestComing: only what wants a slot counts as work that came.
func TestComing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.Slots, o.Queue = 1, 0 })
		p, ok := c.keep()
		if !ok {
			t.Fatal("no place in a slot that is free")
		}
		p.free() // its body had no photo
		if c.came != 0 {
			t.Errorf("%d came", c.came)
		}
		leave, err := c.enter(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		if _, ok := c.keep(); ok {
			t.Error("a place in a slot that is busy")
		}
		if c.came != 2 { // in the slot, and at the door
			t.Errorf("%d came", c.came)
		}
	})
}

// TestJunk: requests that fail at once do not make the wait of others short.
func TestJunk(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(nil)
		spend := func(takes time.Duration) {
			leave, err := c.enter(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(takes)
			leave()
		}
		for range 200 {
			spend(typically)
			for range 20 {
				spend(50 * time.Microsecond)
			}
		}
		if c.takes < typically*4/5 || c.takes > typically*6/5 {
			t.Errorf("a request takes %s, want about %s", c.takes, typically)
		}
	})
}
