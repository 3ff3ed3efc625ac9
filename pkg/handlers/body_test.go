package handlers_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// TestAfterTheEnd: what follows a body's value is refused and never passed
// over, on every route and however the bytes arrive.
func TestAfterTheEnd(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	const kind = "multipart/form-data; boundary=b"
	form := "--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n" + string(photo(person{number: 1})) + "\r\n--b--"
	json := `{"image":"` + b64(photo(person{number: 1})) + `"}`
	for _, c := range []struct {
		name, kind, body string
		good             bool
	}{
		{"JSON", "application/json", json, true},
		{"space", "application/json", json + " \r\n\t\n" + strings.Repeat(" ", 5000), true},
		{"a second object", "application/json", json + json, false},
		{"a second object on its line", "application/json", json + "\n" + json, false},
		{"a letter", "application/json", json + "x", false},
		{"a bracket", "application/json", json + "}", false},
		{"a comma", "application/json", json + ",", false},
		{"NUL", "application/json", json + "\x00", false},
		{"space of other kinds", "application/json", json + "\v\f\u00a0", false},
		{"a letter far behind", "application/json", json + strings.Repeat(" ", 70<<10) + "x", false},
		{"brackets and quotes in a text", "application/json", `{"image":"","x}]\"{":[{"a":"]\\"}]}`, false},
		{"form", kind, form, true},
		{"end of line", kind, form + "\r\n", true},
		{"epilogue", kind, form + "\r\nepilogue", false},
		{"epilogue without an end of line", kind, form + "epilogue", false},
		{"a second form", kind, form + "\r\n" + form, false},
		{"a long epilogue", kind, form + "\r\n" + strings.Repeat("x", 70<<10), false},
		{"a delimiter with more behind it", kind, strings.Replace(form, "--b--", "--b--b\r\n--b--", 1), false},
	} {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader,
			"halves": iotest.HalfReader, "data with the end": iotest.DataErrReader,
		} {
			t.Run(c.name+", "+way, func(t *testing.T) {
				t.Parallel()
				r := httptest.NewRequest(http.MethodPost, "/detect", reader(strings.NewReader(c.body)))
				r.Header.Set("Content-Type", c.kind)
				if a := h.ask(t, r); c.good {
					good[api.DetectResponse](t, a, 200)
				} else {
					bad(t, a, face.Invalid, "")
				}
			})
		}
	}
	doc, _ := contract(t)
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, op := range doc.Paths.Value(path).Operations() {
			if op.RequestBody == nil || op.RequestBody.Value.Content.Get("application/json") == nil {
				continue
			}
			p := bad(t, h.ask(t, rawJSON(method, strings.NewReplacer("{", "", "}", "").Replace(path), "{}{}")), face.Invalid, "")
			if len(p.Errors) != 1 || !strings.Contains(p.Errors[0].Detail, "after its end") {
				t.Errorf("%s %s: %+v", method, path, p.Errors)
			}
		}
	}
}

// TestShortBodies: a sender who announces more than comes is answered when the
// time for uploads is over, and the connection is closed. No answer depends on
// how much has come by then.
func TestShortBodies(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	server := httptest.NewUnstartedServer(h)
	server.Config.ReadHeaderTimeout, server.Config.ReadTimeout = time.Minute, 200*time.Millisecond
	server.Start()
	t.Cleanup(server.Close)
	form := "--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n" + string(photo(person{number: 1})) + "\r\n--b--\r\n"
	json := `{"image":"` + b64(photo(person{number: 1})) + `"}`
	const jsonKind, formKind = "application/json", "multipart/form-data; boundary=b"
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
	}{
		{"POST", "/detect", jsonKind, json, 504},
		{"POST", "/detect", formKind, form, 504},
		{"POST", "/detect", formKind, form[:len(form)/2], 504},
		{"POST", "/detect", jsonKind, `"x"`, 504},
		{"POST", "/detect", jsonKind, "", 504},
		{"POST", "/detect", "text/plain", "", 415},
		{"POST", "/galleries", jsonKind, `{"name":"x"}`, 504},
		{"PATCH", "/galleries/default", jsonKind, `{}`, 504},
		{"POST", "/models/m/migrate", jsonKind, `{}`, 504},
		{"POST", "/nowhere", jsonKind, `{}`, 404},
		{"GET", "/galleries", "", "", 400},
		{"GET", "/galleries/default/export", "", "", 400},
		{"DELETE", "/galleries/nothing", "", "", 400},
		{"GET", "/healthz", "", "", 200},
	} {
		t.Run(c.method+" "+c.path+" "+c.kind, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
				c.method, c.path, c.kind, len(c.body)+1, c.body)
			if err != nil {
				t.Fatal(err)
			}
			answer := bufio.NewReader(conn)
			res, err := http.ReadResponse(answer, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			if res.StatusCode != c.status || err != nil {
				t.Errorf("%d %s %v, want %d", res.StatusCode, text, err, c.status)
			}
			if n, err := answer.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("the connection goes on: %d, %v", n, err)
			}
		})
	}
	// What is wrong already is said whatever else would come.
	late := httptest.NewRequest("POST", "/detect", io.MultiReader(strings.NewReader(json+"x"), iotest.ErrReader(os.ErrDeadlineExceeded)))
	late.Header.Set("Content-Type", jsonKind)
	bad(t, h.ask(t, late), face.Invalid, "")
}

