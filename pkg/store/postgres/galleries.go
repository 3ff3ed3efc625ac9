package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const galleryColumns = `g.id, g.model_id, g.next_model_id, g.retention_days, g.store_images, g.subjects,
	(SELECT coalesce(sum(m.templates), 0)::bigint FROM gallery_model m WHERE m.gallery = g.row_id), g.created_at`

func scanGallery(row pgx.Row) (g face.Gallery, err error) {
	err = row.Scan(&g.ID, &g.ModelID, &g.NextModelID, &g.RetentionDays, &g.StoreImages, &g.Subjects, &g.Templates, &g.CreatedAt)
	g.CreatedAt = g.CreatedAt.UTC()
	return g, err
}

// CreateGallery implements [store.Galleries].
func (s *Store) CreateGallery(ctx context.Context, tenant string, g face.Gallery) (made face.Gallery, err error) {
	const op = "CreateGallery"
	err = s.db.call(op, func() error {
		if err := store.CheckGallery(op, tenant, g.ID, g.RetentionDays); err != nil {
			return err
		}
		if err := errors.Join(store.CheckModel(op, g.ModelID), store.CheckModel(op, g.NextModelID)); err != nil {
			return err
		}
		if g.ID == face.DefaultGallery {
			return errGalleryTaken(op) // it is always there
		}
		return s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			added, err := addGallery(ctx, tx, tenant, g)
			if err == nil && !added {
				return errGalleryTaken(op)
			}
			if err != nil {
				return err
			}
			made, err = readGallery(ctx, tx, op, tenant, g.ID)
			return err
		})
	})
	return result(made, err)
}

// Gallery implements [store.Galleries].
func (s *Store) Gallery(ctx context.Context, tenant, gallery string) (g face.Gallery, err error) {
	const op = "Gallery"
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) (err error) {
		g, err = readGallery(ctx, q, op, tenant, gallery)
		return err
	})
	return result(g, err)
}

// ListGalleries implements [store.Galleries].
func (s *Store) ListGalleries(ctx context.Context, tenant string, p store.Page) (items []face.Gallery, next string, err error) {
	const op = "ListGalleries"
	after, err := store.ReadPage(op, p, "galleries", tenant)
	if err != nil {
		return nil, "", wrap(op, err)
	}
	err = s.view(ctx, op, tenant, face.DefaultGallery, func(ctx context.Context, q querier) error {
		items = nil
		if _, err := readGallery(ctx, q, op, tenant, face.DefaultGallery); err != nil {
			return err
		}
		rows, err := q.Query(ctx, `SELECT `+galleryColumns+` FROM gallery g
			WHERE g.tenant = $1 AND g.id > $2 ORDER BY g.id LIMIT $3`, tenant, after, p.Limit+1)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			g, err := scanGallery(rows)
			items = append(items, g)
			return err
		})
	})
	byID := func(g face.Gallery) string { return g.ID }
	if err == nil {
		err = wrap(op, store.CheckOrder(op, after, items, byID))
	}
	if err != nil {
		return nil, "", err
	}
	items, next = store.CutPage(items, p, byID, "galleries", tenant)
	return items, next, nil
}

// UpdateGallery implements [store.Galleries].
func (s *Store) UpdateGallery(ctx context.Context, tenant, gallery string, c store.GalleryChange) (g face.Gallery, err error) {
	const op = "UpdateGallery"
	err = s.db.call(op, func() error {
		if c.RetentionDays != nil {
			if err := store.CheckGallery(op, tenant, gallery, *c.RetentionDays); err != nil {
				return err
			}
		}
		if c.NextModelID != nil {
			if err := store.CheckModel(op, *c.NextModelID); err != nil {
				return err
			}
		}
		return s.db.transact(ctx, true, func(ctx context.Context, tx pgx.Tx) error {
			row, err := lockGallery(ctx, tx, op, tenant, gallery)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, `UPDATE gallery SET retention_days = coalesce($2, retention_days),
				store_images = coalesce($3, store_images), next_model_id = coalesce($4, next_model_id) WHERE row_id = $1`,
				row, c.RetentionDays, c.StoreImages, c.NextModelID); err != nil {
				return err
			}
			if c.StoreImages != nil && !*c.StoreImages {
				// Enrolments under way end first, with what crops they bring.
				if _, err := tx.Exec(ctx, `SELECT FROM gallery WHERE row_id = $1 FOR UPDATE`, row); err != nil {
					return err
				}
				if _, err := tx.Exec(ctx, `DELETE FROM crop WHERE gallery = $1`, row); err != nil {
					return err
				}
				s.erasures.Store(true)
			}
			g, err = readGallery(ctx, tx, op, tenant, gallery)
			return err
		})
	})
	return result(g, err)
}

