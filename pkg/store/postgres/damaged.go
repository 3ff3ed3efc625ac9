package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// checkEmbedding says what is wrong with a stored embedding of a model of that
// dimension, if anything is.
func checkEmbedding(e face.Embedding, dimension int) error {
	if len(e) != dimension {
		return fmt.Errorf("it has %d numbers, not the %d that its model gives", len(e), dimension)
	}
	return index.Validate(e)
}

// embeddingUnlessDamaged is a stored embedding; one that is damaged is noted, and none.
func (s *Store) embeddingUnlessDamaged(tenant, gallery, subject, template, model string, e face.Embedding, dimension int) face.Embedding {
	if err := checkEmbedding(e, dimension); err != nil {
		s.damaged.Note(store.Place{Tenant: tenant, Gallery: gallery, SubjectID: subject, TemplateID: template, ModelID: model}, err)
		return nil
	}
	return e
}

// models are those that templates are of: as the galleries say.
const models = `gallery_model`

// usualModels are models, but each with the dimension that most of its
// embeddings have, which is the right one where the gallery's is damaged.
const usualModels = `(SELECT DISTINCT ON (m.row_id) m.row_id, m.gallery, m.model_id, vector_dims(t.embedding) AS dimension
	FROM gallery_model m JOIN template t ON t.gallery_model = m.row_id
	GROUP BY m.row_id, vector_dims(t.embedding) ORDER BY m.row_id, count(*) DESC, vector_dims(t.embedding) = m.dimension DESC)`

// placed reads templates of models with where they are.
const placed = `SELECT g.tenant, g.id, m.model_id, m.dimension, s.id, t.id, t.embedding
	FROM template t JOIN subject s ON s.row_id = t.subject
	JOIN %s m ON m.row_id = t.gallery_model JOIN gallery g ON g.row_id = m.gallery`

// suspect chooses those of placed that may be damaged: the database's numbers
// differ from ours in their last digits.
const suspect = ` WHERE vector_dims(t.embedding) <> m.dimension OR NOT (abs(vector_norm(t.embedding) - 1) < 0.9e-3)`

// eachDamaged calls note for those of placed that are damaged.
func eachDamaged(ctx context.Context, q querier, models, where string, args []any, note func(store.Place, error) error) error {
	rows, err := q.Query(ctx, fmt.Sprintf(placed, models)+where, args...)
	return scanAll(rows, err, func(rows pgx.Rows) error {
		var at store.Place
		var dimension int
		var v pgvector.Vector
		if err := rows.Scan(&at.Tenant, &at.Gallery, &at.ModelID, &dimension, &at.SubjectID, &at.TemplateID, &v); err != nil {
			return err
		}
		if damage := checkEmbedding(v.Slice(), dimension); damage != nil {
			return note(at, damage)
		}
		return nil
	})
}

// DamagedTemplates implements [store.Templates]. Where the database searches,
// nobody has looked at all templates yet: the first call has that begin, and
// the next one again after it failed.
func (s *Store) DamagedTemplates(ctx context.Context) (n int, err error) {
	err = s.db.call("DamagedTemplates", func() error {
		if s.feed.index.Load() == nil {
			if s.scanned.CompareAndSwap(false, true) {
				s.running.Go(s.scan)
			}
		}
		return s.damaged.Recheck(func(at store.Place) (damaged bool, err error) {
			err = eachDamaged(ctx, s.db.pool, models, ` WHERE g.tenant = $1 AND t.gallery = g.row_id AND g.id = $2 AND t.id = $3`,
				[]any{at.Tenant, at.Gallery, at.TemplateID}, func(store.Place, error) error { damaged = true; return nil })
			return damaged, err
		})
	})
	return result(s.damaged.Count(), err)
}

// scan looks at all templates.
func (s *Store) scan() {
	err := eachDamaged(s.background, s.db.own, models, suspect, nil, func(at store.Place, reason error) error {
		s.damaged.Note(at, reason)
		return nil
	})
	if err != nil && s.background.Err() == nil {
		s.scanned.Store(false)
		s.o.Logger.Warn("cannot look for damaged embeddings", "error", err)
	}
}
