package sqlite

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// purgeBatch is how many templates one transaction purges, so that a
	// large purge lets other writes through.
	purgeBatch = 5000

	dayMicros = int64(24 * time.Hour / time.Microsecond)
)

const templateColumns = `t.id, t.sample_id, t.model_id, t.embedding, t.checksum, ` + dimensionOf + `, t.quality, t.created_at`

// dimensionOf is that of a template's model in its gallery, null where the
// gallery is not known to have the model.
const dimensionOf = `(SELECT m.dimension FROM gallery_model m WHERE m.gallery = t.gallery AND m.model_id = t.model_id)`

// scanTemplate reads templateColumns and then whatever else is asked for. A
// template whose embedding is damaged comes without it, and damage says why.
func scanTemplate(rows *sql.Rows, more ...any) (t face.Template, damage, err error) {
	var blob sql.RawBytes
	var sum, created int64
	var dimension sql.NullInt64
	var quality float64
	if err := rows.Scan(append([]any{&t.ID, &t.SampleID, &t.ModelID, &blob, &sum, &dimension, &quality, &created}, more...)...); err != nil {
		return t, nil, err
	}
	t.Quality = float32(quality)
	t.CreatedAt = fromMicros(created)
	t.Embedding, damage = readEmbedding(nil, blob, sum, dimension)
	if damage == nil {
		damage = index.Validate(t.Embedding)
	}
	if damage != nil {
		t.Embedding = nil
	}
	return t, damage, nil
}

// readEmbedding appends to e the numbers of a stored embedding, unless they
// cannot be those that were stored. That they are of unit length remains to be
// seen.
func readEmbedding(e face.Embedding, blob []byte, sum int64, dimension sql.NullInt64) (face.Embedding, error) {
	switch {
	case checksum(blob) != sum:
		return e, errors.New("its bytes are not those that were written")
	case len(blob)%4 != 0 || dimension.Valid && int64(len(blob)/4) != dimension.Int64:
		return e, lengthError{len(blob), dimension.Int64}
	}
	return decodeEmbedding(e, blob), nil
}

// lengthError says that an embedding is as it was written, but not as long as
// the gallery says of its model.
type lengthError struct {
	bytes     int
	dimension int64
}

func (e lengthError) Error() string {
	return fmt.Sprintf("it has %d bytes, not those of the %d numbers that its model gives", e.bytes, e.dimension)
}

// Enrol implements [store.Templates].
func (s *Store) Enrol(ctx context.Context, tenant, gallery string, t face.Template) (face.Template, error) {
	return s.enrolIf(ctx, "Enrol", tenant, gallery, t, func(*transaction) error { return nil })
}

// enrolIf enrols unless allowed, within the transaction, has something against it.
func (s *Store) enrolIf(ctx context.Context, op, tenant, gallery string, t face.Template, allowed func(*transaction) error) (face.Template, error) {
	err := store.CheckTemplate(op, t)
	if err == nil {
		err = index.Validate(t.Embedding)
	}
	if err == nil {
		t.CreatedAt = store.Stamp(t.CreatedAt)
		err = s.db.change(ctx, func(tx *transaction) error {
			if err := allowed(tx); err != nil {
				return err
			}
			return s.enrol(tx, op, tenant, gallery, &t)
		})
	}
	return result(s.db, op, t, err)
}

