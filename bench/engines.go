package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pgvector/pgvector-go"
	pgxvec "github.com/pgvector/pgvector-go/pgx"
	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// searchFlags say what the engines are measured on.
type searchFlags struct {
	Sizes       []count       `default:"100k,1M" help:"engines: templates of a gallery; all galleries of one run are in one database."`
	Dims        []int         `default:"128,512,256" help:"engines: lengths of the embeddings."`
	Sets        []string      `default:"unrelated,real" enum:"unrelated,real" help:"engines: unrelated people (random directions), or those of real photos."`
	Graph       []int         `placeholder:"M,EFC" help:"engines: m and ef_construction of the graphs (default: 32,256 up to 300,000 templates, 16,64 above)."`
	GraphRecall float64       `default:"0.99" help:"engines: recall@1 that a graph must reach; 0 builds none."`
	Probes      int           `default:"500" help:"engines: searches to measure recall with."`
	Budget      time.Duration `default:"2m" help:"engines: how long the slow engines may take for the probes; after that, the other probes are left out."`
	Turn        time.Duration `default:"4s" help:"engines: how long a turn of an engine lasts."`
	MoreImages  []string      `default:"../shared/data/celeba-10k.tar" type:"path" help:"engines: more photos beside those of --images, each of another person."`
	Photos      int           `help:"engines: embed only this many photos of each set."`
	Cluster     string        `default:"out/postgres" type:"path" help:"engines: folder of the Postgres to measure."`
}

// count is a number that may be written 100k or 1M.
type count int

