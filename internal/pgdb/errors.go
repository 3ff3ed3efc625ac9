package pgdb

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/likeness-id/likeness/pkg/face"
)

// SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	UniqueViolation     = "23505"
	ForeignKeyViolation = "23503"
	UndefinedTable      = "42P01"

	readOnly             = "25006" // of a primary that has become a standby
	serializationFailure = "40001"
	deadlock             = "40P01"
	diskFull             = "53100"
	tooManyConnections   = "53300"
	lockTimeout          = "55P03"

	// How CREATE EXTENSION fails.
	insufficientPrivilege = "42501"
	featureNotSupported   = "0A000"
	undefinedFile         = "58P01"
)

// stateOf is the SQLSTATE of an error of the database; empty if it is another.
func stateOf(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// HasState reports whether the database refused with one of the SQLSTATEs.
func HasState(err error, states ...string) bool {
	state := stateOf(err)
	return state != "" && slices.Contains(states, state)
}

// hasClass is HasState for the first characters of SQLSTATEs.
func hasClass(err error, classes ...string) bool {
	state := stateOf(err)
	return state != "" && slices.ContainsFunc(classes, func(class string) bool { return strings.HasPrefix(state, class) })
}

// Diagnose returns the kind of an error of the database, and what to tell a
// caller. Unavailable and StorageFull are a state of the database, which an
// operator can end. The detail is empty where a caller can do nothing about it.
func Diagnose(err error) (kind face.Kind, detail string) {
	_, doubt := errors.AsType[InDoubt](err)
	switch {
	case doubt:
		return face.Unavailable, "the database was lost in the middle of a commit: whether it was carried out is not known"
	case HasState(err, diskFull):
		return face.StorageFull, "the storage is full"
	case HasState(err, lockTimeout):
		return face.Unavailable, "the storage is busy"
	case HasState(err, readOnly):
		return face.Unavailable, "the database takes no writes"
	case HasState(err, serializationFailure, deadlock, UniqueViolation, ForeignKeyViolation):
		return face.Unavailable, "others changed the same at the same moment"
	case hasClass(err, "XX00"):
		return face.Internal, "the stored data is damaged"
	case IsLost(err):
		return face.Unavailable, "the database cannot be reached"
	case hasClass(err, "25", "40", "53", "55", "57", "58"):
		return face.Unavailable, "the database reports a fault"
	}
	return face.Internal, ""
}

// IsLost reports whether the connection, or the server behind it, is gone.
func IsLost(err error) bool {
	if stateOf(err) != "" {
		return HasState(err, tooManyConnections, readOnly) ||
			hasClass(err, "08", "57P") // connection exception; shutting down, starting up
	}
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	return connect || network && !errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err) || err != nil && strings.Contains(err.Error(), "conn closed")
}

// IsTransient reports whether the same call may succeed in a moment.
func IsTransient(err error) bool {
	if HasState(err, UniqueViolation, ForeignKeyViolation, serializationFailure, deadlock) {
		return true
	}
	if _, ok := errors.AsType[*face.Error](err); ok {
		return false
	}
	return IsLost(err)
}
