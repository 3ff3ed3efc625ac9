package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

// Import implements [store.Bulk].
func (s *Store) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	const op = "Import"
	if len(records) > store.MaxImport {
		return nil, s.db.wrap(op, face.Errorf(face.Invalid, op, "at most %d records are taken at a time", store.MaxImport))
	}
	outcomes := make([]store.Outcome, len(records))
	// What needs no look at the file keeps no other writer waiting.
	seen := make(map[string]bool, len(records))
	for i, r := range records {
		outcomes[i].Err = checkRecord(op, r)
		if seen[r.Subject.ID] {
			outcomes[i].Err = face.Errorf(face.Conflict, op, "the subject comes twice")
		}
		seen[r.Subject.ID] = true
	}
	err := s.db.change(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		for i := 0; err == nil && i < len(records); i++ {
			if outcomes[i].Err == nil {
				outcomes[i], err = s.importAlone(tx, op, tenant, gallery, row, records[i])
			}
		}
		return err
	})
	for i := range outcomes {
		outcomes[i].Err = s.db.wrap(op, outcomes[i].Err)
	}
	return result(s.db, op, outcomes, err)
}

// checkRecord is what CreateSubject and Enrol check before they begin.
func checkRecord(op string, r store.Record) error {
	if err := store.CheckSubject(op, r.Subject); err != nil {
		return err
	}
	for _, t := range r.Templates {
		if err := store.CheckTemplate(op, t); err != nil {
			return err
		}
		if err := index.Validate(t.Embedding); err != nil {
			return err
		}
	}
	return nil
}

// importAlone imports a record within a savepoint. The error is one that the
// whole transaction does not survive; a refusal is in the outcome.
func (s *Store) importAlone(tx *transaction, op, tenant, gallery string, row int64, r store.Record) (store.Outcome, error) {
	if _, err := tx.exec("SAVEPOINT record"); err != nil {
		return store.Outcome{}, err
	}
	landed := len(tx.landed)
	out, err := s.importRecord(tx, op, tenant, gallery, row, r)
	if err != nil {
		if _, refused := errors.AsType[*face.Error](err); !refused {
			return out, err
		}
		out, tx.landed = store.Outcome{Err: err}, tx.landed[:landed]
		if _, err := tx.exec("ROLLBACK TO record"); err != nil {
			return out, err
		}
	}
	_, err = tx.exec("RELEASE record")
	return out, err
}

func (s *Store) importRecord(tx *transaction, op, tenant, gallery string, row int64, r store.Record) (out store.Outcome, err error) {
	created := store.Stamp(r.Subject.CreatedAt)
	updated := created
	if !r.Subject.UpdatedAt.IsZero() {
		updated = store.Stamp(r.Subject.UpdatedAt)
	}
	n, err := tx.addSubject(row, r.Subject, created, updated)
	if err != nil {
		return out, err
	}
	out.Created = n == 1
	before, err := tx.readSubject(op, row, r.Subject.ID)
	if err != nil {
		return out, err
	}
	for _, t := range r.Templates {
		t.SubjectID, t.CreatedAt = r.Subject.ID, store.Stamp(t.CreatedAt)
		if err := s.enrol(tx, op, tenant, gallery, &t); err != nil {
			return out, err
		}
	}
	after, err := tx.readSubject(op, row, r.Subject.ID)
	out.Templates = after.Templates - before.Templates
	return out, err
}

// Export implements [store.Bulk]. Each subject is read on a snapshot of its
// own: one that lasted as long as emit takes would keep erased pages in the log.
func (s *Store) Export(ctx context.Context, tenant, gallery, after string, emit func(store.Record) error) error {
	const op = "Export"
	var row int64
	err := s.inGallery(ctx, op, tenant, gallery, func(_ session, r int64) error {
		row = r
		return nil
	})
	for err == nil {
		var r store.Record
		var found bool
		if err = s.db.view(ctx, func(v session) error {
			r, found, err = s.nextRecord(v, index.Key{Tenant: tenant, Gallery: gallery}, row, after)
			return err
		}); err != nil || !found {
			break
		}
		if err = store.CheckOrder(op, after, []store.Record{r}, subjectOf); err != nil {
			break
		}
		if err := emit(r); err != nil {
			return err
		}
		after = r.Subject.ID
	}
	return s.db.wrap(op, err)
}

func subjectOf(r store.Record) string { return r.Subject.ID }

// nextRecord is the first subject of a gallery after an id, with its templates.
func (s *Store) nextRecord(v session, key index.Key, gallery int64, after string) (r store.Record, found bool, err error) {
	var row int64
	found, err = v.scanFirst([]any{&row}, `SELECT row_id FROM subject WHERE gallery = ? AND id > ? ORDER BY id LIMIT 1`, gallery, after)
	if err != nil || !found {
		return r, found, err
	}
	err = v.each(func(rows *sql.Rows) error {
		r.Subject, err = scanSubject(rows)
		return err
	}, `SELECT `+subjectColumns+` FROM subject s WHERE s.row_id = ?`, row)
	if err != nil {
		return r, false, err
	}
	with := map[string]bool{} // samples whose crop is there
	err = v.each(func(rows *sql.Rows) error {
		var crop []byte
		t, damage, err := scanTemplate(rows, &crop)
		t.SubjectID = r.Subject.ID
		switch {
		case damage != nil:
			key.ModelID = t.ModelID
			s.damaged.Note(placeOf(key, t.SubjectID, t.ID), damage)
		case !with[t.SampleID]:
			with[t.SampleID], t.Crop = true, crop
		}
		r.Templates = append(r.Templates, t)
		return err
	}, `SELECT `+templateColumns+`, c.sealed FROM template t
		LEFT JOIN crop c ON c.gallery = t.gallery AND c.sample_id = t.sample_id
		WHERE t.subject = ? ORDER BY t.created_at, t.row_id`, row)
	return r, true, err
}
