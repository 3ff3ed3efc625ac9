package jobs

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
)

// conns is how many connections the jobs have in a Postgres: River's
// listener, what it fetches and completes, workers and callers.
const conns = 8

// OpenPostgres opens the jobs of a deployment. Its schema must be there: see
// [MigratePostgres]. Unavailable: the database cannot be reached, or its
// schema is another one.
func OpenPostgres(ctx context.Context, url, passwordFile string, o Options) (_ *Service, err error) {
	const op = "OpenPostgres"
	pool, err := openPool(ctx, url, passwordFile)
	if err != nil {
		return nil, wrap(op, err)
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
		return nil, wrap(op, err)
	}
	switch is, err := m.Validate(ctx, nil); {
	case err != nil:
		return nil, wrap(op, err)
	case !is.OK:
		return nil, face.Errorf(face.Unavailable, "jobs."+op, "the database lacks tables of the job queue: run `server migrate`")
	}
	return open(db, driver, func(q querier) pgx.Tx { return q.(pgQuerier).q.(pgx.Tx) }, o, nil)
}

func openPool(ctx context.Context, url, passwordFile string) (*pgxpool.Pool, error) {
	config, err := pgdb.Config(url, passwordFile)
	if err != nil {
		return nil, err
	}
	config.MinConns, config.MaxConns = 0, conns
	// A server that is stopped in the middle of a transaction, or cut off, must
	// not hold the queue's lock for long.
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "5s"
	return pgxpool.NewWithConfig(ctx, config)
}

// MigratePostgres brings River's tables up to date, which those of package
// store do not know. Several at once take turns.
func MigratePostgres(ctx context.Context, url, passwordFile string) error {
	const op = "MigratePostgres"
	pool, err := openPool(ctx, url, passwordFile)
	if err != nil {
		return wrap(op, err)
	}
	defer pool.Close()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return wrap(op, err)
	}
	defer conn.Release()
	// The connection's end gives the lock back, too.
	const lock = 7815264303311285
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(lock)); err != nil {
		return wrap(op, err)
	}
	m, err := migrator(riverpgxv5.New(pool))
	if err == nil {
		_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	_, unlock := conn.Exec(context.WithoutCancel(ctx), "SELECT pg_advisory_unlock($1)", int64(lock))
	return wrap(op, errors.Join(err, unlock))
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
	lock, err := sqlitedb.TryLock(path + ".lock")
	if err != nil {
		return nil, wrap(op, err)
	}
	s, err := openSQLite(ctx, path, o, lock)
	if sqlitedb.IsFull(err) {
		err = o.Room.Without(func(func() error) (err error) {
			s, err = openSQLite(ctx, path, o, lock)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(wrap(op, err), lock.Release())
	}
	return s, nil
}

func openSQLite(ctx context.Context, path string, o Options, lock *sqlitedb.Lock) (_ *Service, err error) {
	if err := sqlitedb.CreateFile(path); err != nil {
		return nil, err
	}
	pool, err := sqlitedb.Open(path, sqlitedb.WritePragmas("journal_mode = WAL"), "_txlock=immediate")
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
	s, err := open(db, riversqlite.New(pool), func(q querier) *sql.Tx { return q.(sqlQuerier).q.(*sql.Tx) }, o, lock.Release)
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
	if err != nil && mayPass(err) {
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
	err = sqlitedb.Migrate(ctx, db, files, nil, func(have, want int64) error {
		if have > want {
			return face.Errorf(face.Unavailable, "", "the file of the jobs has version %d, this program knows %d: a newer program wrote it", have, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	m, err := migrator(riversqlite.New(db))
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	return err
}
