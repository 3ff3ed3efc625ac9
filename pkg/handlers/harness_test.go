package handlers_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/identity/identitytest"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	for _, text := range []string{"text/html", "application/yaml", api.NDJSON, "text/event-stream", "image/png", "image/jpeg"} {
		openapi3filter.RegisterBodyDecoder(text, openapi3filter.PlainBodyDecoder)
	}
	goleak.VerifyTestMain(m)
}

// spec is the parsed contract; making the router checks it and its examples.
var spec = sync.OnceValues(func() (*openapi3.T, error) {
	return openapi3.NewLoader().LoadFromData([]byte(api.Contract()))
})

var specRouter = sync.OnceValues(func() (routers.Router, error) {
	doc, err := spec()
	if err != nil {
		return nil, err
	}
	return legacy.NewRouter(doc)
})

func contract(tb testing.TB) (*openapi3.T, routers.Router) {
	tb.Helper()
	doc, err := spec()
	if err != nil {
		tb.Fatal(err)
	}
	router, err := specRouter()
	if err != nil {
		tb.Fatal(err)
	}
	return doc, router
}

// The scripted pipeline, whose photos show nobody: see package identitytest.
const (
	modelID   = identitytest.ModelID
	dimension = identitytest.Dimension

	nextModelID   = identitytest.NextModelID
	nextDimension = identitytest.NextDimension
)

type pipeline = identitytest.Pipeline

type person struct {
	number uint8
	noise  uint8 // of this photo; 0 to 20 are the same person, 120 nobody
	poor   bool  // the quality gate is against it
}

func photo(people ...person) []byte {
	var all []identitytest.Person
	for _, p := range people {
		all = append(all, identitytest.Person{Number: p.number, Noise: p.noise, Poor: p.poor})
	}
	return identitytest.Photo(all...)
}

func calibration() *face.Calibration { return identitytest.Calibration() }

func vector(number, noise uint8) face.Embedding { return identitytest.Vector(number, noise) }

// house is a server with a real store, and the checks that every answer of it
// must pass.
type house struct {
	http.Handler
	store  store.Store
	logs   *lines
	router routers.Router
}

// options are those of the house's handler and of the service behind it.
type options struct {
	handlers.Options
	Identity identity.Options
}

