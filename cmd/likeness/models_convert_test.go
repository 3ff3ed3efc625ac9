package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
)

// publishedFiles are the paths of the graph and the weights of intel-0095.
func publishedFiles(t *testing.T) []string {
	t.Helper()
	const name = "models/openvino/face-reidentification-retail-0095"
	return []string{sharedtest.Path(t, name+".xml"), sharedtest.Path(t, name+".bin")}
}

// The published files, however they came here, become a model that the tool
// finds and whose hash is right. Other files are refused, and leave nothing.
func TestModelsConvert(t *testing.T) {
	t.Parallel()
	files := publishedFiles(t)
	dir := t.TempDir()
	run := func(args ...string) result {
		return runTool(t.Context(), append(slices.Concat([]string{"models"}, args), "--data-dir", dir, "--models-dir", t.TempDir())...)
	}
	same := filepath.Join(t.TempDir(), "same.bin") // as long, and not the same
	data, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	data[1000]++
	if err := os.WriteFile(same, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"sface", files[0], files[1]}, exitUsage, "sface is not made from files"},
		{[]string{"nonsense", files[0]}, exitUsage, "nonsense"},
		{[]string{"intel-0095", files[0]}, exitUsage, "2 files, not 1"},
		{[]string{"intel-0095", files[1], files[0]}, exitFailed, "has 2213628 bytes, and https://storage.openvinotoolkit.org"},
		{[]string{"intel-0095", files[0], same}, exitFailed, "has SHA-384"},
	} {
		if got := run(append([]string{"convert"}, tt.args...)...); got.code != tt.code || got.stdout != "" || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%v: %+v, want %q", tt.args, got, tt.says)
		}
	}
	if left, err := filepath.Glob(filepath.Join(app.PulledModels(dir), "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}

	to := filepath.Join(app.PulledModels(dir), "face-reidentification-retail-0095.onnx")
	if got := run("convert", "intel-0095", files[0], files[1]); got.code != exitOK || got.stdout != to+"\n" {
		t.Errorf("%+v", got)
	}
	if got := run("verify", "intel-0095"); got.code != exitOK || got.stdout != "ok\tintel-0095\t"+to+"\n" {
		t.Errorf("%+v", got)
	}
	// There is nothing to pull any more.
	if got := run("pull", "intel-0095"); got.code != exitOK || got.stdout != to+"\n" {
		t.Errorf("%+v", got)
	}
}

// Pulling downloads the published files, makes the model of them, and keeps
// that alone.
func TestModelsPullPublished(t *testing.T) {
	t.Parallel()
	files := publishedFiles(t)
	var asked atomic.Int32
	var damaged atomic.Bool
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		i := slices.IndexFunc(files, func(name string) bool { return filepath.Base(name) == filepath.Base(r.URL.Path) })
		data, err := os.ReadFile(files[max(i, 0)])
		if i < 0 || err != nil {
			http.NotFound(w, r)
			return
		}
		if damaged.Load() {
			data[len(data)/2]++
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(server.Close)

	// The manifest, with this server for the source.
	text, err := models.FS.ReadFile("intel-0095.json")
	if err != nil {
		t.Fatal(err)
	}
	m, err := embed.ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Published.Files {
		m.Published.Files[i].URL = server.URL + "/" + filepath.Base(files[i])
	}
	own := t.TempDir()
	if text, err = json.Marshal(m); err == nil {
		err = os.WriteFile(filepath.Join(own, "intel-0095.json"), text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := app.PulledModels(t.TempDir())
	pull := func() (string, error) {
		folders := []string{own}
		if _, err := os.Stat(dir); err == nil {
			folders = append(folders, dir)
		}
		registry, err := embed.OpenRegistry(models.FS, folders...)
		if err != nil {
			t.Fatal(err)
		}
		model, err := registry.Model("intel-0095")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		u := quietTool(t)
		u.stdout = &out
		err = pullPublished(u, &fetch.Client{HTTP: server.Client(), Stall: time.Minute}, model, dir)
		return out.String(), err
	}
	want := func(names ...string) {
		t.Helper()
		var got []string
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			got = append(got, e.Name())
		}
		if !slices.Equal(got, names) {
			t.Errorf("the folder has %q, want %q", got, names)
		}
	}

	damaged.Store(true)
	if out, err := pull(); err == nil || out != "" || !strings.Contains(err.Error(), "SHA-384") {
		t.Errorf("a damaged file: %q, %v", out, err)
	}
	want()
	damaged.Store(false)
	if out, err := pull(); err != nil || out != filepath.Join(dir, m.File)+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	want(m.File)
	before := asked.Load()
	if out, err := pull(); err != nil || out != filepath.Join(dir, m.File)+"\n" || asked.Load() != before {
		t.Errorf("again: %q, %v, asked %d times", out, err, asked.Load()-before)
	}
}