// TestCutForms: a form that ends before its last delimiter is refused, wherever
// that is, though all that is needed has come.
func TestCutForms(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	form := "--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\n" + string(photo(person{number: 1})) +
		"\r\n--b\r\nContent-Disposition: form-data; name=\"max_faces\"\r\nX-Note: n\r\n\r\n1\r\n--b--"
	for length := range len(form) + 1 {
		r := httptest.NewRequest(http.MethodPost, "/detect", struct{ io.Reader }{strings.NewReader(form[:length])})
		r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		switch a := h.ask(t, r); {
		case length == len(form):
			good[api.DetectResponse](t, a, 200)
		case a.status != 400:
			t.Errorf("cut behind %q: %d %s", form[max(0, length-30):length], a.status, a.body)
		}
	}
}

// key makes a key that may do everything, and gives its secret.
func (h *house) key(tb testing.TB, tenant string) string {
	tb.Helper()
	secret, k := face.NewKey(tenant, "test", []face.Scope{face.ScopeAdmin}, time.Time{})
	if err := h.store.CreateKey(tb.Context(), k); err != nil {
		tb.Fatal(err)
	}
	return secret
}

// upload is a body that is held open once it has come so far.
type upload struct {
	answer  chan answer
	written chan struct{}
	body    *io.PipeReader
}

// begin sends the beginning of a body and leaves it there.
func (h *house) begin(tb testing.TB, secret, beginning string, announced int64) *upload {
	r, w := io.Pipe()
	u := &upload{make(chan answer, 1), make(chan struct{}), r}
	request := httptest.NewRequest(http.MethodPost, "/detect", r)
	request.ContentLength = announced
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", secret)
	go func() { u.answer <- h.ask(tb, request) }()
	go func() {
		if _, err := io.WriteString(w, beginning); err == nil { // returns once all was read
			close(u.written)
		}
	}()
	return u
}

// held reports whether the beginning was taken in; otherwise it was refused.
func (u *upload) held(tb testing.TB) bool {
	tb.Helper()
	select {
	case <-u.written:
		return true
	case a := <-u.answer:
		bad(tb, a, face.Overloaded, "")
		return false
	}
}

// TestShares: room is counted by what has come, and nobody takes it all,
// whatever they announce, send and hold.
func TestShares(t *testing.T) {
	t.Parallel()
	const most = 2<<20 + 3<<10 // of a body
	h := open(t, func(o *options) { o.Auth, o.MaxImageBytes, o.MaxBodiesBytes = true, 1<<10, 2*most })
	key := func(tenant string) string { return h.key(t, tenant) }
	large, small := `{"image":"`+strings.Repeat("A", 240<<10), `{"image":"`+strings.Repeat("A", 50<<10)
	var open []*upload
	fill := func(secret, beginning string, announced int64) (taken int) {
		for {
			u := h.begin(t, secret, beginning, announced)
			if open = append(open, u); !u.held(t) {
				return taken
			}
			taken++
		}
	}
	// Announced and not sent: twenty bodies leave room for more, where there is room for two.
	var announced []*upload
	announcer := key("announcer")
	for range 20 {
		u := h.begin(t, announcer, "{", most)
		if announced = append(announced, u); !u.held(t) {
			t.Fatal("one byte of a body was refused")
		}
	}
	for _, u := range announced {
		u.body.CloseWithError(io.ErrUnexpectedEOF)
		bad(t, <-u.answer, face.Invalid, "")
	}
	for tenant := range 4 {
		name := fmt.Sprintf("tenant-%d", tenant)
		first := fill(key(name), large, -1)
		second := fill(key(name), small, most)
		t.Logf("%s: %d bodies under way of one key, %d smaller ones of another", name, first, second)
		if tenant == 0 && first < 6 || first < 1 && tenant < 2 || second < 1 {
			t.Errorf("%s: no more than %d of one key and %d of another", name, first, second)
		}
	}
	last := rawJSON(http.MethodPost, "/detect", `{"image":"`+b64(photo(person{number: 1}))+`"}`)
	last.Header.Set("X-API-Key", key("last"))
	good[api.DetectResponse](t, h.ask(t, last), 200)
	for _, u := range open {
		u.body.CloseWithError(io.ErrUnexpectedEOF)
	}
}

