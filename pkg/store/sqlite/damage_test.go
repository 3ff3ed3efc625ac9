package sqlite_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// TestDamagedEmbedding damages one embedding among others. It is named and left
// out, and nobody else notices, until it is erased and enrolled again.
func TestDamagedEmbedding(t *testing.T) {
	t.Parallel()
	const people, dim = 30, 64
	lies := func(e face.Embedding) []byte { return sqlite.EncodeEmbedding(e) }
	scaled := func(by float32) face.Embedding {
		e := embedding(7, dim)
		for i := range e {
			e[i] *= by
		}
		return e
	}
	with := func(v float32) face.Embedding {
		e := embedding(7, dim)
		e[3] = v
		return e
	}
	flipped := func(at int, by byte) []byte {
		b := lies(embedding(7, dim))
		b[at] ^= by
		return b
	}
	for name, tt := range map[string]struct {
		blob   []byte
		summed bool // the checksum is that of the damaged bytes, as after an upgrade
	}{
		"no bytes":                       {nil, true},
		"not whole numbers":              {lies(embedding(7, dim))[:4*dim-2], true},
		"too short":                      {lies(embedding(7, dim))[:4*dim-4], true},
		"too long":                       {lies(embedding(7, dim+1)), true},
		"of another model's length":      {lies(embedding(7, dim/2)), true},
		"longer than any":                {bytes.Repeat([]byte{0, 0, 128, 63}, 5000), true},
		"NaN":                            {lies(with(float32(math.NaN()))), true},
		"infinite":                       {lies(with(float32(math.Inf(-1)))), true},
		"twice as long a vector":         {lies(scaled(2)), true},
		"shorter than a unit":            {lies(scaled(0.99)), true},
		"zeros":                          {make([]byte, 4*dim), true},
		"a byte of the first number":     {flipped(2, 0xff), false},
		"a sign, which keeps the length": {flipped(4*9+3, 0x80), false},
		"the last digit of a number":     {flipped(4*dim-4, 1), false},
		"somebody else's":                {lies(embedding(8, dim)), false},
		"all of it":                      {bytes.Repeat([]byte{0xa5}, 4*dim), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
			s := open(t, path)
			var records []store.Record
			for i := range people {
				id := fmt.Sprint("s", i)
				records = append(records, store.Record{
					Subject:   face.Subject{ID: id},
					Templates: []face.Template{{ID: fmt.Sprint("t", i), ModelID: model, Embedding: embedding(i, dim)}},
				})
			}
			records[7].Templates = append(records[7].Templates, face.Template{ID: "other", ModelID: "encoder-b", Embedding: embedding(1, 8)})
			if _, err := s.Import(ctx, tenant, face.DefaultGallery, records); err != nil {
				t.Fatal(err)
			}
			closing(t, s)
			damage(t, path, "t7", tt.blob, tt.summed)

			var log bytes.Buffer
			s, err := sqlite.Open(ctx, sqlite.Options{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer closing(t, s)
			if err := s.AwaitReady(ctx); err != nil {
				t.Fatal(err)
			}
			counts := func(comparisons, damaged int) {
				t.Helper()
				if n, err := s.Comparisons(ctx, tenant, face.DefaultGallery, model); err != nil || n != comparisons {
					t.Errorf("%d comparisons, %v; want %d", n, err, comparisons)
				}
				if n, err := s.DamagedTemplates(ctx); err != nil || n != damaged {
					t.Errorf("%d are damaged, %v; want %d", n, err, damaged)
				}
			}
			counts(people-1, 1)
			for i := range people {
				r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(i, dim), 1)
				if err != nil || len(r.Candidates) != 1 {
					t.Fatalf("found %+v, %v", r, err)
				}
				if c := r.Candidates[0]; (c.SubjectID == fmt.Sprint("s", i)) != (i != 7) {
					t.Errorf("%d is taken for %+v", i, c)
				}
			}
			if said := log.String(); !strings.Contains(said, "template_id=t7") || !strings.Contains(said, "subject_id=s7") ||
				strings.Count(said, "ERROR") != 1 {
				t.Errorf("the log says:\n%s", said)
			}
			list, err := s.Templates(ctx, tenant, face.DefaultGallery, "s7", "")
			if err != nil || len(list) != 2 || list[0].Embedding != nil || cmp.Diff(embedding(1, 8), list[1].Embedding) != "" {
				t.Errorf("templates %+v, %v", list, err)
			}
			exported := 0
			if err := s.Export(ctx, tenant, face.DefaultGallery, "", func(r store.Record) error {
				for _, tm := range r.Templates {
					if (tm.Embedding == nil) != (tm.ID == "t7") {
						t.Errorf("exported %+v", tm)
					}
				}
				exported++
				return nil
			}); err != nil || exported != people {
				t.Errorf("exported %d, %v", exported, err)
			}

			if err := enrol(s, "t7", "s7", embedding(7, dim)); !errors.Is(err, face.Conflict) {
				t.Errorf("enrolling over it: %v", err)
			}
			if _, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, "s7", "t7", store.Actor{}); err != nil {
				t.Fatal(err)
			}
			counts(people-1, 0)
			if err := enrol(s, "t7", "s7", embedding(7, dim)); err != nil {
				t.Fatal(err)
			}
			counts(people, 0)
			if r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(7, dim), 1); err != nil || r.Candidates[0].SubjectID != "s7" {
				t.Errorf("found %+v, %v", r, err)
			}
		})
	}
}

