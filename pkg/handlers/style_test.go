package handlers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/style"
)

// painter paints the colour of the style's first pixel. It waits at the gate,
// if there is one, in its second iteration.
type painter struct {
	gate chan struct{}
	took chan style.Task // what it was given; may be nil
}

func (painter) Check(t style.Task) error {
	if t.Params.Features != style.BuiltIn {
		return face.Errorf(face.Invalid, "painter", "params.features: no model is called %q", t.Params.Features)
	}
	return nil
}

func (p painter) Transfer(ctx context.Context, t style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	if p.took != nil {
		p.took <- t
	}
	img := image.NewRGBA(image.Rect(0, 0, t.Params.Size, t.Params.Size))
	for i := range t.Params.Iterations {
		if i == 1 && p.gate != nil {
			select {
			case <-p.gate:
			case <-ctx.Done():
				return nil, face.Wrap(face.Canceled, "painter", ctx.Err())
			}
		}
		err := observe(style.Report{
			Iteration: i + 1, Iterations: t.Params.Iterations, Width: t.Params.Size, Height: t.Params.Size,
			Loss: style.Loss{Total: 3, Content: 1, Style: 2}, Checkpoint: func() ([]byte, error) { return []byte{1}, nil },
			Preview: func() *image.RGBA { return img },
		})
		if err != nil {
			return nil, err
		}
	}
	c := t.Styles[0].RGBAAt(0, 0)
	for y := range t.Params.Size {
		for x := range t.Params.Size {
			img.SetRGBA(x, y, c)
		}
	}
	return img, nil
}

// studio is a house with jobs.
func studio(t *testing.T, p painter, change func(*jobs.Options), more func(*options)) *house {
	t.Helper()
	o := jobs.Options{Transferrer: p, Beat: 100 * time.Millisecond, Nice: -1}
	if change != nil {
		change(&o)
	}
	s, err := jobs.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "jobs.db"), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Start()
	return open(t, func(o *options) {
		o.Jobs = s
		if more != nil {
			more(o)
		}
	})
}

