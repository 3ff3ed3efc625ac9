package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

const (
	// defaultM and defaultEfConstruction make a graph that finds nearly all:
	// with pgvector's (16, 64) one person in four of a gallery of 100,000 was
	// missed.
	defaultM              = 32
	defaultEfConstruction = 256

	// maxGraphMemory bounds maintenance_work_mem of a build, in MB.
	maxGraphMemory = 8 << 10

	// maxEf is pgvector's widest search.
	maxEf = 1000

	// defaultProbes is how many searches a graph's recall is measured with,
	// and probeJitter how far a probe is from what it is to find: at a score of 0.6,
	// where two photos of one person often are. Nearer probes flatter a graph.
	defaultProbes = 400
	probeJitter   = 1.33
)

// graph is an approximate index over what a gallery holds of one model: a
// vector for each subject.
type graph struct {
	shelf     int64
	ef        int
	subjects  int64 // each of whom is one row of it
	templates int64
	dimension int
}

// Graph says what an operator built and what was measured of it.
type Graph struct {
	Tenant, Gallery, ModelID string
	Templates                int64
	EfSearch                 int
	AskedRecall, Recall      float64 // of the right person in the first place; measured over Probes
	Probes                   int
	MeasuredAt               time.Time
}

// GraphOptions of [Store.BuildGraph].
type GraphOptions struct {
	// Recall is how often the best subject must be the one that the exact
	// search gives, more than 0 and at most 1.
	Recall float64
	// M is the number of links of a node, and EfConstruction the width of the
	// search that finds them; 0 is 32 and 256. Twice of either takes about
	// twice as long.
	M, EfConstruction int
	// Probes is how many searches the recall is measured with; 0 is 400.
	Probes int
	// Progress, if not nil, is called with the share of a step that is done, 0..1.
	Progress func(step string, done float64)
}

// DefaultGraphOptions are the options that zero fields stand for: 32 links of a
// node, found by a search of width 256, and 400 searches to measure the recall
// with. The recall itself has no default.
func DefaultGraphOptions() GraphOptions {
	return GraphOptions{M: defaultM, EfConstruction: defaultEfConstruction, Probes: defaultProbes}
}

func (s *Store) readGraphs(ctx context.Context) error {
	graphs := map[index.Key]graph{}
	rows, err := s.db.pool.Query(ctx, `SELECT g.tenant, g.id, m.model_id, m.row_id, m.subjects, m.dimension, sg.ef_search
		FROM search_graph sg JOIN gallery_model m ON m.row_id = sg.gallery_model JOIN gallery g ON g.row_id = m.gallery
		JOIN pg_class c ON c.relname = 'graph_' || m.row_id JOIN pg_index i ON i.indexrelid = c.oid AND i.indisvalid`)
	err = scanAll(rows, err, func(rows pgx.Rows) error {
		var k index.Key
		var g graph
		err := rows.Scan(&k.Tenant, &k.Gallery, &k.ModelID, &g.shelf, &g.subjects, &g.dimension, &g.ef)
		graphs[k] = g
		return err
	})
	if err == nil {
		s.graphs.Store(&graphs)
	}
	return err
}

// Graphs lists the graphs of all galleries.
func (s *Store) Graphs(ctx context.Context) (graphs []Graph, err error) {
	err = s.db.call("Graphs", func() error {
		rows, err := s.db.pool.Query(ctx, `SELECT g.tenant, g.id, m.model_id, m.templates, sg.ef_search, sg.asked_recall, sg.measured_recall, sg.probes, sg.measured_at
			FROM search_graph sg JOIN gallery_model m ON m.row_id = sg.gallery_model JOIN gallery g ON g.row_id = m.gallery
			ORDER BY g.tenant, g.id, m.model_id`)
		return scanAll(rows, err, func(rows pgx.Rows) error {
			var g Graph
			err := rows.Scan(&g.Tenant, &g.Gallery, &g.ModelID, &g.Templates, &g.EfSearch, &g.AskedRecall, &g.Recall, &g.Probes, &g.MeasuredAt)
			graphs = append(graphs, g)
			return err
		})
	})
	return result(graphs, err)
}

