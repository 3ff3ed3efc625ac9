package sqlite

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/pkg/face"
)

// errClosed is what calls get once Close was called.
var errClosed = face.Errorf(face.Unavailable, "", "the store is closed")

// errDamaged is the detail of an error that a damaged page made.
const errDamaged = "the stored data is damaged"

// fault turns what a method met into a [face.Error] of that method.
func (d *database) fault(op string, err error) error {
	if err == nil {
		return nil
	}
	op = "sqlite." + op
	if known, ok := errors.AsType[*face.Error](err); ok {
		e := *known // errClosed is shared
		e.Op = op
		return &e
	}
	kind, detail := diagnose(err)
	if detail == "" && d.isClosed() {
		return face.Errorf(face.Unavailable, op, "%s", errClosed.Detail)
	}
	e := face.Wrap(kind, op, err)
	if wrapped, ok := errors.AsType[*face.Error](e); ok {
		wrapped.Detail = detail
	}
	return e
}

// answer is what a method returns: a value, or an error alone.
func answer[T any](d *database, op string, v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, d.fault(op, err)
	}
	return v, nil
}

func (d *database) isClosed() bool {
	select {
	case <-d.closing:
		return true
	default:
		return false
	}
}

// diagnose says which errors of SQLite are a state of the machine, that an
// operator can end, and how to name it to a caller.
func diagnose(err error) (face.Kind, string) {
	if isFull(err) {
		return face.StorageFull, "the storage is full"
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return face.Internal, ""
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return face.Unavailable, "the storage cannot be written to"
	case sqlite3.SQLITE_IOERR:
		return face.Unavailable, "the storage reports a fault"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return face.Unavailable, "the storage is busy"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return face.Internal, errDamaged
	}
	return face.Internal, ""
}

// isFull reports whether there is no room: in the file, or for the memory that
// the connections of a log share.
func isFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ballast.IsFull(err) || ok && (e.Code() == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}

// isBusy reports whether another connection has what was asked for.
func isBusy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_BUSY
}

// isNotWritable reports whether the file system refuses to be written to.
func isNotWritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}
