package postgres_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
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
