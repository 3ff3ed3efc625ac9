package handlers_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"image"
	"image/color"
	"image/png"
	"io"
	"log/slog"
	"math/rand/v2"
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
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

func TestMain(m *testing.M) {
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

// Photos for tests show nobody: each pixel of the first row that is not white
// stands for a person, with a number, the sample's noise and its defects.
const (
	modelID   = "test-encoder"
	dimension = 64

	nextModelID   = "next-encoder"
	nextDimension = 48

	side = 16 // of a photo, in pixels
)

type person struct {
	number uint8
	noise  uint8 // of this photo; 0 to 20 are the same person, 120 nobody
	poor   bool  // the quality gate is against it
}

func photo(people ...person) []byte {
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range img.Pix {
		img.Pix[i] = 255
	}
	for i, p := range people {
		c := color.RGBA{R: p.number, G: p.noise, A: 255}
		if p.poor {
			c.B = 1
		}
		img.Set(i, 0, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// pipeline reads such photos. What comes before the networks is real.
type pipeline struct {
	before func(context.Context) error // may be nil
	head   *face.Head                  // of its encoder; may be nil
}

func (pipeline) Detector() embed.Manifest {
	return embed.Manifest{ID: "test-detector", Task: embed.TaskDetector}
}

func (p pipeline) Encoder() embed.Manifest {
	return embed.Manifest{ID: modelID, Task: embed.TaskEncoder, Dimension: dimension, Head: p.head}
}

func (pipeline) Prepare(context.Context, ...string) error { return nil }

// EmbedWith gives each encoder a vector of its own, and a crop that names the
// person.
func (p pipeline) EmbedWith(ctx context.Context, photo []byte, pick embed.Pick, want embed.Want) ([]embed.Sample, error) {
	if want.At != nil {
		pick = embed.PickAll
	}
	samples, err := p.embed(ctx, photo, pick)
	if want.At != nil && err == nil {
		x := int(want.At.X)
		if x < 0 || x >= len(samples) {
			return nil, face.Errorf(face.NoFace, "test", "no face there")
		}
		samples = samples[x : x+1]
	}
	for i := range samples {
		s := &samples[i]
		for _, id := range want.Encoders {
			e := s.Embedding
			if id == nextModelID {
				e = slices.Clone(e)[:nextDimension]
				e, err = e.Normalise()
			}
			s.Embeddings = append(s.Embeddings, e)
		}
		if len(want.Encoders) > 0 {
			s.Embedding = s.Embeddings[0]
		}
		if want.Crop {
			s.Crop = []byte("crop of somebody")
		}
	}
	return samples, err
}

func (p pipeline) embed(ctx context.Context, photo []byte, pick embed.Pick) ([]embed.Sample, error) {
	if p.before != nil {
		if err := p.before(ctx); err != nil {
			return nil, err
		}
	}
	img, err := imaging.Decode(ctx, photo, imaging.DefaultLimits(), 0)
	if err != nil {
		return nil, err
	}
	samples := []embed.Sample{}
	for x := range img.Width {
		c := img.RGBA.RGBAAt(x, 0)
		if c.R == 255 {
			break
		}
		f := face.Face{
			Box:            face.Box{X: float32(x), Width: 1, Height: 1},
			DetectionScore: 0.9,
			Quality:        face.Quality{Score: 1 - float32(c.G)/255, Sharpness: 0.5, Brightness: 0.5, InterocularPx: 30},
		}
		if c.B == 1 {
			f.Quality.Reasons = []face.Reason{face.ReasonLowSharpness}
		}
		samples = append(samples, embed.Sample{Face: f, Embedding: vector(c.R, c.G)})
	}
	for i := range samples {
		samples[i].Found = len(samples)
	}
	refuse := func(kind face.Kind, reason face.Reason) ([]embed.Sample, error) {
		e := face.Errorf(kind, "test", "")
		e.Reasons = []face.Reason{reason}
		return nil, e
	}
	switch {
	case pick == embed.PickAll:
		return samples, nil
	case len(samples) == 0:
		return refuse(face.NoFace, face.ReasonNoFace)
	case pick == embed.PickOnly && len(samples) > 1:
		return refuse(face.ManyFaces, face.ReasonExceedsMaxFaces)
	}
	return samples[:1], nil
}

func (p pipeline) Detect(ctx context.Context, photo []byte, maxFaces int) (faces []face.Face, found int, err error) {
	samples, err := p.embed(ctx, photo, embed.PickAll)
	for _, s := range samples[:min(maxFaces, len(samples))] {
		faces = append(faces, s.Face)
	}
	return faces, len(samples), err
}

// vector is a person's direction, turned by noise.
func vector(number, noise uint8) face.Embedding {
	e := make(face.Embedding, dimension)
	own, other := rand.New(rand.NewPCG(uint64(number), 1)), rand.New(rand.NewPCG(uint64(number), uint64(noise)+2))
	for i := range e {
		e[i] = float32(own.NormFloat64() + float64(noise)/40*other.NormFloat64())
	}
	n, err := e.Normalise()
	if err != nil {
		panic(err)
	}
	return n
}

func calibration() *face.Calibration {
	return &face.Calibration{
		Comparisons: 3e6,
		Points: []face.OperatingPoint{
			{Name: "fmr_1e-3", FMR: 1e-3, Threshold: 0.55},
			{Name: "fmr_1e-4", FMR: 1e-4, Threshold: 0.6},
			{Name: "fmr_1e-5", FMR: 1e-5, Threshold: 0.65},
		},
		Curve: []face.CurvePoint{{Score: 0, FMR: 0.5}, {Score: 0.6, FMR: 1e-4}, {Score: 0.7, FMR: 1e-5}},
	}
}

// house is a server with a real store, and the checks that every answer of it
// must pass.
type house struct {
	http.Handler
	store  store.Store
	logs   *lines
	router routers.Router
}

func open(tb testing.TB, change func(*handlers.Options)) *house {
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
	o := handlers.Options{
		Store: st, Pipeline: pipeline{}, Policy: match.NewPolicy(calibration()), OperatingPoint: "fmr_1e-4", AmbiguityMargin: 0.05,
		Models: []embed.Model{
			{Manifest: embed.Manifest{ID: modelID, Task: embed.TaskEncoder, Dimension: dimension, Calibration: calibration()}, Path: "x"},
			{Manifest: embed.Manifest{ID: nextModelID, Task: embed.TaskEncoder, Dimension: nextDimension, Calibration: calibration()}, Path: "y"},
			{Manifest: embed.Manifest{ID: "another", Task: embed.TaskDetector, Notes: "n"}},
		},
		Logger:     slog.New(slog.NewJSONHandler(h.logs, nil)),
		Registerer: registry, Gatherer: registry,
	}
	if change != nil {
		change(&o)
	}
	if h.Handler, err = handlers.New(o); err != nil {
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
