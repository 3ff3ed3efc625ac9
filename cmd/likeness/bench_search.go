package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// postgresStore is a store in Postgres, named as the server names it.
type postgresStore struct {
	DatabaseURL  string `required:"" env:"LIKENESS_DATABASE_URL" placeholder:"URL" help:"Store of the server, a Postgres."`
	PasswordFile string `name:"database-password-file" aliases:"password-file" env:"LIKENESS_DATABASE_PASSWORD_FILE" type:"path" placeholder:"FILE" help:"File with the database's password, when the URL does not hold it."`
}

// Validate refuses what has no search engine to choose.
func (p postgresStore) Validate() error {
	if scheme, _, _ := strings.Cut(p.DatabaseURL, ":"); scheme != "postgres" && scheme != "postgresql" {
		// Not the URL itself: it may hold a password.
		return errors.New("--database-url: names no Postgres; the embedded store always searches in memory, exactly")
	}
	return nil
}

// open opens the store to be looked at, with warnings to the operator.
func (p postgresStore) open(t *tool) (*postgres.Store, error) {
	return p.openWith(t, postgres.Options{
		Search: postgres.SearchPgvector, GraphAbove: noGraphs,
		Logger: slog.New(slog.NewTextHandler(t.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// openWith opens the store for an engine and waits until it answers.
func (p postgresStore) openWith(t *tool, o postgres.Options) (*postgres.Store, error) {
	o.URL, o.PasswordFile = p.DatabaseURL, p.PasswordFile
	s, err := postgres.Open(t.ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.AwaitReady(t.ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Which graphs a store uses, as its GraphAbove.
const (
	allGraphs = -1
	noGraphs  = 1 << 62
)

// searchTarget is the gallery and model that a search looks through.
type searchTarget struct {
	Tenant  string `default:"${tenant}" placeholder:"NAME" help:"Tenant of the gallery (default: ${tenant})."`
	Gallery string `default:"${gallery}" placeholder:"NAME" help:"Gallery (default: ${gallery})."`
	Model   string `placeholder:"ID" help:"Encoder whose templates are searched (default: the one that the gallery has templates of)."`
}

// findHolding finds the holding that is meant, and the bytes of an index of all.
func (c searchTarget) findHolding(t *tool, s *postgres.Store) (h postgres.Holding, all int64, err error) {
	holdings, err := s.Holdings(t.ctx)
	if err != nil {
		return h, 0, err
	}
	var models []string
	for _, one := range holdings {
		all += one.IndexBytes()
		if one.Tenant == c.Tenant && one.Gallery == c.Gallery && (c.Model == "" || one.ModelID == c.Model) {
			h, models = one, append(models, one.ModelID)
		}
	}
	switch {
	case len(models) == 0 && c.Model != "":
		return h, 0, fmt.Errorf("gallery %s of tenant %s has no templates of %s", c.Gallery, c.Tenant, c.Model)
	case len(models) == 0:
		return h, 0, fmt.Errorf("gallery %s of tenant %s has no templates", c.Gallery, c.Tenant)
	case len(models) > 1:
		return h, 0, usageError{fmt.Errorf("--model: the gallery has templates of %s; name one", strings.Join(models, ", "))}
	}
	return h, all, nil
}

type benchSearchCmd struct {
	postgresStore
	searchTarget
	Probes  int     `default:"500" placeholder:"N" help:"How many searches the recall is measured over (default: 500)."`
	Clients []int   `default:"1,8" placeholder:"N" help:"How many clients search at the same time, one run for each number (default: 1,8)."`
	Seconds float64 `default:"5" placeholder:"S" help:"How long each engine is asked under each number of clients (default: 5)."`
}

// Validate refuses what cannot be measured.
func (c benchSearchCmd) Validate() error {
	if err := c.postgresStore.Validate(); err != nil {
		return err
	}
	if c.Probes < 1 || c.Probes > 100_000 {
		return errors.New("--probes: 1 to 100000")
	}
	if len(c.Clients) == 0 || slices.Min(c.Clients) < 1 || slices.Max(c.Clients) > 1000 {
		return errors.New("--clients: numbers from 1 to 1000")
	}
	if c.Seconds <= 0 || c.Seconds > 3600 {
		return errors.New("--seconds: more than 0, at most 3600")
	}
	return nil
}

// Help is what --help says beside the flags.
func (benchSearchCmd) Help() string {
	return "The probes are templates of the gallery, drawn at random and moved away from it to a cosine of 0.6 to 0.75, where photos of " +
		"the same person score. recall@1 is how often the first candidate is that of the exact search. Nothing is changed in the store. " +
		"The database is asked as hard as it answers: beside a running service, expect that to wait."
}

// The cosines of a probe with the template that it was made from.
const minMatedCosine, maxMatedCosine = 0.6, 0.75

// engine is one of those compared, with what was measured of it.
type engine struct {
	searchload.Engine
	recall float64
	loads  []searchload.Load // one for each number of clients
}

// Run implements the command.
func (c benchSearchCmd) Run(t *tool) (err error) {
	exact, err := c.open(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exact.Close()) }()
	h, all, err := c.findHolding(t, exact)
	if err != nil {
		return err
	}
	graph, ok, err := findGraph(t.ctx, exact, h)
	if err != nil {
		return err
	}
	probes, err := c.drawProbes(t.ctx, exact, h)
	if err != nil {
		return err
	}
	engines := []*engine{{Engine: asEngine("pgvector, exact", exact, h)}}
	if ok {
		with, err := c.openWith(t, postgres.Options{Search: postgres.SearchPgvector, GraphAbove: allGraphs})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, with.Close()) }()
		engines = append(engines, &engine{Engine: asEngine(fmt.Sprintf("pgvector, graph, ef_search %d", graph.EfSearch), with, h)})
	}
	fmt.Fprintf(t.stderr, "an index of the whole store takes %s; loading it\n", formatBytes(all))
	// As the server decides by itself: where the index does not fit, there is none.
	memory, err := c.openWith(t, postgres.Options{Search: postgres.SearchAuto})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	fits := memory.Engine() == postgres.SearchIndex
	if fits {
		engines = slices.Insert(engines, 0, &engine{Engine: asEngine("index in memory", memory, h)})
	}

	if err := c.measure(t, exact, h, engines, probes); err != nil {
		return err
	}
	fmt.Fprintf(t.stdout, "%d templates of %d subjects, %d dimensions (%s); %d probes at a cosine of %g to %g\n\n",
		h.Templates, h.Subjects, h.Dimension, h.ModelID, len(probes), minMatedCosine, maxMatedCosine)
	if err := c.print(t.stdout, engines); err != nil {
		return err
	}
	_, err = fmt.Fprintln(t.stdout, "\n"+recommendSearch(h, all, fits, engines))
	return err
}

// drawProbes are templates of the gallery, moved.
func (c benchSearchCmd) drawProbes(ctx context.Context, s *postgres.Store, h postgres.Holding) ([]face.Embedding, error) {
	drawn, err := s.Draw(ctx, h.Tenant, h.Gallery, h.ModelID, c.Probes)
	if err != nil {
		return nil, err
	}
	if len(drawn) == 0 {
		return nil, errors.New("the gallery has just been emptied")
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for i, v := range drawn {
		drawn[i] = searchload.Near(rng, v, minMatedCosine+rng.Float64()*(maxMatedCosine-minMatedCosine))
	}
	return drawn, nil
}

// asEngine is a store as an engine.
func asEngine(name string, s *postgres.Store, h postgres.Holding) searchload.Engine {
	const k = 5 // as /recognize, when it is not told
	return searchload.Engine{Name: name, Search: func(ctx context.Context, probe face.Embedding) (string, error) {
		r, err := s.Search(ctx, h.Tenant, h.Gallery, h.ModelID, probe, k)
		if err != nil || len(r.Candidates) == 0 {
			return "", err
		}
		return r.Candidates[0].SubjectID, nil
	}}
}

func (c benchSearchCmd) measure(t *tool, exact *postgres.Store, h postgres.Holding, engines []*engine, probes []face.Embedding) error {
	const rounds, together = 3, 4
	bar := newProgress(t.stderr, "recall", int64(len(probes)*(1+len(engines))), false)
	defer bar.Close()
	one := func() { bar.Add(1) }
	truth, err := searchload.Answers(t.ctx, asEngine("", exact, h), probes, together, one)
	if err != nil {
		return err
	}
	var all []searchload.Engine
	for _, e := range engines {
		answers, err := searchload.Answers(t.ctx, e.Engine, probes, together, one)
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		e.recall = searchload.Recall(answers, truth)
		all = append(all, e.Engine)
	}
	bar.Close()
	bar = newProgress(t.stderr, "speed", int64(rounds*len(engines)*len(c.Clients)), false)
	defer bar.Close()
	turn := time.Duration(c.Seconds * float64(time.Second) / rounds)
	for _, clients := range c.Clients {
		loads, err := searchload.Measure(t.ctx, all, probes, clients, rounds, turn, func() { bar.Add(1) })
		if err != nil {
			return err
		}
		for i, e := range engines {
			e.loads = append(e.loads, loads[i])
		}
	}
	return nil
}

func (c benchSearchCmd) print(out io.Writer, engines []*engine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENGINE\tRECALL@1\tCLIENTS\tP50 MS\tP95 MS\tSEARCHES/S")
	for _, e := range engines {
		name, recall := e.Name, fmt.Sprintf("%.4f", e.recall)
		for i, l := range e.loads {
			fmt.Fprintf(w, "%s\t%s\t%d\t%.2f\t%.2f\t%.1f\n", name, recall, c.Clients[i], milliseconds(l.P50), milliseconds(l.P95), l.QPS)
			name, recall = "", ""
		}
	}
	return w.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// recommendSearch is what to set, by what was measured, in a line.
func recommendSearch(h postgres.Holding, all int64, fits bool, engines []*engine) string {
	best := engines[0] // the index, or the exact search
	least := func(e *engine) time.Duration { return e.loads[0].P50 }
	var graph *engine
	if last := engines[len(engines)-1]; strings.Contains(last.Name, "graph") {
		graph = last
	}
	say := "set --search=pgvector: "
	if fits {
		say = "set --search=index: "
		say += fmt.Sprintf("it is exact and takes %s of memory in each server, %s of it for this gallery", formatBytes(all), formatBytes(h.IndexBytes()))
	} else {
		say += fmt.Sprintf("an index takes %s of memory, more than half of this machine's", formatBytes(all))
	}
	const slow = 100 * time.Millisecond
	switch {
	case graph != nil && least(graph) < least(best):
		say += fmt.Sprintf("; the graph is %.1f times as fast as that and misses %.2f %% of the people", float64(least(best))/float64(max(least(graph), 1)), 100*(1-graph.recall))
		if fits {
			say += ", which is worth it only where the memory is not to be had"
		}
	case graph != nil:
		say += "; the graph is not worth keeping: it is slower, and misses people (`likeness search-graph drop`)"
	case !fits && least(best) > slow:
		say += "; at this size a graph is worth measuring (`likeness search-graph build`)"
	default:
		say += "; a graph is not worth building"
	}
	return say + "."
}

// formatBytes is a number of bytes as operators read it.
func formatBytes(n int64) string {
	if n >= 10<<30 {
		return fmt.Sprintf("%d GiB", n>>30)
	}
	return fmt.Sprintf("%d MiB", max(1, n>>20))
}

// findGraph finds the graph over what a gallery holds of a model.
func findGraph(ctx context.Context, s *postgres.Store, h postgres.Holding) (postgres.Graph, bool, error) {
	graphs, err := s.Graphs(ctx)
	for _, g := range graphs {
		if g.Tenant == h.Tenant && g.Gallery == h.Gallery && g.ModelID == h.ModelID {
			return g, true, err
		}
	}
	return postgres.Graph{}, false, err
}

type searchGraphCmd struct {
	Build searchGraphBuild `cmd:"" help:"Build a graph for approximate search over a gallery, beside the running service."`
	List  searchGraphList  `cmd:"" help:"List graphs with the recall that was measured."`
	Drop  searchGraphDrop  `cmd:"" help:"Take a graph away; the gallery is searched exactly again."`
}

type searchGraphBuild struct {
	postgresStore
	searchTarget
	Recall         float64 `default:"0.99" placeholder:"R" help:"How often the first candidate must be that of the exact search (default: 0.99)."`
	M              int     `name:"m" placeholder:"N" help:"Links of a node (default: 32)."`
	EfConstruction int     `placeholder:"N" help:"Width of the search for them (default: 256)."`
}

// Help is what --help says beside the flags.
func (searchGraphBuild) Help() string {
	return "A graph answers large galleries faster than the exact search of the database, and misses some people. How many is measured, " +
		"and a graph that cannot reach --recall is taken away again. It is used by servers with --search=pgvector."
}

// Run implements the command.
func (c searchGraphBuild) Run(t *tool) (err error) {
	s, err := c.open(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	h, _, err := c.findHolding(t, s)
	if err != nil {
		return err
	}
	show := &stepBar{out: t.stderr}
	defer show.close()
	g, err := s.BuildGraph(t.ctx, h.Tenant, h.Gallery, h.ModelID, postgres.GraphOptions{
		Recall: c.Recall, M: c.M, EfConstruction: c.EfConstruction, Progress: show.show,
	})
	if err != nil {
		if errors.Is(err, face.Invalid) {
			return usageError{err}
		}
		return err
	}
	show.close()
	_, err = fmt.Fprintf(t.stdout, "graph over %d templates of %s/%s %s: recall %.4f over %d probes at ef_search %d\n",
		g.Templates, g.Tenant, g.Gallery, g.ModelID, g.Recall, g.Probes, g.EfSearch)
	return err
}

// stepBar shows the progress of work that names its steps, in per mille. It is
// safe for concurrent use.
type stepBar struct {
	out io.Writer
	mu  sync.Mutex
	now string
	bar *progress
}

func (s *stepBar) show(name string, done float64) {
	const whole = 1000
	s.mu.Lock()
	defer s.mu.Unlock()
	if name != s.now {
		s.closeBar()
		s.now, s.bar = name, newProgress(s.out, name+", per mille", whole, false)
	}
	s.bar.Set(int64(done * whole))
}

func (s *stepBar) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeBar()
}

func (s *stepBar) closeBar() {
	if s.bar != nil {
		s.bar.Close()
		s.bar = nil
	}
}

type searchGraphList struct{ postgresStore }

// Run implements the command.
func (c searchGraphList) Run(t *tool) (err error) {
	s, err := c.open(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	graphs, err := s.Graphs(t.ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TENANT\tGALLERY\tMODEL\tTEMPLATES\tEF_SEARCH\tASKED\tRECALL@1\tPROBES\tMEASURED")
	for _, g := range graphs {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\t%g\t%.4f\t%d\t%s\n", g.Tenant, g.Gallery, g.ModelID, g.Templates,
			g.EfSearch, float32(g.AskedRecall), g.Recall, g.Probes, formatTime(g.MeasuredAt))
	}
	return w.Flush()
}

type searchGraphDrop struct {
	postgresStore
	searchTarget
}

// Run implements the command.
func (c searchGraphDrop) Run(t *tool) (err error) {
	s, err := c.open(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	h, _, err := c.findHolding(t, s)
	if err != nil {
		return err
	}
	if err := s.DropGraph(t.ctx, h.Tenant, h.Gallery, h.ModelID); err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.stdout, "the graph of %s/%s %s is gone; the gallery is searched exactly\n", h.Tenant, h.Gallery, h.ModelID)
	return err
}
