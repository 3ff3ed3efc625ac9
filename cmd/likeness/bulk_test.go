package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// importLines makes lines of an import, each of a subject with a template.
func importLines(from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, `{"subject_id":"s%04d","name":"Name %d","templates":[{"template_id":"t%04d","model_id":"test","embedding":[0,0.6,-0.8],"quality":0.1}]}`+"\n", i, i, i)
	}
	return b.String()
}

func writeTempFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "people.ndjson")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func requireMissing(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := os.Stat(name); !os.IsNotExist(err) {
			t.Errorf("%s is there: %v", name, err)
		}
	}
}

// A gallery goes out, into another server, and comes out the same.
func TestBulkWithRealServer(t *testing.T) {
	t.Parallel()
	first, second := realServer(t), realServer(t)
	file := writeTempFile(t, importLines(0, 400))
	got := runTool(t.Context(), "import", "--server", first, "default", file)
	if got.code != exitOK || got.stdout != "" || !strings.Contains(got.stderr, "400 subjects created, 0 updated, 0 unchanged; 400 templates added") {
		t.Fatalf("%+v", got)
	}
	if !strings.Contains(got.stderr, "at least 400 templates are of other models") || !strings.Contains(got.stderr, "likeness models migrate") {
		t.Errorf("nothing is said of a model that the gallery is not searched with: %s", got.stderr)
	}
	requireMissing(t, file+".progress")
	if got := runTool(t.Context(), "import", "--server", first, "default", file); got.code != exitOK || !strings.Contains(got.stderr, "400 unchanged") {
		t.Errorf("again: %+v", got)
	}
	out := filepath.Join(t.TempDir(), "out.ndjson")
	if got := runTool(t.Context(), "export", "--server", first, "default", "-o", out); got.code != exitOK || got.stdout != "" || !strings.Contains(got.stderr, "400 subjects") {
		t.Fatalf("%+v", got)
	}
	requireMissing(t, out+".part", out+".part.json")
	if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	exported, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := runTool(t.Context(), "import", "--server", second, "default", out); got.code != exitOK || !strings.Contains(got.stderr, "400 subjects created") {
		t.Fatalf("%+v", got)
	}
	if got := runTool(t.Context(), "export", "--server", second, "default"); got.code != exitOK || got.stdout != string(exported) {
		t.Errorf("the copy differs: exit %d, %d bytes of %d, %s", got.code, len(got.stdout), len(exported), got.stderr)
	}
	// What a stopped export has left is gone on from; half a line of it is not.
	lines := strings.SplitAfter(string(exported), "\n")
	writePartialExport(t, out, strings.Join(lines[:200], "")+lines[200][:50], &origin{Server: second, Gallery: "default"})
	if got := runTool(t.Context(), "export", "--server", second, "default", "-o", out); got.code != exitOK || !strings.Contains(got.stderr, "going on after 200 subjects") {
		t.Errorf("%+v", got)
	}
	if again, err := os.ReadFile(out); err != nil || !bytes.Equal(again, exported) {
		t.Errorf("an export that went on differs: %v", err)
	}
	if got := runTool(t.Context(), "export", "--server", first, "nobody"); got.code != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "not_found") {
		t.Errorf("%+v", got)
	}
	if got := runTool(t.Context(), "import", "--server", first, "nobody", file); got.code != exitFailed || !strings.Contains(got.stderr, "POST /galleries") {
		t.Errorf("%+v", got)
	}

	// Lines that are refused are listed, and make the exit code.
	bad := importLines(0, 1) + "nonsense\n\n" + importLines(400, 402) + `{"subject_id":"x","nmae":"x"}` + "\n{}\n" + strings.TrimSuffix(importLines(402, 403), "\n")
	got = runTool(t.Context(), "import", "--server", first, "default", writeTempFile(t, bad))
	if got.code != exitFailed || !strings.Contains(got.stderr, "3 lines were refused: 2, 6-7") || !strings.Contains(got.stderr, "3 subjects created, 0 updated, 1 unchanged") {
		t.Errorf("%+v", got)
	}
	want := "2\t\tinvalid_request\t"
	if lines := strings.Split(got.stdout, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], want) || lines[1] != "6\tx\tinvalid_request\t/nmae: unknown field" {
		t.Errorf("stdout:\n%s", got.stdout)
	}
	got = runTool(t.Context(), "import", "--server", first, "--from-line", "8", "default", writeTempFile(t, bad))
	if got.code != exitOK || !strings.Contains(got.stderr, "0 subjects created, 0 updated, 1 unchanged") {
		t.Errorf("%+v", got)
	}
}

