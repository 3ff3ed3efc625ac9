package sqlitedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// ErrLocked says that another process has the lock.
var ErrLocked = errors.New("held by another process")

// Lock is an exclusive lock of the operating system on a file of its own: it
// ends with the process, however that ends. The file stays, because a file that
// is removed while another process waits for it locks nothing.
type Lock struct{ file *flock.Flock }

// TryLock locks the file at path, or fails at once: with [ErrLocked] if another
// process has it, and the error then says which. The holder's process id is in
// the file, unless the disk was full.
func TryLock(path string) (*Lock, error) {
	file := flock.New(path, flock.SetPermissions(0o600))
	locked, err := file.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock: %w", err)
	case !locked:
		holder, _ := os.ReadFile(path) // it may be gone by now
		return nil, fmt.Errorf("%s: %w (%s)", path, ErrLocked, bytes.TrimSpace(holder))
	}
	// The text is for people: a full disk, which has no room for it, keeps nobody
	// from the lock.
	if err := os.WriteFile(path, fmt.Appendf(nil, "process %d\n", os.Getpid()), 0o600); err != nil && !IsFull(err) {
		return nil, errors.Join(err, file.Close())
	}
	return &Lock{file}, nil
}

// AwaitLock locks the file at path and waits for it as long as the context
// allows.
func AwaitLock(ctx context.Context, path string) (*Lock, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := TryLock(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// Release gives the lock back.
func (l *Lock) Release() error { return l.file.Close() }
