package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Files are the databases of an embedded store.
type Files struct {
	Store string // path
	Jobs  string // path of the style-transfer jobs, which need not be there
}

// The files of a backup.
const (
	backupStore    = "likeness.db"
	backupJobs     = "jobs.db"
	backupManifest = "backup.json"
)

// Manifest is what a backup says of itself.
type Manifest struct {
	MadeAt time.Time               `json:"made_at"` // when the databases were as they are in it
	Files  map[string]ManifestFile `json:"files"`
	Audit  struct {                // the end of the chain
		Records int64  `json:"records"`
		Last    string `json:"last_hash"` // hex; empty without records
	} `json:"audit"`
}

// ManifestFile is a file of a backup.
type ManifestFile struct {
	Bytes  int64            `json:"bytes"`
	SHA256 string           `json:"sha256"`
	Rows   map[string]int64 `json:"rows"` // by table
}

// BackupOptions say what is copied where. What is left zero is the default;
// the store and To have none.
type BackupOptions struct {
	Files
	// To is the folder of the backup, which is made, for its owner alone.
	To string
	// Overwrite replaces a backup that is there, once its successor is whole.
	// It replaces no other folder, and not that of the databases.
	Overwrite bool
	// Progress, if not nil, hears how many bytes of how many are copied.
	Progress func(done, total int64)
}

// Backup copies the databases as they are at one moment, beside a server too:
// all that was acknowledged before it is in the copy, and what was erased
// before it is nowhere in its bytes. It reads the copy back before it gives it
// its name. What an erasure leaves is kept in the log while it copies.
// NotFound: there is no store. Conflict: To is there, and Overwrite is not set or
// may not replace it.
func Backup(ctx context.Context, o BackupOptions) (_ Manifest, err error) {
	const op = "Backup"
	m, err := backup(ctx, o)
	return m, wrapFile(op, o.Store, err)
}

func backup(ctx context.Context, o BackupOptions) (m Manifest, err error) {
	to, err := filepath.Abs(o.To)
	if err != nil {
		return m, err
	}
	if _, err := os.Stat(o.Store); errors.Is(err, fs.ErrNotExist) {
		return m, &face.Error{Kind: face.NotFound, Detail: "there is no store to back up", Err: err}
	}
	if info, err := os.Lstat(to); err == nil {
		if !o.Overwrite {
			return m, face.Errorf(face.Conflict, "", "%s is there already", to)
		}
		if err := o.mayReplace(to, info); err != nil {
			return m, err
		}
	}
	// A folder beside its last place, so that it gets its name at once.
	part, err := os.MkdirTemp(filepath.Dir(to), "."+filepath.Base(to)+".part-")
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(part)) }() // gone by then where all went well

	if m, err = copyAll(ctx, o, part); err != nil {
		return m, err
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err == nil {
		err = writeFile(filepath.Join(part, backupManifest), append(text, '\n'))
	}
	if err == nil {
		err = syncFolder(part)
	}
	if err != nil {
		return m, err
	}
	old := part + "-old"
	replaced := o.Overwrite && os.Rename(to, old) == nil
	if err := os.Rename(part, to); err != nil {
		if replaced {
			err = errors.Join(err, os.Rename(old, to))
		}
		return m, err
	}
	if err := syncFolder(filepath.Dir(to)); err != nil {
		return m, err
	}
	return m, os.RemoveAll(old)
}

// mayReplace refuses to replace what is no backup, and where the databases are:
// what is replaced is removed with all that is in it.
func (o BackupOptions) mayReplace(to string, info fs.FileInfo) error {
	if !info.IsDir() {
		return face.Errorf(face.Conflict, "", "%s is no folder, so no backup: it is not replaced", to)
	}
	entries, err := os.ReadDir(to)
	if err != nil {
		return err
	}
	whole := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !slices.Contains([]string{backupStore, backupJobs, backupManifest}, e.Name()) {
			return face.Errorf(face.Conflict, "", "%s holds %s, which is not of a backup: it is not replaced", to, e.Name())
		}
		whole = whole || e.Name() == backupManifest
	}
	if !whole {
		return face.Errorf(face.Conflict, "", "%s holds no %s, so it is no backup: it is not replaced", to, backupManifest)
	}
	// It holds no folders, so no database is deeper in it.
	for _, path := range []string{o.Store, o.Jobs} {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if dir, err := os.Stat(filepath.Dir(path)); err == nil && path != "" && os.SameFile(dir, info) {
			return face.Errorf(face.Conflict, "", "%s is the folder of the store itself: it is not replaced", to)
		}
	}
	return nil
}