// enrol leaves in t what is stored.
func (s *Store) enrol(tx *transaction, op, tenant, gallery string, t *face.Template) error {
	var galleryRow int64
	var storeImages bool
	var subjectRow, dimension sql.NullInt64
	found, err := tx.scanFirst([]any{&galleryRow, &storeImages, &subjectRow, &dimension}, `
		SELECT g.row_id, g.store_images, s.row_id, m.dimension FROM gallery g
		LEFT JOIN subject s ON s.gallery = g.row_id AND s.id = ?
		LEFT JOIN gallery_model m ON m.gallery = g.row_id AND m.model_id = ?
		WHERE g.tenant = ? AND g.id = ?`, t.SubjectID, t.ModelID, tenant, gallery)
	switch {
	case err != nil:
		return err
	case !found && gallery != face.DefaultGallery:
		return errNoGallery(op)
	case !subjectRow.Valid:
		return errNoSubject(op)
	case dimension.Valid && int(dimension.Int64) != len(t.Embedding):
		return face.Errorf(face.ModelMismatch, op, "embeddings of %s have %d numbers in this gallery, not %d",
			t.ModelID, dimension.Int64, len(t.Embedding))
	}
	crop, shares := t.Crop, t.SampleID
	if shares == t.ID {
		shares = ""
	}
	t.SampleID, t.Crop = cmp.Or(t.SampleID, t.ID), nil
	blob := encodeEmbedding(t.Embedding)
	n, err := tx.exec(`INSERT INTO template (id, gallery, subject, shares_sample, model_id, embedding, checksum, quality, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		t.ID, galleryRow, subjectRow.Int64, shares, t.ModelID, blob, checksum(blob), float64(t.Quality), micros(t.CreatedAt))
	if err != nil {
		return err
	}
	if n == 0 {
		return tx.sameTemplate(op, galleryRow, subjectRow.Int64, t)
	}
	strangers, err := tx.count(`SELECT EXISTS (SELECT 1 FROM template WHERE gallery = ? AND sample_id = ? AND subject <> ?)`,
		galleryRow, t.SampleID, subjectRow.Int64)
	if err == nil && strangers > 0 {
		err = face.Errorf(face.Conflict, op, "the sample is another subject's")
	}
	if err == nil && storeImages && len(crop) > 0 {
		_, err = tx.exec(`INSERT INTO crop (gallery, subject, sample_id, quality, created_at, sealed)
			VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			galleryRow, subjectRow.Int64, t.SampleID, float64(t.Quality), micros(t.CreatedAt), crop)
	}
	if err != nil {
		return err
	}
	key := index.Key{Tenant: tenant, Gallery: gallery, ModelID: t.ModelID}
	entry := index.Entry{TemplateID: t.ID, SubjectID: t.SubjectID, Embedding: t.Embedding}
	tx.onCommit(func() { s.addToIndex(key, entry) })
	return nil
}

// sameTemplate replaces t by the stored template of its id, which must be the
// same but for quality and time.
func (s session) sameTemplate(op string, gallery, subject int64, t *face.Template) error {
	var old face.Template
	var damage error
	var owner int64
	err := s.each(func(rows *sql.Rows) (err error) {
		old, damage, err = scanTemplate(rows, &owner)
		return err
	}, `SELECT `+templateColumns+`, t.subject FROM template t WHERE t.gallery = ? AND t.id = ?`, gallery, t.ID)
	if err != nil {
		return err
	}
	if damage != nil {
		return face.Errorf(face.Conflict, op, "the template_id is taken by a template whose embedding is damaged: erase that first")
	}
	if owner != subject || old.ModelID != t.ModelID || !slices.Equal(old.Embedding, t.Embedding) {
		return face.Errorf(face.Conflict, op, "the template_id is taken by another template")
	}
	old.SubjectID = t.SubjectID
	*t = old
	return nil
}

// addToIndex adds what is in the file. One that the index refuses keeps no
// other out.
func (s *Store) addToIndex(key index.Key, entries ...index.Entry) {
	if s.index.Add(key, entries...) == nil {
		return
	}
	for _, e := range entries {
		if err := s.index.Add(key, e); err != nil {
			s.damaged.Note(placeOf(key, e.SubjectID, e.TemplateID), err)
		}
	}
}

func placeOf(k index.Key, subject, template string) store.Place {
	return store.Place{Tenant: k.Tenant, Gallery: k.Gallery, ModelID: k.ModelID, SubjectID: subject, TemplateID: template}
}

// Templates implements [store.Templates].
func (s *Store) Templates(ctx context.Context, tenant, gallery, subject, modelID string) ([]face.Template, error) {
	const op = "Templates"
	var templates []face.Template
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		var subjectRow int64
		found, err := v.scanFirst([]any{&subjectRow}, `SELECT row_id FROM subject WHERE gallery = ? AND id = ?`, row, subject)
		if err == nil && !found {
			err = errNoSubject(op)
		}
		if err != nil {
			return err
		}
		return v.each(func(rows *sql.Rows) error {
			t, damage, err := scanTemplate(rows)
			t.SubjectID = subject
			if damage != nil {
				s.damaged.Note(placeOf(index.Key{Tenant: tenant, Gallery: gallery, ModelID: t.ModelID}, subject, t.ID), damage)
			}
			templates = append(templates, t)
			return err
		}, `SELECT `+templateColumns+` FROM template t
			WHERE t.subject = ?1 AND (?2 = '' OR t.model_id = ?2) ORDER BY t.created_at, t.row_id`, subjectRow, modelID)
	})
	return result(s.db, op, templates, err)
}

