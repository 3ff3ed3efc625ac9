package identity_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// drawnFace reads one of the drawn faces.
func drawnFace(name string) []byte {
	b, err := os.ReadFile("../../internal/testfaces/" + name)
	if err != nil {
		log.Fatal(err)
	}
	return b
}

// A service of identity over an embedded store, without HTTP: somebody is
// enrolled by one photo, verified by a second, and recognised.
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

	options := identity.DefaultOptions()
	options.Store, options.Pipeline, options.Models = s, pipeline, pipeline.Registry.Models()
	service, err := identity.New(options)
	if err != nil {
		log.Fatal(err)
	}
	var by identity.Caller // the default tenant
	if _, err := s.CreateSubject(ctx, face.DefaultTenant, face.DefaultGallery, face.Subject{ID: "ada", Name: "Ada"}); err != nil {
		log.Fatal(err)
	}
	if _, err := service.Enrol(ctx, by, identity.EnrolRequest{SubjectID: "ada", Image: drawnFace("person-1-1.jpg")}); err != nil {
		log.Fatal(err)
	}
	verified, err := service.Verify(ctx, by, identity.VerifyRequest{Probe: drawnFace("person-1-2.jpg"), SubjectID: "ada"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("is it Ada?", verified.Match)
	recognized, err := service.Recognize(ctx, by, identity.RecognizeRequest{Probe: [][]byte{drawnFace("person-1-3.jpg")}})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range recognized.Faces {
		fmt.Println("who is it?", f.Decision, f.Candidates[0].Name)
	}
	// Output:
	// is it Ada? true
	// who is it? match Ada
}