// DeleteGallery implements [store.Galleries].
func (s *Store) DeleteGallery(ctx context.Context, tenant, gallery string, by store.Actor) (receipt face.Receipt, err error) {
	const op = "DeleteGallery"
	err = s.erase(ctx, op, func(ctx context.Context, tx pgx.Tx) error {
		row, err := lockGallery(ctx, tx, op, tenant, gallery)
		if err != nil {
			return err
		}
		// Enrolments under way end first, and none begins.
		if _, err := tx.Exec(ctx, `SELECT FROM gallery WHERE row_id = $1 FOR UPDATE`, row); err != nil {
			return err
		}
		receipt = face.Receipt{Gallery: gallery}
		// The templates go first, all at once: a cascade would count them anew
		// for each subject.
		for _, step := range []struct {
			count *int
			query string
		}{
			{&receipt.Images, `DELETE FROM crop WHERE gallery = $1`},
			{&receipt.Templates, `DELETE FROM template WHERE gallery_model IN (SELECT row_id FROM gallery_model WHERE gallery = $1)`},
			{&receipt.Subjects, `DELETE FROM subject WHERE gallery = $1`},
			{new(int), `DELETE FROM gallery WHERE row_id = $1`},
		} {
			tag, err := tx.Exec(ctx, step.query, row)
			if err != nil {
				return err
			}
			*step.count = int(tag.RowsAffected())
		}
		if err := eraseAnswers(ctx, tx, tenant, gallery, ""); err != nil {
			return err
		}
		return recordErase(ctx, tx, tenant, by, store.AuditEraseGallery, "", &receipt)
	})
	return result(receipt, err)
}

// CountTemplates implements [store.Galleries]. It reads one small row for
// each model of each gallery.
func (s *Store) CountTemplates(ctx context.Context) (counts []store.GalleryCount, err error) {
	err = s.db.call("CountTemplates", func() error {
		return s.db.read(ctx, func(ctx context.Context, q querier) error {
			counts = nil
			rows, err := q.Query(ctx, `SELECT g.tenant, g.id, coalesce(sum(m.templates), 0)::bigint
				FROM gallery g LEFT JOIN gallery_model m ON m.gallery = g.row_id
				GROUP BY g.tenant, g.id ORDER BY g.tenant, g.id`)
			return scanAll(rows, err, func(rows pgx.Rows) error {
				var c store.GalleryCount
				err := rows.Scan(&c.Tenant, &c.Gallery, &c.Templates)
				counts = append(counts, c)
				return err
			})
		})
	})
	return result(counts, err)
}

// view reads something of a gallery, from a replica where that may be. The
// default gallery is made when look does not find it.
func (s *Store) view(ctx context.Context, op, tenant, gallery string, look func(context.Context, querier) error) error {
	return s.db.call(op, func() error {
		err := s.replicas.read(ctx, look)
		var missing noGallery
		if !errors.As(err, &missing) {
			return err
		}
		if gallery != face.DefaultGallery {
			return errNoGallery(op)
		}
		if err := s.db.transact(ctx, true, func(ctx context.Context, tx pgx.Tx) error {
			_, err := lockGallery(ctx, tx, op, tenant, gallery)
			return err
		}); err != nil {
			return err
		}
		// From here on the primary: a replica has not heard of it yet.
		err = s.db.read(ctx, look)
		if errors.As(err, &missing) {
			return errNoGallery(op)
		}
		return err
	})
}

// noGallery says that a look did not find its gallery.
type noGallery struct{ error }

func (e noGallery) Unwrap() error { return e.error }

// lockGallery returns the row of a gallery, and makes the default one. Until
// the transaction ends nobody adds a subject to the gallery or erases one:
// whoever takes this lock first never waits for another in a circle.
func lockGallery(ctx context.Context, tx pgx.Tx, op, tenant, gallery string) (row int64, err error) {
	const query = `SELECT row_id FROM gallery WHERE tenant = $1 AND id = $2 FOR NO KEY UPDATE`
	ok, err := scanOne(tx.QueryRow(ctx, query, tenant, gallery), &row)
	if err != nil || ok {
		return row, err
	}
	if gallery != face.DefaultGallery {
		return 0, errNoGallery(op)
	}
	if err := store.CheckGallery(op, tenant, gallery, 0); err != nil {
		return 0, err
	}
	if _, err := addGallery(ctx, tx, tenant, face.Gallery{ID: gallery}); err != nil {
		return 0, err
	}
	return row, tx.QueryRow(ctx, query, tenant, gallery).Scan(&row)
}

// lockShelves keeps enrolments into a gallery waiting until the transaction
// ends, before it locks templates to erase them. An enrolment holds the same
// rows of gallery_model when it comes to the other templates of its subject, to
// fuse them, so that neither waits for the other in a circle. A subject's row,
// which an enrolment holds before, must be locked first.
func lockShelves(ctx context.Context, tx pgx.Tx, gallery int64) error {
	_, err := tx.Exec(ctx, `SELECT FROM gallery_model WHERE gallery = $1 ORDER BY row_id FOR NO KEY UPDATE`, gallery)
	return err
}

// addGallery reports false when the id is taken.
func addGallery(ctx context.Context, tx pgx.Tx, tenant string, g face.Gallery) (bool, error) {
	tag, err := tx.Exec(ctx, `INSERT INTO gallery (tenant, id, model_id, next_model_id, retention_days, store_images, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`,
		tenant, g.ID, g.ModelID, g.NextModelID, g.RetentionDays, g.StoreImages, store.Stamp(g.CreatedAt))
	return tag.RowsAffected() > 0, err
}

func readGallery(ctx context.Context, q querier, op, tenant, gallery string) (face.Gallery, error) {
	g, err := scanGallery(q.QueryRow(ctx, `SELECT `+galleryColumns+` FROM gallery g WHERE g.tenant = $1 AND g.id = $2`, tenant, gallery))
	if errors.Is(err, pgx.ErrNoRows) {
		return g, noGallery{errNoGallery(op)}
	}
	return g, err
}

func errNoGallery(op string) error { return face.Errorf(face.NotFound, op, "no such gallery") }

func errGalleryTaken(op string) error {
	return face.Errorf(face.Conflict, op, "the gallery exists already")
}
