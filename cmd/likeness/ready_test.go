package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestReady(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	answer := func(status int, body string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				status = http.StatusNotFound
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	for name, try := range map[string]struct {
		server string
		code   int
		says   string
	}{
		"ready":     {answer(200, `{"status":"ok"}`), exitOK, ""},
		"draining":  {answer(503, `{"code":"unavailable","detail":"draining"}`), exitFailed, "draining"},
		"not there": {gone.URL, exitFailed, "refused"},
		"no URL":    {"http://[", exitUsage, "--server"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdout, stderr bytes.Buffer
			if code := runCommand(t.Context(), []string{"ready", "--server", try.server}, &stdout, &stderr); code != try.code {
				t.Errorf("exit code %d, want %d: %s", code, try.code, stderr.String())
			}
			if !strings.Contains(stderr.String(), try.says) || stdout.Len() > 0 {
				t.Errorf("stdout %q, stderr %q, want in it %q", stdout.String(), stderr.String(), try.says)
			}
		})
	}
}
