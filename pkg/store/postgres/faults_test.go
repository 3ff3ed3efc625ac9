package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"

	"github.com/likeness-id/likeness/internal/killtest"
	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

// cluster is a database of a test's own, with the schema in it.
func cluster(t *testing.T, o pgtest.Options) (*pgtest.Cluster, string) {
	t.Helper()
	c := pgtest.Start(t, o)
	url := c.URL("postgres")
	if err := migrate(url); err != nil {
		t.Fatal(err)
	}
	return c, url
}

// TestKill kills the database in the middle of 200 concurrent enrolments and
// starts it again, more than once: what was acknowledged is found, by the
// store that lived through it and by a new one.
func TestKill(t *testing.T) {
	t.Parallel()
	const writers, dim = 200, 64
	kills := (killtest.Kills(t, 4) + 1) / 2 // with each engine
	c, url := cluster(t, pgtest.Options{})
	for _, engine := range []string{postgres.SearchIndex, postgres.SearchPgvector} {
		s := open(t, postgres.Options{URL: url, Search: engine, MaxStaleness: time.Minute})
		ctx, stop := context.WithCancel(t.Context())
		var (
			mu    sync.Mutex
			acked []int
			tried atomic.Int64
			all   sync.WaitGroup
		)
		base := 1_000_000_000
		if engine == postgres.SearchPgvector {
			base = 2_000_000_000
		}
		for w := range writers {
			all.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					seed := base + i*writers + w
					id := fmt.Sprint("s", seed)
					tried.Add(1)
					if _, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: id}); err != nil {
						continue
					}
					if err := enrol(s, fmt.Sprint("t", seed), id, embedding(seed, dim)); err != nil {
						continue
					}
					mu.Lock()
					acked = append(acked, seed)
					mu.Unlock()
				}
			})
		}
		count := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(acked)
		}
		for range kills {
			goal := count() + 150
			eventually(t, time.Minute, "enrolments", func() bool { return count() >= goal })
			c.Kill()
			c.Start()
		}
		goal := count() + 150
		eventually(t, time.Minute, "enrolments after the restart", func() bool { return count() >= goal })
		stop()
		all.Wait()
		check := func(s *postgres.Store, what string) {
			for _, seed := range acked {
				got, err := s.Templates(t.Context(), tenant, face.DefaultGallery, fmt.Sprint("s", seed), model)
				if err != nil || len(got) != 1 || got[0].ID != fmt.Sprint("t", seed) {
					t.Fatalf("%s: %d was acknowledged and is not there: %v, %v", what, seed, got, err)
				}
				if ok, err := isFound(t.Context(), s, seed, dim); err != nil || !ok {
					t.Fatalf("%s: %d was acknowledged and is not found (%v)", what, seed, err)
				}
			}
		}
		check(s, "the same store")
		closing(t, s)
		s = open(t, postgres.Options{URL: url, Search: engine})
		check(s, "a new store")
		g, err := s.Gallery(t.Context(), tenant, face.DefaultGallery)
		if err != nil || g.Templates < len(acked) {
			t.Errorf("the gallery counts %d templates, %d were acknowledged (%v)", g.Templates, len(acked), err)
		}
		wantCounts(t, url)
		closing(t, s)
		t.Logf("%s: %d writers tried %d enrolments through %d kills; %d were acknowledged, all are found", engine, writers, tried.Load(), kills, len(acked))
	}
}

// wantCounts compares what the triggers counted with what is there.
func wantCounts(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	var wrong int
	if err := conn.QueryRow(t.Context(), `SELECT
		(SELECT count(*) FROM gallery g WHERE subjects <> (SELECT count(*) FROM subject s WHERE s.gallery = g.row_id)) +
		(SELECT count(*) FROM gallery_model m WHERE templates <> (SELECT count(*) FROM template t WHERE t.gallery_model = m.row_id)
			OR subjects <> (SELECT count(DISTINCT subject) FROM template t WHERE t.gallery_model = m.row_id) OR templates = 0) +
		(SELECT count(*) FROM template t WHERE NOT EXISTS (SELECT 1 FROM gallery_model m WHERE m.row_id = t.gallery_model))`).Scan(&wrong); err != nil {
		t.Fatal(err)
	}
	if wrong != 0 {
		t.Errorf("%d rows are counted wrongly", wrong)
	}
}

