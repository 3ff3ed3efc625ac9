package move_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// How far is a gallery on its way to an encoder? One that nobody is enrolled in
// is there at once.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	s, err := sqlite.Open(ctx, sqlite.Options{Path: filepath.Join(dir, "likeness.db")})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if err := s.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer pipeline.Close()

	options := move.DefaultOptions()
	options.Store, options.Pipeline, options.Models = s, pipeline, pipeline.Registry.Models()
	mover, err := move.New(options) // its method Run does the work
	if err != nil {
		log.Fatal(err)
	}
	migrations, err := mover.Migrate(ctx, face.DefaultTenant, pipeline.Encoder().ID, face.DefaultGallery)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range migrations {
		fmt.Println(m.Gallery, m.State)
	}
	// Output: default done
}
