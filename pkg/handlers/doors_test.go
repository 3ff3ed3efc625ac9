package handlers_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// pngOf is the beginning of a PNG that claims to be w x h pixels, with as
// little after it as a decoder needs to look at the header.
func pngOf(w, h uint32) []byte {
	head := binary.BigEndian.AppendUint32([]byte("IHDR"), w)
	head = append(binary.BigEndian.AppendUint32(head, h), 8, 2, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), head...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(head))
}

// TestBadInput is the bad input that every route with an image shares.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.MaxImageBytes = 1 << 20 })
	h.enrolled(t, "default", "ada", person{number: 1})
	one := photo(person{number: 1})
	jpeg := append([]byte("\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"), make([]byte, 40)...)
	request := func(contentType, body string) *http.Request {
		r := httptest.NewRequest(http.MethodPost, "/verify", strings.NewReader(body))
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		return r
	}
	part := func(disposition, body string) string {
		return "--b\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + body + "\r\n"
	}
	const form = "multipart/form-data; boundary=b"
	for _, c := range []struct {
		name    string
		request *http.Request
		kind    face.Kind
		pointer string
	}{
		{"empty body", request("application/json", ""), face.Invalid, ""},
		{"empty form", request(form, "--b--\r\n"), face.Invalid, "/probe"},
		{"text", request("text/plain", "hello"), face.UnsupportedMediaType, ""},
		{"no media type", request("", "hello"), face.UnsupportedMediaType, ""},
		{"another JSON", request("application/json-patch+json", "[]"), face.UnsupportedMediaType, ""},
		{"text as JSON", request("application/json", "hello"), face.Invalid, ""},
		{"array as JSON", request("application/json", "[]"), face.Invalid, ""},
		{"JSON in capitals", request("Application/JSON; charset=utf-8", `{"a":1}`), face.Invalid, "/a"},
		{"form without boundary", request("multipart/form-data", "--b--"), face.Invalid, "Content-Type"},
		{"form of another boundary", request(form, "--c--\r\n"), face.Invalid, ""},
		{"text as image", fields{"probe": []byte("hello"), "subject_id": "ada"}.form(t, "POST", "/verify"), face.UnsupportedImage, "/probe"},
		{"HEIC", fields{"probe": []byte("\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"), "subject_id": "ada"}.json(t, "POST", "/verify"), face.UnsupportedImage, "/probe"},
		{"empty image", fields{"probe": []byte{}, "subject_id": "ada"}.form(t, "POST", "/verify"), face.Invalid, "/probe"},
		{"empty image in base64", fields{"probe": "", "subject_id": "ada"}.json(t, "POST", "/verify"), face.Invalid, "/probe"},
		{"truncated JPEG", fields{"probe": jpeg, "subject_id": "ada"}.form(t, "POST", "/verify"), face.InvalidImage, "/probe"},
		{"truncated PNG", fields{"probe": one[:len(one)-20], "subject_id": "ada"}.form(t, "POST", "/verify"), face.InvalidImage, "/probe"},
		{"60,000 x 60,000", fields{"probe": pngOf(60000, 60000), "subject_id": "ada"}.form(t, "POST", "/verify"), face.TooLarge, "/probe"},
		{"PNG bomb", fields{"probe": pngOf(7000, 7000), "subject_id": "ada"}.form(t, "POST", "/verify"), face.TooLarge, "/probe"},
		{"image too large", fields{"probe": make([]byte, 1<<20+1), "subject_id": "ada"}.form(t, "POST", "/verify"), face.TooLarge, "/probe"},
		{"body too large", fields{"probe": make([]byte, 6<<20), "subject_id": "ada"}.form(t, "POST", "/verify"), face.TooLarge, ""},
		{"wrong part", request(form, part(`name="image"`, "x")+"--b--\r\n"), face.Invalid, "/image"},
		{"part without a name", request(form, part(`filename="x"`, "x")+"--b--\r\n"), face.Invalid, ""},
		{"duplicate part", request(form, part(`name="probe"`, "x")+part(`name="probe"`, "x")+"--b--\r\n"), face.Invalid, "/probe"},
		{"duplicate field", request("application/json", `{"gallery":"a","gallery":"a"}`), face.Invalid, "/gallery"},
		{"unknown field", request("application/json", `{"images":[]}`), face.Invalid, "/images"},
		{"not base64", request("application/json", `{"probe":"???","subject_id":"ada"}`), face.Invalid, "/probe"},
		{"data URL that is not base64", request("application/json", `{"probe":"data:image/png,AAAA"}`), face.Invalid, "/probe"},
		{"data URL that is no image", request("application/json", `{"probe":"data:image/png;base64,AAAA","subject_id":"ada"}`), face.UnsupportedImage, "/probe"},
		{"NaN", request("application/json", `{"probe_embedding":[NaN]}`), face.Invalid, ""},
		{"NaN in a form", request(form, part(`name="probe_embedding"`, "[NaN]")+"--b--\r\n"), face.Invalid, "/probe_embedding"},
		{"infinite", request("application/json", `{"probe_embedding":[1e99]}`), face.Invalid, "/probe_embedding"},
		{"deep", request("application/json", `{"x":`+strings.Repeat("[", 1<<17)), face.Invalid, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bad(t, h.ask(t, c.request), c.kind, c.pointer)
		})
	}
	t.Run("body too large, length unknown", func(t *testing.T) {
		t.Parallel()
		r := fields{"subject_id": strings.Repeat("x", 6<<20)}.json(t, "POST", "/verify")
		r.ContentLength = -1
		bad(t, h.ask(t, r), face.TooLarge, "")
	})
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Ready = func(context.Context) error { return nil } })
	bad(t, h.do(t, http.MethodGet, "/nowhere"), face.NotFound, "")
	bad(t, h.do(t, http.MethodGet, "/problems/none"), face.NotFound, "")
	a := h.do(t, http.MethodPut, "/galleries/default")
	bad(t, a, face.MethodNotAllowed, "")
	if diff := cmp.Diff([]string{"GET", "HEAD", "PATCH", "DELETE"}, a.header.Values("Allow")); diff != "" {
		t.Errorf("Allow (-want +got):\n%s", diff)
	}
	good[api.Health](t, h.do(t, http.MethodGet, "/healthz"), 200)
	good[api.Health](t, h.do(t, http.MethodGet, "/readyz"), 200)
}

