package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// purgeBatch is how many templates one transaction purges, so that a large
// purge lets other writes through.
const purgeBatch = 5000

// restBatch is the same for rows that are not templates.
const restBatch = 50_000

// Enrol implements [store.Templates].
func (s *Store) Enrol(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error) {
	const op = "Enrol"
	err := s.db.call(op, func() error {
		if err := store.CheckTemplate(op, t); err != nil {
			return err
		}
		if err := index.Validate(t.Embedding); err != nil {
			return err
		}
		t.SampleID, t.CreatedAt = sampleOf(t), store.Stamp(t.CreatedAt)
		err := s.db.writeOnce(ctx, func(ctx context.Context, q querier) error {
			e := enrolment{q: q, op: op, tenant: tenant, gallery: gallery, t: &t}
			err := e.add(ctx)
			if !errors.Is(err, errFirst) {
				return err
			}
			return pgdb.InTransaction(ctx, s.db.pool, func(ctx context.Context, tx pgx.Tx) error {
				e.q = tx
				return e.addFirst(ctx)
			})
		})
		if err != nil {
			return err
		}
		s.feed.wrote(ctx)
		return nil
	})
	t.Crop = nil
	return result(t, err)
}

// enrolment is one template on its way in.
type enrolment struct {
	q                   querier
	op, tenant, gallery string
	t                   *face.Template
}

// errFirst says that the gallery has no template of the model yet.
var errFirst = errors.New("first template of its model")

// add adds the template in one statement, which is a transaction of its own:
// what it locks of the gallery, to count, it locks for no round trip. It
// leaves in t what is stored.
func (e enrolment) add(ctx context.Context) error {
	t := e.t
	var subject, shelf, made *int64
	var dimension *int
	var strangers *bool
	there, err := scanOne(e.q.QueryRow(ctx, `
		WITH place AS (
			SELECT g.row_id AS gallery, g.store_images, s.row_id AS subject, m.row_id AS shelf, m.dimension,
				EXISTS (SELECT 1 FROM template t
					WHERE t.gallery = g.row_id AND t.sample = $6 AND t.subject <> s.row_id) AS strangers
			FROM gallery g
			LEFT JOIN subject s ON s.gallery = g.row_id AND s.id = $3
			LEFT JOIN gallery_model m ON m.gallery = g.row_id AND m.model_id = $4
			WHERE g.tenant = $1 AND g.id = $2 FOR KEY SHARE OF g
		), made AS (
			INSERT INTO template (id, gallery, gallery_model, subject, sample, embedding, quality, created_at)
			SELECT $5, gallery, shelf, subject, $6, $7, $8, $9 FROM place
			WHERE subject IS NOT NULL AND dimension = $10 AND NOT strangers
			ON CONFLICT (gallery, id) DO NOTHING RETURNING row_id
		), kept AS (
			INSERT INTO crop (gallery, sample, subject, quality, created_at, sealed)
			SELECT gallery, $6, subject, $8, $9, $11 FROM place, made WHERE store_images AND $11::bytea IS NOT NULL
			ON CONFLICT DO NOTHING
		)
		SELECT p.subject, p.shelf, p.dimension, p.strangers, m.row_id FROM place p LEFT JOIN made m ON true`,
		e.tenant, e.gallery, t.SubjectID, t.ModelID,
		t.ID, t.SampleID, pgvector.NewVector(t.Embedding), t.Quality, t.CreatedAt, len(t.Embedding), t.Crop,
	), &subject, &shelf, &dimension, &strangers, &made)
	switch {
	case err != nil:
		return err
	case !there && e.gallery != face.DefaultGallery:
		return errNoGallery(e.op)
	case subject == nil:
		return errNoSubject(e.op)
	case shelf == nil:
		return errFirst
	case *dimension != len(t.Embedding):
		return errDimension(e.op, t.ModelID, *dimension, len(t.Embedding))
	case *strangers:
		return errSampleTaken(e.op)
	case made == nil:
		return e.checkSame(ctx, *subject)
	}
	return nil
}

// addFirst adds a template of a model that the gallery has none of.
func (e enrolment) addFirst(ctx context.Context) error {
	if _, err := e.q.Exec(ctx, `INSERT INTO gallery_model (gallery, model_id, dimension)
		SELECT row_id, $3, $4 FROM gallery WHERE tenant = $1 AND id = $2 ON CONFLICT DO NOTHING`,
		e.tenant, e.gallery, e.t.ModelID, len(e.t.Embedding)); err != nil {
		return err
	}
	err := e.add(ctx)
	if errors.Is(err, errFirst) {
		return &face.Error{Kind: face.Unavailable, Op: e.op, Err: err} // erased at the same moment
	}
	return err
}

