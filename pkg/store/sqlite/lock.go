package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// errHeld says that another process has the lock.
var errHeld = errors.New("held by another process")

// A fileLock is an exclusive lock of the operating system on a file of its
// own: it ends with the process, however that ends. The file stays, since a
// file that is removed while another process waits for it locks nothing.
type fileLock struct{ f *os.File }

// tryLock takes the lock or fails at once, with errHeld when somebody has it;
// the error then says who. The holder writes its process id into the file.
func tryLock(path string) (*fileLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 64))
		return nil, fmt.Errorf("%s: %w (%s)", path, errHeld, strings.TrimSpace(string(holder)))
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintf(f, "process %d\n", os.Getpid())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &fileLock{f}, nil
}

// waitLock takes the lock, waiting as long as the context allows.
func waitLock(ctx context.Context, path string) (*fileLock, error) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		l, err := tryLock(path)
		if !errors.Is(err, errHeld) {
			return l, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// release gives the lock back. Closing the file is what does it.
func (l *fileLock) release() error { return l.f.Close() }

// flock repeats the call when a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