// TestQueries: what the contract does not have in a query is refused by every
// route, in words that say what is wanted.
func TestQueries(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Ready = func(context.Context) error { return nil } })
	doc, _ := contract(t)
	for _, path := range doc.Paths.InMatchingOrder() {
		for method := range doc.Paths.Value(path).Operations() {
			p := bad(t, h.ask(t, rawJSON(method, strings.NewReplacer("{", "", "}", "").Replace(path)+"?Limit=1", "{}")), face.Invalid, "Limit")
			if p.Errors[0].Detail != "unknown parameter" {
				t.Errorf("%s %s: %+v", method, path, p.Errors)
			}
		}
	}
	for _, c := range []struct{ path, name, detail string }{
		{"/galleries?limit=many", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=0", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=-1", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=1.0", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=1001", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=99999999999999999999", "limit", "must be a whole number from 1 to 1000"},
		{"/galleries?limit=1&limit=1", "limit", "comes more than once"},
		{"/galleries?&limit=1&&cursor=!", "cursor", "must be the next_cursor of an earlier page of this list"},
		{"/galleries?cursor=%FF", "cursor", "is not UTF-8"},
		{"/galleries?cursor=" + strings.Repeat("A", 513), "cursor", "must be a string of at most 512 characters"},
		{"/galleries?cursor=" + strings.Repeat("A", 512), "cursor", "must be the next_cursor of an earlier page of this list"},
		{"/galleries?cursor=%zz", "cursor", "cannot be read: write % as %25 and ; as %3B"},
		{"/galleries/default/subjects?name=a;b", "name", "cannot be read: write % as %25 and ; as %3B"},
		{"/galleries/default/subjects?name=", "name", "must be a string of 1 to 200 characters"},
		{"/galleries/default/subjects?external_id=" + strings.Repeat("7", 201), "external_id", "must be a string of 1 to 200 characters"},
		{"/galleries/default/subjects?external_id=7%00", "external_id", "has a NUL character"},
		{"/galleries/default/export?crops=yes", "crops", "must be true or false"},
		{"/style-transfer/x/result?format=gif", "format", "must be one of png, jpeg"},
		{"/healthz?" + strings.Repeat("n", 1000) + "=1", "", "unknown parameter"},
		{"/metrics?name[]=a&name[]=b&names[]=c", "names[]", "unknown parameter"},
	} {
		p := bad(t, h.do(t, http.MethodGet, c.path), face.Invalid, c.name)
		if len(p.Errors) != 1 || p.Errors[0].Detail != c.detail || len(p.Errors[0].Pointer) > 200 {
			t.Errorf("%.80s: %+v, want %q", c.path, p.Errors, c.detail)
		}
	}
	for _, path := range []string{"/galleries?", "/galleries?limit=1000", "/metrics?name[]=a&name[]=b", "/docs/start.js?v=2"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Host = "127.0.0.1:8080"
		if h.ServeHTTP(w, r); w.Code != 200 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestCorners: what nobody sends by hand has an answer of the contract, too.
func TestCorners(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	const subjects, templates = "/galleries/default/subjects", "/galleries/default/subjects/ada/templates"
	nested := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
	embedding := func(numbers string) string { return `{"embedding":[` + numbers + `],"model_id":"` + modelID + `"}` }
	for name, c := range map[string]struct {
		method, path, body string
		kind               face.Kind
		pointer            string
	}{
		"NUL in the path":            {"GET", "/galleries/a%00b", "", face.NotFound, ""},
		"NUL behind the gallery":     {"DELETE", subjects + "/%00", "", face.NotFound, ""},
		"no UTF-8 in the path":       {"GET", "/galleries/%FF/subjects", "", face.NotFound, ""},
		"no UTF-8 in a job":          {"GET", "/style-transfer/%C3", "", face.NotFound, ""},
		"a slash in the path":        {"GET", "/galleries/a%2Fb", "", face.NotFound, ""},
		"a long path":                {"GET", "/galleries/" + strings.Repeat("a", 4000), "", face.NotFound, ""},
		"NUL in a name":              {"POST", subjects, `{"name":"a\u0000"}`, face.Invalid, "/name"},
		"no UTF-8 in a name":         {"POST", subjects, "{\"name\":\"a\xff\"}", face.Invalid, "/name"},
		"a name of 201":              {"PATCH", subjects + "/ada", `{"name":"` + strings.Repeat("ö", 201) + `"}`, face.Invalid, "/name"},
		"a field twice":              {"POST", subjects, `{"name":"a","n\u0061me":"b"}`, face.Invalid, "/name"},
		"metadata of 4 KiB and one":  {"POST", subjects, `{"metadata":{"a":"` + strings.Repeat("x", 4097-8) + `"}}`, face.Invalid, "/metadata"},
		"metadata that is no object": {"POST", subjects, `{"metadata":"x"}`, face.Invalid, "/metadata"},
		"a deep body":                {"POST", subjects, `{"metadata":` + nested(10_001) + `}`, face.Invalid, ""},
		"no number":                  {"POST", templates, embedding("NaN"), face.Invalid, ""},
		"an infinite number":         {"POST", templates, embedding("1e39"), face.Invalid, "/embedding"},
		"no number at all":           {"POST", templates, embedding(""), face.Invalid, "/embedding"},
		"null":                       {"POST", templates, embedding("null"), face.Invalid, "/embedding"},
		"too few numbers":            {"POST", templates, embedding("1"), face.ModelMismatch, "/embedding"},
		"only zeros":                 {"POST", templates, embedding("0" + strings.Repeat(",0", dimension-1)), face.Invalid, "/embedding"},
		"a retention past the end":   {"POST", "/galleries", `{"name":"x","retention_days":36501}`, face.Invalid, "/retention_days"},
		"a huge number":              {"POST", "/galleries", `{"name":"x","retention_days":1e99}`, face.Invalid, "/retention_days"},
		"a fraction":                 {"POST", "/galleries", `{"name":"x","retention_days":1.5}`, face.Invalid, "/retention_days"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad(t, h.ask(t, rawJSON(c.method, c.path, c.body)), c.kind, c.pointer)
		})
	}
	good[api.Subject](t, h.ask(t, rawJSON("POST", subjects, `{"metadata":{"a":"`+strings.Repeat("x", 4096-8)+`"}}`)), 201)
	good[api.Subject](t, h.ask(t, rawJSON("POST", subjects, `{"metadata":`+nested(600)+`}`)), 201)
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for sent, echoed := range map[string]bool{"req-1.A_b": true, "a b": false, "": false, "x\"y": false, strings.Repeat("x", 65): false} {
		r := httptest.NewRequest(http.MethodGet, "/nowhere", nil)
		r.Header.Set("X-Request-Id", sent)
		a := h.ask(t, r)
		id := a.header.Get("X-Request-Id")
		if (id == sent) != echoed {
			t.Errorf("%q came back as %q", sent, id)
		}
		if p := bad(t, a, face.NotFound, ""); !strings.HasSuffix(p.Instance, ":"+id) {
			t.Errorf("instance %q, request id %q", p.Instance, id)
		}
	}
}

// TestPages looks at what is served to browsers.
func TestPages(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	if a := h.do(t, http.MethodGet, "/openapi.yaml"); string(a.body) != api.Contract() {
		t.Error("/openapi.yaml is not the contract")
	}
	for _, kind := range face.Kinds() {
		path := "/problems/" + strings.ReplaceAll(kind.Code(), "_", "-")
		if a, b := h.do(t, http.MethodGet, path), h.do(t, http.MethodGet, "/problems/"+kind.Code()); a.status != b.status || !bytes.Equal(a.body, b.body) {
			t.Errorf("/problems/%s: %d %s", kind.Code(), b.status, b.body)
		}
		if a := h.do(t, http.MethodGet, path); a.status != 200 || !bytes.Contains(a.body, []byte(kind.Code())) {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Accept", "application/json")
		if p := good[api.ProblemPage](t, h.ask(t, r), 200); p.Meaning == "" || p.Remedy == "" || string(p.Code) != kind.Code() {
			t.Errorf("%s: %+v", path, p)
		} else if (p.Status >= 500) != kind.OfServer() {
			t.Errorf("%s has the status %d, and OfServer is %v", path, p.Status, kind.OfServer())
		}
	}
	page := h.do(t, http.MethodGet, "/docs")
	if policy := page.header.Get("Content-Security-Policy"); !strings.Contains(policy, "script-src 'self'") || strings.Contains(policy, "http") {
		t.Errorf("policy %q", policy)
	}
	for _, asset := range []string{"swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png"} {
		if !bytes.Contains(page.body, []byte("/docs/"+asset)) {
			t.Errorf("the page does not load %s", asset)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/docs/"+asset, nil))
		if w.Code != 200 || w.Body.Len() == 0 || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d, %d bytes", asset, w.Code, w.Body.Len())
		}
	}
}

// TestContract holds the contract and the vocabulary in step: each code is
// documented, none is invented, and every example is what it is an example of.
func TestContract(t *testing.T) {
	t.Parallel()
	doc, _ := contract(t)
	var codes []any
	for _, kind := range face.Kinds() {
		codes = append(codes, kind.Code())
	}
	if diff := cmp.Diff(codes, doc.Components.Schemas["ProblemCode"].Value.Enum); diff != "" {
		t.Errorf("codes (-face +contract):\n%s", diff)
	}
	if text := doc.Components.Schemas["ImageFile"].Value.Description; !strings.Contains(text, imaging.Formats) {
		t.Errorf("an image file is %q, and what is read are %s", text, imaging.Formats)
	}
	described := ""
	for _, r := range doc.Components.Responses {
		described += *r.Value.Description
	}
	for _, kind := range face.Kinds() {
		if kind != face.Canceled && !strings.Contains(described, "`"+kind.Code()+"`") { // a canceled request has no answer
			t.Errorf("no response says when %s comes", kind.Code())
		}
	}
	h := open(t, nil)
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, op := range doc.Paths.Value(path).Operations() {
			if op.Summary == "" || op.Description == "" || op.Responses.Value("405") == nil {
				t.Errorf("%s %s lacks a summary, a description or its 405", method, path)
			}
			if method == http.MethodGet {
				continue
			}
			form := op.RequestBody != nil && op.RequestBody.Value.Content.Get("multipart/form-data") != nil
			r := httptest.NewRequest(method, strings.NewReplacer("{", "", "}", "").Replace(path), strings.NewReader("--b--"))
			r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			if status := h.ask(t, r).status; op.RequestBody != nil && (status == http.StatusUnsupportedMediaType) == form {
				t.Errorf("%s %s: multipart is answered %d, and in the contract: %v", method, path, status, form)
			}
		}
	}
}

// TestKeys goes through every operation of the contract with keys that may
// and that may not.
func TestKeys(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Auth = true })
	key := func(scopes []face.Scope, expires time.Time) (string, face.Key) {
		secret, k := face.NewKey("acme", "test", scopes, expires)
		if err := h.store.CreateKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		return secret, k
	}
	secrets := map[face.Scope]string{}
	for _, scope := range face.Scopes() {
		secrets[scope], _ = key([]face.Scope{scope}, time.Time{})
	}
	expired, _ := key(face.Scopes(), time.Now().Add(-time.Hour))
	revoked, k := key(face.Scopes(), time.Time{})
	if err := h.store.RevokeKey(t.Context(), k.ID, time.Now()); err != nil {
		t.Fatal(err)
	}
	doc, _ := contract(t)
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, op := range doc.Paths.Value(path).Operations() {
			send := func(secret string) answer {
				r := rawJSON(method, strings.NewReplacer("{", "", "}", "").Replace(path), "{}")
				if secret != "" {
					r.Header.Set("Authorization", "Bearer "+secret)
				}
				return h.ask(t, r)
			}
			needed := scopeOf(op)
			if needed == "" {
				if a := send(""); a.status == 401 || a.status == 403 {
					t.Errorf("%s %s is open and was answered %d", method, path, a.status)
				}
				continue
			}
			if !strings.Contains(op.Description, "Scope `"+string(needed)+"`") {
				t.Errorf("%s %s: its description does not name the scope %s", method, path, needed)
			}
			for name, secret := range map[string]string{"no": "", "an unknown": "lk_x", "an expired": expired, "a revoked": revoked} {
				if a := send(secret); a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s %s with %s key: %d", method, path, name, a.status)
				}
			}
			for scope, secret := range secrets {
				// The metrics tell of all tenants; these keys are one's.
				allowed := (scope == needed || scope == face.ScopeAdmin) && path != "/metrics"
				if a := send(secret); (a.status != 403) != allowed || a.status == 401 {
					t.Errorf("%s %s with the scope %s: %d", method, path, scope, a.status)
				}
			}
		}
	}
	operators, k := face.NewKey(face.DefaultTenant, "test", []face.Scope{face.ScopeRead}, time.Time{})
	if err := h.store.CreateKey(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	metrics := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	metrics.Header.Set("X-API-Key", operators)
	if a := h.ask(t, metrics); a.status != 200 {
		t.Errorf("the operator's metrics: %d", a.status)
	}
	r := httptest.NewRequest(http.MethodGet, "/models", nil)
	r.Header.Set("X-API-Key", secrets[face.ScopeRead])
	good[api.ModelList](t, h.ask(t, r), 200)
	bad(t, h.do(t, http.MethodGet, "/models?api_key="+secrets[face.ScopeRead]), face.Unauthenticated, "")
	for _, secret := range secrets {
		if strings.Contains(h.logs.String(), secret) {
			t.Error("a key is in the log")
		}
	}
}

