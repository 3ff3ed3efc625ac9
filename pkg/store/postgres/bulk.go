package postgres

import (
	"context"
	"math/bits"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// exportPage is how many subjects an export reads at a time.
const exportPage = 200

// Import implements [store.Bulk]. What is there already is looked up for all
// records at once; what is new is copied in.
func (s *Store) Import(ctx context.Context, tenant, gallery string, records []store.Record) (outcomes []store.Outcome, err error) {
	const op = "Import"
	err = s.db.call(op, func() error {
		if len(records) > store.MaxImport {
			return face.Errorf(face.Invalid, op, "at most %d records are taken at a time", store.MaxImport)
		}
		if err := s.db.transactWithin(ctx, bulkTimeout, true, func(ctx context.Context, tx pgx.Tx) error {
			im := &importing{op: op, tx: tx, records: records, outcomes: make([]store.Outcome, len(records))}
			if err := im.run(ctx, tenant, gallery); err != nil {
				return err
			}
			outcomes = im.outcomes
			return nil
		}); err != nil {
			return err
		}
		for i := range outcomes {
			outcomes[i].Err = wrap(op, outcomes[i].Err)
		}
		// What was there already may have come a moment ago.
		s.feed.wrote(ctx)
		s.tellPlanner(ctx, len(records))
		return nil
	})
	return result(outcomes, err)
}

// tellPlanner has the database look at its tables anew whenever the imports
// have doubled: plans made for a handful of people read whole tables.
func (s *Store) tellPlanner(ctx context.Context, records int) {
	imported := s.imported.Add(int64(records))
	if bits.Len64(uint64(imported)) == bits.Len64(uint64(imported-int64(records))) {
		return
	}
	if _, err := s.db.pool.Exec(ctx, `ANALYZE subject, template, gallery_model, template_change`); err != nil {
		s.o.Logger.Warn("cannot tell the planner of an import", "error", err)
	}
}

// importing is one import under way.
type importing struct {
	op       string
	tx       pgx.Tx
	records  []store.Record
	outcomes []store.Outcome

	gallery     int64
	storeImages bool
	subjects    map[string]int64         // that are there, by id
	shelves     map[string]*importShelf  // by model
	known       map[string]knownTemplate // that are there or accepted, by id
	samples     map[string]string        // their subjects, by id
	crops       map[string]bool          // by sample

	people    []store.Record  // new subjects
	templates []face.Template // new ones
}

type importShelf struct {
	row       int64 // 0: to be made
	dimension int
}

type knownTemplate struct {
	subject, model string
	embedding      face.Embedding
	damaged        bool
}

func (im *importing) run(ctx context.Context, tenant, gallery string) error {
	var err error
	if im.gallery, err = lockGallery(ctx, im.tx, im.op, tenant, gallery); err != nil {
		return err
	}
	if err := im.readExisting(ctx); err != nil {
		return err
	}
	seen := make(map[string]bool, len(im.records))
	for i, r := range im.records {
		if seen[r.Subject.ID] {
			im.outcomes[i].Err = face.Errorf(face.Conflict, im.op, "the subject comes twice")
			continue
		}
		seen[r.Subject.ID] = true
		im.outcomes[i] = im.accept(r)
	}
	return im.write(ctx)
}

// readExisting reads what is there of what the records name.
func (im *importing) readExisting(ctx context.Context) error {
	var subjects, templates, samples []string
	for _, r := range im.records {
		subjects = append(subjects, r.Subject.ID)
		for _, t := range r.Templates {
			templates = append(templates, t.ID)
			samples = append(samples, sampleOf(t))
		}
	}
	// Ids that no store takes cannot be there, and may not even be text.
	valid := func(ids []string) []string {
		return slices.DeleteFunc(ids, func(id string) bool { return !face.ValidID(id) })
	}
	subjects, templates, samples = valid(subjects), valid(templates), valid(samples)
	im.subjects, im.shelves = map[string]int64{}, map[string]*importShelf{}
	im.known, im.samples, im.crops = map[string]knownTemplate{}, map[string]string{}, map[string]bool{}

	if err := im.tx.QueryRow(ctx, `SELECT store_images FROM gallery WHERE row_id = $1`, im.gallery).Scan(&im.storeImages); err != nil {
		return err
	}
	if err := im.readSubjects(ctx, subjects); err != nil {
		return err
	}
	rows, err := im.tx.Query(ctx, `SELECT model_id, row_id, dimension FROM gallery_model WHERE gallery = $1`, im.gallery)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var model string
		var sh importShelf
		err := rows.Scan(&model, &sh.row, &sh.dimension)
		im.shelves[model] = &sh
		return err
	}); err != nil {
		return err
	}
	rows, err = im.tx.Query(ctx, `SELECT t.id, s.id, m.model_id, m.dimension, t.embedding
		FROM template t JOIN subject s ON s.row_id = t.subject JOIN gallery_model m ON m.row_id = t.gallery_model
		WHERE t.gallery = $1 AND t.id = ANY($2)`, im.gallery, templates)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var id string
		var k knownTemplate
		var dimension int
		var v pgvector.Vector
		err := rows.Scan(&id, &k.subject, &k.model, &dimension, &v)
		k.embedding, k.damaged = v.Slice(), checkEmbedding(v.Slice(), dimension) != nil
		im.known[id] = k
		return err
	}); err != nil {
		return err
	}
	rows, err = im.tx.Query(ctx, `SELECT t.sample, s.id FROM template t JOIN subject s ON s.row_id = t.subject
		WHERE t.gallery = $1 AND t.sample = ANY($2)`, im.gallery, samples)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var sample, subject string
		err := rows.Scan(&sample, &subject)
		im.samples[sample] = subject
		return err
	}); err != nil {
		return err
	}
	rows, err = im.tx.Query(ctx, `SELECT sample FROM crop WHERE gallery = $1 AND sample = ANY($2)`, im.gallery, samples)
	return scanAll(rows, err, func(rows pgx.Rows) error {
		var sample string
		err := rows.Scan(&sample)
		im.crops[sample] = true
		return err
	})
}

