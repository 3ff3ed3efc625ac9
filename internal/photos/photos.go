// Package photos opens a set of photos, a folder or a tar archive, as one
// [fs.FS]. A tar is indexed once and read in place.
package photos

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

// Set is an opened set of photos. It is safe for concurrent use.
type Set interface {
	fs.ReadFileFS
	// Names lists every file, sorted.
	Names() []string
	Close() error
}

// Open opens a folder, or a tar archive when name is a file.
func Open(name string) (Set, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return openDir(name)
	}
	return openTar(name)
}

type dirSet struct {
	fs.ReadFileFS
	names []string
}

func openDir(name string) (Set, error) {
	root := os.DirFS(name)
	var names []string
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, p)
		}
		return err
	})
	slices.Sort(names)
	return &dirSet{ReadFileFS: root.(fs.ReadFileFS), names: names}, err
}

func (d *dirSet) Names() []string { return d.names }
func (d *dirSet) Close() error    { return nil }

type entry struct {
	offset, size int64
	modified     time.Time
}

type tarSet struct {
	file    *os.File
	entries map[string]entry
	names   []string
}

func openTar(name string) (Set, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	t := &tarSet{file: f, entries: map[string]entry{}}
	if err := t.index(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is neither a folder nor a tar archive: %w", name, err), f.Close())
	}
	return t, nil
}

// index notes where each file's bytes lie. tar.Reader reads whole blocks and
// no further, so after Next the file stands at the first byte of the content.
func (t *tarSet) index() error {
	r := tar.NewReader(t.file)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		at, err := t.file.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		t.entries[name] = entry{at, h.Size, h.ModTime}
		t.names = append(t.names, name)
	}
	slices.Sort(t.names)
	return nil
}

func (t *tarSet) Names() []string { return t.names }
func (t *tarSet) Close() error    { return t.file.Close() }

// ReadFile returns the bytes of one file.
func (t *tarSet) ReadFile(name string) ([]byte, error) {
	e, ok := t.entries[path.Clean(name)]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	b := make([]byte, e.size)
	_, err := t.file.ReadAt(b, e.offset)
	return b, err
}

// Open opens one file.
func (t *tarSet) Open(name string) (fs.File, error) {
	b, err := t.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return &tarFile{bytes.NewReader(b), path.Base(name), t.entries[path.Clean(name)]}, nil
}

type tarFile struct {
	*bytes.Reader
	name string
	entry
}

func (f *tarFile) Close() error               { return nil }
func (f *tarFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *tarFile) Name() string               { return f.name }
func (f *tarFile) Size() int64                { return f.size }
func (f *tarFile) Mode() fs.FileMode          { return 0o444 }
func (f *tarFile) ModTime() time.Time         { return f.modified }
func (f *tarFile) IsDir() bool                { return false }
func (f *tarFile) Sys() any                   { return nil }
