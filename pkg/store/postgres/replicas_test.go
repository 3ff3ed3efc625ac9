package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
)

var by = store.Actor{KeyID: "key-1", RequestID: "request-1"}

// TestServers has two servers on one database: what one enrols, the other
// finds within a second, told of it or by looking.
func TestServers(t *testing.T) {
	t.Parallel()
	const dim = 32
	for name, deaf := range map[string]bool{"notified": false, "polling": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Database(t, migrate)
			o := postgres.Options{URL: db, Search: postgres.SearchIndex, DeafToNotify: deaf}
			if !deaf {
				o.PollInterval = time.Hour // being told must be enough
				o.MaxStaleness = 2 * time.Hour
			}
			a, b := open(t, o), open(t, o)
			defer closing(t, a)
			defer closing(t, b)
			if !deaf {
				eventually(t, 10*time.Second, "both listen", func() bool {
					return sqlInt(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`) == 2
				})
			}
			var slowest time.Duration
			for i := range 20 {
				id := fmt.Sprint("s", i)
				addSubject(t, a, id)
				if err := enrol(a, fmt.Sprint("t", i), id, embedding(i, dim)); err != nil {
					t.Fatal(err)
				}
				if ok, err := isFound(t.Context(), a, i, dim); err != nil || !ok {
					t.Fatalf("%d is not found by the server that enrolled it (%v)", i, err)
				}
				slowest = max(slowest, eventually(t, time.Second, id+" is found by the other", func() bool {
					ok, err := isFound(t.Context(), b, i, dim)
					return ok && err == nil
				}))
				if i%4 == 1 {
					// Of two templates, too, the other server uses the erased one no more.
					if err := enrol(a, "second", id, embedding(1000+i, dim)); err != nil {
						t.Fatal(err)
					}
					has := func(n int) bool {
						r, err := b.Search(t.Context(), tenant, face.DefaultGallery, model, embedding(i, dim), 1)
						return err == nil && len(r.Candidates) == 1 && r.Candidates[0].SubjectID == id && r.Candidates[0].Templates == n
					}
					eventually(t, time.Second, id+" has two templates for the other", func() bool { return has(2) })
					if _, err := a.DeleteTemplate(t.Context(), tenant, face.DefaultGallery, id, "second", by); err != nil {
						t.Fatal(err)
					}
					if ok, err := isFound(t.Context(), b, i, dim); err != nil || !ok || !has(1) {
						t.Errorf("%d: a template was erased by the other server and is used (%v)", i, err)
					}
				}
				if i%4 == 0 {
					// Erased here is erased everywhere, at once.
					if _, err := a.DeleteSubject(t.Context(), tenant, face.DefaultGallery, id, by); err != nil {
						t.Fatal(err)
					}
					if ok, err := isFound(t.Context(), b, i, dim); err != nil || ok {
						t.Errorf("%d was erased by the other server and is found (%v)", i, err)
					}
				}
			}
			t.Logf("the slowest was found by the other server after %v", slowest)
		})
	}
}

// TestCutOff cuts one of two servers off from its database while the other
// enrols and erases. LIKENESS_TEST_CUT says for how long at least; mended, it
// knows everything, and nobody who is gone.
func TestCutOff(t *testing.T) {
	t.Parallel()
	const dim, people = 32, 400
	long, err := time.ParseDuration(os.Getenv("LIKENESS_TEST_CUT"))
	if err != nil {
		long = 0
	}
	db := pgtest.Database(t, migrate)
	p := newProxy(t, db)
	a := open(t, postgres.Options{URL: db, Search: postgres.SearchIndex})
	defer closing(t, a)
	b := open(t, postgres.Options{URL: p.url, Search: postgres.SearchIndex, PollInterval: 50 * time.Millisecond, MaxStaleness: time.Second})
	defer closing(t, b)
	populate(t, a, 0, people, dim)
	eventually(t, 10*time.Second, "the other has all", func() bool { ok, _ := isFound(t.Context(), b, people-1, dim); return ok })
	p.Cut()
	start := time.Now()
	for i := people; i < 2*people || time.Since(start) < long; i++ {
		addSubject(t, a, fmt.Sprint("s", i))
		if err := enrol(a, fmt.Sprint("t", i), fmt.Sprint("s", i), embedding(i, dim)); err != nil {
			t.Fatal(err)
		}
		if i < 3*people/2 {
			if _, err := a.DeleteSubject(t.Context(), tenant, face.DefaultGallery, fmt.Sprint("s", i-people), by); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, 10*time.Second, "whoever is cut off says so", func() bool { return errors.Is(b.Ready(t.Context()), face.Unavailable) })
	cut := time.Since(start)
	p.Mend()
	took := eventually(t, 10*time.Second, "it is back", func() bool { return b.Ready(t.Context()) == nil })
	all, err := a.Gallery(t.Context(), tenant, face.DefaultGallery)
	if err != nil {
		t.Fatal(err)
	}
	for i := range people + all.Subjects - people/2 {
		want := i >= people/2
		if ok, err := isFound(t.Context(), b, i, dim); err != nil || ok != want {
			t.Fatalf("%d: found %v, want %v (%v)", i, ok, want, err)
		}
	}
	r, err := b.Search(t.Context(), tenant, face.DefaultGallery, model, embedding(0, dim), 1)
	if err != nil || r.GallerySize != all.Subjects {
		t.Errorf("the gallery has %d people there, want %d (%v)", r.GallerySize, all.Subjects, err)
	}
	t.Logf("cut off for %v; back after %v with all %d people, and without the %d erased", cut, took, all.Subjects, people/2)
}

// TestLongTransaction has a transaction that began early commit late: its
// enrolment is not passed over, although later ones were seen before.
func TestLongTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, migrate)
	s := open(t, postgres.Options{URL: db, Search: postgres.SearchIndex, PollInterval: 10 * time.Millisecond})
	defer closing(t, s)
	populate(t, s, 0, 1, 32)
	if _, err := s.CreateGallery(t.Context(), tenant, face.Gallery{ID: "other"}); err != nil {
		t.Fatal(err)
	}
	release, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		sqlInTransaction(t, db, func(exec func(string)) {
			exec(`INSERT INTO template (id, gallery, gallery_model, subject, sample, embedding, quality, created_at)
				SELECT 'late', gallery, gallery_model, subject, 'late', (SELECT array_agg(CASE n WHEN 5 THEN 1 ELSE 0 END ORDER BY n) FROM generate_series(1, 32) n)::real[]::vector, 1, now() FROM template`)
			<-release
		})
	}()
	eventually(t, 10*time.Second, "the transaction has begun", func() bool {
		return sqlInt(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'`) == 1
	})
	// In another gallery, since the first one's count is locked.
	if _, err := s.CreateSubject(t.Context(), tenant, "other", face.Subject{ID: "b"}); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := s.Enrol(t.Context(), tenant, "other", face.Template{ID: fmt.Sprint("o", i), SubjectID: "b", ModelID: model, Embedding: embedding(i, 32)}); err != nil {
			t.Fatal(err)
		}
	}
	close(release)
	<-done
	probe := make(face.Embedding, 32)
	probe[4] = 1
	eventually(t, time.Second, "the late one is found", func() bool {
		r, err := s.Search(t.Context(), tenant, face.DefaultGallery, model, probe, 1)
		return err == nil && len(r.Candidates) == 1 && r.Candidates[0].Templates == 2
	})
}

// TestReadReplicas spreads the reading over a streaming replica, reads what
// was just written, and does without the replica when it dies.
func TestReadReplicas(t *testing.T) {
	t.Parallel()
	const dim = 32
	c, db := cluster(t, pgtest.Options{})
	standby := c.Standby(t)
	s := open(t, postgres.Options{URL: db, ReadURLs: []string{standby.URL("postgres")}, Search: postgres.SearchIndex})
	defer closing(t, s)
	reads := func() int {
		return sqlInt(t, standby.URL("postgres"), `SELECT sum(xact_commit)::int FROM pg_stat_database WHERE datname = 'postgres'`)
	}
	for i := range 50 {
		addSubject(t, s, fmt.Sprint("s", i))
		if _, err := s.Subject(t.Context(), tenant, face.DefaultGallery, fmt.Sprint("s", i)); err != nil {
			t.Fatalf("what was just written is not read: %v", err)
		}
		if err := enrol(s, fmt.Sprint("t", i), fmt.Sprint("s", i), embedding(i, dim)); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Templates(t.Context(), tenant, face.DefaultGallery, fmt.Sprint("s", i), model); err != nil || len(got) != 1 {
			t.Fatalf("what was just enrolled is not read: %v, %v", got, err)
		}
	}
	before := reads()
	eventually(t, 30*time.Second, "the replica is asked", func() bool {
		for i := range 50 {
			if ok, err := isFound(t.Context(), s, i, dim); err != nil || !ok {
				t.Fatalf("%d: found %v (%v)", i, ok, err)
			}
		}
		return reads() > before+100
	})
	// A replica that stops replaying is left alone once it lags.
	sqlExec(t, standby.URL("postgres"), `SELECT pg_wal_replay_pause()`)
	addSubject(t, s, "late")
	if _, err := s.Subject(t.Context(), tenant, face.DefaultGallery, "late"); err != nil {
		t.Errorf("behind a replica that stands still: %v", err)
	}
	standby.Kill()
	for i := range 50 {
		if ok, err := isFound(t.Context(), s, i, dim); err != nil || !ok {
			t.Fatalf("%d without the replica: found %v (%v)", i, ok, err)
		}
	}
}

// TestFailover kills the primary and promotes its standby. The store, which
// was told of both hosts, goes on without a restart; what the old primary had
// acknowledged and the standby received is there.
func TestFailover(t *testing.T) {
	t.Parallel()
	const dim = 32
	c, db := cluster(t, pgtest.Options{})
	standby := c.Standby(t)
	// What is acknowledged has reached the standby.
	c.Exec(`ALTER SYSTEM SET synchronous_standby_names = '*'`)
	c.Exec(`SELECT pg_reload_conf()`)
	u, err := url.Parse(db)
	if err != nil {
		t.Fatal(err)
	}
	other, err := url.Parse(standby.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.Host += "," + other.Host
	q := u.Query()
	q.Set("target_session_attrs", "read-write")
	u.RawQuery = q.Encode()
	{
		s := open(t, postgres.Options{URL: u.String(), Search: postgres.SearchIndex, MaxStaleness: time.Minute})
		defer closing(t, s)
		populate(t, s, 0, 100, dim)
		var all sync.WaitGroup
		var mu sync.Mutex
		var acked []int
		ctx, stop := context.WithCancel(t.Context())
		for w := range 20 {
			all.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					seed := 1000 + w*10_000 + i
					id := fmt.Sprint("s", seed)
					if _, err := s.CreateSubject(ctx, tenant, face.DefaultGallery, face.Subject{ID: id}); err != nil {
						continue
					}
					if enrol(s, fmt.Sprint("t", seed), id, embedding(seed, dim)) == nil {
						mu.Lock()
						acked = append(acked, seed)
						mu.Unlock()
					}
				}
			})
		}
		count := func() int { mu.Lock(); defer mu.Unlock(); return len(acked) }
		eventually(t, 30*time.Second, "enrolments", func() bool { return count() > 100 })
		c.Kill()
		standby.Exec(`ALTER SYSTEM SET synchronous_standby_names = ''`)
		standby.Promote()
		standby.Exec(`SELECT pg_reload_conf()`)
		goal := count() + 100
		eventually(t, 30*time.Second, "enrolments with the new primary", func() bool { return count() > goal })
		stop()
		all.Wait()
		eventually(t, 10*time.Second, "the index has the new timeline", func() bool {
			ok, err := isFound(t.Context(), s, acked[len(acked)-1], dim)
			return ok && err == nil
		})
		for _, seed := range acked {
			if ok, err := isFound(t.Context(), s, seed, dim); err != nil || !ok {
				t.Fatalf("%d was acknowledged and is not found (%v)", seed, err)
			}
		}
		t.Logf("%d enrolments were acknowledged over the failover; all are found", len(acked))
	}
}