func flat(c color.Color) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 40, 40))
	for i := range 1600 {
		img.Set(i%40, i/40, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func red() []byte  { return flat(color.RGBA{R: 200, A: 255}) }
func grey() []byte { return flat(color.Gray{Y: 90}) }

// ended follows a job to its end.
func (h *house) ended(t *testing.T, id string) api.StyleTransfer {
	t.Helper()
	h.do(t, http.MethodGet, "/style-transfer/"+id+"/events")
	return good[api.StyleTransfer](t, h.do(t, http.MethodGet, "/style-transfer/"+id), 200)
}

func TestStyleTransfer(t *testing.T) {
	t.Parallel()
	p := painter{took: make(chan style.Task, 10)}
	match := false
	h := studio(t, p, func(o *jobs.Options) {
		o.Identify = func(context.Context, []byte, *image.RGBA) (jobs.Identity, error) {
			return jobs.Identity{Score: 0.25, Match: &match, OperatingPoint: "fmr_1e-4", ModelID: modelID}, nil
		}
	}, nil)
	f := fields{
		"content": grey(), "style": [][]byte{red(), grey()}, "mask": [][]byte{grey(), red()}, "style_weights": []float64{2, 1}, "check_identity": true,
		"params": map[string]any{
			"size": 64, "iterations": 12, "seed": uint64(1) << 63, "tv_weight": 0, "weights": "literal", "optimizer": "adam", "init": "noise",
			"preserve_color": "luminance", "style_scale": 0.5, "content_weight": 2, "style_weight": 3,
			"layers": map[string]any{"content": map[string]any{"relu4_2": 1}, "style": map[string]any{"relu1.1": 0.5}},
		},
	}
	for _, r := range []*http.Request{f.json(t, "POST", "/style-transfer"), f.form(t, "POST", "/style-transfer")} {
		a := h.ask(t, r)
		accepted := good[api.StyleTransferAccepted](t, a, 202)
		if a.header.Get("Location") != "/style-transfer/"+accepted.JobID || a.header.Get("Retry-After") == "" {
			t.Errorf("headers: %v", a.header)
		}
		task := <-p.took
		if diff := cmp.Diff(style.Params{
			Features: "builtin-features", Size: 64, Iterations: 12, Seed: 1 << 63, Weights: "literal", Optimizer: "adam", Init: "noise",
			PreserveColor: "luminance", StyleScale: 0.5, ContentWeight: 2, StyleWeight: 3, StyleWeights: []float64{2, 1},
			Layers: style.Layers{Content: map[string]float64{"relu4_2": 1}, Style: map[string]float64{"relu1.1": 0.5}},
		}, task.Params); diff != "" || len(task.Masks) != 2 || task.Masks[0].GrayAt(0, 0).Y != 90 {
			t.Errorf("the task: %s", diff)
		}
		done := h.ended(t, accepted.JobID)
		if done.State != api.JobStateSucceeded || done.Progress != 1 || done.Loss == nil || done.Loss.Style != 2 ||
			done.FinishedAt == nil || done.IdentityScore == nil || *done.IdentityScore != 0.25 || *done.IdentityMatch || done.IdentityReason != nil {
			t.Errorf("done: %+v", done)
		}
		for format, decode := range map[string]func([]byte) (image.Image, error){
			"":             func(b []byte) (image.Image, error) { return png.Decode(bytes.NewReader(b)) },
			"?format=png":  func(b []byte) (image.Image, error) { return png.Decode(bytes.NewReader(b)) },
			"?format=jpeg": func(b []byte) (image.Image, error) { return jpeg.Decode(bytes.NewReader(b)) },
		} {
			a := h.do(t, "GET", "/style-transfer/"+accepted.JobID+"/result"+format)
			img, err := decode(a.body)
			if err != nil || a.status != 200 {
				t.Fatalf("%q: %d, %v", format, a.status, err)
			}
			if r, g, _, _ := img.At(5, 5).RGBA(); r>>8 < 190 || g>>8 > 10 || img.Bounds().Dx() != 64 {
				t.Errorf("%q: %v at %v", format, img.At(5, 5), img.Bounds())
			}
		}
		bad(t, h.do(t, "GET", "/style-transfer/"+accepted.JobID+"/result?format=gif"), face.Invalid, "format")
	}
	list := good[api.StyleTransferList](t, h.do(t, "GET", "/style-transfer?limit=1"), 200)
	if len(list.Items) != 1 || list.NextCursor == nil {
		t.Fatalf("list: %+v", list)
	}
	list = good[api.StyleTransferList](t, h.do(t, "GET", "/style-transfer?cursor="+*list.NextCursor), 200)
	if len(list.Items) != 1 || list.NextCursor != nil {
		t.Fatalf("list: %+v", list)
	}
	path := "/style-transfer/" + list.Items[0].JobID
	good[api.StyleTransfer](t, h.do(t, "DELETE", path), 200)
	for _, under := range []string{"", "/result", "/events"} {
		bad(t, h.do(t, "GET", path+under), face.NotFound, "")
	}
	bad(t, h.do(t, "DELETE", path), face.NotFound, "")
}

func TestStyleTransferRefused(t *testing.T) {
	t.Parallel()
	h := studio(t, painter{}, nil, nil)
	for name, c := range map[string]struct {
		change  fields
		kind    face.Kind
		pointer string
	}{
		"no image":        {fields{"content": []byte("hello")}, face.UnsupportedImage, "/content"},
		"tiny style":      {fields{"style": [][]byte{red(), photo()}}, face.Invalid, "/style/1"},
		"five styles":     {fields{"style": [][]byte{red(), red(), red(), red(), red()}}, face.Invalid, "/style"},
		"weights":         {fields{"style_weights": []float64{1, 2}}, face.Invalid, "/params/style_weights"},
		"weight of 0":     {fields{"style_weights": []float64{0}}, face.Invalid, "/params/style_weights/0"},
		"weights twice":   {fields{"style_weights": []float64{1}, "params": map[string]any{"style_weights": []float64{1}}}, face.Invalid, "/style_weights"},
		"unknown field":   {fields{"params": map[string]any{"itterations": 3}}, face.Invalid, "/params/itterations"},
		"unknown layers":  {fields{"params": map[string]any{"layers": map[string]any{"x": 3}}}, face.Invalid, "/params/layers/x"},
		"a fraction":      {fields{"params": map[string]any{"size": 64.5}}, face.Invalid, "/params/size"},
		"no iterations":   {fields{"params": map[string]any{"iterations": 0}}, face.Invalid, "/params/iterations"},
		"negative seed":   {fields{"params": map[string]any{"seed": -1}}, face.Invalid, "/params/seed"},
		"not an enum":     {fields{"params": map[string]any{"init": "white"}}, face.Invalid, "/params/init"},
		"unknown network": {fields{"params": map[string]any{"features": "x"}}, face.Invalid, "/params/features"},
		"no object":       {fields{"params": []int{1}}, face.Invalid, "/params"},
		"masks":           {fields{"mask": [][]byte{grey(), grey()}}, face.Invalid, "/mask"},
		"no identities":   {fields{"check_identity": true}, face.Invalid, "/check_identity"},
		"unknown":         {fields{"contents": red()}, face.Invalid, "/contents"},
	} {
		f := fields{"content": grey(), "style": [][]byte{red()}}
		maps.Copy(f, c.change)
		for _, r := range []*http.Request{f.json(t, "POST", "/style-transfer"), f.form(t, "POST", "/style-transfer")} {
			t.Log(name)
			bad(t, h.ask(t, r), c.kind, c.pointer)
		}
	}
	if list := good[api.StyleTransferList](t, h.do(t, "GET", "/style-transfer"), 200); len(list.Items) > 0 {
		t.Errorf("what was refused is there: %+v", list)
	}
	bad(t, h.do(t, "GET", "/style-transfer?cursor=x"), face.Invalid, "")

	none := open(t, nil)
	f := fields{"content": grey(), "style": [][]byte{red()}}
	for _, a := range []answer{none.post(t, "/style-transfer", f), none.do(t, "GET", "/style-transfer"), none.do(t, "GET", "/style-transfer/x/events")} {
		if p := bad(t, a, face.Unavailable, ""); p.Detail == nil || !strings.Contains(*p.Detail, "not available") {
			t.Errorf("without jobs: %s", a.body)
		}
	}
}

// TestStyleTransferWaits holds a job up and looks at it from all sides.
func TestStyleTransferWaits(t *testing.T) {
	t.Parallel()
	p := painter{gate: make(chan struct{})}
	draining := make(chan struct{})
	h := studio(t, p, func(o *jobs.Options) { o.MaxQueued = 1 }, func(o *options) { o.Draining = draining })
	f := fields{"content": grey(), "style": [][]byte{red()}, "params": map[string]any{"size": 64, "iterations": 5}}
	ask := func(key string) answer {
		r := f.json(t, "POST", "/style-transfer")
		r.Header.Set("Idempotency-Key", key)
		return h.ask(t, r)
	}
	first := good[api.StyleTransferAccepted](t, ask("one"), 202)
	path := "/style-transfer/" + first.JobID
	for j := (api.StyleTransfer{}); j.Iteration != 1; {
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
		j = good[api.StyleTransfer](t, h.do(t, "GET", path), 200)
	}
	if again := good[api.StyleTransferAccepted](t, ask("one"), 202); again != first {
		t.Errorf("the same key made %+v after %+v", again, first)
	}
	bad(t, h.do(t, "GET", path+"/result"), face.NotFinished, "")
	second := good[api.StyleTransferAccepted](t, ask("two"), 202)
	if a := ask("three"); bad(t, a, face.QueueFull, "").Status != 429 || a.header.Get("Retry-After") == "" {
		t.Errorf("one too many: %v", a.header)
	}
	if j := good[api.StyleTransfer](t, h.do(t, "DELETE", "/style-transfer/"+second.JobID), 200); j.State != api.JobStateCanceled {
		t.Errorf("canceled: %+v", j)
	}

	// Whoever follows is told of the beginning and the end.
	server := httptest.NewServer(h)
	defer server.Close()
	res, err := server.Client().Get(server.URL + path + "/events?preview=true")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if ct := res.Header.Get("Content-Type"); ct != "text/event-stream" {
		t.Errorf("events come as %s", ct)
	}
	var states []string
	var text bytes.Buffer
	buffer := make([]byte, 64<<10)
	for deleted := false; ; {
		n, err := res.Body.Read(buffer)
		text.Write(buffer[:n])
		if !deleted && strings.Contains(text.String(), `"state":"running"`) {
			deleted = true
			if j := good[api.StyleTransfer](t, h.do(t, "DELETE", path), 200); j.State != api.JobStateRunning || j.Canceling == nil {
				t.Errorf("canceled: %+v", j)
			}
		}
		if err != nil {
			break
		}
	}
	for event := range strings.SplitSeq(text.String(), "\n\n") {
		if data, ok := strings.CutPrefix(event, "event: job\ndata: "); ok {
			var j api.StyleTransfer
			if err := json.Unmarshal([]byte(data), &j); err != nil {
				t.Fatal(err)
			}
			states = append(states, string(j.State))
		}
	}
	if len(states) < 2 || states[0] != "running" || states[len(states)-1] != "canceled" {
		t.Errorf("the events: %v", states)
	}

	// A server that stops lets those who follow go.
	third := good[api.StyleTransferAccepted](t, ask("four"), 202)
	res, err = server.Client().Get(server.URL + "/style-transfer/" + third.JobID + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	close(draining)
	for err = nil; err == nil; {
		_, err = res.Body.Read(buffer)
	}
}

// TestStyleTransferTenants: another tenant's jobs are not there.
func TestStyleTransferTenants(t *testing.T) {
	t.Parallel()
	h := studio(t, painter{}, nil, func(o *options) { o.Auth = true })
	secrets := map[string]string{}
	for _, tenant := range []string{"default", "other"} {
		secret, key := face.NewKey(tenant, "k", []face.Scope{face.ScopeStyle}, time.Time{})
		if err := h.store.CreateKey(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		secrets[tenant] = secret
	}
	as := func(tenant string, r *http.Request) answer {
		r.Header.Set("Authorization", "Bearer "+secrets[tenant])
		return h.ask(t, r)
	}
	f := fields{"content": grey(), "style": [][]byte{red()}, "params": map[string]any{"size": 64, "iterations": 2}}
	mine := good[api.StyleTransferAccepted](t, as("default", f.json(t, "POST", "/style-transfer")), 202)
	as("default", httptest.NewRequest("GET", "/style-transfer/"+mine.JobID+"/events", nil))
	for _, method := range []string{"GET", "DELETE"} {
		bad(t, as("other", httptest.NewRequest(method, "/style-transfer/"+mine.JobID, nil)), face.NotFound, "")
	}
	for _, under := range []string{"/result", "/events", "/events?preview=true"} {
		bad(t, as("other", httptest.NewRequest("GET", "/style-transfer/"+mine.JobID+under, nil)), face.NotFound, "")
	}
	if list := good[api.StyleTransferList](t, as("other", httptest.NewRequest("GET", "/style-transfer", nil)), 200); len(list.Items) > 0 {
		t.Errorf("another tenant sees %+v", list)
	}
	if a := as("default", httptest.NewRequest("GET", "/style-transfer/"+mine.JobID+"/result", nil)); a.status != 200 {
		t.Errorf("my own: %d %s", a.status, a.body)
	}
}

// TestFollowersShare: one key cannot follow so many jobs that nobody else can.
func TestFollowersShare(t *testing.T) {
	t.Parallel()
	draining := make(chan struct{})
	h := studio(t, painter{gate: make(chan struct{})}, nil, func(o *options) { o.Auth, o.Draining = true, draining })
	server := httptest.NewServer(h)
	defer server.Close()
	defer close(draining)
	follow := func(secret string) func() int {
		r := fields{"content": grey(), "style": [][]byte{red()}}.json(t, http.MethodPost, "/style-transfer")
		r.Header.Set("X-API-Key", secret)
		events := server.URL + "/style-transfer/" + good[api.StyleTransferAccepted](t, h.ask(t, r), 202).JobID + "/events"
		return func() int {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, events, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-API-Key", secret)
			res, err := server.Client().Do(r)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { res.Body.Close() })
			return res.StatusCode
		}
	}
	greedy, n := follow(h.key(t, "greedy")), 0
	for status := 0; status != http.StatusServiceUnavailable && n < 100; n++ {
		status = greedy()
	}
	if n < 20 || n == 100 {
		t.Errorf("one key follows %d times", n-1)
	}
	for tenant, secret := range map[string]string{"the same": h.key(t, "greedy"), "another": h.key(t, "modest")} {
		if status := follow(secret)(); status != http.StatusOK {
			t.Errorf("a second key, of %s tenant, was answered %d", tenant, status)
		}
	}
}
