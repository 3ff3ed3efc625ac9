package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// TestErasedCropsAreGone looks for a crop in every file of the store, after
// each of the ways to erase it.
func TestErasedCropsAreGone(t *testing.T) {
	t.Parallel()
	const gallery = "photos"
	off := false
	for after, erase := range map[string]func(context.Context, *sqlite.Store) error{
		"its template": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.DeleteTemplate(ctx, tenant, gallery, "s7", "t7", store.Actor{})
			return err
		},
		"its subject": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.DeleteSubject(ctx, tenant, gallery, "s7", store.Actor{})
			return err
		},
		"its gallery": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.DeleteGallery(ctx, tenant, gallery, store.Actor{})
			return err
		},
		"its retention": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.PurgeExpired(ctx, time.Now().Add(48*time.Hour))
			return err
		},
		"the wish to store images": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.UpdateGallery(ctx, tenant, gallery, store.GalleryChange{StoreImages: &off})
			return err
		},
	} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			ctx, dir := t.Context(), t.TempDir()
			s := open(t, filepath.Join(dir, "likeness.db"))
			defer closing(t, s)
			if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: gallery, StoreImages: true, RetentionDays: 1}); err != nil {
				t.Fatal(err)
			}
			// Each page of a crop begins with its own mark. Crops are larger
			// than a page, so they lie on pages of their own.
			mark := func(i, page int) []byte { return fmt.Appendf(nil, "crop %03d page %02d ", i, page) }
			for i := range 20 {
				var crop []byte
				for page := range 30 {
					crop = append(crop, bytes.Repeat(mark(i, page), 100)...)
				}
				id := fmt.Sprint("s", i)
				if _, err := s.CreateSubject(ctx, tenant, gallery, face.Subject{ID: id}); err != nil {
					t.Fatal(err)
				}
				if _, err := s.Enrol(ctx, tenant, gallery, face.Template{
					ID: fmt.Sprint("t", i), SubjectID: id, ModelID: model, Embedding: embedding(i, 64), Crop: crop,
				}); err != nil {
					t.Fatal(err)
				}
			}
			pages := func() (n int) {
				// Another process reads the files, as in TestErasedBytesAreGone.
				all, err := exec.CommandContext(ctx, "sh", "-c", `cat "$0"/*`, dir).Output()
				if err != nil {
					t.Fatal(err)
				}
				for page := range 30 {
					if bytes.Contains(all, mark(7, page)) {
						n++
					}
				}
				return n
			}
			if n := pages(); n != 30 {
				t.Fatalf("%d of 30 pieces of the crop are in the files to begin with", n)
			}
			if err := erase(ctx, s); err != nil {
				t.Fatal(err)
			}
			if n := pages(); n != 0 {
				t.Errorf("%d of 30 pieces of the crop are still in the files", n)
			}
		})
	}
}

// TestUpgradeKeepsEverybody opens a file that the first release wrote.
func TestUpgradeKeepsEverybody(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	first, err := fs.ReadFile(migrations.SQLite, "sqlite/00001_create_identity.sql")
	if err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, fstest.MapFS{"00001_create_identity.sql": {Data: first}},
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Up(ctx); err != nil {
		t.Fatal(err)
	}
	for _, st := range []string{
		"PRAGMA journal_mode = WAL", "PRAGMA application_id = 0x4c4b4e53",
		`INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('acme', 'default', 3, 0, 1)`,
		`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (1, 'ada', 'Ada', '', 1, 1)`,
	} {
		if _, err := db.ExecContext(ctx, st); err != nil {
			t.Fatalf("%s: %v", st, err)
		}
	}
	if _, err := db.ExecContext(ctx, `INSERT INTO template (id, gallery, subject, model_id, embedding, quality, created_at)
		VALUES ('t1', 1, 1, 'encoder-a', ?, 0.5, 1)`, sqlite.EncodeEmbedding(embedding(1, 64))); err != nil {
		t.Fatal(err)
	}
	closing(t, db)

	s := open(t, path)
	defer closing(t, s)
	r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(1, 64), 1)
	if err != nil || len(r.Candidates) != 1 || r.Candidates[0].Name != "Ada" {
		t.Errorf("found %+v, %v", r, err)
	}
	list, err := s.Templates(ctx, tenant, face.DefaultGallery, "ada", "")
	if err != nil || len(list) != 1 || list[0].SampleID != "t1" {
		t.Errorf("templates %+v, %v", list, err)
	}
	g, err := s.Gallery(ctx, tenant, face.DefaultGallery)
	if err != nil || g.ModelID != "" || g.NextModelID != "" || g.RetentionDays != 3 || g.Templates != 1 {
		t.Errorf("gallery %+v, %v", g, err)
	}
	// What another model makes of the old photo belongs to it.
	if _, err := s.Enrol(ctx, tenant, face.DefaultGallery, face.Template{
		ID: "t2", SubjectID: "ada", SampleID: "t1", ModelID: "encoder-b", Embedding: embedding(2, 32),
	}); err != nil {
		t.Error(err)
	}
	if receipt, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "ada", "t1", store.Actor{}); err != nil || receipt.Templates != 2 {
		t.Errorf("erased %+v, %v", receipt, err)
	}
}
