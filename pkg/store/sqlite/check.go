package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/likeness-id/likeness/internal/sqlitedb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Check looks for what is wrong with the store at path and calls found for
// each finding; it stops at the first error of found. It changes nothing, and
// works beside a server, which may write meanwhile. Internal: the file is of
// another program or cannot be read at all. Conflict: its schema is that of
// another version.
func Check(ctx context.Context, path string, found func(store.Finding) error) error {
	abs, err := absolutePath(path)
	if err != nil {
		return wrapFile("Check", path, err)
	}
	// Only a connection that cannot write leaves the log as it is when it
	// closes: moving it into the file is for the server, after scrubbing.
	read, err := sqlitedb.Open(abs, sqlitedb.ReadPragmas(), "mode=ro")
	if err != nil {
		return wrapFile("Check", abs, err)
	}
	read.SetMaxOpenConns(1)
	conn := &connection{db: read}
	var stopped error // what found returned
	if err = conn.open(ctx); err == nil {
		c := checker{conn.session(ctx), abs, map[galleryModel]int64{}, func(f store.Finding) error {
			stopped = found(f)
			return stopped
		}}
		err = c.all(func() bool { return stopped != nil })
	}
	conn.close()
	err = errors.Join(err, read.Close())
	if _, known := errors.AsType[*face.Error](err); known || err == nil || stopped != nil {
		return err
	}
	return wrapFile("Check", abs, err)
}

// checker is one check under way. Each look is a snapshot of its own: one for
// all would keep erased pages in the log.
type checker struct {
	session
	path  string
	usual map[galleryModel]int64 // how many numbers most embeddings have
	found func(store.Finding) error
}

type galleryModel struct {
	gallery int64 // row
	model   string
}

