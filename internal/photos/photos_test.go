package photos_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/photos"
)

// TestOpen reads the same three files from a folder and from a tar.
func TestOpen(t *testing.T) {
	t.Parallel()
	files := map[string]string{"b/two.jpg": "22", "a/one.jpg": "1", "a/long.jpg": string(bytes.Repeat([]byte("x"), 2000))}
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, body := range files {
		p := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Size: int64(len(body)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "set.tar")
	if err := os.WriteFile(archive, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{folder, archive} {
		t.Run(filepath.Base(source), func(t *testing.T) {
			t.Parallel()
			set, err := photos.Open(source)
			if err != nil {
				t.Fatal(err)
			}
			defer set.Close()
			if diff := cmp.Diff([]string{"a/long.jpg", "a/one.jpg", "b/two.jpg"}, set.Names()); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
			for name, want := range files {
				got, err := fs.ReadFile(set, name)
				if err != nil || string(got) != want {
					t.Errorf("%s: got %d bytes, %v; want %d", name, len(got), err, len(want))
				}
			}
			if _, err := set.ReadFile("c/none.jpg"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a missing file: %v", err)
			}
		})
	}
	if _, err := photos.Open(filepath.Join(folder, "a/one.jpg")); err == nil {
		t.Error("a file that is no archive was opened")
	}
}
