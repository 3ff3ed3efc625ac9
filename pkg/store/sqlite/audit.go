package sqlite

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// What an audit record says was done.
const (
	auditEraseGallery  = "gallery.erase"
	auditEraseSubject  = "subject.erase"
	auditEraseTemplate = "template.erase"
	auditExpire        = "template.expire"
)

// auditRecord is a row of the audit table without its hashes. Its JSON is what
// the hash is taken over, so its fields, their names and their order are part
// of the file format.
type auditRecord struct {
	Seq        int64  `json:"seq"`
	ID         string `json:"audit_id"`
	Tenant     string `json:"tenant"`
	At         int64  `json:"at"`
	KeyID      string `json:"key_id"`
	RequestID  string `json:"request_id"`
	Action     string `json:"action"`
	Gallery    string `json:"gallery"`
	SubjectID  string `json:"subject_id"`
	TemplateID string `json:"template_id"`
	Subjects   int    `json:"subjects"`
	Templates  int    `json:"templates"`
	Images     int    `json:"images"`
}

// hash chains the record to the one before it. The first follows no bytes.
func (r auditRecord) hash(prev []byte) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append(bytes.Clone(prev), body...))
	return sum[:], nil
}

// recordErase writes the audit record of an erase and its id into the receipt.
func (t *transaction) recordErase(tenant string, by store.Actor, action, template string, receipt *face.Receipt) error {
	t.erased = true
	var seq int64
	prev := []byte{}
	if _, err := t.one([]any{&seq, &prev}, `SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1`); err != nil {
		return err
	}
	receipt.AuditID = face.NewID()
	r := auditRecord{
		Seq: seq + 1, ID: receipt.AuditID, Tenant: tenant, At: micros(time.Now()),
		KeyID: by.KeyID, RequestID: by.RequestID, Action: action,
		Gallery: receipt.Gallery, SubjectID: receipt.SubjectID, TemplateID: template,
		Subjects: receipt.Subjects, Templates: receipt.Templates, Images: receipt.Images,
	}
	hash, err := r.hash(prev)
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO audit (seq, id, tenant, at, key_id, request_id, action,
			gallery, subject_id, template_id, subjects, templates, images, prev_hash, hash)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.Seq, r.ID, r.Tenant, r.At, r.KeyID, r.RequestID, r.Action,
		r.Gallery, r.SubjectID, r.TemplateID, r.Subjects, r.Templates, r.Images, prev, hash)
	return err
}

// VerifyAudit checks that the audit records are those that were written: all
// of them, in order, unchanged. It cannot see a file whose whole chain was
// made anew by somebody who may write to it; for that, keep the ids of the
// receipts elsewhere. Internal: the first record that is not right.
func (s *Store) VerifyAudit(ctx context.Context) error {
	const op = "VerifyAudit"
	err := s.db.view(ctx, func(v session) error {
		prev := []byte{}
		var last int64
		err := v.each(func(rows *sql.Rows) error {
			var r auditRecord
			var storedPrev, stored []byte
			if err := rows.Scan(&r.Seq, &r.ID, &r.Tenant, &r.At, &r.KeyID, &r.RequestID, &r.Action,
				&r.Gallery, &r.SubjectID, &r.TemplateID, &r.Subjects, &r.Templates, &r.Images,
				&storedPrev, &stored); err != nil {
				return err
			}
			want, err := r.hash(prev)
			if err != nil {
				return err
			}
			if r.Seq != last+1 || !bytes.Equal(storedPrev, prev) || !bytes.Equal(stored, want) {
				return fmt.Errorf("audit record %d is not the one that was written after record %d", r.Seq, last)
			}
			prev, last = stored, r.Seq
			return nil
		}, `SELECT seq, id, tenant, at, key_id, request_id, action,
			gallery, subject_id, template_id, subjects, templates, images, prev_hash, hash
			FROM audit ORDER BY seq`)
		if err != nil {
			return err
		}
		var written int64
		if _, err := v.one([]any{&written}, `SELECT seq FROM sqlite_sequence WHERE name = 'audit'`); err != nil {
			return err
		}
		if written != last {
			return fmt.Errorf("%d audit records were written, the last one there is %d", written, last)
		}
		return nil
	})
	return s.db.fault(op, err)
}
