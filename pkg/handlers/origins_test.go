package handlers_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/store"
)

// TestHead: HEAD is GET without the body, on every route that has GET, and
// begins no stream.
func TestHead(t *testing.T) {
	t.Parallel()
	h := studio(t, painter{gate: make(chan struct{})}, nil, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	job := good[api.StyleTransferAccepted](t, h.post(t, "/style-transfer", fields{"content": grey(), "style": [][]byte{red()}}), 202).JobID
	h.imports(t, importPath, strings.NewReader(line(t, "a", 1)))
	server := httptest.NewServer(h)
	defer server.Close()
	ask := func(method, path string) (*http.Response, []byte) {
		r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res, b
	}
	doc, _ := contract(t)
	names := strings.NewReplacer("{gallery}", "default", "{subject}", "ada", "{job}", job, "{model}", modelID, "{slug}", "no-face")
	for _, pattern := range doc.Paths.InMatchingOrder() {
		path := names.Replace(pattern)
		res, body := ask(http.MethodHead, path)
		if doc.Paths.Value(pattern).Get == nil {
			if res.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("HEAD %s, which has no GET: %d", path, res.StatusCode)
			}
			continue
		}
		if len(body) > 0 {
			t.Errorf("HEAD %s has a body", path)
		}
		if strings.HasSuffix(path, "/events") { // whose GET goes on for as long as the job
			if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "text/event-stream" {
				t.Errorf("HEAD %s: %d %s", path, res.StatusCode, ct)
			}
			continue
		}
		got, _ := ask(http.MethodGet, path)
		if got.StatusCode != res.StatusCode || got.Header.Get("Content-Type") != res.Header.Get("Content-Type") {
			t.Errorf("%s: HEAD is answered %d %s, GET %d %s", path, res.StatusCode, res.Header.Get("Content-Type"), got.StatusCode, got.Header.Get("Content-Type"))
		}
	}
	if res, _ := ask(http.MethodHead, "/nowhere"); res.StatusCode != 404 {
		t.Errorf("HEAD /nowhere: %d", res.StatusCode)
	}
	exports := 0
	if err := h.store.AuditTrail(t.Context(), 0, func(r store.AuditRecord) error {
		if r.Action == store.AuditExport {
			exports++
		}
		return nil
	}); err != nil || exports != 1 {
		t.Errorf("%d exports are recorded, %v", exports, err)
	}
}

// TestContentEncoding: a body that is packed is refused as that, and not as
// one that cannot be read.
func TestContentEncoding(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for coding, refused := range map[string]bool{"gzip": true, "br": true, "identity, gzip": true, "x-y": true, "identity": false, "Identity": false, "": false} {
		for _, r := range []*http.Request{
			fields{"image": photo()}.json(t, http.MethodPost, "/detect"),
			fields{"image": photo()}.form(t, http.MethodPost, "/detect"),
			ndjson(importPath, strings.NewReader("")),
		} {
			r.Header.Set("Content-Encoding", coding)
			a := h.ask(t, r)
			if !refused {
				if a.status != 200 {
					t.Errorf("%q: %d %s", coding, a.status, a.body)
				}
				continue
			}
			if p := bad(t, a, face.UnsupportedMediaType, ""); !strings.Contains(*p.Detail, coding) || a.header.Get("Accept-Encoding") != "identity" {
				t.Errorf("%q: %s %v", coding, a.body, a.header)
			}
		}
	}
}

