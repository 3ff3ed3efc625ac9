package postgres_test

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"strings"
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

// TestUpgrade migrates databases of earlier programs: one in which a template's
// id was unique in the whole store, and one in which the schema let a template
// be in another gallery than its subject. Everything is there as it was, what is
// damaged and the graph too, wherever an earlier attempt was cut off.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	for _, version := range []int64{3, 5} {
		t.Run(fmt.Sprint("from ", version), func(t *testing.T) {
			t.Parallel()
			upgrade(t, version)
		})
	}
}

func upgrade(t *testing.T, version int64) {
	t.Helper()
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
	if _, err := p.UpTo(ctx, version); err != nil {
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
	addTemplate := func(tm face.Template, gallery, shelf, subject int) {
		t.Helper()
		exec(`INSERT INTO template (id, gallery_model, subject, sample, embedding, quality, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
			tm.ID, shelf, subject, tm.SampleID, pgvector.NewVector(tm.Embedding), tm.Quality, tm.CreatedAt)
	}
	if version >= 4 {
		addTemplate = func(tm face.Template, gallery, shelf, subject int) {
			t.Helper()
			exec(`INSERT INTO template (id, gallery, gallery_model, subject, sample, embedding, quality, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
				tm.ID, gallery, shelf, subject, tm.SampleID, pgvector.NewVector(tm.Embedding), tm.Quality, tm.CreatedAt)
		}
	}
	exec(`INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('acme', 'default', 0, true, now()), ('other', 'default', 0, false, now())`)
	exec(`INSERT INTO gallery_model (gallery, model_id, dimension) VALUES (1, 'encoder-a', $1), (1, 'encoder-b', $2), (2, 'encoder-a', $1)`, dim, dim/2)
	var want []store.Record
	for i := range people {
		r := store.Record{Subject: face.Subject{ID: fmt.Sprintf("s%04d", i), Name: fmt.Sprint("name of ", i), Templates: 2, CreatedAt: at, UpdatedAt: at}}
		exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (1, $1, $2, '', $3, $3)`, r.Subject.ID, r.Subject.Name, at)
		for n, m := range []string{model, "encoder-b"} {
			tm := face.Template{
				ID: fmt.Sprintf("t%04d-%d", i, n), SubjectID: r.Subject.ID, SampleID: fmt.Sprintf("t%04d-0", i), ModelID: m,
				Embedding: embedding(2*i+n, dim>>n), Quality: 0.5, CreatedAt: at,
			}
			addTemplate(tm, 1, n+1, i+1)
			if n == 0 && i%3 == 0 {
				tm.Crop = fmt.Appendf(nil, "crop of %d", i)
				exec(`INSERT INTO crop (gallery, subject, sample, quality, created_at, sealed) VALUES (1, $1, $2, 0.5, $3, $4)`, i+1, tm.SampleID, at, tm.Crop)
			}
			r.Templates = append(r.Templates, tm)
		}
		want = append(want, r)
	}
	// Two that are damaged: one is the template of nobody's face, the other is in
	// another gallery than its subject.
	exec(`INSERT INTO subject (gallery, id, name, external_id, created_at, updated_at) VALUES (2, 'ada', '', '', $1, $1)`, at)
	broken := face.Template{ID: "broken", SubjectID: "ada", SampleID: "broken", ModelID: model, Embedding: make(face.Embedding, dim), Quality: 0.5, CreatedAt: at}
	addTemplate(broken, 2, 3, people+1)
	stray := face.Template{ID: "astray", SubjectID: "s0004", SampleID: "astray", ModelID: model, Embedding: embedding(-1, dim), Quality: 0.5, CreatedAt: at}
	addTemplate(stray, 2, 3, 5)
	want[4].Templates, want[4].Subject.Templates = append(want[4].Templates, stray), 3
	exec(fmt.Sprintf(`CREATE INDEX graph_1 ON template USING hnsw ((embedding::halfvec(%d)) halfvec_ip_ops) WHERE gallery_model = 1`, dim))
	exec(`INSERT INTO search_graph VALUES (1, 100, 0.9, 0.99, 100, now())`)
	if err := old.Commit(); err != nil {
		t.Fatal(err)
	}

	cut := 0
	for limit := 10 * time.Millisecond; ; limit += limit / 4 {
		short, cancel := context.WithTimeout(ctx, limit)
		_, _, err := postgres.Migrate(short, url, "")
		cancel()
		if err == nil {
			break
		}
		cut++
	}
	t.Logf("cut off %d times", cut)
	var findings []string
	if err := postgres.Check(ctx, url, "", func(f store.Finding) error {
		findings = append(findings, f.Check+" "+f.Gallery+" "+f.SubjectID+" "+f.TemplateID)
		return nil
	}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"embedding default ada broken", "reference default s0004 astray"}, findings); d != "" {
		t.Error(d)
	}
	for _, table := range []string{"template", "crop"} {
		if _, err := db.ExecContext(ctx, `UPDATE `+table+` SET gallery = 2 WHERE subject = 7`); !strings.Contains(fmt.Sprint(err), "subject_of_gallery") {
			t.Errorf("a %s may be in another gallery than its subject: %v", table, err)
		}
	}
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
			if err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != want[i].Subject.ID || r.Candidates[0].Score < 0.999 || r.Candidates[0].Name != want[i].Subject.Name {
				t.Errorf("%s found %+v, %v", engine, r, err)
			}
		}
		if list, err := s.Graphs(ctx); err != nil || len(list) != 0 {
			t.Errorf("the graphs are %+v, %v, and none was built of fused templates", list, err)
		}
		// The ids are free for another tenant.
		id := "of-" + engine
		if _, err := s.CreateSubject(ctx, "other", face.DefaultGallery, face.Subject{ID: id}); err != nil {
			t.Error(err)
		}
		theirs := face.Template{ID: want[from+1].Templates[0].ID, SubjectID: id, ModelID: model, Embedding: embedding(1, dim)}
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
	// What strays goes with its subject.
	s := open(t, postgres.Options{URL: url, Search: postgres.SearchPgvector})
	defer closing(t, s)
	if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "s0004", store.Actor{}); err != nil {
		t.Error(err)
	}
	if n := sqlInt(t, url, `SELECT count(*) FROM template WHERE id = 'astray'`); n != 0 {
		t.Error("what strays outlives its subject")
	}
	wantCounts(t, url)
}
