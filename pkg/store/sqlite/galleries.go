package sqlite

import (
	"context"
	"database/sql"

	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const galleryColumns = `g.id, g.model_id, g.next_model_id, g.retention_days, g.store_images, g.subjects,
	(SELECT coalesce(sum(m.templates), 0) FROM gallery_model m WHERE m.gallery = g.row_id), g.created_at`

func scanGallery(rows *sql.Rows) (g face.Gallery, err error) {
	var created int64
	err = rows.Scan(&g.ID, &g.ModelID, &g.NextModelID, &g.RetentionDays, &g.StoreImages, &g.Subjects, &g.Templates, &created)
	g.CreatedAt = fromMicros(created)
	return g, err
}

// CreateGallery implements [store.Galleries].
func (s *Store) CreateGallery(ctx context.Context, tenant string, g face.Gallery) (face.Gallery, error) {
	const op = "CreateGallery"
	var made face.Gallery
	err := store.CheckGallery(op, tenant, g.ID, g.RetentionDays)
	if err == nil {
		err = store.CheckModel(op, g.ModelID)
	}
	if err == nil {
		err = store.CheckModel(op, g.NextModelID)
	}
	if err == nil && g.ID == face.DefaultGallery {
		err = errGalleryTaken(op) // it is always there
	}
	if err == nil {
		err = s.db.change(ctx, func(tx *transaction) error {
			n, err := tx.addGallery(tenant, g)
			if err == nil && n == 0 {
				return errGalleryTaken(op)
			}
			if err != nil {
				return err
			}
			made, err = tx.readGallery(op, tenant, g.ID)
			return err
		})
	}
	return result(s.db, op, made, err)
}

// Gallery implements [store.Galleries].
func (s *Store) Gallery(ctx context.Context, tenant, gallery string) (face.Gallery, error) {
	const op = "Gallery"
	var g face.Gallery
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, _ int64) (err error) {
		g, err = v.readGallery(op, tenant, gallery)
		return err
	})
	return result(s.db, op, g, err)
}

// ListGalleries implements [store.Galleries].
func (s *Store) ListGalleries(ctx context.Context, tenant string, p store.Page) ([]face.Gallery, string, error) {
	const op = "ListGalleries"
	after, err := store.ReadPage(op, p, "galleries", tenant)
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	var items []face.Gallery
	err = s.inGallery(ctx, op, tenant, face.DefaultGallery, func(v session, _ int64) error {
		return v.each(func(rows *sql.Rows) error {
			g, err := scanGallery(rows)
			items = append(items, g)
			return err
		}, `SELECT `+galleryColumns+` FROM gallery g WHERE g.tenant = ? AND g.id > ? ORDER BY g.id LIMIT ?`,
			tenant, after, p.Limit+1)
	})
	byID := func(g face.Gallery) string { return g.ID }
	if err == nil {
		err = store.CheckOrder(op, after, items, byID)
	}
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	items, next := store.CutPage(items, p, byID, "galleries", tenant)
	return items, next, nil
}

// UpdateGallery implements [store.Galleries].
func (s *Store) UpdateGallery(ctx context.Context, tenant, gallery string, c store.GalleryChange) (face.Gallery, error) {
	const op = "UpdateGallery"
	var g face.Gallery
	change := s.db.change
	if c.StoreImages != nil && !*c.StoreImages { // erases
		change = s.db.urgent
	}
	err := change(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		if c.RetentionDays != nil {
			if err := store.CheckGallery(op, tenant, gallery, *c.RetentionDays); err != nil {
				return err
			}
			if _, err := tx.exec(`UPDATE gallery SET retention_days = ? WHERE row_id = ?`, *c.RetentionDays, row); err != nil {
				return err
			}
		}
		if c.StoreImages != nil {
			if err := tx.storeImages(row, *c.StoreImages); err != nil {
				return err
			}
		}
		if c.NextModelID != nil {
			if err := store.CheckModel(op, *c.NextModelID); err != nil {
				return err
			}
			if _, err := tx.exec(`UPDATE gallery SET next_model_id = ? WHERE row_id = ?`, *c.NextModelID, row); err != nil {
				return err
			}
		}
		g, err = tx.readGallery(op, tenant, gallery)
		return err
	})
	return result(s.db, op, g, err)
}

// eraseStep is how many subjects are erased at a time where a gallery is too
// large for the room that is left.
const eraseStep = 1024

// DeleteGallery implements [store.Galleries]. On a full disk it erases subjects
// first, and leaves an audit record for each: the receipt counts them all. One
// that fails in between has erased whom the records name.
func (s *Store) DeleteGallery(ctx context.Context, tenant, gallery string, by store.Actor) (face.Receipt, error) {
	const op = "DeleteGallery"
	receipt, err := s.deleteGallery(ctx, tenant, gallery, by)
	var before face.Receipt
	for n := eraseStep; sqlitedb.IsFull(err) && n > 0; {
		part, more := s.deleteSubjects(ctx, tenant, gallery, n, by)
		switch {
		case sqlitedb.IsFull(more):
			n /= 2
			continue
		case more != nil:
			return result(s.db, op, receipt, more)
		}
		before.Subjects += part.Subjects
		before.Templates += part.Templates
		before.Images += part.Images
		if part.Subjects < n {
			receipt, err = s.deleteGallery(ctx, tenant, gallery, by)
			break
		}
	}
	receipt.Subjects += before.Subjects
	receipt.Templates += before.Templates
	receipt.Images += before.Images
	return result(s.db, op, receipt, err)
}

