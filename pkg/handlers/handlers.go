// Package handlers answers HTTP: it implements the server that is generated
// from the contract (package api), with the middleware around it. Every error
// of every door leaves through one function, as problem+json.
package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/go-chi/httprate"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/store"
)

// Pipeline gives requests their slots; [embed.Pipeline] is one.
type Pipeline interface {
	identity.Pipeline
	Reserve() (*embed.Reservation, error)
	Detector() embed.Manifest
}

// Options of the handler. Store, Pipeline, Identity and Mover are required;
// [DefaultOptions] has the defaults of the rest.
type Options struct {
	Store    store.Store
	Pipeline Pipeline
	Identity *identity.Service // decides, with the same store and pipeline
	Mover    Mover             // moves galleries of the same store to other encoders
	Models   []embed.Model     // those that GET /models lists

	// Jobs makes style transfers. Nil: they are refused.
	Jobs jobs.Queue
	// Draining is closed when the server stops; it ends the answers to those
	// who follow a job. Nil: they are not ended.
	Draining <-chan struct{}

	// Auth requires API keys. Without it every caller is the default tenant
	// with all scopes.
	Auth bool

	// MaxImageBytes bounds one image; 0: 10 MiB. A body may have three times
	// as much and 2 MiB, which is room for two images in base64.
	MaxImageBytes int64
	// MaxBodiesBytes bounds the bodies of all requests under way, so that
	// uploads cannot exhaust the memory; 0: room for 16 of the largest. With
	// Auth each tenant and each key has a share of it.
	MaxBodiesBytes int64
	// RateLimit is the number of requests a minute of one API key; 0: no limit.
	RateLimit int
	// AuthFailures is how many authentications may fail in a minute from one
	// address (of IPv6, from one /64). After that, a request without a valid key
	// is answered 429. 0: no limit.
	AuthFailures int
	// TrustedProxies are the addresses, as prefixes, of proxies whose
	// X-Forwarded-For says which address a request came from.
	TrustedProxies []string
	// CORSOrigins are the origins of web pages, such as https://app.example,
	// whose scripts may call the server. None: no page may.
	CORSOrigins []string
	// PathPrefix is the path at which a proxy shows the server, such as /faces.
	// Links begin with it, and the proxy may leave it on the paths of requests.
	// Empty: the root.
	PathPrefix string
	// RequestTimeout is how long a request may take, from the end of its body,
	// before it is answered 504; 0: 15 s.
	RequestTimeout time.Duration
	// BulkIdleTimeout is how long the other side of an import or an export may
	// send or read nothing; 0: a minute.
	BulkIdleTimeout time.Duration

	Logger     *slog.Logger                // nil: nothing is logged
	Registerer prometheus.Registerer       // of the metrics of this package; nil: a registry of its own
	Gatherer   prometheus.Gatherer         // what GET /metrics shows; nil: the registry of its own
	Ready      func(context.Context) error // what GET /readyz answers; nil: the store's Ready
}

// DefaultOptions are the options that zero fields stand for: API keys are not
// required, an image has at most 10 MiB, a request may take 15 seconds, and the
// other side of an import or an export may pause for a minute. There is no
// limit of rates, no web page may call the server, and nothing is logged. Store,
// Pipeline, Identity and Mover have no default.
func DefaultOptions() Options {
	o := Options{
		MaxImageBytes: 10 << 20, RequestTimeout: 15 * time.Second, BulkIdleTimeout: time.Minute,
		Logger: slog.New(slog.DiscardHandler), Jobs: noJobs{},
	}
	o.MaxBodiesBytes = maxBodies * o.maxBody()
	return o
}

// maxBodies is how many of the largest bodies there is room for.
const maxBodies = 16

