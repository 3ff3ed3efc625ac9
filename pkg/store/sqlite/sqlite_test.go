package sqlite_test

import (
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
	"github.com/likeness-id/likeness/pkg/store/storetest"
)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) func() store.Store {
		path := filepath.Join(tb.TempDir(), "likeness.db")
		return func() store.Store { return open(tb, path) }
	})
}

// open opens the store at path and waits until it is ready.
func open(tb testing.TB, path string) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), sqlite.Options{Path: path})
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.AwaitReady(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s
}
