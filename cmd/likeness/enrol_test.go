package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
)

// fakeServer answers enrolment as the contract says, with the moods of a busy
// server. What it does with a photo is in the photo.
type fakeServer struct {
	*httptest.Server
	key     string // that it wants; empty for none
	mu      sync.Mutex
	busy    map[string]int    // by path: how often it still says 429
	made    map[string]string // subjects: id -> name
	stored  map[string]string // Idempotency-Key -> template id
	uploads int
}

func newFakeServer(t *testing.T, key string) *fakeServer {
	t.Helper()
	f := &fakeServer{key: key, busy: map[string]int{}, made: map[string]string{}, stored: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /galleries/{g}/subjects", f.createSubject)
	mux.HandleFunc("GET /galleries/{g}/subjects/{s}", f.getSubject)
	mux.HandleFunc("POST /galleries/{g}/subjects/{s}/templates", f.enrol)
	f.Server = httptest.NewServer(mux)
	t.Cleanup(f.Close)
	return f
}

func refuse(w http.ResponseWriter, status int, kind face.Kind, reasons ...face.Reason) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Retry-After", "0")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": status, "code": kind.Code(), "title": kind.Title(), "reasons": reasons})
}

// admit answers for the server's moods and locks it when it goes on.
func (f *fakeServer) admit(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.key != "" && r.Header.Get("Authorization") != "Bearer "+f.key {
		refuse(w, http.StatusUnauthorized, face.Unauthenticated)
		return false
	}
	if f.busy[r.URL.Path] > 0 {
		f.busy[r.URL.Path]--
		refuse(w, http.StatusTooManyRequests, face.RateLimited)
		return false
	}
	if r.PathValue("g") != "default" {
		refuse(w, http.StatusNotFound, face.NotFound)
		return false
	}
	return true
}