// UnmarshalText reads it.
func (c *count) UnmarshalText(text []byte) error {
	s, unit := string(text), 1
	if short, ok := strings.CutSuffix(s, "k"); ok {
		s, unit = short, 1000
	} else if short, ok := strings.CutSuffix(s, "M"); ok {
		s, unit = short, 1_000_000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 100_000_000 {
		return fmt.Errorf("%q is no size such as 100k", text)
	}
	*c = count(n * unit)
	return nil
}

func (c count) String() string {
	switch {
	case c%1_000_000 == 0:
		return fmt.Sprintf("%dM", c/1_000_000)
	case c%1000 == 0:
		return fmt.Sprintf("%dk", c/1000)
	}
	return strconv.Itoa(int(c))
}

const (
	benchTenant = "bench"
	benchModel  = "encoder"
	benchK      = 5 // the default of /recognize

	allGraphs = -1
	noGraphs  = 1 << 62
)

// engines compares the engines that answer searches: the index in memory,
// pgvector exactly, pgvector with a graph, and the same SQL without Likeness.
func (b *bench) engines(ctx context.Context) (err error) {
	admin, stop, err := b.cluster(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	b.printf("## Search engines over Postgres\n\n`go run ./bench %s`\n\n"+
		"A probe is a template moved to a cosine of %g; recall@1 is against scoring every template in float64. "+
		"One client has its own turn of %s, and so have eight. \"Of raw SQL\": the p50 of the product over that of the same statement sent by pgx alone, a search each in turn. "+
		"Where a table holds more than the gallery, the rest is other galleries.\n\n",
		strings.Join(os.Args[1:], " "), mateCosine, b.Turn)
	var loads strings.Builder
	b.printf("| set | dims | gallery | table | engine | recall@1 | of probes | p50 ms | p95 ms | per s, 1 client | per s, 8 clients | of raw SQL |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, dimension := range b.Dims {
		for _, set := range b.Sets {
			p := population{dimension: dimension}
			if set == "real" {
				encoder := map[int]string{128: "sface", 256: "mobileface-v2"}[dimension]
				if encoder == "" {
					fmt.Fprintf(&loads, "\nNot measured: real, %d dimensions: no encoder has as many.\n", dimension)
					continue
				}
				if p.real, err = b.embeddings(ctx, encoder); err != nil {
					if ctx.Err() != nil {
						return err
					}
					fmt.Fprintf(&loads, "\nNot measured: real, %d dimensions: %v.\n", dimension, err)
					continue
				}
			}
			d := &database{bench: b, name: fmt.Sprintf("bench_%s_%d", set, dimension), set: set, population: p, loads: &loads}
			if err := d.measure(ctx, admin); err != nil {
				return fmt.Errorf("%s, %d dimensions: %w", set, dimension, err)
			}
		}
	}
	b.printf("\n### Loading and size\n\n%s\n", loads.String())
	return nil
}

// cluster starts a Postgres with the memory of a server of its own.
func (b *bench) cluster(ctx context.Context) (admin string, stop func() error, err error) {
	script := func(ctx context.Context, command string) (string, error) {
		cmd := exec.CommandContext(ctx, "scripts/postgres.sh", command, b.Cluster)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	stop = func() error {
		_, err := script(context.WithoutCancel(ctx), "stop")
		return err
	}
	if admin, err = script(ctx, "start"); err != nil {
		return "", nil, err
	}
	for _, set := range []string{
		`shared_buffers = '1GB'`, `max_wal_size = '8GB'`, `checkpoint_timeout = '30min'`,
		`max_parallel_maintenance_workers = 2`, `track_activity_query_size = 16384`,
	} {
		if err := execSQL(ctx, admin, `ALTER SYSTEM SET `+set); err != nil {
			return "", nil, errors.Join(err, stop())
		}
	}
	if err := stop(); err != nil {
		return "", nil, err
	}
	admin, err = script(ctx, "start")
	return admin, stop, err
}

func execSQL(ctx context.Context, url, sql string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, sql)
	return errors.Join(err, conn.Close(ctx))
}

// database holds the galleries of a set.
type database struct {
	*bench
	name, set  string
	population population
	url        string
	total      int
	loads      *strings.Builder
}

// measure fills galleries, the largest first, and measures each: the largest
// while it is alone in the database, the others beside all.
func (d *database) measure(ctx context.Context, admin string) (err error) {
	u, err := url.Parse(admin)
	if err != nil {
		return err
	}
	u.Path = "/" + d.name
	d.url = u.String()
	drop := `DROP DATABASE IF EXISTS ` + d.name + ` WITH (FORCE)`
	if err := errors.Join(execSQL(ctx, admin, drop), execSQL(ctx, admin, `CREATE DATABASE `+d.name)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, execSQL(context.WithoutCancel(ctx), admin, drop)) }()
	if _, _, err := postgres.Migrate(ctx, d.url, ""); err != nil {
		return err
	}
	sizes := slices.Clone(d.Sizes)
	slices.SortFunc(sizes, func(a, b count) int { return cmp.Compare(b, a) })
	for i, size := range sizes {
		d.population.seed = uint64(10 * (i + 1))
		if err := d.gallery(ctx, size); err != nil {
			return fmt.Errorf("gallery of %s: %w", size, err)
		}
	}
	return nil
}

// gallery fills one gallery and measures every engine on it.
func (d *database) gallery(ctx context.Context, size count) (err error) {
	exact, err := postgres.Open(ctx, postgres.Options{URL: d.url, Search: postgres.SearchPgvector, GraphAbove: noGraphs})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, exact.Close()) }()
	g := "g" + size.String()
	probes, truth, rate, err := d.fill(ctx, exact, g, int(size))
	if err != nil {
		return err
	}
	d.total += int(size)
	if err := execSQL(ctx, d.url, `VACUUM ANALYZE`); err != nil {
		return err
	}
	bytes, err := d.bytes(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(d.loads, "- %s, %d dimensions, %s of %s: imported %.0f templates/s. Postgres, bytes a template: %s.",
		d.set, d.population.dimension, size, count(d.total), rate, bytes)

	graph, said := d.graph(ctx, exact, g, int(size))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	before, start := resident(), time.Now()
	memory, err := postgres.Open(ctx, postgres.Options{URL: d.url}) // as it is by default
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, memory.Close()) }()
	if err := memory.AwaitReady(ctx); err != nil {
		return err
	}
	took := time.Since(start)
	fmt.Fprintf(d.loads, " The index: %s by default, loaded in %.1f s, %d bytes of memory a template.%s\n",
		memory.Engine(), took.Seconds(), (resident()-before)/int64(d.total), said)

	var all []contestant
	if memory.Engine() == postgres.SearchIndex {
		all = append(all, contestant{Engine: d.asked("index in memory", memory, g)})
	}
	pool, err := d.rawPool(ctx)
	if err != nil {
		return err
	}
	defer pool.Close()
	one := contestant{Engine: d.asked("pgvector, exact", exact, g)}
	if one.raw, err = d.raw(ctx, pool, one.Engine, g, probes[0], 0); err != nil {
		return err
	}
	all = append(all, one)
	if graph != nil {
		with, err := postgres.Open(ctx, postgres.Options{URL: d.url, Search: postgres.SearchPgvector, GraphAbove: allGraphs})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, with.Close()) }()
		one := contestant{Engine: d.asked(fmt.Sprintf("pgvector, graph, ef_search %d", graph.EfSearch), with, g)}
		if one.raw, err = d.raw(ctx, pool, one.Engine, g, probes[0], graph.EfSearch); err != nil {
			return err
		}
		all = append(all, one)
	}
	return d.compare(ctx, size, all, probes, truth)
}