// scopeOf is the scope that the contract asks for, or nothing.
func scopeOf(op *openapi3.Operation) face.Scope {
	for _, requirement := range *op.Security {
		return face.Scope(requirement["bearer"][0])
	}
	return ""
}

// TestTenants: what one tenant has, another does not see.
// TestWithoutKeys: the loopback address keeps other machines out, not the web
// pages that this machine's browser shows.
func TestWithoutKeys(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, c := range []struct {
		name, host, site, origin string
		refused                  bool
	}{
		{"curl", "127.0.0.1:8080", "", "", false},
		{"by name", "localhost:8080", "", "", false},
		{"IPv6", "[::1]:8080", "", "", false},
		{"its own page", "localhost:8080", "same-origin", "http://localhost:8080", false},
		{"a form of another site", "localhost:8080", "cross-site", "http://evil.example", true},
		{"another site, an old browser", "localhost:8080", "", "http://evil.example", true},
		{"a name bound to the address", "evil.example:8080", "same-origin", "http://evil.example:8080", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := fields{"image": photo()}.form(t, http.MethodPost, "/detect")
			r.Host = c.host
			for name, value := range map[string]string{"Sec-Fetch-Site": c.site, "Origin": c.origin} {
				if value != "" {
					r.Header.Set(name, value)
				}
			}
			a := h.ask(t, r)
			if c.refused {
				bad(t, a, face.Forbidden, "")
			} else {
				good[api.DetectResponse](t, a, 200)
			}
		})
	}
}

