package handlers_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

const summaryPath = importPath + "?answer=summary"

// atEnd tells when all of a body has been read.
type atEnd struct {
	io.Reader
	call func()
}

func (a *atEnd) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF && a.call != nil {
		a.call()
		a.call = nil
	}
	return n, err
}

// TestImportSummary: the summary alone, after the end of the body.
func TestImportSummary(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, nil)
	// summary imports a body and wants all of it read before anything is answered.
	summary := func(path, body string) answer {
		t.Helper()
		w, ended := httptest.NewRecorder(), false
		r := ndjson(path, &atEnd{strings.NewReader(body), func() {
			ended = true
			if w.Flushed || w.Body.Len() > 0 {
				t.Errorf("before the end of the body came %s", w.Body)
			}
		}})
		r.Host = "127.0.0.1:8080"
		h.ServeHTTP(w, r)
		if !ended {
			t.Errorf("answered before the body was read to its end: %d %s", w.Code, w.Body)
		}
		return answer{w.Code, w.Header(), w.Body.Bytes()}
	}
	taken := line(t, "a", 1) + "\n" + line(t, "b", 2)
	a := h.ask(t, ndjson(summaryPath, strings.NewReader(taken))) // held against the contract
	if got := good[api.BulkSummary](t, a, 200); a.header.Get("Content-Type") != "application/json" || !got.Done || got.Created != 2 || got.Lines != 3 {
		t.Errorf("%s %+v", a.header, got)
	}
	one := api.BulkResult{Line: 3, SubjectID: new("x"), Status: "refused", Error: &api.BulkError{Code: "invalid_request", Detail: new("unknown field"), Pointer: new("/nmae")}}
	want := api.BulkSummary{Done: true, Lines: 4, Created: 1, Unchanged: 2, Refused: 1, Templates: 1, NotTaken: []api.BulkResult{one}}
	body := line(t, "a", 1) + line(t, "b", 2) + `{"subject_id":"x","nmae":"X"}` + "\n" + line(t, "c", 3)
	if diff := cmp.Diff(want, good[api.BulkSummary](t, summary(summaryPath, body), 200)); diff != "" {
		t.Error(diff)
	}
	got := good[api.BulkSummary](t, summary(summaryPath+"&from_line=4", body+strings.Repeat("{}\n", 1000)), 200)
	if !got.Done || got.Lines != 1004 || got.Unchanged != 1 || got.Refused != 1000 || len(got.NotTaken) != 100 || got.NotTaken[99].Line != 104 {
		t.Errorf("%d lines named of %+v", len(got.NotTaken), got)
	}

	// What fails before the end is said at the end.
	rest := strings.Repeat(line(t, "a", 1), 4) + strings.Repeat("{}\n", 100_000)
	bad(t, summary("/galleries/none/import?answer=summary", rest), face.NotFound, "")
	f.imports.Store(0)
	bad(t, summary(summaryPath, rest), face.Internal, "")
	f.imports.Store(2)
	got = good[api.BulkSummary](t, summary(summaryPath, rest), 200)
	if got.Done || got.Error.Code != "internal" || got.Unchanged != 2 || got.Failed == 0 || got.NotTaken[0].Status != "failed" || strings.Contains(fmt.Sprint(got), "secret") {
		t.Errorf("%+v", got)
	}
	bad(t, h.ask(t, ndjson(importPath+"?answer=all", strings.NewReader(body))), face.Invalid, "answer")
}

// pipe is a listener with one connection, which holds nothing that nobody has read.
type pipe struct {
	conn   chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case c := <-p.conn:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error   { p.close.Do(func() { close(p.closed) }); return nil }
func (p *pipe) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080} }

// TestImportSentFirst: a client that sends everything before it reads gets an
// end that says what to do, and with answer=summary all that it wants.
func TestImportSentFirst(t *testing.T) {
	t.Parallel()
	const lines = 100_000
	for name, path := range map[string]string{"lines": importPath, "summary": summaryPath} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := open(t, func(o *options) { o.BulkIdleTimeout = time.Second })
			l := &pipe{conn: make(chan net.Conn, 1), closed: make(chan struct{})}
			srv, served := &http.Server{Handler: h}, make(chan error)
			go func() { served <- srv.Serve(l) }()
			conn, other := net.Pipe()
			l.conn <- other
			defer func() {
				conn.Close()
				if err := errors.Join(srv.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
					t.Error(err)
				}
			}()
			body := strings.Repeat("{}\n", lines)
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
				path, api.NDJSON, len(body), body); err != nil {
				t.Fatalf("sending: %v", err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, sum := results(t, resp.Body)
			if resp.StatusCode != 200 || sum == nil {
				t.Fatalf("%s, %d results, no summary", resp.Status, len(got))
			}
			if path == summaryPath {
				if !sum.Done || sum.Refused != lines || len(got) != 0 {
					t.Errorf("%d results, %+v", len(got), sum)
				}
				return
			}
			if sum.Done || sum.Error.Code != "deadline_exceeded" || !strings.Contains(*sum.Error.Detail, "answer=summary") || int64(len(got)) != sum.Refused || len(got) == lines {
				t.Errorf("%d results, %+v", len(got), sum)
			}
		})
	}
}

// TestImportLateError: an error that is said after a long upload arrives: the
// time to read it counts from the end of the upload.
func TestImportLateError(t *testing.T) {
	t.Parallel()
	h, f := openFailing(t, nil)
	f.imports.Store(0)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = io.NopCloser(&atEnd{r.Body, func() { // as if the upload had taken this long
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(-time.Second)); err != nil {
				t.Error(err)
			}
		}})
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	for path, status := range map[string]int{"/galleries/none/import?answer=summary": 404, summaryPath: 500} {
		body := strings.Repeat(line(t, "a", 1), 4)
		res, err := http.Post(server.URL+path, api.NDJSON, strings.NewReader(body))
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		res.Body.Close()
		if res.StatusCode != status {
			t.Errorf("%s: %s, want %d", path, res.Status, status)
		}
	}
}