func open(tb testing.TB, change func(*options)) *house {
	tb.Helper()
	st, err := sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(tb.TempDir(), "likeness.db")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := st.AwaitReady(context.Background()); err != nil {
		tb.Fatal(err)
	}
	h, registry := &house{store: st, logs: &lines{}}, prometheus.NewRegistry()
	_, h.router = contract(tb)
	o := options{
		Options: handlers.Options{
			Store: st, Pipeline: pipeline{}, Models: identitytest.Models(),
			Logger:     slog.New(slog.NewJSONHandler(h.logs, nil)),
			Registerer: registry, Gatherer: registry,
		},
		Identity: identity.DefaultOptions(),
	}
	o.Identity.Registerer = registry
	if change != nil {
		change(&o)
	}
	o.Identity.Store, o.Identity.Pipeline, o.Identity.Models = o.Store, o.Pipeline, o.Models
	if o.Options.Identity, err = identity.New(o.Identity); err != nil {
		tb.Fatal(err)
	}
	if o.Mover == nil { // one that does no work
		o.Mover, err = move.New(move.Options{
			Store: o.Store, Pipeline: o.Pipeline.(move.Pipeline), Models: o.Models, OperatingPoint: o.Identity.OperatingPoint,
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if h.Handler, err = handlers.New(o.Options); err != nil {
		tb.Fatal(err)
	}
	return h
}

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// into reads the JSON body.
func (a answer) into(tb testing.TB, v any) {
	tb.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		tb.Fatalf("%s: %v", a.body, err)
	}
}

// ask sends a request and holds the answer against the contract.
func (h *house) ask(tb testing.TB, r *http.Request) answer {
	tb.Helper()
	if r.Host == "example.com" { // what httptest calls a server by default
		r.Host = "127.0.0.1:8080"
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	a := answer{w.Code, w.Header(), w.Body.Bytes()}
	if a.header.Get("X-Request-Id") == "" {
		tb.Errorf("%s %s: no request id", r.Method, r.URL.Path)
	}
	route, params, err := h.router.FindRoute(r)
	if err != nil {
		if a.status != 404 && a.status != 405 {
			tb.Errorf("%s %s is not in the contract and was answered %d", r.Method, r.URL.Path, a.status)
		}
		var p api.Problem
		a.into(tb, &p)
		return a
	}
	err = openapi3filter.ValidateResponse(context.Background(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route},
		Status:                 a.status, Header: a.header, Body: io.NopCloser(bytes.NewReader(a.body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		tb.Errorf("%s %s: the answer is not in the contract: %v\n%d %s", r.Method, r.URL.Path, err, a.status, a.body)
	}
	return a
}

// fields are the fields of a body, to be written as JSON or as multipart.
// Images are []byte or [][]byte.
type fields map[string]any

func (f fields) json(tb testing.TB, method, path string) *http.Request {
	tb.Helper()
	b, err := json.Marshal(f)
	if err != nil {
		tb.Fatal(err)
	}
	return rawJSON(method, path, string(b))
}

func rawJSON(method, path, body string) *http.Request {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	return r
}

func (f fields) form(tb testing.TB, method, path string) *http.Request {
	tb.Helper()
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	file := func(name string, data []byte) {
		p, err := w.CreateFormFile(name, "photo.txt") // its name says nothing
		if err != nil {
			tb.Fatal(err)
		}
		_, _ = p.Write(data) // a buffer takes everything
	}
	for name, value := range f {
		switch v := value.(type) {
		case []byte:
			file(name, v)
		case [][]byte:
			for _, data := range v {
				file(name, data)
			}
		case string:
			_ = w.WriteField(name, v) // a buffer takes everything
		default:
			text, err := json.Marshal(v)
			if err != nil {
				tb.Fatal(err)
			}
			_ = w.WriteField(name, string(text)) // a buffer takes everything
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	r := httptest.NewRequest(method, path, &b)
	r.Header.Set("Content-Type", w.FormDataContentType())
	return r
}

func (h *house) post(tb testing.TB, path string, f fields) answer {
	tb.Helper()
	return h.ask(tb, f.json(tb, http.MethodPost, path))
}

func (h *house) do(tb testing.TB, method, path string) answer {
	tb.Helper()
	return h.ask(tb, httptest.NewRequest(method, path, nil))
}

// good sends a request that must succeed, in both encodings where it is told
// to, and reads the answer of the last.
func good[T any](tb testing.TB, a answer, status int) T {
	tb.Helper()
	var v T
	if a.status != status {
		tb.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	a.into(tb, &v)
	return v
}

// bad wants a problem with the code and, where given, the pointer.
func bad(tb testing.TB, a answer, kind face.Kind, pointer string) api.Problem {
	tb.Helper()
	var p api.Problem
	a.into(tb, &p)
	if string(p.Code) != kind.Code() || p.Status != a.status || a.header.Get("Content-Type") != "application/problem+json" {
		tb.Fatalf("got %d %s, want the code %s", a.status, a.body, kind.Code())
	}
	if pointer != "" && !slices.ContainsFunc(p.Errors, func(e api.FieldError) bool { return e.Pointer == pointer }) {
		tb.Errorf("no error points at %s: %s", pointer, a.body)
	}
	return p
}

// enrolled makes a subject with one template.
func (h *house) enrolled(tb testing.TB, gallery, id string, p person) {
	tb.Helper()
	path := "/galleries/" + gallery + "/subjects"
	good[api.Subject](tb, h.post(tb, path, fields{"subject_id": id, "name": "Name of " + id}), 201)
	good[api.EnrolResponse](tb, h.post(tb, path+"/"+id+"/templates", fields{"image": photo(p)}), 201)
}

func b64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