// DeleteTemplate implements [store.Templates].
func (s *Store) DeleteTemplate(ctx context.Context, tenant, gallery, subject, template string, by store.Actor) (face.Receipt, error) {
	const op = "DeleteTemplate"
	var receipt face.Receipt
	err := s.db.urgent(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		var sample string
		found, err := tx.scanFirst([]any{&sample}, `
			SELECT t.sample_id FROM template t JOIN subject s ON s.row_id = t.subject
			WHERE t.gallery = ? AND t.id = ? AND s.id = ?`, row, template, subject)
		if err == nil && !found {
			err = face.Errorf(face.NotFound, op, "no such template")
		}
		if err != nil {
			return err
		}
		receipt = face.Receipt{Gallery: gallery, SubjectID: subject}
		if receipt.Images, err = tx.count(`SELECT count(*) FROM crop WHERE gallery = ? AND sample_id = ?`, row, sample); err != nil {
			return err
		}
		err = tx.each(func(rows *sql.Rows) error {
			var id string
			key := index.Key{Tenant: tenant, Gallery: gallery}
			err := rows.Scan(&id, &key.ModelID)
			tx.onCommit(func() { s.index.RemoveTemplate(key, id) })
			return err
		}, `SELECT id, model_id FROM template WHERE gallery = ? AND sample_id = ?`, row, sample)
		if err != nil {
			return err
		}
		if receipt.Templates, err = tx.exec(`DELETE FROM template WHERE gallery = ? AND sample_id = ?`, row, sample); err != nil {
			return err
		}
		return tx.recordErase(tenant, by, store.AuditEraseTemplate, template, &receipt)
	})
	return result(s.db, op, receipt, err)
}

// Search implements [store.Templates].
func (s *Store) Search(ctx context.Context, tenant, gallery, modelID string, probe face.Embedding, k int) (store.Result, error) {
	const op = "Search"
	err := store.CheckK(op, k)
	if err == nil {
		err = index.Validate(probe)
	}
	if err == nil {
		err = s.Ready(ctx)
	}
	if err != nil {
		return store.Result{}, s.db.wrap(op, err)
	}
	key := index.Key{Tenant: tenant, Gallery: gallery, ModelID: modelID}
	r, whole, err := s.search(ctx, op, key, probe, k)
	if err == nil && !whole {
		// Somebody was erased between the two looks. While no commit can
		// land, the index and the file say the same.
		s.db.landing.RLock()
		defer s.db.landing.RUnlock()
		r, _, err = s.search(ctx, op, key, probe, k)
	}
	return result(s.db, op, r, err)
}

// search asks the index for candidates and the file for their names. It
// reports whether the file knows all of them, with the same templates.
func (s *Store) search(ctx context.Context, op string, key index.Key, probe face.Embedding, k int) (r store.Result, whole bool, err error) {
	hits, subjects, err := s.index.Search(ctx, key, probe, k)
	if err != nil {
		return r, true, err
	}
	ids := []string{}
	for _, h := range hits {
		ids = append(ids, h.TemplateIDs...)
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return r, true, err
	}
	type owner struct{ subject, name string }
	owners := make(map[string]owner, len(ids)) // by template
	err = s.db.view(ctx, func(v session) error {
		var row int64
		found, err := v.scanFirst([]any{&row}, galleryByID, key.Tenant, key.Gallery)
		if err == nil && !found && key.Gallery != face.DefaultGallery {
			err = errNoGallery(op)
		}
		if err != nil || !found || len(hits) == 0 {
			return err
		}
		return v.each(func(rows *sql.Rows) error {
			var id string
			var o owner
			err := rows.Scan(&id, &o.subject, &o.name)
			owners[id] = o
			return err
		}, // CROSS JOIN keeps the order: from the few hits, not from the gallery's subjects.
			`SELECT t.id, s.id, s.name FROM json_each(?) j
			CROSS JOIN template t ON t.gallery = ? AND t.id = j.value CROSS JOIN subject s ON s.row_id = t.subject`, string(list), row)
	})
	if err != nil {
		return r, true, err
	}
	r = store.Result{Candidates: make([]face.Candidate, 0, len(hits)), GallerySize: subjects}
	for _, h := range hits {
		// The id of an erased template may be another subject's by now.
		if !slices.ContainsFunc(h.TemplateIDs, func(id string) bool { return owners[id].subject != h.SubjectID }) {
			r.Candidates = append(r.Candidates, face.Candidate{
				SubjectID: h.SubjectID, Name: owners[h.TemplateIDs[0]].name, Templates: len(h.TemplateIDs), Score: h.Score,
			})
		}
	}
	return r, len(r.Candidates) == len(hits), nil
}

