package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"path/filepath"
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
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestUpgradeScopesTemplateIDs opens a file in which a template's id was
// unique in the whole store: everything is there as it was, wherever an
// earlier attempt was cut off.
func TestUpgradeScopesTemplateIDs(t *testing.T) {
	t.Parallel()
	const people, dim = 300, 64
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	old := schemaOf(t, path, 4)
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := old.ExecContext(ctx, query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
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
			exec(`INSERT INTO template (id, gallery, subject, shares_sample, model_id, embedding, quality, created_at) VALUES (?, 1, ?, ?, ?, ?, 0.5, ?)`,
				tm.ID, i+1, shares, m, sqlite.EncodeEmbedding(tm.Embedding), at.UnixMicro())
			r.Templates = append(r.Templates, tm)
		}
		want = append(want, r)
	}
	exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (2, 'ada', '', '', 1, 1)`)
	exec(`INSERT INTO template (id, gallery, subject, model_id, embedding, quality, created_at) SELECT 'erased', 2, max(row_id), 'encoder-a', x'0000803f', 0, 1 FROM subject`)
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
		if err != nil || len(r.Candidates) != 1 || r.Candidates[0].TemplateID != want[i].Templates[0].ID || r.Candidates[0].Name != want[i].Subject.Name {
			t.Errorf("found %+v, %v", r, err)
		}
	}
	// The id is free for another tenant; that row's number is not used again.
	_, err := s.Enrol(ctx, "other", face.DefaultGallery, face.Template{ID: "t0000-0", SubjectID: "ada", ModelID: model, Embedding: embedding(1, 8)})
	if err != nil {
		t.Error(err)
	}
	if receipt, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "s0000", "t0000-1", store.Actor{}); err != nil || receipt.Templates != 2 || receipt.Images != 1 {
		t.Errorf("erased %+v, %v", receipt, err)
	}
	for gallery, templates := range map[string]int{tenant: 2*people - 2, "other": 1} {
		if g, err := s.Gallery(ctx, gallery, face.DefaultGallery); err != nil || g.Templates != templates {
			t.Errorf("%s has %+v, %v", gallery, g, err)
		}
	}
	n, err := s.PurgeExpired(ctx, at)
	if err != nil || n != 0 {
		t.Errorf("purged %d, %v", n, err)
	}
	if last, err := s.LastTemplateRow(ctx); err != nil || last != 2*people+2 {
		t.Errorf("the newest template has the row %d, %v", last, err)
	}
	integrity(t, path)
}