func (im *importing) readSubjects(ctx context.Context, ids []string) error {
	rows, err := im.tx.Query(ctx, `SELECT id, row_id FROM subject WHERE gallery = $1 AND id = ANY($2)`, im.gallery, ids)
	return scanAll(rows, err, func(rows pgx.Rows) error {
		var id string
		var row int64
		err := rows.Scan(&id, &row)
		im.subjects[id] = row
		return err
	})
}

// accept takes a record over, whole or not at all.
func (im *importing) accept(r store.Record) (out store.Outcome) {
	refuse := func(err error) store.Outcome { return store.Outcome{Err: err} }
	if err := store.CheckSubject(im.op, r.Subject); err != nil {
		return refuse(err)
	}
	var fresh []face.Template
	own := map[string]knownTemplate{}
	shelves := map[string]int{} // dimensions that this record brings
	for _, t := range r.Templates {
		if err := store.CheckTemplate(im.op, t); err != nil {
			return refuse(err)
		}
		if err := index.Validate(t.Embedding); err != nil {
			return refuse(err)
		}
		t.SubjectID, t.SampleID, t.CreatedAt = r.Subject.ID, sampleOf(t), store.Stamp(t.CreatedAt)
		dimension, ok := shelves[t.ModelID]
		if sh := im.shelves[t.ModelID]; sh != nil {
			dimension, ok = sh.dimension, true
		}
		if ok && dimension != len(t.Embedding) {
			return refuse(errDimension(im.op, t.ModelID, dimension, len(t.Embedding)))
		}
		k, there := im.known[t.ID]
		if !there {
			k, there = own[t.ID]
		}
		if there {
			if k.damaged {
				return refuse(errTemplateDamaged(im.op))
			}
			if k.subject != t.SubjectID || k.model != t.ModelID || !slices.Equal(k.embedding, t.Embedding) {
				return refuse(errTemplateTaken(im.op))
			}
			continue
		}
		if owner, ok := im.samples[t.SampleID]; ok && owner != t.SubjectID {
			return refuse(errSampleTaken(im.op))
		}
		own[t.ID] = knownTemplate{subject: t.SubjectID, model: t.ModelID, embedding: t.Embedding}
		shelves[t.ModelID] = len(t.Embedding)
		fresh = append(fresh, t)
	}
	for _, t := range fresh {
		im.known[t.ID], im.samples[t.SampleID] = own[t.ID], t.SubjectID
		if im.shelves[t.ModelID] == nil {
			im.shelves[t.ModelID] = &importShelf{dimension: len(t.Embedding)}
		}
	}
	im.templates = append(im.templates, fresh...)
	if _, ok := im.subjects[r.Subject.ID]; !ok {
		out.Created = true
		im.people = append(im.people, r)
	}
	out.Templates = len(fresh)
	return out
}