// withDefaults fills in what is left out, and says which field is wrong.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	missing := func(field string, is bool) {
		if is {
			errs = append(errs, fmt.Errorf("field Options.%s is missing", field))
		}
	}
	missing("Store", o.Store == nil)
	missing("Pipeline", o.Pipeline == nil)
	missing("Identity", o.Identity == nil)
	missing("Mover", o.Mover == nil)
	d := DefaultOptions()
	o.MaxImageBytes = cmp.Or(o.MaxImageBytes, d.MaxImageBytes)
	o.MaxBodiesBytes = cmp.Or(o.MaxBodiesBytes, maxBodies*o.maxBody())
	o.RequestTimeout = cmp.Or(o.RequestTimeout, d.RequestTimeout)
	o.BulkIdleTimeout = cmp.Or(o.BulkIdleTimeout, d.BulkIdleTimeout)
	o.Logger = cmp.Or(o.Logger, d.Logger)
	o.Jobs = cmp.Or(o.Jobs, d.Jobs)
	if o.MaxBodiesBytes < 2*o.maxBody() {
		errs = append(errs, fmt.Errorf("Options.MaxBodiesBytes: %d is less than two bodies of %d", o.MaxBodiesBytes, o.maxBody()))
	}
	for _, proxy := range o.TrustedProxies {
		if _, err := netip.ParsePrefix(proxy); err != nil {
			errs = append(errs, fmt.Errorf("Options.TrustedProxies: %w", err))
		}
	}
	for _, origin := range o.CORSOrigins {
		if err := CheckOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("Options.CORSOrigins: %w", err))
		}
	}
	if err := CheckPathPrefix(o.PathPrefix); err != nil {
		errs = append(errs, fmt.Errorf("Options.PathPrefix: %w", err))
	}
	if o.Registerer == nil {
		own := prometheus.NewRegistry()
		o.Registerer = own
		if o.Gatherer == nil {
			o.Gatherer = own
		}
	}
	missing("Gatherer", o.Gatherer == nil)
	if o.Ready == nil && o.Store != nil {
		o.Ready = o.Store.Ready
	}
	return o, errors.Join(errs...)
}

// maxBody is the most bytes of one body.
func (o Options) maxBody() int64 { return 3*o.MaxImageBytes + 2<<20 }

// server implements api.StrictServerInterface.
type server struct {
	Options
	metrics   *metrics
	bodies    *shares // bytes of bodies under way
	failures  failures
	origins   *http.CrossOriginProtection // of pages that may call a server without keys
	importing importing
	followers *shares
	encoders  identity.Encoders

	embeddings int64 // bytes of the largest body with embeddings and no photo
}

// New makes the handler of all routes and registers its metrics.
func New(o Options) (http.Handler, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &server{
		Options: o, failures: countFailures(o.AuthFailures),
		bodies: newShares(o.MaxBodiesBytes, !o.Auth), followers: newShares(maxFollowers, !o.Auth),
	}
	s.encoders = o.Identity.Encoders()
	s.embeddings = 2*int64(s.encoders.MaxDimension())*numberBytes + othersBytes
	s.importing.keys = map[string]string{}
	if s.metrics, err = newMetrics(o.Registerer, o.Store); err != nil {
		return nil, err
	}

	r := chi.NewRouter()
	// Outermost first. Everything that can fail comes after what gives the
	// request its id, logs it and catches its panics.
	r.Use(s.identify, s.observe, s.recover, secure, s.shareWith(o.CORSOrigins), middleware.GetHead)
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, face.Errorf(face.NotFound, "handlers.route", "There is no such route."))
	})
	r.MethodNotAllowed(s.methodNotAllowed)

	r.Group(func(r chi.Router) {
		r.Use(s.checkURL)
		r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, api.Health{Status: "ok"}) })
		r.Get("/readyz", s.readyz)
		r.Get("/openapi.yaml", s.contract)
		r.Get("/problems/{slug}", s.problemPage)
		s.mountDocs(r)
	})
	r.Group(func(r chi.Router) {
		r.Use(clientAddress(o.TrustedProxies), s.authenticate)
		if o.Auth && o.RateLimit > 0 {
			r.Use(s.limitRate())
		}
		r.Use(s.checkURL)
		r.With(s.authorize, s.ofOperator).Method(http.MethodGet, "/metrics",
			promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
		api.HandlerWithOptions(
			api.NewStrictHandlerWithOptions(s,
				// The last one is the outermost: the form is read before the
				// time counts and before the request is looked up among those
				// answered before.
				[]api.StrictMiddlewareFunc{s.once, s.limitTime, s.readForm},
				api.StrictHTTPServerOptions{
					RequestErrorHandlerFunc:  func(w http.ResponseWriter, r *http.Request, err error) { s.fail(w, r, api.BodyError(err)) },
					ResponseErrorHandlerFunc: s.fail,
				}),
			api.ChiServerOptions{
				BaseRouter:       r,
				Middlewares:      []api.MiddlewareFunc{s.authorize, s.limitBody, s.record},
				ErrorHandlerFunc: s.parameterError,
			})
	})
	return underPrefix(o.PathPrefix, r), nil
}