func (f *fakeServer) createSubject(w http.ResponseWriter, r *http.Request) {
	var body map[string]string
	if !f.admit(w, r) {
		return
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || !face.ValidID(body["subject_id"]) {
		refuse(w, http.StatusBadRequest, face.Invalid)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.made[body["subject_id"]]; ok {
		refuse(w, http.StatusConflict, face.Conflict)
		return
	}
	f.made[body["subject_id"]] = body["name"]
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"subject_id": %q, "created_at": "2026-11-23T09:30:00Z"}`, body["subject_id"])
}

func (f *fakeServer) getSubject(w http.ResponseWriter, r *http.Request) {
	if f.admit(w, r) {
		fmt.Fprintf(w, `{"subject_id": %q, "created_at": "2026-11-23T09:30:00Z"}`, r.PathValue("s"))
	}
}

func (f *fakeServer) enrol(w http.ResponseWriter, r *http.Request) {
	if !f.admit(w, r) {
		return
	}
	file, header, err := r.FormFile("image")
	if err != nil || header.Filename != "image" || r.FormValue("quality_gate") == "" || r.FormValue("on_duplicate") == "" {
		refuse(w, http.StatusBadRequest, face.Invalid)
		return
	}
	photo, err := io.ReadAll(file)
	if err != nil {
		refuse(w, http.StatusBadRequest, face.Invalid)
		return
	}
	switch string(photo) {
	case "blurred":
		refuse(w, http.StatusUnprocessableEntity, face.LowQuality, face.ReasonLowSharpness)
		return
	case "broken proxy":
		http.Error(w, "<html>oops</html>", http.StatusBadGateway)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.uploads++
	key := r.Header.Get("Idempotency-Key")
	if _, ok := f.stored[key]; !ok {
		f.stored[key] = fmt.Sprintf("t%x", sha256.Sum256([]byte(key)))[:9]
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, `{"template_id": %q}`, f.stored[key])
}

// photoFolder makes a folder of photos.
func photoFolder(t *testing.T, photos map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range photos {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// outcomes are the lines of stdout without the template ids.
func outcomes(stdout string) []string {
	var out []string
	for line := range strings.Lines(stdout) {
		fields := strings.Split(line, "\t")
		out = append(out, fields[0]+" "+fields[1])
	}
	slices.Sort(out)
	return out
}

func TestEnrol(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t, "")
	server.busy["/galleries/default/subjects"] = 3
	server.busy["/galleries/default/subjects/Ada/templates"] = 2
	dir := photoFolder(t, map[string]string{
		"Ada/1.jpg": "sharp", "Ada/2.jpg": "also sharp", "Ada/.DS_Store": "junk",
		"Grace/1.jpg": "sharp", "Grace/2.jpg": "blurred", "Grace/3.jpg": "broken proxy",
		"Zoë Ω/1.jpg": "sharp",
		"stray.jpg":   "sharp",
	})
	want := []string{
		"enrolled Ada/1.jpg", "enrolled Ada/2.jpg", "enrolled Grace/1.jpg", "enrolled Zoë Ω/1.jpg",
		"internal Grace/3.jpg", "invalid_request stray.jpg", "low_quality Grace/2.jpg",
	}
	got := runTool(t.Context(), "enrol", "--server", server.URL, dir)
	if diff := cmp.Diff(want, outcomes(got.stdout)); diff != "" {
		t.Errorf("(-want +got)\n%s%s", diff, got.stderr)
	}
	if got.code != exitFailed || !strings.Contains(got.stderr, "4 of 7 photos of 3 subjects") ||
		!strings.Contains(got.stderr, "1 internal, 1 invalid_request, 1 low_quality") || !strings.Contains(got.stdout, "LOW_SHARPNESS") {
		t.Errorf("%+v", got)
	}
	id := subjectID("Zoë Ω")
	if diff := cmp.Diff(map[string]string{"Ada": "Ada", "Grace": "Grace", id: "Zoë Ω"}, server.made); diff != "" {
		t.Errorf("subjects (-want +got)\n%s", diff)
	}

	// The same again enrols nobody twice.
	before := len(server.stored)
	again := runTool(t.Context(), "enrol", "--server", server.URL, dir)
	if diff := cmp.Diff(want, outcomes(again.stdout)); diff != "" {
		t.Errorf("again (-want +got)\n%s", diff)
	}
	if len(server.stored) != before || before != 4 || server.uploads != 8 {
		t.Errorf("%d templates, then %d, of %d uploads", before, len(server.stored), server.uploads)
	}
}

func TestEnrolWithKey(t *testing.T) {
	t.Parallel()
	server := newFakeServer(t, "lk_secret")
	dir := photoFolder(t, map[string]string{"Ada/1.jpg": "sharp", "Grace/1.jpg": "sharp"})
	keys := photoFolder(t, map[string]string{"right": "lk_secret\n", "wrong": "lk_other\n", "odd": "lk\x00\n"})

	if got := runTool(t.Context(), "enrol", "--server", server.URL, "--key-file", filepath.Join(keys, "right"), dir); got.code != exitOK {
		t.Errorf("right key: %+v", got)
	}
	// A key that is not taken is one error, not one a photo.
	for name, code := range map[string]int{"wrong": exitFailed, "odd": exitUsage} {
		got := runTool(t.Context(), "enrol", "--server", server.URL, "--key-file", filepath.Join(keys, name), dir)
		if got.code != code || got.stdout != "" || strings.Contains(got.stderr, "lk_") || name == "wrong" && !strings.Contains(got.stderr, "LIKENESS_KEY") {
			t.Errorf("%s key: %+v", name, got)
		}
	}
	got := runTool(t.Context(), "enrol", "--server", server.URL, "--key-file", filepath.Join(keys, "right"), "--gallery", "elsewhere", dir)
	if got.code != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "elsewhere; POST /galleries") {
		t.Errorf("no such gallery: %+v", got)
	}
}

func TestEnrolWithoutServer(t *testing.T) {
	t.Parallel()
	dir := photoFolder(t, map[string]string{"Ada/1.jpg": "sharp"})
	gone := httptest.NewServer(http.NotFoundHandler())
	if got := runTool(t.Context(), "enrol", "--server", gone.URL, dir); got.code != exitFailed || !strings.Contains(got.stderr, "no Likeness server") {
		t.Errorf("something else answers: %+v", got)
	}
	gone.Close()
	if got := runTool(t.Context(), "enrol", "--server", gone.URL, dir); got.code != exitFailed || !strings.Contains(got.stderr, "no server answers") {
		t.Errorf("nothing answers: %+v", got)
	}
}

// A call that is interrupted while the server lets it wait ends at once.
func TestEnrolInterrupted(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" {
			w.Header().Set("Retry-After", "240")
			w.WriteHeader(http.StatusServiceUnavailable)
			stop()
		}
	}))
	defer server.Close()
	got := runTool(ctx, "enrol", "--server", server.URL, photoFolder(t, map[string]string{"Ada/1.jpg": "sharp"}))
	if got.code != exitFailed || !strings.Contains(got.stderr, "stopped before the end") {
		t.Errorf("%+v", got)
	}
}

func TestSubjectID(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Zoë", "a b", "..", "-", strings.Repeat("x", 200), "a/b"} {
		id := subjectID(name)
		if !face.ValidID(id) || id == name || id != subjectID(name) {
			t.Errorf("%q: %q", name, id)
		}
	}
	if got := subjectID("Jean_Chretien"); got != "Jean_Chretien" {
		t.Errorf("%q", got)
	}
}
