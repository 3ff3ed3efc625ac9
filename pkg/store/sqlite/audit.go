package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"time"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// trailChunk is how many audit records are read at a time.
const trailChunk = 500

// Audit is the audit chain of a file. An Audit that [OpenAudit] gave works
// beside a server that has the file open.
type Audit struct{ db *database }

// OpenAudit opens the audit chain of the store at path alone, as [OpenKeys]
// opens its keys.
func OpenAudit(ctx context.Context, path string) (*Audit, error) {
	db, err := openBeside(ctx, "OpenAudit", path)
	if err != nil {
		return nil, err
	}
	return &Audit{db}, nil
}

// openBeside opens a file without the lock that a server holds, and without
// the index.
func openBeside(ctx context.Context, op, path string) (*database, error) {
	abs, err := absolutePath(path)
	if err != nil {
		return nil, wrapFile(op, path, err)
	}
	room := ballast.Beside(abs, 0)
	var db *database
	open := func() (err error) {
		if _, err = prepare(ctx, abs, false); err == nil {
			db, err = openDatabase(ctx, abs, room, slog.New(slog.DiscardHandler))
		}
		return err
	}
	err = open()
	if sqlitedb.IsFull(err) { // a key can be revoked all the same
		err = room.Without(func(func() error) error { return open() })
	}
	if err != nil {
		return nil, wrapFile(op, abs, err)
	}
	return db, nil
}

// Close waits for writes under way and releases the file. Closing twice is no
// error.
func (a *Audit) Close() error {
	return face.Wrap(face.Internal, "sqlite.Close", a.db.close())
}

const auditColumns = `seq, id, tenant, at, key_id, request_id, action,
	gallery, subject_id, template_id, subjects, templates, images, decision, prev_hash, hash`

func scanAudit(rows *sql.Rows) (r store.AuditRecord, err error) {
	err = rows.Scan(&r.Seq, &r.ID, &r.Tenant, &r.At, &r.KeyID, &r.RequestID, &r.Action,
		&r.Gallery, &r.SubjectID, &r.TemplateID, &r.Subjects, &r.Templates, &r.Images, &r.Decision, &r.Prev, &r.Hash)
	r.Prev = notNil(r.Prev)
	return r, err
}

// notNil is what the driver, for which an empty blob and null are one, is to
// give and to be given.
func notNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// recordErase writes the audit record of an erase and its id into the receipt.
func (t *transaction) recordErase(tenant string, by store.Actor, action, template string, receipt *face.Receipt) error {
	t.erased = true
	receipt.AuditID = face.NewID()
	return t.record(store.AuditRecord{
		ID: receipt.AuditID, Tenant: tenant, At: micros(time.Now()),
		KeyID: by.KeyID, RequestID: by.RequestID, Action: action,
		Gallery: receipt.Gallery, SubjectID: receipt.SubjectID, TemplateID: template,
		Subjects: receipt.Subjects, Templates: receipt.Templates, Images: receipt.Images,
	})
}

// RecordDecision implements [store.Audit].
func (a *Audit) RecordDecision(ctx context.Context, tenant string, by store.Actor, d store.Decision) error {
	return a.db.wrap("RecordDecision", a.db.change(ctx, func(tx *transaction) error {
		return tx.record(store.AuditRecord{
			ID: face.NewID(), Tenant: tenant, At: micros(time.Now()),
			KeyID: by.KeyID, RequestID: by.RequestID, Action: d.Action,
			Gallery: d.Gallery, SubjectID: d.SubjectID, Decision: d.Decision,
		})
	}))
}

// record puts a record at the end of the chain.
func (t *transaction) record(r store.AuditRecord) error {
	end, err := t.auditEnd()
	if err == nil {
		err = r.Follow(end.Seq, end.Hash)
	}
	if err == nil {
		_, err = t.insertAudit(r)
	}
	return err
}

// auditEnd is the chain as it is up to its last record.
func (s session) auditEnd() (store.AuditChain, error) {
	end := store.AuditChain{Hash: []byte{}}
	_, err := s.scanFirst([]any{&end.Seq, &end.Hash}, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`)
	return end, err
}

// insertAudit returns 0 when the number or the id is taken.
func (t *transaction) insertAudit(r store.AuditRecord) (int, error) {
	return t.exec(`INSERT INTO audit (`+auditColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		r.Seq, r.ID, r.Tenant, r.At, r.KeyID, r.RequestID, r.Action,
		r.Gallery, r.SubjectID, r.TemplateID, r.Subjects, r.Templates, r.Images, r.Decision, notNil(r.Prev), r.Hash)
}

// AuditTrail implements [store.Audit]. No snapshot is held while emit runs: a
// slow one would keep erased pages in the log.
func (a *Audit) AuditTrail(ctx context.Context, after int64, emit func(store.AuditRecord) error) error {
	const op = "AuditTrail"
	for {
		var chunk []store.AuditRecord
		err := a.db.view(ctx, func(v session) error {
			return v.each(func(rows *sql.Rows) error {
				r, err := scanAudit(rows)
				chunk = append(chunk, r)
				return err
			}, `SELECT `+auditColumns+` FROM audit WHERE seq > ? ORDER BY seq LIMIT ?`, after, trailChunk)
		})
		if err == nil {
			err = store.CheckOrder(op, after, chunk, func(r store.AuditRecord) int64 { return r.Seq })
		}
		if err != nil {
			return a.db.wrap(op, err)
		}
		for _, r := range chunk {
			if err := emit(r); err != nil {
				return err
			}
			after = r.Seq
		}
		if len(chunk) < trailChunk {
			return nil
		}
	}
}

// VerifyAudit implements [store.Audit].
func (a *Audit) VerifyAudit(ctx context.Context) (int64, error) {
	var n int64
	err := a.db.view(ctx, func(v session) (err error) {
		n, err = v.verifyAudit()
		return err
	})
	return result(a.db, "VerifyAudit", n, err)
}

// verifyAudit returns how many records there are, all of which are right.
func (s session) verifyAudit() (int64, error) {
	var chain store.AuditChain
	err := s.each(func(rows *sql.Rows) error {
		r, err := scanAudit(rows)
		if err != nil {
			return err
		}
		return chain.Next(r)
	}, `SELECT `+auditColumns+` FROM audit ORDER BY seq`)
	if err != nil {
		return 0, err
	}
	var written int64
	if _, err := s.scanFirst([]any{&written}, `SELECT seq FROM sqlite_sequence WHERE name = 'audit'`); err != nil {
		return 0, err
	}
	if written != chain.Seq {
		return 0, fmt.Errorf("%d audit records were written, the last one there is %d", written, chain.Seq)
	}
	return chain.Seq, nil
}

// RestoreAudit implements [store.Audit].
func (a *Audit) RestoreAudit(ctx context.Context, records []store.AuditRecord) error {
	const op = "RestoreAudit"
	return a.db.wrap(op, a.db.change(ctx, func(tx *transaction) error {
		chain, err := tx.auditEnd()
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := chain.Next(r); err != nil {
				return &face.Error{Kind: face.Conflict, Op: op, Detail: "the records do not follow those of the store", Err: err}
			}
			n, err := tx.insertAudit(r)
			if err != nil {
				return err
			}
			if n == 0 {
				return face.Errorf(face.Conflict, op, "an audit id is taken by another record")
			}
		}
		return nil
	}))
}
