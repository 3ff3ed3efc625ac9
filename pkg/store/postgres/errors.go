package postgres

import (
	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
)

// errClosed is what calls get once Close was called.
var errClosed = face.Errorf(face.Unavailable, "", "the store is closed")

// wrap turns what a method met into a [face.Error] of that method.
func wrap(op string, err error) error {
	return face.WrapDiagnosed("postgres."+op, err, pgdb.Diagnose)
}

// result is what a method returns: a value, or an error alone.
func result[T any](v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return v, nil
}
