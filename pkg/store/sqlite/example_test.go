package sqlite_test

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

// Enrol a subject, search, and erase: the store keeps nothing of an erased
// subject but a record that it was erased.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	options := sqlite.DefaultOptions()
	options.Path = filepath.Join(dir, "likeness.db")
	s, err := sqlite.Open(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if err := s.AwaitReady(ctx); err != nil { // the index is loaded
		log.Fatal(err)
	}

	const tenant, gallery, encoder = face.DefaultTenant, face.DefaultGallery, "my-encoder"
	if _, err := s.CreateSubject(ctx, tenant, gallery, face.Subject{ID: "ada", Name: "Ada"}); err != nil {
		log.Fatal(err)
	}
	template := face.Template{ID: face.NewID(), SubjectID: "ada", ModelID: encoder, Embedding: face.Embedding{0.6, 0.8}}
	if _, err := s.Enrol(ctx, tenant, gallery, template); err != nil {
		log.Fatal(err)
	}
	found, err := s.Search(ctx, tenant, gallery, encoder, face.Embedding{1, 0}, 5)
	if err != nil {
		log.Fatal(err)
	}
	for _, c := range found.Candidates {
		fmt.Printf("%s %.1f\n", c.Name, c.Score)
	}
	receipt, err := s.DeleteSubject(ctx, tenant, gallery, "ada", store.Actor{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(receipt.Templates, "template erased")
	// Output:
	// Ada 0.6
	// 1 template erased
}

// A backup can be made beside a running server. It is read back before it gets
// its name.
func ExampleBackup() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "likeness.db")
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()

	manifest, err := sqlite.Backup(ctx, sqlite.BackupOptions{
		Files: sqlite.Files{Store: path, Jobs: filepath.Join(dir, "jobs.db")},
		To:    filepath.Join(dir, "backup"),
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(manifest.Files["likeness.db"].Bytes > 0)
	// Output: true
}

// Check reads a whole store and reports what is wrong with it.
func ExampleCheck() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "likeness.db")
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path})
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
	findings := 0
	err = sqlite.Check(ctx, path, func(f store.Finding) error {
		findings++
		fmt.Println(f.Check, f.Detail, f.Mend)
		return nil
	})
	fmt.Println(findings, err)
	// Output: 0 <nil>
}
