package sqlite

import (
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
)

// errClosed is what calls get once Close was called.
var errClosed = face.Errorf(face.Unavailable, "", "the store is closed")

// wrap turns what a method met into a [face.Error] of that method.
func (d *database) wrap(op string, err error) error {
	return face.WrapDiagnosed("sqlite."+op, err, func(err error) (face.Kind, string) {
		kind, detail := sqlitedb.Diagnose(err)
		if detail == "" && d.isClosed() {
			return errClosed.Kind, errClosed.Detail
		}
		return kind, detail
	})
}

// result is what a method returns: a value, or an error alone.
func result[T any](d *database, op string, v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, d.wrap(op, err)
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
