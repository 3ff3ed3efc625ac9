package sqlitedb

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/pkg/face"
)

// Diagnose returns the kind of an error of SQLite or of its file, and what to
// tell a caller. The detail is empty where a caller can do nothing about it.
func Diagnose(err error) (kind face.Kind, detail string) {
	if IsFull(err) {
		return face.StorageFull, "the storage is full"
	}
	switch primaryCode(err) {
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return face.Unavailable, "the storage cannot be written to"
	case sqlite3.SQLITE_IOERR:
		return face.Unavailable, "the storage reports a fault"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return face.Unavailable, "the storage is busy"
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return face.Internal, "the stored data is damaged"
	}
	return face.Internal, ""
}

// primaryCode is the result code of SQLite without what extends it; 0 if the
// error is not SQLite's.
func primaryCode(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// IsFull reports whether there is no room: in the file, or for the memory that
// the connections of a log share.
func IsFull(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ballast.IsFull(err) || ok && (e.Code() == sqlite3.SQLITE_FULL || e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE)
}

// IsBusy reports whether another connection has the lock.
func IsBusy(err error) bool { return primaryCode(err) == sqlite3.SQLITE_BUSY }

// IsDamaged reports whether the file is no database any more.
func IsDamaged(err error) bool {
	code := primaryCode(err)
	return code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB
}

// IsNotWritable reports whether the file system refuses to be written to.
func IsNotWritable(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
}
