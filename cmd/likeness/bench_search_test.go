package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

func migrate(url string) error {
	_, _, err := postgres.Migrate(context.Background(), url, "")
	return err
}

// populate fills a gallery of the default tenant with people, who have two
// templates each of a model.
func populate(t *testing.T, url, gallery, model string, people int) {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{URL: url, Search: postgres.SearchPgvector})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: gallery}); err != nil && face.KindOf(err) != face.Conflict {
		t.Fatal(err)
	}
	const dimension = 32
	rng := rand.New(rand.NewPCG(7, 7))
	var records []store.Record
	for i := range people {
		r := store.Record{Subject: face.Subject{ID: fmt.Sprintf("p%d", i)}}
		first := searchload.Near(rng, append(face.Embedding{1}, make(face.Embedding, dimension-1)...), 0)
		for n, v := range []face.Embedding{first, searchload.Near(rng, first, 0.9)} {
			r.Templates = append(r.Templates, face.Template{ID: fmt.Sprintf("%s-%s-%d-%d", gallery, model, i, n), ModelID: model, Embedding: v})
		}
		records = append(records, r)
	}
	outcomes, err := s.Import(t.Context(), face.DefaultTenant, gallery, records)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// An operator measures, builds a graph, measures again, and takes it away.
func TestBenchSearch(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, migrate)
	populate(t, url, face.DefaultGallery, "encoder-a", 300)
	before := contents(t, url)
	bench := func() result {
		t.Helper()
		got := runTool(t.Context(), "bench-search", "--database-url", url, "--probes", "40", "--clients", "1,2", "--seconds", "0.05")
		if got.code != exitOK || !strings.Contains(got.stdout, "600 templates of 300 subjects, 32 dimensions (encoder-a); 40 probes") ||
			!strings.Contains(got.stderr, "recall: 8") || !strings.Contains(got.stderr, "speed:") {
			t.Fatalf("%+v", got)
		}
		return got
	}
	row := func(engine string) string {
		return `(?m)^` + engine + ` +(0\.\d{4}|1\.0000) +1 +[\d.]+ +[\d.]+ +[\d.]+\n +2 +`
	}
	got := bench()
	for _, want := range []string{
		`(?m)^index in memory +1\.0000 +1 `, `(?m)^pgvector, exact +1\.0000 +1 `,
		`set --search=index: it is exact and takes 1 MiB of memory in each server, 1 MiB of it for this gallery; a graph is not worth building\.\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(got.stdout) {
			t.Errorf("no %q in:\n%s", want, got.stdout)
		}
	}
	if strings.Contains(got.stdout, "ef_search") {
		t.Errorf("a graph that nobody built:\n%s", got.stdout)
	}
	if diff := cmp.Diff(before, contents(t, url)); diff != "" {
		t.Errorf("a measurement changed the store: %s", diff)
	}

	built := runTool(t.Context(), "search-graph", "build", "--database-url", url, "--recall", "0.9", "--m", "8", "--ef-construction", "32")
	if built.code != exitOK || !regexp.MustCompile(`^graph over 600 templates of default/default encoder-a: recall (1|0\.9)\d*`).MatchString(built.stdout) ||
		!strings.Contains(built.stderr, "measuring, per mille: ") {
		t.Fatalf("build: %+v", built)
	}
	listed := runTool(t.Context(), "search-graph", "list", "--database-url", url)
	if listed.code != exitOK || !regexp.MustCompile(`(?m)^default +default +encoder-a +600 +\d+ +0\.9 +`).MatchString(listed.stdout) {
		t.Errorf("list: %+v", listed)
	}
	got = bench()
	for _, engine := range []string{"index in memory", "pgvector, exact", `pgvector, graph, ef_search \d+`} {
		if !regexp.MustCompile(row(engine)).MatchString(got.stdout) {
			t.Errorf("no row of %s:\n%s", engine, got.stdout)
		}
	}
	if !regexp.MustCompile(`; the graph is [^.]+`).MatchString(got.stdout) {
		t.Errorf("nothing said of the graph:\n%s", got.stdout)
	}
	if dropped := runTool(t.Context(), "search-graph", "drop", "--database-url", url); dropped.code != exitOK {
		t.Errorf("drop: %+v", dropped)
	}
	if again := runTool(t.Context(), "search-graph", "drop", "--database-url", url); again.code != exitFailed || !strings.Contains(again.stderr, "no graph") {
		t.Errorf("drop of nothing: %+v", again)
	}
	if listed := runTool(t.Context(), "search-graph", "list", "--database-url", url); strings.Count(listed.stdout, "\n") != 1 {
		t.Errorf("list of none: %+v", listed)
	}
}

// contents counts what is in a store.
func contents(t *testing.T, url string) []postgres.Holding {
	t.Helper()
	s, err := postgres.Open(t.Context(), postgres.Options{URL: url, Search: postgres.SearchPgvector})
	if err != nil {
		t.Fatal(err)
	}
	holdings, err := s.Holdings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return holdings
}

func TestBenchSearchRefuses(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, migrate)
	populate(t, url, "two", "encoder-a", 3)
	populate(t, url, "two", "encoder-b", 3)
	for _, tt := range []struct {
		args string
		code int
		says string
	}{
		{"bench-search --database-url=" + url, exitFailed, "gallery default of tenant default has no templates"},
		{"bench-search --gallery=two --database-url=" + url, exitUsage, "encoder-a, encoder-b; choose one"},
		{"bench-search --gallery=two --model=encoder-c --database-url=" + url, exitFailed, "no templates of encoder-c"},
		{"search-graph build --gallery=two --model=encoder-a --recall=2 --database-url=" + url, exitUsage, "recall"},
		{"search-graph drop --gallery=two --model=encoder-a --database-url=" + url, exitFailed, "no graph"},
	} {
		got := runTool(t.Context(), strings.Fields(tt.args)...)
		if got.code != tt.code || got.stdout != "" || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v, want it to say %q", tt.args, got, tt.says)
		}
	}
}

func TestAdvice(t *testing.T) {
	t.Parallel()
	h := postgres.Holding{Templates: 1_000_000, Subjects: 1_000_000, Dimension: 512}
	measured := func(name string, recall float64, p50 int) *engine {
		load := searchload.Load{P50: time.Duration(p50) * time.Millisecond}
		return &engine{searchload.Engine{Name: name}, recall, []searchload.Load{load}}
	}
	for _, tt := range []struct {
		name    string
		fits    bool
		engines []*engine
		want    string
	}{
		{
			"index", true,
			[]*engine{measured("index in memory", 1, 10), measured("pgvector, exact", 1, 300)},
			"set --search=index: it is exact and takes 20 GiB of memory in each server, 2775 MiB of it for this gallery; a graph is not worth building.",
		},
		{
			"index and a slow graph", true,
			[]*engine{measured("index in memory", 1, 10), measured("pgvector, exact", 1, 300), measured("pgvector, graph", 0.9, 20)},
			"set --search=index: it is exact and takes 20 GiB of memory in each server, 2775 MiB of it for this gallery; the graph is not worth keeping: it is slower, and misses people (`likeness search-graph drop`).",
		},
		{
			"index and a fast graph", true,
			[]*engine{measured("index in memory", 1, 10), measured("pgvector, exact", 1, 300), measured("pgvector, graph", 0.995, 5)},
			"set --search=index: it is exact and takes 20 GiB of memory in each server, 2775 MiB of it for this gallery; the graph is 2.0 times as fast as that and misses 0.50 % of the people, which is worth it only where the memory is not to be had.",
		},
		{
			"no memory", false,
			[]*engine{measured("pgvector, exact", 1, 300)},
			"set --search=pgvector: an index takes 20 GiB of memory, more than half of this machine's; at this size a graph is worth measuring (`likeness search-graph build`).",
		},
		{
			"no memory, small gallery", false,
			[]*engine{measured("pgvector, exact", 1, 30)},
			"set --search=pgvector: an index takes 20 GiB of memory, more than half of this machine's; a graph is not worth building.",
		},
		{
			"no memory and a graph", false,
			[]*engine{measured("pgvector, exact", 1, 300), measured("pgvector, graph", 0.99, 15)},
			"set --search=pgvector: an index takes 20 GiB of memory, more than half of this machine's; the graph is 20.0 times as fast as that and misses 1.00 % of the people.",
		},
	} {
		if got := recommendSearch(h, 20<<30, tt.fits, tt.engines); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}
