package pgdb_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestDiagnose(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return fmt.Errorf("query: %w", &pgconn.PgError{Code: code}) }
	for _, tt := range []struct {
		name            string
		err             error
		kind            face.Kind
		detail          string
		lost, transient bool
	}{
		{"something else", errors.New("something else"), face.Internal, "", false, false},
		{"undefined table", state(pgdb.UndefinedTable), face.Internal, "", false, false},
		{"disk full", state("53100"), face.StorageFull, "the storage is full", false, false},
		{"lock timeout", state("55P03"), face.Unavailable, "the storage is busy", false, false},
		{"standby", state("25006"), face.Unavailable, "the database takes no writes", true, true},
		{"serialization", state("40001"), face.Unavailable, "others changed the same at the same moment", false, true},
		{"deadlock", state("40P01"), face.Unavailable, "others changed the same at the same moment", false, true},
		{"unique", state(pgdb.UniqueViolation), face.Unavailable, "others changed the same at the same moment", false, true},
		{"corrupted", state("XX001"), face.Internal, "the stored data is damaged", false, false},
		{"shutting down", state("57P01"), face.Unavailable, "the database cannot be reached", true, true},
		{"too many", state("53300"), face.Unavailable, "the database cannot be reached", true, true},
		{"out of memory", state("53200"), face.Unavailable, "the database reports a fault", false, false},
		{"idle in transaction", state("25P03"), face.Unavailable, "the database reports a fault", false, false},
		{"cut off", fmt.Errorf("read: %w", io.ErrUnexpectedEOF), face.Unavailable, "the database cannot be reached", true, true},
		{"in doubt", pgdb.InDoubt{Err: io.EOF}, face.Unavailable, "the database was lost in the middle of a commit: whether it was carried out is not known", true, true},
		{"ours", face.Errorf(face.NotFound, "", "not there"), face.Internal, "", false, false},
		{"deadline", context.DeadlineExceeded, face.Internal, "", false, false},
	} {
		if kind, detail := pgdb.Diagnose(tt.err); kind != tt.kind || detail != tt.detail {
			t.Errorf("%s: %v, %q, want %v, %q", tt.name, kind, detail, tt.kind, tt.detail)
		}
		if lost, transient := pgdb.IsLost(tt.err), pgdb.IsTransient(tt.err); lost != tt.lost || transient != tt.transient {
			t.Errorf("%s: lost %t, transient %t, want %t, %t", tt.name, lost, transient, tt.lost, tt.transient)
		}
	}
}