func (c checker) all(stopped func() bool) error {
	if err := c.checkOwnFile(); err != nil {
		return err
	}
	for _, look := range []struct {
		check string
		at    func() error
	}{
		{store.CheckFile, c.file},
		{store.CheckReference, c.references},
		{store.CheckCount, c.dimensions}, // before what goes by them
		{store.CheckEmbedding, c.embeddings},
		{store.CheckCount, c.counts},
		{store.CheckCrop, c.crops},
		{store.CheckAudit, c.audit},
	} {
		err := look.at()
		// What a damaged page keeps from being looked at is a finding, too.
		if kind, _ := sqlitedb.Diagnose(err); err != nil && kind == face.Internal && !stopped() && c.ctx.Err() == nil {
			err = c.found(store.Finding{Check: look.check, Detail: "damage ended this look: " + err.Error(), Mend: store.MendRestore})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkOwnFile refuses a file that is not of this program, or of another version.
func (c checker) checkOwnFile() error {
	const op = "sqlite.Check"
	id, err := c.count("PRAGMA application_id")
	if err != nil {
		return err
	}
	if id != applicationID {
		return face.Errorf(face.Internal, op, "the file is a database of another program")
	}
	if n, err := c.count(`SELECT count(*) FROM pragma_table_info('template') WHERE name = 'checksum'`); err != nil || n == 0 {
		return errors.Join(err, face.Errorf(face.Conflict, op, "the schema is that of an older program: start this one's server once, which brings it up to date"))
	}
	return nil
}

// shell is a command for an operator who has stopped the server.
func (c checker) shell(statement string) string {
	return fmt.Sprintf(`stop the server and run: sqlite3 '%s' "%s"`, c.path, statement)
}

func (c checker) file() error {
	return c.each(func(rows *sql.Rows) error {
		var said string
		if err := rows.Scan(&said); err != nil || said == "ok" {
			return err
		}
		f := store.Finding{Check: store.CheckFile, Detail: said, Mend: store.MendRestore}
		if strings.Contains(said, "index") { // of rows that are all there
			f.Mend = c.shell("REINDEX") + "; then check again"
		}
		return c.found(f)
	}, "PRAGMA integrity_check")
}

func (c checker) references() error {
	err := c.each(func(rows *sql.Rows) error {
		var table, parent string
		var row sql.NullInt64
		if err := rows.Scan(&table, &row, &parent); err != nil {
			return err
		}
		f := store.Finding{Check: store.CheckReference, Detail: fmt.Sprintf("a row of the table %s refers to a %s that is not there", table, parent), Mend: store.MendRestore}
		if row.Valid {
			f.Detail = fmt.Sprintf("row %d of the table %s refers to a %s that is not there", row.Int64, table, parent)
			f.Mend = c.shell(fmt.Sprintf("PRAGMA secure_delete = ON; DELETE FROM %s WHERE rowid = %d", table, row.Int64)) + "; or " + store.MendRestore
		}
		return c.found(f)
		// Keys of two columns are left out: they show what is in another gallery than
		// its subject, and other parts of the check report that with its name.
	}, `SELECT "table", "rowid", parent FROM pragma_foreign_key_check AS c
		WHERE (SELECT count(*) FROM pragma_foreign_key_list(c."table") WHERE id = c.fkid) = 1`)
	if err != nil {
		return err
	}
	return c.each(func(rows *sql.Rows) error {
		f := store.Finding{Check: store.CheckReference, Detail: "the template is in another gallery than its subject", Mend: store.MendTemplate}
		if err := rows.Scan(&f.Tenant, &f.Gallery, &f.SubjectID, &f.TemplateID); err != nil {
			return err
		}
		return c.found(f)
	}, `SELECT g.tenant, g.id, s.id, t.id FROM template t JOIN subject s ON s.row_id = t.subject JOIN gallery g ON g.row_id = t.gallery
		WHERE s.gallery <> t.gallery`)
}

// dimensions compares what the gallery says of each model with its embeddings:
// where most have another length, it is not they that are damaged.
func (c checker) dimensions() error {
	return c.each(func(rows *sql.Rows) error {
		f := store.Finding{Check: store.CheckCount, Mend: store.MendRestore}
		var of galleryModel
		var said sql.NullInt64
		var usual int64
		if err := rows.Scan(&of.gallery, &of.model, &f.Tenant, &f.Gallery, &said, &usual); err != nil {
			return err
		}
		if c.usual[of] = usual; !said.Valid || said.Int64 == usual {
			return nil
		}
		f.Detail = fmt.Sprintf("the gallery_model says that embeddings of %s have %d numbers, and most have %d", of.model, said.Int64, usual)
		if face.ValidID(of.model) {
			f.Mend = c.shell(fmt.Sprintf("UPDATE gallery_model SET dimension = %d WHERE gallery = %d AND model_id = '%s'", usual, of.gallery, of.model)) + "; then check again"
		}
		return c.found(f)
	}, `SELECT gallery, model_id, tenant, id, said, has FROM (
			SELECT t.gallery, t.model_id, g.tenant, g.id, `+dimensionOf+` AS said, length(t.embedding) / 4 AS has,
				row_number() OVER (PARTITION BY t.gallery, t.model_id ORDER BY count(*) DESC, length(t.embedding) / 4 = `+dimensionOf+` DESC) AS place
			FROM template t JOIN gallery g ON g.row_id = t.gallery
			WHERE length(t.embedding) > 0 AND length(t.embedding) % 4 = 0
			GROUP BY t.gallery, t.model_id, length(t.embedding)
		) WHERE place = 1`)
}

// embeddings goes by row, some at a time.
func (c checker) embeddings() error {
	for after, more := int64(0), true; more; {
		more = false
		if err := c.each(func(rows *sql.Rows) error {
			var f store.Finding
			var row, gallery int64
			t, damage, err := scanTemplate(rows, &row, &gallery, &f.Tenant, &f.Gallery, &f.SubjectID)
			if err == nil {
				err = store.CheckNext("Check", after, row)
			}
			after, more = row, true
			if err != nil || damage == nil {
				return err
			}
			if e, ok := errors.AsType[lengthError](damage); ok && int64(e.bytes) == 4*c.usual[galleryModel{gallery, t.ModelID}] {
				return nil // it is the dimension that is wrong
			}
			f.Check, f.TemplateID, f.Mend = store.CheckEmbedding, t.ID, store.MendTemplate
			f.Detail = "the embedding is damaged: " + store.Reason(damage)
			return c.found(f)
		}, `SELECT `+templateColumns+`, t.row_id, t.gallery, coalesce(g.tenant, ''), coalesce(g.id, ''), coalesce(s.id, '') FROM template t
			LEFT JOIN subject s ON s.row_id = t.subject LEFT JOIN gallery g ON g.row_id = t.gallery
			WHERE t.row_id > ? ORDER BY t.row_id LIMIT ?`, after, loadChunk); err != nil {
			return err
		}
	}
	return nil
}

func (c checker) counts() error {
	if err := c.each(func(rows *sql.Rows) error {
		var f store.Finding
		var row int64
		var said, are int
		if err := rows.Scan(&row, &f.Tenant, &f.Gallery, &said, &are); err != nil {
			return err
		}
		f.Check, f.Detail = store.CheckCount, fmt.Sprintf("the gallery says that it has %d subjects, and has %d", said, are)
		f.Mend = c.shell(fmt.Sprintf("UPDATE gallery SET subjects = (SELECT count(*) FROM subject WHERE gallery = %d) WHERE row_id = %[1]d", row))
		return c.found(f)
	}, `SELECT * FROM (SELECT g.row_id, g.tenant, g.id, g.subjects AS said, (SELECT count(*) FROM subject s WHERE s.gallery = g.row_id) AS are FROM gallery g)
		WHERE said <> are`); err != nil {
		return err
	}
	return c.each(func(rows *sql.Rows) error {
		var f store.Finding
		var row int64
		var model string
		var said, are int
		if err := rows.Scan(&row, &f.Tenant, &f.Gallery, &model, &said, &are); err != nil {
			return err
		}
		f.Check, f.Detail = store.CheckCount, fmt.Sprintf("the gallery says that it has %d templates of %s, and has %d", said, model, are)
		statement := fmt.Sprintf("DELETE FROM gallery_model WHERE gallery = %d AND model_id = '%s'", row, model)
		if are > 0 {
			statement = fmt.Sprintf("INSERT INTO gallery_model VALUES (%d, '%s', %d, %d) ON CONFLICT DO UPDATE SET templates = excluded.templates", row, model, c.usual[galleryModel{row, model}], are)
		}
		if f.Mend = c.shell(statement); !face.ValidID(model) {
			f.Mend = store.MendRestore
		}
		return c.found(f)
	}, `SELECT g.row_id, g.tenant, g.id, x.model_id, max(x.said), max(x.are) FROM (
			SELECT gallery, model_id, templates AS said, 0 AS are FROM gallery_model
			UNION ALL SELECT gallery, model_id, 0, count(*) FROM template GROUP BY gallery, model_id
		) x JOIN gallery g ON g.row_id = x.gallery
		GROUP BY x.gallery, x.model_id HAVING max(x.said) <> max(x.are)`)
}

func (c checker) crops() error {
	return c.each(func(rows *sql.Rows) error {
		var f store.Finding
		var row int64
		var sample string
		if err := rows.Scan(&row, &f.Tenant, &f.Gallery, &f.SubjectID, &sample, &f.Detail); err != nil {
			return err
		}
		f.Check, f.Detail = store.CheckCrop, fmt.Sprintf("the crop of the sample %s %s", sample, f.Detail)
		f.Mend = c.shell(fmt.Sprintf("PRAGMA secure_delete = ON; DELETE FROM crop WHERE row_id = %d", row))
		return c.found(f)
	}, `SELECT row_id, tenant, gallery, subject, sample_id, wrong FROM (
			SELECT c.row_id, g.tenant, g.id AS gallery, s.id AS subject, c.sample_id, CASE
				WHEN length(c.sealed) = 0 THEN 'is empty'
				WHEN s.gallery <> c.gallery THEN 'is in another gallery than its subject'
				WHEN NOT EXISTS (SELECT 1 FROM template t WHERE t.gallery = c.gallery AND t.sample_id = c.sample_id) THEN 'has no template'
				WHEN NOT EXISTS (SELECT 1 FROM template t WHERE t.gallery = c.gallery AND t.sample_id = c.sample_id AND t.subject = c.subject)
					THEN 'is another subject''s than its template'
			END AS wrong
			FROM crop c JOIN subject s ON s.row_id = c.subject JOIN gallery g ON g.row_id = c.gallery
		) WHERE wrong IS NOT NULL`)
}

func (c checker) audit() error {
	_, err := c.verifyAudit()
	if _, pages := sqlitedb.Diagnose(err); err == nil || pages != "" || c.ctx.Err() != nil {
		return err
	}
	return c.found(store.Finding{Check: store.CheckAudit, Detail: err.Error(), Mend: store.MendAudit})
}
