package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const subjectColumns = `s.id, s.name, s.external_id, s.metadata,
	(SELECT count(*) FROM template t WHERE t.subject = s.row_id), s.created_at, s.updated_at`

// scanSubject reads subjectColumns; all are null where there is no subject.
func scanSubject(row pgx.Row) (s face.Subject, ok bool, err error) {
	var id, name, external, metadata *string
	var templates *int
	var created, updated *time.Time
	err = row.Scan(&id, &name, &external, &metadata, &templates, &created, &updated)
	if err != nil || id == nil {
		return s, false, err
	}
	s.ID, s.Name, s.ExternalID, s.Templates = *id, *name, *external, *templates
	s.CreatedAt, s.UpdatedAt = created.UTC(), updated.UTC()
	if metadata != nil {
		s.Metadata = json.RawMessage(*metadata)
	}
	return s, true, nil
}

// CreateSubject implements [store.Subjects].
func (s *Store) CreateSubject(ctx context.Context, tenant, gallery string, sub face.Subject) (made face.Subject, err error) {
	const op = "CreateSubject"
	err = s.db.call(op, func() error {
		if err := store.CheckSubject(op, sub); err != nil {
			return err
		}
		return s.db.transact(ctx, false, func(ctx context.Context, tx pgx.Tx) error {
			row, err := lockGallery(ctx, tx, op, tenant, gallery)
			if err != nil {
				return err
			}
			at := store.Stamp(sub.CreatedAt)
			tag, err := tx.Exec(ctx, `INSERT INTO subject (gallery, id, name, external_id, metadata, created_at, updated_at)
				VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT DO NOTHING`,
				row, sub.ID, sub.Name, sub.ExternalID, metadataColumn(sub.Metadata), at)
			if err == nil && tag.RowsAffected() == 0 {
				return face.Errorf(face.Conflict, op, "the subject exists already")
			}
			if err != nil {
				return err
			}
			made, err = readSubject(ctx, tx, op, tenant, gallery, sub.ID)
			return err
		})
	})
	return result(made, err)
}

// Subject implements [store.Subjects].
func (s *Store) Subject(ctx context.Context, tenant, gallery, subject string) (sub face.Subject, err error) {
	const op = "Subject"
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) (err error) {
		sub, err = readSubject(ctx, q, op, tenant, gallery, subject)
		return err
	})
	return result(sub, err)
}

// ListSubjects implements [store.Subjects].
func (s *Store) ListSubjects(ctx context.Context, tenant, gallery string, f store.SubjectFilter, p store.Page) (items []face.Subject, next string, err error) {
	const op = "ListSubjects"
	list := store.SubjectList(tenant, gallery, f)
	after, err := store.ReadPage(op, p, list...)
	if err == nil {
		err = store.CheckFilter(op, f)
	}
	if err != nil {
		return nil, "", wrap(op, err)
	}
	where, args := "s.gallery = g.row_id AND s.id > $3", []any{tenant, gallery, after, p.Limit + 1}
	for _, wanted := range [][2]string{{"name", f.Name}, {"external_id", f.ExternalID}} {
		if column, value := wanted[0], wanted[1]; value != "" {
			args = append(args, value)
			where += fmt.Sprintf(" AND s.%s = $%d AND s.%[1]s <> ''", column, len(args)) // the indexes are of those that are not empty
		}
	}
	err = s.view(ctx, op, tenant, gallery, func(ctx context.Context, q querier) error {
		items = nil
		there := false
		rows, err := q.Query(ctx, `SELECT s.* FROM gallery g LEFT JOIN LATERAL (
				SELECT `+subjectColumns+` FROM subject s WHERE `+where+` ORDER BY s.id LIMIT $4
			) s ON true WHERE g.tenant = $1 AND g.id = $2 ORDER BY s.id`, args...)
		err = scanAll(rows, err, func(rows pgx.Rows) error {
			there = true
			sub, ok, err := scanSubject(rows)
			if ok {
				items = append(items, sub)
			}
			return err
		})
		if err == nil && !there {
			return noGallery{errNoGallery(op)}
		}
		return err
	})
	byID := func(s face.Subject) string { return s.ID }
	if err == nil {
		err = wrap(op, store.CheckOrder(op, after, items, byID))
	}
	if err != nil {
		return nil, "", err
	}
	items, next = store.CutPage(items, p, byID, list...)
	return items, next, nil
}