// contestant is an engine, with its statement sent by pgx alone, if it has one.
type contestant struct {
	searchload.Engine
	raw *searchload.Engine

	right, answered int
	own, alone      []time.Duration // of a search, and of the statement alone, in turns
}

func (c *contestant) ask(ctx context.Context, probe face.Embedding, truth string) error {
	at := time.Now()
	subject, err := c.Search(ctx, probe)
	c.own = append(c.own, time.Since(at))
	c.answered++
	if subject == truth {
		c.right++
	}
	return err
}

func (c *contestant) askRaw(ctx context.Context, probe face.Embedding) error {
	if c.raw == nil {
		return nil
	}
	at := time.Now()
	_, err := c.raw.Search(ctx, probe)
	c.alone = append(c.alone, time.Since(at))
	return err
}

// compare measures recall and the cost of the product search by search, then
// each engine by itself.
func (d *database) compare(ctx context.Context, size count, all []contestant, probes []face.Embedding, truth []string) error {
	name := fmt.Sprintf("%s, %d dimensions, %s", d.set, d.population.dimension, size)
	show := d.progress("searching "+name, len(probes))
	start := time.Now()
	var err error
	for i, probe := range probes {
		for n := range all {
			c := &all[n]
			// Slow engines stop when their time is over; fast engines answer
			// all probes.
			if c.raw != nil && i >= 20 && time.Since(start) > d.Budget && searchload.Quantile(c.own, 0.5) > 100*time.Millisecond {
				continue
			}
			// The order alternates, because the second engine finds the pages
			// in memory.
			if i%2 == 0 {
				err = errors.Join(c.ask(ctx, probe, truth[i]), c.askRaw(ctx, probe))
			} else {
				err = errors.Join(c.askRaw(ctx, probe), c.ask(ctx, probe, truth[i]))
			}
			if err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		show(1)
	}
	var engines []searchload.Engine
	for _, c := range all {
		engines = append(engines, c.Engine)
	}
	loads := map[int][]searchload.Load{}
	for _, clients := range []int{1, 8} {
		fmt.Fprintf(os.Stderr, "bench: %s: %d clients\n", name, clients)
		if loads[clients], err = searchload.Measure(ctx, engines, probes, clients, 3, d.Turn, func() {}); err != nil {
			return err
		}
	}
	for i, c := range all {
		ratio := "-"
		if c.raw != nil {
			ratio = fmt.Sprintf("%.2f", ms(searchload.Quantile(c.own, 0.5))/ms(searchload.Quantile(c.alone, 0.5)))
		}
		one, eight := loads[1][i], loads[8][i]
		d.printf("| %s | %d | %s | %s | %s | %.4f | %d | %.2f | %.2f | %.1f | %.1f | %s |\n", d.set, d.population.dimension, size, count(d.total),
			c.Name, float64(c.right)/float64(c.answered), c.answered, ms(one.P50), ms(one.P95), one.QPS, eight.QPS, ratio)
	}
	return nil
}

// fill imports a gallery, and meanwhile finds the subject nearest to each probe
// by scoring everybody.
func (d *database) fill(ctx context.Context, s *postgres.Store, gallery string, size int) (probes []face.Embedding, truth []string, rate float64, err error) {
	if _, err := s.CreateGallery(ctx, benchTenant, face.Gallery{ID: gallery}); err != nil {
		return nil, nil, 0, err
	}
	rng := rand.New(rand.NewPCG(d.population.seed, 3))
	for range min(d.Probes, size) {
		probes = append(probes, d.population.probe(rng.IntN(size)))
	}
	truth = make([]string, len(probes))
	best := make([]float64, len(probes))
	for i := range best {
		best[i] = -2
	}
	var last store.Record // more templates of whom may follow
	score := func(people []store.Record) error {
		subjects := make([]face.Embedding, len(people))
		for i, r := range people {
			subjects[i], _ = face.FuseTemplates(r.Templates)
		}
		var group errgroup.Group
		workers := runtime.GOMAXPROCS(0)
		for w := range workers {
			group.Go(func() error {
				for p := w; p < len(probes); p += workers {
					for i, v := range subjects {
						if score := dot(probes[p], v); score > best[p] {
							best[p], truth[p] = score, people[i].Subject.ID
						}
					}
				}
				return nil
			})
		}
		return group.Wait()
	}
	show := d.progress(fmt.Sprintf("filling %s with %s, %d dimensions", gallery, d.set, d.population.dimension), size)
	var importing time.Duration
	for at := 0; at < size; at += store.MaxImport {
		n := min(store.MaxImport, size-at)
		// Photos of a person come one after the other: one record holds them.
		records := make([]store.Record, 0, n)
		for i := range n {
			subject, e := d.population.template(at + i)
			if len(records) == 0 || records[len(records)-1].Subject.ID != subject {
				records = append(records, store.Record{Subject: face.Subject{ID: subject}})
			}
			r := &records[len(records)-1]
			r.Templates = append(r.Templates, face.Template{ID: gallery + "-" + strconv.Itoa(at+i), ModelID: benchModel, Embedding: e})
		}
		start := time.Now()
		outcomes, err := s.Import(ctx, benchTenant, gallery, records)
		if err != nil {
			return nil, nil, 0, err
		}
		for _, o := range outcomes {
			if o.Err != nil {
				return nil, nil, 0, o.Err
			}
		}
		importing += time.Since(start)
		if records[0].Subject.ID == last.Subject.ID {
			records[0].Templates = slices.Concat(last.Templates, records[0].Templates)
		} else if at > 0 {
			records = append([]store.Record{last}, records...)
		}
		last = records[len(records)-1]
		if err := score(records[:len(records)-1]); err != nil {
			return nil, nil, 0, err
		}
		show(n)
	}
	if err := score([]store.Record{last}); err != nil {
		return nil, nil, 0, err
	}
	return probes, truth, float64(size) / importing.Seconds(), nil
}

// dot is the score of two embeddings in float64, in four parts so that one
// addition does not wait for the other.
func dot(a, b face.Embedding) float64 {
	var s0, s1, s2, s3 float64
	for len(a) >= 4 && len(b) >= 4 {
		s0 += float64(a[0]) * float64(b[0])
		s1 += float64(a[1]) * float64(b[1])
		s2 += float64(a[2]) * float64(b[2])
		s3 += float64(a[3]) * float64(b[3])
		a, b = a[4:], b[4:]
	}
	for i, v := range a {
		s0 += float64(v) * float64(b[i])
	}
	return s0 + s1 + s2 + s3
}

// graph builds a graph and describes the result.
func (d *database) graph(ctx context.Context, s *postgres.Store, gallery string, size int) (*postgres.Graph, string) {
	if d.GraphRecall <= 0 {
		return nil, ""
	}
	m, efc := 32, 256
	if size > 300_000 {
		m, efc = 16, 64
	}
	if len(d.Graph) == 2 {
		m, efc = d.Graph[0], d.Graph[1]
	}
	shown := time.Now()
	var built time.Duration
	start := time.Now()
	g, err := s.BuildGraph(ctx, benchTenant, gallery, benchModel, postgres.GraphOptions{
		Recall: d.GraphRecall, M: m, EfConstruction: efc,
		Progress: func(step string, done float64) {
			if step != "building" && built == 0 {
				built = time.Since(start)
			}
			if time.Since(shown) > 10*time.Second {
				shown = time.Now()
				fmt.Fprintf(os.Stderr, "bench: graph over %s: %s, %.0f %%\n", gallery, step, 100*done)
			}
		},
	})
	said := fmt.Sprintf(" A graph with m = %d, ef_construction = %d, asked for a recall of %g: built in %.0f s", m, efc, d.GraphRecall, built.Seconds())
	if err != nil {
		e, ok := errors.AsType[*face.Error](err)
		if !ok {
			return nil, said + "; " + err.Error() + "."
		}
		return nil, said + "; " + e.Detail + "."
	}
	said += fmt.Sprintf("; its own check found %.4f at ef_search %d", g.Recall, g.EfSearch)
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return nil, said + "; " + err.Error() + "."
	}
	var bytes int64
	err = errors.Join(conn.QueryRow(ctx, `SELECT `+graphBytes).Scan(&bytes), conn.Close(ctx))
	if err != nil {
		return nil, said + "; " + err.Error() + "."
	}
	return &g, fmt.Sprintf("%s; all graphs of the database take %d MiB.", said, bytes>>20)
}

