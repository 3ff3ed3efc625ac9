package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/embed"
)

// The manifest that is written for a detector's file is the one that the file
// needs, and the tool finds the model by it.
func TestModelsManifest(t *testing.T) {
	t.Parallel()
	for _, o := range []orttest.SCRFD{{Anchors: 2}, {Anchors: 1, Batch: true}} {
		dir := t.TempDir()
		id := orttest.SCRFDDetector(t, dir, orttest.Detector, o)
		path := filepath.Join(dir, id+".json")
		read := func(text []byte) (m embed.Manifest) {
			t.Helper()
			if err := json.Unmarshal(text, &m); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			return m
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		want := read(text)
		want.Threshold, want.QualityThreshold, want.Notes = 0.5, 0.6, ""
		got := runTool(t.Context(), "models", "manifest", filepath.Join(dir, want.File), "--decoder", "scrfd",
			"--license", want.License, "--source", want.Source, "--training-data", want.TrainingData)
		if got.code != exitOK {
			t.Fatalf("%+v", got)
		}
		if diff := cmp.Diff(want, read([]byte(got.stdout))); diff != "" {
			t.Errorf("%+v: manifest (-want +got):\n%s", o, diff)
		}
		if err := os.WriteFile(path, []byte(got.stdout), 0o600); err != nil {
			t.Fatal(err)
		}
		list := runTool(t.Context(), "models", "list", "--data-dir", t.TempDir(), "--models-dir", dir)
		if list.code != exitOK || !strings.Contains(list.stdout, id) {
			t.Errorf("%+v", list)
		}
		if got := runTool(t.Context(), "models", "verify", id, "--data-dir", t.TempDir(), "--models-dir", dir); got.code != exitOK {
			t.Errorf("%+v", got)
		}
	}
	dir := t.TempDir()
	id := orttest.SCRFDDetector(t, dir, orttest.Detector, orttest.SCRFD{Anchors: 2})
	if got := runTool(t.Context(), "models", "pull", id, "--data-dir", t.TempDir(), "--models-dir", dir); got.code != exitOK || !strings.Contains(got.stderr, "there already") {
		t.Errorf("%+v", got)
	}
	// A file of another family is refused with what is wrong.
	m := orttest.Model(t, orttest.Detector)
	data, err := m.ReadVerified()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "own.onnx")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	rest := []string{"--license", "x", "--source", "x", "--training-data", "x"}
	if got := runTool(t.Context(), append([]string{"models", "manifest", file, "--decoder", "scrfd"}, rest...)...); got.code != exitFailed || !strings.Contains(got.stderr, "12 outputs") {
		t.Errorf("%+v", got)
	}
	if got := runTool(t.Context(), append([]string{"models", "manifest", file, "--decoder", "yunet", "--id", "own"}, rest...)...); got.code != exitOK || !strings.Contains(got.stdout, `"cls_8"`) {
		t.Errorf("%+v", got)
	}
}
