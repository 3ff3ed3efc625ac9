package sqlite_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// TestImportOntoFullDisk: an import that cannot be kept whole is not kept at
// all, in the file and in the index.
func TestImportOntoFullDisk(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	if err := s.LimitPages(ctx, 20); err != nil {
		t.Fatal(err)
	}
	var records []store.Record
	for i := range 500 {
		records = append(records, store.Record{
			Subject:   face.Subject{ID: fmt.Sprint("s", i)},
			Templates: []face.Template{{ID: fmt.Sprint("t", i), ModelID: model, Embedding: embedding(i, 512)}},
		})
	}
	if _, err := s.Import(ctx, tenant, face.DefaultGallery, records); !errors.Is(err, face.StorageFull) {
		t.Errorf("onto a full disk: %v", err)
	}
	if r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(1, 512), 1); err != nil || r.GallerySize != 0 {
		t.Errorf("afterwards a search sees %+v, %v", r, err)
	}
	if err := s.LimitPages(ctx, 1<<20); err != nil {
		t.Fatal(err)
	}
	out, err := s.Import(ctx, tenant, face.DefaultGallery, records)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range out {
		if o.Err != nil || !o.Created || o.Templates != 1 {
			t.Fatalf("with room again: %+v", o)
		}
	}
	if r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(1, 512), 1); err != nil || r.GallerySize != len(records) {
		t.Errorf("a search sees %+v, %v", r, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantIntegrity(t, path)
}

// TestOldAuditRecords: the chain of a file from before decisions were
// recorded holds, and goes on.
func TestOldAuditRecords(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	for i := range 3 {
		addSubject(t, s, fmt.Sprint("s", i))
		if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", i), store.Actor{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sqlExec(t, path, "ALTER TABLE audit DROP COLUMN decision", "DROP INDEX subject_by_name", "DROP INDEX subject_by_external_id", "DROP INDEX subject_of_gallery",
		"DELETE FROM goose_db_version WHERE version_id >= 3")
	s = open(t, path)
	defer closing(t, s)
	if n, err := s.VerifyAudit(ctx); n != 3 || err != nil {
		t.Fatalf("old records: %d, %v", n, err)
	}
	if err := s.RecordDecision(ctx, tenant, store.Actor{}, store.Decision{Action: store.AuditVerify, SubjectID: "s9", Decision: "match"}); err != nil {
		t.Fatal(err)
	}
	// Beside the server, as the operator's tool looks.
	beside, err := sqlite.OpenAudit(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, beside)
	if n, err := beside.VerifyAudit(ctx); n != 4 || err != nil {
		t.Errorf("beside the server: %d, %v", n, err)
	}
	sqlExec(t, path, "UPDATE audit SET decision = 'non_match' WHERE seq = 4")
	if _, err := beside.VerifyAudit(ctx); !errors.Is(err, face.Internal) {
		t.Errorf("a changed decision is not seen: %v", err)
	}
}
