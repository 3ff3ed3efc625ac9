package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
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

// embedding is the same for the same number, and unlike any other's.
func embedding(seed, dim int) face.Embedding {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	e := make(face.Embedding, dim)
	for i := range e {
		e[i] = float32(rng.NormFloat64())
	}
	e, err := e.Normalise()
	if err != nil {
		panic(err)
	}
	return e
}

// closing closes what is deferred to it.
func closing(tb testing.TB, c io.Closer) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

func addSubject(tb testing.TB, s *postgres.Store, id string) {
	tb.Helper()
	if _, err := s.CreateSubject(context.Background(), tenant, face.DefaultGallery, face.Subject{ID: id}); err != nil {
		tb.Error(err)
	}
}

func enrol(s *postgres.Store, id, subject string, e face.Embedding) error {
	_, err := s.Enrol(context.Background(), tenant, face.DefaultGallery,
		face.Template{ID: id, SubjectID: subject, ModelID: model, Embedding: e})
	return err
}

// person is a subject with one template; both have the number.
func person(seed, dim int) store.Record {
	id := fmt.Sprint("s", seed)
	return store.Record{
		Subject:   face.Subject{ID: id, Name: "name of " + id},
		Templates: []face.Template{{ID: fmt.Sprint("t", seed), SubjectID: id, ModelID: model, Embedding: embedding(seed, dim)}},
	}
}

// populate imports the people with the numbers from one to below another.
func populate(tb testing.TB, s store.Store, from, to, dim int) {
	tb.Helper()
	for at := from; at < to; at += store.MaxImport {
		var records []store.Record
		for i := at; i < min(to, at+store.MaxImport); i++ {
			records = append(records, person(i, dim))
		}
		outcomes, err := s.Import(context.Background(), tenant, face.DefaultGallery, records)
		if err != nil {
			tb.Fatal(err)
		}
		for _, o := range outcomes {
			if o.Err != nil {
				tb.Fatal(o.Err)
			}
		}
	}
}

// isFound reports whether a search for the embedding of a number gives the
// subject of that number, who has no other template.
func isFound(ctx context.Context, s store.Store, seed, dim int) (bool, error) {
	r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(seed, dim), 1)
	if err != nil || len(r.Candidates) == 0 {
		return false, err
	}
	c := r.Candidates[0]
	return c.SubjectID == fmt.Sprint("s", seed) && c.Templates == 1 && c.Score > 0.999, nil
}

// eventually waits for something to become so.
func eventually(tb testing.TB, limit time.Duration, what string, so func() bool) time.Duration {
	tb.Helper()
	start := time.Now()
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if so() {
			tick.Stop()
			return time.Since(start)
		}
		if time.Since(start) > limit {
			tb.Fatalf("%s: not so after %v", what, limit)
		}
	}
}

func wantKind(tb testing.TB, err error, kind face.Kind, detail string) {
	tb.Helper()
	var e *face.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(e.Detail, detail) {
		tb.Errorf("error is %v, want %s with %q", err, kind, detail)
	}
}

// closeConn ends a connection of which everything is known.
func closeConn(c *pgx.Conn) { _ = c.Close(context.Background()) }

// sqlExec changes the database behind the store's back.
func sqlExec(tb testing.TB, url string, sql string, args ...any) {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	defer closeConn(conn)
	if _, err := conn.Exec(context.Background(), sql, args...); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

func sqlInt(tb testing.TB, url, sql string) (n int) {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	defer closeConn(conn)
	if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return n
}

// sqlInTransaction runs statements behind the store's back in one transaction.
func sqlInTransaction(tb testing.TB, url string, work func(exec func(string))) {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Error(err)
		return
	}
	defer closeConn(conn)
	exec := func(sql string) {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			tb.Errorf("%s: %v", sql, err)
		}
	}
	exec("BEGIN")
	work(exec)
	exec("COMMIT")
}