func (s *Store) deleteGallery(ctx context.Context, tenant, gallery string, by store.Actor) (receipt face.Receipt, err error) {
	const op = "DeleteGallery"
	err = s.db.urgent(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		g, err := tx.readGallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		receipt = face.Receipt{Gallery: gallery, Subjects: g.Subjects, Templates: g.Templates}
		if receipt.Images, err = tx.count(`SELECT count(*) FROM crop WHERE gallery = ?`, row); err != nil {
			return err
		}
		if _, err := tx.exec(`DELETE FROM gallery WHERE row_id = ?`, row); err != nil {
			return err
		}
		if err := tx.eraseAnswers(tenant, gallery, ""); err != nil {
			return err
		}
		tx.onCommit(func() { s.index.RemoveGallery(tenant, gallery) })
		return tx.recordErase(tenant, by, store.AuditEraseGallery, "", &receipt)
	})
	return receipt, err
}

// deleteSubjects erases the first n subjects of a gallery, each with a record
// of its own: a restore then erases them, and nobody else.
func (s *Store) deleteSubjects(ctx context.Context, tenant, gallery string, n int, by store.Actor) (total face.Receipt, err error) {
	const op = "DeleteGallery"
	err = s.db.urgent(ctx, func(tx *transaction) error {
		total = face.Receipt{}
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		var ids []string
		if err := tx.each(func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			ids = append(ids, id)
			return err
		}, `SELECT id FROM subject WHERE gallery = ? ORDER BY row_id LIMIT ?`, row, n); err != nil {
			return err
		}
		for _, id := range ids {
			receipt, err := s.eraseSubject(tx, op, tenant, gallery, row, id, by)
			if err != nil {
				return err
			}
			total.Subjects++
			total.Templates += receipt.Templates
			total.Images += receipt.Images
		}
		return nil
	})
	return total, err
}

// CountTemplates implements [store.Galleries]. It reads one small row for
// each model of each gallery.
func (s *Store) CountTemplates(ctx context.Context) ([]store.GalleryCount, error) {
	var counts []store.GalleryCount
	err := s.db.view(ctx, func(v session) error {
		return v.each(func(rows *sql.Rows) error {
			var c store.GalleryCount
			err := rows.Scan(&c.Tenant, &c.Gallery, &c.Templates)
			counts = append(counts, c)
			return err
		}, `SELECT g.tenant, g.id, coalesce(sum(m.templates), 0)
			FROM gallery g LEFT JOIN gallery_model m ON m.gallery = g.row_id
			GROUP BY g.tenant, g.id ORDER BY g.tenant, g.id`)
	})
	return result(s.db, "CountTemplates", counts, err)
}

// inGallery reads on one snapshot in which the gallery is there. The default
// gallery is made when it is not.
func (s *Store) inGallery(ctx context.Context, op, tenant, gallery string, read func(v session, row int64) error) error {
	var found bool
	look := func(v session) error {
		var row int64
		var err error
		found, err = v.scanFirst([]any{&row}, galleryByID, tenant, gallery)
		if err != nil || !found {
			return err
		}
		return read(v, row)
	}
	err := s.db.view(ctx, look)
	if err == nil && !found && gallery == face.DefaultGallery {
		if err := s.db.change(ctx, func(tx *transaction) error {
			_, err := tx.gallery(op, tenant, gallery)
			return err
		}); err != nil {
			return err
		}
		err = s.db.view(ctx, look)
	}
	if err == nil && !found {
		return errNoGallery(op)
	}
	return err
}

const galleryByID = `SELECT row_id FROM gallery WHERE tenant = ? AND id = ?`

// gallery returns the row of a gallery, and makes the default one.
func (t *transaction) gallery(op, tenant, gallery string) (row int64, err error) {
	found, err := t.scanFirst([]any{&row}, galleryByID, tenant, gallery)
	if err != nil || found {
		return row, err
	}
	if gallery != face.DefaultGallery {
		return 0, errNoGallery(op)
	}
	if err := store.CheckGallery(op, tenant, gallery, 0); err != nil {
		return 0, err
	}
	if _, err := t.addGallery(tenant, face.Gallery{ID: gallery}); err != nil {
		return 0, err
	}
	_, err = t.scanFirst([]any{&row}, galleryByID, tenant, gallery)
	return row, err
}

// addGallery returns 0 when the id is taken.
func (t *transaction) addGallery(tenant string, g face.Gallery) (int, error) {
	return t.exec(`INSERT INTO gallery (tenant, id, model_id, next_model_id, retention_days, store_images, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		tenant, g.ID, g.ModelID, g.NextModelID, g.RetentionDays, g.StoreImages, micros(store.Stamp(g.CreatedAt)))
}

// storeImages erases the crops that are kept when no more are to be.
func (t *transaction) storeImages(gallery int64, store bool) error {
	if _, err := t.exec(`UPDATE gallery SET store_images = ? WHERE row_id = ?`, store, gallery); err != nil || store {
		return err
	}
	n, err := t.exec(`DELETE FROM crop WHERE gallery = ?`, gallery)
	t.erased = t.erased || n > 0
	return err
}

func (s session) readGallery(op, tenant, gallery string) (g face.Gallery, err error) {
	err = errNoGallery(op)
	if e := s.each(func(rows *sql.Rows) error {
		g, err = scanGallery(rows)
		return err
	}, `SELECT `+galleryColumns+` FROM gallery g WHERE g.tenant = ? AND g.id = ?`, tenant, gallery); e != nil {
		return g, e
	}
	return g, err
}

func errNoGallery(op string) error { return face.Errorf(face.NotFound, op, "no such gallery") }

func errGalleryTaken(op string) error {
	return face.Errorf(face.Conflict, op, "the gallery exists already")
}
