package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	_ "github.com/jackc/pgx/v5/stdlib" // registers the driver "pgx"
	"github.com/pgvector/pgvector-go"
	"github.com/pressly/goose/v3"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/migrations"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// TestUpgradeScopesTemplateIDs migrates a database in which a template's id was
// unique in the whole store: everything is there as it was, with its graph,
// wherever an earlier attempt was cut off.
func TestUpgradeScopesTemplateIDs(t *testing.T) {
	t.Parallel()
	const people, dim = 300, 64
	ctx, url := t.Context(), pgtest.Database(t, nil)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	files, err := fs.Sub(migrations.Postgres, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(ctx, 3); err != nil {
		t.Fatal(err)
	}
	old, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := old.ExecContext(ctx, query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	exec(`INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('acme', 'default', 0, true, now()), ('other', 'default', 0, false, now())`)
	exec(`INSERT INTO gallery_model (gallery, model_id, dimension) VALUES (1, 'encoder-a', $1), (1, 'encoder-b', $2)`, dim, dim/2)
	var want []store.Record
	for i := range people {
		r := store.Record{Subject: face.Subject{ID: fmt.Sprintf("s%04d", i), Name: fmt.Sprint("name of ", i), Templates: 2, CreatedAt: at, UpdatedAt: at}}
		exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (1, $1, $2, '', $3, $3)`, r.Subject.ID, r.Subject.Name, at)
		for n, m := range []string{model, "encoder-b"} {
			tm := face.Template{
				ID: fmt.Sprintf("t%04d-%d", i, n), SubjectID: r.Subject.ID, SampleID: fmt.Sprintf("t%04d-0", i), ModelID: m,
				Embedding: embedding(2*i+n, dim>>n), Quality: 0.5, CreatedAt: at,
			}
			exec(`INSERT INTO template (id, gallery_model, subject, sample, embedding, quality, created_at) VALUES ($1, $2, $3, $4, $5, 0.5, $6)`,
				tm.ID, n+1, i+1, tm.SampleID, pgvector.NewVector(tm.Embedding), at)
			if n == 0 && i%3 == 0 {
				tm.Crop = fmt.Appendf(nil, "crop of %d", i)
				exec(`INSERT INTO crop (gallery, subject, sample, quality, created_at, sealed) VALUES (1, $1, $2, 0.5, $3, $4)`, i+1, tm.SampleID, at, tm.Crop)
			}
			r.Templates = append(r.Templates, tm)
		}
		want = append(want, r)
	}
	exec(fmt.Sprintf(`CREATE INDEX graph_1 ON template USING hnsw ((embedding::halfvec(%d)) halfvec_ip_ops) WHERE gallery_model = 1`, dim))
	exec(`INSERT INTO search_graph VALUES (1, 100, 0.9, 0.99, 100, now())`)
	if err := old.Commit(); err != nil {
		t.Fatal(err)
	}

	cut := 0
	for limit := 10 * time.Millisecond; ; limit += 40 * time.Millisecond {
		short, cancel := context.WithTimeout(ctx, limit)
		_, _, err := postgres.Migrate(short, url, "")
		cancel()
		if err == nil {
			break
		}
		cut++
	}
	t.Logf("cut off %d times", cut)
	for from, engine := range []string{postgres.SearchIndex, postgres.SearchPgvector} {
		s := open(t, postgres.Options{URL: url, Search: engine, GraphAbove: 1})
		defer closing(t, s)
		var got []store.Record
		if err := s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error { got = append(got, r); return nil }); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want[from:], got); d != "" {
			t.Fatal(engine, d)
		}
		for _, i := range []int{from, 7, people - 1} {
			r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(2*i, dim), 1)
			if err != nil || len(r.Candidates) != 1 || r.Candidates[0].TemplateID != want[i].Templates[0].ID || r.Candidates[0].Name != want[i].Subject.Name {
				t.Errorf("%s found %+v, %v", engine, r, err)
			}
		}
		if list, err := s.Graphs(ctx); err != nil || len(list) != 1 {
			t.Errorf("the graphs are %+v, %v", list, err)
		}
		// The ids are free for another tenant.
		id := "of-" + engine
		if _, err := s.CreateSubject(ctx, "other", face.DefaultGallery, face.Subject{ID: id}); err != nil {
			t.Error(err)
		}
		theirs := face.Template{ID: want[from+1].Templates[0].ID, SubjectID: id, ModelID: model, Embedding: embedding(1, 8)}
		if _, err := s.Enrol(ctx, "other", face.DefaultGallery, theirs); err != nil {
			t.Error(err)
		}
		gone := want[from]
		if receipt, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, gone.Subject.ID, gone.Templates[1].ID, store.Actor{}); err != nil || receipt.Templates != 2 {
			t.Errorf("erased %+v, %v", receipt, err)
		}
		if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, gone.Subject.ID, store.Actor{}); err != nil {
			t.Error(err)
		}
	}
	counted(t, url)
}
