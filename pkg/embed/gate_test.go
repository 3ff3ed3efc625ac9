package embed

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

// crowd is a gate with many requests to it, on a clock of its own.
type crowd struct {
	*gate
	random *rand.Rand

	mu       sync.Mutex
	admitted []time.Duration // from coming to leaving
	refused  []time.Duration
	tries    int
}

const typicalTime = 15 * time.Millisecond // to serve a request

func newCrowd(change func(*Options)) *crowd {
	o := Options{Slots: 2, Queue: 16, ObserveWait: func(float64) {}}
	if change != nil {
		change(&o)
	}
	workers := make([]*worker, o.Slots)
	for i := range workers {
		workers[i] = &worker{}
	}
	return &crowd{gate: newGate(workers, o), random: rand.New(rand.NewPCG(1, 2))}
}

// pass enters and gives back a function that leaves.
func (c *crowd) pass(ctx context.Context, r *Reservation) (leave func(), err error) {
	w, err := c.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	s := &slot{gate: c.gate, worker: w, entered: time.Now()}
	return s.Leave, nil
}

// request arrives, sends its body, waits and is served; it takes 10 to 20 ms.
func (c *crowd) request(ctx context.Context, body time.Duration) error {
	c.mu.Lock()
	takes := typicalTime + time.Duration((c.random.Float64()*10-5)*float64(time.Millisecond))
	c.tries++
	c.mu.Unlock()
	start := time.Now()
	err := func() error {
		r, err := c.reserve()
		if err != nil {
			return err
		}
		defer r.Cancel()
		time.Sleep(body)
		leave, err := c.pass(ctx, r)
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

// arrive has requests arrive at random for a while, at a rate of load times
// the rate at which they can be served.
func (c *crowd) arrive(load float64, length time.Duration) {
	var all sync.WaitGroup
	defer all.Wait()
	for end := time.Now().Add(length); time.Now().Before(end); {
		all.Go(func() { _ = c.request(context.Background(), 2*time.Millisecond) })
		c.mu.Lock()
		pause := c.random.ExpFloat64() * float64(typicalTime) / float64(c.slots) / load
		c.mu.Unlock()
		time.Sleep(time.Duration(pause))
	}
}

// reset begins to count anew.
func (c *crowd) reset() { c.admitted, c.refused, c.tries = nil, nil, 0 }

func percentile99(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)*99/100]
}

