package sqlite

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// restoring is the end of the name of a restored file that has yet to take the
// place of the present one. While it is there, no server opens the store: half
// of it may be the old one.
const restoring = ".restoring"

// errRestoring says that a restore was cut off.
var errRestoring = errors.New("a restore was cut off: `likeness restore` brings it to its end")

// RestoreOptions say which backup becomes which store. What is left zero is the
// default; the store and From have none.
type RestoreOptions struct {
	Files
	From string // folder of the backup
	// Replace takes the place of a store that is there. Its files are kept.
	Replace bool
	// Progress, if not nil, hears how many bytes of how many are copied.
	Progress func(done, total int64)
}

// Restored is what a restore did.
type Restored struct {
	Manifest Manifest
	// Aside is the folder with the files that were there; empty: there were none.
	Aside string
	// Erased are the erasures that the store which was there had seen since the
	// backup. They were carried out again, and the audit chain goes on to its end.
	Erased []store.AuditRecord
	// Revoked is how many API keys were revoked since, and are again.
	Revoked int
	// Finished says that a restore that was cut off, of whichever backup, was
	// brought to its end, and nothing else done.
	Finished bool
	// Unknown is why what was erased and revoked since the backup is not known;
	// nil: it is.
	Unknown error
}

// Restore puts a backup in the place of a store that no server has open, once
// it has read it back. It erases again who was erased since, as far as the
// store that is there tells. Unavailable: a server has it. NotFound: no backup.
// Conflict: a store is there. Internal: the backup is not what was written.
func Restore(ctx context.Context, o RestoreOptions) (Restored, error) {
	const op = "Restore"
	r, err := restore(ctx, o)
	return r, wrapFile(op, o.Store, err)
}

func restore(ctx context.Context, o RestoreOptions) (r Restored, err error) {
	text, err := os.ReadFile(filepath.Join(o.From, backupManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return r, &face.Error{Kind: face.NotFound, Detail: "there is no backup", Err: err}
	}
	if err == nil {
		err = json.Unmarshal(text, &r.Manifest)
	}
	if err != nil {
		return r, err
	}
	if _, ok := r.Manifest.Files[backupStore]; !ok {
		return r, fmt.Errorf("%s names no %s", filepath.Join(o.From, backupManifest), backupStore)
	}
	if err := os.MkdirAll(filepath.Dir(o.Store), 0o700); err != nil {
		return r, err
	}
	for _, name := range []string{o.Store + ".setup", o.Store + ".lock", o.Jobs + ".lock"} {
		lock, err := sqlitedb.TryLock(name)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, lock.Release()) }()
	}
	if _, err := os.Lstat(o.Store + restoring); err == nil {
		r.Finished = true
		return r, r.moveIntoPlace(o.Files)
	}
	if _, err := os.Lstat(o.Store); err == nil && !o.Replace {
		return r, face.Errorf(face.Conflict, "", "%s is there already", o.Store)
	}
	staged := map[string]string{backupStore: o.Store + restoring + ".part", backupJobs: o.Jobs + restoring + ".part"}
	defer func() {
		for _, path := range staged {
			err = errors.Join(err, removeDatabase(path))
		}
	}()
	if err := copyAndVerify(ctx, o, r.Manifest, staged); err != nil {
		return r, err
	}
	records, revoked, err := readSince(ctx, o.Store, r.Manifest)
	if err != nil {
		r.Unknown = err
	} else if err := r.eraseAgain(ctx, staged[backupStore], records, revoked); err != nil {
		return r, err
	}
	// Once the store's copy has this name, there is no way back.
	if _, ok := r.Manifest.Files[backupJobs]; ok {
		if err := os.Rename(staged[backupJobs], o.Jobs+restoring); err != nil {
			return r, err
		}
	}
	if err := os.Rename(staged[backupStore], o.Store+restoring); err != nil {
		return r, err
	}
	return r, r.moveIntoPlace(o.Files)
}

// copyAndVerify copies the files of the backup and checks the copies.
func copyAndVerify(ctx context.Context, o RestoreOptions, m Manifest, staged map[string]string) error {
	var total, done int64
	for _, f := range m.Files {
		total += f.Bytes
	}
	for name, want := range m.Files {
		path, ok := staged[name]
		if !ok {
			return fmt.Errorf("the backup names %q, which this program does not know", name)
		}
		err := removeDatabase(path) // of a restore that was cut off
		if err == nil {
			err = copyFile(ctx, filepath.Join(o.From, name), path, func(n int64) {
				if done += n; o.Progress != nil {
					o.Progress(done, total)
				}
			})
		}
		if err != nil {
			return err
		}
		got, err := describe(ctx, path)
		if err == nil && got.SHA256 != want.SHA256 {
			err = fmt.Errorf("its SHA-256 is %s, and %s when it was made", got.SHA256, want.SHA256)
		}
		if err != nil {
			return fmt.Errorf("%s is not what was backed up: %w", filepath.Join(o.From, name), err)
		}
	}
	chain, err := auditOf(ctx, staged[backupStore])
	if err == nil && (chain.Seq != m.Audit.Records || hex.EncodeToString(chain.Hash) != m.Audit.Last) {
		err = fmt.Errorf("it ends with record %d, and with %d when the backup was made", chain.Seq, m.Audit.Records)
	}
	if err != nil {
		return fmt.Errorf("the backup's audit chain: %w", err)
	}
	return nil
}

