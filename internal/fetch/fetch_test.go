package fetch_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sha256Hex(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func content(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i * i >> 3)
	}
	return b
}

func writeFile(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// server serves until the test ends, and gives a client for it.
func server(t *testing.T, h http.HandlerFunc) (*httptest.Server, *fetch.Client) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s, &fetch.Client{HTTP: s.Client(), Stall: time.Minute}
}

// serveRanges serves data with ranges.
func serveRanges(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

// serveInterrupted serves data with ranges, and drops the connection after n bytes of each
// of the first answers.
func serveInterrupted(data []byte, n int, times int32) (http.HandlerFunc, *atomic.Int32) {
	var asked atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > times {
			serveRanges(data)(w, r)
			return
		}
		http.ServeContent(&cutter{w, n}, r, "", time.Time{}, bytes.NewReader(data))
		panic(http.ErrAbortHandler)
	}, &asked
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) <= c.left {
		c.left -= len(b)
		return c.ResponseWriter.Write(b)
	}
	n, _ := c.ResponseWriter.Write(b[:c.left])
	c.left = 0
	c.ResponseWriter.(http.Flusher).Flush()
	return n, errors.New("cut")
}

func wantKind(t *testing.T, err error, kind face.Kind, words ...string) {
	t.Helper()
	if err == nil || face.KindOf(err) != kind {
		t.Fatalf("error %v, want %v", err, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}

// wantFile checks what dst holds (nil: it is not there), and that nothing
// else was left but its part, when one is expected.
func wantFile(t *testing.T, dst string, want []byte, part bool) {
	t.Helper()
	got, err := os.ReadFile(dst)
	if want == nil {
		if err == nil {
			t.Errorf("%s is there", filepath.Base(dst))
		}
	} else if !bytes.Equal(got, want) {
		t.Errorf("%s has %d bytes that are not the %d wanted (%v)", filepath.Base(dst), len(got), len(want), err)
	}
	if _, err := os.Stat(dst + ".part"); (err == nil) != part {
		t.Errorf("part is there: %v, want %v", err == nil, part)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	data := content(300_000)
	file := fetch.File{SHA256: sha256Hex(data), MaxBytes: int64(len(data))}
	for name, c := range map[string]struct {
		part, old []byte // what lies there before
	}{
		"nothing there":             {},
		"a part of it":              {part: data[:123_456]},
		"all of it as a part":       {part: data},
		"a part of another file":    {part: content(999)[500:]},
		"a part that is too long":   {part: content(400_000)},
		"another file of that name": {old: []byte("old")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dst := filepath.Join(t.TempDir(), "new", "file")
			if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
				t.Fatal(err)
			}
			if c.part != nil {
				writeFile(t, dst+".part", c.part)
			}
			if c.old != nil {
				writeFile(t, dst, c.old)
			}
			s, client := server(t, serveRanges(data))
			f := file
			f.URL = s.URL
			var last [2]int64
			if err := client.Get(t.Context(), f, dst, func(done, total int64) { last = [2]int64{done, total} }); err != nil {
				t.Fatal(err)
			}
			wantFile(t, dst, data, false)
			if len(c.part) != len(data) && last != [2]int64{int64(len(data)), int64(len(data))} {
				t.Errorf("the last progress was %v", last)
			}
		})
	}
}

// A file may be known by its SHA-384 instead.
func TestGetBySHA384(t *testing.T) {
	t.Parallel()
	data := content(1000)
	s, client := server(t, serveRanges(data))
	dst := filepath.Join(t.TempDir(), "file")
	for _, c := range []struct {
		known []byte
		want  face.Kind
	}{{content(999), face.Invalid}, {data, face.NoError}, {data, face.NoError}} {
		sum := sha512.Sum384(c.known)
		f := fetch.File{URL: s.URL, SHA384: hex.EncodeToString(sum[:]), MaxBytes: 1000}
		err := client.Get(t.Context(), f, dst, nil)
		if c.want != face.NoError {
			wantKind(t, err, c.want, "SHA-384", f.SHA384)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	wantFile(t, dst, data, false)
	// Without any hash nothing is taken.
	err := client.Get(t.Context(), fetch.File{URL: s.URL, MaxBytes: 1000}, dst, nil)
	wantKind(t, err, face.Invalid)
}

func TestGetNothingToDo(t *testing.T) {
	t.Parallel()
	data := content(10)
	dst := filepath.Join(t.TempDir(), "file")
	writeFile(t, dst, data)
	s, client := server(t, func(http.ResponseWriter, *http.Request) { t.Error("asked for what is there") })
	if err := client.Get(t.Context(), fetch.File{URL: s.URL, SHA256: sha256Hex(data), MaxBytes: 10}, dst, nil); err != nil {
		t.Fatal(err)
	}
}

// Two processes on one download write the same bytes to the same places; the
// slower one finds that the part has got its name already.
func TestGetFinishedByAnother(t *testing.T) {
	t.Parallel()
	data := content(1000)
	s, client := server(t, serveRanges(data))
	dst := filepath.Join(t.TempDir(), "file")
	err := client.Get(t.Context(), fetch.File{URL: s.URL, SHA256: sha256Hex(data), MaxBytes: 1000}, dst, func(done, total int64) {
		if done == total {
			if err := os.Rename(dst+".part", dst); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dst, data, false)
}

func TestGetResumesAfterCuts(t *testing.T) {
	t.Parallel()
	data := content(1 << 20)
	h, asked := serveInterrupted(data, 200_000, 4)
	s, client := server(t, h)
	dst := filepath.Join(t.TempDir(), "file")
	var done []int64
	err := client.Get(t.Context(), fetch.File{URL: s.URL, SHA256: sha256Hex(data), MaxBytes: 2 << 20}, dst,
		func(n, _ int64) { done = append(done, n) })
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, dst, data, false)
	if asked.Load() != 5 {
		t.Errorf("asked %d times, want 5", asked.Load())
	}
	for i := range done {
		if i > 0 && done[i] <= done[i-1] {
			t.Fatalf("progress went from %d to %d: a cut began from the start", done[i-1], done[i])
		}
	}
}

func TestGetFails(t *testing.T) {
	t.Parallel()
	data := content(300_000)
	endless := func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(data); err != nil {
				return
			}
		}
	}
	cutAtOnce, _ := serveInterrupted(data, 0, 1000)
	cutLater, _ := serveInterrupted(data, 100_000, 1)
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		sum     string
		max     int64
		kind    face.Kind
		words   string
		part    bool
	}{
		"other bytes":     {serveRanges(data), sha256Hex([]byte("else")), 1 << 20, face.Invalid, sha256Hex(data), false},
		"announced large": {serveRanges(data), sha256Hex(data), 299_999, face.TooLarge, "299999", false},
		"endless":         {endless, sha256Hex(data), 1 << 20, face.TooLarge, "1048576", false},
		"not there":       {http.NotFound, sha256Hex(data), 1 << 20, face.Unavailable, "404", false},
		"always cut":      {cutAtOnce, sha256Hex(data), 1 << 20, face.Unavailable, "http", false},
		"no ranges after a cut": {func(w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			cutLater(w, r)
		}, sha256Hex([]byte("else")), 1 << 20, face.Invalid, sha256Hex(data), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, client := server(t, c.handler)
			dst := filepath.Join(t.TempDir(), "file")
			err := client.Get(t.Context(), fetch.File{URL: s.URL, SHA256: c.sum, MaxBytes: c.max}, dst, nil)
			wantKind(t, err, c.kind, c.words)
			wantFile(t, dst, nil, c.part)
		})
	}
}

