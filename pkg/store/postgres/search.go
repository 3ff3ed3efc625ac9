package postgres

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// Search implements [store.Templates].
func (s *Store) Search(ctx context.Context, tenant, gallery, modelID string, probe face.Embedding, k int) (r store.Result, err error) {
	const op = "Search"
	err = s.db.call(op, func() error {
		if err := store.CheckK(op, k); err != nil {
			return err
		}
		if err := index.Validate(probe); err != nil {
			return err
		}
		if err := s.feed.ready(); err != nil {
			return err
		}
		key := index.Key{Tenant: tenant, Gallery: gallery, ModelID: modelID}
		if err := s.feed.makeUp(ctx); err != nil {
			return err
		}
		x := s.feed.index.Load()
		if x == nil {
			r, err = s.searchDatabase(ctx, op, key, probe, k)
			return err
		}
		r, err = s.searchIndex(ctx, op, x, key, probe, k)
		return err
	})
	return result(r, err)
}

// Comparisons implements [store.Templates].
func (s *Store) Comparisons(ctx context.Context, tenant, gallery, modelID string) (n int, err error) {
	err = s.db.call("Comparisons", func() error {
		if err := s.feed.ready(); err != nil {
			return err
		}
		if x := s.feed.index.Load(); x != nil {
			n = x.Subjects(index.Key{Tenant: tenant, Gallery: gallery, ModelID: modelID})
			return nil
		}
		damaged := s.damaged.Templates(store.Place{Tenant: tenant, Gallery: gallery, ModelID: modelID})
		return s.replicas.read(ctx, func(ctx context.Context, q querier) error {
			n = 0
			_, err := scanOne(q.QueryRow(ctx, `SELECT m.subjects - (
					SELECT count(DISTINCT t.subject) FROM template t
					WHERE t.gallery = g.row_id AND t.gallery_model = m.row_id AND t.id = ANY($4) AND NOT EXISTS (
						SELECT 1 FROM template o WHERE o.subject = t.subject AND o.gallery_model = m.row_id AND o.id <> ALL($4)))
				FROM gallery_model m JOIN gallery g ON g.row_id = m.gallery
				WHERE g.tenant = $1 AND g.id = $2 AND m.model_id = $3`, tenant, gallery, modelID, damaged), &n)
			return err
		})
	})
	return result(n, err)
}

// searchTries is how often a search looks again because somebody it found had
// been erased.
const searchTries = 10

// searchIndex asks the index for candidates and the database for their names.
// Whoever the database does not know any more has been erased, and of whom it
// does not know a template, that template; the list is then made anew from an
// index that knows it too.
func (s *Store) searchIndex(ctx context.Context, op string, x *index.Index, key index.Key, probe face.Embedding, k int) (r store.Result, err error) {
	for range searchTries {
		hits, subjects, err := x.Search(ctx, key, probe, k)
		if err != nil {
			return r, err
		}
		r = store.Result{Candidates: make([]face.Candidate, 0, len(hits)), GallerySize: subjects}
		owners, err := s.owners(ctx, op, key, hits)
		if err != nil {
			return r, err
		}
		for _, h := range hits {
			if slices.ContainsFunc(h.TemplateIDs, func(id string) bool { return owners[id].subject != h.SubjectID }) {
				continue
			}
			r.Candidates = append(r.Candidates, face.Candidate{
				SubjectID: h.SubjectID, Name: owners[h.TemplateIDs[0]].name, Templates: len(h.TemplateIDs), Score: h.Score,
			})
		}
		if len(r.Candidates) == len(hits) {
			return r, nil
		}
		if err := s.feed.catchUp(ctx, false); err != nil {
			return r, err
		}
		x = cmp.Or(s.feed.index.Load(), x)
	}
	return r, nil
}

// rowMark stands in the index between a template's id and its row: no id has
// it in it. An id may be used again, for somebody else; a row never is.
const rowMark = "\x00"

func rowID(template string, row int64) string { return template + rowMark + strconv.FormatInt(row, 10) }

type owner struct{ subject, name string }

