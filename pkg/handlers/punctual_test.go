package handlers_test

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// stubborn is work that goes on until it is let go, whatever becomes of its
// context: the searches of a store, or the reading of a photo.
type stubborn struct {
	store.Store
	entered   chan struct{}
	leave     chan struct{}
	decisions atomic.Int64 // recorded
}

func (s *stubborn) wait(context.Context) error {
	select {
	case s.entered <- struct{}{}:
	default:
	}
	<-s.leave
	return nil
}

func (s *stubborn) Search(ctx context.Context, tenant, gallery, modelID string, probe face.Embedding, k int) (store.Result, error) {
	_ = s.wait(ctx)
	return s.Store.Search(context.WithoutCancel(ctx), tenant, gallery, modelID, probe, k)
}

func (s *stubborn) RecordDecision(ctx context.Context, tenant string, by store.Actor, d store.Decision) error {
	s.decisions.Add(1)
	return s.Store.RecordDecision(ctx, tenant, by, d)
}

// openStubborn opens a house with somebody enrolled, whose work does not end
// from now on.
func openStubborn(tb testing.TB, change func(*options, *stubborn)) (*house, *stubborn) {
	tb.Helper()
	s := &stubborn{entered: make(chan struct{}), leave: make(chan struct{})}
	close(s.leave)
	h := open(tb, func(o *options) {
		s.Store, o.Store, o.Identity.AuditDecisions = o.Store, s, true
		change(o, s)
	})
	h.enrolled(tb, "default", "ada", person{number: 1})
	s.entered, s.leave = make(chan struct{}, 1), make(chan struct{})
	return h, s
}

// misses sends a request with ever longer max_ms until its work has begun, and
// wants each to be answered while that work goes on. It returns how many there were.
func (s *stubborn) misses(tb testing.TB, ask func(ms int) answer) int {
	tb.Helper()
	for n, ms := 1, 1; ; n, ms = n+1, 2*ms {
		bad(tb, ask(ms), face.Deadline, "")
		select {
		case <-s.entered:
			return n
		default:
		}
	}
}

// TestMaxMsMissed: the answer does not wait for work that does not heed its
// context. That work gives its slot back when it ends, and decides nothing.
func TestMaxMsMissed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path   string
		with   fields
		change func(*options, *stubborn)
	}{
		{"/recognize", fields{"probe": photo(person{number: 1})}, func(o *options, _ *stubborn) {
			o.Pipeline = pipeline{Slots: make(chan struct{}, 40)}
		}},
		{"/verify", fields{"probe": photo(person{number: 1}), "subject_id": "ada"}, func(o *options, s *stubborn) {
			o.Pipeline = pipeline{Slots: make(chan struct{}, 40), Before: s.wait}
		}},
	} {
		t.Run(c.path[1:], func(t *testing.T) {
			t.Parallel()
			var slots chan struct{}
			h, s := openStubborn(t, func(o *options, s *stubborn) {
				c.change(o, s)
				slots = o.Pipeline.(pipeline).Slots
			})
			missed := s.misses(t, func(ms int) answer {
				c.with["max_ms"] = ms
				return h.post(t, c.path, c.with)
			})
			if len(slots) == 0 {
				t.Error("work that goes on has no slot")
			}
			close(s.leave)
			for range cap(slots) { // all are given back
				slots <- struct{}{}
			}
			for range cap(slots) {
				<-slots
			}
			if n := s.decisions.Load(); n != 0 {
				t.Errorf("%d decisions of requests that were too late", n)
			}
			c.with["max_ms"] = 60000
			good[map[string]any](t, h.ask(t, c.with.form(t, http.MethodPost, c.path)), 200)
			if n := s.decisions.Load(); n != 1 {
				t.Errorf("%d decisions of one request in time", n)
			}
			text := string(h.do(t, http.MethodGet, "/metrics").body)
			for _, line := range []string{
				`likeness_deadlines_missed_total{route="` + c.path + `"} ` + strconv.Itoa(missed),
				`likeness_decisions_total{decision="match",route="` + c.path + `"} 1`,
			} {
				if !strings.Contains(text, line+"\n") {
					t.Errorf("no line %s", line)
				}
			}
		})
	}
}

// TestMaxMsMemory: photos count as bodies under way while work holds them.
func TestMaxMsMemory(t *testing.T) {
	t.Parallel()
	h, s := openStubborn(t, func(o *options, _ *stubborn) {
		o.MaxImageBytes, o.MaxBodiesBytes = 1<<10, 2*(3<<10+2<<20) // two bodies
	})
	space := strings.Repeat(" ", 2<<20-128<<10)
	ask := func(ms int) answer {
		return h.ask(t, rawJSON(http.MethodPost, "/recognize",
			`{"probe":"`+b64(photo(person{number: 1}))+`","max_ms":`+strconv.Itoa(ms)+space+`}`))
	}
	for range 2 {
		s.misses(t, func(ms int) (a answer) {
			for { // the room of one that was too late to begin is soon there again
				if a = ask(ms); a.status != http.StatusServiceUnavailable {
					return a
				}
			}
		})
	}
	bad(t, ask(60000), face.Overloaded, "")
	close(s.leave)
	for ask(60000).status != http.StatusOK { // soon, else the test never ends
	}
}

// TestMaxMsAtGate waits at a real gate whose only slot is taken.
func TestMaxMsAtGate(t *testing.T) {
	t.Parallel()
	detector, encoder := orttest.Model(t, orttest.Detector), orttest.Model(t, orttest.Encoder)
	p, err := embed.New(embed.Options{
		Detector: orttest.Network(t, detector.ID), DetectorModel: detector.Manifest,
		Encoder: orttest.Network(t, encoder.ID), EncoderModel: encoder.Manifest,
		Slots: 1, QueueTime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	h := open(t, func(o *options) { o.Pipeline = p })
	slot, err := p.Enter(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	with := fields{"probe": testfaces.Photo(t, 1, 1), "max_ms": 50}
	for range 3 {
		bad(t, h.post(t, "/recognize", with), face.Deadline, "")
		bad(t, h.ask(t, with.form(t, http.MethodPost, "/recognize")), face.Deadline, "")
	}
	slot.Leave()
	with["max_ms"] = 60000
	good[api.RecognizeResponse](t, h.post(t, "/recognize", with), 200)
}

// TestMaxMsPanic: work that panics in time is the server's fault, as without max_ms.
func TestMaxMsPanic(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) {
		o.Pipeline = pipeline{Before: func(context.Context) error { panic("the secret cause") }}
	})
	bad(t, h.post(t, "/recognize", fields{"probe": photo(), "max_ms": 60000}), face.Internal, "")
	if !strings.Contains(h.logs.String(), "the secret cause") {
		t.Errorf("the cause is not logged:\n%s", h.logs)
	}
}

func TestMaxMsRange(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, path := range []string{"/verify", "/recognize"} {
		for _, ms := range []any{0, -1, 60001, 1.5, true, "soon", "", nil} {
			with := fields{"probe": photo(), "max_ms": ms}
			bad(t, h.post(t, path, with), face.Invalid, "/max_ms")
			bad(t, h.ask(t, with.form(t, http.MethodPost, path)), face.Invalid, "/max_ms")
		}
	}
}
