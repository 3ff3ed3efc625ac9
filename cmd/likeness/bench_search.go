package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

type benchSearchCmd struct {
	postgresStore
	searchTarget
	Probes  int     `default:"500" placeholder:"N" help:"How many searches the recall is measured with (default: 500)."`
	Clients []int   `default:"1,8" placeholder:"N" help:"How many clients search at the same time. There is one run for each number (default: 1,8)."`
	Seconds float64 `default:"5" placeholder:"S" help:"How long each engine is measured with each number of clients (default: 5)."`
}

// Validate refuses numbers that are out of range.
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
	return "The probes are what random subjects of the gallery are compared as, changed so that the cosine is 0.6 to 0.75, as that of another " +
		"photo of the same person. recall@1 is how often the first candidate is that of the exact search. Nothing is changed in the store. " +
		"The database works at full load meanwhile: a service that uses it gets slower."
}

// The range of the cosine of a probe with what it was made from.
const minMatedCosine, maxMatedCosine = 0.6, 0.75

// engine is a search engine with its measurements.
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
	// As the server decides: there is no index if it does not fit into memory.
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

// drawProbes draws subjects of the gallery and changes what they are compared as.
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
		if v, err = v.Normalise(); err != nil {
			return nil, err
		}
		drawn[i] = searchload.Near(rng, v, minMatedCosine+rng.Float64()*(maxMatedCosine-minMatedCosine))
	}
	return drawn, nil
}

// asEngine makes an engine of a store.
func asEngine(name string, s *postgres.Store, h postgres.Holding) searchload.Engine {
	const k = 5 // the default of /recognize
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

// recommendSearch says in one line what to set.
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