func TestTenants(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Auth = true })
	send := func(tenant string, r *http.Request) answer {
		secret, k := face.NewKey(tenant, "test", []face.Scope{face.ScopeAdmin}, time.Time{})
		if err := h.store.CreateKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-API-Key", secret)
		return h.ask(t, r)
	}
	body := fields{"subject_id": "ada"}
	good[api.Subject](t, send("one", body.json(t, "POST", "/galleries/default/subjects")), 201)
	bad(t, send("two", httptest.NewRequest("GET", "/galleries/default/subjects/ada", nil)), face.NotFound, "")
	good[api.Subject](t, send("two", body.json(t, "POST", "/galleries/default/subjects")), 201)
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Auth, o.RateLimit = true, 3 })
	ask := func(secret string) answer {
		r := httptest.NewRequest(http.MethodGet, "/models", nil)
		r.Header.Set("X-API-Key", secret)
		return h.ask(t, r)
	}
	for range 2 { // each key has a limit of its own
		secret, k := face.NewKey("acme", "test", []face.Scope{face.ScopeRead}, time.Time{})
		if err := h.store.CreateKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			good[api.ModelList](t, ask(secret), 200)
		}
		a := ask(secret)
		bad(t, a, face.RateLimited, "")
		if a.header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
	}
}

