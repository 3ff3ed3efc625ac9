package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxvec "github.com/pgvector/pgvector-go/pgx"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// minConns is how many connections a pool may have when its URL does not
	// say (pool_max_conns): a few a core of a database with some.
	minConns = 16

	// writeTimeout is when a write is given up that the database neither
	// carries out nor refuses.
	writeTimeout = 15 * time.Second

	// bulkTimeout is the same for a thousand subjects, or a whole gallery.
	bulkTimeout = 5 * time.Minute

	// ownConns are for what must not wait behind callers: the feed with its
	// loaders and its listener, decisions on their way into the audit, and
	// the look at replicas.
	ownConns = loaders + 4

	// tries is how often a call is made anew that met a lost connection or
	// somebody else's transaction, and retryPause how long it waits first: a
	// failover takes some seconds.
	tries      = 8
	retryPause = 25 * time.Millisecond
)

// database is the primary: it takes the writes.
type database struct {
	pool *pgxpool.Pool // of the callers
	own  *pgxpool.Pool // of what runs in the background
	log  *slog.Logger
	// writers lets half of the callers' connections write: those that wait for
	// a locked gallery leave the others to whoever reads.
	writers chan struct{}
	// wrote is called after each write; nil where nobody needs to know.
	wrote func(context.Context)

	mu     sync.RWMutex // held for reading by each call
	closed bool
}

// PoolConfig is how this program connects to the Postgres of a URL; the file,
// if it is named, holds the password. Invalid: the URL.
func PoolConfig(url, passwordFile string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		// The cause may quote the URL, and with it a password.
		return nil, face.Errorf(face.Invalid, "postgres", "the database URL cannot be read")
	}
	if !strings.Contains(url, "pool_max_conns") {
		config.MaxConns = max(config.MaxConns, minConns)
	}
	params := config.ConnConfig.RuntimeParams
	for name, value := range map[string]string{
		"application_name":                    "likeness",
		"lock_timeout":                        "10s",
		"idle_in_transaction_session_timeout": "60s",
		"timezone":                            "UTC",
		// A search looks costly enough to be compiled, which takes longer than
		// most searches and makes none of them faster.
		"jit": "off",
	} {
		if params[name] == "" {
			params[name] = value
		}
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	config.HealthCheckPeriod = 15 * time.Second
	if passwordFile != "" {
		config.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			b, err := os.ReadFile(passwordFile)
			if err != nil {
				return err
			}
			c.Password = strings.TrimRight(string(b), "\r\n")
			return nil
		}
	}
	config.AfterConnect = pgxvec.RegisterTypes
	return config, nil
}

func openDatabase(ctx context.Context, url, passwordFile string, log *slog.Logger) (*database, error) {
	if err := checkSchema(ctx, url, passwordFile, log); err != nil {
		return nil, err
	}
	config, err := PoolConfig(url, passwordFile)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	config = config.Copy()
	config.MinConns, config.MaxConns = 0, ownConns
	own, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &database{pool: pool, own: own, log: log, writers: make(chan struct{}, max(1, pool.Config().MaxConns/2))}, nil
}

// release gives the connections back.
func (d *database) release() {
	d.pool.Close()
	d.own.Close()
}

// beginClose refuses new calls and waits for those under way.
func (d *database) beginClose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
}

// call runs one call of the store, unless it is closed, and puts its name to
// the error.
func (d *database) call(op string, work func() error) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if d.closed {
		return fault(op, errClosed)
	}
	return fault(op, work())
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// inDoubt marks an error that left open whether a write was carried out.
type inDoubt struct{ error }

func (e inDoubt) Unwrap() error { return e.error }