// TestSchema has servers of other versions refuse, several migrate at once,
// and the errors say what to do.
func TestSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.Database(t, nil)
	_, err := postgres.Open(t.Context(), postgres.Options{URL: db})
	wantKind(t, err, face.Unavailable, "server migrate")
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if _, _, err := postgres.Migrate(t.Context(), db, ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	closing(t, open(t, postgres.Options{URL: db}))
	if n := sqlInt(t, db, `SELECT count(*) FROM goose_db_version WHERE version_id = 1`); n != 1 {
		t.Errorf("the first migration ran %d times", n)
	}
	sqlExec(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`)
	_, err = postgres.Open(t.Context(), postgres.Options{URL: db})
	wantKind(t, err, face.Unavailable, "newer")
	_, _, err = postgres.Migrate(t.Context(), db, "")
	wantKind(t, err, face.Unavailable, "newer")
	_, err = postgres.OpenKeys(t.Context(), db, "")
	wantKind(t, err, face.Unavailable, "newer")
	sqlExec(t, db, `DELETE FROM goose_db_version WHERE version_id > 0`)
	_, err = postgres.Open(t.Context(), postgres.Options{URL: db})
	wantKind(t, err, face.Unavailable, "server migrate")
}

// TestPassword reads the password from a file, and tells it to nobody.
func TestPassword(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(pgtest.Database(t, migrate))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	file := t.TempDir() + "/password"
	for _, c := range []struct{ text, want string }{{password + "\n", ""}, {"wrong-secret", "password"}} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := postgres.Open(t.Context(), postgres.Options{URL: u.String(), PasswordFile: file})
		switch {
		case c.want == "" && err != nil:
			t.Error(err)
		case err == nil:
			closing(t, s)
		case !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "wrong-secret"):
			t.Errorf("the error is %v", err)
		}
	}
	_, err = postgres.Open(t.Context(), postgres.Options{URL: "postgres://me:secret@[bad/likeness"})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error is %v", err)
	}
}
