package handlers

import (
	"crypto/subtle"
	"errors"
	"hash/maphash"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httprate"

	"github.com/likeness-id/likeness/pkg/face"
)

// authenticate finds the caller's API key. A key in the query is not looked
// at: URLs end up in logs.
func (s *server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		if !s.Auth {
			if err := s.fromThisMachine(r); err != nil {
				s.fail(w, r, err)
				return
			}
			c.key = face.Key{Tenant: face.DefaultTenant, Scopes: face.Scopes()}
			next.ServeHTTP(w, r)
			return
		}
		key, err := s.keyOf(r)
		if errors.Is(err, face.Unauthenticated) && s.failures.OnLimit(w, r, s.addressOf(r)) {
			err = face.Errorf(face.RateLimited, "handlers.authenticate", "Authentication has failed %d times a minute from this address. Keys that are good still work.", s.AuthFailures)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
		c.key = key
		next.ServeHTTP(w, r)
	})
}

// fromThisMachine refuses what a page of some website may have made this
// machine's browser send. Without keys the loopback address is all that keeps
// strangers out, and a browser reaches it for every page that it shows: by a
// form sent across origins, or under a name that was bound to the address
// after the page was loaded.
func (s *server) fromThisMachine(r *http.Request) error {
	const op = "handlers.authenticate"
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return face.Errorf(face.Forbidden, op, "Without API keys the server answers to localhost, not to other names.")
	}
	if s.origins.Check(r) != nil {
		return face.Errorf(face.Forbidden, op, "Without API keys the server takes no requests from web pages of other origins.")
	}
	return nil
}

func (s *server) keyOf(r *http.Request) (face.Key, error) {
	const op = "handlers.authenticate"
	secret := r.Header.Get("X-API-Key")
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		secret = strings.TrimSpace(token)
	}
	if secret == "" {
		return face.Key{}, face.Errorf(face.Unauthenticated, op, "The request has no API key: send it in the header Authorization, as \"Bearer KEY\", or in X-API-Key.")
	}
	hash := face.HashSecret(secret)
	key, err := s.Store.KeyByHash(r.Context(), hash)
	switch {
	case errors.Is(err, face.NotFound), err == nil && subtle.ConstantTimeCompare(key.Hash, hash) != 1:
		return face.Key{}, face.Errorf(face.Unauthenticated, op, "The API key is not known.")
	case err != nil:
		return face.Key{}, err
	case !key.Live(time.Now()):
		return face.Key{}, face.Errorf(face.Unauthenticated, op, "The API key is revoked or expired.")
	}
	return key, nil
}

// addresses is how many counts of failures there are at most. Addresses share
// them by chance, which costs a good key nothing.
const addresses = 1 << 16

// failures counts failed authentications.
type failures struct {
	*httprate.RateLimiter
	seed maphash.Seed // so that nobody can choose whom to share a count with
}

// countFailures allows so many failures a minute; 0: any number.
func countFailures(most int) failures {
	if most == 0 {
		most = math.MaxInt
	}
	only := httprate.WithResponseHeaders(httprate.ResponseHeaders{RetryAfter: "Retry-After"})
	return failures{httprate.NewRateLimiter(most, time.Minute, only), maphash.MakeSeed()}
}

// addressOf is the count of the client's address, or of the /64 that it can
// take any address of.
func (s *server) addressOf(r *http.Request) string {
	address := middleware.GetClientIP(r.Context())
	if address == "" { // a proxy's header that cannot be read
		address, _, _ = net.SplitHostPort(r.RemoteAddr) // it may be none in a test
	}
	return strconv.FormatUint(maphash.String(s.failures.seed, httprate.CanonicalizeIP(address))%addresses, 10)
}

// clientAddress finds the client's address: that of the connection, or, behind
// trusted proxies, the last one in X-Forwarded-For that is not a proxy's.
func clientAddress(proxies []string) func(http.Handler) http.Handler {
	if len(proxies) == 0 {
		return middleware.ClientIPFromRemoteAddr
	}
	return middleware.ClientIPFromXFF(proxies...)
}
