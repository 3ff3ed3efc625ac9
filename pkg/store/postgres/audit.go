package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const auditColumns = `seq, id, tenant, at, key_id, request_id, action,
	gallery, subject_id, template_id, subjects, templates, images, decision, prev_hash, hash`

// maxAudit is how many decisions share one commit at most.
const maxAudit = 128

// recordErase writes the audit record of an erase and its id into the
// receipt. It comes last in its transaction: until the end nobody else adds a
// record.
func recordErase(ctx context.Context, tx pgx.Tx, tenant string, by store.Actor, action, template string, receipt *face.Receipt) error {
	receipt.AuditID = face.NewID()
	return record(ctx, tx, store.AuditRecord{
		ID: receipt.AuditID, Tenant: tenant, At: time.Now().UnixMicro(),
		KeyID: by.KeyID, RequestID: by.RequestID, Action: action,
		Gallery: receipt.Gallery, SubjectID: receipt.SubjectID, TemplateID: template,
		Subjects: receipt.Subjects, Templates: receipt.Templates, Images: receipt.Images,
	})
}

// record puts records at the end of the chain.
func record(ctx context.Context, tx pgx.Tx, records ...store.AuditRecord) error {
	var head store.AuditChain
	if err := tx.QueryRow(ctx, `SELECT seq, hash FROM audit_head FOR UPDATE`).Scan(&head.Seq, &head.Hash); err != nil {
		return err
	}
	for i := range records {
		if err := records[i].Follow(head.Seq, head.Hash); err != nil {
			return err
		}
		head.Seq, head.Hash = records[i].Seq, records[i].Hash
	}
	return appendAudit(ctx, tx, head, records)
}

func appendAudit(ctx context.Context, tx pgx.Tx, head store.AuditChain, records []store.AuditRecord) error {
	var b pgx.Batch
	for _, r := range records {
		b.Queue(`INSERT INTO audit (`+auditColumns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)`,
			r.Seq, r.ID, r.Tenant, r.At, r.KeyID, r.RequestID, r.Action, r.Gallery, r.SubjectID, r.TemplateID,
			r.Subjects, r.Templates, r.Images, r.Decision, append([]byte{}, r.Prev...), r.Hash) // nil would be null
	}
	b.Queue(`UPDATE audit_head SET seq = $1, hash = $2`, head.Seq, head.Hash)
	return tx.SendBatch(ctx, &b).Close()
}

// auditor commits decisions, those that wait at the same moment together.
type auditor struct{ queue chan *decided }

type decided struct {
	record store.AuditRecord
	err    error
	done   chan struct{}
}

func (a *auditor) start(s *Store, background context.Context) {
	a.queue = make(chan *decided, maxAudit)
	s.running.Go(func() {
		for {
			var batch []*decided
			select {
			case d := <-a.queue:
				batch = append(batch, d)
			case <-background.Done():
				return // no call is under way any more
			}
			for more := true; more && len(batch) < maxAudit; {
				select {
				case d := <-a.queue:
					batch = append(batch, d)
				default:
					more = false
				}
			}
			records := make([]store.AuditRecord, len(batch))
			for i, d := range batch {
				records[i] = d.record
			}
			// Without a turn: a door waits for it.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(background), writeTimeout)
			err := s.db.writeAtOnce(ctx, false, func(ctx context.Context) error {
				return pgdb.InTransaction(ctx, s.db.own, func(ctx context.Context, tx pgx.Tx) error { return record(ctx, tx, records...) })
			})
			cancel()
			for _, d := range batch {
				d.err = err
				close(d.done)
			}
		}
	})
}

// RecordDecision implements [store.Audit].
func (s *Store) RecordDecision(ctx context.Context, tenant string, by store.Actor, d store.Decision) error {
	return s.db.call("RecordDecision", func() error {
		c := &decided{done: make(chan struct{}), record: store.AuditRecord{
			ID: face.NewID(), Tenant: tenant, At: time.Now().UnixMicro(), KeyID: by.KeyID, RequestID: by.RequestID,
			Action: d.Action, Gallery: d.Gallery, SubjectID: d.SubjectID, Decision: d.Decision,
		}}
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case s.audit.queue <- c:
		case <-ctx.Done():
			return ctx.Err()
		}
		<-c.done
		return c.err
	})
}

// AuditTrail implements [store.Audit].
func (s *Store) AuditTrail(ctx context.Context, after int64, emit func(store.AuditRecord) error) error {
	return s.db.call("AuditTrail", func() error { return s.eachAudit(ctx, s.db.pool, after, emit) })
}

func (s *Store) eachAudit(ctx context.Context, q querier, after int64, emit func(store.AuditRecord) error) error {
	rows, err := q.Query(ctx, `SELECT `+auditColumns+` FROM audit WHERE seq > $1 ORDER BY seq`, after)
	return scanAll(rows, err, func(rows pgx.Rows) error {
		var r store.AuditRecord
		if err := rows.Scan(&r.Seq, &r.ID, &r.Tenant, &r.At, &r.KeyID, &r.RequestID, &r.Action,
			&r.Gallery, &r.SubjectID, &r.TemplateID, &r.Subjects, &r.Templates, &r.Images, &r.Decision, &r.Prev, &r.Hash); err != nil {
			return err
		}
		return emit(r)
	})
}

// VerifyAudit implements [store.Audit].
func (s *Store) VerifyAudit(ctx context.Context) (int64, error) {
	var chain store.AuditChain
	err := s.db.call("VerifyAudit", func() error {
		tx, err := s.db.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
		var written int64
		if err := tx.QueryRow(ctx, `SELECT seq FROM audit_head`).Scan(&written); err != nil {
			return err
		}
		if err := s.eachAudit(ctx, tx, 0, chain.Next); err != nil {
			return err
		}
		if written != chain.Seq {
			return fmt.Errorf("%d audit records were written, the last one there is %d", written, chain.Seq)
		}
		return nil
	})
	return chain.Seq, err
}

// RestoreAudit implements [store.Audit].
func (s *Store) RestoreAudit(ctx context.Context, records []store.AuditRecord) error {
	const op = "RestoreAudit"
	return s.db.call(op, func() error {
		return s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			var head store.AuditChain
			if err := tx.QueryRow(ctx, `SELECT seq, hash FROM audit_head FOR UPDATE`).Scan(&head.Seq, &head.Hash); err != nil {
				return err
			}
			for _, r := range records {
				if err := head.Next(r); err != nil {
					return &face.Error{Kind: face.Conflict, Op: op, Detail: "the records do not follow those that are there", Err: err}
				}
			}
			return appendAudit(ctx, tx, head, records)
		})
	})
}
