// Package testfaces holds photos of people who do not exist, so that tests and
// the demo can enrol, verify and identify on any machine without the face of a
// real person. README.md says how they were made.
package testfaces

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

const (
	// People is how many people there are: 1..People.
	People = 6
	// Photos is how many photos there are of each: 1..Photos.
	Photos = 3
)

//go:embed *.jpg
var files embed.FS

// Photo is a photo of one person, alone: a JPEG. Both count from 1.
func Photo(tb testing.TB, person, photo int) []byte {
	tb.Helper()
	return read(tb, fmt.Sprintf("person-%d-%d.jpg", person, photo))
}

// Write writes photos into a folder: for each of the first people, that many
// photos in a sub-folder person-1, person-2, ...
func Write(tb testing.TB, dir string, people, photos int) {
	tb.Helper()
	for p := range people {
		own := filepath.Join(dir, fmt.Sprintf("person-%d", p+1))
		if err := os.MkdirAll(own, 0o755); err != nil {
			tb.Fatal(err)
		}
		for n := range photos {
			if err := os.WriteFile(filepath.Join(own, fmt.Sprintf("%d.jpg", n+1)), Photo(tb, p+1, n+1), 0o600); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// Group is a photo of several people, with their numbers, from left to right.
func Group(tb testing.TB) (photo []byte, people []int) {
	tb.Helper()
	return read(tb, "group.jpg"), []int{1, 2, 3}
}

// Nobody is a photo without a face.
func Nobody(tb testing.TB) []byte {
	tb.Helper()
	return read(tb, "nobody.jpg")
}

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := files.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
