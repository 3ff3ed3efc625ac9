package sqlite_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// storeToCheck makes a file with some people, their crops and an audit chain.
func storeToCheck(t *testing.T) (path string, s *sqlite.Store) {
	t.Helper()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	s = open(t, path)
	keep := true
	if _, err := s.UpdateGallery(ctx, tenant, face.DefaultGallery, store.GalleryChange{StoreImages: &keep}); err != nil {
		t.Fatal(err)
	}
	var records []store.Record
	for i := range 60 {
		id := fmt.Sprint("s", i)
		records = append(records, store.Record{
			Subject:   face.Subject{ID: id},
			Templates: []face.Template{{ID: fmt.Sprint("t", i), ModelID: model, Embedding: embedding(i, 64), Crop: []byte("crop")}},
		})
	}
	if _, err := s.Import(ctx, tenant, face.DefaultGallery, records); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"s58", "s59"} {
		if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, id, store.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	return path, s
}

func findings(t *testing.T, path string) (all []store.Finding) {
	t.Helper()
	if err := sqlite.Check(t.Context(), path, func(f store.Finding) error { all = append(all, f); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCheckSound looks at a sound store, beside its server and without, and
// leaves every byte as it is.
func TestCheckSound(t *testing.T) {
	t.Parallel()
	path, s := storeToCheck(t)
	files := func() map[string]string {
		all := map[string]string{}
		for _, suffix := range []string{"", "-wal"} {
			b, err := os.ReadFile(path + suffix)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			all[suffix] = string(b)
		}
		return all
	}
	before := files()
	if all := findings(t, path); len(all) != 0 {
		t.Errorf("beside its server: %+v", all)
	}
	if !cmp.Equal(before, files()) {
		t.Error("the check changed the files of a live store")
	}
	closing(t, s)
	before = files()
	if all := findings(t, path); len(all) != 0 {
		t.Errorf("closed: %+v", all)
	}
	if !cmp.Equal(before, files()) {
		t.Error("the check changed the file")
	}
	missing := filepath.Join(t.TempDir(), "none.db")
	if err := sqlite.Check(t.Context(), missing, nil); err == nil {
		t.Error("a file that is not there is sound")
	}
	if _, err := os.Stat(missing); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the check made a file: %v", err)
	}
}

// TestCheckFinds damages a store in every way that is looked for, and mends it
// as the finding says, where that is a command.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		damage []string
		want   store.Finding // without Detail and Mend, which must hold
		says   string
		mend   string
	}{
		"an embedding": {
			[]string{`UPDATE template SET embedding = zeroblob(256) WHERE id = 't7'`},
			store.Finding{Check: store.CheckEmbedding, Tenant: tenant, Gallery: "default", SubjectID: "s7", TemplateID: "t7"},
			"not those that were written", "enrol",
		},
		"a short embedding": {
			[]string{`UPDATE template SET embedding = x'', checksum = 0 WHERE id = 't7'`},
			store.Finding{Check: store.CheckEmbedding, Tenant: tenant, Gallery: "default", SubjectID: "s7", TemplateID: "t7"},
			"0 bytes", "enrol",
		},
		"the number of subjects": {
			[]string{`UPDATE gallery SET subjects = 99`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"99 subjects, and has 58", "sqlite3",
		},
		"the number of templates": {
			[]string{`UPDATE gallery_model SET templates = 3`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"3 templates of encoder-a, and has 58", "sqlite3",
		},
		"a model without templates": {
			[]string{`INSERT INTO gallery_model VALUES (1, 'ghost', 8, 5)`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"5 templates of ghost, and has 0", "sqlite3",
		},
		"a model that is not counted": {
			[]string{`DELETE FROM gallery_model`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"0 templates of encoder-a, and has 58", "sqlite3",
		},
		"the dimension of a model": {
			[]string{`UPDATE gallery_model SET dimension = 63`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"encoder-a have 63 numbers, and most have 64", "UPDATE gallery_model SET dimension = 64",
		},
		"a dimension that one damaged embedding has": {
			[]string{`UPDATE gallery_model SET dimension = 0`, `UPDATE template SET embedding = x'', checksum = 0 WHERE id = 't7'`},
			store.Finding{Check: store.CheckCount, Tenant: tenant, Gallery: "default"},
			"encoder-a have 0 numbers, and most have 64", "UPDATE gallery_model SET dimension = 64",
		},
		"an orphan": {
			[]string{`PRAGMA foreign_keys = OFF`, `UPDATE crop SET subject = 999 WHERE sample_id = 't3'`},
			store.Finding{Check: store.CheckReference},
			"refers to a subject that is not there", "sqlite3",
		},
		"a template elsewhere": {
			[]string{
				`INSERT INTO gallery (tenant, id, retention_days, store_images, created_at) VALUES ('acme', 'other', 0, 0, 1)`,
				`DROP TRIGGER template_erased`, `DROP TRIGGER crop_outlives_no_template`, `DELETE FROM crop WHERE sample_id = 't3'`,
				`UPDATE template SET gallery = 2 WHERE id = 't3'`,
				`UPDATE gallery_model SET templates = 57`, `INSERT INTO gallery_model VALUES (2, 'encoder-a', 64, 1)`,
			},
			store.Finding{Check: store.CheckReference, Tenant: tenant, Gallery: "other", SubjectID: "s3", TemplateID: "t3"},
			"another gallery", "enrol",
		},
		"a crop without a template": {
			[]string{`UPDATE crop SET sample_id = 'gone' WHERE sample_id = 't3'`},
			store.Finding{Check: store.CheckCrop, Tenant: tenant, Gallery: "default", SubjectID: "s3"},
			"gone has no template", "sqlite3",
		},
		"a crop of somebody else": {
			[]string{`UPDATE crop SET subject = 1 WHERE sample_id = 't3'`},
			store.Finding{Check: store.CheckCrop, Tenant: tenant, Gallery: "default", SubjectID: "s0"},
			"another subject's", "sqlite3",
		},
		"an empty crop": {
			[]string{`UPDATE crop SET sealed = x'' WHERE sample_id = 't3'`},
			store.Finding{Check: store.CheckCrop, Tenant: tenant, Gallery: "default", SubjectID: "s3"},
			"t3 is empty", "sqlite3",
		},
		"an audit record": {
			[]string{`UPDATE audit SET subject_id = 's1' WHERE seq = 1`}, store.Finding{Check: store.CheckAudit}, "audit record 1", "evidence",
		},
		"the head of the audit chain": {
			[]string{`DELETE FROM audit WHERE seq = 2`}, store.Finding{Check: store.CheckAudit}, "2 audit records were written, the last one there is 1", "evidence",
		},
		"an index": {
			[]string{
				`PRAGMA writable_schema = ON`, `CREATE TABLE kept AS SELECT * FROM sqlite_schema WHERE name = 'template_by_age'`,
				`DELETE FROM sqlite_schema WHERE name = 'template_by_age'`, `PRAGMA writable_schema = RESET`,
				`UPDATE template SET created_at = created_at + 1 WHERE id = 't9'`,
				`PRAGMA writable_schema = ON`, `INSERT INTO sqlite_schema SELECT * FROM kept`, `PRAGMA writable_schema = RESET`, `DROP TABLE kept`,
			},
			store.Finding{Check: store.CheckFile},
			"index template_by_age", "REINDEX",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, s := storeToCheck(t)
			closing(t, s)
			sqlExec(t, path, tt.damage...)
			all := findings(t, path)
			if len(all) == 0 {
				t.Fatal("nothing is found")
			}
			got := all[0]
			if !strings.Contains(got.Detail, tt.says) || !strings.Contains(got.Mend, tt.mend) {
				t.Errorf("found %+v", got)
			}
			got.Detail, got.Mend = "", ""
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			for _, f := range all {
				_, statement, command := strings.Cut(f.Mend, `likeness.db' "`)
				if command {
					statement, _, _ = strings.Cut(statement, `"`)
					sqlExec(t, path, statement)
				} else {
					return
				}
			}
			if all := findings(t, path); len(all) != 0 {
				t.Errorf("mended as it says: %+v", all)
			}
		})
	}
}

// A model that is not counted has as many numbers as most of its embeddings.
func TestCheckUncountedModel(t *testing.T) {
	t.Parallel()
	path, s := storeToCheck(t)
	closing(t, s)
	sqlExec(t, path, `DELETE FROM gallery_model`, `UPDATE template SET embedding = zeroblob(8) WHERE id = 't7'`)
	mends := 0
	for _, f := range findings(t, path) {
		if f.Check == store.CheckCount && strings.Contains(f.Mend, "'encoder-a', 64, 58)") {
			mends++
		}
	}
	if mends != 1 {
		t.Errorf("found %+v", findings(t, path))
	}
}

// A page of zeros is a finding, wherever it lies, and ends no other look.
func TestCheckDamagedPages(t *testing.T) {
	t.Parallel()
	const page = 16 << 10
	path, s := storeToCheck(t)
	closing(t, s)
	sqlExec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := page; at+page <= len(whole); at += page {
		b := append([]byte{}, whole...)
		clear(b[at : at+page])
		damaged := filepath.Join(t.TempDir(), "likeness.db")
		if err := os.WriteFile(damaged, b, 0o600); err != nil {
			t.Fatal(err)
		}
		found := 0
		err := sqlite.Check(t.Context(), damaged, func(store.Finding) error { found++; return nil })
		if found == 0 && err == nil {
			t.Errorf("zeros at %d are not found", at)
		}
		enough := errors.New("enough")
		if err := sqlite.Check(t.Context(), damaged, func(store.Finding) error { return enough }); found > 0 && !errors.Is(err, enough) {
			t.Errorf("zeros at %d: %v", at, err)
		}
	}
}