// BuildGraph builds an HNSW graph over what a gallery holds of a model, beside
// the running service, and finds by measurement the least ef_search that
// reaches the recall. Only a graph that reaches it is used. NotFound: the
// gallery, or it has no template of the model. Invalid: the options. Conflict:
// no width of search reaches the recall.
func (s *Store) BuildGraph(ctx context.Context, tenant, gallery, modelID string, o GraphOptions) (made Graph, err error) {
	const op = "BuildGraph"
	recall, progress := o.Recall, o.Progress
	if progress == nil {
		progress = func(string, float64) {}
	}
	d := DefaultGraphOptions()
	o.Probes = cmp.Or(o.Probes, d.Probes)
	o.M, o.EfConstruction = cmp.Or(o.M, d.M), cmp.Or(o.EfConstruction, d.EfConstruction)
	err = s.db.call(op, func() (err error) {
		if !(recall > 0 && recall <= 1) {
			return face.Errorf(face.Invalid, op, "the recall must be more than 0 and at most 1")
		}
		if o.M < 2 || o.M > 100 || o.EfConstruction < 2*o.M || o.EfConstruction > 1000 {
			return face.Errorf(face.Invalid, op, "m must be 2 to 100, ef_construction twice as much to 1000")
		}
		g, err := s.shelfOf(ctx, op, tenant, gallery, modelID)
		if err != nil {
			return err
		}
		// A graph is used once it is measured; one that fails is dropped.
		if _, err := s.db.pool.Exec(ctx, `DELETE FROM search_graph WHERE gallery_model = $1`, g.shelf); err != nil {
			return err
		}
		if err := s.readGraphs(ctx); err != nil {
			return err
		}
		kept := false
		defer func() {
			if !kept {
				err = errors.Join(err, s.drop(context.WithoutCancel(ctx), g.shelf))
			}
		}()
		if err := s.build(ctx, g, o.M, o.EfConstruction, progress); err != nil {
			return err
		}
		ef, measured, probes, err := s.tune(ctx, g, recall, o.Probes, progress)
		if err != nil {
			return err
		}
		if measured < recall {
			return face.Errorf(face.Conflict, op, "the graph finds %.4f of the people at its widest search, less than the %.4f asked for: the gallery stays with exact search", measured, recall)
		}
		made = Graph{
			Tenant: tenant, Gallery: gallery, ModelID: modelID, Templates: g.templates,
			EfSearch: ef, AskedRecall: recall, Recall: measured, Probes: probes, MeasuredAt: time.Now().UTC(),
		}
		if _, err := s.db.pool.Exec(ctx, `INSERT INTO search_graph VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (gallery_model) DO UPDATE SET ef_search = $2, asked_recall = $3, measured_recall = $4, probes = $5, measured_at = $6`,
			g.shelf, ef, recall, measured, probes, made.MeasuredAt); err != nil {
			return err
		}
		kept = true
		return s.readGraphs(ctx)
	})
	return result(made, err)
}

// DropGraph takes a graph away. NotFound: there is none.
func (s *Store) DropGraph(ctx context.Context, tenant, gallery, modelID string) error {
	const op = "DropGraph"
	return s.db.call(op, func() error {
		g, err := s.shelfOf(ctx, op, tenant, gallery, modelID)
		if err != nil {
			return err
		}
		tag, err := s.db.pool.Exec(ctx, `DELETE FROM search_graph WHERE gallery_model = $1`, g.shelf)
		if err == nil && tag.RowsAffected() == 0 {
			return face.Errorf(face.NotFound, op, "the gallery has no graph for the model")
		}
		if err != nil {
			return err
		}
		if err := s.readGraphs(ctx); err != nil {
			return err
		}
		return s.drop(ctx, g.shelf)
	})
}

func (s *Store) shelfOf(ctx context.Context, op, tenant, gallery, modelID string) (g graph, err error) {
	there, err := scanOne(s.db.pool.QueryRow(ctx, `SELECT m.row_id, m.templates, m.subjects, m.dimension FROM gallery g
		JOIN gallery_model m ON m.gallery = g.row_id WHERE g.tenant = $1 AND g.id = $2 AND m.model_id = $3`,
		tenant, gallery, modelID), &g.shelf, &g.templates, &g.subjects, &g.dimension)
	if err == nil && !there {
		err = face.Errorf(face.NotFound, op, "the gallery is not there, or has no template of the model")
	}
	return g, err
}

func graphName(shelf int64) string { return "graph_" + strconv.FormatInt(shelf, 10) }

func (s *Store) drop(ctx context.Context, shelf int64) error {
	_, err := s.db.pool.Exec(ctx, `DROP INDEX CONCURRENTLY IF EXISTS `+graphName(shelf))
	return err
}

// build makes the index of a graph, or makes it anew.
func (s *Store) build(ctx context.Context, g graph, m, efConstruction int, progress func(string, float64)) error {
	if err := s.drop(ctx, g.shelf); err != nil {
		return err
	}
	conn, err := s.db.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	// A graph that does not fit into this is built many times slower.
	megabytes := min(max(64, g.subjects*int64(2*g.dimension+48*m+400)>>20), maxGraphMemory)
	for _, set := range []string{
		fmt.Sprintf(`SET maintenance_work_mem = '%dMB'`, megabytes),
		`SET lock_timeout = 0`,
	} {
		if _, err := conn.Exec(ctx, set); err != nil {
			return err
		}
	}
	defer func() {
		_, _ = conn.Exec(context.WithoutCancel(ctx), `RESET maintenance_work_mem; RESET lock_timeout`)
	}()
	pid := conn.Conn().PgConn().PID()
	watching, stop := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait() // one step tells of itself at a time
	defer stop()
	watcher.Go(func() {
		for pgdb.Pause(watching, time.Second) {
			var done float64
			if ok, err := scanOne(s.db.pool.QueryRow(watching, `SELECT coalesce(tuples_done::float8 / nullif($2, 0), 0)
				FROM pg_stat_progress_create_index WHERE pid = $1`, int32(pid), g.subjects), &done); ok && err == nil {
				progress("building", min(done, 1))
			}
		}
	})
	_, err = conn.Exec(ctx, fmt.Sprintf(`CREATE INDEX CONCURRENTLY %s ON template USING hnsw ((coalesce(fused, embedding)::halfvec(%d)) halfvec_ip_ops)
		WITH (m = %d, ef_construction = %d) WHERE gallery_model = %d AND searched`, graphName(g.shelf), g.dimension, m, efConstruction, g.shelf))
	return err
}

