package handlers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestFailures: guesses are limited by address, and good keys are not.
func TestFailures(t *testing.T) {
	t.Parallel()
	const most = 3
	for _, c := range []struct {
		name, peer, forwarded     string // who guesses
		otherPeer, otherForwarded string // who asks next
		proxies                   []string
		limited                   bool // the second one, too
	}{
		{"the same address", "192.0.2.1:1", "", "192.0.2.1:2", "", nil, true},
		{"another address", "192.0.2.1:1", "", "192.0.2.2:1", "", nil, false},
		{"IPv6, one network", "[2001:db8::1]:1", "", "[2001:db8::ffff:1]:1", "", nil, true},
		{"IPv6, another network", "[2001:db8::1]:1", "", "[2001:db8:0:1::1]:1", "", nil, false},
		{"a made-up header", "192.0.2.1:1", "198.51.100.1", "192.0.2.1:1", "198.51.100.2", nil, true},
		{"a made-up header past the proxy", "192.0.2.1:1", "198.51.100.1", "192.0.2.1:1", "198.51.100.2", []string{"10.0.0.0/8"}, true},
		{"through the proxy", "10.0.0.1:1", "198.51.100.1", "10.0.0.1:1", "198.51.100.2", []string{"10.0.0.0/8"}, false},
		{"through the proxy, again", "10.0.0.1:1", "198.51.100.1", "10.0.0.2:1", "198.51.100.1", []string{"10.0.0.0/8"}, true},
		{"a header begun by the caller", "10.0.0.1:1", "203.0.113.1, 198.51.100.1", "10.0.0.1:1", "203.0.113.2, 198.51.100.1", []string{"10.0.0.0/8"}, true},
		{"through two proxies", "10.0.0.1:1", "198.51.100.1, 10.0.0.9", "10.0.0.1:1", "198.51.100.2, 10.0.0.9", []string{"10.0.0.0/8"}, false},
		{"a header that cannot be read", "10.0.0.1:1", "x", "10.0.0.1:1", "y", []string{"10.0.0.0/8"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, func(o *options) { o.Auth, o.AuthFailures, o.TrustedProxies = true, most, c.proxies })
			good1 := h.key(t, "acme")
			ask := func(secret, peer, forwarded string) answer {
				r := httptest.NewRequest(http.MethodGet, "/models", nil)
				r.RemoteAddr = peer
				r.Header.Set("Authorization", "Bearer "+secret)
				if forwarded != "" {
					r.Header.Set("X-Forwarded-For", forwarded)
				}
				return h.ask(t, r)
			}
			for i := range most {
				bad(t, ask(fmt.Sprint("lk_guess", i), c.peer, c.forwarded), face.Unauthenticated, "")
			}
			if a := ask("lk_guess", c.peer, c.forwarded); bad(t, a, face.RateLimited, "").Status != 429 || a.header.Get("Retry-After") == "" {
				t.Errorf("one guess too many: %v", a.header)
			}
			other := face.Unauthenticated
			if c.limited {
				other = face.RateLimited
			}
			bad(t, ask("lk_guess", c.otherPeer, c.otherForwarded), other, "")
			for range most + 1 {
				good[api.ModelList](t, ask(good1, c.peer, c.forwarded), 200)
			}
		})
	}
}

// TestNoKey: who has no key is told where it is looked for.
func TestNoKey(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Auth = true })
	a := h.do(t, http.MethodGet, "/models")
	detail := *bad(t, a, face.Unauthenticated, "").Detail
	for _, header := range []string{"Authorization", "Bearer", "X-API-Key"} {
		if !strings.Contains(detail, header) {
			t.Errorf("%q does not name %s", detail, header)
		}
	}
	if scheme := a.header.Get("WWW-Authenticate"); !strings.HasPrefix(scheme, "Bearer") {
		t.Errorf("WWW-Authenticate: %s", scheme)
	}
}

// TestKept goes through all errors: an answer under an Idempotency-Key is given
// again unless it says to try again, or is a failure of the server.
func TestKept(t *testing.T) {
	t.Parallel()
	var refusal error // of the next photo
	h := open(t, func(o *options) {
		o.Pipeline = pipeline{Before: func(context.Context) (err error) {
			err, refusal = refusal, nil
			return err
		}}
	})
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "ada"}), 201)
	for _, kind := range face.Kinds() {
		ask := func() answer {
			r := fields{"image": photo(person{number: 1})}.json(t, http.MethodPost, "/galleries/default/subjects/ada/templates")
			r.Header.Set("Idempotency-Key", kind.Code())
			r.Host = "localhost"
			w := httptest.NewRecorder() // not every error is in the contract of the route
			h.ServeHTTP(w, r)
			return answer{w.Code, w.Header(), w.Body.Bytes()}
		}
		refusal = face.Errorf(kind, "test", "not this time")
		first, second := ask(), ask()
		again := second.header.Get("Idempotency-Replayed") == "true"
		if want := first.status < 499 && first.status != http.StatusTooManyRequests; again != want || !want && second.status != 201 {
			t.Errorf("%s: %d, then %d, replayed: %v", kind, first.status, second.status, again)
		}
	}
}
