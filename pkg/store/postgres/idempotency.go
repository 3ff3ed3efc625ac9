package postgres

import (
	"bytes"
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// BeginRequest implements [store.Idempotency]. A claim is a row that names
// this store, and lapses; a server that died leaves no key blocked.
func (s *Store) BeginRequest(ctx context.Context, tenant, key string, fingerprint []byte) (a *store.Answer, err error) {
	const op = "BeginRequest"
	err = s.db.call(op, func() error {
		return s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			a = nil
			tag, err := tx.Exec(ctx, `
				INSERT INTO idempotency (tenant, key, fingerprint, owner, claimed_until, created_at)
				VALUES ($1, $2, $3, $4, now() + $5::interval, now())
				ON CONFLICT (tenant, key) DO UPDATE SET
					fingerprint = excluded.fingerprint, owner = excluded.owner, claimed_until = excluded.claimed_until,
					status = NULL, location = '', body = '', gallery = '', subject = '', created_at = excluded.created_at
				WHERE idempotency.owner IS NOT NULL AND idempotency.claimed_until < now()
					OR idempotency.owner IS NULL AND idempotency.created_at < now() - $6::interval`,
				tenant, key, fingerprint, s.owner, store.ClaimTTL, store.IdempotencyTTL)
			if err != nil || tag.RowsAffected() > 0 {
				return err
			}
			var answer store.Answer
			var first []byte
			var owner *string
			var status *int
			err = tx.QueryRow(ctx, `SELECT fingerprint, owner, status, location, body FROM idempotency
				WHERE tenant = $1 AND key = $2`, tenant, key).Scan(&first, &owner, &status, &answer.Location, &answer.Body)
			switch {
			case err != nil:
				return err
			case owner != nil:
				return face.Errorf(face.Conflict, op, "a request with this Idempotency-Key is still under way")
			case !bytes.Equal(first, fingerprint):
				return face.Errorf(face.Conflict, op, "the Idempotency-Key was used for another request")
			case *status == erased:
				return face.Errorf(face.NotFound, op, "what was answered under this Idempotency-Key has been erased since")
			}
			answer.Status = *status
			a = &answer
			return nil
		})
	})
	return result(a, err)
}

// EndRequest implements [store.Idempotency].
func (s *Store) EndRequest(ctx context.Context, tenant, key string, a *store.Answer) error {
	const op = "EndRequest"
	return s.db.call(op, func() error {
		err := s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			if a == nil {
				return s.claimed(tx.Exec(ctx, `DELETE FROM idempotency WHERE tenant = $1 AND key = $2 AND owner = $3`, tenant, key, s.owner))
			}
			body := a.Body
			if body == nil {
				body = []byte{}
			}
			if err := s.claimed(tx.Exec(ctx, `UPDATE idempotency SET owner = NULL, claimed_until = NULL,
					status = $4, location = $5, body = $6, gallery = $7, subject = $8, created_at = $9
				WHERE tenant = $1 AND key = $2 AND owner = $3`,
				tenant, key, s.owner, a.Status, a.Location, body, a.Gallery, a.Subject, time.Now())); err != nil || a.Subject == "" {
				return err
			}
			// They may have been erased since the request was carried out. The
			// lock has an erase under way end first, or see this answer.
			var one int
			there, err := scanOne(tx.QueryRow(ctx, `SELECT 1 FROM subject s JOIN gallery g ON g.row_id = s.gallery
				WHERE g.tenant = $1 AND g.id = $2 AND s.id = $3 FOR KEY SHARE OF s`, tenant, a.Gallery, a.Subject), &one)
			if err != nil || there {
				return err
			}
			return eraseAnswers(ctx, tx, tenant, a.Gallery, a.Subject)
		})
		if err != nil {
			// A claim whose answer could not be stored is given up as well.
			_ = s.db.write(ctx, writeTimeout, true, func(ctx context.Context) error {
				_, err := s.db.pool.Exec(ctx, `DELETE FROM idempotency WHERE tenant = $1 AND key = $2 AND owner = $3`, tenant, key, s.owner)
				return err
			})
		}
		return err
	})
}

// claimed is the end of a statement that must have met this store's claim.
func (s *Store) claimed(tag interface{ RowsAffected() int64 }, err error) error {
	if err == nil && tag.RowsAffected() == 0 {
		return face.Errorf(face.Conflict, "EndRequest", "the Idempotency-Key is not claimed")
	}
	return err
}

// erased is the status of an answer of which nothing else is left.
const erased = 0

// eraseAnswers leaves of the answers that tell of a subject, or with an empty
// subject of anybody in the gallery, nothing but that they were given.
func eraseAnswers(ctx context.Context, tx pgx.Tx, tenant, gallery, subject string) error {
	_, err := tx.Exec(ctx, `UPDATE idempotency SET status = $4, location = '', body = ''
		WHERE owner IS NULL AND tenant = $1 AND gallery = $2 AND (subject = $3 OR $3 = '')`, tenant, gallery, subject, erased)
	return err
}
