package handlers

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/go-chi/cors"
)

// corsMaxAge is for how many seconds a browser need not ask again what a page
// may do.
const corsMaxAge = 600

// CheckOrigin says what is wrong with an origin of web pages. It must name one
// scheme and host: whoever holds a key is not to hand it to any page.
func CheckOrigin(origin string) error {
	if strings.Contains(origin, "*") {
		return fmt.Errorf("%q: each origin must be named; there is no wildcard", origin)
	}
	return http.NewCrossOriginProtection().AddTrustedOrigin(origin)
}

// CheckPathPrefix says what is wrong with a path prefix.
func CheckPathPrefix(prefix string) error {
	if prefix != "" && !regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+$`).MatchString(prefix) {
		return errors.New("must begin with / and not end with it, such as /faces")
	}
	return nil
}

// shareWith lets scripts of pages of other origins call the server. It answers
// a browser that asks beforehand, which sends no key.
func (s *server) shareWith(origins []string) func(http.Handler) http.Handler {
	s.origins = http.NewCrossOriginProtection()
	if len(origins) == 0 { // which the library takes for all
		return func(next http.Handler) http.Handler { return next }
	}
	for _, origin := range origins {
		_ = s.origins.AddTrustedOrigin(origin) // which was checked
	}
	return cors.Handler(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Accept", "Authorization", "Content-Type", idempotencyHeader, "X-API-Key", "X-Request-Id"},
		ExposedHeaders: []string{"Idempotency-Replayed", "Location", "Retry-After", "X-Request-Id"},
		MaxAge:         corsMaxAge,
	})
}

// underPrefix takes the prefix off the paths of requests, where the proxy has
// not done so. A prefix with escapes in it is none: the routes answer.
func underPrefix(prefix string, next http.Handler) http.Handler {
	if prefix == "" {
		return next
	}
	stripped := http.StripPrefix(prefix, next)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, prefix+"/") && strings.HasPrefix(r.URL.EscapedPath(), prefix+"/") {
			stripped.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}
