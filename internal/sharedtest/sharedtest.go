// Package sharedtest gives tests the real photos and the further weights that
// lie beside a checkout, in ../shared, and are never part of it.
package sharedtest

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/internal/photos"
)

// Missing skips the test, naming what is missing. In CI it fails the test,
// because CI has everything and must not skip tests silently.
func Missing(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf("CI lacks %s", what)
	}
	tb.Skipf("skipped: needs %s", what)
}

// Path is the path of a file of ../shared ("models/mobileface-v2.onnx"). The
// folder may lie elsewhere: LIKENESS_SHARED names it.
func Path(tb testing.TB, rel string) string {
	tb.Helper()
	dir := os.Getenv("LIKENESS_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(tb), "..", "shared")
	}
	p := filepath.Join(dir, filepath.FromSlash(rel))
	if _, err := os.Stat(p); err != nil {
		Missing(tb, "../shared/"+rel)
	}
	return p
}

// Root is the root of the module that the test runs in.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			tb.Fatal("no go.mod above the test's folder")
		}
		dir = up
	}
}

// lfw is opened once a process: its index takes a read of the whole archive.
var lfw struct {
	once sync.Once
	set  photos.Set
	err  error
}

// Photo is one photo of data/lfw-dev.tar ("lfw/Aaron_Guiel/Aaron_Guiel_0001.jpg").
func Photo(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := LFW(tb).ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// LFW is the set of photos in data/lfw-dev.tar, opened once a process.
func LFW(tb testing.TB) photos.Set {
	tb.Helper()
	p := Path(tb, "data/lfw-dev.tar")
	lfw.once.Do(func() { lfw.set, lfw.err = photos.Open(p) })
	if lfw.err != nil {
		tb.Fatal(lfw.err)
	}
	return lfw.set
}
