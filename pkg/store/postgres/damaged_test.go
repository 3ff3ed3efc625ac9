package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// lines keeps what is logged.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// TestDamagedEmbedding damages one embedding among others. It is named and left
// out, and nobody else notices, until it is erased and enrolled again.
func TestDamagedEmbedding(t *testing.T) {
	t.Parallel()
	const people, dim = 40, 32
	for name, damage := range map[string]string{
		"three times as long a vector": `embedding * array_fill(3, ARRAY[32])::vector`,
		"shorter than a unit":          `embedding * array_fill(0.99, ARRAY[32])::vector`,
		"zeros":                        `array_fill(0, ARRAY[32])::vector`,
		"too short":                    `subvector(embedding, 1, 31)`,
		"too long":                     `embedding || '[0,0]'`,
		"one number":                   `'[1]'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, db := t.Context(), pgtest.Database(t, migrate)
			first := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector})
			populate(t, first, 0, people, dim)
			if err := enrol(first, "twin", "s8", embedding(8, dim)); err != nil {
				t.Fatal(err)
			}
			closing(t, first)
			sqlExec(t, db, `UPDATE template SET embedding = `+damage+` WHERE id = 't7' OR id = 't8'`)
			for _, engine := range []string{postgres.SearchIndex, postgres.SearchPgvector} {
				said := &lines{}
				s := open(t, postgres.Options{URL: db, Search: engine, Logger: slog.New(slog.NewTextHandler(said, nil))})
				defer closing(t, s)
				eventually(t, 10*time.Second, "both are known to be damaged", func() bool {
					n, err := s.DamagedTemplates(ctx)
					return err == nil && n == 2
				})
				if n, err := s.Comparisons(ctx, tenant, face.DefaultGallery, model); err != nil || n != people-1 {
					t.Errorf("%s: %d comparisons, %v", engine, n, err)
				}
				for i := range people {
					r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(i, dim), 1)
					if err != nil || len(r.Candidates) != 1 {
						t.Fatalf("%s: found %+v, %v", engine, r, err)
					}
					if c := r.Candidates[0]; (c.SubjectID == fmt.Sprint("s", i)) != (i != 7) || c.Score > 1.001 {
						t.Errorf("%s: %d is taken for %+v", engine, i, c)
					}
				}
				r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(7, dim), people)
				if err != nil || len(r.Candidates) != people-1 {
					t.Errorf("%s: found %d, %v", engine, len(r.Candidates), err)
				}
				for _, want := range []string{"subject_id=s7", "template_id=t7", "template_id=t8"} {
					if strings.Count(said.String(), want) != 1 {
						t.Errorf("%s: the log says:\n%s", engine, said)
					}
				}
				list, err := s.Templates(ctx, tenant, face.DefaultGallery, "s8", "")
				if err != nil || len(list) != 2 || list[0].Embedding != nil || cmp.Diff(embedding(8, dim), list[1].Embedding) != "" {
					t.Errorf("%s: templates %+v, %v", engine, list, err)
				}
				exported := 0
				if err := s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
					for _, tm := range r.Templates {
						if (tm.Embedding == nil) != (tm.ID == "t7" || tm.ID == "t8") {
							t.Errorf("exported %+v", tm)
						}
					}
					exported++
					return nil
				}); err != nil || exported != people {
					t.Errorf("%s: exported %d, %v", engine, exported, err)
				}
			}
			s := open(t, postgres.Options{URL: db, Search: postgres.SearchIndex})
			defer closing(t, s)
			if err := enrol(s, "t7", "s7", embedding(7, dim)); !errors.Is(err, face.Conflict) {
				t.Errorf("enrolling over it: %v", err)
			}
			out, err := s.Import(ctx, tenant, face.DefaultGallery, []store.Record{person(7, dim), person(9, dim)})
			if err != nil || !errors.Is(out[0].Err, face.Conflict) || out[1].Err != nil {
				t.Errorf("importing over it: %+v, %v", out, err)
			}
			if _, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "s7", "t7", store.Actor{}); err != nil {
				t.Fatal(err)
			}
			if n, err := s.DamagedTemplates(ctx); err != nil || n != 1 {
				t.Errorf("%d are damaged, %v", n, err)
			}
			if err := enrol(s, "t7", "s7", embedding(7, dim)); err != nil {
				t.Fatal(err)
			}
			if ok, err := isFound(ctx, s, 7, dim); err != nil || !ok {
				t.Errorf("found again: %v, %v", ok, err)
			}
		})
	}
}

// A damaged dimension makes everybody look damaged: the check advises to mend
// it, and to erase nobody but who is.
func TestDamagedDimension(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector})
	populate(t, s, 0, 10, 32)
	closing(t, s)
	sqlExec(t, db, `UPDATE gallery_model SET dimension = 31`)
	sqlExec(t, db, `UPDATE template SET embedding = subvector(embedding, 1, 31) WHERE id = 't7'`)
	check := func() (all []store.Finding) {
		if err := postgres.Check(t.Context(), db, "", func(f store.Finding) error { all = append(all, f); return nil }); err != nil {
			t.Fatal(err)
		}
		return all
	}
	all := check()
	if len(all) != 2 || all[0].TemplateID != "t7" || all[1].Check != store.CheckCount || !strings.Contains(all[1].Detail, "have 31 numbers, and most have 32") {
		t.Fatalf("found %+v", all)
	}
	_, statement, _ := strings.Cut(all[1].Mend, "psql: ")
	statement, _, _ = strings.Cut(statement, ";")
	sqlExec(t, db, statement)
	if all := check(); len(all) != 1 || all[0].TemplateID != "t7" {
		t.Errorf("mended as it says: %+v", all)
	}
}

// A look at all templates that fails is taken again.
func TestDamagedScanAgain(t *testing.T) {
	t.Parallel()
	ctx, db, said := t.Context(), pgtest.Database(t, migrate), &lines{}
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector, Logger: slog.New(slog.NewTextHandler(said, nil))})
	defer closing(t, s)
	populate(t, s, 0, 10, 32)
	sqlExec(t, db, `UPDATE template SET embedding = subvector(embedding, 1, 31) WHERE id = 't7'`)
	sqlExec(t, db, `ALTER TABLE subject RENAME TO away`)
	eventually(t, 10*time.Second, "the look fails", func() bool {
		_, err := s.DamagedTemplates(ctx)
		return err == nil && strings.Contains(said.String(), "cannot look for damaged embeddings")
	})
	sqlExec(t, db, `ALTER TABLE away RENAME TO subject`)
	eventually(t, 10*time.Second, "it is taken again", func() bool {
		n, err := s.DamagedTemplates(ctx)
		return err == nil && n == 1
	})
}

// TestDamagedFused changes what is searched of subjects with several templates:
// the check names them, and its statements mend it.
func TestDamagedFused(t *testing.T) {
	t.Parallel()
	const people, dim = 12, 32
	ctx, db := t.Context(), pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector})
	defer closing(t, s)
	var records []store.Record
	for i := range people {
		r := person(i, dim)
		for n := range i % 3 {
			r.Templates = append(r.Templates, face.Template{ID: fmt.Sprintf("more-%d-%d", i, n), ModelID: model, Embedding: embedding(100*n+i, dim)})
		}
		records = append(records, r)
	}
	if out, err := s.Import(ctx, tenant, face.DefaultGallery, records); err != nil || out[2].Templates != 3 {
		t.Fatal(out, err)
	}
	check := func() (subjects, statements []string) {
		if err := postgres.Check(ctx, db, "", func(f store.Finding) error {
			if f.Check != store.CheckFused {
				t.Errorf("found %+v", f)
			}
			_, statement, _ := strings.Cut(f.Mend, "psql: ")
			statement, _, _ = strings.Cut(statement, ";")
			subjects, statements = append(subjects, f.SubjectID), append(statements, statement)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.Sort(subjects)
		return subjects, statements
	}
	if subjects, _ := check(); subjects != nil {
		t.Fatalf("%v are said to be damaged", subjects)
	}
	for subject, damage := range map[string]string{
		"s2":  `UPDATE template SET fused = embedding WHERE id = 'more-2-0'`,
		"s4":  `UPDATE template SET fused = NULL WHERE id = 'more-4-0'`,
		"s5":  `UPDATE template SET fused = subvector(fused, 1, 31) WHERE id = 'more-5-0'`,
		"s7":  `UPDATE template SET searched = NOT searched WHERE id IN ('more-7-0', 't7')`,
		"s8":  `UPDATE template SET searched = true WHERE id = 't8'`,
		"s9":  `UPDATE template SET searched = false WHERE id = 't9'`,
		"s11": `UPDATE template SET fused = embedding WHERE id = 't11'`,
		"s3":  `UPDATE template SET fused = embedding WHERE id = 't3'`,
	} {
		sqlExec(t, db, damage)
		if n := sqlInt(t, db, `SELECT count(*) FROM template t JOIN subject s ON s.row_id = t.subject WHERE s.id = '`+subject+`'`); n == 0 {
			t.Errorf("%s has no templates", subject)
		}
	}
	subjects, statements := check()
	if d := cmp.Diff([]string{"s11", "s2", "s3", "s4", "s5", "s7", "s8", "s9"}, subjects); d != "" {
		t.Error(d)
	}
	for _, statement := range statements {
		sqlExec(t, db, statement)
	}
	if subjects, _ := check(); subjects != nil {
		t.Errorf("%v are still damaged", subjects)
	}
	for i, r := range records {
		fused, n := face.FuseTemplates(r.Templates)
		probe, err := fused.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1)
		if err != nil || len(got.Candidates) != 1 || got.Candidates[0].SubjectID != r.Subject.ID || got.Candidates[0].Templates != n {
			t.Errorf("%d is found as %+v, %v", i, got, err)
		}
	}
}
