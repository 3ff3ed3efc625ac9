package postgres_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// TestGraph builds a graph, searches by it, and takes it away again.
func TestGraph(t *testing.T) {
	t.Parallel()
	const people, dim, recall = 3000, 64, 0.95
	ctx, db := t.Context(), pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector, GraphAbove: 100})
	defer closing(t, s)
	populate(t, s, 0, people, dim)
	_, err := s.BuildGraph(ctx, tenant, face.DefaultGallery, "nobody's", postgres.GraphOptions{Recall: recall})
	wantKind(t, err, face.NotFound, "")
	for _, bad := range []postgres.GraphOptions{{}, {Recall: 1.1}, {Recall: 0.9, M: 1}, {Recall: 0.9, EfConstruction: 10}} {
		_, err = s.BuildGraph(ctx, tenant, face.DefaultGallery, model, bad)
		wantKind(t, err, face.Invalid, "")
	}
	steps := map[string]bool{}
	g, err := s.BuildGraph(ctx, tenant, face.DefaultGallery, model, postgres.GraphOptions{
		Recall: recall, M: 16, EfConstruction: 64, Probes: 100, Progress: func(step string, _ float64) { steps[step] = true },
	})
	if err != nil {
		t.Fatal(err)
	}
	if g.Recall < recall || g.Templates != people || !steps["measuring"] || !steps["tuning"] {
		t.Errorf("the graph is %+v, told of %v", g, steps)
	}
	list, err := s.Graphs(ctx)
	if err != nil || len(list) != 1 || list[0].EfSearch != g.EfSearch {
		t.Errorf("the graphs are %+v (%v)", list, err)
	}
	scans := func() int {
		return sqlInt(t, db, `SELECT coalesce(sum(idx_scan), 0)::int FROM pg_stat_user_indexes WHERE indexrelname LIKE 'graph_%'`)
	}
	before := scans()
	missed := 0
	for i := range 200 {
		if ok, err := isFound(ctx, s, i, dim); err != nil {
			t.Fatal(err)
		} else if !ok {
			missed++
		}
	}
	if missed > 20 {
		t.Errorf("%d of 200 were missed", missed)
	}
	eventually(t, 10*time.Second, "the graph was used", func() bool { return scans() > before })
	// Somebody erased is not found, somebody new is.
	if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "s7", by); err != nil {
		t.Fatal(err)
	}
	if ok, err := isFound(ctx, s, 7, dim); ok || err != nil {
		t.Errorf("an erased subject is found (%v)", err)
	}
	populate(t, s, people, people+1, dim)
	if ok, err := isFound(ctx, s, people, dim); !ok || err != nil {
		t.Errorf("a new subject is not found (%v)", err)
	}
	// Other galleries do without, and are as exact as ever.
	if _, err := s.CreateGallery(ctx, tenant, face.Gallery{ID: "few"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(ctx, tenant, "few", []store.Record{{Subject: face.Subject{ID: "one"}, Templates: []face.Template{
		{ID: "one", ModelID: model, Embedding: embedding(-1, dim)},
	}}}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Search(ctx, tenant, "few", model, embedding(0, dim), 10); err != nil || len(r.Candidates) != 1 || r.Candidates[0].SubjectID != "one" {
		t.Errorf("the small gallery gives %+v (%v)", r, err)
	}
	// A list longer than the widest search is exact again.
	if r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(0, dim), 1000); err != nil || len(r.Candidates) != 1000 {
		t.Errorf("%d candidates, want 1000 (%v)", len(r.Candidates), err)
	}
	if err := s.DropGraph(ctx, tenant, face.DefaultGallery, model); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.DropGraph(ctx, tenant, face.DefaultGallery, model), face.NotFound, "")
	for i := range 50 {
		if ok, err := isFound(ctx, s, i, dim); err != nil || ok != (i != 7) {
			t.Errorf("%d: found %v without the graph (%v)", i, ok, err)
		}
	}
}

// TestGraphThatMisses is refused: its gallery stays exact.
func TestGraphThatMisses(t *testing.T) {
	t.Parallel()
	const people, dim = 3000, 256
	ctx, db := t.Context(), pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector, GraphAbove: 100})
	defer closing(t, s)
	populate(t, s, 0, people, dim)
	_, err := s.BuildGraph(ctx, tenant, face.DefaultGallery, model, postgres.GraphOptions{Recall: 1, M: 2, EfConstruction: 4, Probes: 100})
	wantKind(t, err, face.Conflict, "stays with exact search")
	if n := sqlInt(t, db, `SELECT count(*) FROM pg_class WHERE relname LIKE 'graph_%'`); n != 0 {
		t.Errorf("%d refused graphs are left", n)
	}
	if ok, err := isFound(ctx, s, 5, dim); !ok || err != nil {
		t.Errorf("not found (%v)", err)
	}
}

