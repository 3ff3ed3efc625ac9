package sqlite_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
	"github.com/likeness-id/likeness/pkg/store/storetest"
)

const (
	tenant = "acme"
	model  = "encoder-a"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		enrolUntilKilled(path)
	}
	goleak.VerifyTestMain(m)
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(tb testing.TB) func() store.Store {
		tb.Helper()
		path := filepath.Join(tb.TempDir(), "likeness.db")
		return func() store.Store { return open(tb, path) }
	})
}

// open opens the store at path and waits until it is ready.
func open(tb testing.TB, path string) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Options{Path: path})
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.AwaitReady(context.Background()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// closing closes what is deferred to it.
func closing(tb testing.TB, c io.Closer) {
	tb.Helper()
	if err := c.Close(); err != nil {
		tb.Error(err)
	}
}

// embedding is the same for the same number, and unlike any other's.
func embedding(seed, dim int) face.Embedding {
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	e := make(face.Embedding, dim)
	for i := range e {
		e[i] = float32(rng.NormFloat64())
	}
	e, err := e.Normalise()
	if err != nil {
		panic(err)
	}
	return e
}

func addSubject(tb testing.TB, s *sqlite.Store, id string) {
	tb.Helper()
	if _, err := s.CreateSubject(context.Background(), tenant, face.DefaultGallery, face.Subject{ID: id}); err != nil {
		tb.Error(err)
	}
}

func enrol(s *sqlite.Store, id, subject string, e face.Embedding) error {
	_, err := s.Enrol(context.Background(), tenant, face.DefaultGallery,
		face.Template{ID: id, SubjectID: subject, ModelID: model, Embedding: e})
	return err
}

// sqlExec changes the file behind the store's back.
func sqlExec(tb testing.TB, path string, statements ...string) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer closing(tb, db)
	for _, st := range statements {
		if _, err := db.Exec(st); err != nil {
			tb.Fatalf("%s: %v", st, err)
		}
	}
}

func wantIntegrity(tb testing.TB, path string) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer closing(tb, db)
	var verdict string
	if err := db.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		tb.Errorf("integrity check says %q, %v", verdict, err)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "fol der")
	path := filepath.Join(dir, "a?b#c%20.db")
	s := open(t, path)
	defer closing(t, s)
	for pragma, want := range map[string]string{
		"page_size": "16384", "journal_mode": "wal", "synchronous": "2", "foreign_keys": "1",
		"secure_delete": "1", "busy_timeout": "5000",
	} {
		if got, err := s.Pragma(t.Context(), pragma); err != nil || got != want {
			t.Errorf("%s is %s, want %s (%v)", pragma, got, want, err)
		}
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		info, err := n.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others: %v", n.Name(), info.Mode())
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder is %v, %v", info.Mode(), err)
	}
}

func TestOneServer(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	_, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if !errors.Is(err, face.Unavailable) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("a second store on the file: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, path).Close(); err != nil {
		t.Error(err)
	}
}

