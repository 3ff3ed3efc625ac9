package sqlite

import (
	"context"
	"database/sql"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const sampleColumns = `c.sample_id, s.id, c.quality, c.created_at`

func scanSample(rows *sql.Rows, more ...any) (m store.Sample, err error) {
	var quality float64
	var created int64
	err = rows.Scan(append([]any{&m.ID, &m.SubjectID, &quality, &created}, more...)...)
	m.Quality, m.CreatedAt = float32(quality), fromMicros(created)
	return m, err
}

// Sample implements [store.Samples].
func (s *Store) Sample(ctx context.Context, tenant, gallery, sample string) (store.Sample, error) {
	const op = "Sample"
	var found store.Sample
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		err := v.each(func(rows *sql.Rows) (err error) {
			var crop []byte
			found, err = scanSample(rows, &crop)
			found.Crop = crop
			return err
		}, `SELECT `+sampleColumns+`, c.sealed FROM crop c JOIN subject s ON s.row_id = c.subject
			WHERE c.gallery = ? AND c.sample_id = ?`, row, sample)
		if err == nil && found.ID == "" {
			err = face.Errorf(face.NotFound, op, "no crop of such a sample")
		}
		return err
	})
	return result(s.db, op, found, err)
}

// PendingSamples implements [store.Samples].
func (s *Store) PendingSamples(ctx context.Context, tenant, gallery, modelID, after string, limit int) ([]store.Sample, error) {
	const op = "PendingSamples"
	if _, err := store.ReadPage(op, store.Page{Limit: limit}); err != nil {
		return nil, s.db.wrap(op, err)
	}
	var list []store.Sample
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		return v.each(func(rows *sql.Rows) error {
			m, err := scanSample(rows)
			list = append(list, m)
			return err
		}, `SELECT `+sampleColumns+` FROM crop c CROSS JOIN subject s ON s.row_id = c.subject
			WHERE c.gallery = ? AND c.sample_id > ? AND NOT EXISTS (`+templateOfSample+`)
			ORDER BY c.sample_id LIMIT ?`, row, after, modelID, limit)
	})
	if err == nil {
		err = store.CheckOrder(op, after, list, func(m store.Sample) string { return m.ID })
	}
	return result(s.db, op, list, err)
}

// What a gallery has of a model, asked of a crop c or of a subject s.
const (
	templateOfSample = `SELECT 1 FROM template t
		WHERE t.gallery = c.gallery AND t.sample_id = c.sample_id AND t.model_id = ?`
	templateOfAny   = `SELECT 1 FROM template t WHERE t.subject = s.row_id`
	templateOfModel = templateOfAny + ` AND t.model_id = ?`
	cropOfSubject   = `SELECT 1 FROM crop c WHERE c.subject = s.row_id`
)

// AddToSample implements [store.Samples].
func (s *Store) AddToSample(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error) {
	const op = "AddToSample"
	return s.enrolIf(ctx, op, tenant, gallery, t, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		there, err := tx.count(`SELECT EXISTS (SELECT 1 FROM template WHERE gallery = ? AND sample_id = ?)`, row, t.SampleID)
		if err == nil && there == 0 {
			err = face.Errorf(face.NotFound, op, "no such sample")
		}
		return err
	})
}

// Coverage implements [store.Samples].
func (s *Store) Coverage(ctx context.Context, tenant, gallery, modelID string) (store.Coverage, error) {
	const op = "Coverage"
	var c store.Coverage
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		_, err := v.scanFirst([]any{&c.Subjects, &c.Covered, &c.Uncovered},
			`SELECT count(*), coalesce(sum(covered), 0), coalesce(sum(NOT covered AND NOT EXISTS (`+cropOfSubject+`)), 0)
			FROM (SELECT s.row_id, EXISTS (`+templateOfModel+`) AS covered
				FROM subject s WHERE s.gallery = ? AND EXISTS (`+templateOfAny+`)) s`, modelID, row)
		if err == nil {
			c.Pending, err = v.count(`SELECT count(*) FROM crop c WHERE c.gallery = ? AND NOT EXISTS (`+templateOfSample+`)`, row, modelID)
		}
		return err
	})
	return result(s.db, op, c, err)
}

// Uncovered implements [store.Samples].
func (s *Store) Uncovered(ctx context.Context, tenant, gallery, modelID string, p store.Page) ([]string, string, error) {
	const op = "Uncovered"
	after, err := store.ReadPage(op, p, "uncovered", tenant, gallery, modelID)
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	var list []string
	err = s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		return v.each(func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			list = append(list, id)
			return err
		}, `SELECT s.id FROM subject s WHERE s.gallery = ? AND s.id > ?
			AND EXISTS (`+templateOfAny+`) AND NOT EXISTS (`+templateOfModel+`) AND NOT EXISTS (`+cropOfSubject+`)
			ORDER BY s.id LIMIT ?`, row, after, modelID, p.Limit+1)
	})
	byID := func(id string) string { return id }
	if err == nil {
		err = store.CheckOrder(op, after, list, byID)
	}
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	list, next := store.CutPage(list, p, byID, "uncovered", tenant, gallery, modelID)
	return list, next, nil
}

// CutOver implements [store.Samples].
func (s *Store) CutOver(ctx context.Context, tenant, gallery, modelID string) (face.Gallery, error) {
	const op = "CutOver"
	var g face.Gallery
	err := s.db.change(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		if g, err = tx.readGallery(op, tenant, gallery); err != nil {
			return err
		}
		if modelID == "" || g.NextModelID != modelID {
			return face.Errorf(face.Conflict, op, "the gallery is not being moved to this model")
		}
		lacking, err := tx.count(`SELECT EXISTS (SELECT 1 FROM subject s WHERE s.gallery = ?
			AND EXISTS (`+templateOfAny+`) AND NOT EXISTS (`+templateOfModel+`))`, row, modelID)
		if err == nil && lacking > 0 {
			err = face.Errorf(face.Conflict, op, "not everybody in the gallery has a template of %s", modelID)
		}
		if err != nil {
			return err
		}
		g.ModelID, g.NextModelID = modelID, ""
		_, err = tx.exec(`UPDATE gallery SET model_id = ?, next_model_id = '' WHERE row_id = ?`, modelID, row)
		return err
	})
	return result(s.db, op, g, err)
}