// TestAuto chooses the index while it fits, and pgvector from then on.
func TestAuto(t *testing.T) {
	t.Parallel()
	const dim = 64
	db := pgtest.Database(t, migrate)
	const memory = 500 * (5*dim + 400)
	o := postgres.Options{URL: db, SearchMemory: memory}
	s := open(t, o)
	if s.Engine() != postgres.SearchIndex {
		t.Errorf("an empty store is searched by %s", s.Engine())
	}
	populate(t, s, 0, 100, dim)
	if s.Engine() != postgres.SearchIndex {
		t.Errorf("a small store is searched by %s", s.Engine())
	}
	populate(t, s, 100, 3000, dim)
	eventually(t, 10*time.Second, "the engine changes", func() bool { return s.Engine() == postgres.SearchPgvector })
	check := func(s *postgres.Store) {
		t.Helper()
		for i := range 100 {
			if ok, err := isFound(t.Context(), s, i*30, dim); err != nil || !ok {
				t.Fatalf("%d: found %v (%v)", i, ok, err)
			}
		}
	}
	check(s)
	closing(t, s)
	s = open(t, o)
	defer closing(t, s)
	if s.Engine() != postgres.SearchPgvector {
		t.Errorf("a large store is searched by %s", s.Engine())
	}
	check(s)
}

// TestExact compares both engines with a brute force where many score nearly
// the same.
func TestExact(t *testing.T) {
	t.Parallel()
	const people, dim, k = 800, 128, 20
	ctx, db := t.Context(), pgtest.Database(t, migrate)
	x := open(t, postgres.Options{URL: db, Search: postgres.SearchIndex})
	defer closing(t, x)
	v := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector})
	defer closing(t, v)
	var all []store.Record
	for i := range people {
		e := embedding(0, dim) // everybody is nearly the same
		for j, n := range embedding(i+1, dim) {
			e[j] += 1e-4 * n
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("s%04d", i)
		r := store.Record{Subject: face.Subject{ID: id}, Templates: []face.Template{{ID: "a" + id, SubjectID: id, ModelID: model, Embedding: e}}}
		switch i % 4 {
		case 1: // far from all others
			r.Templates = append(r.Templates, face.Template{ID: "b" + id, SubjectID: id, ModelID: model, Embedding: embedding(-i, dim)})
		case 2: // with a mean as near as those of the others
			r.Templates = append(r.Templates, face.Template{ID: "b" + id, SubjectID: id, ModelID: model, Embedding: all[i-2].Templates[0].Embedding})
		case 3: // nearly cancel out
			opposite := slices.Clone(e)
			for j := range opposite {
				opposite[j] *= -1
			}
			opposite[i%dim] += 0.004 * float32(i%3)
			if opposite, err = opposite.Normalise(); err != nil {
				t.Fatal(err)
			}
			r.Templates = append(r.Templates, face.Template{ID: "b" + id, SubjectID: id, ModelID: model, Embedding: opposite})
		}
		all = append(all, r)
	}
	if _, err := x.Import(ctx, tenant, face.DefaultGallery, all); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "both have all", func() bool {
		r, err := v.Search(ctx, tenant, face.DefaultGallery, model, embedding(0, dim), 1)
		return err == nil && r.GallerySize == people
	})
	for seed := range 10 {
		probe := embedding(0, dim)
		if seed > 0 {
			probe = embedding(seed, dim)
		}
		var want []face.Candidate
		for _, r := range all {
			fused, n := face.FuseTemplates(r.Templates)
			want = append(want, face.Candidate{SubjectID: r.Subject.ID, Templates: n, Score: probe.Cosine(fused)})
		}
		slices.SortFunc(want, func(a, b face.Candidate) int {
			return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.SubjectID, b.SubjectID))
		})
		for name, s := range map[string]*postgres.Store{"index": x, "pgvector": v} {
			r, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, k)
			if err != nil {
				t.Fatal(err)
			}
			if d := gocmp.Diff(want[:k], r.Candidates); d != "" || r.GallerySize != people {
				t.Errorf("%s, probe %d, gallery of %d: %s", name, seed, r.GallerySize, d)
			}
		}
	}
}

// TestNoDeadlocks has enrolments fuse the templates of subjects whose templates
// are erased at the same moment: none waits for another in a circle, which the
// database would end after a second, by ending one of them.
func TestNoDeadlocks(t *testing.T) {
	t.Parallel()
	const writers, each, dim = 8, 40, 32
	ctx, db := t.Context(), pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchPgvector})
	defer closing(t, s)
	for i := range 2 {
		addSubject(t, s, fmt.Sprint("s", i))
	}
	check := func(err error) {
		if err != nil && !errors.Is(err, face.NotFound) { // somebody was faster
			t.Error(err)
		}
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				subject, id := fmt.Sprint("s", i%2), fmt.Sprintf("t%d-%d", w, i)
				check(enrol(s, id, subject, embedding(w*each+i, dim)))
				if i >= 2 {
					_, err := s.DeleteTemplate(ctx, tenant, face.DefaultGallery, subject, fmt.Sprintf("t%d-%d", w, i-2), by)
					check(err)
				}
			}
			// Somebody is erased while others enrol them.
			_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", w%2), by)
			check(err)
		})
	}
	all.Wait()
	wantCounts(t, db)
	closing(t, s) // its connections have then told what they counted
	if n := sqlInt(t, db, `SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()`); n != 0 {
		t.Errorf("%d deadlocks", n)
	}
}
