package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const auditColumns = `seq, id, tenant, at, key_id, request_id, action,
	gallery, subject_id, template_id, subjects, templates, images, prev_hash, hash`

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

// record puts a record at the end of the chain.
func (t *transaction) record(r store.AuditRecord) error {
	var seq int64
	prev := []byte{}
	if _, err := t.one([]any{&seq, &prev}, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`); err != nil {
		return err
	}
	if err := r.Follow(seq, prev); err != nil {
		return err
	}
	_, err := t.exec(`INSERT INTO audit (`+auditColumns+`)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.Seq, r.ID, r.Tenant, r.At, r.KeyID, r.RequestID, r.Action,
		r.Gallery, r.SubjectID, r.TemplateID, r.Subjects, r.Templates, r.Images, r.Prev, r.Hash)
	return err
}

// VerifyAudit implements [store.Audit].
func (s *Store) VerifyAudit(ctx context.Context) (int64, error) {
	var chain store.AuditChain
	err := s.db.view(ctx, func(v session) error {
		err := v.each(func(rows *sql.Rows) error {
			r, err := scanAudit(rows)
			if err != nil {
				return err
			}
			return chain.Next(r)
		}, `SELECT `+auditColumns+` FROM audit ORDER BY seq`)
		if err != nil {
			return err
		}
		var written int64
		if _, err := v.one([]any{&written}, `SELECT seq FROM sqlite_sequence WHERE name = 'audit'`); err != nil {
			return err
		}
		if written != chain.Seq {
			return fmt.Errorf("%d audit records were written, the last one there is %d", written, chain.Seq)
		}
		return nil
	})
	return answer(s.db, "VerifyAudit", chain.Seq, err)
}

func scanAudit(rows *sql.Rows) (r store.AuditRecord, err error) {
	err = rows.Scan(&r.Seq, &r.ID, &r.Tenant, &r.At, &r.KeyID, &r.RequestID, &r.Action,
		&r.Gallery, &r.SubjectID, &r.TemplateID, &r.Subjects, &r.Templates, &r.Images, &r.Prev, &r.Hash)
	return r, err
}
