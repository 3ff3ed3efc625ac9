package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Keys are the API keys of a file. A Keys that [OpenKeys] gave works beside a
// server that has the file open.
type Keys struct{ db *database }

// OpenKeys opens the keys of the store at path alone: without the lock that a
// server holds, and without the index. It makes the store when there is none.
// The errors are those of [Open]; a running server is none, unless it is older
// than this program's schema.
func OpenKeys(ctx context.Context, path string) (*Keys, error) {
	db, err := openBeside(ctx, "OpenKeys", path)
	if err != nil {
		return nil, err
	}
	return &Keys{db}, nil
}

// Close waits for writes under way and releases the file. Closing twice is no
// error.
func (k *Keys) Close() error {
	return face.Wrap(face.Internal, "sqlite.Close", k.db.close())
}

const keyColumns = `id, tenant, name, hash, scopes, created_at, expires_at, revoked_at`

// CreateKey implements [store.Keys].
func (k *Keys) CreateKey(ctx context.Context, key face.Key) error {
	const op = "CreateKey"
	err := k.db.change(ctx, func(tx *transaction) error {
		n, err := tx.exec(`INSERT INTO api_key (`+keyColumns+`)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			key.ID, key.Tenant, key.Name, key.Hash, joinScopes(key.Scopes),
			micros(store.Stamp(key.CreatedAt)), optionalTime(key.ExpiresAt), optionalTime(key.RevokedAt))
		if err == nil && n == 0 {
			return face.Errorf(face.Conflict, op, "the key exists already")
		}
		return err
	})
	return k.db.wrap(op, err)
}

// KeyByHash implements [store.Keys].
func (k *Keys) KeyByHash(ctx context.Context, hash []byte) (face.Key, error) {
	const op = "KeyByHash"
	keys, err := k.keys(ctx, `SELECT `+keyColumns+` FROM api_key WHERE hash = ?`, hash)
	if err == nil && len(keys) == 0 {
		err = face.Errorf(face.NotFound, op, "no such API key")
	}
	if err != nil {
		return face.Key{}, k.db.wrap(op, err)
	}
	return keys[0], nil
}

// ListKeys implements [store.Keys].
func (k *Keys) ListKeys(ctx context.Context, tenant string) ([]face.Key, error) {
	keys, err := k.keys(ctx, `SELECT `+keyColumns+` FROM api_key
		WHERE ?1 = '' OR tenant = ?1 ORDER BY created_at, row_id`, tenant)
	return result(k.db, "ListKeys", keys, err)
}

// RevokeKey implements [store.Keys].
func (k *Keys) RevokeKey(ctx context.Context, id string, at time.Time) error {
	const op = "RevokeKey"
	err := k.db.urgent(ctx, func(tx *transaction) error {
		n, err := tx.exec(`UPDATE api_key SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?`,
			micros(store.Stamp(at)), id)
		if err == nil && n == 0 {
			return face.Errorf(face.NotFound, op, "no such API key")
		}
		return err
	})
	return k.db.wrap(op, err)
}

func (k *Keys) keys(ctx context.Context, query string, args ...any) ([]face.Key, error) {
	var keys []face.Key
	err := k.db.view(ctx, func(s session) error {
		return s.each(func(rows *sql.Rows) error {
			var (
				key              face.Key
				scopes           string
				created          int64
				expires, revoked sql.NullInt64
			)
			if err := rows.Scan(&key.ID, &key.Tenant, &key.Name, &key.Hash, &scopes, &created, &expires, &revoked); err != nil {
				return err
			}
			key.Scopes, key.CreatedAt = splitScopes(scopes), fromMicros(created)
			if expires.Valid {
				key.ExpiresAt = fromMicros(expires.Int64)
			}
			if revoked.Valid {
				key.RevokedAt = fromMicros(revoked.Int64)
			}
			keys = append(keys, key)
			return nil
		}, query, args...)
	})
	return keys, err
}

// optionalTime stores the zero time as null.
func optionalTime(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: micros(t), Valid: !t.IsZero()}
}