// TestFaults lets the pipeline fail in every way a server can.
func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		before func(context.Context) error
		kind   face.Kind
	}{
		{"fault", func(context.Context) error { return errors.New("the secret cause") }, face.Internal},
		{"panic", func(context.Context) error { panic("the secret cause") }, face.Internal},
		{"full", func(context.Context) error {
			return face.Errorf(face.Overloaded, "gate", "the secret cause")
		}, face.Overloaded},
		{"late", func(ctx context.Context) error {
			<-ctx.Done()
			return fmt.Errorf("the secret cause: %w", ctx.Err())
		}, face.Deadline},
		{"late, told otherwise", func(ctx context.Context) error {
			<-ctx.Done()
			return errors.New("the secret cause")
		}, face.Deadline},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, func(o *options) {
				o.Pipeline, o.RequestTimeout = pipeline{Before: c.before}, time.Second
			})
			a := h.post(t, "/detect", fields{"image": photo()})
			bad(t, a, c.kind, "")
			if bytes.Contains(a.body, []byte("secret")) {
				t.Errorf("the cause is told: %s", a.body)
			}
			if logged := strings.Count(h.logs.String(), "the secret cause"); (logged == 1) == (c.kind == face.Overloaded) {
				t.Errorf("the cause is logged %d times:\n%s", logged, h.logs)
			}
		})
	}
	t.Run("slow sender", func(t *testing.T) {
		t.Parallel()
		h := open(t, nil)
		for contentType, begun := range map[string]string{"application/json": "{", "multipart/form-data; boundary=b": "--b\r\n"} {
			// What net/http's reader says once the server's read timeout is over.
			r := httptest.NewRequest(http.MethodPost, "/detect", io.MultiReader(strings.NewReader(begun), iotest.ErrReader(os.ErrDeadlineExceeded)))
			r.Header.Set("Content-Type", contentType)
			bad(t, h.ask(t, r), face.Deadline, "")
		}
	})
	t.Run("not ready", func(t *testing.T) {
		t.Parallel()
		h := open(t, func(o *options) {
			o.Ready = func(context.Context) error { return face.Errorf(face.Unavailable, "test", "half of it is loaded") }
		})
		a := h.do(t, http.MethodGet, "/readyz")
		if p := bad(t, a, face.Unavailable, ""); *p.Detail != "half of it is loaded" || a.header.Get("Retry-After") == "" {
			t.Errorf("got %s", a.body)
		}
	})
}