// writePartialExport writes the files that a stopped export leaves.
func writePartialExport(t *testing.T, out, content string, of *origin) {
	t.Helper()
	if err := os.WriteFile(out+".part", []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if of == nil {
		return
	}
	b, err := json.Marshal(of)
	if err == nil {
		err = os.WriteFile(out+".part.json", b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// An export continues only one of the same gallery, server and key: the lines of a
// file do not say whose they are.
func TestExportResumesItsOwn(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasSuffix(r.URL.Path, "/export"):
			fmt.Fprint(w, `{"subjects":2}`)
		case r.URL.Query().Get("after") == "":
			fmt.Fprint(w, `{"subject_id":"a"}`+"\n"+`{"subject_id":"b"}`+"\n")
		default:
			fmt.Fprint(w, `{"subject_id":"b"}`+"\n")
		}
	}))
	t.Cleanup(server.Close)
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("lk_secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("lk_secret"))
	same := origin{Server: server.URL, Gallery: "staff", Crops: true, Key: hex.EncodeToString(sum[:4])}
	for name, tt := range map[string]struct {
		change func(o *origin)
		says   string
	}{
		"the same":          {func(*origin) {}, ""},
		"another server":    {func(o *origin) { o.Server = "http://other" }, "http://other"},
		"another gallery":   {func(o *origin) { o.Gallery = "visitors" }, "gallery visitors of"},
		"without crops":     {func(o *origin) { o.Crops = false }, "without crops"},
		"another key":       {func(o *origin) { o.Key = "01234567" }, "begins with 01234567"},
		"no key":            {func(o *origin) { o.Key = "" }, "by no key"},
		"of unknown origin": {nil, "nobody knows what"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, was, of := filepath.Join(t.TempDir(), "out"), same, (*origin)(nil)
			if tt.change != nil {
				tt.change(&was)
				of = &was
			}
			writePartialExport(t, out, `{"subject_id":"a"}`+"\n", of)
			args := []string{"export", "--server", server.URL, "--key-file", key, "--crops", "staff", "-o", out}
			got := runTool(t.Context(), args...)
			if tt.says == "" {
				if got.code != exitOK || !strings.Contains(got.stderr, "going on after 1 subjects") {
					t.Errorf("%+v", got)
				}
				requireMissing(t, out+".part", out+".part.json")
				return
			}
			if got.code != exitFailed || !strings.Contains(got.stderr, tt.says) || !strings.Contains(got.stderr, same.String()) || strings.Contains(got.stderr, "lk_secret") {
				t.Errorf("%+v", got)
			}
			requireMissing(t, out)
			if err := os.Remove(out + ".part"); err != nil {
				t.Fatal(err)
			}
			if got := runTool(t.Context(), args...); got.code != exitOK || strings.Contains(got.stderr, "going on") {
				t.Errorf("anew: %+v", got)
			}
		})
	}
}

// cutting passes requests on to a server, and breaks their connections after
// so many bytes of the answer as it is told, until it is told no more.
type cutting struct {
	mu    sync.Mutex
	after []int
	paths []string
}

func (c *cutting) next(r *http.Request, status int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paths = append(c.paths, r.URL.RequestURI())
	if strings.HasSuffix(r.URL.Path, "port") && status == http.StatusOK && len(c.after) > 0 {
		n := c.after[0]
		c.after = c.after[1:]
		return n
	}
	return -1
}

func cuttingProxy(t *testing.T, to string, after ...int) (url string, c *cutting) {
	t.Helper()
	c = &cutting{after: after}
	transport := &http.Transport{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := http.NewResponseController(w)
		if err := conn.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		out, err := http.NewRequestWithContext(r.Context(), r.Method, to+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header
		resp, err := transport.RoundTrip(out)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		defer resp.Body.Close()
		cut := c.next(r, resp.StatusCode)
		w.WriteHeader(resp.StatusCode)
		buf := make([]byte, 512)
		for passed := 0; ; {
			n, err := resp.Body.Read(buf)
			if cut >= 0 && passed+n > cut {
				_, _ = w.Write(buf[:max(cut-passed, 0)])
				_ = conn.Flush()
				panic(http.ErrAbortHandler)
			}
			passed += n
			_, _ = w.Write(buf[:n])
			_ = conn.Flush()
			if err == io.EOF {
				return
			}
			if err != nil {
				panic(http.ErrAbortHandler)
			}
		}
	}))
	t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
	})
	return srv.URL, c
}

