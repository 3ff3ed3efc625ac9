package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
)

// somePeople is a folder with three photos of each of n people.
func somePeople(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	testfaces.Write(t, dir, n, 3)
	return dir
}

// trainArgs are those of a run that is as small as one can be.
func trainArgs(t *testing.T, data, dir string, more ...string) []string {
	t.Helper()
	return append([]string{
		"train", "--data-dir", t.TempDir(),
		"--ort-library", orttest.Library(t),
		"--data", data, "--run", filepath.Join(dir, "run"), "--out", filepath.Join(dir, "models"), "--id", "ours",
		"--people", "3", "--each", "2", "--every", "5", "--warm-up", "2", "--threads", "1", "--checkpoint", "1ns",
	}, more...)
}

// untrainedFlags are the flags of the smallest network.
func untrainedFlags(steps int) []string {
	return []string{"--from", "plain", "--width", "0.25", "--dimension", "16", "--mining", "random", "--steps", fmt.Sprint(steps)}
}

// TestTrainKill kills a run in the middle and goes on: the encoder is the one
// that a run makes which nobody stopped, byte for byte.
func TestTrainKill(t *testing.T) {
	t.Parallel()
	data, killed, whole := somePeople(t, testfaces.People), t.TempDir(), t.TempDir()
	const steps = 20
	want := trainArgs(t, data, whole, untrainedFlags(steps)...)
	if got := runTool(t.Context(), want...); got.code != exitOK || !strings.Contains(got.stderr, "photos/s") {
		t.Fatalf("%+v", got)
	}

	args := trainArgs(t, data, killed, untrainedFlags(steps)...)
	child := exec.CommandContext(t.Context(), os.Args[0], args...)
	child.Env = append(os.Environ(), childEnv+"=1")
	stderr, err := child.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	for part := make([]byte, 4096); ; {
		n, err := stderr.Read(part)
		said.Write(part[:n])
		if err != nil {
			t.Fatalf("it ended by itself:\n%s", &said)
		}
		if strings.Contains(said.String(), "step 5:") {
			break
		}
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := child.Wait(); err == nil {
		t.Fatal("it was done before it was killed")
	}

	got := runTool(t.Context(), args...)
	if got.code != exitOK || strings.Contains(got.stderr, "; 0 steps done") {
		t.Fatalf("it did not go on: %+v", got)
	}
	read := func(parts ...string) []byte {
		b, err := os.ReadFile(filepath.Join(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if !bytes.Equal(read(killed, "models", "ours.onnx"), read(whole, "models", "ours.onnx")) {
		t.Error("the encoder is not the one of the uninterrupted run")
	}
	// The curve has every point once.
	var curve []curvePoint
	if err := json.Unmarshal(read(killed, "run", "curve.json"), &curve); err != nil {
		t.Fatal(err)
	}
	for i, p := range curve {
		if p.Step != 5*i || i > 0 && !(p.Loss > 0) {
			t.Errorf("point %d: %+v", i, p)
		}
	}
	if len(curve) != 1+steps/5 {
		t.Errorf("%d points", len(curve))
	}
	if _, err := png.Decode(bytes.NewReader(read(killed, "run", "curve.png"))); err != nil {
		t.Error(err)
	}
	m, err := embed.ParseManifest(read(killed, "models", "ours.json"))
	if err != nil || m.Dimension != 16 || m.Calibration != nil || m.Head != nil {
		t.Errorf("%+v, %v", m, err)
	}

	// Another set does not go on in the same folder, and neither does another network.
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{trainArgs(t, somePeople(t, 5), killed, untrainedFlags(steps)...), exitUsage, "with other photos"},
		{trainArgs(t, data, killed, "--from", "plain", "--width", "0.25", "--dimension", "32"), exitFailed, "another model"},
	} {
		if got := runTool(t.Context(), tt.args...); got.code != tt.code || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%+v, want it to say %q", got, tt.says)
		}
	}
	if err := os.WriteFile(filepath.Join(killed, "run", "checkpoint"), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runTool(t.Context(), args...); got.code != exitFailed || !strings.Contains(got.stderr, "not a checkpoint") {
		t.Errorf("%+v", got)
	}
}

// An encoder is adapted, learns from a teacher, and grows a head.
func TestTrainBase(t *testing.T) {
	t.Parallel()
	data := somePeople(t, testfaces.People)
	for name, more := range map[string][]string{
		"head":        {"--learn", "head", "--base", orttest.Encoder},
		"last blocks": {"--learn", "last:2", "--base", orttest.Encoder, "--mining", "hard"},
		"teacher": {
			"--teacher", orttest.Encoder, "--from", "mobile", "--width", "0.25", "--dimension", "256", "--batch", "8", "--replay", "2",
		},
		// These photos are too few to find a target, so the teacher's own is learnt.
		"its own teacher": {"--teacher", orttest.Encoder, "--base", orttest.Encoder, "--batch", "8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got := runTool(t.Context(), trainArgs(t, data, dir, append(more, "--steps", "3")...)...)
			if got.code != exitOK {
				t.Fatalf("%+v", got)
			}
			// What was written is an encoder like any other.
			again := runTool(t.Context(), "eval", "--one-shot", "--images", data, "--encoder", "ours", "--data-dir", t.TempDir(), "--ort-library", orttest.Library(t),
				"--models-dir", filepath.Join(dir, "models"))
			if again.code != exitOK || !strings.Contains(again.stdout, "ours") {
				t.Errorf("%+v", again)
			}
		})
	}
}

func TestTrainRefuses(t *testing.T) {
	t.Parallel()
	few, empty := somePeople(t, 2), t.TempDir()
	base := []string{"--base", orttest.Encoder}
	for _, tt := range []struct {
		data string
		args []string
		code int
		says string
	}{
		{few, nil, exitUsage, "--base"},
		{few, []string{"--base", "nobody"}, exitFailed, "nobody"},
		{few, []string{"--base", orttest.Detector}, exitUsage, "not an encoder"},
		{few, []string{"--from", "grand"}, exitUsage, "--from"},
		{few, []string{"--from", "plain", "--width", "9"}, exitUsage, "width"},
		{few, append(base, "--every", "0"), exitUsage, "--every"},
		{few, append(base, "--validate", "1"), exitUsage, "--validate"},
		{few, append(base, "--learn", "some"), exitUsage, "--learn"},
		{few, append(base, "--id", "../up"), exitUsage, "/id"},
		{few, append(base, "--id", orttest.Encoder), exitUsage, "choose another id"},
		{filepath.Join(empty, "none"), base, exitUsage, "none"},
		{few, append(base, "--margin=-1"), exitFailed, "margin"},
		{few, append(base, "--alone", "3"), exitUsage, "--teacher"},
		{few, append(base, "--teacher", "nobody"), exitFailed, "nobody"},
		{few, append(base, "--teacher", orttest.Detector), exitUsage, "not an encoder"},
		{few, append(base, "--teacher", "builtin-encoder-2"), exitFailed, "too few"},
		{few, append(base, "--teacher", orttest.Encoder, "--teacher-weights", "1,2"), exitUsage, "2 weights for 1"},
		{few, []string{"--from", "plain", "--dimension", "256", "--teacher", orttest.Encoder, "--hint", "layer"}, exitUsage, "TEACHER=STUDENT"},
		{few, append(base, "--people", "9"), exitFailed, "two photos"},
		{empty, base, exitFailed, "no photos"},
	} {
		got := runTool(t.Context(), trainArgs(t, tt.data, t.TempDir(), tt.args...)...)
		if got.code != tt.code || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%q: %+v, want %d and %q", tt.args, got, tt.code, tt.says)
		}
	}
}
