package postgres

import (
	"context"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Keys are the API keys of a database.
type Keys struct{ db *database }

// OpenKeys opens the keys of a database alone. The errors are those of [Open].
func OpenKeys(ctx context.Context, url, passwordFile string) (*Keys, error) {
	db, err := openDatabase(ctx, url, passwordFile, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, wrap("OpenKeys", err)
	}
	return &Keys{db}, nil
}

// Close releases the connections. Closing twice is no error.
func (k *Keys) Close() error {
	k.db.beginClose()
	k.db.release()
	return nil
}

const keyColumns = `id, tenant, name, hash, scopes, created_at, expires_at, revoked_at`

// CreateKey implements [store.Keys].
func (k *Keys) CreateKey(ctx context.Context, key face.Key) error {
	const op = "CreateKey"
	return k.db.call(op, func() error {
		return k.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			scopes := make([]string, len(key.Scopes))
			for i, s := range key.Scopes {
				scopes[i] = string(s)
			}
			tag, err := tx.Exec(ctx, `INSERT INTO api_key (`+keyColumns+`)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
				key.ID, key.Tenant, key.Name, key.Hash, scopes,
				store.Stamp(key.CreatedAt), optionalTime(key.ExpiresAt), optionalTime(key.RevokedAt))
			if err == nil && tag.RowsAffected() == 0 {
				return face.Errorf(face.Conflict, op, "the key exists already")
			}
			return err
		})
	})
}

// KeyByHash implements [store.Keys]. It always asks the primary: a key that
// was revoked is refused from the next request on.
func (k *Keys) KeyByHash(ctx context.Context, hash []byte) (key face.Key, err error) {
	const op = "KeyByHash"
	err = k.db.call(op, func() error {
		keys, err := k.keys(ctx, `WHERE hash = $1`, hash)
		if err == nil && len(keys) == 0 {
			err = face.Errorf(face.NotFound, op, "no such API key")
		}
		if err == nil {
			key = keys[0]
		}
		return err
	})
	return key, err
}

// ListKeys implements [store.Keys].
func (k *Keys) ListKeys(ctx context.Context, tenant string) (keys []face.Key, err error) {
	err = k.db.call("ListKeys", func() (err error) {
		keys, err = k.keys(ctx, `WHERE $1 = '' OR tenant = $1 ORDER BY created_at, row_id`, tenant)
		return err
	})
	return result(keys, err)
}

// RevokeKey implements [store.Keys].
func (k *Keys) RevokeKey(ctx context.Context, id string, at time.Time) error {
	const op = "RevokeKey"
	return k.db.call(op, func() error {
		return k.db.writeOnce(ctx, func(ctx context.Context, q querier) error {
			tag, err := q.Exec(ctx, `UPDATE api_key SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1`, id, store.Stamp(at))
			if err == nil && tag.RowsAffected() == 0 {
				return face.Errorf(face.NotFound, op, "no such API key")
			}
			return err
		})
	})
}

func (k *Keys) keys(ctx context.Context, where string, args ...any) (keys []face.Key, err error) {
	err = k.db.read(ctx, func(ctx context.Context, q querier) error {
		keys = nil
		rows, err := q.Query(ctx, `SELECT `+keyColumns+` FROM api_key `+where, args...)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			var key face.Key
			var scopes []string
			var expires, revoked *time.Time
			if err := rows.Scan(&key.ID, &key.Tenant, &key.Name, &key.Hash, &scopes, &key.CreatedAt, &expires, &revoked); err != nil {
				return err
			}
			for _, s := range scopes {
				key.Scopes = append(key.Scopes, face.Scope(s))
			}
			key.CreatedAt = key.CreatedAt.UTC()
			if expires != nil {
				key.ExpiresAt = expires.UTC()
			}
			if revoked != nil {
				key.RevokedAt = revoked.UTC()
			}
			keys = append(keys, key)
			return nil
		})
	})
	return keys, err
}

// optionalTime stores the zero time as null.
func optionalTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = store.Stamp(t)
	return &t
}