// TestOverload: at ten times the load those who are admitted take no longer
// than twice as long as on a server with nothing else to do, nothing is lost
// of what the slots can do, and the others are told at once.
func TestOverload(t *testing.T) {
	t.Parallel()
	loads := map[string]func(*crowd){
		"at random": func(c *crowd) { c.arrive(10, 20*time.Second) },
		"of clients who do not wait": func(c *crowd) {
			var all sync.WaitGroup
			defer all.Wait()
			end := time.Now().Add(20 * time.Second)
			for range 20 {
				all.Go(func() {
					for time.Now().Before(end) {
						if c.request(context.Background(), time.Millisecond) != nil {
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
				c.arrive(0.05, 20*time.Second)
				unloaded := percentile99(c.admitted)
				c.reset()
				load(c)
				p99, refusal := percentile99(c.admitted), percentile99(c.refused)
				t.Logf("p99 %s unloaded, %s under load; %d admitted, %d refused within %s", unloaded, p99, len(c.admitted), len(c.refused), refusal)
				if p99 > 2*unloaded || refusal > 50*time.Millisecond {
					t.Error("that is too slow")
				}
				if could := int(20 * time.Second * 2 / typicalTime); len(c.admitted) < could*95/100 {
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
		c.arrive(0.5, 10*time.Second)
		c.reset()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() { // and again, as soon as each is answered
				for range 100 {
					if err := c.request(t.Context(), 0); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		c.reset()
		for _, load := range []float64{0.5, 0.7, 0.9} {
			c.arrive(load, 20*time.Second)
			refused := float64(len(c.refused)) / float64(c.tries)
			t.Logf("load %.1f: %.2f %% refused, p99 %s", load, 100*refused, percentile99(c.admitted))
			if most := map[float64]float64{0.5: 0.002, 0.7: 0.01, 0.9: 0.15}[load]; refused > most {
				t.Errorf("load %.1f: %.2f %% refused", load, 100*refused)
			}
			c.reset()
		}
		c.arrive(10, 5*time.Second)
		c.reset()
		c.arrive(0.5, 10*time.Second) // after an overload
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
		c.arrive(2, 20*time.Second)
		if p99 := percentile99(c.admitted); p99 < 300*time.Millisecond || p99 > 600*time.Millisecond {
			t.Errorf("p99 %s", p99)
		}
		c = newCrowd(func(o *Options) { o.QueueTime, o.Queue = time.Hour, 3 })
		c.arrive(10, 5*time.Second)
		if p99 := percentile99(c.admitted); p99 > 80*time.Millisecond {
			t.Errorf("p99 %s with three in line", p99)
		}
	})
}

// TestBackground: work that no caller waits for, one piece after the other, is
// done beside requests and does not have them refused.
func TestBackground(t *testing.T) {
	t.Parallel()
	for _, takes := range []time.Duration{typicalTime / 3, typicalTime} {
		t.Run(takes.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := newCrowd(nil)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan int)
				go func() {
					pieces := 0
					for ctx.Err() == nil {
						w, err := c.enterBackground(ctx)
						if err != nil {
							time.Sleep(200 * time.Millisecond)
							continue
						}
						time.Sleep(takes)
						c.leave(w, time.Time{})
						pieces++
					}
					done <- pieces
				}()
				c.arrive(0.7, 60*time.Second)
				cancel()
				pieces, refused := <-done, float64(len(c.refused))/float64(c.tries)
				t.Logf("%.2f %% refused, p99 %s, %d pieces", 100*refused, percentile99(c.admitted), pieces)
				if refused > 0.03 || pieces < 1000 {
					t.Errorf("%.2f %% were refused beside %d pieces", 100*refused, pieces)
				}
				if c.serviceTime < typicalTime*4/5 {
					t.Errorf("a request takes %s, want about %s", c.serviceTime, typicalTime)
				}
			})
		})
	}
}

// TestForeignReservation: a reservation at another gate, or none, gives no place.
func TestForeignReservation(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := func(o *Options) { o.Slots, o.Queue = 1, 0 }
		c, other := newCrowd(one), newCrowd(one)
		r, err := other.reserve()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Cancel()
		leave, err := c.pass(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		for name, r := range map[string]*Reservation{"of another gate": r, "zero": {}} {
			if _, err := c.pass(t.Context(), r); !errors.Is(err, face.Overloaded) {
				t.Errorf("%s: %v, want %v", name, err, face.Overloaded)
			}
		}
		(&Reservation{}).Cancel()
		if other.reserved != 1 {
			t.Errorf("%d places are reserved at the other gate, want 1", other.reserved)
		}
	})
}

// TestReservations: a reservation is no slot, and slow bodies lose theirs.
func TestReservations(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.Slots, o.Queue = 1, 2 })
		c.serviceTime = typicalTime
		leave, err := c.pass(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var slow []*Reservation
		for { // in the slot is one, and two may wait
			r, err := c.reserve()
			if err != nil {
				break
			}
			slow = append(slow, r)
		}
		if len(slow) != 2 || c.request(t.Context(), 0) == nil {
			t.Errorf("%d places were reserved", len(slow))
		}
		time.Sleep(time.Second) // their bodies take long
		synctest.Wait()
		if _, err := c.reserve(); err != nil || c.reserved != 1 {
			t.Errorf("%d places are reserved for bodies that do not come", c.reserved)
		}
		for _, r := range slow {
			r.Cancel() // a second time
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { time.Sleep(5 * time.Millisecond); cancel() }()
		if _, err := c.pass(ctx, slow[0]); !errors.Is(err, face.Canceled) {
			t.Errorf("canceled in line: %v", err)
		}
		if _, err := c.pass(t.Context(), nil); !errors.Is(err, face.Overloaded) {
			t.Errorf("waited: %v", err)
		}
		leave()
		leave() // a second time
		if len(c.free) != c.slots || len(c.queue) != 0 {
			t.Errorf("%d are free, %d wait", len(c.free), len(c.queue))
		}
	})
}

// TestArrivals: only what wants a slot counts as an arrival.
func TestArrivals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.Slots, o.Queue = 1, 0 })
		r, err := c.reserve()
		if err != nil {
			t.Fatal("no place in a slot that is free:", err)
		}
		r.Cancel() // its body had no photo
		if c.arrivals != 0 {
			t.Errorf("%d arrived", c.arrivals)
		}
		leave, err := c.pass(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer leave()
		if _, err := c.reserve(); err == nil {
			t.Error("a place in a slot that is busy")
		}
		if c.arrivals != 2 { // in the slot, and at the door
			t.Errorf("%d arrived", c.arrivals)
		}
	})
}