// TestAtWork: a request is turned away at the door or not at all, however
// many photos it has.
func TestAtWork(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 9), make(chan struct{})
	h := open(t, func(o *options) {
		o.Pipeline = pipeline{
			Slots:  make(chan struct{}, 1),
			Before: func(context.Context) error { entered <- struct{}{}; <-leave; return nil },
		}
	})
	ask := func() answer {
		return h.post(t, "/verify", fields{"probe": photo(person{number: 1}), "reference": photo(person{number: 1})})
	}
	first := make(chan answer)
	go func() { first <- ask() }()
	<-entered
	bad(t, ask(), face.Overloaded, "")
	leave <- struct{}{} // between its photos, too
	<-entered
	bad(t, ask(), face.Overloaded, "")
	close(leave)
	good[api.VerifyResponse](t, <-first, 200)
	good[api.VerifyResponse](t, ask(), 200)
}

// TestNoPhoto: what has no photo needs no slot, and is answered while all are busy.
func TestNoPhoto(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}, 9), make(chan struct{})
	h := open(t, func(o *options) {
		o.Pipeline = pipeline{
			Slots:  make(chan struct{}, 1),
			Before: func(context.Context) error { entered <- struct{}{}; <-leave; return nil },
		}
	})
	const subject = "/galleries/default/subjects/ada"
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "ada"}), 201)
	first := make(chan answer)
	go func() { first <- h.post(t, "/detect", fields{"image": photo(person{number: 1})}) }()
	<-entered
	numbers := vector(1, 0)
	good[api.EnrolResponse](t, h.post(t, subject+"/templates", fields{"embedding": numbers, "model_id": modelID}), 201)
	good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe_embedding": numbers, "model_id": modelID}), 200)
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe_embedding": numbers, "subject_id": "ada", "model_id": modelID}), 200)
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe_embedding": numbers, "reference_embedding": numbers, "model_id": modelID}), 200)
	for path, with := range map[string]fields{
		"/detect": {"image": photo()}, "/recognize": {"probe": photo()}, "/verify": {"probe": photo(), "subject_id": "ada"},
		subject + "/templates": {"image": photo()},
	} {
		bad(t, h.post(t, path, with), face.Overloaded, "")
	}
	close(leave)
	good[api.DetectResponse](t, <-first, 200)
}