// checkSame replaces t by the stored template of its id, which must be the same
// but for quality and time.
func (e enrolment) checkSame(ctx context.Context, subject int64) error {
	var old face.Template
	var owner int64
	var dimension int
	var v pgvector.Vector
	t := e.t
	there, err := scanOne(e.q.QueryRow(ctx, `SELECT t.id, m.model_id, m.dimension, t.sample, t.embedding, t.quality, t.created_at, t.subject
		FROM template t JOIN gallery_model m ON m.row_id = t.gallery_model JOIN subject s ON s.gallery = t.gallery
		WHERE s.row_id = $1 AND t.id = $2`, subject, t.ID),
		&old.ID, &old.ModelID, &dimension, &old.SampleID, &v, &old.Quality, &old.CreatedAt, &owner)
	switch {
	case err != nil:
		return err
	case !there: // erased since
		return &face.Error{Kind: face.Unavailable, Op: e.op, Detail: "the template was erased at the same moment"}
	case checkEmbedding(v.Slice(), dimension) != nil:
		return errTemplateDamaged(e.op)
	case owner != subject || old.ModelID != t.ModelID || !slices.Equal(v.Slice(), t.Embedding):
		return errTemplateTaken(e.op)
	}
	old.SubjectID, old.Embedding, old.CreatedAt = t.SubjectID, v.Slice(), old.CreatedAt.UTC()
	*t = old
	return nil
}

func errTemplateTaken(op string) error {
	return face.Errorf(face.Conflict, op, "the template_id is taken by another template")
}

func errTemplateDamaged(op string) error {
	return face.Errorf(face.Conflict, op, "the template_id is taken by a template whose embedding is damaged: erase that first")
}

func errSampleTaken(op string) error {
	return face.Errorf(face.Conflict, op, "the sample is another subject's")
}

func errDimension(op, model string, want, got int) error {
	return face.Errorf(face.ModelMismatch, op, "embeddings of %s have %d numbers in this gallery, not %d", model, want, got)
}

// Templates implements [store.Templates].
func (s *Store) Templates(ctx context.Context, tenant, gallery, subject, modelID string) (templates []face.Template, err error) {
	const op = "Templates"
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) error {
		templates = nil
		there, known := false, false
		rows, err := q.Query(ctx, `
			SELECT s.row_id, t.id, t.sample, m.model_id, m.dimension, t.embedding, t.quality, t.created_at FROM gallery g
			LEFT JOIN subject s ON s.gallery = g.row_id AND s.id = $3
			LEFT JOIN (template t JOIN gallery_model m ON m.row_id = t.gallery_model)
				ON t.subject = s.row_id AND ($4 = '' OR m.model_id = $4)
			WHERE g.tenant = $1 AND g.id = $2 ORDER BY t.created_at, t.row_id`, tenant, gallery, subject, modelID)
		err = scanAll(rows, err, func(rows pgx.Rows) error {
			there = true
			var row *int64
			var id, sample, model *string
			var dimension *int
			var v *pgvector.Vector
			var quality *float32
			var created *time.Time
			if err := rows.Scan(&row, &id, &sample, &model, &dimension, &v, &quality, &created); err != nil {
				return err
			}
			known = row != nil
			if id != nil {
				templates = append(templates, face.Template{
					ID: *id, SubjectID: subject, SampleID: *sample, ModelID: *model,
					Embedding: s.embeddingUnlessDamaged(tenant, gallery, subject, *id, *model, v.Slice(), *dimension), Quality: *quality, CreatedAt: created.UTC(),
				})
			}
			return nil
		})
		switch {
		case err != nil:
			return err
		case !there:
			return noGallery{errNoGallery(op)}
		case !known:
			return errNoSubject(op)
		}
		return nil
	})
	return result(templates, err)
}

