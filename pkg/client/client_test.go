package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/client"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	os.Exit(m.Run())
}

// start starts the service itself, with an embedded store and without keys.
func start(dir string) (url string, stop func(), err error) {
	o := app.DefaultOptions()
	o.Listen, o.Auth, o.DataDir, o.DatabaseURL = "127.0.0.1:0", "off", dir, ""
	o.ModelsDir, o.DiskReserve = nil, 0
	a, err := app.New(context.Background(), o, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		return "", nil, err
	}
	a.Start()
	return "http://" + a.Addr(), func() { err = errors.Join(err, a.Stop(context.Background())) }, nil
}

// serve is a client of a server of the test's own.
func serve(t *testing.T) *client.Client {
	t.Helper()
	orttest.Library(t)
	url, stop, err := start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return connect(t, url, client.Options{})
}

func connect(t *testing.T, url string, o client.Options) *client.Client {
	t.Helper()
	o.Transport = &http.Transport{}
	c, err := client.New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// TestOperations: there is a method for each operation of the contract, but for
// the page that shows it.
func TestOperations(t *testing.T) {
	t.Parallel()
	methods := reflect.TypeFor[*client.Client]()
	for _, o := range api.Operations() {
		name := strings.ToUpper(o.ID[:1]) + o.ID[1:]
		if _, ok := methods.MethodByName(name); !ok && o.ID != "getDocs" {
			t.Errorf("%s %s: there is no method %s", o.Method, o.Route, name)
		}
	}
}

// must fails the test where a call failed.
func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestIdentity enrols, verifies, searches and erases.
func TestIdentity(t *testing.T) {
	t.Parallel()
	c, ctx := serve(t), t.Context()
	photo := func(person, n int) client.Photo { return client.PhotoBytes(testfaces.Photo(t, person, n)) }

	g := must(c.CreateGallery(ctx, client.GalleryCreate{Name: "staff", RetentionDays: new(30)}))(t)
	if g.RetentionDays != 30 || g.Name != "staff" {
		t.Errorf("%+v", g)
	}
	g = must(c.UpdateGallery(ctx, "staff", client.GalleryUpdate{RetentionDays: new(0)}))(t)
	if g.RetentionDays != 0 {
		t.Errorf("a 0 was left out: %+v", g)
	}
	must(c.CreateSubject(ctx, "staff", client.SubjectCreate{SubjectID: new("ada"), Name: new("Ada"), Metadata: json.RawMessage(`{"a": 1}`)}))(t)
	reader := client.PhotoReader(bytes.NewReader(testfaces.Photo(t, 1, 1)))
	enrolled := must(c.EnrolTemplate(ctx, "staff", "ada", client.EnrolForm{Image: reader, QualityGate: new(client.QualityGateOff)}))(t)

	v := must(c.Verify(ctx, client.VerifyForm{Probe: photo(1, 2), SubjectID: new("ada"), Gallery: new("staff")}))(t)
	if !v.Match || v.Probe == nil || v.Reference != nil {
		t.Errorf("%+v", v)
	}
	v = must(c.Verify(ctx, client.VerifyForm{Probe: photo(1, 2), Reference: photo(2, 1), Face: new(client.FaceRuleLargest)}))(t)
	if v.Match {
		t.Errorf("%+v", v)
	}
	box := v.Probe.Face.Box
	at := []float32{box.X + box.Width/2, box.Y + box.Height/2}
	v = must(c.Verify(ctx, client.VerifyForm{Probe: photo(1, 2), Reference: photo(1, 1), FaceAt: at}))(t)
	if !v.Match {
		t.Errorf("%+v", v)
	}
	found := must(c.Recognize(ctx, client.RecognizeForm{Probe: []client.Photo{photo(1, 2), photo(1, 3)}, Fuse: new(true), Gallery: new("staff"), K: new(1)}))(t)
	if len(found.Faces) != 1 || found.Faces[0].Decision != client.RecognizedFaceDecisionMatch {
		t.Errorf("%+v", found)
	}
	if faces := must(c.Detect(ctx, client.DetectForm{Image: photo(1, 1)}))(t); faces.FacesFound != 1 {
		t.Errorf("%+v", faces)
	}
	asNumbers := must(c.Embed(ctx, client.EmbedForm{Image: photo(1, 1)}))(t)
	asBytes := must(c.Embed(ctx, client.EmbedForm{Image: photo(1, 1), Encoding: new(client.EmbeddingEncodingFloat32)}))(t)
	if diff := cmp.Diff(asNumbers.Faces[0].Embedding, asBytes.Faces[0].Embedding); diff != "" || len(asBytes.Faces[0].Embedding) < 64 {
		t.Errorf("the embedding in two encodings:\n%s", diff)
	}
	v = must(c.Verify(ctx, client.VerifyForm{
		ProbeEmbedding: asNumbers.Faces[0].Embedding, ReferenceEmbedding: asBytes.Faces[0].Embedding, ModelID: &asBytes.ModelID,
	}))(t)
	if !v.Match || v.Score < 0.99 {
		t.Errorf("%+v", v)
	}

	if list := must(c.ListTemplates(ctx, "staff", "ada"))(t); len(list.Items) != 1 || list.Items[0].TemplateID != enrolled.TemplateID {
		t.Errorf("%+v", list)
	}
	must(c.UpdateSubject(ctx, "staff", "ada", client.SubjectUpdate{Name: new("")}))(t)
	if s := must(c.GetSubject(ctx, "staff", "ada"))(t); s.Name != nil || string(s.Metadata) != `{"a":1}` {
		t.Errorf("%+v", s)
	}
	if r := must(c.DeleteTemplate(ctx, "staff", "ada", enrolled.TemplateID))(t); r.Templates != 1 {
		t.Errorf("%+v", r)
	}
	must(c.DeleteSubject(ctx, "staff", "ada"))(t)
	must(c.DeleteGallery(ctx, "staff"))(t)
	if models := must(c.ListModels(ctx))(t); len(models.Items) < 2 {
		t.Errorf("%+v", models)
	}
	if h := must(c.GetReadiness(ctx))(t); h.Status != "ok" {
		t.Errorf("%+v", h)
	}
	if text := must(c.GetMetrics(ctx, "process_start_time_seconds"))(t); !strings.Contains(string(text), "process_start_time_seconds ") || strings.Contains(string(text), "go_gc") {
		t.Errorf("%s", text)
	}
	if text := must(c.GetContract(ctx))(t); string(text) != api.Contract() {
		t.Error("the contract is another")
	}
	if p := must(c.ExplainProblem(ctx, "no-face"))(t); p.Code != client.ProblemCodeNoFace {
		t.Errorf("%+v", p)
	}
}

// TestProblems: what the server refuses is a Problem, whose code errors.Is knows.
func TestProblems(t *testing.T) {
	t.Parallel()
	c, ctx := serve(t), t.Context()
	_, err := c.Verify(ctx, client.VerifyForm{Probe: client.PhotoBytes(testfaces.Nobody(t)), Reference: client.PhotoBytes(testfaces.Photo(t, 1, 1))})
	p, ok := errors.AsType[*client.Problem](err)
	if !ok || !errors.Is(err, client.ProblemCodeNoFace) || errors.Is(err, client.ProblemCodeConflict) {
		t.Fatalf("%v", err)
	}
	if p.Status != 422 || p.Instance == "" || len(p.Errors) != 1 || p.Errors[0].Pointer != "/probe" || !slices.Contains(p.Reasons, client.ReasonNoFace) {
		t.Errorf("%+v", p)
	}
	if want := "the server says no_face: "; !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), "NO_FACE") {
		t.Errorf("%v", err)
	}
	if _, err := c.GetGallery(ctx, "a/../b c"); !errors.Is(err, client.ProblemCodeNotFound) {
		t.Errorf("a name with a slash: %v", err)
	}
	if _, err := c.Detect(ctx, client.DetectForm{Image: client.PhotoBytes(nil)}); !errors.Is(err, client.ProblemCodeInvalidRequest) {
		t.Errorf("an empty photo: %v", err)
	}
	if wait, again := client.CanRetry(err); wait != 0 || again {
		t.Errorf("no face is to be tried again after %v", wait)
	}
}

