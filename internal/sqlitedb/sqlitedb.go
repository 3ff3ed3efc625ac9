// Package sqlitedb is what every SQLite file of this program needs: it opens
// and locks the file, brings its schema up to date, copies it, and says what an
// error of SQLite means.
package sqlitedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
)

// busyTimeout is how long a statement waits for another process that writes:
// the key tool, or somebody's sqlite3 shell.
const busyTimeout = 5 * time.Second

// writePatience is how long [BeginBetweenWriters] waits for its turn to write.
const writePatience = time.Minute

// WritePragmas are the pragmas of a connection whose commits survive a loss of
// power and whose erased rows are overwritten, followed by more.
func WritePragmas(more ...string) []string {
	return append([]string{
		fmt.Sprintf("busy_timeout = %d", busyTimeout.Milliseconds()),
		"foreign_keys = ON",
		"synchronous = FULL",   // a commit survives the power, not only the process
		"secure_delete = ON",   // erased rows are overwritten
		"cell_size_check = ON", // a damaged page is an error rather than nonsense
		"temp_store = MEMORY",  // where savepoints keep the pages as they were
		"journal_size_limit = 67108864",
	}, more...)
}

// ReadPragmas are the pragmas of a connection that only reads.
func ReadPragmas() []string {
	return []string{
		fmt.Sprintf("busy_timeout = %d", busyTimeout.Milliseconds()),
		"query_only = ON",
		"cell_size_check = ON",
	}
}

// Open makes a pool of connections to the file at path. Each connection gets
// the pragmas; parameters are those of the driver's URL, such as "mode=ro".
// Nothing is opened before the first use.
func Open(path string, pragmas []string, parameters ...string) (*sql.DB, error) {
	return sql.Open("sqlite", fileURL(path, pragmas, parameters...))
}

func fileURL(path string, pragmas []string, parameters ...string) string {
	u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"_pragma": pragmas}.Encode()}
	for _, p := range parameters {
		u.RawQuery += "&" + p
	}
	return u.String()
}

// CreateFile makes an empty file for its owner alone, where there is none.
// SQLite would make it readable for everybody that the umask allows.
func CreateFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return f.Close()
}

// Migrate applies the migrations that the database lacks: the SQL files, and
// those that are code, by their number. Before it changes anything it calls
// check with the version that the database has and the newest that is known;
// an error of check is returned as it is.
func Migrate(ctx context.Context, db *sql.DB, files fs.FS, code map[int64]func(context.Context, *sql.Tx) error, check func(have, want int64) error) error {
	var inCode []*goose.Migration
	for version, run := range code {
		inCode = append(inCode, goose.NewGoMigration(version, &goose.GoFunc{RunTx: run}, nil))
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithGoMigrations(inCode...),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	have, want, err := p.GetVersions(ctx)
	if err != nil || have == want {
		return err
	}
	if err := check(have, want); err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// BeginBetweenWriters begins a transaction that writes. SQLite keeps no queue:
// it asks for the lock every 100 ms, and beside a server that writes all the
// time it hardly ever asks in the moment between two transactions. So this
// asks every millisecond, for a minute. The connection does not wait for
// others any more afterwards.
func BeginBetweenWriters(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout = 0"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, writePatience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		if !IsBusy(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// Checkpoint moves the write-ahead log into the file and empties it. Who reads
// the log is not waited for. It returns whether somebody kept the log from
// being emptied, how many frames the log had (less than 0: there is no log), and
// how many of them are in the file now.
func Checkpoint(ctx context.Context, conn *sql.Conn) (busy bool, frames, moved int, err error) {
	if _, err := conn.ExecContext(ctx, "PRAGMA busy_timeout = 0"); err != nil {
		return false, 0, 0, err
	}
	err = conn.QueryRowContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)").Scan(&busy, &frames, &moved)
	_, reset := conn.ExecContext(context.WithoutCancel(ctx), fmt.Sprintf("PRAGMA busy_timeout = %d", busyTimeout.Milliseconds()))
	return busy, frames, moved, errors.Join(err, reset)
}

// Copy writes the database as conn sees it to the file at path, which must be
// empty. It calls progress with the copied share, from 0 to 1. The copy is not
// synced to the disk.
func Copy(ctx context.Context, conn *sql.Conn, path string, progress func(share float64)) error {
	return conn.Raw(func(c any) (err error) {
		source, ok := c.(interface {
			NewBackup(to string) (*sqlite.Backup, error)
		})
		if !ok {
			return errors.New("the driver makes no backups")
		}
		b, err := source.NewBackup(fileURL(path, []string{"synchronous = OFF", "journal_mode = OFF"}))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Finish()) }()
		const pages = 256 // at a time
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			if more, err = b.Step(pages); err != nil {
				return err
			}
			if n := b.PageCount(); n > 0 {
				progress(float64(n-b.Remaining()) / float64(n))
			}
		}
		return nil
	})
}
