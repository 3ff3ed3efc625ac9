package postgres_test

import (
	"context"
	"fmt"
	"log"

	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// The schema is brought up to date before a store is opened.
func ExampleOpen() {
	ctx := context.Background()
	const url, passwordFile = "postgres://likeness@db.example/likeness", "/run/secrets/password"
	before, after, err := postgres.Migrate(ctx, url, passwordFile)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("schema", before, "is now", after)

	options := postgres.DefaultOptions()
	options.URL, options.PasswordFile = url, passwordFile
	options.SearchMemory = 4 << 30 // up to here the index in memory searches, above it pgvector
	s, err := postgres.Open(ctx, options)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	if err := s.AwaitReady(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("searched by", s.Engine())
}

// A graph makes searches of a very large gallery faster, and misses some
// people. How many is measured, and only a graph that reaches the stated recall
// is used.
func ExampleStore_BuildGraph() {
	ctx := context.Background()
	s, err := postgres.Open(ctx, postgres.Options{URL: "postgres://likeness@db.example/likeness", Search: postgres.SearchPgvector})
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close()
	options := postgres.DefaultGraphOptions()
	options.Recall = 0.99
	graph, err := s.BuildGraph(ctx, "acme", "visitors", "builtin-encoder", options)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("recall %.3f over %d templates\n", graph.Recall, graph.Templates)
}
