package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/likeness-id/likeness/pkg/store"
)

// scopeTemplateIDs is the migration after which a template's id is unique in
// its gallery and no longer in the whole store, so that nobody's id is refused
// for what another tenant has, and a gallery may be copied. It also gives each
// embedding a checksum, which shows one that was damaged on the disk.
//
// SQLite takes no constraint off a table, so the table is made anew. The rows
// move some at a time, and the pages that they leave are used again: dropping
// a full table would take several times its size in memory.
func scopeTemplateIDs(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range []string{
		`DROP TRIGGER template_added`,
		`DROP TRIGGER template_erased`,
		`DROP TRIGGER crop_outlives_no_template`,
		`CREATE TABLE template_new (
			row_id        INTEGER PRIMARY KEY AUTOINCREMENT,
			id            TEXT    NOT NULL,
			gallery       INTEGER NOT NULL REFERENCES gallery ON DELETE CASCADE, -- the subject's
			subject       INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
			shares_sample TEXT    NOT NULL, -- empty: its own
			sample_id     TEXT    GENERATED ALWAYS AS (iif(shares_sample = '', id, shares_sample)) VIRTUAL,
			model_id      TEXT    NOT NULL,
			embedding     BLOB    NOT NULL, -- float32, little-endian
			checksum      INTEGER NOT NULL, -- CRC-32C of the embedding's bytes
			quality       REAL    NOT NULL,
			created_at    INTEGER NOT NULL,
			UNIQUE (gallery, id)
		) STRICT`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if err := moveTemplates(ctx, tx); err != nil {
		return err
	}
	for _, statement := range []string{
		// Row ids of erased templates are not used again either.
		`DELETE FROM sqlite_sequence WHERE name = 'template_new'`,
		`INSERT INTO sqlite_sequence (name, seq) SELECT 'template_new', seq FROM sqlite_sequence WHERE name = 'template'`,
		`DROP TABLE template`,
		`ALTER TABLE template_new RENAME TO template`,
		`CREATE INDEX template_by_age ON template (gallery, created_at)`,
		`CREATE INDEX template_of_subject ON template (subject, model_id)`,
		`CREATE INDEX template_of_sample ON template (gallery, sample_id, model_id)`,
		`CREATE TRIGGER template_added AFTER INSERT ON template BEGIN
			INSERT INTO gallery_model (gallery, model_id, dimension, templates)
			VALUES (NEW.gallery, NEW.model_id, length(NEW.embedding) / 4, 1)
			ON CONFLICT DO UPDATE SET templates = templates + 1;
		END`,
		`CREATE TRIGGER template_erased AFTER DELETE ON template BEGIN
			UPDATE gallery_model SET templates = templates - 1
			WHERE gallery = OLD.gallery AND model_id = OLD.model_id;
			DELETE FROM gallery_model
			WHERE gallery = OLD.gallery AND model_id = OLD.model_id AND templates = 0;
		END`,
		`CREATE TRIGGER crop_outlives_no_template AFTER DELETE ON template BEGIN
			DELETE FROM crop WHERE gallery = OLD.gallery AND sample_id = OLD.sample_id
			AND NOT EXISTS (SELECT 1 FROM template t WHERE t.gallery = OLD.gallery AND t.sample_id = OLD.sample_id);
		END`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// moveBatch is how many templates are moved at a time.
const moveBatch = 1000

// moveTemplates moves all rows from template to template_new.
func moveTemplates(ctx context.Context, tx *sql.Tx) (err error) {
	insert, err := tx.PrepareContext(ctx, `INSERT INTO template_new
		(row_id, id, gallery, subject, shares_sample, model_id, embedding, checksum, quality, created_at)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, insert.Close()) }()
	for last := int64(0); ; {
		var batch [][]any
		if batch, last, err = templatesAfter(ctx, tx, last); err != nil {
			return err
		}
		if len(batch) == 0 {
			break
		}
		for _, row := range batch {
			if _, err := insert.ExecContext(ctx, row...); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM template WHERE row_id <= ?`, last); err != nil {
			return err
		}
	}
	var left bool
	err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM template)`).Scan(&left)
	if err == nil && left {
		err = errors.New("a template cannot be moved: the file is damaged")
	}
	return err
}

// templatesAfter reads the next rows after a row id, as template_new takes
// them, and says which is the last.
func templatesAfter(ctx context.Context, tx *sql.Tx, after int64) (batch [][]any, last int64, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT row_id, id, gallery, subject, shares_sample, model_id, embedding, quality, created_at
		FROM template WHERE row_id > ? ORDER BY row_id LIMIT ?`, after, moveBatch)
	if err != nil {
		return nil, 0, err
	}
	defer rows.Close()
	for last = after; rows.Next(); {
		var row, gallery, subject, created int64
		var id, shares, model string
		var blob []byte
		var quality float64
		if err := rows.Scan(&row, &id, &gallery, &subject, &shares, &model, &blob, &quality, &created); err != nil {
			return nil, 0, err
		}
		if err := store.CheckNext("migrate", last, row); err != nil {
			return nil, 0, err
		}
		last = row
		batch = append(batch, []any{row, id, gallery, subject, shares, model, notNil(blob), checksum(blob), quality, created})
	}
	return batch, last, rows.Err()
}