func TestKeysBesideServer(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "data", "likeness.db")
	// Many come at once, before anything is there, and one is the server.
	var wg sync.WaitGroup
	var hashes [8][]byte
	var s *sqlite.Store
	wg.Go(func() { s = open(t, path) })
	for i := range hashes {
		wg.Go(func() {
			k, err := sqlite.OpenKeys(ctx, path)
			if err != nil {
				t.Error(err)
				return
			}
			defer closing(t, k)
			_, key := face.NewKey(tenant, "door", face.Scopes(), time.Time{})
			if err := k.CreateKey(ctx, key); err != nil {
				t.Error(err)
			}
			hashes[i] = key.Hash
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, h := range hashes {
		if _, err := s.KeyByHash(ctx, h); err != nil {
			t.Error(err)
		}
	}
	k, err := sqlite.OpenKeys(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := k.ListKeys(ctx, tenant)
	if err != nil || len(list) != len(hashes) {
		t.Errorf("%d keys, %v", len(list), err)
	}
	// The server sees a revocation at once.
	if err := k.RevokeKey(ctx, list[0].ID, time.Now()); err != nil {
		t.Error(err)
	}
	if got, err := s.KeyByHash(ctx, list[0].Hash); err != nil || got.RevokedAt.IsZero() {
		t.Errorf("the server sees the revoked key as %+v, %v", got, err)
	}
	for range 2 {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := k.ListKeys(ctx, tenant); !errors.Is(err, face.Unavailable) {
		t.Errorf("after Close: %v", err)
	}
	addSubject(t, s, "a") // the tool's leaving disturbed nothing
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantIntegrity(t, path)
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	made := func(change ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if err := open(t, path).Close(); err != nil {
				t.Fatal(err)
			}
			sqlExec(t, path, change...)
		}
	}
	for _, c := range []struct {
		name  string
		setup func(t *testing.T, path string)
		kind  face.Kind
		says  string
	}{
		{"text", func(t *testing.T, path string) {
			t.Helper()
			if err := os.WriteFile(path, []byte(strings.Repeat("not a database\n", 500)), 0o600); err != nil {
				t.Fatal(err)
			}
		}, face.Internal, "not a database"},
		{
			"another program's database", func(t *testing.T, path string) {
				t.Helper()
				sqlExec(t, path, "CREATE TABLE note (body)")
			},
			face.Internal, "another program",
		},
		{
			"another program's mark", func(t *testing.T, path string) {
				t.Helper()
				sqlExec(t, path, "PRAGMA application_id = 7")
			},
			face.Internal, "another program",
		},
		{
			"newer schema", made("INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"),
			face.Internal, "newer program",
		},
		{"folder in its place", func(t *testing.T, path string) {
			t.Helper()
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, face.Unavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "likeness.db")
			c.setup(t, path)
			_, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open: %v", err)
			}
			_, err = sqlite.OpenKeys(t.Context(), path)
			if !errors.Is(err, c.kind) {
				t.Errorf("OpenKeys: %v", err)
			}
		})
	}
	t.Run("no right to write", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		if os.Getuid() == 0 {
			dir = "/sys" // where even root may make no file
		} else if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		_, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(dir, "likeness.db")})
		if !errors.Is(err, face.Unavailable) {
			t.Errorf("Open: %v", err)
		}
	})
}

// A damaged page must not pass for an empty gallery.
func TestDamagedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	addSubject(t, s, "a")
	for i := range 200 {
		if err := enrol(s, face.NewID(), "a", embedding(i, 256)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 16 << 10
	for at := page; at+page <= len(b); at += page {
		if b[at] == 0x0d && b[at+3] == 0 && b[at+4] < 20 && b[at+5] < 10 { // a full leaf of few, long rows: templates
			copy(b[at:], strings.Repeat("\xa5", 64))
		}
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err = sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, s)
	if err := s.AwaitReady(t.Context()); !errors.Is(err, face.Unavailable) {
		t.Errorf("AwaitReady: %v", err)
	}
	if _, err := s.Search(t.Context(), tenant, face.DefaultGallery, model, embedding(0, 256), 1); !errors.Is(err, face.Unavailable) {
		t.Errorf("Search: %v", err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	addSubject(t, s, "a")
	if err := s.LimitPages(ctx, 40); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acked := map[string]int{}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id, seed := face.NewID(), w*1_000_000+i
				if err := enrol(s, id, "a", embedding(seed, 512)); err != nil {
					var e *face.Error
					if !errors.Is(err, face.StorageFull) || !errors.As(err, &e) || e.Detail != "the storage is full" {
						t.Errorf("enrolment on a full disk: %v", err)
					}
					return
				}
				mu.Lock()
				acked[id] = seed
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(acked) == 0 {
		t.Fatal("nothing was enrolled before the disk was full")
	}
	verify := func(s *sqlite.Store) {
		t.Helper()
		got, err := s.Templates(ctx, tenant, face.DefaultGallery, "a", "")
		if err != nil || len(got) != len(acked) {
			t.Errorf("%d templates are there, %d were acknowledged (%v)", len(got), len(acked), err)
		}
		for _, tm := range got {
			if seed, ok := acked[tm.ID]; !ok || !slices.Equal(tm.Embedding, embedding(seed, 512)) {
				t.Errorf("%s is not what was acknowledged", tm.ID)
			}
		}
		r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(0, 512), 1)
		fused, n := face.FuseTemplates(got)
		if err != nil || len(r.Candidates) != 1 || r.Candidates[0].Templates != n || r.Candidates[0].Score != embedding(0, 512).Cosine(fused) {
			t.Errorf("%d templates are not what is searched: %+v, %v", n, r, err)
		}
	}
	verify(s)
	// With room again, writing goes on.
	if err := s.LimitPages(ctx, 1000); err != nil {
		t.Fatal(err)
	}
	more := face.NewID()
	if err := enrol(s, more, "a", embedding(77, 512)); err != nil {
		t.Error(err)
	}
	acked[more] = 77
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wantIntegrity(t, path)
	s = open(t, path)
	defer closing(t, s)
	verify(s)
}

// TestCloseLeavesOneFile closes stores that were used in several ways: the file
// alone is everything, and no log is left for somebody to forget.
func TestCloseLeavesOneFile(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		use  func(t *testing.T, s *sqlite.Store)
		want int // subjects
	}{
		{"nothing", func(*testing.T, *sqlite.Store) {}, 0},
		{"subjects", func(t *testing.T, s *sqlite.Store) {
			for i := range 5 {
				addSubject(t, s, fmt.Sprint("s", i))
			}
		}, 5},
		{"readers beside", func(t *testing.T, s *sqlite.Store) {
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					id := fmt.Sprint("s", i)
					addSubject(t, s, id)
					if err := enrol(s, "t"+id, id, embedding(i, 64)); err != nil {
						t.Error(err)
					}
					if _, err := s.Search(t.Context(), tenant, face.DefaultGallery, model, embedding(i, 64), 1); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
		}, 40},
		{"an erase", func(t *testing.T, s *sqlite.Store) {
			addSubject(t, s, "a")
			addSubject(t, s, "b")
			if _, err := s.DeleteSubject(t.Context(), tenant, face.DefaultGallery, "a", store.Actor{}); err != nil {
				t.Error(err)
			}
			addSubject(t, s, "c")
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "likeness.db")
			s := open(t, path)
			c.use(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			for _, end := range []string{"-wal", "-shm"} {
				if _, err := os.Stat(path + end); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is still there: %v", end, err)
				}
			}
			if got := subjectsOfCopy(t, path); got != c.want {
				t.Errorf("the file alone holds %d subjects, want %d", got, c.want)
			}
		})
	}
}

