package jobs

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// conns is how many connections the jobs have in a Postgres: the one that
	// listens, and those of workers and callers.
	conns = 8

	// channel is where servers tell each other that a job may be begun.
	channel = "likeness_job"
)

// OpenPostgres opens the jobs of a deployment, in the database of its store.
// Unavailable: the database cannot be reached, or its schema is not that of
// this program; the detail says what to do.
func OpenPostgres(ctx context.Context, url, passwordFile string, o Options) (*Service, error) {
	const op = "OpenPostgres"
	// What an operator should know of the database is logged by the store.
	if err := pgdb.CheckSchema(ctx, url, passwordFile, slog.New(slog.DiscardHandler)); err != nil {
		return nil, wrap(op, err)
	}
	config, err := pgdb.Config(url, passwordFile)
	if err != nil {
		return nil, wrap(op, err)
	}
	config.MinConns, config.MaxConns = 0, conns
	// A server that is stopped in the middle of a transaction, or cut off, must
	// not hold the queue's lock for long.
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "5s"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, wrap(op, err)
	}
	db := postgresDB{pgQuerier{pool}, pool}
	s, err := open(db, o, nil)
	if err != nil {
		return nil, errors.Join(err, db.close())
	}
	return s, nil
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
	files, err := fs.Sub(migrations.SQLiteJobs, "sqlite-jobs")
	if err != nil {
		return nil, err
	}
	err = sqlitedb.Migrate(ctx, pool, files, nil, func(have, want int64) error {
		if have > want {
			return face.Errorf(face.Unavailable, "", "the file of the jobs has version %d, this program knows %d: a newer program wrote it", have, want)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s, err := open(db, o, lock.Release)
	if err != nil {
		return nil, err
	}
	s.queue.erased.Store(true) // perhaps, by a process that was killed before it could tidy
	// On a full disk the server is of use without: the jobs that were left are
	// found by their silence.
	err = s.requeueSilent(ctx, 0)
	if err != nil && mayPass(err) {
		s.o.Logger.Warn("style jobs: those that were left are taken up later", "error", err)
		err = nil
	}
	return s, err
}