// write runs work to its end, whatever becomes of ctx once it has begun. What
// met somebody else's transaction or a broken connection is run again; one
// that may have been carried out only where it is repeatable.
func (d *database) write(ctx context.Context, limit time.Duration, repeatable bool, work func(ctx context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	select {
	case d.writers <- struct{}{}:
		defer func() { <-d.writers }()
	case <-ctx.Done():
		return face.Errorf(face.Unavailable, "", "the storage is busy")
	}
	return d.writeAtOnce(ctx, repeatable, work)
}

// writeAtOnce is a write that takes no turn.
func (d *database) writeAtOnce(ctx context.Context, repeatable bool, work func(ctx context.Context) error) error {
	err := retry(ctx, func(err error) bool {
		var doubt inDoubt
		return !errors.As(err, &doubt) || repeatable
	}, func() error { return work(ctx) })
	if err == nil && d.wrote != nil {
		d.wrote(ctx)
	}
	if doubt, ok := errors.AsType[inDoubt](err); ok {
		return inDoubt{errors.New(doubt.Error())} // whatever ended it
	}
	if errors.Is(err, context.DeadlineExceeded) {
		// It is our time that ended, not the caller's.
		return &face.Error{Kind: face.Unavailable, Detail: "the database does not answer", Err: errors.New(err.Error())}
	}
	return err
}

// transact is a write in one transaction. Up to its commit it leaves nothing
// behind, so that it can be repeated.
func (d *database) transact(ctx context.Context, repeatable bool, work func(context.Context, pgx.Tx) error) error {
	return d.transactWithin(ctx, writeTimeout, repeatable, work)
}

// transactWithin is a transaction that may take so long.
func (d *database) transactWithin(ctx context.Context, limit time.Duration, repeatable bool, work func(context.Context, pgx.Tx) error) error {
	return d.write(ctx, limit, repeatable, func(ctx context.Context) error { return inTransaction(ctx, d.pool, work) })
}

func inTransaction(ctx context.Context, pool *pgxpool.Pool, work func(context.Context, pgx.Tx) error) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return err
	}
	if err := work(ctx, tx); err != nil {
		// The connection that cannot even roll back is thrown away.
		_ = tx.Rollback(ctx)
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		if IsLost(err) || ctx.Err() != nil {
			return inDoubt{err}
		}
		return err // refused, and rolled back
	}
	return nil
}

// once is a write of one statement, which is repeatable.
func (d *database) once(ctx context.Context, work func(context.Context, querier) error) error {
	return d.write(ctx, writeTimeout, true, func(ctx context.Context) error { return work(ctx, d.pool) })
}

// retry runs work until it succeeds, fails for good, or was tried often
// enough.
func retry(ctx context.Context, may func(error) bool, work func() error) error {
	pause := retryPause
	for try := 1; ; try++ {
		err := work()
		if err == nil || try == tries || !transient(err) || !may(err) {
			return err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return err
		}
		pause = min(2*pause, time.Second)
	}
}

// read runs work on the primary, again where the connection breaks.
func (d *database) read(ctx context.Context, work func(context.Context, querier) error) error {
	return retry(ctx, func(error) bool { return ctx.Err() == nil }, func() error { return work(ctx, d.pool) })
}

// scanAll calls scan for each row, and makes an error of a row's the whole's.
func scanAll(rows pgx.Rows, err error, scan func(pgx.Rows) error) error {
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// found scans one row and reports whether there was one.
func found(row pgx.Row, dest ...any) (bool, error) {
	err := row.Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// utc is a time as it is answered.
func utc(t time.Time) time.Time { return t.UTC() }

func errSchema(have, want int64) error {
	switch {
	case have == 0:
		return face.Errorf(face.Unavailable, "", "the database has no schema yet: run `server migrate`")
	case have < want:
		return face.Errorf(face.Unavailable, "", "the database has schema %d, this program needs %d: run `server migrate`", have, want)
	}
	return face.Errorf(face.Unavailable, "", "the database has schema %d, this program knows %d: it was migrated for a newer one; run that, or restore the backup from before", have, want)
}

func errNoExtension(err error) error {
	return &face.Error{
		Kind:   face.Unavailable,
		Detail: "the database lacks pgvector: install it and have a superuser run CREATE EXTENSION vector",
		Err:    fmt.Errorf("create extension: %w", err),
	}
}