// owners are the subjects of templates that a search found, by what they are
// called in the index. It asks the primary: a replica may not have heard yet of
// one that the index has, or of one that is erased.
func (s *Store) owners(ctx context.Context, op string, key index.Key, hits []index.Hit) (map[string]owner, error) {
	rowsOf := make([]int64, 0, len(hits))
	for _, h := range hits {
		for _, id := range h.TemplateIDs {
			_, row, _ := strings.Cut(id, rowMark)
			n, err := strconv.ParseInt(row, 10, 64)
			if err != nil {
				return nil, err
			}
			rowsOf = append(rowsOf, n)
		}
	}
	owners := make(map[string]owner, len(rowsOf))
	err := s.db.read(ctx, func(ctx context.Context, q querier) error {
		clear(owners)
		there := false
		rows, err := q.Query(ctx, `SELECT h.id, h.row_id, h.subject, h.name FROM gallery g LEFT JOIN LATERAL (
				SELECT t.id, t.row_id, s.id AS subject, s.name FROM template t JOIN subject s ON s.row_id = t.subject
				WHERE t.row_id = ANY($3) AND s.gallery = g.row_id
			) h ON true WHERE g.tenant = $1 AND g.id = $2`, key.Tenant, key.Gallery, rowsOf)
		err = scanAll(rows, err, func(rows pgx.Rows) error {
			there = true
			var id, subject, name *string
			var row *int64
			if err := rows.Scan(&id, &row, &subject, &name); err != nil || id == nil {
				return err
			}
			owners[rowID(*id, *row)] = owner{*subject, *name}
			return nil
		})
		if err == nil && !there && key.Gallery != face.DefaultGallery {
			err = errNoGallery(op)
		}
		return err
	})
	return owners, err
}

const (
	// firstRows is the least number of subjects that a search in the database
	// fetches: a round trip costs more than some that are not needed.
	firstRows = 32

	// rounding bounds how far pgvector's float32 inner product of two unit
	// vectors may be from the score: the sum of up to 4,096 products, each
	// with a relative error of 2^-24 at every addition. That the database fused
	// in its own arithmetic adds less than 1e-6.
	rounding = 3e-4
)

// foundSubject is a subject that a search in the database fetched.
type foundSubject struct {
	id, name  string
	distance  float64         // the database's
	templates []face.Template // of the model
}

// searchDatabase finds the k best subjects by pgvector. It fetches the nearest
// subjects with their templates and scores them anew, as everywhere; when one
// that it did not fetch could still belong into the list, it fetches more.
func (s *Store) searchDatabase(ctx context.Context, op string, key index.Key, probe face.Embedding, k int) (store.Result, error) {
	exactly := false
	for limit := max(firstRows, 2*k); ; limit *= 4 {
		found, shelf, approximate, err := s.nearest(ctx, op, key, probe, limit, exactly)
		if err != nil {
			return store.Result{}, err
		}
		if shelf.templates > 0 && shelf.dimension != len(probe) {
			return store.Result{}, errProbe(len(probe), shelf.dimension)
		}
		best := bestOf(found, probe)
		r := store.Result{GallerySize: max(shelf.subjects, len(best))}
		var whole bool
		switch {
		case approximate:
			whole = len(best) >= min(k, shelf.subjects)
			exactly = len(found) < limit // a graph may end before it has given all
		case len(found) < limit:
			whole = true
		case len(best) >= k:
			whole = best[k-1].Score > -found[len(found)-1].distance+rounding
		}
		if whole {
			r.Candidates = best[:min(k, len(best))]
			return r, nil
		}
	}
}

func errProbe(got, want int) error {
	return face.Errorf(face.ModelMismatch, "", "embedding has %d numbers, the model's have %d", got, want)
}

// bestOf scores the subjects, but for those whose templates are all damaged, and
// lists the best first.
func bestOf(found []foundSubject, probe face.Embedding) []face.Candidate {
	var best []face.Candidate
	for _, f := range found {
		if fused, n := face.FuseTemplates(f.templates); n > 0 {
			best = append(best, face.Candidate{SubjectID: f.id, Name: f.name, Templates: n, Score: probe.Cosine(fused)})
		}
	}
	slices.SortFunc(best, func(a, b face.Candidate) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.SubjectID, b.SubjectID))
	})
	return best
}

// shelf is what a gallery holds of a model.
type shelf struct{ templates, subjects, dimension int }