func copyFile(ctx context.Context, from, to string, progress func(int64)) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	const block = 4 << 20
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(out, in, block)
		progress(n)
		if errors.Is(err, io.EOF) {
			return out.Sync()
		} else if err != nil {
			return err
		}
	}
}

// eraseAgain carries out on the copy what records and revoked say was erased and
// revoked since the backup, and adds the records to the copy.
func (r *Restored) eraseAgain(ctx context.Context, copied string, records []store.AuditRecord, revoked map[string]int64) error {
	if len(records) == 0 && len(revoked) == 0 {
		return nil
	}
	s, err := Open(ctx, Options{Path: copied})
	if err != nil {
		return err
	}
	err = s.db.change(ctx, func(tx *transaction) error {
		r.Erased, r.Revoked = nil, 0
		tx.erased = true
		for _, record := range records {
			erased, err := tx.eraseAgain(record)
			if err == nil {
				_, err = tx.insertAudit(record)
			}
			if err != nil {
				return err
			}
			if erased {
				r.Erased = append(r.Erased, record)
			}
		}
		for id, at := range revoked {
			n, err := tx.exec(`UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL`, at, id)
			if err != nil {
				return err
			}
			r.Revoked += n
		}
		return nil
	})
	if err == nil {
		_, err = s.VerifyAudit(ctx)
	}
	return errors.Join(err, s.Close())
}

// eraseAgain does what a record says was done, and reports whether it was an
// erasure of something. What is not there was made and erased since.
func (t *transaction) eraseAgain(r store.AuditRecord) (erased bool, err error) {
	const gallery = `(SELECT row_id FROM gallery WHERE tenant = ? AND id = ?)`
	n := 0
	switch r.Action {
	case store.AuditEraseGallery:
		if n, err = t.exec(`DELETE FROM gallery WHERE tenant = ? AND id = ?`, r.Tenant, r.Gallery); err == nil {
			err = t.eraseAnswers(r.Tenant, r.Gallery, "")
		}
	case store.AuditEraseSubject:
		if n, err = t.exec(`DELETE FROM subject WHERE gallery = `+gallery+` AND id = ?`, r.Tenant, r.Gallery, r.SubjectID); err == nil {
			err = t.eraseAnswers(r.Tenant, r.Gallery, r.SubjectID)
		}
	case store.AuditEraseTemplate: // with the others of its sample, and the crop by a trigger
		n, err = t.exec(`DELETE FROM template WHERE gallery = `+gallery+` AND sample_id IN (SELECT sample_id FROM template WHERE gallery = `+gallery+` AND id = ?)`,
			r.Tenant, r.Gallery, r.Tenant, r.Gallery, r.TemplateID)
	}
	return n > 0, err
}

// readSince reads from a store what was done after a backup of it: the records of
// the audit chain, and the keys that are revoked, with the times.
func readSince(ctx context.Context, path string, m Manifest) (records []store.AuditRecord, revoked map[string]int64, err error) {
	if _, err := os.Stat(path); err != nil {
		return nil, nil, err
	}
	db, err := sqlitedb.Open(path, sqlitedb.ReadPragmas())
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	var chain store.AuditChain
	same := m.Audit.Records == 0
	err = eachAudit(ctx, conn, func(r store.AuditRecord) error {
		if err := chain.Next(r); err != nil {
			return err
		}
		if r.Seq == m.Audit.Records {
			same = hex.EncodeToString(r.Hash) == m.Audit.Last
		}
		if r.Seq > m.Audit.Records {
			records = append(records, r)
		}
		return nil
	})
	if err == nil && !same {
		err = errors.New("its audit chain is not that of the backup")
	}
	if err != nil {
		return nil, nil, err
	}
	rows, err := conn.QueryContext(ctx, "SELECT id, revoked_at FROM api_key WHERE revoked_at IS NOT NULL")
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	revoked = map[string]int64{}
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, nil, err
		}
		revoked[id] = at
	}
	return records, revoked, rows.Err()
}

// moveIntoPlace moves the files that are there aside, and the restored ones into
// their place: the store last, which until then holds servers off. It can be
// done again where it was cut off.
func (r *Restored) moveIntoPlace(f Files) error {
	dir := filepath.Dir(f.Store)
	if err := syncFolder(dir); err != nil {
		return err
	}
	for _, path := range []string{f.Jobs, f.Store} {
		if _, err := os.Lstat(path + restoring); errors.Is(err, fs.ErrNotExist) {
			continue // the backup has none, or it is in its place
		}
		for _, end := range []string{"-wal", "-shm", ""} {
			if err := r.setAside(path + end); err != nil {
				return err
			}
		}
		if err := os.Rename(path+restoring, path); err != nil {
			return err
		}
		if err := syncFolder(dir); err != nil {
			return err
		}
	}
	return nil
}

// setAside moves a file, if it is there, into a folder beside it.
func (r *Restored) setAside(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if r.Aside == "" {
		aside := filepath.Join(filepath.Dir(path), "before-restore-"+time.Now().UTC().Format("20060102T150405.000Z"))
		if err := os.Mkdir(aside, 0o700); err != nil {
			return err
		}
		r.Aside = aside
	}
	if err := os.Rename(path, filepath.Join(r.Aside, filepath.Base(path))); err != nil {
		return err
	}
	return syncFolder(r.Aside)
}

// removeDatabase removes a file with all that lies beside it.
func removeDatabase(path string) error {
	var errs []error
	for _, end := range []string{"", "-wal", "-shm", ".lock", ".setup"} {
		if err := os.Remove(path + end); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
