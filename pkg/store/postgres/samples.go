package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// Sample implements [store.Samples].
func (s *Store) Sample(ctx context.Context, tenant, gallery, sample string) (found store.Sample, err error) {
	const op = "Sample"
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) error {
		list, err := readSamples(ctx, q, op, tenant, gallery, `c.sealed`, ` AND c.sample = $3`, sample)
		if err == nil && len(list) == 0 {
			err = face.Errorf(face.NotFound, op, "no such sample with a crop")
		}
		if err == nil {
			found = list[0]
		}
		return err
	})
	return result(found, err)
}

// PendingSamples implements [store.Samples].
func (s *Store) PendingSamples(ctx context.Context, tenant, gallery, modelID, after string, limit int) (list []store.Sample, err error) {
	const op = "PendingSamples"
	if _, err := store.ReadPage(op, store.Page{Limit: limit}); err != nil {
		return nil, wrap(op, err)
	}
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) (err error) {
		list, err = readSamples(ctx, q, op, tenant, gallery, `NULL::bytea`, ` AND c.sample > $3 AND NOT EXISTS (
				SELECT 1 FROM template t JOIN gallery_model m ON m.row_id = t.gallery_model
				WHERE t.subject = c.subject AND t.sample = c.sample AND m.model_id = $4)
			ORDER BY c.sample LIMIT $5`, after, modelID, limit)
		return err
	})
	if err == nil {
		err = wrap(op, store.CheckOrder(op, after, list, func(m store.Sample) string { return m.ID }))
	}
	return result(list, err)
}

func readSamples(ctx context.Context, q querier, op, tenant, gallery, crop, where string, args ...any) ([]store.Sample, error) {
	var row int64
	there, err := scanOne(q.QueryRow(ctx, `SELECT row_id FROM gallery WHERE tenant = $1 AND id = $2`, tenant, gallery), &row)
	if err != nil {
		return nil, err
	}
	if !there {
		return nil, noGallery{errNoGallery(op)}
	}
	var list []store.Sample
	rows, err := q.Query(ctx, `SELECT c.sample, s.id, `+crop+`, c.quality, c.created_at
		FROM gallery g JOIN crop c ON c.gallery = g.row_id JOIN subject s ON s.row_id = c.subject
		WHERE g.tenant = $1 AND g.id = $2`+where, append([]any{tenant, gallery}, args...)...)
	err = scanAll(rows, err, func(rows pgx.Rows) error {
		var one store.Sample
		err := rows.Scan(&one.ID, &one.SubjectID, &one.Crop, &one.Quality, &one.CreatedAt)
		one.CreatedAt = one.CreatedAt.UTC()
		list = append(list, one)
		return err
	})
	return list, err
}

// Coverage implements [store.Samples].
func (s *Store) Coverage(ctx context.Context, tenant, gallery, modelID string) (c store.Coverage, err error) {
	const op = "Coverage"
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) (err error) {
		c, err = coverage(ctx, q, op, tenant, gallery, modelID)
		return err
	})
	return result(c, err)
}

const (
	enrolled = `EXISTS (SELECT 1 FROM template t WHERE t.subject = s.row_id)`
	covered  = `EXISTS (SELECT 1 FROM template t JOIN gallery_model m ON m.row_id = t.gallery_model
		WHERE t.subject = s.row_id AND m.model_id = $3)`
	uncovered = enrolled + ` AND NOT ` + covered + ` AND NOT EXISTS (SELECT 1 FROM crop c WHERE c.subject = s.row_id)`
)

