package postgres_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
	"github.com/likeness-id/likeness/pkg/store/storetest"
)

const (
	tenant = "acme"
	model  = "encoder-a"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(pgtest.M{M: m})
}

func migrate(url string) error {
	_, _, err := postgres.Migrate(context.Background(), url, "")
	return err
}

// open opens the store of a database and waits until it is ready.
func open(tb testing.TB, o postgres.Options) *postgres.Store {
	tb.Helper()
	s, err := postgres.Open(context.Background(), o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.AwaitReady(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// TestStore runs the conformance suite with each engine.
func TestStore(t *testing.T) {
	t.Parallel()
	for _, engine := range []string{postgres.SearchIndex, postgres.SearchPgvector} {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(tb testing.TB) func() store.Store {
				tb.Helper()
				url := pgtest.Database(tb, migrate)
				return func() store.Store { return open(tb, postgres.Options{URL: url, Search: engine}) }
			})
		})
	}
}

var _ = face.DefaultGallery