// DamagedTemplates implements [store.Templates].
func (s *Store) DamagedTemplates(ctx context.Context) (int, error) {
	err := s.damaged.Recheck(func(at store.Place) (damaged bool, err error) {
		err = s.db.view(ctx, func(v session) error {
			return v.each(func(rows *sql.Rows) error {
				_, damage, err := scanTemplate(rows)
				damaged = damage != nil
				return err
			}, `SELECT `+templateColumns+` FROM gallery g JOIN template t ON t.gallery = g.row_id
				WHERE g.tenant = ? AND g.id = ? AND t.id = ?`, at.Tenant, at.Gallery, at.TemplateID)
		})
		return damaged, err
	})
	return result(s.db, "DamagedTemplates", s.damaged.Count(), err)
}

// Comparisons implements [store.Templates].
func (s *Store) Comparisons(ctx context.Context, tenant, gallery, modelID string) (int, error) {
	n := s.index.Subjects(index.Key{Tenant: tenant, Gallery: gallery, ModelID: modelID})
	return result(s.db, "Comparisons", n, s.Ready(ctx))
}

// PurgeExpired implements [store.Templates]. It also drops the idempotency
// records that are past [store.IdempotencyTTL].
func (s *Store) PurgeExpired(ctx context.Context, now time.Time) (int, error) {
	const op = "PurgeExpired"
	purged := 0
	err := s.purgeAnswers(ctx, now)
	var galleries []int64
	if err == nil {
		err = s.db.view(ctx, func(v session) error {
			return v.each(func(rows *sql.Rows) error {
				var row int64
				err := rows.Scan(&row)
				galleries = append(galleries, row)
				return err
			}, `SELECT g.row_id FROM gallery g WHERE g.retention_days > 0 AND EXISTS (
				SELECT 1 FROM template t
				WHERE t.gallery = g.row_id AND t.created_at < ? - g.retention_days * ?)`, micros(now), dayMicros)
		})
	}
	for _, gallery := range galleries {
		for more := err == nil; more; {
			n := 0
			if err = s.db.urgent(ctx, func(tx *transaction) (err error) {
				n, err = s.purge(tx, gallery, now)
				return err
			}); err != nil {
				break
			}
			purged, more = purged+n, n == purgeBatch
		}
	}
	if err != nil {
		return purged, s.db.wrap(op, err)
	}
	return purged, nil
}

// purge erases up to purgeBatch expired templates of the gallery with the
// given row, as its retention is now.
func (s *Store) purge(tx *transaction, gallery int64, now time.Time) (int, error) {
	type expired struct {
		key index.Key
		id  string
	}
	var gone []expired
	var rowIDs []int64
	err := tx.each(func(rows *sql.Rows) error {
		var e expired
		var row int64
		err := rows.Scan(&row, &e.id, &e.key.ModelID, &e.key.Tenant, &e.key.Gallery)
		gone, rowIDs = append(gone, e), append(rowIDs, row)
		return err
	}, `SELECT t.row_id, t.id, t.model_id, g.tenant, g.id
		FROM gallery g JOIN template t ON t.gallery = g.row_id
		WHERE g.row_id = ? AND g.retention_days > 0 AND t.created_at < ? - g.retention_days * ?
		LIMIT ?`, gallery, micros(now), dayMicros, purgeBatch)
	if err != nil || len(gone) == 0 {
		return 0, err
	}
	list, err := json.Marshal(rowIDs)
	if err != nil {
		return 0, err
	}
	const crops = `SELECT count(*) FROM crop WHERE gallery = ?`
	before, err := tx.count(crops, gallery)
	if err != nil {
		return 0, err
	}
	n, err := tx.exec(`DELETE FROM template WHERE row_id IN (SELECT value FROM json_each(?))`, string(list))
	if err != nil {
		return 0, err
	}
	left, err := tx.count(crops, gallery)
	if err != nil {
		return 0, err
	}
	tx.onCommit(func() {
		for _, e := range gone {
			s.index.RemoveTemplate(e.key, e.id)
		}
	})
	receipt := face.Receipt{Gallery: gone[0].key.Gallery, Templates: n, Images: before - left}
	return n, tx.recordErase(gone[0].key.Tenant, store.Actor{}, store.AuditExpire, "", &receipt)
}

func encodeEmbedding(e face.Embedding) []byte {
	b := make([]byte, 0, 4*len(e))
	for _, v := range e {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

// checksum is the CRC-32C of an embedding as it lies in the file.
func checksum(b []byte) int64 { return int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))) }

// decodeEmbedding appends to e the numbers of a stored embedding.
func decodeEmbedding(e face.Embedding, b []byte) face.Embedding {
	for ; len(b) >= 4; b = b[4:] {
		e = append(e, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return e
}