// graphBytes is what all graphs of a database take.
const graphBytes = `(SELECT coalesce(sum(pg_relation_size(oid)), 0)::bigint FROM pg_class WHERE relname LIKE 'graph\_%')`

// bytes is what Postgres keeps, over the templates of the database.
func (d *database) bytes(ctx context.Context) (string, error) {
	conn, err := pgx.Connect(ctx, d.url)
	if err != nil {
		return "", err
	}
	var rows, indexes, subjects, changes int64
	err = conn.QueryRow(ctx, `SELECT pg_table_size('template'), pg_indexes_size('template') - `+graphBytes+`, pg_total_relation_size('subject'), pg_total_relation_size('template_change')`).
		Scan(&rows, &indexes, &subjects, &changes)
	n := int64(d.total)
	return fmt.Sprintf("%d of rows, %d of indexes, %d of subjects, %d of changes (a day's)", rows/n, indexes/n, subjects/n, changes/n),
		errors.Join(err, conn.Close(ctx))
}

// asked makes an engine of a store.
func (d *database) asked(name string, s *postgres.Store, gallery string) searchload.Engine {
	return searchload.Engine{Name: name, Search: func(ctx context.Context, probe face.Embedding) (string, error) {
		r, err := s.Search(ctx, benchTenant, gallery, benchModel, probe, benchK)
		if err != nil || len(r.Candidates) == 0 {
			return "", err
		}
		return r.Candidates[0].SubjectID, nil
	}}
}

