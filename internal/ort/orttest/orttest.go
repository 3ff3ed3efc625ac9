// Package orttest opens the real ONNX Runtime and real models for tests.
package orttest

import (
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
)

// Library is the path of the ONNX Runtime library. A test without one skips.
func Library(tb testing.TB) string {
	tb.Helper()
	p, err := ort.Find()
	if err != nil {
		sharedtest.Missing(tb, "ONNX Runtime: "+err.Error())
	}
	return p
}

// Runtime opens ONNX Runtime on one thread of the CPU until the test ends.
func Runtime(tb testing.TB) *ort.Runtime {
	tb.Helper()
	r, err := ort.Open(ort.Options{Library: Library(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closed(tb, r.Close) })
	return r
}

// The models that are built in, for tests that need some.
const (
	Detector = "builtin-detector"
	Encoder  = "builtin-encoder"
)

// Model finds a model that is built in, or one whose file lies in
// ../shared/models. A test whose model is not there skips.
func Model(tb testing.TB, id string) embed.Model {
	tb.Helper()
	m := find(tb, id)
	if m.Path == "" {
		m = find(tb, id, sharedtest.Path(tb, "models"))
	}
	if m.Path == "" {
		sharedtest.Missing(tb, "../shared/models/"+m.File)
	}
	return m
}

func find(tb testing.TB, id string, dirs ...string) embed.Model {
	tb.Helper()
	r, err := embed.OpenRegistry(models.FS, dirs...)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := r.Model(id)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Network loads a [Model] by its id until the test ends.
func Network(tb testing.TB, id string) embed.Network {
	tb.Helper()
	m := Model(tb, id)
	data, err := m.ReadVerified()
	if err != nil {
		tb.Fatal(err)
	}
	n, err := Runtime(tb).Load(data, m.Manifest)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closed(tb, n.Close) })
	return n
}

func closed(tb testing.TB, close func() error) {
	tb.Helper()
	if err := close(); err != nil {
		tb.Error(err)
	}
}
