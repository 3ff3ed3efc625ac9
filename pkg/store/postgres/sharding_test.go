package postgres_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/pgvector/pgvector-go"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// TestSharding splits a gallery over two servers, each with the schema and the
// store of the product, and identifies over both by deploy/sharding.
func TestSharding(t *testing.T) {
	t.Parallel()
	const dimension, people, gallery = 64, 400, "lobby"
	ctx := t.Context()
	coordinator := connectTo(t, pgtest.Database(t, nil))
	runFile(t, coordinator, "coordinator.sql")
	clusters := []*pgtest.Cluster{pgtest.Start(t, pgtest.Options{}), pgtest.Start(t, pgtest.Options{})}
	var shards []*postgres.Store
	for i, c := range clusters {
		url := c.URL("postgres")
		if err := migrate(url); err != nil {
			t.Fatal(err)
		}
		own := connectTo(t, url)
		runFile(t, own, "shard.sql")
		if _, err := own.Exec(ctx, `ALTER ROLE likeness_coordinator PASSWORD 'of the coordinator'`); err != nil {
			t.Fatal(err)
		}
		at := own.Config()
		if _, err := coordinator.Exec(ctx, `CALL likeness_add_shard($1, $2, $3, $4, $5)`,
			fmt.Sprint("shard_", i+1), at.Host, int(at.Port), at.Database, "of the coordinator"); err != nil {
			t.Fatal(err)
		}
		s := open(t, postgres.Options{URL: url, Search: postgres.SearchPgvector})
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		for _, g := range []string{gallery, "other"} {
			if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: g}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.CreateGallery(ctx, "stranger", face.Gallery{ID: gallery}); err != nil {
			t.Fatal(err)
		}
		shards = append(shards, s)
	}
	home := func(subject string) *postgres.Store {
		h := fnv.New32a()
		h.Write([]byte(subject))
		return shards[h.Sum32()%uint32(len(shards))]
	}

	// Some have one template, some three, and one has many.
	rng := rand.New(rand.NewPCG(3, 4))
	axis := append(face.Embedding{1}, make(face.Embedding, dimension-1)...)
	var everybody []store.Record
	for i := range people {
		r := store.Record{Subject: face.Subject{ID: fmt.Sprintf("p%03d", i), Name: fmt.Sprint("Person ", i)}}
		templates := 1 + i%2*2
		if i == 0 {
			templates = 200
		}
		centre := searchload.Near(rng, axis, 0)
		for n := range templates {
			r.Templates = append(r.Templates, face.Template{ID: fmt.Sprintf("t%d-%d", i, n), ModelID: model, Embedding: searchload.Near(rng, centre, 0.85)})
		}
		everybody = append(everybody, r)
		importOne(t, home(r.Subject.ID), tenant, gallery, r)
	}
	var probes []face.Embedding
	for i := range 40 {
		probe := searchload.Near(rng, everybody[i*7].Templates[0].Embedding, 0.7)
		if i == 39 {
			probe = searchload.Near(rng, axis, 0) // of a stranger
		}
		probes = append(probes, probe)
		// The same face in another gallery, of another tenant and of another
		// model is nobody's business.
		for n, there := range []struct{ tenant, gallery, model string }{{"stranger", gallery, model}, {tenant, "other", model}, {tenant, gallery, "encoder-b"}} {
			id := fmt.Sprintf("decoy-%d-%d", i, n)
			importOne(t, shards[i%2], there.tenant, there.gallery, store.Record{
				Subject:   face.Subject{ID: id},
				Templates: []face.Template{{ID: id, ModelID: there.model, Embedding: probe}},
			})
		}
	}
	short := append(face.Embedding{1}, make(face.Embedding, dimension/2)...)
	importOne(t, shards[0], tenant, gallery, store.Record{
		Subject:   face.Subject{ID: "short"},
		Templates: []face.Template{{ID: "short", ModelID: "encoder-c", Embedding: short}},
	})

	served := map[string]int{}
	for i, probe := range probes {
		for _, k := range []int{1, 5, people + 10} {
			got, err := identify(ctx, coordinator, tenant, gallery, model, probe, k)
			if err != nil {
				t.Fatal(err)
			}
			want := bruteForce(everybody, probe, k)
			if len(got) != len(want) {
				t.Fatalf("probe %d, k %d: %d candidates, want %d", i, k, len(got), len(want))
			}
			for n, g := range got {
				w := want[n]
				if g.subject != w.SubjectID && math.Abs(want[n].Score-g.score) > 1e-5 || math.Abs(g.score-w.Score) > 1e-5 || g.rank != n+1 || g.name == "" {
					t.Fatalf("probe %d, k %d, rank %d: %+v, want %+v", i, k, n+1, g, w)
				}
				served[g.shard]++
			}
		}
	}
	if len(served) != 2 || min(served["shard_1"], served["shard_2"]) == 0 {
		t.Errorf("candidates by shard: %v", served)
	}

	// What is enrolled and erased by the product is seen by the next search.
	late := store.Record{Subject: face.Subject{ID: "late", Name: "Late"}, Templates: []face.Template{{ID: "late", ModelID: model, Embedding: probes[39]}}}
	importOne(t, home("late"), tenant, gallery, late)
	if got, err := identify(ctx, coordinator, tenant, gallery, model, probes[39], 1); err != nil || len(got) != 1 || got[0].subject != "late" {
		t.Errorf("after an enrolment: %+v, %v", got, err)
	}
	if _, err := home("late").DeleteSubject(ctx, tenant, gallery, "late", store.Actor{}); err != nil {
		t.Fatal(err)
	}
	if got, err := identify(ctx, coordinator, tenant, gallery, model, probes[39], 1); err != nil || len(got) != 1 || got[0].subject == "late" {
		t.Errorf("after an erasure: %+v, %v", got, err)
	}

	// Both shards sort and cut, at the same time, once they know what they have.
	for _, c := range clusters {
		c.Exec(`ANALYZE`)
	}
	plan := explain(t, coordinator, gallery, probes[0])
	for what, n := range map[string]int{"Async Foreign Scan": 2, "ORDER BY": 2, "LIMIT 5": 2, "shard_1": 1, "shard_2": 1} {
		if strings.Count(plan, what) < n {
			t.Errorf("the plan has %q less than %d times:\n%s", what, n, plan)
		}
	}

	if _, err := identify(ctx, coordinator, tenant, gallery, model, short, 5); err == nil || !strings.Contains(err.Error(), "dimensions") {
		t.Errorf("a probe of another length: %v", err)
	}
	if _, err := identify(ctx, coordinator, tenant, gallery, model, probes[0], 0); err == nil {
		t.Error("k = 0 is taken")
	}
	mayOnlySearch(t, clusters[0])

	// A shard that is away is an error, and never an answer without it.
	for _, away := range clusters {
		away.Kill()
		for _, probe := range probes[:3] {
			got, err := identify(ctx, coordinator, tenant, gallery, model, probe, 5)
			var refused *pgconn.PgError
			if !errors.As(err, &refused) || !strings.HasPrefix(refused.Code, "08") {
				t.Fatalf("with a shard away: %v, %v", got, err)
			}
		}
		away.Start()
		if got, err := identify(ctx, coordinator, tenant, gallery, model, probes[0], 5); err != nil || len(got) != 5 {
			t.Errorf("with the shard back: %v, %v", got, err)
		}
	}
}