// TestSlowUpload: the time that the sender's line takes is not the request's.
func TestSlowUpload(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.RequestTimeout = time.Second })
	r := fields{"image": photo(person{number: 1})}.json(t, "POST", "/detect")
	r.Body = io.NopCloser(io.MultiReader(&pause{1100 * time.Millisecond}, r.Body))
	good[api.DetectResponse](t, h.ask(t, r), 200)
}

// pause is a reader that takes its time and reads nothing.
type pause struct{ time.Duration }

func (p *pause) Read([]byte) (int, error) { time.Sleep(p.Duration); return 0, io.EOF }

// TestLogs: one line a request, without what callers chose.
func TestLogs(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "secret-id", person{number: 1})
	good[api.Subject](t, h.do(t, http.MethodGet, "/galleries/default/subjects/secret-id"), 200)
	good[api.SubjectList](t, h.do(t, http.MethodGet, "/galleries/default/subjects?name=secret-query"), 200)
	logs := h.logs.String()
	if n := strings.Count(logs, "\n"); n != 4 {
		t.Errorf("%d lines for 4 requests:\n%s", n, logs)
	}
	if strings.Contains(logs, "secret") || strings.Contains(logs, "Name of") {
		t.Errorf("the log tells too much:\n%s", logs)
	}
	if !strings.Contains(logs, `"route":"/galleries/{gallery}/subjects/{subject}"`) {
		t.Errorf("no route:\n%s", logs)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": photo(person{number: 1}), "subject_id": "ada"}), 200)
	good[api.VerifyResponse](t, h.post(t, "/verify", fields{"probe": photo(person{number: 2}), "subject_id": "ada"}), 200)
	bad(t, h.post(t, "/verify", fields{"probe": photo(), "subject_id": "ada"}), face.NoFace, "")
	good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe": photo(person{number: 1}, person{number: 2, poor: true})}), 200)
	good[api.RecognizeResponse](t, h.post(t, "/recognize", fields{"probe_embedding": vector(9, 0), "model_id": modelID}), 200)
	text := string(h.do(t, http.MethodGet, "/metrics").body)
	for _, line := range []string{
		`likeness_decisions_total{decision="match",route="/verify"} 1`,
		`likeness_decisions_total{decision="non_match",route="/verify"} 1`,
		`likeness_decisions_total{decision="low_quality",route="/recognize"} 1`,
		`likeness_decisions_total{decision="unknown",route="/recognize"} 1`,
		`likeness_failure_to_acquire_total{reason="NO_FACE"} 1`,
		`likeness_failure_to_acquire_total{reason="LOW_SHARPNESS"} 1`,
		`likeness_http_request_duration_seconds_count{code="422",route="/verify"} 1`,
		`likeness_templates{gallery="default"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s", line)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := handlers.New(handlers.Options{})
	for _, field := range []string{"Store", "Pipeline", "Identity", "Mover"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("Options.%s is missing, and the error is %v", field, err)
		}
	}
}

// FuzzVerify sends any body under both media types: whatever it is, the
// answer is in the contract and no fault of the server.
func FuzzVerify(f *testing.F) {
	h := open(f, nil)
	h.enrolled(f, "default", "ada", person{number: 1})
	f.Add([]byte(`{"probe":"`+b64(photo(person{number: 1}))+`","subject_id":"ada"}`), true)
	f.Add([]byte(`{"probe_embedding":[1,2],"reference_embedding":[1e999],"model_id":"test-encoder"}`), true)
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"subject_id\"\r\n\r\nada\r\n"+
		"--b\r\nContent-Disposition: form-data; name=\"probe\"; filename=\"x\"\r\n\r\n"+string(photo(person{number: 1}))+"\r\n--b--\r\n"), false)
	f.Add([]byte("--b\r\nContent-Disposition: form-data; name=\"probe\"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=zz\r\n--b--\r\n"), false)
	f.Fuzz(func(t *testing.T, body []byte, asJSON bool) {
		r := httptest.NewRequest(http.MethodPost, "/verify", bytes.NewReader(body))
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		if asJSON {
			r.Header.Set("Content-Type", "application/json")
		}
		if a := h.ask(t, r); a.status >= 500 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	})
}
