package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/testfaces"
)

// bin is the folder with the two commands, built once.
var bin string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "likeness-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		bin = dir
		if out, err := exec.Command("go", "build", "-o", dir+"/", ".", "../likeness").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return pgtest.M{M: m}.Run()
	}())
}

// server is a running bin/server.
type server struct {
	tb     testing.TB
	cmd    *exec.Cmd
	url    string
	lines  chan string // what it logged, message by message
	exited chan error
	log    bytes.Buffer
}

// testEnvironment is this process's environment plus extra variables. Of
// Likeness's own settings it keeps only those of ONNX Runtime and the cache.
func testEnvironment(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "LIKENESS_") || strings.HasPrefix(kv, "LIKENESS_ORT_") || strings.HasPrefix(kv, "LIKENESS_CACHE_") {
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

func startServer(t *testing.T, dataDir string, extra ...string) *server {
	t.Helper()
	s := &server{tb: t, cmd: exec.CommandContext(t.Context(), filepath.Join(bin, "server")), lines: make(chan string, 10000), exited: make(chan error, 1)}
	s.cmd.Env = testEnvironment(append([]string{
		"LIKENESS_LISTEN=127.0.0.1:0", "LIKENESS_DATA_DIR=" + dataDir, "LIKENESS_DISK_RESERVE=1048576",
	}, extra...)...)
	stderr, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("server's log:\n%s", s.log.String())
		}
	})
	go func() {
		defer close(done)
		defer close(s.lines)
		for sc := bufio.NewScanner(stderr); sc.Scan(); {
			fmt.Fprintln(&s.log, sc.Text())
			var line struct{ Msg, Listen string }
			_ = json.Unmarshal(sc.Bytes(), &line)
			s.lines <- line.Msg + " " + line.Listen
		}
		s.exited <- s.cmd.Wait()
	}()
	s.url = "http://" + strings.TrimPrefix(s.await("answering "), "answering ")
	for status := 0; status != http.StatusOK; { // the index may still be loading
		res, err := http.Get(s.url + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		status = res.StatusCode
	}
	return s
}

// await returns the next logged message that begins with the prefix.
func (s *server) await(prefix string) string {
	s.tb.Helper()
	for line := range s.lines {
		if strings.HasPrefix(line, prefix) {
			return line
		}
	}
	s.tb.Fatalf("the server ended without logging %q:\n%s", prefix, s.log.String())
	return ""
}

func (s *server) signal(sig os.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// multipartBody is a multipart body: strings are fields, bytes are files.
func multipartBody(tb testing.TB, parts map[string]any) (body []byte, contentType string) {
	tb.Helper()
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for name, v := range parts {
		switch v := v.(type) {
		case string:
			if err := w.WriteField(name, v); err != nil {
				tb.Fatal(err)
			}
		case []byte:
			part, err := w.CreateFormFile(name, name+".jpg")
			if err == nil {
				_, err = part.Write(v)
			}
			if err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes(), w.FormDataContentType()
}

// call sends a request and decodes the answer, which must have the status.
func (s *server) call(method, path, key string, want int, contentType string, body []byte) map[string]any {
	s.tb.Helper()
	req, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		s.tb.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		s.tb.Fatalf("%s %s: %d instead of %d: %s %v", method, path, res.StatusCode, want, answer, err)
	}
	var v map[string]any
	_ = json.Unmarshal(answer, &v) // some answers are no JSON
	return v
}

// TestServe verifies and recognises with the three settings that an operator
// must make, and again after a restart.
func TestServe(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	first, second, stranger := testfaces.Photo(t, 1, 1), testfaces.Photo(t, 1, 2), testfaces.Photo(t, 2, 1)

	s := startServer(t, data)
	// A key made while the server runs works at once, and nothing works without
	// a key.
	keys := exec.Command(filepath.Join(bin, "likeness"), "keys", "create", "--name", "test", "--scopes", "verify,identify,enrol,read", "--data-dir", data)
	keys.Env = testEnvironment()
	var stderr bytes.Buffer
	keys.Stderr = &stderr
	out, err := keys.Output()
	if err != nil {
		t.Fatalf("keys create: %v\n%s", err, stderr.String())
	}
	key := strings.TrimSpace(string(out))
	s.call("GET", "/galleries", "", 401, "", nil)
	s.call("GET", "/galleries", "lk_wrong", 401, "", nil)

	s.call("POST", "/galleries/default/subjects", key, 201, "application/json", []byte(`{"subject_id":"mike","name":"Mike"}`))
	body, ct := multipartBody(t, map[string]any{"image": first})
	s.call("POST", "/galleries/default/subjects/mike/templates", key, 201, ct, body)

	check := func(s *server) {
		t.Helper()
		for _, tt := range []struct {
			photo    []byte
			match    bool
			decision string
		}{{second, true, "match"}, {stranger, false, "unknown"}} {
			body, ct := multipartBody(t, map[string]any{"probe": tt.photo, "subject_id": "mike"})
			if v := s.call("POST", "/verify", key, 200, ct, body); v["match"] != tt.match {
				t.Errorf("verify: %v", v)
			}
			body, ct = multipartBody(t, map[string]any{"probe": tt.photo, "faces": "largest"})
			v := s.call("POST", "/recognize", key, 200, ct, body)
			faces := v["faces"].([]any)
			if len(faces) != 1 || faces[0].(map[string]any)["decision"] != tt.decision {
				t.Errorf("recognize: %v", v)
			}
		}
	}
	check(s)
	s.signal(syscall.SIGTERM)
	if err := <-s.exited; err != nil {
		t.Fatalf("after SIGTERM: %v", err)
	}

	again := startServer(t, data, "LIKENESS_AUDIT_DECISIONS=true")
	check(again)
	// Decisions are recorded before they are answered.
	audit := exec.Command(filepath.Join(bin, "likeness"), "audit", "list", "--data-dir", data)
	audit.Env = testEnvironment()
	out, err = audit.Output()
	if err != nil || strings.Count(string(out), "\n") != 4 || !strings.Contains(string(out), "\tverify\tdefault\tmike\t\tmatch\t") ||
		!strings.Contains(string(out), "\trecognize\tdefault\t\t\tunknown\t") {
		t.Errorf("audit list: %v\n%s", err, out)
	}
	again.signal(syscall.SIGTERM)
	if err := <-again.exited; err != nil {
		t.Fatalf("after SIGTERM: %v", err)
	}
}

// TestSignals sends SIGTERM while a request is half sent: the first lets it
// end, the second does not.
func TestSignals(t *testing.T) {
	t.Parallel()
	photo := testfaces.Photo(t, 1, 1)
	for name, cut := range map[string]bool{"drain": false, "cut": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, t.TempDir(), "LIKENESS_AUTH=off")
			body, ct := multipartBody(t, map[string]any{"image": photo})
			r, w := io.Pipe()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/detect", r)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", ct)
			req.ContentLength = int64(len(body))
			type result struct {
				status int
				err    error
			}
			answered := make(chan result, 1)
			go func() {
				res, err := http.DefaultClient.Do(req)
				if err != nil {
					answered <- result{0, err}
					return
				}
				res.Body.Close()
				answered <- result{res.StatusCode, nil}
			}()
			if _, err := w.Write(body[:len(body)/2]); err != nil { // returns once it is sent
				t.Fatal(err)
			}
			// The server has seen the request when it shows it in flight.
			awaitInFlight(t, s)
			s.signal(syscall.SIGTERM)
			s.await("draining")
			if cut {
				s.signal(syscall.SIGTERM)
				var exit *exec.ExitError
				if err := <-s.exited; !errors.As(err, &exit) || exit.ExitCode() != 1 {
					t.Errorf("after the cut: %v", err)
				}
				w.Close() // the client returns once it has nothing left to send
				if res := <-answered; res.err == nil {
					t.Errorf("a request was answered %d after the cut", res.status)
				}
				return
			}
			if _, err := w.Write(body[len(body)/2:]); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if res := <-answered; res.err != nil || res.status != 200 {
				t.Errorf("the request under way: %d, %v", res.status, res.err)
			}
			if err := <-s.exited; err != nil {
				t.Errorf("after the drain: %v", err)
			}
		})
	}
}

