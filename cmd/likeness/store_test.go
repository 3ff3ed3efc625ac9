package main

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// execute changes a store behind its back.
func execute(t *testing.T, driver, where, statement string) {
	t.Helper()
	db, err := sql.Open(driver, where)
	if err == nil {
		_, err = db.ExecContext(t.Context(), statement)
	}
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

// TestStoreCheck checks a sound store, one with a damaged embedding, and one
// that is not there.
func TestStoreCheck(t *testing.T) {
	t.Parallel()
	path := newFilledStore(t)
	sound := runTool(t.Context(), "store", "check", "--database-url", "sqlite:"+path)
	if sound.code != exitOK || !strings.Contains(sound.stdout, "nothing is wrong") {
		t.Errorf("sound: %+v", sound)
	}
	asJSON := func(path string) (code int, report struct {
		Store    string
		Findings []store.Finding
	},
	) {
		got := runTool(t.Context(), "store", "check", "--json", "--database-url", "sqlite:"+path)
		if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
			t.Errorf("%v: %+v", err, got)
		}
		return got.code, report
	}
	if code, report := asJSON(path); code != exitOK || report.Store != path || report.Findings == nil || len(report.Findings) != 0 {
		t.Errorf("sound: %d, %+v", code, report)
	}
	execute(t, "sqlite", path, `UPDATE template SET embedding = zeroblob(8) WHERE row_id = (SELECT min(row_id) FROM template)`)
	damaged := runTool(t.Context(), "store", "check", "--database-url", "sqlite:"+path)
	if damaged.code != exitFailed || !strings.Contains(damaged.stdout, "embedding: tenant ") || !strings.Contains(damaged.stdout, "mend: erase the template") {
		t.Errorf("damaged: %+v", damaged)
	}
	if code, report := asJSON(path); code != exitFailed || len(report.Findings) != 1 || report.Findings[0].Check != store.CheckEmbedding {
		t.Errorf("damaged: %d, %+v", code, report)
	}
	missing := runTool(t.Context(), "store", "check", "--data-dir", filepath.Join(t.TempDir(), "none"))
	if missing.code == exitOK || !strings.Contains(missing.stderr, "there is no store") {
		t.Errorf("missing: %+v", missing)
	}
}

// TestStoreCheckPostgres does the same with a database.
func TestStoreCheckPostgres(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, func(url string) error {
		_, _, err := postgres.Migrate(t.Context(), url, "")
		return err
	})
	s, err := postgres.Open(t.Context(), postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	if err := s.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillStore(t, s)
	if got := runTool(t.Context(), "store", "check", "--database-url", url); got.code != exitOK {
		t.Fatalf("sound: %+v", got)
	}
	for _, statement := range []string{
		`UPDATE template SET embedding = embedding + embedding WHERE row_id = (SELECT min(row_id) FROM template)`,
		`UPDATE gallery SET subjects = subjects + 1 WHERE row_id = (SELECT min(gallery) FROM subject)`,
		`UPDATE gallery_model SET templates = templates + 1 WHERE row_id = (SELECT min(gallery_model) FROM template)`,
		`UPDATE crop SET sample = 'gone' WHERE ctid = (SELECT min(ctid) FROM crop)`,
		`UPDATE audit SET gallery = 'other' WHERE seq = 1`,
	} {
		execute(t, "pgx", url, statement)
	}
	got := runTool(t.Context(), "store", "check", "--json", "--database-url", url)
	var report struct{ Findings []store.Finding }
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		t.Fatalf("%v: %+v", err, got)
	}
	var checks []string
	for _, f := range report.Findings {
		checks = append(checks, f.Check)
		if _, statement, ok := strings.Cut(f.Mend, "psql: "); ok {
			statement, _, _ = strings.Cut(statement, "; or")
			execute(t, "pgx", url, statement)
		}
	}
	if d := cmp.Diff([]string{store.CheckEmbedding, store.CheckCount, store.CheckCount, store.CheckCrop, store.CheckAudit}, checks); d != "" || got.code != exitFailed {
		t.Errorf("%s%+v", d, got)
	}
	after := runTool(t.Context(), "store", "check", "--database-url", url)
	if strings.Contains(after.stdout, "count:") || strings.Contains(after.stdout, "crop:") {
		t.Errorf("mended as it says: %+v", after)
	}
}