// TestCutInCommit loses the connection after the database was told to commit:
// an enrolment is repeated and succeeds, what cannot be repeated is said to be
// in doubt, and nothing is there twice.
func TestCutInCommit(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, migrate)
	p := newProxy(t, url)
	s := open(t, postgres.Options{URL: p.url})
	defer closing(t, s)

	p.Swallow("commit")
	_, err := s.CreateSubject(t.Context(), tenant, face.DefaultGallery, face.Subject{ID: "ada"})
	wantKind(t, err, face.Unavailable, "not known")
	eventually(t, 10*time.Second, "the commit is carried out", func() bool {
		_, err := s.Subject(t.Context(), tenant, face.DefaultGallery, "ada")
		return err == nil
	})
	var enrolled []face.Template
	for i := range 3 {
		// Of the statement that enrols, by what is in it alone.
		p.Swallow(fmt.Sprint("t", i))
		if err := enrol(s, fmt.Sprint("t", i), "ada", embedding(i, 32)); err != nil {
			t.Error(err)
		}
		if p.swallowing() {
			t.Error("nothing was cut")
		}
		enrolled = append(enrolled, face.Template{ID: fmt.Sprint("t", i), Embedding: embedding(i, 32)})
		fused, _ := face.FuseTemplates(enrolled)
		r, err := s.Search(t.Context(), tenant, face.DefaultGallery, model, embedding(0, 32), 1)
		if err != nil || len(r.Candidates) != 1 || r.Candidates[0].Templates != i+1 || r.Candidates[0].Score != embedding(0, 32).Cosine(fused) {
			t.Errorf("%d is not searched: %+v (%v)", i, r, err)
		}
	}
	if got, err := s.Templates(t.Context(), tenant, face.DefaultGallery, "ada", ""); err != nil || len(got) != 3 {
		t.Errorf("%d templates are there, want 3 (%v)", len(got), err)
	}
	wantCounts(t, url)
}

