package jobs

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"golang.org/x/sys/unix"

	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
)

// conns is how many connections the jobs have in a Postgres: River's
// listener, what it fetches and completes, workers and callers.
const conns = 8

// OpenPostgres opens the jobs of a deployment. Its schema must be there: see
// [MigratePostgres]. Unavailable: the database cannot be reached, or its
// schema is another one.
func OpenPostgres(ctx context.Context, config *pgxpool.Config, o Options) (_ *Service, err error) {
	const op = "OpenPostgres"
	pool, err := openPool(ctx, config)
	if err != nil {
		return nil, fault(op, err)
	}
	db := postgresDB{pgQuerier{pool}, pool}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	driver := riverpgxv5.New(pool)
	m, err := migrator(driver)
	if err != nil {
		return nil, fault(op, err)
	}
	switch is, err := m.Validate(ctx, nil); {
	case err != nil:
		return nil, fault(op, err)
	case !is.OK:
		return nil, face.Errorf(face.Unavailable, "jobs."+op, "the database lacks tables of the job queue: run `server migrate`")
	}
	return open(db, driver, func(q querier) pgx.Tx { return q.(pgQuerier).q.(pgx.Tx) }, o, nil)
}

func openPool(ctx context.Context, config *pgxpool.Config) (*pgxpool.Pool, error) {
	config = config.Copy()
	config.AfterConnect = nil // there are no vectors here
	config.MinConns, config.MaxConns = 0, conns
	// A server that is stopped in the middle of a transaction, or cut off, must
	// not hold the queue's lock for long.
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "5s"
	return pgxpool.NewWithConfig(ctx, config)
}

// MigratePostgres brings River's tables up to date, which those of package
// store do not know. Several at once take turns.
func MigratePostgres(ctx context.Context, config *pgxpool.Config) error {
	const op = "MigratePostgres"
	pool, err := openPool(ctx, config)
	if err != nil {
		return fault(op, err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fault(op, err)
	}
	defer conn.Release()
	// The connection's end gives the lock back, too.
	const lock = 7815264303311285
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(lock)); err != nil {
		return fault(op, err)
	}
	m, err := migrator(riverpgxv5.New(pool))
	if err == nil {
		_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	_, unlock := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(lock))
	return fault(op, errors.Join(err, unlock))
}

func migrator[T any](driver riverdriver.Driver[T]) (*rivermigrate.Migrator[T], error) {
	return rivermigrate.New(driver, &rivermigrate.Config{Logger: quiet(nil)})
}

// OpenSQLite opens the jobs of the embedded store in a file of their own, and
// makes it where there is none. One process has it at a time, so whatever is
// running in it was left by one that is gone. Unavailable: another process has
// it, or it cannot be written to.
func OpenSQLite(ctx context.Context, path string, o Options) (_ *Service, err error) {
	const op = "OpenSQLite"
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fault(op, err)
	}
	s, err := openSQLite(ctx, path, o, lock)
	if isFull(err) {
		err = o.Room.Without(func(func() error) (err error) {
			s, err = openSQLite(ctx, path, o, lock)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(fault(op, err), lock.Close())
	}
	return s, nil
}

func openSQLite(ctx context.Context, path string, o Options, lock *os.File) (_ *Service, err error) {
	// SQLite would make it readable for whomever the umask allows.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, err
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {
		fmt.Sprintf("busy_timeout = %d", busyTimeout.Milliseconds()),
		"journal_mode = WAL",
		"foreign_keys = ON",
		"synchronous = FULL",
		"secure_delete = ON",
		"temp_store = MEMORY",
		"journal_size_limit = 67108864",
	}}
	pool, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(1)
	db := sqliteDB{sqlQuerier{pool}, pool, o.Room}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.close())
		}
	}()
	if err := migrateSQLite(ctx, pool); err != nil {
		return nil, err
	}
	s, err := open(db, riversqlite.New(pool), func(q querier) *sql.Tx { return q.(sqlQuerier).q.(*sql.Tx) }, o, lock.Close)
	if err != nil {
		return nil, err
	}
	// Invitations of those who are gone, and their jobs. On a full disk the
	// server is of use without: invitations too many do no harm, and the jobs are
	// found by their silence.
	s.queue.erased.Store(true) // perhaps, by one who could not tidy up any more
	_, err = pool.ExecContext(ctx, "DELETE FROM river_job WHERE state IN ('available', 'running')")
	if err == nil {
		err = s.sweep(ctx, 0)
	}
	if err != nil && passes(err) {
		s.o.Logger.Warn("style jobs: those that were left are taken up later", "error", err)
		err = nil
	}
	return s, err
}

func migrateSQLite(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations.SQLiteJobs, "sqlite-jobs")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	have, want, err := p.GetVersions(ctx)
	switch {
	case err != nil:
		return err
	case have > want:
		return face.Errorf(face.Unavailable, "", "the file of the jobs has version %d, this program knows %d: a newer program wrote it", have, want)
	}
	if _, err := p.Up(ctx); err != nil {
		return err
	}
	m, err := migrator(riversqlite.New(db))
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}

// lockFile takes an exclusive lock that ends with the process. The file stays:
// one that is removed while another process opens it locks nothing.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	defer f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &face.Error{Kind: face.Unavailable, Detail: "another process has the jobs open", Err: fmt.Errorf("lock %s: %w", strings.TrimSuffix(path, ".lock"), err)}
	}
	return nil, err
}