// tune finds the least ef_search that reaches the recall, over probes near to
// subjects drawn at random.
func (s *Store) tune(ctx context.Context, g graph, recall float64, want int, progress func(string, float64)) (ef int, measured float64, probes int, err error) {
	type probe struct {
		v    pgvector.Vector
		best string
	}
	var all []probe
	var ids []int64
	rows, err := s.db.pool.Query(ctx, `SELECT row_id FROM template WHERE gallery_model = $1 AND searched ORDER BY random() LIMIT $2`, g.shelf, want)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var id int64
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	}); err != nil {
		return 0, 0, 0, err
	}
	for i, id := range ids {
		var v pgvector.Vector
		if ok, err := scanOne(s.db.pool.QueryRow(ctx, `SELECT `+searchedVector+` FROM template t WHERE t.row_id = $1`, id), &v); err != nil {
			return 0, 0, 0, err
		} else if !ok {
			continue // erased since
		}
		p := probe{v: pgvector.NewVector(jitter(v.Slice(), int(id)))}
		if _, err := scanOne(s.db.pool.QueryRow(ctx, `SELECT s.id FROM template t JOIN subject s ON s.row_id = t.subject
			WHERE t.gallery_model = $1 AND t.searched ORDER BY (`+searchedVector+` <#> $2) + 0 LIMIT 1`, g.shelf, p.v), &p.best); err != nil {
			return 0, 0, 0, err
		}
		all = append(all, p)
		progress("measuring", float64(i+1)/float64(len(ids)))
	}
	if len(all) == 0 {
		return 0, 0, 0, errors.New("every template of the gallery was erased meanwhile")
	}
	at := func(ef int) (float64, error) {
		right := 0
		for _, p := range all {
			var b pgx.Batch
			b.Queue(`SELECT set_config('hnsw.ef_search', $1, true), set_config('hnsw.iterative_scan', 'strict_order', true),
				set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)`, strconv.Itoa(ef))
			b.Queue(fmt.Sprintf(`SELECT s.id FROM (SELECT t.subject, %[1]s AS searched FROM template t WHERE t.gallery_model = %[2]d AND t.searched
				ORDER BY %[1]s::halfvec(%[3]d) <#> $1::vector::halfvec(%[3]d) LIMIT %[4]d) n JOIN subject s ON s.row_id = n.subject
				ORDER BY n.searched <#> $1 LIMIT 1`, searchedVector, g.shelf, g.dimension, firstRows), p.v)
			results := s.db.pool.SendBatch(ctx, &b)
			_, err := results.Exec()
			var best string
			if err == nil {
				_, err = scanOne(results.QueryRow(), &best)
			}
			if err := errors.Join(err, results.Close()); err != nil {
				return 0, err
			}
			if best == p.best {
				right++
			}
		}
		return float64(right) / float64(len(all)), nil
	}
	steps := []int{40, 60, 80, 100, 150, 200, 300, 400, 600, 800, maxEf}
	low, high := 0, len(steps)-1
	if measured, err = at(steps[high]); err != nil || measured < recall {
		return steps[high], measured, len(all), err
	}
	for low < high {
		middle := (low + high) / 2
		got, err := at(steps[middle])
		switch {
		case err != nil:
			return 0, 0, 0, err
		case got >= recall:
			high, measured = middle, got
		default:
			low = middle + 1
		}
		progress("tuning", 1-float64(high-low)/float64(len(steps)))
	}
	return steps[high], measured, len(all), nil
}

// jitter is a vector near another one, always the same for the same seed.
func jitter(v []float32, seed int) face.Embedding {
	// A linear congruential sequence is noise enough for this.
	state := uint64(seed)*6364136223846793005 + 1442695040888963407
	noise := make(face.Embedding, len(v))
	for i := range noise {
		state = state*6364136223846793005 + 1442695040888963407
		noise[i] = float32(int32(state>>32)) / (1 << 31)
	}
	noise, err := noise.Normalise()
	if err != nil {
		return slices.Clone(v)
	}
	for i := range noise {
		noise[i] = v[i] + probeJitter*noise[i]
	}
	noise, err = noise.Normalise()
	if err != nil {
		return slices.Clone(v)
	}
	return noise
}