// serveStalled sends the beginning and then nothing more.
func serveStalled(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") == "" {
			w.Write(data)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}
}

func TestGetCanceled(t *testing.T) {
	t.Parallel()
	data := content(5000)
	s, client := server(t, serveStalled(data))
	ctx, cancel := context.WithCancel(t.Context())
	dst := filepath.Join(t.TempDir(), "file")
	err := client.Get(ctx, fetch.File{URL: s.URL, SHA256: sha256Hex(data), MaxBytes: 1 << 20}, dst, func(int64, int64) { cancel() })
	wantKind(t, err, face.Canceled)
	wantFile(t, dst, nil, true)
}

func TestGetStalled(t *testing.T) {
	t.Parallel()
	data := content(5000)
	s, client := server(t, serveStalled(data))
	client.Stall = 20 * time.Millisecond
	err := client.Get(t.Context(), fetch.File{URL: s.URL, SHA256: sha256Hex(data), MaxBytes: 1 << 20}, filepath.Join(t.TempDir(), "file"), nil)
	wantKind(t, err, face.Unavailable, "nothing came")
}

// member is one entry of a test archive.
type member struct{ name, text, link string }

func archive(t *testing.T, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Mode: 0o755, Size: int64(len(m.text)), Typeflag: tar.TypeReg}
		if m.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, m.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// release looks like the official archive.
func release(t *testing.T) []byte {
	t.Helper()
	return archive(t,
		member{name: "./ort/lib/libonnxruntime.so", link: "libonnxruntime.so.1"},
		member{name: "./ort/lib/libonnxruntime_providers_shared.so", text: "provider"},
		member{name: "./ort/lib/libonnxruntime.so.1.2.3", text: "library"},
		member{name: "./ort/lib/libonnxruntime.so.1", link: "libonnxruntime.so.1.2.3"},
	)
}