// Connections that break cost nothing but the time.
func TestBulkOverBrokenConnections(t *testing.T) {
	t.Parallel()
	server := realServer(t)
	file := writeTempFile(t, importLines(0, 400)+"nonsense\n")
	proxy, c := cuttingProxy(t, server, 700, 5000, 5010)
	got := runTool(t.Context(), "import", "--server", proxy, "default", file)
	if got.code != exitFailed || strings.Count(got.stderr, "the import was cut off") != 3 || !strings.Contains(got.stderr, "1 lines were refused: 401") {
		t.Errorf("%+v", got)
	}
	// More, where the server has not noticed yet that the one before is gone.
	if got := strings.Count(strings.Join(c.paths, " "), "/import"); got < 4 {
		t.Errorf("%d requests: %v", got, c.paths)
	}
	requireMissing(t, file+".progress")

	whole := runTool(t.Context(), "export", "--server", server, "default")
	proxy, c = cuttingProxy(t, server, 0, 30_000, 1, 20_000)
	out := filepath.Join(t.TempDir(), "out")
	if got := runTool(t.Context(), "export", "--server", proxy, "default", "-o", out); got.code != exitOK || strings.Count(got.stderr, "going on in") != 4 {
		t.Errorf("%+v", got)
	}
	b, err := os.ReadFile(out)
	if err != nil || string(b) != whole.stdout || strings.Count(whole.stdout, "\n") != 400 {
		t.Errorf("%d bytes of %d, %v; asked for %v", len(b), len(whole.stdout), err, c.paths)
	}
}

// An import that is interrupted notes where it was, and the next goes on.
func TestImportInterrupted(t *testing.T) {
	t.Parallel()
	server := realServer(t)
	content := importLines(0, 300) + "nonsense\n" + importLines(300, 600)
	file := writeTempFile(t, content)
	ctx, stop := context.WithCancel(t.Context())
	var got imported
	// The server of the first call answers half of it, then nothing more.
	stuck := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			return
		}
		for i := 1; i <= 350; i++ {
			status := `"created"`
			if i == 301 {
				status = `"refused","error":{"code":"invalid_request"}`
			}
			fmt.Fprintf(w, `{"line":%d,"templates":1,"status":%s}`+"\n", i, status)
		}
		fmt.Fprint(w, `{"line":351,"status":"failed","templates":0}`+"\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer stuck.Close()
	// Both calls are of one server's name: it moves while nobody looks.
	var to sync.Map
	to.Store("url", stuck.URL)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url, _ := to.Load("url")
		_ = http.NewResponseController(w).EnableFullDuplex() // a server of HTTP/1 can
		req, err := http.NewRequestWithContext(r.Context(), r.Method, url.(string)+r.URL.RequestURI(), r.Body)
		if err != nil {
			return
		}
		req.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			return
		}
		defer resp.Body.Close()
		w.WriteHeader(resp.StatusCode)
		buf := make([]byte, 32<<10)
		for {
			n, err := resp.Body.Read(buf)
			_, _ = w.Write(buf[:n])
			_ = http.NewResponseController(w).Flush()
			if err != nil {
				return
			}
		}
	}))
	defer http.DefaultClient.CloseIdleConnections()
	defer front.Close()
	go func() { // the first line that is answered is noted at once
		defer stop()
		for ctx.Err() == nil {
			if _, err := os.Stat(file + ".progress"); err == nil {
				return
			}
			runtime.Gosched()
		}
	}()
	first := runTool(ctx, "import", "--server", front.URL, "default", file)
	if first.code != exitFailed || !strings.Contains(first.stderr, "stopped before the end") {
		t.Fatalf("%+v", first)
	}
	b, err := os.ReadFile(file + ".progress")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if got.Line < 1 || got.Line > 350 {
		t.Fatalf("%+v", got)
	}
	lines := strings.SplitAfter(content, "\n")
	sum := sha256.Sum256([]byte(strings.Join(lines[:got.Line], "")))
	want := imported{
		Server: front.URL, Gallery: "default", Size: int64(len(content)), Line: got.Line, Refused: got.Refused,
		Prefix: hex.EncodeToString(sum[:]),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	to.Store("url", server)
	again := func(content string, more ...string) result {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file+".progress", b, 0o600); err != nil {
			t.Fatal(err)
		}
		return runTool(t.Context(), append([]string{"import", "--server", front.URL, "default", file}, more...)...)
	}
	second := again(content, "--resume")
	if second.code != exitFailed || !strings.Contains(second.stderr, fmt.Sprintf("going on after line %d,", got.Line)) || !strings.Contains(second.stderr, "1 lines were refused: 301\n") {
		t.Errorf("%+v", second)
	}
	requireMissing(t, file+".progress")
	// Unasked, nothing is passed over.
	third := again(content)
	if strings.Contains(third.stderr, "going on") || !strings.Contains(third.stderr, fmt.Sprintf("stopped after line %d, and --resume", got.Line)) ||
		!strings.Contains(third.stderr, "importing lines: 601 of 601") || !strings.Contains(third.stderr, " created") {
		t.Errorf("%+v", third)
	}
	requireMissing(t, file+".progress")
	// Nor of a file that is another one by now, of whatever size, or into
	// another gallery.
	for _, changed := range []string{content + "\n", strings.Replace(content, "Name 0", "Name X", 1)} {
		if got := again(changed, "--resume"); got.code != exitFailed || !strings.Contains(got.stderr, "has changed since") || strings.Contains(got.stderr, "created") {
			t.Errorf("%+v", got)
		}
	}
	other := runTool(t.Context(), "import", "--server", front.URL, "--resume", "staff", file)
	if other.code != exitFailed || !strings.Contains(other.stderr, "gallery default of "+front.URL) || !strings.Contains(other.stderr, "gallery staff of "+front.URL) {
		t.Errorf("%+v", other)
	}
}