// subjectsOfCopy counts the subjects in a copy of the file alone.
func subjectsOfCopy(t *testing.T, path string) (n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(copied, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", copied)
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, db)
	if err := db.QueryRow("SELECT count(*) FROM subject").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCloseSaysWhatIsLeft closes a store while somebody else reads an older
// snapshot of its file.
func TestCloseSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "likeness.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow("SELECT count(*) FROM subject").Scan(&n); err != nil {
		t.Fatal(err)
	}
	addSubject(t, s, "a")
	if err := s.Close(); err == nil || !strings.Contains(err.Error(), "likeness.db-wal") {
		t.Errorf("Close says %v", err)
	}
	if err := errors.Join(tx.Rollback(), db.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	if _, err := s.Subject(t.Context(), tenant, face.DefaultGallery, "a"); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// Enrolling and erasing while the index is loaded loses nothing, doubles
// nothing and brings nobody back.
func TestWritesWhileLoading(t *testing.T) {
	t.Parallel()
	ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
	const n, rounds, dim = 1200, 160, 64
	last := fmt.Sprint("s", n-1)
	s := open(t, path)
	var wg sync.WaitGroup
	for w := range 60 {
		wg.Go(func() {
			for i := w; i < n; i += 60 {
				addSubject(t, s, fmt.Sprint("s", i))
				if err := enrol(s, fmt.Sprint("t", i), fmt.Sprint("s", i), embedding(i, dim)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(ctx, sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer closing(t, s)
	early := 0
	for i := range rounds {
		var e *face.Error
		if err := s.Ready(ctx); errors.As(err, &e) && e.Kind == face.Unavailable {
			early++
			if !strings.HasPrefix(e.Detail, "loaded ") || !strings.HasSuffix(e.Detail, fmt.Sprintf(" of %d templates", n)) {
				t.Errorf("not ready: %q", e.Detail)
			}
		}
		wg.Go(func() {
			if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", i*2), store.Actor{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := enrol(s, fmt.Sprint("new", i), last, embedding(n+i, dim)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d of %d rounds came before the index was loaded", early, rounds)
	if err := s.AwaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 2*rounds + 80 { // the others are like the last of them
		want := fmt.Sprint("s", i)
		r, err := s.Search(ctx, tenant, face.DefaultGallery, model, embedding(i, dim), 1)
		if err != nil {
			t.Fatal(err)
		}
		there := r.Candidates[0].SubjectID == want && r.Candidates[0].Score > 0.999
		if erased := i < 2*rounds && i%2 == 0; there == erased {
			t.Errorf("%s is found: %v, erased: %v", want, there, erased)
		}
		if r.GallerySize != n-rounds {
			t.Fatalf("gallery size %d, want %d", r.GallerySize, n-rounds)
		}
	}
	own, err := s.Templates(ctx, tenant, face.DefaultGallery, last, model)
	if err != nil || len(own) != rounds+1 {
		t.Fatalf("%d templates, %v", len(own), err)
	}
	fused, _ := face.FuseTemplates(own)
	probe, err := fused.Normalise()
	if err != nil {
		t.Fatal(err)
	}
	// The mean of so many strangers is short, so some subjects of one template may be
	// nearer to it.
	r, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, 1000)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(r.Candidates, func(c face.Candidate) bool { return c.SubjectID == last })
	if i < 0 || r.Candidates[i].Templates != rounds+1 || r.Candidates[i].Score != probe.Cosine(fused) {
		t.Errorf("who got templates while the index was loaded is candidate %d of %d: %+v", i, len(r.Candidates), r.Candidates[max(0, i)])
	}
	if _, err := s.VerifyAudit(ctx); err != nil {
		t.Error(err)
	}
}

// TestErasedBytesAreGone looks for erased embeddings in every file of the
// store, when the receipt came and after closing.
func TestErasedBytesAreGone(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	s := open(t, filepath.Join(dir, "likeness.db"))
	const n = 600
	var wg sync.WaitGroup
	for _, i := range rand.New(rand.NewPCG(1, 1)).Perm(n) {
		wg.Go(func() {
			id := fmt.Sprint("s", i)
			addSubject(t, s, id)
			for j := range 2 {
				if err := enrol(s, face.NewID(), id, embedding(2*i+j, 256)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	left := func() (found []int) {
		// Another process reads the files: closing one here would drop the
		// locks that SQLite has on it in this process.
		all, err := exec.CommandContext(ctx, "sh", "-c", `cat "$0"/*`, dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 * n {
			piece := embedding(i, 256)[100:104] // enough to know it by
			if bytes.Contains(all, sqlite.EncodeEmbedding(piece)) {
				found = append(found, i)
			}
		}
		return found
	}
	if got := left(); len(got) != 2*n {
		t.Fatalf("%d of %d embeddings are in the files before anything is erased", len(got), 2*n)
	}
	erase := func(i int) {
		if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", i), store.Actor{}); err != nil {
			t.Error(err)
		}
	}
	var want []int
	for _, i := range rand.New(rand.NewPCG(2, 2)).Perm(n) {
		if i%4 == 0 {
			want = append(want, 2*i, 2*i+1)
			continue
		}
		wg.Go(func() { erase(i) })
	}
	wg.Wait()
	slices.Sort(want)
	if got := left(); !slices.Equal(got, want) {
		t.Errorf("%d embeddings are in the files, want the %d of those who stay", len(got), len(want))
	}
	// A reader on an older snapshot keeps the log alive. When it is gone the
	// next erase empties the log.
	end := s.OpenSnapshot(ctx)
	erase(0)
	if err := end(); err != nil {
		t.Error(err)
	}
	erase(4)
	if got := left(); !slices.Equal(got, want[4:]) {
		t.Errorf("%d embeddings are in the files, want %d", len(got), len(want)-4)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := left(); !slices.Equal(got, want[4:]) {
		t.Errorf("%d embeddings are in the files after closing, want %d", len(got), len(want)-4)
	}
	wantScrubbed(t, dir)
}

// wantScrubbed checks that no page of a closed store holds what SQLite left in its
// unused space: copies of rows that it moved.
func wantScrubbed(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "likeness.db"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 16 << 10
	for i := size; i+size <= len(data); i += size { // the first page is the schema's
		if sqlite.ScrubPage(data[i : i+size]) {
			t.Errorf("page %d has something in its unused space", 1+i/size)
		}
	}
}

// TestPurgedAnswersAreGone looks for an answer, which may name somebody, in
// every file of the store once it is purged.
func TestAnswersAreGone(t *testing.T) {
	t.Parallel()
	for after, remove := range map[string]func(context.Context, *sqlite.Store) error{
		"a purge": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.PurgeExpired(ctx, time.Now().Add(store.IdempotencyTTL+time.Minute))
			return err
		},
		"the subject's erasure": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, "ada", store.Actor{})
			return err
		},
		"the gallery's erasure": func(ctx context.Context, s *sqlite.Store) error {
			_, err := s.DeleteGallery(ctx, tenant, face.DefaultGallery, store.Actor{})
			return err
		},
	} {
		t.Run(after, func(t *testing.T) {
			t.Parallel()
			ctx, dir := t.Context(), t.TempDir()
			s := open(t, filepath.Join(dir, "likeness.db"))
			defer closing(t, s)
			const name = "Ada, Countess of Lovelace"
			addSubject(t, s, "ada")
			if _, err := s.BeginRequest(ctx, tenant, "key", []byte("request")); err != nil {
				t.Fatal(err)
			}
			told := &store.Answer{Status: 201, Body: []byte(name), Gallery: face.DefaultGallery, Subject: "ada"}
			if err := s.EndRequest(ctx, tenant, "key", told); err != nil {
				t.Fatal(err)
			}
			holds := func() bool {
				// Another process reads the files, as in TestErasedBytesAreGone.
				all, err := exec.CommandContext(ctx, "sh", "-c", `cat "$0"/*`, dir).Output()
				if err != nil {
					t.Fatal(err)
				}
				return bytes.Contains(all, []byte(name))
			}
			if !holds() {
				t.Fatal("the answer is not in the files to begin with")
			}
			if err := remove(ctx, s); err != nil {
				t.Fatal(err)
			}
			if holds() {
				t.Error("the answer is still in the files")
			}
		})
	}
}

func TestAuditShowsTampering(t *testing.T) {
	t.Parallel()
	for _, change := range []string{
		"UPDATE audit SET subject_id = 's9' WHERE seq = 3",
		"UPDATE audit SET at = at + 1 WHERE seq = 5",
		"UPDATE audit SET hash = zeroblob(32) WHERE seq = 1",
		"UPDATE audit SET prev_hash = zeroblob(32) WHERE seq = 2",
		"DELETE FROM audit WHERE seq = 3",
		"DELETE FROM audit WHERE seq = 1",
		"DELETE FROM audit WHERE seq = 5",
		"DELETE FROM audit",
		"UPDATE audit SET seq = 9 WHERE seq = 5",
		"UPDATE audit SET decision = 'match' WHERE seq = 4",
	} {
		t.Run(change, func(t *testing.T) {
			t.Parallel()
			ctx, path := t.Context(), filepath.Join(t.TempDir(), "likeness.db")
			s := open(t, path)
			defer closing(t, s)
			if _, err := s.VerifyAudit(ctx); err != nil {
				t.Errorf("without records: %v", err)
			}
			for i := range 5 {
				addSubject(t, s, fmt.Sprint("s", i))
				by := store.Actor{KeyID: "k", RequestID: fmt.Sprint("r", i)}
				if _, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, fmt.Sprint("s", i), by); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.VerifyAudit(ctx); err != nil {
				t.Error(err)
			}
			sqlExec(t, path, change)
			if _, err := s.VerifyAudit(ctx); !errors.Is(err, face.Internal) {
				t.Errorf("not seen: %v", err)
			}
		})
	}
}

// modernc.org/sqlite is C translated to call exactly one version of
// modernc.org/libc; another one compiles and then goes wrong.
func TestLibcIsTheOneSQLiteAsksFor(t *testing.T) {
	t.Parallel()
	list := func(format, module string) string {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", format, module).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	mod, err := os.ReadFile(list("{{.GoMod}}", "modernc.org/sqlite"))
	if err != nil {
		t.Fatal(err)
	}
	asks := regexp.MustCompile(`modernc\.org/libc (\S+)`).FindSubmatch(mod)
	if asks == nil {
		t.Fatal("modernc.org/sqlite does not require modernc.org/libc")
	}
	if got := list("{{.Version}}", "modernc.org/libc"); got != string(asks[1]) {
		t.Errorf("modernc.org/libc is %s, modernc.org/sqlite asks for %s", got, asks[1])
	}
}

// The released migrations are what every file out there was made with.
func TestReleasedMigrationsStay(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"00001_create_identity.sql": "87a96834a97900093f1fe9488b561b15a94b5e9c9292bf58ddd662542975d63c",
		"00002_add_samples.sql":     "04c339613fa8a741df8474c1aa96954bb15ffde5f7553276e5eafa3e90622d66",
		"00003_add_decision.sql":    "8931aba83454b8dfef41ef543ade677416916d6a63e8efb9f09eac1f974f9ef5",
	} {
		b, err := os.ReadFile(filepath.Join("..", "..", "..", "migrations", "sqlite", name))
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(b)); got != want {
			t.Errorf("%s has the hash %s; add a migration instead of changing one", name, got)
		}
	}
}
