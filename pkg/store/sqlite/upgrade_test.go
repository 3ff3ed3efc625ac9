package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pressly/goose/v3"

	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// schemaOf makes a file as the program with that version of the schema made it.
func schemaOf(t *testing.T, path string, version int64) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=foreign_keys(1)")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, pragma := range []string{"page_size = 16384", "journal_mode = WAL", "application_id = 0x4c4b4e53"} {
		if _, err := db.ExecContext(t.Context(), "PRAGMA "+pragma); err != nil {
			t.Fatal(err)
		}
	}
	files, err := fs.Sub(migrations.SQLite, "sqlite")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithGoMigrations(goose.NewGoMigration(5, &goose.GoFunc{RunTx: sqlite.ScopeTemplateIDs}, nil)),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestUpgrade opens files of earlier programs: one in which a template's id was
// unique in the whole store, and one in which the schema let a template be in
// another gallery than its subject. Everything is there as it was, what is
// damaged too, wherever an earlier attempt was cut off.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, version := range []int64{4, 5} {
		t.Run(fmt.Sprint("from ", version), func(t *testing.T) {
			t.Parallel()
			upgrade(t, version)
		})
	}
}

func upgrade(t *testing.T, version int64) {
	t.Helper()
	const people, dim = 300, 64
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	old := schemaOf(t, path, version)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := old.ExecContext(ctx, query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	addTemplate := func(id string, gallery, subject int, shares, model string, embedding []byte) {
		t.Helper()
		if version < 5 {
			exec(`INSERT INTO template (id, gallery, subject, shares_sample, model_id, embedding, quality, created_at) VALUES (?, ?, ?, ?, ?, ?, 0.5, ?)`,
				id, gallery, subject, shares, model, embedding, at.UnixMicro())
			return
		}
		exec(`INSERT INTO template (id, gallery, subject, shares_sample, model_id, embedding, checksum, quality, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 0.5, ?)`,
			id, gallery, subject, shares, model, embedding, sqlite.Checksum(embedding), at.UnixMicro())
	}
	exec(`INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('acme', 'default', 0, 1, 1), ('other', 'default', 0, 0, 1)`)
	exec("BEGIN")
	var want []store.Record
	for i := range people {
		r := store.Record{Subject: face.Subject{ID: fmt.Sprintf("s%04d", i), Name: fmt.Sprint("name of ", i), Templates: 2, CreatedAt: at, UpdatedAt: at}}
		exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (1, ?, ?, '', ?, ?)`,
			r.Subject.ID, r.Subject.Name, at.UnixMicro(), at.UnixMicro())
		for n, m := range []string{model, "encoder-b"} {
			tm := face.Template{
				ID: fmt.Sprintf("t%04d-%d", i, n), SubjectID: r.Subject.ID, SampleID: fmt.Sprintf("t%04d-0", i), ModelID: m,
				Embedding: embedding(2*i+n, dim>>n), Quality: 0.5, CreatedAt: at,
			}
			shares := ""
			if n == 1 {
				shares = tm.SampleID
			} else if i%3 == 0 {
				tm.Crop = fmt.Appendf(nil, "crop of %d", i)
				exec(`INSERT INTO crop (gallery, subject, sample_id, quality, created_at, sealed) VALUES (1, ?, ?, 0.5, ?, ?)`,
					i+1, tm.SampleID, at.UnixMicro(), tm.Crop)
			}
			addTemplate(tm.ID, 1, i+1, shares, m, sqlite.EncodeEmbedding(tm.Embedding))
			r.Templates = append(r.Templates, tm)
		}
		want = append(want, r)
	}
	exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (2, 'ada', '', '', 1, 1)`)
	addTemplate("broken", 2, people+1, "", model, make([]byte, 4*dim))
	stray := face.Template{ID: "astray", SubjectID: "s0001", SampleID: "astray", ModelID: model, Embedding: embedding(-1, dim), Quality: 0.5, CreatedAt: at}
	addTemplate(stray.ID, 2, 2, "", model, sqlite.EncodeEmbedding(stray.Embedding)) // in the other gallery
	want[1].Templates, want[1].Subject.Templates = append(want[1].Templates, stray), 3
	addTemplate("erased", 2, people+1, "", model, make([]byte, 4*dim))
	exec(`DELETE FROM template WHERE id = 'erased'`)
	exec("COMMIT")
	closing(t, old)

	var s *sqlite.Store
	cut := 0
	for limit := time.Millisecond; s == nil; limit += 4 * time.Millisecond {
		short, cancel := context.WithTimeout(ctx, limit)
		opened, err := sqlite.Open(short, sqlite.Options{Path: path})
		cancel()
		if err != nil {
			cut++
			continue
		}
		s = opened
	}
	t.Logf("cut off %d times", cut)
	defer closing(t, s)
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	var got []store.Record
	if err := s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error { got = append(got, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	for _, i := range []int{0, 7, people - 1} {
		r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(2*i, dim), 1)
		if err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != want[i].Subject.ID || r.Candidates[0].Score < 0.999 || r.Candidates[0].Name != want[i].Subject.Name {
			t.Errorf("found %+v, %v", r, err)
		}
	}
	var found []string
	if err := sqlite.Check(ctx, path, func(f store.Finding) error {
		found = append(found, f.Check+" "+f.Gallery+" "+f.SubjectID+" "+f.TemplateID)
		return nil
	}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"reference default s0001 astray", "embedding default ada broken"}, found); d != "" {
		t.Error(d)
	}
	// What strays goes with its subject, and nothing strays any more.
	if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "s0001", store.Actor{}); err != nil {
		t.Error(err)
	}
	for _, table := range []string{"template", "crop"} {
		err := strayInto(t, path, table)
		if err == nil || !strings.Contains(err.Error(), "FOREIGN KEY constraint failed") {
			t.Errorf("a %s may be in another gallery than its subject: %v", table, err)
		}
	}
	// The id is free for another tenant; that row's number is not used again.
	_, err := s.Enrol(ctx, "other", face.DefaultGallery, face.Template{ID: "t0000-0", SubjectID: "ada", ModelID: model, Embedding: embedding(1, dim)})
	if err != nil {
		t.Error(err)
	}
	if receipt, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "s0000", "t0000-1", store.Actor{}); err != nil || receipt.Templates != 2 || receipt.Images != 1 {
		t.Errorf("erased %+v, %v", receipt, err)
	}
	for gallery, templates := range map[string]int{tenant: 2*people - 4, "other": 2} {
		if g, err := s.Gallery(ctx, gallery, face.DefaultGallery); err != nil || g.Templates != templates {
			t.Errorf("%s has %+v, %v", gallery, g, err)
		}
	}
	n, err := s.PurgeExpired(ctx, at)
	if err != nil || n != 0 {
		t.Errorf("purged %d, %v", n, err)
	}
	if last, err := s.LastTemplateRow(ctx); err != nil || last != 2*people+4 {
		t.Errorf("the newest template has the row %d, %v", last, err)
	}
	wantIntegrity(t, path)
}

// strayInto tries to put a row into another gallery than its subject.
func strayInto(t *testing.T, path, table string) error {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=foreign_keys(1)")
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	_, err = db.ExecContext(t.Context(), `UPDATE `+table+` SET gallery = 2 WHERE subject = 7`)
	return err
}

// TestErasePlans checks how SQLite finds what a foreign key erases with a
// subject: by the subject, however many templates its gallery has.
func TestErasePlans(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "likeness.db")
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	for _, table := range []string{"template", "crop"} {
		for _, key := range []string{"subject = ?", "gallery = ? AND subject = ?"} {
			var id, parent, unused int
			var plan string
			query := "DELETE FROM " + table + " WHERE " + key
			err := db.QueryRowContext(t.Context(), "EXPLAIN QUERY PLAN "+query, make([]any, strings.Count(key, "?"))...).Scan(&id, &parent, &unused, &plan)
			if err != nil || !strings.Contains(plan, table+"_of_subject (subject=?") {
				t.Errorf("%s: %s, %v", query, plan, err)
			}
		}
	}
}