// damage puts other bytes in the place of a template's embedding.
func damage(tb testing.TB, path, template string, blob []byte, summed bool) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer closing(tb, db)
	if blob == nil {
		_, err = db.Exec(`UPDATE template SET embedding = x'' WHERE id = ?`, template)
	} else {
		_, err = db.Exec(`UPDATE template SET embedding = ? WHERE id = ?`, blob, template)
	}
	if err == nil && summed {
		_, err = db.Exec(`UPDATE template SET checksum = ? WHERE id = ?`, sqlite.Checksum(blob), template)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// A thousand damaged embeddings name themselves a hundred times.
func TestManyDamagedEmbeddings(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	r := store.Record{Subject: face.Subject{ID: "a"}}
	for i := range 1000 {
		r.Templates = append(r.Templates, face.Template{ID: fmt.Sprint("t", i), ModelID: model, Embedding: embedding(i, 4)})
	}
	if _, err := s.Import(ctx, tenant, face.DefaultGallery, []store.Record{r}); err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	sqlExec(t, path, `UPDATE template SET embedding = zeroblob(16)`)
	var log bytes.Buffer
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, s)
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err := s.DamagedTemplates(ctx); err != nil || n != 1000 {
		t.Errorf("%d are damaged, %v", n, err)
	}
	if said := log.String(); strings.Count(said, "template_id=") != 100 || !strings.Contains(said, "likeness store check") {
		t.Errorf("the log says:\n%s", said)
	}
	if res, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(1, 4), 1); err != nil || len(res.Candidates) != 0 || res.GallerySize != 0 {
		t.Errorf("found %+v, %v", res, err)
	}
}

// Whatever part of the file is zero, no list goes round: each ends, with an
// error or without, and has nobody twice.
func TestListsOfDamagedFileEnd(t *testing.T) {
	t.Parallel()
	const people, block = 250, 4 << 10
	path := filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	var records []store.Record
	for i := range people {
		id := fmt.Sprintf("s%05d", i)
		records = append(records, store.Record{
			Subject:   face.Subject{ID: id, Name: "name of " + id},
			Templates: []face.Template{{ID: "t" + id, ModelID: model, Embedding: embedding(i, 4)}},
		})
	}
	if _, err := s.Import(t.Context(), tenant, face.DefaultGallery, records); err != nil {
		t.Fatal(err)
	}
	closing(t, s)
	sqlExec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for at := 16 << 10; at+block <= len(whole); at += 3 * block {
		b := append([]byte{}, whole...)
		clear(b[at : at+block])
		path := filepath.Join(t.TempDir(), "likeness.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
		if err != nil {
			continue
		}
		lists := map[string]func(see func(id string) error) error{
			"Export": func(see func(string) error) error {
				return s.Export(t.Context(), tenant, face.DefaultGallery, "", func(r store.Record) error { return see(r.Subject.ID) })
			},
			"ListSubjects": func(see func(string) error) error {
				p := store.Page{Limit: 40}
				for {
					items, next, err := s.ListSubjects(t.Context(), tenant, face.DefaultGallery, store.SubjectFilter{}, p)
					for _, sub := range items {
						err = errors.Join(err, see(sub.ID))
					}
					if err != nil || next == "" {
						return err
					}
					p.Cursor = next
				}
			},
		}
		for name, list := range lists {
			seen := map[string]bool{}
			err := list(func(id string) error {
				if seen[id] {
					t.Errorf("%s with zeros at %d gives %s twice", name, at, id)
					return errors.New("enough")
				}
				seen[id] = true
				return nil
			})
			if err != nil {
				refused++
			}
		}
		_ = s.Close() // it may notice the damage, too
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}
