package handlers_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// The routes of the service below a path of another program's server.
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
	models := pipeline.Registry.Models()

	decisions := identity.DefaultOptions()
	decisions.Store, decisions.Pipeline, decisions.Models = s, pipeline, models
	service, err := identity.New(decisions)
	if err != nil {
		log.Fatal(err)
	}
	moves := move.DefaultOptions()
	moves.Store, moves.Pipeline, moves.Models = s, pipeline, models
	mover, err := move.New(moves)
	if err != nil {
		log.Fatal(err)
	}
	options := handlers.DefaultOptions()
	options.Store, options.Pipeline, options.Models = s, pipeline, models
	options.Identity, options.Mover = service, mover
	options.PathPrefix = "/faces"
	routes, err := handlers.New(options)
	if err != nil {
		log.Fatal(err)
	}

	mux := http.NewServeMux()
	mux.Handle("/faces/", routes)
	server := httptest.NewServer(mux)
	defer server.Close()
	answer, err := server.Client().Get(server.URL + "/faces/readyz")
	if err != nil {
		log.Fatal(err)
	}
	answer.Body.Close()
	fmt.Println(answer.Status)
	// Output: 200 OK
}