func coverage(ctx context.Context, q querier, op, tenant, gallery, modelID string) (c store.Coverage, err error) {
	there, err := scanOne(q.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM subject s WHERE s.gallery = g.row_id AND `+enrolled+`),
		(SELECT count(*) FROM subject s WHERE s.gallery = g.row_id AND `+covered+`),
		(SELECT count(*) FROM crop c WHERE c.gallery = g.row_id AND NOT EXISTS (
			SELECT 1 FROM template t JOIN gallery_model m ON m.row_id = t.gallery_model
			WHERE t.subject = c.subject AND t.sample = c.sample AND m.model_id = $3)),
		(SELECT count(*) FROM subject s WHERE s.gallery = g.row_id AND `+uncovered+`)
		FROM gallery g WHERE g.tenant = $1 AND g.id = $2`, tenant, gallery, modelID),
		&c.Subjects, &c.Covered, &c.Pending, &c.Uncovered)
	if err == nil && !there {
		err = noGallery{errNoGallery(op)}
	}
	return c, err
}

// Uncovered implements [store.Samples].
func (s *Store) Uncovered(ctx context.Context, tenant, gallery, modelID string, p store.Page) (subjects []string, next string, err error) {
	const op = "Uncovered"
	after, err := store.ReadPage(op, p, "uncovered", tenant, gallery, modelID)
	if err != nil {
		return nil, "", wrap(op, err)
	}
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) error {
		subjects = nil
		if _, err := readGallery(ctx, q, op, tenant, gallery); err != nil {
			return err
		}
		rows, err := q.Query(ctx, `SELECT s.id FROM gallery g JOIN subject s ON s.gallery = g.row_id
			WHERE g.tenant = $1 AND g.id = $2 AND s.id > $4 AND `+uncovered+` ORDER BY s.id LIMIT $5`,
			tenant, gallery, modelID, after, p.Limit+1)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			var id string
			err := rows.Scan(&id)
			subjects = append(subjects, id)
			return err
		})
	})
	byID := func(id string) string { return id }
	if err == nil {
		err = wrap(op, store.CheckOrder(op, after, subjects, byID))
	}
	if err != nil {
		return nil, "", err
	}
	subjects, next = store.CutPage(subjects, p, byID, "uncovered", tenant, gallery, modelID)
	return subjects, next, nil
}

// CutOver implements [store.Samples].
func (s *Store) CutOver(ctx context.Context, tenant, gallery, modelID string) (g face.Gallery, err error) {
	const op = "CutOver"
	err = s.db.call(op, func() error {
		err := s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			row, err := lockGallery(ctx, tx, op, tenant, gallery)
			if err != nil {
				return err
			}
			// No enrolment either, until everybody has been counted.
			if _, err := tx.Exec(ctx, `SELECT FROM gallery WHERE row_id = $1 FOR UPDATE`, row); err != nil {
				return err
			}
			if g, err = readGallery(ctx, tx, op, tenant, gallery); err != nil {
				return err
			}
			if modelID == "" || g.NextModelID != modelID {
				return face.Errorf(face.Conflict, op, "the gallery is not being moved to %s", modelID)
			}
			c, err := coverage(ctx, tx, op, tenant, gallery, modelID)
			if err != nil {
				return err
			}
			if c.Covered < c.Subjects {
				return face.Errorf(face.Conflict, op, "%d of %d subjects have no template of %s", c.Subjects-c.Covered, c.Subjects, modelID)
			}
			if _, err := tx.Exec(ctx, `UPDATE gallery SET model_id = $2, next_model_id = '' WHERE row_id = $1`, row, modelID); err != nil {
				return err
			}
			g.ModelID, g.NextModelID = modelID, ""
			return nil
		})
		if err == nil {
			s.feed.wrote(ctx) // and so the other servers look
		}
		return err
	})
	return result(g, err)
}

// AddToSample implements [store.Samples]. Erases wait for the gallery's lock,
// so that the sample that is there stays until the template is.
func (s *Store) AddToSample(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error) {
	const op = "AddToSample"
	err := s.db.call(op, func() error {
		if err := store.CheckTemplate(op, t); err != nil {
			return err
		}
		if err := index.Validate(t.Embedding); err != nil {
			return err
		}
		t.CreatedAt = store.Stamp(t.CreatedAt)
		err := s.db.transact(ctx, true, func(ctx context.Context, tx pgx.Tx) error {
			row, err := lockGallery(ctx, tx, op, tenant, gallery)
			if err != nil {
				return err
			}
			var there bool
			if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM template WHERE gallery = $1 AND sample = $2)`, row, t.SampleID).Scan(&there); err != nil {
				return err
			}
			if !there {
				return face.Errorf(face.NotFound, op, "no such sample")
			}
			e := enrolment{q: tx, op: op, tenant: tenant, gallery: gallery, t: &t}
			if err = e.add(ctx); errors.Is(err, errFirst) {
				err = e.addFirst(ctx)
			}
			return err
		})
		if err == nil {
			s.feed.wrote(ctx)
		}
		return err
	})
	t.Crop = nil
	return result(t, err)
}