// TestIdempotency: a write with a key is carried out once.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	c, ctx := serve(t), t.Context()
	var replayed bool
	create := func(key string) (*client.Subject, error) {
		return c.CreateSubject(ctx, "default", client.SubjectCreate{Name: new("Ada")}, client.IdempotencyKey(key), client.Replayed(&replayed))
	}
	first := must(create("one"))(t)
	if replayed {
		t.Error("the first is replayed")
	}
	if again := must(create("one"))(t); again.SubjectID != first.SubjectID || !replayed {
		t.Errorf("%s, then %s", first.SubjectID, again.SubjectID)
	}
	if other := must(create("two"))(t); other.SubjectID == first.SubjectID || replayed {
		t.Errorf("%s, then %s", first.SubjectID, other.SubjectID)
	}
}

// TestBulk moves a gallery of some thousand subjects in and out.
func TestBulk(t *testing.T) {
	t.Parallel()
	c, ctx := serve(t), t.Context()
	const n = 3000
	crowd := func(yield func(client.BulkSubject, error) bool) {
		for i := range n {
			s := client.BulkSubject{SubjectID: fmt.Sprintf("s%05d", i), Metadata: json.RawMessage(`{"html":"<&>"}`), Templates: []client.BulkTemplate{{
				TemplateID: fmt.Sprintf("t%05d", i), ModelID: "test", Embedding: client.Numbers{0, 0.6, -0.8},
			}}}
			if !yield(s, nil) {
				return
			}
		}
		yield(client.BulkSubject{SubjectID: "not an id"}, nil)
	}
	in := must(c.ImportSubjects(ctx, "default", client.Lines(crowd), client.ImportOptions{}))(t)
	created, refused := 0, 0
	for result, err := range in.Results() {
		if err != nil {
			t.Fatal(err)
		}
		switch result.Status {
		case client.BulkResultStatusCreated:
			created++
		case client.BulkResultStatusRefused:
			refused++
		}
	}
	if sum := in.Summary(); sum == nil || !sum.Done || sum.Lines != n+1 || created != n || refused != 1 {
		t.Errorf("%d created, %d refused: %+v", created, refused, sum)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}

	var after string
	count := 0
	for s, err := range c.ExportSubjects(ctx, "default", client.ExportOptions{After: "s00009"}) {
		if err != nil {
			t.Fatal(err)
		}
		if s.SubjectID <= after || len(s.Templates) != 1 || !cmp.Equal(s.Templates[0].Embedding, client.Numbers{0, 0.6, -0.8}) {
			t.Fatalf("after %s: %+v", after, s)
		}
		after = s.SubjectID
		count++
	}
	if count != n-10 {
		t.Errorf("%d subjects", count)
	}
	for range c.ExportLines(ctx, "default", client.ExportOptions{}) {
		break // ends the request
	}
	names := 0
	for _, err := range c.AllSubjects(ctx, "default", client.ListSubjectsParams{Limit: new(1000)}) {
		if err != nil {
			t.Fatal(err)
		}
		names++
	}
	if names != n {
		t.Errorf("%d subjects on all pages", names)
	}

	// An export goes into an import, a line at a time.
	must(c.CreateGallery(ctx, client.GalleryCreate{Name: "copy"}))(t)
	out := c.ExportSubjects(ctx, "default", client.ExportOptions{})
	in = must(c.ImportSubjects(ctx, "copy", client.Lines(renamed(out)), client.ImportOptions{SummaryOnly: true}))(t)
	for _, err := range in.Results() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if sum := in.Summary(); sum == nil || sum.Created != n {
		t.Errorf("%+v", sum)
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.ImportSubjects(ctx, "nobody", strings.NewReader("{}\n"), client.ImportOptions{}); !errors.Is(err, client.ProblemCodeNotFound) {
		t.Errorf("into a gallery that is not there: %v", err)
	}
	for _, err := range c.ExportSubjects(ctx, "nobody", client.ExportOptions{}) {
		if !errors.Is(err, client.ProblemCodeNotFound) {
			t.Errorf("from a gallery that is not there: %v", err)
		}
	}
}

// renamed gives the subjects' templates other ids.
func renamed(subjects iter.Seq2[client.BulkSubject, error]) iter.Seq2[client.BulkSubject, error] {
	return func(yield func(client.BulkSubject, error) bool) {
		for s, err := range subjects {
			for i := range s.Templates {
				s.Templates[i].TemplateID += "-copy"
			}
			if !yield(s, err) {
				return
			}
		}
	}
}

// TestStyle follows a job to its end and gets the picture.
func TestStyle(t *testing.T) {
	t.Parallel()
	c, ctx := serve(t), t.Context()
	r := client.StyleTransferForm{
		Content: client.PhotoBytes(stripes(t, 64, 3)), Style: []client.Photo{client.PhotoBytes(stripes(t, 64, 7)), client.PhotoBytes(stripes(t, 64, 11))},
		StyleWeights: []float64{2, 1}, Params: &client.StyleParams{Size: new(64), Iterations: new(5), Seed: new(uint64(7))},
	}
	accepted := must(c.StartStyleTransfer(ctx, r))(t)
	var last *client.StyleTransfer
	for e, err := range c.FollowStyleTransfer(ctx, accepted.JobID, client.FollowOptions{Previews: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Job != nil {
			last = e.Job
		}
	}
	if last == nil || last.State != client.JobStateSucceeded || last.Iterations < 5 {
		t.Fatalf("%+v", last)
	}
	if done := must(c.WaitForStyleTransfer(ctx, accepted.JobID))(t); done.State != last.State {
		t.Errorf("%+v", done)
	}
	picture := must(c.GetStyleTransferResult(ctx, accepted.JobID, ""))(t)
	if img, err := png.Decode(bytes.NewReader(picture)); err != nil || img.Bounds().Dx() != 64 {
		t.Errorf("%v, %d bytes", err, len(picture))
	}
	if picture = must(c.GetStyleTransferResult(ctx, accepted.JobID, client.PictureFormatJpeg))(t); http.DetectContentType(picture) != "image/jpeg" {
		t.Errorf("%s", http.DetectContentType(picture))
	}
	must(c.DeleteStyleTransfer(ctx, accepted.JobID))(t)
	if _, err := c.WaitForStyleTransfer(ctx, accepted.JobID); !errors.Is(err, client.ProblemCodeNotFound) {
		t.Errorf("%v", err)
	}
}

func stripes(t *testing.T, side, pitch int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for y := range side {
		for x := range side {
			img.SetRGBA(x, y, color.RGBA{uint8(x * pitch), uint8(y * pitch), uint8((x + y) * pitch), 255})
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// faulty answers the first requests as it is told, and the others well.
func faulty(t *testing.T, faults ...func(w http.ResponseWriter)) (url string, requests *atomic.Int64, keys func() []string) {
	t.Helper()
	requests = &atomic.Int64{}
	seen := make(chan string, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r.Header.Get("Idempotency-Key")
		if i := int(requests.Add(1)); i <= len(faults) {
			faults[i-1](w)
			return
		}
		fmt.Fprint(w, `{"subject_id":"ada","items":[],"status":"ok"}`)
	}))
	t.Cleanup(server.Close)
	return server.URL, requests, func() (all []string) {
		for len(seen) > 0 {
			all = append(all, <-seen)
		}
		return all
	}
}

func busy(status int, after string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		if after != "" {
			w.Header().Set("Retry-After", after)
		}
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		fmt.Fprint(w, `{"code":"overloaded","title":"Overloaded"}`)
	}
}

func broken(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "100")
	fmt.Fprint(w, `{"subject`)
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// TestRetries: what the server cannot take in now is sent again, with the same
// key, and what it refuses is not.
func TestRetries(t *testing.T) {
	t.Parallel()
	quick := client.Options{FirstWait: time.Millisecond, Attempts: 4}
	for name, tt := range map[string]struct {
		faults   []func(http.ResponseWriter)
		options  client.Options
		requests int64
		code     client.ProblemCode // empty: all went well
	}{
		"all is well":             {nil, quick, 1, ""},
		"503 and 429":             {[]func(http.ResponseWriter){busy(503, "0"), busy(429, "0")}, quick, 3, ""},
		"cut in the answer":       {[]func(http.ResponseWriter){broken, broken}, quick, 3, ""},
		"too often":               {slices.Repeat([]func(http.ResponseWriter){busy(503, "0")}, 9), quick, 4, client.ProblemCodeOverloaded},
		"longer than one waits":   {[]func(http.ResponseWriter){busy(429, "3600")}, quick, 1, client.ProblemCodeOverloaded},
		"a failure of the server": {[]func(http.ResponseWriter){busy(500, "")}, quick, 1, client.ProblemCodeOverloaded},
		"refused":                 {[]func(http.ResponseWriter){busy(400, "")}, quick, 1, client.ProblemCodeOverloaded},
		"not a problem":           {[]func(http.ResponseWriter){func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }}, quick, 1, client.ProblemCodeInternal},
		"a redirect":              {[]func(http.ResponseWriter){func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) }}, quick, 1, client.ProblemCodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, requests, keys := faulty(t, tt.faults...)
			c := connect(t, url, tt.options)
			_, err := c.CreateSubject(t.Context(), "default", client.SubjectCreate{})
			if (err == nil) != (tt.code == "") || err != nil && !errors.Is(err, tt.code) {
				t.Errorf("%v, want %q", err, tt.code)
			}
			if requests.Load() != tt.requests {
				t.Errorf("%d requests, want %d", requests.Load(), tt.requests)
			}
			if all := keys(); all[0] == "" || len(slices.Compact(all)) != 1 {
				t.Errorf("keys %q", all)
			}
		})
	}
	url, requests, _ := faulty(t, broken)
	c := connect(t, url, quick)
	if _, err := c.GetHealth(t.Context(), client.SingleAttempt()); err == nil || requests.Load() != 1 {
		t.Errorf("%v after %d requests", err, requests.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.GetHealth(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestFollowReconnects: a stream that a server cuts is opened again.
func TestFollowReconnects(t *testing.T) {
	t.Parallel()
	event := func(state string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			fmt.Fprintf(w, ": a comment\nevent: news\ndata: {}\n\nevent: job\ndata: {\"job_id\":\"j\",\"state\":%q}\n\n", state)
		}
	}
	url, requests, _ := faulty(t, event("queued"), busy(503, "0"), broken, event("running"), event("succeeded"))
	c := connect(t, url, client.Options{FirstWait: time.Millisecond, Attempts: 4})
	var states []string
	for e, err := range c.FollowStyleTransfer(t.Context(), "j", client.FollowOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, string(e.Job.State))
	}
	if want := []string{"queued", "running", "succeeded"}; !slices.Equal(states, want) || requests.Load() != 5 {
		t.Errorf("%v after %d requests", states, requests.Load())
	}
	url, _, _ = faulty(t, slices.Repeat([]func(http.ResponseWriter){broken}, 9)...)
	c = connect(t, url, client.Options{FirstWait: time.Millisecond, Attempts: 3})
	if _, err := c.WaitForStyleTransfer(t.Context(), "j"); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

// TestIdleStream: a server that falls silent is not waited for.
func TestIdleStream(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"subject_id":"ada"}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(done)
	}))
	t.Cleanup(server.Close)
	c := connect(t, server.URL, client.Options{IdleTimeout: 50 * time.Millisecond})
	var last error
	for _, err := range c.ExportSubjects(t.Context(), "default", client.ExportOptions{}) {
		last = err
	}
	if _, again := client.CanRetry(last); last == nil || !again {
		t.Errorf("%v", last)
	}
	<-done
}

