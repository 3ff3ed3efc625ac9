// Package ballast keeps room free on a file system: a file that is of no use
// but for the room it takes, and is given up when something must be written
// although the disk is full. Erasing is such a thing: what overwrites somebody
// has to be written, too.
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

// ErrNoRoom says that the room is not there, or is being used: who can wait
// with writing must not write now.
var ErrNoRoom = errors.New("less room is left on the disk than is kept for erasing")

// retry is how long after there was no room it is looked for again.
const retry = time.Second

// File is the ballast. A nil one keeps no room, and neither does one of 0
// bytes, which gives up what another process keeps. It is safe for concurrent
// use.
type File struct {
	path string
	size int64 // bytes

	mu    sync.Mutex
	using int       // calls of Without
	next  time.Time // when room is looked for again
}

// Beside is the ballast of the database at path.
func Beside(path string, size int64) *File { return &File{path: path + ".ballast", size: size} }

// Keep makes the file where it is not there. [ErrNoRoom], perhaps with a cause:
// the room is not there. That the file cannot be made for another reason is no
// error: whatever is written next says so better.
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

// make writes the file. What is written is noise, which no file system stores
// in less room.
func (f *File) make() (err error) {
	if err := f.remove(); err != nil { // a part of it
		return err
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(f.path), &disk); err != nil {
		return &os.PathError{Op: "statfs", Path: f.path, Err: err}
	}
	// One of no blocks has no limit, or does not tell of it: writing shows it.
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

// Without carries work out while half of the room is given up, and the other
// half once work calls rest; afterwards the room is taken again as far as it is
// there. Whoever has to clean up after what was written keeps room for it so.
// Others who ask with [File.Keep] meanwhile are told that there is none.
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
	_ = f.keep() // who writes next is told
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
