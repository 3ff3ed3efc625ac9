package ort_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
)

// The tests of this file change what a whole process shares, the environment
// variables and the loaded library, so they are not parallel.

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind(t *testing.T) {
	system, cache, own := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "own.so")
	t.Chdir(t.TempDir())
	write(t, fetch.RuntimeFile(), "") // the working folder is not looked at
	t.Setenv("LD_LIBRARY_PATH", ":"+system)
	t.Setenv("DYLD_LIBRARY_PATH", ":"+system)
	t.Setenv("LIKENESS_CACHE_DIR", cache)
	t.Setenv(ort.LibraryEnv, "")
	find := func() string {
		t.Helper()
		p, err := ort.Find()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}

	if p, err := ort.Find(); err == nil {
		sharedtest.Missing(t, "a system without an ONNX Runtime of its own, unlike "+p)
	} else {
		wantError(t, err, face.Unavailable, "likeness runtime pull", ort.LibraryEnv, cache)
	}

	dir, err := fetch.RuntimeDir()
	if err != nil {
		t.Fatal(err)
	}
	cached := write(t, filepath.Join(dir, fetch.RuntimeFile()), "")
	if got := find(); got != cached {
		t.Errorf("found %s, want the cache's %s", got, cached)
	}

	link := filepath.Join(system, fetch.RuntimeFile())
	if err := os.Symlink(write(t, filepath.Join(system, "libonnxruntime.so.1.21.0"), ""), link); err != nil {
		t.Fatal(err)
	}
	if got := find(); got != cached {
		t.Errorf("found %s, want the cache's %s: the system's is too old", got, cached)
	}
	if err := os.Remove(cached); err != nil {
		t.Fatal(err)
	}
	_, err = ort.Find()
	wantError(t, err, face.Unavailable, "too old", "libonnxruntime.so.1.21.0")

	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(write(t, filepath.Join(system, "libonnxruntime.so.1.27.0"), ""), link); err != nil {
		t.Fatal(err)
	}
	if got := find(); got != link {
		t.Errorf("found %s, want the system's %s", got, link)
	}

	t.Setenv(ort.LibraryEnv, own)
	_, err = ort.Find()
	wantError(t, err, face.Unavailable, ort.LibraryEnv, own)
	write(t, own, "")
	if got := find(); got != own {
		t.Errorf("found %s, want %s", got, own)
	}
}

// oldLibrary is a library with ONNX Runtime's entry that knows no API newer
// than its own, as every release does.
const oldLibrary = `
struct base { const void *(*api)(unsigned); const char *(*version)(void); };
static const void *api(unsigned v) { return 0; }
static const char *version(void) { return "1.9.0"; }
static const struct base b = { api, version };
const struct base *OrtGetApiBase(void) { return &b; }
`

func compile(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	lib := filepath.Join(dir, "libonnxruntime.so.1")
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", lib, write(t, filepath.Join(dir, "lib.c"), source)).CombinedOutput(); err != nil {
		sharedtest.Missing(t, fmt.Sprintf("a C compiler: %v\n%s", err, out))
	}
	return lib
}

func TestOpenOtherLibraries(t *testing.T) {
	real := orttest.Library(t)
	refused := map[string]string{
		"text":    write(t, filepath.Join(t.TempDir(), "libonnxruntime.so"), "not a library\n"),
		"foreign": compile(t, "int answer(void) { return 42; }"),
		"old":     compile(t, oldLibrary),
	}
	for name, lib := range refused {
		t.Run(name, func(t *testing.T) {
			_, err := ort.Open(ort.Options{Library: lib})
			wantError(t, err, face.Unavailable, lib, "1.24", "likeness runtime pull")
		})
	}

	// None of them is in the way of a good one, which keeps others out until
	// its last user has closed it.
	first, err := ort.Open(ort.Options{Library: real})
	if err != nil {
		t.Fatal(err)
	}
	second, err := ort.Open(ort.Options{Library: real})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = ort.Open(ort.Options{Library: refused["old"]})
	wantError(t, err, face.Conflict, refused["old"])
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = ort.Open(ort.Options{Library: refused["old"]})
	wantError(t, err, face.Unavailable)

	again, err := ort.Open(ort.Options{Library: real})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
