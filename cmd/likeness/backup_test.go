package main

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/pkg/app"
)

// TestBackupAndRestore backs up a running server, erases somebody, and
// restores: once into the same folder and once into a new one.
func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	var data string
	url, stop := startServer(t, func(o *app.Options) { data = o.DataDir })
	request := func(method, path, body string, want int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != want {
			t.Fatalf("%s %s: %s", method, path, res.Status)
		}
	}
	for _, id := range []string{"ann", "bob"} {
		request(http.MethodPost, "/galleries/default/subjects", `{"subject_id":"`+id+`"}`, http.StatusCreated)
	}
	backup := filepath.Join(t.TempDir(), "b")
	expect := func(code int, says string, args ...string) {
		t.Helper()
		got := runTool(context.WithoutCancel(t.Context()), args...)
		if got.code != code || !strings.Contains(got.stdout+got.stderr, says) {
			t.Errorf("%v: %+v", args, got)
		}
	}
	expect(exitOK, "2 subjects", "backup", "--data-dir", data, backup)
	expect(exitFailed, "--overwrite", "backup", "--data-dir", data, backup)
	expect(exitOK, "read back", "backup", "--data-dir", data, "--overwrite", backup)
	expect(exitFailed, "there is no store", "backup", "--data-dir", t.TempDir(), filepath.Join(t.TempDir(), "none"))
	expect(exitUsage, "pg_dump", "backup", "--database-url", "postgres://localhost/likeness", backup)
	expect(exitUsage, "pg_dump", "restore", "--database-url", "postgres://localhost/likeness", backup)

	request(http.MethodDelete, "/galleries/default/subjects/ann", "", http.StatusOK)
	expect(exitFailed, "another process has the store open", "restore", "--data-dir", data, "--replace", backup)
	stop()
	expect(exitFailed, "--replace", "restore", "--data-dir", data, backup)
	expect(exitOK, "subject.erase\tdefault/default/ann", "restore", "--data-dir", data, "--replace", backup)
	expect(exitOK, "1 records", "audit", "verify", "--data-dir", data)
	other := filepath.Join(t.TempDir(), "other")
	expect(exitOK, "WARNING", "restore", "--data-dir", other, backup)
	if _, err := os.Stat(filepath.Join(other, "jobs.db")); err != nil {
		t.Error(err)
	}
}