// TestOneCaller: without keys there is one caller, who has all the room.
func TestOneCaller(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.MaxImageBytes, o.MaxBodiesBytes = 1<<10, 2*(2<<20+3<<10) })
	large := `{"image":"` + strings.Repeat("A", 240<<10)
	var open []*upload
	taken := 0
	for {
		u := h.begin(t, "", large, -1)
		if !u.held(t) {
			u.body.Close()
			break
		}
		open = append(open, u)
		taken++
	}
	if taken != 16 { // of 256 KiB
		t.Errorf("%d bodies under way", taken)
	}
	for _, u := range open {
		u.body.CloseWithError(io.ErrUnexpectedEOF)
		bad(t, <-u.answer, face.Invalid, "")
	}
	good[api.DetectResponse](t, h.post(t, "/detect", fields{"image": photo()}), 200)
}

// TestEcho: an answer and a log line repeat no more than the beginning of what
// a caller wrote, however long it is.
func TestEcho(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for name, long := range map[string]string{
		"letters": strings.Repeat("a", 1<<18), "tildes": strings.Repeat("~/", 1<<17), "umlauts": "x" + strings.Repeat("ü", 1<<17),
		"escapes": strings.Repeat(`\u00e4`, 1<<15), "controls": strings.Repeat("\x7f", 1<<18),
	} {
		header := strings.Repeat(strings.Trim(long[:2000], "\\"), 5)
		part := func(disposition, text string) *http.Request {
			r := httptest.NewRequest(http.MethodPost, "/detect",
				strings.NewReader("--b\r\nContent-Disposition: form-data; "+disposition+"\r\n\r\n"+text+"\r\n--b--\r\n"))
			r.Header.Set("Content-Type", "multipart/form-data; boundary=b")
			return r
		}
		withHeader := func(header, value string) *http.Request {
			r := rawJSON(http.MethodPost, "/galleries", "{}")
			r.Header.Set(header, value)
			return r
		}
		method := rawJSON(http.MethodPost, "/detect", "{}")
		method.Method = header
		lines := httptest.NewRequest(http.MethodPost, "/galleries/default/import", strings.NewReader(`{"`+long+`":1}`+"\n"))
		lines.Header.Set("Content-Type", api.NDJSON)
		for way, r := range map[string]*http.Request{
			"member":          rawJSON(http.MethodPost, "/detect", `{"`+long+`":1}`),
			"member within":   rawJSON(http.MethodPost, "/style-transfer", `{"params":{"`+long[:120<<10]+`":1}}`),
			"value":           rawJSON(http.MethodPost, "/recognize", `{"gallery":"`+long[:120<<10]+`"}`),
			"enum":            rawJSON(http.MethodPost, "/verify", `{"face":"`+long[:120<<10]+`"}`),
			"digits":          rawJSON(http.MethodPost, "/detect", `{"max_faces":1`+strings.Repeat("0", 100<<10)+`}`),
			"part":            part(`name="`+long+`"`, "x"),
			"part's text":     part(`name="max_faces"`, long[:120<<10]),
			"line":            lines,
			"media type":      withHeader("Content-Type", header),
			"Idempotency-Key": withHeader("Idempotency-Key", header),
			"request id":      withHeader("X-Request-Id", header),
			"path":            httptest.NewRequest(http.MethodGet, "/models/"+strings.Repeat("m", 20<<10)+"/migrate", nil),
			"parameter":       httptest.NewRequest(http.MethodGet, "/galleries?limit="+strings.Repeat("9", 20<<10), nil),
			"method":          method,
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				t.Parallel()
				before := len(h.logs.String())
				r.Host = "localhost"
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code == http.StatusForbidden {
					t.Error("it was not read")
				}
				if w.Body.Len() > 2<<10 || !bytes.Equal(w.Body.Bytes(), bytes.ToValidUTF8(w.Body.Bytes(), nil)) {
					t.Errorf("%d, %d bytes: %.200q", w.Code, w.Body.Len(), w.Body)
				}
				for line := range strings.Lines(h.logs.String()[before:]) { // those of others among them
					if len(line) > 1<<10 {
						t.Errorf("a line of %d bytes in the log: %.200s", len(line), line)
					}
				}
			})
		}
	}
	p := bad(t, h.ask(t, rawJSON(http.MethodPost, "/detect", `{"`+strings.Repeat("~", 3000)+`":1}`)), face.Invalid, "")
	if want := "/" + strings.Repeat("~0", 100) + "…"; p.Errors[0].Pointer != want {
		t.Errorf("pointer %q, want %q", p.Errors[0].Pointer, want)
	}
}