// TestCORS: pages of origins that are named may call the server, others not.
func TestCORS(t *testing.T) {
	t.Parallel()
	const app, other = "https://app.example", "https://evil.example"
	for _, c := range []struct {
		name, origin string
		origins      []string
		shared       bool
	}{
		{"named", app, []string{"https://x.example:8443", app}, true},
		{"not named", other, []string{app}, false},
		{"none is named", app, nil, false},
		{"a part of a name", "https://app.example.evil.example", []string{app}, false},
		{"another scheme", "http://app.example", []string{app}, false},
		{"another port", "https://app.example:444", []string{app}, false},
		{"null", "null", []string{app}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, func(o *options) { o.Auth, o.CORSOrigins = true, c.origins })
			ask := func(r *http.Request) http.Header {
				r.Header.Set("Origin", c.origin)
				r.Host = "localhost"
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Header()
			}
			preflight := httptest.NewRequest(http.MethodOptions, "/verify", nil)
			preflight.Header.Set("Access-Control-Request-Method", "POST")
			preflight.Header.Set("Access-Control-Request-Headers", "authorization,content-type,idempotency-key")
			get := httptest.NewRequest(http.MethodGet, "/models", nil)
			get.Header.Set("X-API-Key", h.key(t, "acme"))
			for name, answered := range map[string]http.Header{"preflight": ask(preflight), "GET": ask(get)} {
				want := ""
				if c.shared {
					want = c.origin
				}
				if got := answered.Get("Access-Control-Allow-Origin"); got != want || answered.Get("Access-Control-Allow-Credentials") != "" {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			// A server without keys has nothing else that keeps pages out.
			open := open(t, func(o *options) { o.CORSOrigins = c.origins })
			post := fields{"image": photo()}.form(t, http.MethodPost, "/detect")
			post.Header.Set("Origin", c.origin)
			post.Header.Set("Sec-Fetch-Site", "cross-site")
			if a := open.ask(t, post); (a.status == 200) != c.shared {
				t.Errorf("without keys: %d", a.status)
			}
		})
	}
	for _, wrong := range []string{"*", "https://*.example", "app.example", "https://app.example/", ""} {
		if handlers.CheckOrigin(wrong) == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
}

// TestPathPrefix: behind a proxy all links lead where callers find the server,
// whether the proxy takes the prefix off or not.
func TestPathPrefix(t *testing.T) {
	t.Parallel()
	const prefix = "/ids/faces"
	h := open(t, func(o *options) { o.PathPrefix = prefix })
	for name, at := range map[string]string{"taken off": "", "left": prefix} {
		ask := func(method, path, body string) answer {
			r := rawJSON(method, at+path, body)
			if body == "" {
				r = httptest.NewRequest(method, at+path, nil)
			}
			r.Host = "localhost"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return answer{w.Code, w.Header(), w.Body.Bytes()}
		}
		id := strings.ReplaceAll(name, " ", "-")
		got := []string{
			ask("POST", "/galleries", `{"name":"`+id+`"}`).header.Get("Location"),
			ask("POST", "/galleries/default/subjects", `{"subject_id":"`+id+`"}`).header.Get("Location"),
			bad(t, ask("GET", "/nowhere", ""), face.NotFound, "").Type,
			bad(t, ask("GET", "/galleries/nothing", ""), face.NotFound, "").Type,
		}
		want := []string{prefix + "/galleries/" + id, prefix + "/galleries/default/subjects/" + id, prefix + "/problems/not-found", prefix + "/problems/not-found"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: links (-want +got):\n%s", name, diff)
		}
		var page api.ProblemPage
		r := httptest.NewRequest(http.MethodGet, at+"/problems/not_found", nil)
		r.Header.Set("Accept", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		answer{body: w.Body.Bytes()}.into(t, &page)
		if page.Type != want[2] {
			t.Errorf("%s: %+v", name, page)
		}
		if text := string(ask("GET", "/openapi.yaml", "").body); !strings.Contains(text, "servers:\n  - url: "+prefix+"/\n") {
			t.Errorf("%s: the contract names another server", name)
		}
		for _, path := range []string{"/docs", "/problems/no-face", "/docs/start.js"} {
			if a := ask("GET", path, ""); a.status != 200 || strings.Contains(string(a.body), `"/`) {
				t.Errorf("%s: %s has a link from the root: %d %s", name, path, a.status, a.body)
			}
		}
	}
	// A prefix that is not written as it is: the routes do not know it, and say so as they say all.
	for _, path := range []string{"/ids/%66aces/galleries/a%2Fb", "/ids%2Ffaces/galleries/a", "/%69ds/faces/galleries/a%2Fb"} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		bad(t, answer{w.Code, w.Header(), w.Body.Bytes()}, face.NotFound, "")
		if w.Header().Get("X-Request-Id") == "" || w.Header().Get("X-Content-Type-Options") == "" {
			t.Errorf("%s: %v", path, w.Header())
		}
	}
	for prefix, ok := range map[string]bool{"": true, "/a": true, "/a/b-c": true, "a": false, "/": false, "/a/": false, "/../a": false, "/a b": false, "//a": false} {
		if err := handlers.CheckPathPrefix(prefix); (err == nil) != ok {
			t.Errorf("%q: %v", prefix, err)
		}
	}
}