// TestCutInTransaction ends the store's connections in the middle of its
// transactions, again and again, while it writes.
func TestCutInTransaction(t *testing.T) {
	t.Parallel()
	const writers, each, dim = 20, 10, 32
	url := pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: url})
	defer closing(t, s)
	ctx, stop := context.WithCancel(t.Context())
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(conn)
	var cutter, all sync.WaitGroup
	cuts := 0
	cutter.Go(func() {
		for tick := time.NewTicker(40 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			// One backend of the store that is in a transaction just now.
			var cut bool
			err := conn.QueryRow(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'likeness' AND xact_start IS NOT NULL
				AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1`).Scan(&cut)
			if err == nil && cut {
				cuts++
			}
		}
	})
	var acked atomic.Int64
	for w := range writers {
		all.Go(func() {
			for i := range each {
				seed := w*1000 + i
				id := fmt.Sprint("s", seed)
				_, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: id})
				if err != nil && !errors.Is(err, face.Unavailable) && !errors.Is(err, face.Conflict) {
					t.Errorf("%s: %v", id, err)
				}
				switch err := enrol(s, fmt.Sprint("t", seed), id, embedding(seed, dim)); {
				case err == nil:
					acked.Add(1)
					if ok, err := isFound(ctx, s, seed, dim); !ok && !errors.Is(err, face.Unavailable) {
						t.Errorf("%s was acknowledged and is not found (%v)", id, err)
					}
				case !errors.Is(err, face.Unavailable) && !errors.Is(err, face.NotFound):
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	all.Wait()
	stop()
	cutter.Wait()
	if cuts == 0 {
		t.Error("no connection was cut")
	}
	g, err := s.Gallery(t.Context(), tenant, face.DefaultGallery)
	if err != nil || int64(g.Templates) < acked.Load() {
		t.Errorf("%d templates, %d were acknowledged (%v)", g.Templates, acked.Load(), err)
	}
	wantCounts(t, url)
	t.Logf("%d of %d were acknowledged through %d cuts", acked.Load(), writers*each, cuts)
}

// TestAway has the database away at the start, go away, and come back.
func TestAway(t *testing.T) {
	t.Parallel()
	c, url := cluster(t, pgtest.Options{})
	c.Stop(pgtest.Immediate)
	_, err := postgres.Open(t.Context(), postgres.Options{URL: url})
	wantKind(t, err, face.Unavailable, "cannot be reached")
	if strings.Contains(err.Error(), strings.Split(url, ":")[2][:20]) {
		t.Error("the error holds the password")
	}
	c.Start()
	const bound = 500 * time.Millisecond
	s := open(t, postgres.Options{URL: url, Search: postgres.SearchIndex, PollInterval: 20 * time.Millisecond, MaxStaleness: bound})
	defer closing(t, s)
	populate(t, s, 0, 10, 32)
	c.Stop(pgtest.Immediate)
	eventually(t, 10*time.Second, "the index is too old", func() bool {
		return errors.Is(s.Ready(t.Context()), face.Unavailable) && s.Staleness() > bound
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = isFound(ctx, s, 3, 32)
	wantKind(t, err, face.Unavailable, "behind the database")
	if _, err := s.Templates(ctx, tenant, face.DefaultGallery, "s3", ""); !errors.Is(err, face.Unavailable) && !errors.Is(err, face.Deadline) {
		t.Errorf("a read without a database: %v", err)
	}
	c.Start()
	eventually(t, 10*time.Second, "the store is back", func() bool { return s.Ready(t.Context()) == nil })
	if ok, err := isFound(t.Context(), s, 3, 32); err != nil || !ok {
		t.Errorf("found %v, %v", ok, err)
	}
}

// TestDiskFull fills the disk under the tables. Enrolments are refused and
// say why; none is there in part; with room again they succeed.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	dir := filepath.Join(c.Dir(), "small")
	if err := errors.Join(os.Mkdir(dir, 0o700), c.Give(dir)); err != nil {
		t.Fatal(err)
	}
	grow, mounted := smallDisk(t, c, dir)
	c.Exec(`CREATE TABLESPACE small LOCATION '` + dir + `/space'`)
	c.Exec(`CREATE DATABASE likeness TABLESPACE small`)
	url := c.URL("likeness")
	if err := migrate(url); err != nil {
		t.Fatal(err)
	}
	if !mounted {
		// Where a test may not mount a small disk, the database says that it is full.
		sqlExec(t, url, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT count(*) FROM template) > 500 THEN RAISE disk_full; END IF; RETURN NEW; END $$;
			CREATE TRIGGER full_disk BEFORE INSERT ON template FOR EACH ROW EXECUTE FUNCTION full_disk()`)
		grow = func() { sqlExec(t, url, `DROP TRIGGER full_disk ON template`) }
	}
	s := open(t, postgres.Options{URL: url})
	defer closing(t, s)
	const dim = 1024
	populate(t, s, 0, 10, dim)
	var full error
	n := 10
	for ; full == nil; n += 100 { // quickly to the brim,
		var records []store.Record
		for i := range 100 {
			records = append(records, person(n+i, dim))
		}
		_, full = s.Import(t.Context(), tenant, face.DefaultGallery, records)
	}
	wantKind(t, full, face.StorageFull, "the storage is full")
	n, full = n-100, nil
	for ; full == nil && n < 100_000; n++ { // then one by one
		addPerson := person(n, dim)
		if _, full = s.CreateSubject(t.Context(), tenant, face.DefaultGallery, addPerson.Subject); full == nil {
			full = enrol(s, fmt.Sprint("t", n), addPerson.Subject.ID, addPerson.Templates[0].Embedding)
		}
	}
	wantKind(t, full, face.StorageFull, "the storage is full")
	for i := range n - 1 {
		if ok, err := isFound(t.Context(), s, i, dim); err != nil || !ok {
			t.Fatalf("%d was acknowledged and is not found (%v)", i, err)
		}
	}
	wantCounts(t, url)
	grow()
	populate(t, s, n, n+50, dim)
	if ok, err := isFound(t.Context(), s, n+49, dim); err != nil || !ok {
		t.Errorf("with room again: %v, %v", ok, err)
	}
	t.Logf("the disk was full after %d people", n-1)
}

// smallDisk mounts a small file system on dir, where that is allowed, and
// returns what makes it larger.
func smallDisk(t *testing.T, c *pgtest.Cluster, dir string) (grow func(), mounted bool) {
	t.Helper()
	mount := func(flags uintptr, size string) error {
		return unix.Mount("tmpfs", dir, "tmpfs", flags, "mode=0777,size="+size)
	}
	mounted = mount(0, "20m") == nil
	if mounted {
		t.Cleanup(func() {
			c.Stop(pgtest.Immediate)
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	space := filepath.Join(dir, "space")
	if err := errors.Join(os.Mkdir(space, 0o700), c.Give(space)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := mount(unix.MS_REMOUNT, "80m"); err != nil {
			t.Fatal(err)
		}
	}, mounted
}
