package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"text/tabwriter"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

type searchGraphCmd struct {
	Build searchGraphBuild `cmd:"" help:"Build a graph for approximate search of a gallery. The server may be running."`
	List  searchGraphList  `cmd:"" help:"List graphs with their measured recall."`
	Drop  searchGraphDrop  `cmd:"" help:"Remove a graph. The gallery is then searched exactly."`
}

type searchGraphBuild struct {
	postgresStore
	searchTarget
	Recall         float64 `default:"0.99" placeholder:"R" help:"How often the first candidate must be that of the exact search (default: 0.99)."`
	M              int     `name:"m" placeholder:"N" help:"Links of each node (default: 32)."`
	EfConstruction int     `placeholder:"N" help:"Width of the search for the links while the graph is built (default: 256)."`
}

// Help is what --help says beside the flags.
func (searchGraphBuild) Help() string {
	return "In a large gallery, a graph is faster than the exact search of the database, but it misses some people. Its recall is measured, " +
		"and a graph that does not reach --recall is removed. Servers with --search=pgvector use it."
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

// stepBar shows the progress of work that has named steps, in per mille. It is
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
	_, err = fmt.Fprintf(t.stdout, "the graph of %s/%s %s is removed; the gallery is searched exactly\n", h.Tenant, h.Gallery, h.ModelID)
	return err
}

// findGraph finds the graph over the templates of a model in a gallery.
func findGraph(ctx context.Context, s *postgres.Store, h postgres.Holding) (postgres.Graph, bool, error) {
	graphs, err := s.Graphs(ctx)
	for _, g := range graphs {
		if g.Tenant == h.Tenant && g.Gallery == h.Gallery && g.ModelID == h.ModelID {
			return g, true, err
		}
	}
	return postgres.Graph{}, false, err
}
