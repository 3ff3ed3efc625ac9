package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/pkg/face"
)

// Holding is what a gallery holds of a model: what one search looks through.
type Holding struct {
	Tenant, Gallery, ModelID string
	Templates, Subjects      int64
	Dimension                int
}

// IndexBytes is the memory that an index of it takes, at most: a row for each
// subject, ids for each template, and the numbers of the templates of those who
// have several. Those are the fewest subjects if each of them has two.
func (h Holding) IndexBytes() int64 {
	severals := min(h.Templates, 2*(h.Templates-h.Subjects))
	return 5*int64(h.Dimension)*h.Subjects + 4*int64(h.Dimension)*severals + templateBytes*h.Templates
}

// Holdings lists what all galleries hold, those of which a search looks
// through the most first.
func (s *Store) Holdings(ctx context.Context) (list []Holding, err error) {
	err = s.db.call("Holdings", func() error {
		rows, err := s.db.pool.Query(ctx, `SELECT g.tenant, g.id, m.model_id, m.templates, m.subjects, m.dimension
			FROM gallery_model m JOIN gallery g ON g.row_id = m.gallery ORDER BY m.templates DESC, g.tenant, g.id, m.model_id`)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			var h Holding
			err := rows.Scan(&h.Tenant, &h.Gallery, &h.ModelID, &h.Templates, &h.Subjects, &h.Dimension)
			list = append(list, h)
			return err
		})
	})
	return result(list, err)
}

// Draw reads what at most n subjects, drawn at random, are compared as: what
// measures a search needs some of those that it looks through. They need not be
// of unit length. NotFound: the gallery, or it has no template of the model.
func (s *Store) Draw(ctx context.Context, tenant, gallery, modelID string, n int) (list []face.Embedding, err error) {
	const op = "Draw"
	err = s.db.call(op, func() error {
		g, err := s.shelfOf(ctx, op, tenant, gallery, modelID)
		if err != nil {
			return err
		}
		// The ids are drawn first: to sort embeddings would take their memory.
		rows, err := s.db.pool.Query(ctx, `SELECT `+searchedVector+` FROM template t WHERE t.row_id = ANY(ARRAY(
			SELECT row_id FROM template WHERE gallery_model = $1 AND searched ORDER BY random() LIMIT $2))`, g.shelf, n)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			var v pgvector.Vector
			err := rows.Scan(&v)
			list = append(list, v.Slice())
			return err
		})
	})
	return result(list, err)
}