// searchedVector is what a search in the database compares of the row of
// template t that stands for a subject.
const searchedVector = `coalesce(t.fused, t.embedding)`

// nearest fetches the subjects nearest to the probe, nearest first, in one round
// trip. It uses a graph where there is one for a gallery of that size, unless it
// must not, and says so.
func (s *Store) nearest(ctx context.Context, op string, key index.Key, probe face.Embedding, limit int, exactly bool) (list []foundSubject, sh shelf, approximate bool, err error) {
	g, ok := (*s.graphs.Load())[key]
	approximate = ok && !exactly && g.subjects > int64(s.o.GraphAbove) && g.dimension == len(probe)
	order := `(` + searchedVector + ` <#> $4) + 0` // no index of any kind serves this
	which := `t.gallery_model = p.shelf`
	if approximate {
		// The literals are those of the index, or the planner does not see it.
		row := strconv.FormatInt(g.shelf, 10)
		order = fmt.Sprintf(`%s::halfvec(%d) <#> $4::vector::halfvec(%[2]d)`, searchedVector, g.dimension)
		which = `t.gallery_model = ` + row + ` AND p.shelf = ` + row
	}
	// OFFSET 0 has a few templates looked up by their subject, however many rows
	// the planner expects.
	query := `WITH place AS MATERIALIZED (
			SELECT g.row_id, m.row_id AS shelf, coalesce(m.templates, 0) AS templates, coalesce(m.subjects, 0) AS subjects, coalesce(m.dimension, 0) AS dimension
			FROM gallery g LEFT JOIN gallery_model m ON m.gallery = g.row_id AND m.model_id = $3
			WHERE g.tenant = $1 AND g.id = $2
		)
		SELECT p.templates, p.subjects, p.dimension, n.subject, s.id, s.name, n.distance, e.id, e.embedding
		FROM place p LEFT JOIN LATERAL (
			SELECT t.subject, (` + searchedVector + ` <#> $4) AS distance FROM template t
			WHERE p.dimension = $6 AND t.searched AND vector_dims(` + searchedVector + `) = $6 AND ` + which + ` ORDER BY ` + order + ` LIMIT $5
		) n ON true LEFT JOIN subject s ON s.row_id = n.subject LEFT JOIN LATERAL (
			SELECT e.id, e.embedding FROM template e WHERE e.subject = n.subject AND e.gallery_model = p.shelf OFFSET 0
		) e ON true`
	err = s.replicas.read(ctx, func(ctx context.Context, q querier) error {
		list, sh = nil, shelf{}
		there, places := false, map[int64]int{}
		var b pgx.Batch
		if approximate {
			// Of this transaction alone, which is the batch.
			b.Queue(`SELECT set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'strict_order', true),
				set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)`, strconv.Itoa(max(g.ef, min(limit, maxEf))))
		}
		b.Queue(query, key.Tenant, key.Gallery, key.ModelID, pgvector.NewVector(probe), limit, len(probe))
		results := q.SendBatch(ctx, &b)
		defer func() { _ = results.Close() }() // what failed, failed before
		if approximate {
			if _, err := results.Exec(); err != nil {
				return err
			}
		}
		rows, err := results.Query()
		err = scanAll(rows, err, func(rows pgx.Rows) error {
			there = true
			var row *int64
			var subject, name, id *string
			var distance *float64
			var v *pgvector.Vector
			if err := rows.Scan(&sh.templates, &sh.subjects, &sh.dimension, &row, &subject, &name, &distance, &id, &v); err != nil || row == nil || id == nil {
				return err
			}
			at, ok := places[*row]
			if !ok {
				at = len(list)
				places[*row] = at
				list = append(list, foundSubject{id: *subject, name: *name, distance: *distance})
			}
			e := s.embeddingUnlessDamaged(key.Tenant, key.Gallery, *subject, *id, key.ModelID, v.Slice(), len(probe))
			list[at].templates = append(list[at].templates, face.Template{ID: *id, Embedding: e})
			return nil
		})
		if err == nil && !there && key.Gallery != face.DefaultGallery {
			err = errNoGallery(op)
		}
		return err
	})
	slices.SortFunc(list, func(a, b foundSubject) int { return cmp.Compare(a.distance, b.distance) })
	return list, sh, approximate, err
}