// copyAll copies the databases into a folder and checks what is there then.
func copyAll(ctx context.Context, o BackupOptions, dir string) (m Manifest, err error) {
	sources := []*source{{path: o.Store, name: backupStore, scrub: true}}
	if _, err := os.Stat(o.Jobs); err == nil {
		sources = append(sources, &source{path: o.Jobs, name: backupJobs})
	}
	defer func() {
		for _, s := range sources {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	if m.MadeAt, err = freeze(ctx, sources); err != nil {
		return m, err
	}
	var total, done int64
	for _, s := range sources {
		total += s.bytes
	}
	m.Files = map[string]ManifestFile{}
	for _, s := range sources {
		path := filepath.Join(dir, s.name)
		err := s.copy(ctx, path, func(n int64) {
			if o.Progress != nil {
				o.Progress(done+n, total)
			}
		})
		if err != nil {
			return m, fmt.Errorf("copy %s: %w", s.path, err)
		}
		done += s.bytes
		f, err := describe(ctx, path)
		if err == nil && !maps.Equal(f.Rows, s.rows) {
			err = fmt.Errorf("the copy has rows %v, the database had %v", f.Rows, s.rows)
		}
		if err != nil {
			return m, fmt.Errorf("read back %s: %w", s.name, err)
		}
		m.Files[s.name] = f
	}
	chain, err := auditOf(ctx, filepath.Join(dir, backupStore))
	m.Audit.Records, m.Audit.Last = chain.Seq, hex.EncodeToString(chain.Hash)
	return m, err
}

// source is a database that is copied.
type source struct {
	path, name string
	scrub      bool // what SQLite leaves in unused space

	db    *sql.DB
	locks *sql.Conn
	reads *sql.Conn // on the snapshot
	bytes int64
	rows  map[string]int64
}

// freeze opens a snapshot of each database, all of the same moment: nobody
// can write to any of them while the snapshots begin.
func freeze(ctx context.Context, sources []*source) (at time.Time, err error) {
	for _, s := range sources {
		if s.db, err = openWriter(s.path); err != nil {
			return at, err
		}
		if s.locks, err = s.db.Conn(ctx); err == nil {
			s.reads, err = s.db.Conn(ctx)
		}
		if err == nil {
			err = sqlitedb.BeginBetweenWriters(ctx, s.locks)
		}
		if err != nil {
			return at, fmt.Errorf("open %s: %w", s.path, err)
		}
	}
	at = time.Now().UTC()
	for _, s := range sources {
		var tables int
		if _, err = s.reads.ExecContext(ctx, "BEGIN"); err == nil {
			err = s.reads.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_schema").Scan(&tables)
		}
		if err != nil {
			return at, fmt.Errorf("read %s: %w", s.path, err)
		}
	}
	for _, s := range sources {
		if _, err := s.locks.ExecContext(ctx, "ROLLBACK"); err != nil {
			return at, err
		}
	}
	for _, s := range sources {
		if s.rows, err = countRows(ctx, s.reads); err != nil {
			return at, err
		}
		if err := s.reads.QueryRowContext(ctx, "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").Scan(&s.bytes); err != nil {
			return at, err
		}
	}
	return at, nil
}

// copy writes the snapshot to a new file.
func (s *source) copy(ctx context.Context, path string, progress func(int64)) error {
	if err := writeFile(path, nil); err != nil { // SQLite would make it readable for others
		return err
	}
	err := sqlitedb.Copy(ctx, s.reads, path, func(share float64) { progress(int64(share * float64(s.bytes))) })
	if err == nil && s.scrub {
		err = scrubFile(path)
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// close gives the database back. Where no server has it, this is the last
// connection, which moves the log into the file.
func (s *source) close(ctx context.Context) (err error) {
	if s.db == nil {
		return nil
	}
	if s.reads != nil {
		_, _ = s.reads.ExecContext(context.WithoutCancel(ctx), "ROLLBACK") // there may be nothing to end
		err = errors.Join(err, s.reads.Close())
	}
	if s.locks != nil {
		_, _ = s.locks.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		if s.scrub {
			// A server that is busy with the file scrubs it itself.
			if err2 := (&scrubber{}).scrub(context.WithoutCancel(ctx), s.locks, s.path+"-wal"); !sqlitedb.IsBusy(err2) {
				err = errors.Join(err, err2)
			}
		}
		err = errors.Join(err, s.locks.Close())
	}
	return errors.Join(err, s.db.Close())
}

// scrubFile zeroes the unused space of the pages of a file that is not open.
func scrubFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	page := make([]byte, pageSize)
	for at := int64(pageSize); ; at += pageSize { // the first page is the schema's
		if _, err := f.ReadAt(page, at); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if scrubPage(page) {
			if _, err := f.WriteAt(page, at); err != nil {
				return err
			}
		}
	}
}

// countRows counts the rows of each table.
func countRows(ctx context.Context, conn *sql.Conn) (rows map[string]int64, err error) {
	names, err := queryColumn(ctx, conn, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
	rows = map[string]int64{}
	for _, name := range names {
		var n int64
		if err := conn.QueryRowContext(ctx, `SELECT count(*) FROM "`+name+`"`).Scan(&n); err != nil { //nolint:gosec // a name of the schema
			return nil, err
		}
		rows[name] = n
	}
	return rows, err
}

// queryColumn is what a query of one column of text gives.
func queryColumn(ctx context.Context, conn *sql.Conn, query string) (all []string, err error) {
	rows, err := conn.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		all = append(all, text)
	}
	return all, rows.Err()
}

// describe checks a file, which must not change, and says what is in it.
func describe(ctx context.Context, path string) (m ManifestFile, err error) {
	err = readOnly(ctx, path, func(conn *sql.Conn) error {
		faults, err := queryColumn(ctx, conn, "PRAGMA integrity_check")
		if err == nil && !slices.Equal(faults, []string{"ok"}) {
			err = fmt.Errorf("the integrity check finds %q", faults)
		}
		if err == nil {
			m.Rows, err = countRows(ctx, conn)
		}
		return err
	})
	if err != nil {
		return m, err
	}
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	h := sha256.New()
	m.Bytes, err = io.Copy(h, f)
	m.SHA256 = hex.EncodeToString(h.Sum(nil))
	return m, err
}

// readOnly opens a file, which must not change, so that SQLite makes no file
// beside it.
func readOnly(ctx context.Context, path string, read func(*sql.Conn) error) (err error) {
	db, err := sqlitedb.Open(path, nil, "immutable=1")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return read(conn)
}

// auditOf checks the audit chain of a file, which must not change.
func auditOf(ctx context.Context, path string) (chain store.AuditChain, err error) {
	err = readOnly(ctx, path, func(conn *sql.Conn) error { return eachAudit(ctx, conn, chain.Next) })
	return chain, err
}

// eachAudit reads the records of the audit chain in order.
func eachAudit(ctx context.Context, conn *sql.Conn, emit func(store.AuditRecord) error) error {
	rows, err := conn.QueryContext(ctx, `SELECT `+auditColumns+` FROM audit ORDER BY seq`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanAudit(rows)
		if err == nil {
			err = emit(r)
		}
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

// writeFile makes a file for its owner alone, and has it on the disk.
func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, bytes.NewReader(data))
	return errors.Join(err, f.Sync(), f.Close())
}

// syncFolder has the names in a folder on the disk.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
