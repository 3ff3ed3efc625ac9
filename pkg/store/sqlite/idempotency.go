package sqlite

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// claims are the requests under way, with their fingerprints. They live in
// memory alone: one process serves the file, and what a crash leaves open is
// to be free again.
type claims struct {
	mu   sync.Mutex
	open map[claimKey][]byte
}

type claimKey struct{ tenant, key string }

// BeginRequest implements [store.Idempotency].
func (s *Store) BeginRequest(ctx context.Context, tenant, key string, fingerprint []byte) (*store.Answer, error) {
	const op = "BeginRequest"
	if !s.claims.claim(claimKey{tenant, key}, fingerprint) {
		return nil, s.db.wrap(op, face.Errorf(face.Conflict, op, "a request with this Idempotency-Key is still under way"))
	}
	a, err := s.answered(ctx, op, tenant, key, fingerprint)
	if a != nil || err != nil {
		s.claims.release(claimKey{tenant, key})
	}
	return result(s.db, op, a, err)
}

// answered returns the stored answer of the key, or nil.
func (s *Store) answered(ctx context.Context, op, tenant, key string, fingerprint []byte) (*store.Answer, error) {
	var a store.Answer
	var first []byte
	var found bool
	err := s.db.view(ctx, func(v session) (err error) {
		found, err = v.scanFirst([]any{&first, &a.Status, &a.Location, &a.Body}, `
			SELECT fingerprint, status, location, body FROM idempotency
			WHERE tenant = ? AND key = ? AND created_at >= ?`,
			tenant, key, micros(time.Now().Add(-store.IdempotencyTTL)))
		return err
	})
	switch {
	case err != nil || !found:
		return nil, err
	case !bytes.Equal(first, fingerprint):
		return nil, face.Errorf(face.Conflict, op, "the Idempotency-Key was used for another request")
	case a.Status == erased:
		return nil, face.Errorf(face.NotFound, op, "what was answered under this Idempotency-Key has been erased since")
	}
	return &a, nil
}

// EndRequest implements [store.Idempotency].
func (s *Store) EndRequest(ctx context.Context, tenant, key string, a *store.Answer) error {
	const op = "EndRequest"
	fingerprint, ok := s.claims.fingerprint(claimKey{tenant, key})
	if !ok {
		return s.db.wrap(op, face.Errorf(face.Conflict, op, "the Idempotency-Key is not claimed"))
	}
	// A claim whose answer could not be stored is given up as well: it would
	// block the caller's next try until the restart.
	defer s.claims.release(claimKey{tenant, key})
	if a == nil {
		return nil
	}
	body := a.Body
	if body == nil {
		body = []byte{}
	}
	err := s.db.change(ctx, func(tx *transaction) error {
		if _, err := tx.exec(`INSERT OR REPLACE INTO idempotency
			(tenant, key, fingerprint, status, location, body, gallery, subject, created_at)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			tenant, key, fingerprint, a.Status, a.Location, body, a.Gallery, a.Subject, micros(time.Now())); err != nil || a.Subject == "" {
			return err
		}
		// They may have been erased since the request was carried out.
		var one int
		there, err := tx.scanFirst([]any{&one}, `SELECT 1 FROM subject s JOIN gallery g ON g.row_id = s.gallery
			WHERE g.tenant = ? AND g.id = ? AND s.id = ?`, tenant, a.Gallery, a.Subject)
		if err != nil || there {
			return err
		}
		return tx.eraseAnswers(tenant, a.Gallery, a.Subject)
	})
	return s.db.wrap(op, err)
}

// erased is the status of an answer of which nothing else is left.
const erased = 0

// eraseAnswers leaves of the answers that tell of a subject, or with an empty
// subject of anybody in the gallery, nothing but that they were given.
func (tx *transaction) eraseAnswers(tenant, gallery, subject string) error {
	_, err := tx.exec(`UPDATE idempotency SET status = ?, location = '', body = x''
		WHERE tenant = ? AND gallery = ? AND (subject = ? OR ? = '')`, erased, tenant, gallery, subject, subject)
	return err
}

// purgeAnswers drops the answers that are past their time.
func (s *Store) purgeAnswers(ctx context.Context, now time.Time) error {
	return s.db.urgent(ctx, func(tx *transaction) error {
		n, err := tx.exec(`DELETE FROM idempotency WHERE created_at < ?`, micros(now.Add(-store.IdempotencyTTL)))
		tx.erased = tx.erased || n > 0 // answers name people
		return err
	})
}

func (c *claims) claim(k claimKey, fingerprint []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.open[k]; taken {
		return false
	}
	if c.open == nil {
		c.open = make(map[claimKey][]byte)
	}
	c.open[k] = bytes.Clone(fingerprint)
	return true
}

func (c *claims) fingerprint(k claimKey) ([]byte, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fp, ok := c.open[k]
	return fp, ok
}

func (c *claims) release(k claimKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, k)
}