// rawPool connects without Likeness, with the settings that it connects with.
func (d *database) rawPool(ctx context.Context) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(d.url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.RuntimeParams["application_name"] = "raw"
	config.ConnConfig.RuntimeParams["jit"] = "off"
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	config.AfterConnect = pgxvec.RegisterTypes
	return pgxpool.NewWithConfig(ctx, config)
}

// raw sends exactly the statement that an engine sends, by pgx alone. It reads
// the statement from the server, which remembers the last one.
func (d *database) raw(ctx context.Context, pool *pgxpool.Pool, e searchload.Engine, gallery string, probe face.Embedding, ef int) (*searchload.Engine, error) {
	if _, err := e.Search(ctx, probe); err != nil {
		return nil, err
	}
	var sql string
	if err := pool.QueryRow(ctx, `SELECT query FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'likeness'
		AND query LIKE '%embedding%' AND query LIKE '%LIMIT%' ORDER BY query_start DESC LIMIT 1`).Scan(&sql); err != nil {
		return nil, fmt.Errorf("the statement of a search: %w", err)
	}
	const limit = 32 // as the product's for so few candidates
	return &searchload.Engine{Name: e.Name, Search: func(ctx context.Context, probe face.Embedding) (best string, err error) {
		var b pgx.Batch
		if ef > 0 {
			b.Queue(`SELECT set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'strict_order', true),
				set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)`, strconv.Itoa(ef))
		}
		b.Queue(sql, benchTenant, gallery, benchModel, pgvector.NewVector(probe), limit, len(probe))
		results := pool.SendBatch(ctx, &b)
		defer func() { err = errors.Join(err, results.Close()) }()
		if ef > 0 {
			if _, err := results.Exec(); err != nil {
				return "", err
			}
		}
		rows, err := results.Query()
		if err != nil {
			return "", err
		}
		defer rows.Close()
		nearest := 2.0
		for rows.Next() {
			var templates, subjects, dimension int
			var row *int64
			var id, subject, name *string
			var v *pgvector.Vector
			var distance *float64
			if err := rows.Scan(&templates, &subjects, &dimension, &row, &subject, &name, &distance, &id, &v); err != nil {
				return "", err
			}
			if distance != nil && *distance < nearest {
				nearest, best = *distance, *subject
			}
		}
		return best, rows.Err()
	}}, nil
}

// resident is the resident memory of this process after freed memory was
// returned to the system.
func resident() int64 {
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
