package jobs

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
)

// database is either of the two. The queries are the same for both, but for
// what a dialect says.
type database interface {
	querier
	// transact runs work in one transaction.
	transact(ctx context.Context, work func(querier) error) error
	// urgent is transact for what erases, which goes on when the disk is full.
	// work may run twice.
	urgent(ctx context.Context, work func(querier) error) error
	dialect() dialect
	// listen calls wake when another server has a job to be begun, until ctx
	// ends, and lost when it could not listen for a while.
	listen(ctx context.Context, wake func(), lost func(error))
	// tidy removes what is left in the files of what was erased.
	tidy(ctx context.Context) error
	close() error
}

// querier is a database or a transaction of it.
type querier interface {
	exec(ctx context.Context, query string, args ...any) (int, error)
	each(ctx context.Context, scan func(scanner) error, query string, args ...any) error
}

type scanner interface{ Scan(dest ...any) error }

// dialect is where the databases differ. Queries say {now}, {for update} and
// {skip locked}.
type dialect struct {
	now        string // microseconds since 1970, by the database's own clock
	forUpdate  string
	skipLocked string // for update, but for what others are changing
	lock       string // a statement: one transaction at a time counts jobs, until its commit
	notify     string // a statement that tells other servers of a job, at the commit
}

// scanFirst scans the first row, if there is any.
func scanFirst(ctx context.Context, q querier, dest []any, query string, args ...any) (found bool, err error) {
	err = q.each(ctx, func(row scanner) error {
		if found {
			return nil
		}
		found = true
		return row.Scan(dest...)
	}, query, args...)
	return found, err
}

// postgresDB is a pool of Postgres.
type postgresDB struct {
	pgQuerier
	pool *pgxpool.Pool
}

func (d postgresDB) dialect() dialect {
	return dialect{
		now:       "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
		forUpdate: "FOR UPDATE", skipLocked: "FOR UPDATE SKIP LOCKED",
		lock:   "SELECT pg_advisory_xact_lock(7815264303311284)",
		notify: "SELECT pg_notify('" + channel + "', '')",
	}
}

func (d postgresDB) listen(ctx context.Context, wake func(), lost func(error)) {
	pgdb.Listen(ctx, d.pool, channel, func(string) { wake() }, lost)
}

func (d postgresDB) transact(ctx context.Context, work func(querier) error) error {
	return pgx.BeginFunc(ctx, d.pool, func(tx pgx.Tx) error { return work(pgQuerier{tx}) })
}

// urgent is transact: the room of a Postgres is for its operator to look after.
func (d postgresDB) urgent(ctx context.Context, work func(querier) error) error {
	return d.transact(ctx, work)
}

// tidy leaves it to the vacuum.
func (d postgresDB) tidy(context.Context) error { return nil }

func (d postgresDB) close() error {
	d.pool.Close()
	return nil
}

type pgQuerier struct {
	q interface {
		Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
		Query(ctx context.Context, query string, args ...any) (pgx.Rows, error)
	}
}

func (p pgQuerier) exec(ctx context.Context, query string, args ...any) (int, error) {
	tag, err := p.q.Exec(ctx, numbered(query), args...)
	return int(tag.RowsAffected()), err
}

func (p pgQuerier) each(ctx context.Context, scan func(scanner) error, query string, args ...any) error {
	rows, err := p.q.Query(ctx, numbered(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// numbered writes the parameters as Postgres wants them.
func numbered(query string) string {
	var b strings.Builder
	for n := 1; ; n++ {
		before, after, ok := strings.Cut(query, "?")
		b.WriteString(before)
		if !ok {
			return b.String()
		}
		b.WriteString("$" + strconv.Itoa(n))
		query = after
	}
}

// sqliteDB is a file with one connection.
type sqliteDB struct {
	sqlQuerier
	db   *sql.DB
	room *ballast.File
}

func (d sqliteDB) dialect() dialect {
	return dialect{now: "CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER)"}
}

// listen does nothing: no other process has the file open.
func (d sqliteDB) listen(context.Context, func(), func(error)) {}

func (d sqliteDB) transact(ctx context.Context, work func(querier) error) error {
	if err := d.room.Keep(); err != nil {
		return err
	}
	return d.commit(ctx, work)
}

func (d sqliteDB) urgent(ctx context.Context, work func(querier) error) error {
	err := d.commit(ctx, work)
	if !sqlitedb.IsFull(err) {
		return err
	}
	return d.room.Without(func(rest func() error) error {
		err := d.commit(ctx, work)
		if more := rest(); more != nil {
			return errors.Join(err, more)
		}
		_ = d.tidy(ctx) // it makes room; what it cannot do now is done by and by
		return err
	})
}

func (d sqliteDB) commit(ctx context.Context, work func(querier) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(sqlQuerier{tx}); err != nil {
		if end := tx.Rollback(); !sqlitedb.IsFull(err) { // a full disk has rolled back already
			err = errors.Join(err, end)
		}
		return err
	}
	return tx.Commit()
}

// tidy empties the log, in which pictures would stay until it is written over.
// Whoever reads the file stands in the way, and is not waited for.
func (d sqliteDB) tidy(ctx context.Context) (err error) {
	conn, err := d.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	busy, _, _, err := sqlitedb.Checkpoint(ctx, conn)
	if busy {
		err = errors.Join(err, errors.New("somebody reads the file"))
	}
	return err
}

func (d sqliteDB) close() error { return d.db.Close() }

type sqlQuerier struct {
	q interface {
		ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
		QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	}
}

func (s sqlQuerier) exec(ctx context.Context, query string, args ...any) (int, error) {
	r, err := s.q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	n, err := r.RowsAffected()
	return int(n), err
}

func (s sqlQuerier) each(ctx context.Context, scan func(scanner) error, query string, args ...any) error {
	rows, err := s.q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// wrap turns what the database said into a [face.Error]: Unavailable where the
// same call may succeed later.
func wrap(op string, err error) error { return face.WrapDiagnosed("jobs."+op, err, diagnose) }

func diagnose(err error) (face.Kind, string) {
	switch {
	case errors.Is(err, sqlitedb.ErrLocked):
		return face.Unavailable, "another process has the jobs open"
	case sqlitedb.IsDamaged(err):
		return face.Unavailable, "the storage of the jobs is damaged"
	case errors.Is(err, sql.ErrConnDone):
		return face.Unavailable, "the database cannot be reached"
	}
	if kind, detail := sqlitedb.Diagnose(err); kind != face.Internal {
		return kind, detail
	}
	return pgdb.Diagnose(err)
}

// mayPass reports whether an error is one that time, or an operator, may end.
func mayPass(err error) bool {
	kind := face.KindOf(wrap("", err))
	return (kind == face.Unavailable || kind == face.StorageFull) && !sqlitedb.IsDamaged(err)
}
