package postgres

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	pgxvec "github.com/pgvector/pgvector-go/pgx"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// writeTimeout is when a write is given up that the database neither
	// carries out nor refuses.
	writeTimeout = 15 * time.Second

	// bulkTimeout is the same for a thousand subjects, or a whole gallery.
	bulkTimeout = 5 * time.Minute

	// ownConns are for what must not wait behind callers: the feed with its
	// loaders and its listener, decisions on their way into the audit, and
	// the look at replicas.
	ownConns = loaders + 4
)

// database is the primary: it takes the writes.
type database struct {
	pool *pgxpool.Pool // of the callers
	own  *pgxpool.Pool // of what runs in the background
	log  *slog.Logger
	// writers lets half of the callers' connections write: those that wait for
	// a locked gallery leave the others for reading.
	writers chan struct{}
	// wrote is called after each write; may be nil.
	wrote func(context.Context)

	mu     sync.RWMutex // held for reading by each call
	closed bool
}

// newPool opens a pool whose connections know vectors.
func newPool(ctx context.Context, url, passwordFile string, limit func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	config, err := pgdb.Config(url, passwordFile)
	if err != nil {
		return nil, err
	}
	config.AfterConnect = pgxvec.RegisterTypes
	limit(config)
	return pgxpool.NewWithConfig(ctx, config)
}

func openDatabase(ctx context.Context, url, passwordFile string, log *slog.Logger) (*database, error) {
	if err := pgdb.CheckSchema(ctx, url, passwordFile, log); err != nil {
		return nil, err
	}
	pool, err := newPool(ctx, url, passwordFile, func(*pgxpool.Config) {})
	if err != nil {
		return nil, err
	}
	own, err := newPool(ctx, url, passwordFile, func(c *pgxpool.Config) { c.MinConns, c.MaxConns = 0, ownConns })
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
		return wrap(op, errClosed)
	}
	return wrap(op, work())
}

// querier is a pool, a connection or a transaction.
type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

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
	err := pgdb.Retry(ctx, func(err error) bool {
		var doubt pgdb.InDoubt
		return !errors.As(err, &doubt) || repeatable
	}, func() error { return work(ctx) })
	if err == nil && d.wrote != nil {
		d.wrote(ctx)
	}
	if doubt, ok := errors.AsType[pgdb.InDoubt](err); ok {
		return pgdb.InDoubt{Err: errors.New(doubt.Error())} // whatever ended it
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

// transactWithin is transact with a time limit of its own.
func (d *database) transactWithin(ctx context.Context, limit time.Duration, repeatable bool, work func(context.Context, pgx.Tx) error) error {
	return d.write(ctx, limit, repeatable, func(ctx context.Context) error { return pgdb.InTransaction(ctx, d.pool, work) })
}

// writeOnce is a write of one statement, which is repeatable.
func (d *database) writeOnce(ctx context.Context, work func(context.Context, querier) error) error {
	return d.write(ctx, writeTimeout, true, func(ctx context.Context) error { return work(ctx, d.pool) })
}

// read runs work on the primary, again where the connection breaks.
func (d *database) read(ctx context.Context, work func(context.Context, querier) error) error {
	return pgdb.Retry(ctx, func(error) bool { return ctx.Err() == nil }, func() error { return work(ctx, d.pool) })
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

// scanOne scans one row and reports whether there was one.
func scanOne(row pgx.Row, dest ...any) (bool, error) {
	err := row.Scan(dest...)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