// DeleteTemplate implements [store.Templates].
func (s *Store) DeleteTemplate(ctx context.Context, tenant, gallery, subject, template string, by store.Actor) (receipt face.Receipt, err error) {
	const op = "DeleteTemplate"
	err = s.erase(ctx, op, func(ctx context.Context, tx pgx.Tx) error {
		row, err := lockGallery(ctx, tx, op, tenant, gallery)
		if err != nil {
			return err
		}
		var owner int64
		var sample string
		there, err := scanOne(tx.QueryRow(ctx, `SELECT s.row_id, t.sample FROM template t JOIN subject s ON s.row_id = t.subject
			WHERE t.gallery = $1 AND t.id = $2 AND s.id = $3`, row, template, subject), &owner, &sample)
		if err == nil && !there {
			err = face.Errorf(face.NotFound, op, "no such template")
		}
		if err != nil {
			return err
		}
		receipt = face.Receipt{Gallery: gallery, SubjectID: subject}
		if err := lockShelves(ctx, tx, row); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM template WHERE subject = $1 AND sample = $2`, owner, sample)
		if err != nil {
			return err
		}
		receipt.Templates = int(tag.RowsAffected())
		tag, err = tx.Exec(ctx, `DELETE FROM crop WHERE gallery = $1 AND sample = $2 AND subject = $3`, row, sample, owner)
		if err != nil {
			return err
		}
		receipt.Images = int(tag.RowsAffected())
		return recordErase(ctx, tx, tenant, by, store.AuditEraseTemplate, template, &receipt)
	})
	return result(receipt, err)
}

// erase is a write that erases. When it returns, no search of this store
// finds what was erased; no search of another one does either, since names
// are looked up in the database.
func (s *Store) erase(ctx context.Context, op string, work func(context.Context, pgx.Tx) error) error {
	return s.db.call(op, func() error {
		if err := s.db.transactWithin(ctx, bulkTimeout, false, work); err != nil {
			return err
		}
		s.erasures.Store(true)
		s.feed.wrote(ctx)
		return nil
	})
}

// PurgeExpired implements [store.Templates]. Afterwards it has the database
// give up the room of what was erased.
func (s *Store) PurgeExpired(ctx context.Context, now time.Time) (purged int, err error) {
	err = s.db.call("PurgeExpired", func() error {
		purged, err = s.purgeTemplates(ctx, now)
		// One does not wait for the other to succeed.
		return errors.Join(err, s.purgeRest(ctx, now), s.vacuum(ctx))
	})
	return purged, err
}

func (s *Store) purgeTemplates(ctx context.Context, now time.Time) (purged int, err error) {
	var galleries []int64
	rows, err := s.db.pool.Query(ctx, `SELECT g.row_id FROM gallery g WHERE g.retention_days > 0 AND EXISTS (
		SELECT 1 FROM gallery_model m JOIN template t ON t.gallery_model = m.row_id
		WHERE m.gallery = g.row_id AND t.created_at < $1::timestamptz - make_interval(days => g.retention_days))`, now)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var row int64
		err := rows.Scan(&row)
		galleries = append(galleries, row)
		return err
	}); err != nil {
		return 0, err
	}
	for _, gallery := range galleries {
		for more := true; more; {
			n, err := s.purge(ctx, gallery, now)
			if err != nil {
				return purged, err
			}
			purged, more = purged+n, n == purgeBatch
		}
	}
	return purged, nil
}

// purgeRest drops the answers and the changes that are past their time,
// some at a time.
func (s *Store) purgeRest(ctx context.Context, now time.Time) error {
	for _, what := range []struct {
		query string
		until any
	}{
		{`DELETE FROM idempotency WHERE (tenant, key) IN (SELECT tenant, key FROM idempotency WHERE created_at < $1 LIMIT $2)`, now.Add(-store.IdempotencyTTL)},
		{`DELETE FROM template_change WHERE seq IN (SELECT seq FROM template_change WHERE at < now() - $1::interval LIMIT $2)`, changesKept},
	} {
		for more := true; more; {
			if err := s.db.writeOnce(ctx, func(ctx context.Context, q querier) error {
				tag, err := q.Exec(ctx, what.query, what.until, restBatch)
				more = tag.RowsAffected() == restBatch
				return err
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// purge erases up to purgeBatch expired templates of the gallery with the
// given row, as its retention is now.
func (s *Store) purge(ctx context.Context, gallery int64, now time.Time) (n int, err error) {
	err = s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
		n = 0
		var tenant string
		receipt := face.Receipt{}
		there, err := scanOne(tx.QueryRow(ctx, `SELECT tenant, id FROM gallery WHERE row_id = $1 AND retention_days > 0 FOR NO KEY UPDATE`,
			gallery), &tenant, &receipt.Gallery)
		if err == nil && there {
			err = lockShelves(ctx, tx, gallery)
		}
		if err != nil || !there {
			return err
		}
		var samples []string
		rows, err := tx.Query(ctx, `DELETE FROM template WHERE row_id IN (
				SELECT t.row_id FROM gallery g JOIN gallery_model m ON m.gallery = g.row_id JOIN template t ON t.gallery_model = m.row_id
				WHERE g.row_id = $1 AND t.created_at < $2::timestamptz - make_interval(days => g.retention_days) LIMIT $3
			) RETURNING sample`, gallery, now, purgeBatch)
		if err := scanAll(rows, err, func(rows pgx.Rows) error {
			var sample string
			err := rows.Scan(&sample)
			samples = append(samples, sample)
			return err
		}); err != nil || len(samples) == 0 {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM crop c WHERE c.gallery = $1 AND c.sample = ANY($2)
			AND NOT EXISTS (SELECT 1 FROM template t WHERE t.subject = c.subject AND t.sample = c.sample)`, gallery, samples)
		if err != nil {
			return err
		}
		n, receipt.Templates, receipt.Images = len(samples), len(samples), int(tag.RowsAffected())
		return recordErase(ctx, tx, tenant, store.Actor{}, store.AuditExpire, "", &receipt)
	})
	if n > 0 && err == nil {
		s.erasures.Store(true)
		s.feed.wrote(ctx)
	}
	return n, err
}

// vacuum has the database overwrite and give up the room of erased rows, once
// after each erase.
func (s *Store) vacuum(ctx context.Context) error {
	if !s.erasures.Swap(false) {
		return nil
	}
	for _, table := range []string{"template", "subject", "crop", "gallery", "gallery_model", "template_change", "idempotency"} {
		if _, err := s.db.pool.Exec(ctx, "VACUUM (SKIP_LOCKED) "+table); err != nil {
			s.erasures.Store(true)
			return fmt.Errorf("vacuum %s: %w", table, err)
		}
	}
	return nil
}