// TestShortRequests: requests that fail at once do not make the wait of others
// short.
func TestShortRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(nil)
		spend := func(takes time.Duration) {
			leave, err := c.pass(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(takes)
			leave()
		}
		for range 200 {
			spend(typicalTime)
			for range 20 {
				spend(50 * time.Microsecond)
			}
		}
		if c.serviceTime < typicalTime*4/5 || c.serviceTime > typicalTime*6/5 {
			t.Errorf("a request takes %s, want about %s", c.serviceTime, typicalTime)
		}
	})
}

// TestDecoderGoesOn: a worker whose decoder still runs, for a request that has
// gone, is given to nobody before that has ended.
func TestDecoderGoesOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.QueueTime = time.Hour })
		w, err := c.enter(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		decoding := make(chan struct{})
		w.decoding = decoding
		c.leave(w, time.Now())
		other, err := c.enter(t.Context(), nil)
		if err != nil || other == w {
			t.Fatalf("the worker that still decodes was given out: %v", err)
		}
		next := make(chan *worker)
		go func() {
			w, err := c.enter(t.Context(), nil)
			if err != nil {
				t.Error(err)
			}
			next <- w
		}()
		synctest.Wait()
		select {
		case <-next:
			t.Error("a third request runs on two workers")
		default:
		}
		close(decoding)
		if got := <-next; got != w {
			t.Error("the worker did not come back when its decoder had ended")
		}
		c.leave(w, time.Now())
		c.leave(other, time.Now())
		if workers := c.close(); len(workers) != 2 {
			t.Errorf("closing gave %d workers back", len(workers))
		}
	})
}

// TestLeft: a slot that was left cannot be used, and closing ends every wait.
func TestLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(func(o *Options) { o.Slots, o.QueueTime = 1, time.Hour })
		p := &Pipeline{gate: c.gate}
		r, err := p.Reserve()
		if err != nil {
			t.Fatal(err)
		}
		s, err := p.Enter(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		waited := make(chan error)
		go func() {
			_, err := p.Enter(t.Context(), nil)
			waited <- err
		}()
		synctest.Wait()
		closed := make(chan []*worker)
		go func() { closed <- c.close() }()
		if err := <-waited; !errors.Is(err, face.Unavailable) {
			t.Errorf("in the queue of a gate that closes: %v", err)
		}
		if _, err := p.Enter(t.Context(), nil); !errors.Is(err, face.Unavailable) {
			t.Errorf("at a gate that closes: %v", err)
		}
		if _, err := p.Reserve(); !errors.Is(err, face.Unavailable) {
			t.Errorf("a reservation at a gate that closes: %v", err)
		}
		synctest.Wait()
		select {
		case <-closed:
			t.Error("closed while a request runs")
		default:
		}
		s.Leave()
		s.Leave()
		if workers := <-closed; len(workers) != 1 {
			t.Errorf("closing gave %d workers back", len(workers))
		}
		_, errEmbed := s.Embed(t.Context(), nil, PickOnly, Want{})
		_, _, errDetect := s.Detect(t.Context(), nil, 0)
		_, errCrop := s.EmbedCrop(t.Context(), nil, "")
		for _, err := range []error{errEmbed, errDetect, errCrop} {
			if !errors.Is(err, face.Internal) {
				t.Errorf("after Leave: %v, want internal", err)
			}
		}
	})
}