// TestOptions: what is wrong is refused, and the key is never shown.
func TestOptions(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "faces.example", "ftp://faces.example", "http://", "http://%"} {
		if _, err := client.New(url, client.Options{}); err == nil {
			t.Errorf("%q is an address", url)
		}
	}
	if _, err := client.New("http://faces.example", client.Options{Attempts: -1}); err == nil || !strings.Contains(err.Error(), "Options.Attempts") {
		t.Errorf("%v", err)
	}
	const secret = "lk_secret"
	o := client.DefaultOptions()
	o.Key = secret
	c, err := client.New("http://127.0.0.1:1/prefix/", o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.GetHealth(t.Context(), client.SingleAttempt())
	if text := fmt.Sprintf("%v %+v %#v %v %+v %#v %v", o, o, o, c, c, c, err); err == nil || strings.Contains(text, secret) {
		t.Errorf("%v: %s", err, text)
	}
	sent := make(chan *http.Request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent <- r
		fmt.Fprint(w, `{"status":"ok"}`)
	}))
	t.Cleanup(server.Close)
	must(connect(t, server.URL+"/prefix/", client.Options{Key: secret}).GetGallery(t.Context(), "a/b"))(t)
	if r := <-sent; r.Header.Get("Authorization") != "Bearer "+secret || r.URL.EscapedPath() != "/prefix/galleries/a%2Fb" {
		t.Errorf("%s %v", r.URL, r.Header)
	}
}