// limitRate bounds the requests of each API key.
func (s *server) limitRate() func(http.Handler) http.Handler {
	return httprate.LimitBy(s.RateLimit, time.Minute,
		func(r *http.Request) (string, error) { return callOf(r.Context()).key.ID, nil },
		httprate.WithLimitHandler(func(w http.ResponseWriter, r *http.Request) {
			s.fail(w, r, face.Errorf(face.RateLimited, "handlers.rate", "The key may make %d requests a minute.", s.RateLimit))
		}),
		httprate.WithErrorHandler(s.fail))
}

// parameterError answers a path, query or header parameter that the
// generated code could not read.
func (s *server) parameterError(w http.ResponseWriter, r *http.Request, err error) {
	name, detail := "", "cannot be read"
	var format *api.InvalidParamFormatError
	var many *api.TooManyValuesForParamError
	switch {
	case errors.As(err, &format):
		name = format.ParamName
	case errors.As(err, &many):
		name, detail = many.ParamName, "comes more than once"
	}
	s.fail(w, r, parameter(name, detail))
}

// parameter is an Invalid error about a path, query or header parameter.
func parameter(name, detail string) *face.Error { return api.InvalidParameter(name, detail) }

// checkURL refuses a query parameter that the contract does not give the route,
// and a path that is not valid UTF-8 or has a zero byte: no id looks like that,
// and a database would refuse it as text.
func (s *server) checkURL(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !utf8.ValidString(r.URL.Path) || strings.ContainsRune(r.URL.Path, 0) {
			s.fail(w, r, face.Errorf(face.NotFound, "handlers.checkURL", "The path is not valid text."))
			return
		}
		if err := api.CheckQuery(r.Method, chi.RouteContext(r.Context()).RoutePattern(), r.URL.RawQuery); err != nil {
			s.fail(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// methodNotAllowed answers 405 with the methods that the path has.
func (s *server) methodNotAllowed(w http.ResponseWriter, r *http.Request) {
	routes := chi.RouteContext(r.Context()).Routes
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		if routes.Match(chi.NewRouteContext(), method, r.URL.Path) {
			w.Header().Add("Allow", method)
			if method == http.MethodGet {
				w.Header().Add("Allow", http.MethodHead)
			}
		}
	}
	s.fail(w, r, face.Errorf(face.MethodNotAllowed, "handlers.route", "The path does not have the method."))
}

func (s *server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), s.RequestTimeout)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		s.fail(w, r, deadlineError(ctx, err))
		return
	}
	writeJSON(w, http.StatusOK, api.Health{Status: "ok"})
}

// tenant is the tenant of the caller.
func tenant(ctx context.Context) string { return callOf(ctx).key.Tenant }

// valueOr is the value that p points at, or the default.
func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// optionalText is a pointer to a text that is there, or nil.
func optionalText(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// textOf is a text as package identity takes it. To identity an empty one means
// the default, but a caller who sends one has made a mistake: it becomes a text
// that is no id and no name of anything, which identity refuses.
func textOf[T ~string](p *T) string {
	switch {
	case p == nil:
		return ""
	case *p == "":
		return "-"
	}
	return string(*p)
}

// numberOf is a number of at least 1 as package identity takes it. To identity
// 0 means the default, but a caller who sends it has made a mistake: it becomes
// -1, which identity refuses.
func numberOf(p *int) int {
	switch {
	case p == nil:
		return 0
	case *p == 0:
		return -1
	}
	return *p
}
