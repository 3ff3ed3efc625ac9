package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const subjectColumns = `s.id, s.name, s.external_id, s.metadata,
	(SELECT count(*) FROM template t WHERE t.subject = s.row_id), s.created_at, s.updated_at`

func scanSubject(rows *sql.Rows) (s face.Subject, err error) {
	var created, updated int64
	var metadata sql.NullString
	err = rows.Scan(&s.ID, &s.Name, &s.ExternalID, &metadata, &s.Templates, &created, &updated)
	if metadata.Valid {
		s.Metadata = json.RawMessage(metadata.String)
	}
	s.CreatedAt, s.UpdatedAt = fromMicros(created), fromMicros(updated)
	return s, err
}

// CreateSubject implements [store.Subjects].
func (s *Store) CreateSubject(ctx context.Context, tenant, gallery string, sub face.Subject) (face.Subject, error) {
	const op = "CreateSubject"
	var made face.Subject
	err := store.CheckSubject(op, sub)
	if err == nil {
		err = s.db.change(ctx, func(tx *transaction) error {
			row, err := tx.gallery(op, tenant, gallery)
			if err != nil {
				return err
			}
			at := store.Stamp(sub.CreatedAt)
			n, err := tx.addSubject(row, sub, at, at)
			if err == nil && n == 0 {
				return face.Errorf(face.Conflict, op, "the subject exists already")
			}
			if err != nil {
				return err
			}
			made, err = tx.readSubject(op, row, sub.ID)
			return err
		})
	}
	return result(s.db, op, made, err)
}

// addSubject returns 0 when the id is taken.
func (t *transaction) addSubject(gallery int64, s face.Subject, created, updated time.Time) (int, error) {
	return t.exec(`INSERT INTO subject (gallery, id, name, external_id, metadata, created_at, updated_at)
		VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		gallery, s.ID, s.Name, s.ExternalID, metadataColumn(s.Metadata), micros(created), micros(updated))
}

// Subject implements [store.Subjects].
func (s *Store) Subject(ctx context.Context, tenant, gallery, subject string) (face.Subject, error) {
	const op = "Subject"
	var sub face.Subject
	err := s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) (err error) {
		sub, err = v.readSubject(op, row, subject)
		return err
	})
	return result(s.db, op, sub, err)
}

// ListSubjects implements [store.Subjects].
func (s *Store) ListSubjects(ctx context.Context, tenant, gallery string, f store.SubjectFilter, p store.Page) ([]face.Subject, string, error) {
	const op = "ListSubjects"
	list := store.SubjectList(tenant, gallery, f)
	after, err := store.ReadPage(op, p, list...)
	if err == nil {
		err = store.CheckFilter(op, f)
	}
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	var items []face.Subject
	err = s.inGallery(ctx, op, tenant, gallery, func(v session, row int64) error {
		where, args := "s.gallery = ? AND s.id > ?", []any{row, after}
		for _, wanted := range [][2]string{{"name", f.Name}, {"external_id", f.ExternalID}} {
			if column, value := wanted[0], wanted[1]; value != "" {
				where += " AND s." + column + " = ? AND s." + column + " <> ''" // the indexes are of those that are not empty
				args = append(args, value)
			}
		}
		return v.each(func(rows *sql.Rows) error {
			sub, err := scanSubject(rows)
			items = append(items, sub)
			return err
		}, `SELECT `+subjectColumns+` FROM subject s WHERE `+where+` ORDER BY s.id LIMIT ?`, append(args, p.Limit+1)...)
	})
	byID := func(s face.Subject) string { return s.ID }
	if err == nil {
		err = store.CheckOrder(op, after, items, byID)
	}
	if err != nil {
		return nil, "", s.db.wrap(op, err)
	}
	items, next := store.CutPage(items, p, byID, list...)
	return items, next, nil
}

// UpdateSubject implements [store.Subjects].
func (s *Store) UpdateSubject(ctx context.Context, tenant, gallery, subject string, c store.SubjectChange) (face.Subject, error) {
	const op = "UpdateSubject"
	var sub face.Subject
	err := s.db.change(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		if sub, err = tx.readSubject(op, row, subject); err != nil {
			return err
		}
		c.Apply(&sub)
		if err := store.CheckSubject(op, sub); err != nil {
			return err
		}
		sub.UpdatedAt = store.Stamp(time.Time{})
		_, err = tx.exec(`UPDATE subject SET name = ?, external_id = ?, metadata = ?, updated_at = ?
			WHERE gallery = ? AND id = ?`,
			sub.Name, sub.ExternalID, metadataColumn(sub.Metadata), micros(sub.UpdatedAt), row, subject)
		return err
	})
	return result(s.db, op, sub, err)
}

// DeleteSubject implements [store.Subjects].
func (s *Store) DeleteSubject(ctx context.Context, tenant, gallery, subject string, by store.Actor) (face.Receipt, error) {
	const op = "DeleteSubject"
	var receipt face.Receipt
	err := s.db.urgent(ctx, func(tx *transaction) error {
		row, err := tx.gallery(op, tenant, gallery)
		if err != nil {
			return err
		}
		receipt, err = s.eraseSubject(tx, op, tenant, gallery, row, subject, by)
		return err
	})
	return result(s.db, op, receipt, err)
}

// eraseSubject erases a subject of the gallery with the given row.
func (s *Store) eraseSubject(tx *transaction, op, tenant, gallery string, row int64, subject string, by store.Actor) (receipt face.Receipt, err error) {
	sub, err := tx.readSubject(op, row, subject)
	if err != nil {
		return receipt, err
	}
	receipt = face.Receipt{Gallery: gallery, SubjectID: subject, Subjects: 1, Templates: sub.Templates}
	if receipt.Images, err = tx.count(`SELECT count(*) FROM crop c JOIN subject s ON s.row_id = c.subject
		WHERE s.gallery = ? AND s.id = ?`, row, subject); err != nil {
		return receipt, err
	}
	if _, err := tx.exec(`DELETE FROM subject WHERE gallery = ? AND id = ?`, row, subject); err != nil {
		return receipt, err
	}
	if err := tx.eraseAnswers(tenant, gallery, subject); err != nil {
		return receipt, err
	}
	tx.onCommit(func() { s.index.RemoveSubject(tenant, gallery, subject) })
	return receipt, tx.recordErase(tenant, by, store.AuditEraseSubject, "", &receipt)
}

// readSubject reads a subject of the gallery with the given row.
func (s session) readSubject(op string, gallery int64, subject string) (sub face.Subject, err error) {
	err = errNoSubject(op)
	if e := s.each(func(rows *sql.Rows) error {
		sub, err = scanSubject(rows)
		return err
	}, `SELECT `+subjectColumns+` FROM subject s WHERE s.gallery = ? AND s.id = ?`, gallery, subject); e != nil {
		return sub, e
	}
	return sub, err
}

func errNoSubject(op string) error { return face.Errorf(face.NotFound, op, "no such subject") }

// metadataColumn stores no metadata as null.
func metadataColumn(m json.RawMessage) sql.NullString {
	return sql.NullString{String: string(m), Valid: len(m) > 0}
}
