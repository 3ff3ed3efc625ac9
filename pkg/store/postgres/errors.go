package postgres

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/likeness-id/likeness/pkg/face"
)

// errClosed is what calls get once Close was called.
var errClosed = face.Errorf(face.Unavailable, "", "the store is closed")

// The SQLSTATEs that are told apart.
const (
	stateUnique      = "23505"
	stateForeignKey  = "23503"
	stateReadOnly    = "25006" // of a primary that has become a standby
	stateSerialize   = "40001"
	stateDeadlock    = "40P01"
	stateDiskFull    = "53100"
	stateLockTimeout = "55P03"
	stateNoSchema    = "42P01" // undefined table
)

// fault turns what a method met into a [face.Error] of that method.
func fault(op string, err error) error {
	if err == nil {
		return nil
	}
	op = "postgres." + op
	if known, ok := errors.AsType[*face.Error](err); ok {
		e := *known // errClosed is shared
		e.Op = op
		return &e
	}
	kind, detail := diagnose(err)
	e := face.Wrap(kind, op, err)
	if wrapped, ok := errors.AsType[*face.Error](e); ok && wrapped.Kind == kind {
		wrapped.Detail = detail
	}
	return e
}

// diagnose says which errors are a state of the database, that an operator can
// end, and how to name it to a caller.
func diagnose(err error) (face.Kind, string) {
	if _, ok := errors.AsType[inDoubt](err); ok {
		return face.Unavailable, "the database was lost in the middle of a commit: whether it was carried out is not known"
	}
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case e.Code == stateDiskFull:
			return face.StorageFull, "the storage is full"
		case e.Code == stateLockTimeout:
			return face.Unavailable, "the storage is busy"
		case e.Code == stateReadOnly:
			return face.Unavailable, "the database takes no writes"
		case e.Code == stateSerialize, e.Code == stateDeadlock, e.Code == stateUnique, e.Code == stateForeignKey:
			return face.Unavailable, "others changed the same at the same moment"
		case strings.HasPrefix(e.Code, "XX00"):
			return face.Internal, "the stored data is damaged"
		case IsLost(err):
			return face.Unavailable, "the database cannot be reached"
		case strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "58"):
			return face.Unavailable, "the database reports a fault"
		}
		return face.Internal, ""
	}
	if IsLost(err) {
		return face.Unavailable, "the database cannot be reached"
	}
	return face.Internal, ""
}

// IsLost reports whether the connection, or the server behind it, is gone.
func IsLost(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case strings.HasPrefix(e.Code, "08"), // connection exception
			strings.HasPrefix(e.Code, "57P"), // shutting down, starting up
			e.Code == "53300",                // too many connections
			e.Code == stateReadOnly:
			return true
		}
		return false
	}
	_, connect := errors.AsType[*pgconn.ConnectError](err)
	_, network := errors.AsType[net.Error](err)
	return connect || network && !errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		pgconn.SafeToRetry(err) || strings.Contains(err.Error(), "conn closed")
}

// transient reports whether the same call may succeed in a moment.
func transient(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case stateUnique, stateForeignKey, stateSerialize, stateDeadlock:
			return true
		}
	}
	if _, ok := errors.AsType[*face.Error](err); ok {
		return false
	}
	return IsLost(err)
}

// isCode reports whether the database refused with the given SQLSTATE.
func isCode(err error, code string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == code
}

// value is what a method returns: a value, or an error alone.
func value[T any](v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}
