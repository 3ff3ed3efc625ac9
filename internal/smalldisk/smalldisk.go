// Package smalldisk gives tests a file system that they can fill.
package smalldisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/likeness-id/likeness/internal/sharedtest"
)

// New mounts a file system of the given size for the duration of the test, and
// returns its folder. Only root may mount; CI runs as root.
func New(tb testing.TB, size int64) string {
	tb.Helper()
	dir := tb.TempDir()
	if out, err := exec.CommandContext(tb.Context(), "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=700", size), "tmpfs", dir).CombinedOutput(); err != nil {
		sharedtest.Missing(tb, fmt.Sprintf("the right to mount a file system (%v: %s)", err, out))
	}
	tb.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			tb.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// Fill takes all the remaining room, to the last byte, and returns a function
// that frees it.
func Fill(tb testing.TB, dir string) (empty func()) {
	tb.Helper()
	path := filepath.Join(dir, "of-another-program")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		tb.Fatal(err)
	}
	for block := make([]byte, 64<<10); err == nil && len(block) > 0; {
		var n int
		n, err = f.Write(block)
		if errors.Is(err, unix.ENOSPC) && n == 0 {
			block, err = block[:len(block)/2], nil
		} else if errors.Is(err, unix.ENOSPC) {
			err = nil
		}
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		tb.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			tb.Fatal(err)
		}
	}
}
