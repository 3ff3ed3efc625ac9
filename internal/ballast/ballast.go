// Package ballast reserves room on a file system with a file of noise, which is
// removed when something must be written although the disk is full. Erasing a
// person is such a case, because overwriting their data writes to the disk.
package ballast

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoRoom says that the reserved room is missing or in use. Anything that can
// wait must not be written now.
var ErrNoRoom = errors.New("the disk has less room than is reserved for erasing")

// retry is how long to wait before looking for room again.
const retry = time.Second

// File is the ballast. A nil File reserves no room. A File of 0 bytes reserves
// none either, and removes the file of another process. It is safe for
// concurrent use.
type File struct {
	path string
	size int64 // bytes

	mu    sync.Mutex
	using int       // running calls of Without
	next  time.Time // when room is looked for again
}

// Beside is the ballast of the database at path.
func Beside(path string, size int64) *File { return &File{path: path + ".ballast", size: size} }

// Keep makes the file if it does not exist. The error is [ErrNoRoom], perhaps
// with a cause, if there is not enough room. Any other failure to make the file
// is no error here: the next write will report it better.
func (f *File) Keep() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keep()
}

func (f *File) keep() error {
	switch {
	case f.size == 0:
		return nil
	case f.using > 0:
		return ErrNoRoom
	}
	if info, err := os.Stat(f.path); err == nil && info.Size() == f.size {
		return nil
	}
	if time.Now().Before(f.next) {
		return ErrNoRoom
	}
	err := f.make()
	if err == nil {
		return nil
	}
	left := f.remove()
	if !IsFull(err) {
		return nil
	}
	f.next = time.Now().Add(retry)
	return errors.Join(ErrNoRoom, err, left)
}

// make writes the file with noise, which no file system can compress.
func (f *File) make() (err error) {
	if err := f.remove(); err != nil { // of an earlier attempt
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(f.path), &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: f.path, Err: err}
	}
	// A file system with no blocks has no limit, or does not report it; then
	// writing shows whether there is room.
	if disk.Blocks > 0 && int64(disk.Bavail)*int64(disk.Bsize) < f.size { //nolint:gosec,unconvert // their types differ from system to system
		return unix.ENOSPC
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	noise := make([]byte, min(f.size, 1<<20))
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise) // it never fails
	for left := f.size; left > 0; left -= int64(len(noise)) {
		noise = noise[:min(left, int64(len(noise)))]
		if _, err := file.Write(noise); err != nil {
			return err
		}
	}
	return file.Sync()
}

func (f *File) remove() error {
	if err := os.Remove(f.path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Without runs work while half of the room is released; work may call rest to
// release the other half, for example to clean up after its own writes.
// Afterwards it reserves the room again, as far as there is any. Meanwhile
// [File.Keep] returns [ErrNoRoom] to others.
func (f *File) Without(work func(rest func() error) error) error {
	if f == nil {
		return work(func() error { return nil })
	}
	defer f.end()
	if err := f.begin(); err != nil {
		return err
	}
	return work(f.remove)
}

func (f *File) begin() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.using++
	return f.halve()
}

func (f *File) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.using--
	f.next = time.Time{}
	_ = f.keep() // the next writer gets the error
}

func (f *File) halve() error {
	info, err := os.Stat(f.path)
	if err == nil {
		err = os.Truncate(f.path, info.Size()/2)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// IsFull reports whether an error of the operating system says that there is
// no room.
func IsFull(err error) bool {
	return errors.Is(err, ErrNoRoom) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