// UpdateSubject implements [store.Subjects].
func (s *Store) UpdateSubject(ctx context.Context, tenant, gallery, subject string, c store.SubjectChange) (sub face.Subject, err error) {
	const op = "UpdateSubject"
	err = s.db.call(op, func() error {
		return s.db.transact(ctx, true, func(ctx context.Context, tx pgx.Tx) error {
			row, err := lockGallery(ctx, tx, op, tenant, gallery)
			if err != nil {
				return err
			}
			if sub, err = readSubject(ctx, tx, op, tenant, gallery, subject); err != nil {
				return err
			}
			c.Apply(&sub)
			if err := store.CheckSubject(op, sub); err != nil {
				return err
			}
			sub.UpdatedAt = store.Stamp(time.Time{})
			_, err = tx.Exec(ctx, `UPDATE subject SET name = $3, external_id = $4, metadata = $5, updated_at = $6
				WHERE gallery = $1 AND id = $2`,
				row, subject, sub.Name, sub.ExternalID, metadataColumn(sub.Metadata), sub.UpdatedAt)
			return err
		})
	})
	return result(sub, err)
}

// DeleteSubject implements [store.Subjects].
func (s *Store) DeleteSubject(ctx context.Context, tenant, gallery, subject string, by store.Actor) (receipt face.Receipt, err error) {
	const op = "DeleteSubject"
	err = s.erase(ctx, op, func(ctx context.Context, tx pgx.Tx) error {
		row, err := lockGallery(ctx, tx, op, tenant, gallery)
		if err != nil {
			return err
		}
		sub, err := readSubject(ctx, tx, op, tenant, gallery, subject)
		if err != nil {
			return err
		}
		receipt = face.Receipt{Gallery: gallery, SubjectID: subject, Subjects: 1, Templates: sub.Templates}
		if _, err := tx.Exec(ctx, `SELECT FROM subject WHERE gallery = $1 AND id = $2 FOR UPDATE`, row, subject); err != nil {
			return err
		}
		if err := lockShelves(ctx, tx, row); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE FROM crop c USING subject s WHERE c.subject = s.row_id AND s.gallery = $1 AND s.id = $2`, row, subject)
		if err != nil {
			return err
		}
		receipt.Images = int(tag.RowsAffected())
		if _, err := tx.Exec(ctx, `DELETE FROM subject WHERE gallery = $1 AND id = $2`, row, subject); err != nil {
			return err
		}
		if err := eraseAnswers(ctx, tx, tenant, gallery, subject); err != nil {
			return err
		}
		return recordErase(ctx, tx, tenant, by, store.AuditEraseSubject, "", &receipt)
	})
	return result(receipt, err)
}

func readSubject(ctx context.Context, q querier, op, tenant, gallery, subject string) (face.Subject, error) {
	sub, ok, err := scanSubject(q.QueryRow(ctx, `SELECT `+subjectColumns+`
		FROM gallery g LEFT JOIN subject s ON s.gallery = g.row_id AND s.id = $3
		WHERE g.tenant = $1 AND g.id = $2`, tenant, gallery, subject))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return sub, noGallery{errNoGallery(op)}
	case err == nil && !ok:
		return sub, errNoSubject(op)
	}
	return sub, err
}

func errNoSubject(op string) error { return face.Errorf(face.NotFound, op, "no such subject") }

// metadataColumn stores no metadata as null.
func metadataColumn(m json.RawMessage) *string {
	if len(m) == 0 {
		return nil
	}
	text := string(m)
	return &text
}