func connectTo(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) }) // its server may be gone
	return conn
}

// runFile runs a file of deploy/sharding, as psql would.
func runFile(tb testing.TB, conn *pgx.Conn, name string) {
	tb.Helper()
	sql, err := os.ReadFile(filepath.Join(sharedtest.Root(tb), "deploy", "sharding", name))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := conn.PgConn().Exec(context.Background(), string(sql)).ReadAll(); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
}

func importOne(tb testing.TB, s store.Store, tenant, gallery string, r store.Record) {
	tb.Helper()
	outcomes, err := s.Import(context.Background(), tenant, gallery, []store.Record{r})
	if err == nil {
		err = outcomes[0].Err
	}
	if err != nil {
		tb.Fatal(err)
	}
}

type identified struct {
	rank                 int
	subject, name, shard string
	score                float64
}

func identify(ctx context.Context, conn *pgx.Conn, tenant, gallery, model string, probe face.Embedding, k int) ([]identified, error) {
	rows, err := conn.Query(ctx, `SELECT rank, subject_id, name, shard, score
		FROM likeness_identify($1, $2, $3, $4::text::vector, $5) ORDER BY rank`, tenant, gallery, model, pgvector.NewVector(probe).String(), k)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (i identified, err error) {
		err = row.Scan(&i.rank, &i.subject, &i.name, &i.shard, &i.score)
		return i, err
	})
}

// bruteForce is the k best subjects by scoring everybody.
func bruteForce(everybody []store.Record, probe face.Embedding, k int) []face.Candidate {
	var all []face.Candidate
	for _, r := range everybody {
		fused, n := face.FuseTemplates(r.Templates)
		all = append(all, face.Candidate{SubjectID: r.Subject.ID, Templates: n, Score: probe.Cosine(fused)})
	}
	slices.SortFunc(all, func(a, b face.Candidate) int {
		return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.SubjectID, b.SubjectID))
	})
	return all[:min(k, len(all))]
}

func explain(tb testing.TB, conn *pgx.Conn, gallery string, probe face.Embedding) string {
	tb.Helper()
	if _, err := conn.Exec(context.Background(), `SET enable_sort = off`); err != nil { // as likeness_identify has it
		tb.Fatal(err)
	}
	rows, err := conn.Query(context.Background(), fmt.Sprintf(`EXPLAIN (VERBOSE, COSTS OFF)
		SELECT * FROM likeness_nearest('%s', '%s', '%s', '%s', 5)`, tenant, gallery, model, pgvector.NewVector(probe)))
	if err != nil {
		tb.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	// Without the numbers of the probe, which come many times.
	return regexp.MustCompile(`\[[^\]]*\]`).ReplaceAllString(strings.Join(lines, "\n"), "[...]")
}

// mayOnlySearch holds the coordinator's role to the view.
func mayOnlySearch(tb testing.TB, c *pgtest.Cluster) {
	tb.Helper()
	config, err := pgx.ParseConfig(c.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	config.User, config.Password = "likeness_coordinator", "of the coordinator"
	conn, err := pgx.ConnectConfig(context.Background(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) }) // its server may be gone
	for _, sql := range []string{`SELECT 1 FROM template`, `SELECT 1 FROM api_key`, `SELECT 1 FROM crop`, `UPDATE gallery SET subjects = 0`} {
		var refused *pgconn.PgError
		if _, err := conn.Exec(context.Background(), sql); !errors.As(err, &refused) || refused.Code != "42501" {
			tb.Errorf("%s: %v", sql, err)
		}
	}
}
