package store_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// open opens an embedded store in a folder that done removes.
func open(ctx context.Context) (s store.Store, done func()) {
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	if s, err = sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(dir, "likeness.db")}); err != nil {
		log.Fatal(err)
	}
	return s, func() {
		if err := s.Close(); err != nil {
			log.Fatal(err)
		}
		os.RemoveAll(dir)
	}
}

// A list comes in parts. Each part brings the cursor of the next one, and the
// last part an empty one.
func ExamplePage() {
	ctx := context.Background()
	s, done := open(ctx)
	defer done()
	for _, id := range []string{"ada", "grace", "hedy"} {
		if _, err := s.CreateSubject(ctx, face.DefaultTenant, face.DefaultGallery, face.Subject{ID: id}); err != nil {
			log.Fatal(err)
		}
	}
	page := store.Page{Limit: 2}
	for {
		subjects, next, err := s.ListSubjects(ctx, face.DefaultTenant, face.DefaultGallery, store.SubjectFilter{}, page)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("a part:")
		for _, subject := range subjects {
			fmt.Println(subject.ID)
		}
		if next == "" {
			break
		}
		page.Cursor = next
	}
	// Output:
	// a part:
	// ada
	// grace
	// a part:
	// hedy
}

// The same calls work on every store. Errors have kinds.
func ExampleStore() {
	ctx := context.Background()
	s, done := open(ctx)
	defer done()
	_, err := s.Subject(ctx, face.DefaultTenant, face.DefaultGallery, "nobody")
	fmt.Println(face.KindOf(err))
	// Output: not_found
}