// write copies in what was accepted.
func (im *importing) write(ctx context.Context) error {
	if _, err := im.tx.CopyFrom(ctx, pgx.Identifier{"subject"},
		[]string{"gallery", "id", "name", "external_id", "metadata", "created_at", "updated_at"},
		pgx.CopyFromSlice(len(im.people), func(i int) ([]any, error) {
			s := im.people[i].Subject
			created := store.Stamp(s.CreatedAt)
			updated := created
			if !s.UpdatedAt.IsZero() {
				updated = store.Stamp(s.UpdatedAt)
			}
			return []any{im.gallery, s.ID, s.Name, s.ExternalID, metadataColumn(s.Metadata), created, updated}, nil
		})); err != nil {
		return err
	}
	ids := make([]string, len(im.people))
	for i, r := range im.people {
		ids[i] = r.Subject.ID
	}
	if err := im.readSubjects(ctx, ids); err != nil {
		return err
	}
	for model, sh := range im.shelves {
		if sh.row > 0 {
			continue
		}
		if err := im.tx.QueryRow(ctx, `INSERT INTO gallery_model (gallery, model_id, dimension) VALUES ($1, $2, $3) RETURNING row_id`,
			im.gallery, model, sh.dimension).Scan(&sh.row); err != nil {
			return err
		}
	}
	if _, err := im.tx.CopyFrom(ctx, pgx.Identifier{"template"},
		[]string{"id", "gallery", "gallery_model", "subject", "sample", "embedding", "quality", "created_at"},
		pgx.CopyFromSlice(len(im.templates), func(i int) ([]any, error) {
			t := im.templates[i]
			return []any{t.ID, im.gallery, im.shelves[t.ModelID].row, im.subjects[t.SubjectID], t.SampleID, pgvector.NewVector(t.Embedding), t.Quality, t.CreatedAt}, nil
		})); err != nil {
		return err
	}
	if !im.storeImages {
		return nil
	}
	var crops []face.Template
	for _, t := range im.templates {
		if t.Crop != nil && !im.crops[t.SampleID] {
			im.crops[t.SampleID] = true
			crops = append(crops, t)
		}
	}
	_, err := im.tx.CopyFrom(ctx, pgx.Identifier{"crop"}, []string{"gallery", "sample", "subject", "quality", "created_at", "sealed"},
		pgx.CopyFromSlice(len(crops), func(i int) ([]any, error) {
			t := crops[i]
			return []any{im.gallery, t.SampleID, im.subjects[t.SubjectID], t.Quality, t.CreatedAt, t.Crop}, nil
		}))
	return err
}

// sampleOf is the sample of a template as it comes in.
func sampleOf(t face.Template) string {
	if t.SampleID == "" {
		return t.ID
	}
	return t.SampleID
}

// Export implements [store.Bulk]. It reads some subjects at a time, each time
// on a snapshot of its own: one that lasted as long as emit takes would keep
// erased rows.
func (s *Store) Export(ctx context.Context, tenant, gallery, after string, emit func(store.Record) error) error {
	const op = "Export"
	for {
		var page []store.Record
		if err := s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) (err error) {
			page, err = s.exportAfter(ctx, q, op, tenant, gallery, after)
			return err
		}); err != nil {
			return err
		}
		if err := store.CheckOrder(op, after, page, func(r store.Record) string { return r.Subject.ID }); err != nil {
			return wrap(op, err)
		}
		for _, r := range page {
			if err := emit(r); err != nil {
				return err
			}
		}
		if len(page) < exportPage {
			return nil
		}
		after = page[len(page)-1].Subject.ID
	}
}

// exportAfter reads the next subjects with their templates, in one statement.
func (s *Store) exportAfter(ctx context.Context, q querier, op, tenant, gallery, after string) (page []store.Record, err error) {
	there := false
	rows, err := q.Query(ctx, `SELECT s.id, s.name, s.external_id, s.metadata, s.templates, s.created_at, s.updated_at,
			t.id, t.sample, m.model_id, m.dimension, t.embedding, t.quality, t.created_at, c.sealed
		FROM gallery g
		LEFT JOIN LATERAL (SELECT s.row_id, `+subjectColumns+` FROM subject s
			WHERE s.gallery = g.row_id AND s.id > $3 ORDER BY s.id LIMIT $4
		) s (row_id, id, name, external_id, metadata, templates, created_at, updated_at) ON true
		LEFT JOIN (template t JOIN gallery_model m ON m.row_id = t.gallery_model) ON t.subject = s.row_id
		LEFT JOIN crop c ON c.gallery = g.row_id AND c.sample = t.sample
		WHERE g.tenant = $1 AND g.id = $2 ORDER BY s.id, t.created_at, t.row_id`, tenant, gallery, after, exportPage)
	with := map[string]bool{} // samples whose crop is there
	err = scanAll(rows, err, func(rows pgx.Rows) error {
		there = true
		var t struct {
			id, sample, model *string
			dimension         *int
			v                 *pgvector.Vector
			quality           *float32
			created           *time.Time
			crop              []byte
		}
		sub, ok, err := scanSubject(rest{rows, []any{&t.id, &t.sample, &t.model, &t.dimension, &t.v, &t.quality, &t.created, &t.crop}})
		if err != nil || !ok {
			return err
		}
		if n := len(page); n == 0 || page[n-1].Subject.ID != sub.ID {
			page = append(page, store.Record{Subject: sub})
		}
		if t.id == nil {
			return nil
		}
		e := s.embeddingUnlessDamaged(tenant, gallery, sub.ID, *t.id, *t.model, t.v.Slice(), *t.dimension)
		if with[*t.sample] || e == nil {
			t.crop = nil
		} else {
			with[*t.sample] = true
		}
		r := &page[len(page)-1]
		r.Templates = append(r.Templates, face.Template{
			ID: *t.id, SubjectID: sub.ID, SampleID: *t.sample, ModelID: *t.model,
			Embedding: e, Quality: *t.quality, CreatedAt: t.created.UTC(), Crop: t.crop,
		})
		return nil
	})
	if err == nil && !there {
		return nil, noGallery{errNoGallery(op)}
	}
	return page, err
}

// rest scans further columns behind those that are asked for.
type rest struct {
	pgx.Row
	more []any
}

func (r rest) Scan(dest ...any) error { return r.Row.Scan(append(dest, r.more...)...) }
