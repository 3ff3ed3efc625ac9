package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/app"
)

// realServer starts the service itself, without keys, and returns its address.
func realServer(t *testing.T, changes ...func(*app.Options)) string {
	t.Helper()
	url, _ := startServer(t, changes...)
	return url
}

// startServer is realServer with what stops it before the test ends.
func startServer(t *testing.T, changes ...func(*app.Options)) (url string, stop func()) {
	t.Helper()
	library := orttest.Library(t)
	var o app.Options
	if err := kong.ApplyDefaults(&o); err != nil {
		t.Fatal(err)
	}
	o.Listen, o.Auth, o.DataDir, o.DatabaseURL = "127.0.0.1:0", "off", t.TempDir(), ""
	o.ModelsDir, o.ORTLibrary, o.DiskReserve = nil, library, 0
	for _, change := range changes {
		change(&o)
	}
	a, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.Start()
	stop = sync.OnceFunc(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return "http://" + a.Addr(), stop
}

// A folder is enrolled once however often it is asked for, and again after the
// subject or a template was erased: an answer from before would be a lie.
func TestEnrolWithRealServer(t *testing.T) {
	t.Parallel()
	server := realServer(t)
	dir := t.TempDir()
	testfaces.Write(t, dir, 2, 2)
	if err := os.Remove(filepath.Join(dir, "person-2", "2.jpg")); err != nil {
		t.Fatal(err)
	}
	enrol := func() (lines []string) {
		t.Helper()
		got := runTool(t.Context(), "enrol", "--server", server, dir)
		if got.code != exitOK || !strings.Contains(got.stderr, "3 of 3 photos of 2 subjects") {
			t.Fatalf("%+v", got)
		}
		lines = strings.Split(strings.TrimSpace(got.stdout), "\n")
		slices.Sort(lines)
		return lines
	}
	templates := func() int {
		t.Helper()
		resp := sendRequest(t, http.MethodGet, server+"/galleries/default")
		defer resp.Body.Close()
		var g struct{ Templates int }
		if err := json.NewDecoder(resp.Body).Decode(&g); err != nil {
			t.Fatal(err)
		}
		return g.Templates
	}

	first := enrol()
	if again := enrol(); !slices.Equal(first, again) || templates() != 3 {
		t.Errorf("first:\n%v\nagain:\n%v\n%d templates", first, again, templates())
	}
	resp := sendRequest(t, http.MethodDelete, server+"/galleries/default/subjects/person-1")
	if resp.Body.Close(); resp.StatusCode != http.StatusOK || templates() != 1 {
		t.Fatalf("erase: %s, %d templates left", resp.Status, templates())
	}
	if anew := enrol(); anew[2] != first[2] || anew[0] == first[0] || templates() != 3 {
		t.Errorf("after the erase:\n%v\nfirst:\n%v\n%d templates", anew, first, templates())
	}
	// A line is the result, the photo and the template's id.
	template := strings.Split(first[2], "\t")[2]
	resp = sendRequest(t, http.MethodDelete, server+"/galleries/default/subjects/person-2/templates/"+template)
	if resp.Body.Close(); resp.StatusCode != http.StatusOK || templates() != 2 {
		t.Fatalf("erase of a template: %s, %d templates left", resp.Status, templates())
	}
	if anew := enrol(); anew[2] == first[2] || templates() != 3 {
		t.Errorf("after the erase of a template:\n%v\n%d templates", anew, templates())
	}
}

func sendRequest(t *testing.T, method, url string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}
