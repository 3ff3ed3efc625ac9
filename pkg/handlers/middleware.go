package handlers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime/multipart"
	"net/http"
	"reflect"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// call is what is known of a request under way. It belongs to the request's
// goroutine.
type call struct {
	id   string
	head bool     // only the header of the answer is wanted
	key  face.Key // of the caller; without authentication, one of the default tenant
	code string   // of the problem it was answered with or cut for; empty when all went well

	// status, unless 0, is what became of an answer that had begun with 200.
	status int

	reservation *embed.Reservation // of a slot; nil: there is none

	// left is closed when the work has ended that was left behind, because the
	// answer could not wait for it; nil: there is none.
	left <-chan struct{}
}

// fails notes that an answer that has begun does not end well.
func (c *call) fails(err error) {
	kind := face.KindOf(err)
	c.code, c.status = kind.Code(), explain(kind).status
}

type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// identify gives the request its id: the caller's own where it is safe to
// write into logs and headers.
func (s *server) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !validRequestID(id) {
			id = face.NewID()
		}
		w.Header().Set("X-Request-Id", id)
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callKey{}, &call{id: id, head: r.Method == http.MethodHead})))
	})
}

func validRequestID(id string) bool {
	return len(id) >= 1 && len(id) <= 64 && strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

// observe logs and measures the request, one whose connection is cut too. The
// route's pattern stands for the path, which holds ids that callers chose.
func (s *server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		s.metrics.inFlight.Inc()
		ww := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		defer func() {
			s.metrics.inFlight.Dec()
			elapsed := time.Since(start)
			c := callOf(r.Context())
			status := cmp.Or(c.status, ww.Status(), http.StatusOK)
			route := chi.RouteContext(r.Context()).RoutePattern()
			if route == "" || status == http.StatusNotFound && route == "/*" {
				route = "none"
			}
			s.metrics.duration.WithLabelValues(route, strconv.Itoa(status)).Observe(elapsed.Seconds())
			attrs := []slog.Attr{
				slog.String("request_id", c.id), slog.String("method", face.Excerpt(r.Method)), slog.String("route", route),
				slog.Int("status", status), slog.Int("bytes", ww.BytesWritten()),
				slog.Float64("ms", float64(elapsed.Microseconds())/1000),
			}
			if c.key.ID != "" {
				attrs = append(attrs, slog.String("key_id", c.key.ID))
			}
			if c.code != "" {
				attrs = append(attrs, slog.String("code", c.code))
			}
			s.Logger.LogAttrs(r.Context(), slog.LevelInfo, "request", attrs...)
		}()
		next.ServeHTTP(ww, r)
	})
}

// recover answers 500 where a handler panicked.
func (s *server) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch p := recover(); p {
			case nil:
			case http.ErrAbortHandler:
				panic(p) // net/http's own way to cut a connection
			default:
				s.fail(w, r, panicked(p))
			}
		}()
		next.ServeHTTP(w, r)
	})
}

// panicked is the error of a handler that panicked.
func panicked(p any) error {
	return face.Wrap(face.Internal, "handlers.recover", fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
}

// secure sets the headers that keep browsers from doing more with an answer
// than show it, and caches from keeping it.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// limitTime ends the context when the request's time is over, unless the
// operation streams: the server's time, or the shorter one that the request
// allows. The time counts from when the body is in: how long that takes depends
// on the sender's line, for which the server has a timeout of its own, and that
// one ends here.
func (s *server) limitTime(next api.StrictHandlerFunc, _ string) api.StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		if operationOf(r).Streams() {
			return next(ctx, w, r, request)
		}
		conn := http.NewResponseController(w)
		_ = conn.SetReadDeadline(time.Time{}) // a writer without a connection has none
		_ = conn.SetWriteDeadline(time.Now().Add(s.RequestTimeout + 10*time.Second))
		if allowed := maxTime(request); allowed > 0 {
			return s.punctually(ctx, arrival(r).Add(min(allowed, s.RequestTimeout)), w, r, request, next)
		}
		ctx, cancel := context.WithTimeout(ctx, s.RequestTimeout)
		defer cancel()
		answer, err := next(ctx, w, r, request)
		return answer, deadlineError(ctx, err)
	}
}

// deadlineError is the Deadline error for what failed because the time was over.
func deadlineError(ctx context.Context, err error) error {
	kind := face.KindOf(err)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) && (kind == face.Canceled || kind == face.Internal) {
		return &face.Error{Kind: face.Deadline, Op: "handlers.limitTime", Err: err}
	}
	return err
}

// authorize refuses keys without the scope that the contract names for the
// operation. Where it names none, the key needs the scope admin.
func (s *server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scope := cmp.Or(operationOf(r).Scope, face.ScopeAdmin)
		if !callOf(r.Context()).key.Allows(scope) {
			s.fail(w, r, face.Errorf(face.Forbidden, "handlers.authorize", "The key needs the scope %s.", scope))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ofOperator refuses the keys of tenants: what follows tells of them all.
func (s *server) ofOperator(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tenant(r.Context()) != face.DefaultTenant {
			s.fail(w, r, face.Errorf(face.Forbidden, "handlers.ofOperator", "The metrics are of all tenants: they need a key of the tenant %s.", face.DefaultTenant))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readForm reads a multipart body into the request's JSON body, so that
// whatever comes after knows one form of a request.
func (s *server) readForm(next api.StrictHandlerFunc, _ string) api.StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		read := reflect.New(reflect.TypeOf(request)).Elem()
		read.Set(reflect.ValueOf(request))
		form := read.FieldByName("MultipartBody")
		if !form.IsValid() || form.IsNil() {
			return next(ctx, w, r, request)
		}
		body := reflect.New(read.FieldByName("JSONBody").Type().Elem())
		if err := api.ReadForm(form.Interface().(*multipart.Reader), body.Interface(), s.MaxImageBytes); err != nil {
			return nil, err
		}
		read.FieldByName("JSONBody").Set(body)
		form.SetZero()
		return next(ctx, w, r, read.Interface())
	}
}
