// Package sqlite is the embedded store, for one server on one machine. Everything
// is in one SQLite file, and an index in memory answers searches. The package
// also makes backups, restores them, and checks a store for damage.
//
// One connection writes. Changes that wait at the same moment share one commit,
// each within a savepoint. They are answered when the commit is on the disk and
// the index knows about it. Reads run beside it on snapshots. The index is read
// from the file at each start, in the background, so nothing in memory has to be
// saved.
package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

var (
	_ store.Store = (*Store)(nil)
	_ store.Keys  = (*Keys)(nil)
	_ store.Audit = (*Audit)(nil)
)

// Options of a store.
type Options struct {
	// Path of the database file. It and its folder are made when they are not
	// there, for their owner alone. Beside it lie SQLite's -wal and -shm, and
	// two files that are only locked, .lock and .setup.
	Path string
	// Logger gets what an operator should know. Nil discards it.
	Logger *slog.Logger
	// Ballast is room that is kept free for erasing. Where the disk has less,
	// everything that can wait is StorageFull. Nil: none is kept.
	Ballast *ballast.File
}

// DefaultOptions are the options that zero fields stand for: a logger that
// discards, and no ballast. The path has no default.
func DefaultOptions() Options { return Options{Logger: slog.New(slog.DiscardHandler)} }

// Store is a [store.Store] in one file, for one process.
type Store struct {
	db *database // the one of the two that follow
	Keys
	Audit
	index   *index.Index
	lock    *sqlitedb.Lock
	loading loading
	damaged *store.Damaged
	claims  claims

	closeOnce sync.Once
	closeErr  error
}

// Open opens the store, makes it when there is none, and brings an older
// schema up to date. It returns before the index is loaded: see
// [Store.AwaitReady]. Unavailable: another process has the store open, or the
// file cannot be written; the cause says which. Internal: the file is damaged,
// of another program, or of a newer version.
func Open(ctx context.Context, o Options) (*Store, error) {
	path, err := absolutePath(o.Path)
	if err != nil {
		return nil, wrapFile("Open", o.Path, err)
	}
	o.Logger = cmp.Or(o.Logger, DefaultOptions().Logger)
	s, err := openStore(ctx, path, o)
	if sqlitedb.IsFull(err) { // what is on the disk can be searched and erased all the same
		err = o.Ballast.Without(func(func() error) (err error) {
			s, err = openStore(ctx, path, o)
			return err
		})
	}
	if err != nil {
		return nil, wrapFile("Open", path, err)
	}
	_ = o.Ballast.Keep() // the first write reports the error
	return s, nil
}

func openStore(ctx context.Context, path string, o Options) (*Store, error) {
	lock, err := prepare(ctx, path, true)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, path, o.Ballast, o.Logger)
	if err != nil {
		return nil, errors.Join(err, lock.Release())
	}
	s := &Store{db: db, Keys: Keys{db}, Audit: Audit{db}, index: index.New(index.Options{}), lock: lock, damaged: store.NewDamaged(o.Logger)}
	if err := s.startLoading(ctx); err != nil {
		return nil, errors.Join(err, db.close(), lock.Release())
	}
	return s, nil
}

// Close waits for writes under way, ends loading, and gives the file and its
// lock back. The file alone is everything then; where another process keeps
// that from being so, the error says which file belongs to it.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.loading.cancel()
		<-s.loading.done
		s.closeErr = errors.Join(s.db.close(), s.db.left, s.lock.Release())
	})
	return face.Wrap(face.Internal, "sqlite.Close", s.closeErr)
}

// absolutePath is the path whatever becomes of the working directory.
func absolutePath(path string) (string, error) {
	if path == "" {
		return "", errors.New("no path of a database file")
	}
	return filepath.Abs(path)
}

// wrapFile says what is wrong with a file. The path is in the cause.
func wrapFile(op, path string, err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", path, err)
	}
	return face.WrapDiagnosed("sqlite."+op, err, func(err error) (face.Kind, string) {
		switch {
		case errors.Is(err, sqlitedb.ErrLocked):
			return face.Unavailable, "another process has the store open"
		case errors.Is(err, errRestoring):
			return face.Unavailable, errRestoring.Error()
		case sqlitedb.IsNotWritable(err):
			return face.Unavailable, "the storage cannot be written to"
		}
		return sqlitedb.Diagnose(err)
	})
}