// Lines that the server could not store are no success, though it went on.
func TestImportFailedLines(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			_, _ = io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, `{"line":1,"status":"failed"}`+"\n"+`{"line":2,"status":"created"}`+"\n"+`{"line":3,"status":"failed"}`+"\n"+
				`{"done":true,"lines":3,"created":1,"failed":2}`+"\n")
		}
	}))
	defer server.Close()
	got := runTool(t.Context(), "import", "--server", server.URL, "default", writeTempFile(t, importLines(0, 3)))
	if got.code != exitFailed || !strings.Contains(got.stderr, "2 lines failed") || !strings.Contains(got.stderr, "again: 1, 3\n") {
		t.Errorf("%+v", got)
	}
}

func TestRanges(t *testing.T) {
	t.Parallel()
	for want, in := range map[string][]int64{"": nil, "3": {3}, "3-4": {3, 4}, "1, 3-5, 9": {1, 3, 4, 5, 9}} {
		if got := ranges(in); got != want {
			t.Errorf("%v: %q", in, got)
		}
	}
}

func TestWalkLines(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3<<20)
	for _, tt := range []struct {
		content   string
		most      int64
		n, offset int64
	}{
		{"", -1, 0, 0},
		{"", 5, 0, 0},
		{"a", -1, 1, 1},
		{"a\n", -1, 1, 2},
		{"a\n\nb", -1, 3, 4},
		{"a\nb\nc\n", 0, 0, 0},
		{"a\nb\nc\n", 2, 2, 4},
		{"a\nb", 2, 2, 3},
		{"a\nb\n", 9, 2, 4},
		{long + "\n" + long, -1, 2, 6<<20 + 1},
		{long + "\nb\n", 1, 1, 3<<20 + 1},
	} {
		f, err := os.Open(writeTempFile(t, tt.content))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if n, offset, err := walkLines(f, tt.most); n != tt.n || offset != tt.offset || err != nil {
			t.Errorf("%.9q, %d: %d lines, %d bytes, %v", tt.content, tt.most, n, offset, err)
		}
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Time{
		"2026-11-23":           time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC),
		"2026-11-23T09:30:00Z": time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC),
	} {
		var s since
		if err := s.UnmarshalText([]byte(in)); err != nil || !time.Time(s).Equal(want) {
			t.Errorf("%q: %v, %v", in, time.Time(s), err)
		}
	}
	var s since
	if err := s.UnmarshalText([]byte("7d")); err != nil || time.Since(time.Time(s)).Round(time.Hour) != 7*24*time.Hour {
		t.Errorf("7d: %v, %v", time.Time(s), err)
	}
	for _, in := range []string{"", "never", "yesterday", "2026-13-01"} {
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q is a time", in)
		}
	}
}