func listing(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestLibrary(t *testing.T) {
	t.Parallel()
	data := release(t)
	s, client := server(t, serveRanges(data))
	dir := filepath.Join(t.TempDir(), "cache")
	good := fetch.Archive{URL: s.URL + "/good.tgz", SHA256: sha256Hex(data), Member: "ort/lib/libonnxruntime.so*"}
	got, err := client.Library(t.Context(), []fetch.Archive{
		{URL: s.URL + "/bad.tgz", SHA256: sha256Hex([]byte("else")), Member: good.Member},
		good,
	}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, fetch.RuntimeFile()); got != want {
		t.Errorf("path %s, want %s", got, want)
	}
	wantFile(t, got, []byte("library"), false)
	if info, err := os.Stat(got); err != nil || info.Mode() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if diff := cmp.Diff([]string{fetch.RuntimeFile()}, listing(t, dir)); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}

	s.Close() // what is there is not asked for again
	if _, err := client.Library(t.Context(), []fetch.Archive{good}, dir, nil); err != nil {
		t.Error(err)
	}
}

func TestLibraryFails(t *testing.T) {
	t.Parallel()
	data, text := release(t), []byte("not an archive")
	s, client := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ort.tgz":
			serveRanges(data)(w, r)
		case "/text.tgz":
			serveRanges(text)(w, r)
		case "/cut.tgz":
			serveRanges(data[:len(data)/2])(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	const lib = "ort/lib/libonnxruntime.so*"
	dir := t.TempDir()
	_, err := client.Library(t.Context(), []fetch.Archive{
		{URL: s.URL + "/none.tgz", SHA256: sha256Hex(data), Member: lib},
		{URL: s.URL + "/ort.tgz", SHA256: sha256Hex(data), Member: "ort/lib/libother.so"},
		{URL: s.URL + "/text.tgz", SHA256: sha256Hex(text), Member: lib},
		{URL: s.URL + "/cut.tgz", SHA256: sha256Hex(data[:len(data)/2]), Member: lib},
	}, dir, nil)
	wantKind(t, err, face.Unavailable, "404", "libother.so", "text.tgz", "cut.tgz", "LIKENESS_ORT_LIBRARY")
	if diff := cmp.Diff([]string{}, listing(t, dir)); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}
	_, err = client.Library(t.Context(), nil, t.TempDir(), nil)
	wantKind(t, err, face.Unavailable, "platform")
}

// A stand-in for npm copies a prepared archive to where it was told to.
func TestLibraryFromNPM(t *testing.T) {
	data := archive(t, member{name: "package/bin/libonnxruntime.so.1", text: "library"})
	bin := t.TempDir()
	writeFile(t, filepath.Join(bin, "package.tgz"), data)
	script := fmt.Sprintf("#!/bin/sh\nfor dir; do :; done\n[ \"$2\" = good@1 ] || { echo no such package >&2; exit 1; }\ncp '%s/package.tgz' \"$dir/good-1.tgz\"\n", bin)
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, client := server(t, http.NotFound)
	const lib = "package/bin/libonnxruntime.so*"

	dir := t.TempDir()
	_, err := client.Library(t.Context(), []fetch.Archive{
		{Package: "bad@1", SHA256: sha256Hex(data), Member: lib},
		{Package: "good@1", SHA256: sha256Hex([]byte("else")), Member: lib},
	}, dir, nil)
	wantKind(t, err, face.Unavailable, "no such package", sha256Hex(data))
	if diff := cmp.Diff([]string{}, listing(t, dir)); diff != "" {
		t.Errorf("what is left (-want +got):\n%s", diff)
	}

	got, err := client.Library(t.Context(), []fetch.Archive{{Package: "good@1", SHA256: sha256Hex(data), Member: lib}}, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, got, []byte("library"), false)
	if diff := cmp.Diff([]string{fetch.RuntimeFile()}, listing(t, dir)); diff != "" {
		t.Errorf("what is kept (-want +got):\n%s", diff)
	}

	t.Setenv("PATH", t.TempDir())
	_, err = client.Library(t.Context(), []fetch.Archive{{Package: "good@1", SHA256: sha256Hex(data), Member: lib}}, t.TempDir(), nil)
	wantKind(t, err, face.Unavailable, "npm")
}

func TestArchives(t *testing.T) {
	t.Parallel()
	for _, platform := range [][2]string{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "arm64"}} {
		for _, a := range fetch.Archives(platform[0], platform[1]) {
			if (a.URL == "") == (a.Package == "") || len(a.SHA256) != 64 || a.Member == "" {
				t.Errorf("%v: %+v", platform, a)
			}
			if _, err := filepath.Match(a.Member, ""); err != nil {
				t.Errorf("%v: %v", a.Member, err)
			}
		}
	}
	if got := fetch.Archives("plan9", "mips"); got != nil {
		t.Errorf("plan9 has %v", got)
	}
}
