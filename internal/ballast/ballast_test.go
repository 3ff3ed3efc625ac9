package ballast_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/internal/smalldisk"
)

// A file system without a limit says that it has no blocks, none of them free.
func TestFileWithoutLimit(t *testing.T) {
	t.Parallel()
	path := filepath.Join(smalldisk.New(t, 0), "a.db")
	if err := ballast.Beside(path, 1<<20).Keep(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path + ".ballast"); err != nil || info.Size() != 1<<20 {
		t.Errorf("the room is not kept: %v, %v", info, err)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	const size = 3<<20 + 5
	dir := smalldisk.New(t, 8<<20)
	path := filepath.Join(dir, "a.db.ballast")
	f := ballast.Beside(filepath.Join(dir, "a.db"), size)
	there := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.Size()
	}
	for range 2 {
		if err := f.Keep(); err != nil || there() != size {
			t.Fatalf("%d bytes are kept, %v", there(), err)
		}
	}
	empty := smalldisk.Fill(t, dir)
	if err := f.Keep(); err != nil {
		t.Errorf("on a disk that is full beside it: %v", err)
	}
	failure := errors.New("failure")
	nothing := func(func() error) error { return nil }
	first := func(rest func() error) error { return rest() }
	if err := f.Without(nothing); err != nil || there() != size {
		t.Errorf("Without says %v, %d bytes are kept after it", err, there())
	}
	err := f.Without(func(rest func() error) error {
		if n := there(); n != size/2 {
			t.Errorf("%d bytes are kept for the rest", n)
		}
		if err := rest(); err != nil {
			t.Error(err)
		}
		if err := f.Keep(); !errors.Is(err, ballast.ErrNoRoom) {
			t.Errorf("while the room is used: %v", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "urgent"), make([]byte, 2<<20), 0o600); err != nil {
			t.Errorf("there is no room: %v", err)
		}
		return failure
	})
	if !errors.Is(err, failure) || there() != 0 {
		t.Errorf("Without says %v, %d bytes are kept", err, there())
	}
	if err := f.Keep(); !ballast.IsFull(err) || there() != 0 {
		t.Errorf("without room: %v, %d bytes are kept", err, there())
	}
	// Another process gives up what this one keeps, and keeps none itself.
	empty()
	for end := time.Now().Add(10 * time.Second); f.Keep() != nil; {
		if time.Now().After(end) {
			t.Fatal("the room is not found again")
		}
	}
	other := ballast.Beside(filepath.Join(dir, "a.db"), 0)
	if err := errors.Join(other.Keep(), other.Without(first), other.Keep()); err != nil || there() != 0 {
		t.Errorf("another process: %v, %d bytes are kept", err, there())
	}
	nowhere := ballast.Beside(filepath.Join(dir, "not", "there", "a.db"), size)
	if err := errors.Join(nowhere.Keep(), nowhere.Without(nothing)); err != nil {
		t.Errorf("where no file can be made: %v", err)
	}
	var none *ballast.File
	if err := errors.Join(none.Keep(), none.Without(nothing)); err != nil {
		t.Error(err)
	}
}
