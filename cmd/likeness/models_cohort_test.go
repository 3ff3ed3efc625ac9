package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
)

// An encoder with a cohort is one like any other, and says what is wrong.
func TestModelsCohort(t *testing.T) {
	t.Parallel()
	people, out := t.TempDir(), t.TempDir()
	for i := range 1 + fewestCohort/testfaces.People { // more folders than people: it is the number that counts
		testfaces.Write(t, filepath.Join(people, fmt.Sprint(i)), testfaces.People, 1)
	}
	args := func(images string, more ...string) []string {
		return append([]string{
			"models", "cohort", "--data-dir", t.TempDir(), "--ort-library", orttest.Library(t), "--encoder", orttest.Encoder,
			"--images", images, "--out", out, "--id", "ours",
		}, more...)
	}
	if got := runTool(t.Context(), args(people, "--top", "10")...); got.code != exitOK || !strings.Contains(got.stderr, "a cohort of 102 people") {
		t.Fatalf("%+v", got)
	}
	got := runTool(t.Context(), "eval", "--one-shot", "--images", somePeople(t, testfaces.People), "--encoder", "ours", "--data-dir", t.TempDir(),
		"--ort-library", orttest.Library(t), "--models-dir", out)
	if got.code != exitOK || !strings.Contains(got.stdout, "ours") {
		t.Errorf("%+v", got)
	}
	trained := runTool(t.Context(), trainArgs(t, somePeople(t, testfaces.People), t.TempDir(), "--base", "ours", "--models-dir", out, "--id", "theirs", "--learn", "last:1", "--steps", "1")...)
	if trained.code != exitOK {
		t.Errorf("taught further: %+v", trained)
	}
	for _, tt := range []struct {
		args []string
		says string
	}{
		{args(somePeople(t, 3)), "only 3 people"},
		{args(people, "--top", "900"), "--top 900"},
		{args(people, "--id", orttest.Encoder), "choose another id"},
		{args(filepath.Join(people, "none")), "--images"},
		{args(people, "--encoder", "ours", "--models-dir", out, "--id", "again"), "has a cohort already"},
	} {
		if got := runTool(t.Context(), tt.args...); got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%q: %+v, want it to say %q", tt.args, got, tt.says)
		}
	}
}