// awaitInFlight waits until the server works on a request besides the one
// that asks.
func awaitInFlight(t *testing.T, s *server) {
	t.Helper()
	for t.Context().Err() == nil {
		res, err := http.Get(s.url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "likeness_http_requests_in_flight 2") {
			return
		}
	}
}

// TestUsage reads the errors of what cannot work.
func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "options.json")
	bad := filepath.Join(dir, "bad.json")
	if err := errors.Join(
		os.WriteFile(file, []byte(`{"auth":"off","listen":"0.0.0.0:1"}`), 0o600),
		os.WriteFile(bad, []byte(`{"lissten":"127.0.0.1:1"}`), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		env  []string
		exit int
		says string
	}{
		{"open to all without keys", []string{"--listen=0.0.0.0:8080", "--auth=off"}, nil, 2, "loopback"},
		{"no port", []string{"--listen=localhost"}, nil, 2, "--listen"},
		{"two at once", []string{"--listen=x", "--max-megapixels=0"}, nil, 2, "--max-megapixels"},
		{"unknown flag", []string{"--lissten=x"}, nil, 2, "lissten"},
		{"a store that is not there", nil, []string{"LIKENESS_DATABASE_URL=redis://u:secret@h/d"}, 2, "redis is not a store"},
		{"file", []string{"--config", file}, nil, 2, "0.0.0.0:1"},
		{"environment over file", []string{"--config", file}, []string{"LIKENESS_LISTEN=0.0.0.0:2"}, 2, "0.0.0.0:2"},
		{"flag over environment", []string{"--config", file, "--listen=0.0.0.0:3"}, []string{"LIKENESS_LISTEN=0.0.0.0:2"}, 2, "0.0.0.0:3"},
		{"unknown name in the file", []string{"--config", bad}, nil, 2, `"lissten", which is not an option: did you mean "listen"?`},
		{"misspelt variable", nil, []string{"LIKENESS_LISTN=0.0.0.0:2", "LIKENESS_AUTH=of"}, 2, "LIKENESS_LISTN is not a variable that Likeness knows, so it has no effect: did you mean LIKENESS_LISTEN?"},
		{"misspelt variable, logged", nil, []string{"LIKENESS_ENCODR=secret", "LIKENESS_DATA_DIR=" + dir, "LIKENESS_ENCODER=sface"}, 1, `"variable":"LIKENESS_ENCODR","nearest":"LIKENESS_ENCODER"`},
		{"a model that is not there", nil, []string{"LIKENESS_DATA_DIR=" + dir, "LIKENESS_ENCODER=sface"}, 1, "likeness models pull sface"},
		{"help", []string{"--help"}, nil, 0, "LIKENESS_LISTEN"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "server"), tt.args...)
			cmd.Env = testEnvironment(tt.env...)
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != tt.exit || !strings.Contains(string(out), tt.says) || strings.Contains(string(out), "secret") {
				t.Errorf("exit %d instead of %d, or without %q:\n%s", got, tt.exit, tt.says, out)
			}
		})
	}
}
