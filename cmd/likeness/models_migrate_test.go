package main

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/app"
)

// TestMigrateWithRealServer moves a gallery with crops, and one without, and
// back.
func TestMigrateWithRealServer(t *testing.T) {
	t.Parallel()
	dir, people := t.TempDir(), t.TempDir()
	next, key := orttest.SecondEncoder(t, dir), filepath.Join(dir, "key")
	if err := os.WriteFile(key, bytes.Repeat([]byte{7}, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	server := realServer(t, func(o *app.Options) { o.ModelsDir, o.CropKeyFile = append(o.ModelsDir, dir), []string{key} })
	testfaces.Write(t, people, 2, 1)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+"/galleries", strings.NewReader(`{"name": "kept", "store_images": true}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusCreated {
		t.Fatal(resp.Status)
	}
	for _, gallery := range []string{"kept", "default"} {
		if got := runTool(t.Context(), "enrol", "--server", server, "--gallery", gallery, people); got.code != exitOK {
			t.Fatalf("%+v", got)
		}
	}
	models := func(code int, says string, args ...string) result {
		t.Helper()
		got := runTool(t.Context(), append([]string{"models"}, append(args, "--server", server)...)...)
		if got.code != code || !strings.Contains(strings.Join(strings.Fields(got.stdout), " "), says) {
			t.Errorf("%v: %+v, want it to say %q", args, got, says)
		}
		return got
	}
	got := models(exitFailed, "default waiting_for_photos 2 0 0 2 -", "migrate", next, "--wait")
	if !strings.Contains(got.stdout, "kept") || !strings.Contains(got.stderr, "2 subjects need a new photo") {
		t.Errorf("%+v", got)
	}
	models(exitOK, "kept done 2 2 0 0 -", "status", next)
	models(exitOK, "kept done 2 2 0 0 -", "status", next, "--gallery", "kept")
	models(exitOK, "default person-1 no_crop default person-2 no_crop", "status", next, "--uncovered")
	models(exitOK, "default canceled 2 0 0 2 -", "migrate", next, "--cancel")
	models(exitOK, "kept done 2 2 0 0 -", "migrate", orttest.Encoder, "--gallery", "kept", "--wait")
	models(exitFailed, "", "migrate", "nonsense")
	models(exitFailed, "", "migrate", orttest.Detector)
	models(exitFailed, "", "migrate", "sface") // whose file is not there
}
