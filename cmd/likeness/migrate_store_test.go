package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/pgtest"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/postgres"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// newFilledStore is a new store with something of everything, at a path.
func newFilledStore(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "from.db")
	s := openFile(t, path)
	defer closeStore(t, s)
	fillStore(t, s)
	return path
}

func openFile(t *testing.T, path string) store.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func fillStore(t *testing.T, s store.Store) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	for _, g := range []face.Gallery{
		{ID: "staff", RetentionDays: 30000, StoreImages: true, ModelID: "m1", NextModelID: "m2", CreatedAt: at},
		{ID: "empty", CreatedAt: at},
	} {
		_, err := s.CreateGallery(ctx, "acme", g)
		must(err)
	}
	// The default gallery has a model of its own, too.
	next := "m9"
	_, err := s.UpdateGallery(ctx, "default", face.DefaultGallery, store.GalleryChange{NextModelID: &next})
	must(err)
	_, err = s.CutOver(ctx, "default", face.DefaultGallery, next)
	must(err)
	for _, where := range [][2]string{{"acme", "staff"}, {"default", face.DefaultGallery}} {
		var records []store.Record
		for i := range 150 {
			r := store.Record{Subject: face.Subject{
				ID: fmt.Sprintf("S%d", i), Name: fmt.Sprintf("Zoë %d", i), CreatedAt: at, UpdatedAt: at.Add(time.Hour),
			}}
			if i%3 == 0 {
				r.Subject.ExternalID, r.Subject.Metadata = "x", json.RawMessage(`{"a": [1,  "<"]}`)
			}
			for j := range i % 4 {
				angle := float64(i + j)
				tm := face.Template{
					ID: fmt.Sprintf("%s-%d-%d", where[0], i, j), SampleID: fmt.Sprintf("%s-%d-%d", where[0], i, j/2), ModelID: fmt.Sprint("m", j),
					Embedding: face.Embedding{float32(math.Cos(angle)), float32(math.Sin(angle))}, Quality: 0.1, CreatedAt: at.Add(time.Duration(j) * time.Second),
				}
				if j%2 == 0 {
					tm.Crop = fmt.Appendf(nil, "sealed %d %d", i, j)
				}
				r.Templates = append(r.Templates, tm)
			}
			records = append(records, r)
		}
		out, err := s.Import(ctx, where[0], where[1], records)
		must(err)
		for _, o := range out {
			must(o.Err)
		}
	}
	for i, tenant := range []string{"acme", "acme", "default"} {
		_, k := face.NewKey(tenant, fmt.Sprint("key ", i), face.Scopes(), at.AddDate(10, 0, 0))
		must(s.CreateKey(ctx, k))
		if i == 1 {
			must(s.RevokeKey(ctx, k.ID, at))
		}
	}
	for i := range 5 {
		must(s.RecordDecision(ctx, "acme", store.Actor{KeyID: "k"}, store.Decision{Action: store.AuditVerify, Gallery: "staff", SubjectID: fmt.Sprint("S", i), Decision: "match"}))
	}
	_, err = s.DeleteSubject(ctx, "acme", "staff", "S7", store.Actor{RequestID: "r"})
	must(err)
}

// contentsOf is everything that a store holds, as text.
func contentsOf(t *testing.T, s store.Store) (all []string) {
	t.Helper()
	ctx := t.Context()
	add := func(v any) {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(b))
	}
	counts, err := s.CountTemplates(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range counts {
		g, err := s.Gallery(ctx, c.Tenant, c.Gallery)
		if err != nil {
			t.Fatal(err)
		}
		if g.ID == face.DefaultGallery {
			g.CreatedAt = time.Time{}
		}
		add(c)
		add(g)
		if err := s.Export(ctx, c.Tenant, c.Gallery, "", func(r store.Record) error { add(r); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := s.ListKeys(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	add(keys)
	if err := s.AuditTrail(ctx, 0, func(r store.AuditRecord) error { add([]any{r, r.Prev, r.Hash}); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

func sameContents(t *testing.T, a, b store.Store) {
	t.Helper()
	if from, to := contentsOf(t, a), contentsOf(t, b); !slices.Equal(from, to) { // much faster than a diff
		t.Errorf("(-from +to)\n%.4000s", cmp.Diff(from, to))
	}
}

func TestMigrateStore(t *testing.T) {
	t.Parallel()
	path := newFilledStore(t)
	to := filepath.Join(t.TempDir(), "sub", "to.db")
	args := []string{"migrate-store", "sqlite:" + path, "sqlite:" + to}
	got := runTool(t.Context(), args...)
	if got.code != exitOK || !strings.Contains(got.stdout, "3 API keys, 6 audit records; 100 subjects compared") {
		t.Fatalf("%+v", got)
	}
	for _, line := range []string{"acme     staff    149       220        copied", "acme     empty    0         0          copied"} {
		if !strings.Contains(got.stdout, line+"\n") {
			t.Errorf("no line %q in\n%s", line, got.stdout)
		}
	}
	from, target := openFile(t, path), openFile(t, to)
	sameContents(t, from, target)
	if n, err := target.VerifyAudit(t.Context()); n != 6 || err != nil {
		t.Errorf("the audit chain: %d, %v", n, err)
	}
	if got := runTool(t.Context(), args...); got.code != exitFailed || !strings.Contains(got.stderr, "another process") {
		t.Errorf("beside a server: %+v", got)
	}
	// There is something now; going on with it is another matter.
	closeStore(t, from)
	closeStore(t, target)
	if got := runTool(t.Context(), args...); got.code != exitFailed || !strings.Contains(got.stderr, "--resume") {
		t.Errorf("again: %+v", got)
	}
	if got := runTool(t.Context(), append(args, "--resume")...); got.code != exitOK {
		t.Errorf("going on: %+v", got)
	}
	// What the target has of its own is not written over, and is told of.
	target = openFile(t, to)
	if _, err := target.DeleteSubject(t.Context(), "acme", "staff", "S3", store.Actor{}); err != nil {
		t.Fatal(err)
	}
	closeStore(t, target)
	if got := runTool(t.Context(), append(args, "--resume")...); got.code != exitFailed || !strings.Contains(got.stderr, "audit records of another store") {
		t.Errorf("into one that went on by itself: %+v", got)
	}

	for _, tt := range []struct{ from, to, says string }{
		{"sqlite:" + path + "x", "sqlite:" + to, "there is no store at"},
		{"sqlite:" + path, "redis://u:secret@h", "redis is not a store"},
		{"sqlite:" + path, "sqlite:" + filepath.Dir(path) + "/./" + filepath.Base(path), ""},
	} {
		got := runTool(t.Context(), "migrate-store", tt.from, tt.to)
		if got.code == exitOK || !strings.Contains(got.stderr, tt.says) || strings.Contains(got.stderr, "secret") {
			t.Errorf("%v: %+v", tt, got)
		}
	}
}

// dying is a store that fails after so many imports.
type dying struct {
	store.Store
	imports int
}

func (d *dying) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	if d.imports--; d.imports < 0 {
		return nil, face.Errorf(face.Unavailable, "test", "the storage is full")
	}
	return d.Store.Import(ctx, tenant, gallery, records)
}

// lossy is a store that loses somebody.
type lossy struct{ store.Store }

func (l lossy) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	out, err := l.Store.Import(ctx, tenant, gallery, records[1:])
	return append([]store.Outcome{{Created: true}}, out...), err
}

func TestMigrateStoreFaults(t *testing.T) {
	t.Parallel()
	from := openFile(t, newFilledStore(t))
	defer closeStore(t, from)
	var out bytes.Buffer
	move := func(to store.Store, resume bool) error {
		m := &storeCopy{from: from, to: to, resume: resume, tool: &tool{ctx: t.Context(), stdout: &out, stderr: &out}}
		return m.run(t.Context())
	}
	to := openFile(t, filepath.Join(t.TempDir(), "to.db"))
	defer closeStore(t, to)
	if err := move(&dying{to, 1}, false); err == nil || !strings.Contains(err.Error(), "storage is full") {
		t.Errorf("a target that dies: %v", err)
	}
	if err := move(to, false); err == nil || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("not resuming: %v", err)
	}
	if err := move(to, true); err != nil {
		t.Errorf("going on: %v", err)
	}
	sameContents(t, from, to)

	bad := openFile(t, filepath.Join(t.TempDir(), "bad.db"))
	defer closeStore(t, bad)
	if err := move(lossy{bad}, false); err == nil || !strings.Contains(err.Error(), "the copy is not the same") {
		t.Errorf("a target that loses somebody: %v", err)
	}
	if !strings.Contains(out.String(), "differs") {
		t.Errorf("the table:\n%s", out.String())
	}
}

// spoiled is a store that keeps other crops than it is given.
type spoiled struct{ store.Store }

func (s spoiled) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	for i := range records {
		records[i].Templates = slices.Clone(records[i].Templates)
		for j := range records[i].Templates {
			if t := &records[i].Templates[j]; t.Crop != nil {
				t.Crop = []byte("spoiled")
			}
		}
	}
	return s.Store.Import(ctx, tenant, gallery, records)
}

// busy is a store whose source goes on meanwhile.
type busy struct {
	store.Store
	meanwhile func()
}

func (b busy) Import(ctx context.Context, tenant, gallery string, records []store.Record) ([]store.Outcome, error) {
	b.meanwhile()
	return b.Store.Import(ctx, tenant, gallery, records)
}

// rotten is a store in which the first embedding of each export is damaged.
type rotten struct{ store.Store }

func (r rotten) Export(ctx context.Context, tenant, gallery, after string, emit func(store.Record) error) error {
	first := true
	return r.Store.Export(ctx, tenant, gallery, after, func(r store.Record) error {
		if first && len(r.Templates) > 0 {
			first = false
			r.Templates[0].Embedding, r.Templates[0].Crop = nil, nil
		}
		return emit(r)
	})
}

// TestMigrateStoreDamaged copies all that is sound, and names the rest.
func TestMigrateStoreDamaged(t *testing.T) {
	t.Parallel()
	from := openFile(t, newFilledStore(t))
	defer closeStore(t, from)
	to := openFile(t, filepath.Join(t.TempDir(), "to.db"))
	defer closeStore(t, to)
	m := &storeCopy{from: rotten{from}, to: to, tool: &tool{ctx: t.Context(), stdout: t.Output(), stderr: t.Output()}}
	err := m.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "is damaged and was left behind") || strings.Contains(err.Error(), "differs") {
		t.Errorf("%v", err)
	}
}

func TestMigrateStoreTells(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		target func(from, to store.Store) store.Store
		says   string
	}{
		"of spoiled crops": {func(_, to store.Store) store.Store { return spoiled{to} }, "a crop differs"},
		"of a source that changes": {func(from, to store.Store) store.Store {
			return busy{to, sync.OnceFunc(func() { // in the first gallery, when that has been read
				if _, err := from.CreateSubject(t.Context(), "acme", "staff", face.Subject{ID: "A"}); err != nil {
					t.Error(err)
				}
			})}
		}, "the source changed during the copy"},
		"of a key that was made meanwhile": {func(from, to store.Store) store.Store {
			return busy{to, sync.OnceFunc(func() {
				_, k := face.NewKey("acme", "late", face.Scopes(), time.Time{})
				if err := from.CreateKey(t.Context(), k); err != nil {
					t.Error(err)
				}
			})}
		}, "the source changed during the copy"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := openFile(t, newFilledStore(t))
			defer closeStore(t, from)
			to := openFile(t, filepath.Join(t.TempDir(), "to.db"))
			defer closeStore(t, to)
			m := &storeCopy{from: from, to: tt.target(from, to), tool: &tool{ctx: t.Context(), stdout: t.Output(), stderr: t.Output()}}
			if err := m.run(t.Context()); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Between the two kinds of store, there and back.
func TestMigrateStoreToPostgres(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t, func(url string) error {
		_, _, err := postgres.Migrate(context.Background(), url, "")
		return err
	})
	from := openFile(t, newFilledStore(t))
	defer closeStore(t, from)
	pg, err := postgres.Open(t.Context(), postgres.Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, pg)
	back := openFile(t, filepath.Join(t.TempDir(), "back.db"))
	defer closeStore(t, back)
	for _, way := range [][2]store.Store{{from, pg}, {pg, back}} {
		m := &storeCopy{from: way[0], to: way[1], tool: &tool{ctx: t.Context(), stdout: t.Output(), stderr: t.Output()}}
		if err := m.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		sameContents(t, way[0], way[1])
	}
	sameContents(t, from, back)
}

func TestAudit(t *testing.T) {
	t.Parallel()
	path := newFilledStore(t)
	url := "sqlite:" + path
	server := openFile(t, path) // the tool looks beside it
	defer closeStore(t, server)
	got := runTool(t.Context(), "audit", "verify", "--database-url", url)
	if got.code != exitOK || !strings.HasPrefix(got.stdout, "6 records\nlast hash ") || len(got.stdout) != len("6 records\nlast hash \n")+64 {
		t.Errorf("%+v", got)
	}
	got = runTool(t.Context(), "audit", "list", "--database-url", url)
	lines := strings.Split(strings.TrimSuffix(got.stdout, "\n"), "\n")
	if got.code != exitOK || len(lines) != 6 {
		t.Fatalf("%+v", got)
	}
	first, last := strings.Split(lines[0], "\t"), strings.Split(lines[5], "\t")
	if len(first) != 14 || first[0] != "1" || first[3] != "verify" || first[5] != "S0" || first[7] != "match" || last[3] != "subject.erase" || last[5] != "S7" || last[12] != "r" {
		t.Errorf("%q\n%q", first, last)
	}
	if got := runTool(t.Context(), "audit", "list", "--since", "1h", "--database-url", url); got.stdout == "" {
		t.Errorf("of the last hour: %+v", got)
	}
	if got := runTool(t.Context(), "audit", "list", "--since", time.Now().Add(time.Hour).UTC().Format(time.RFC3339), "--database-url", url); got.stdout != "" || got.code != exitOK {
		t.Errorf("of the future: %+v", got)
	}
	db, err := sql.Open("sqlite", path)
	if err == nil {
		_, err = db.ExecContext(t.Context(), "UPDATE audit SET decision = 'unknown' WHERE seq = 4")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	got = runTool(t.Context(), "audit", "verify", "--database-url", url)
	if got.code != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "audit record 4 is not the one that was written after record 3") {
		t.Errorf("a changed record: %+v", got)
	}
	if got := runTool(t.Context(), "audit", "list", "--data-dir", t.TempDir()); got.code != exitFailed || !strings.Contains(got.stderr, "there is no store") {
		t.Errorf("no store: %+v", got)
	}
	empty := t.TempDir()
	if got := runTool(t.Context(), "keys", "create", "--data-dir", empty, "--name", "x", "--scopes", "read"); got.code != exitOK {
		t.Fatal(got)
	}
	if got := runTool(t.Context(), "audit", "verify", "--data-dir", empty); got.code != exitOK || !strings.HasPrefix(got.stdout, "0 records\n") {
		t.Errorf("an empty chain: %+v", got)
	}
}

// A gallery that was exported from the embedded store and imported into
// Postgres, both by the command through running servers, gives the same
// answers. LIKENESS_TEST_TEMPLATES says how large it is.
func TestSameAnswersFromPostgres(t *testing.T) {
	t.Parallel()
	const dim, probes, k = 256, 1000, 10
	people := 2000
	if n, err := strconv.Atoi(os.Getenv("LIKENESS_TEST_TEMPLATES")); err == nil {
		people = n
	}
	ctx, dir := t.Context(), t.TempDir()
	url := pgtest.Database(t, func(url string) error {
		_, _, err := app.Migrate(context.Background(), app.StoreLocation{DatabaseURL: url})
		return err
	})
	path := filepath.Join(dir, "likeness.db")
	embedding := func(seed int) face.Embedding {
		rng := rand.New(rand.NewPCG(uint64(seed), 7))
		e := make(face.Embedding, dim)
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		e, err := e.Normalise()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	from := openFile(t, path)
	for at := 0; at < people; at += store.MaxImport {
		var records []store.Record
		for i := at; i < min(people, at+store.MaxImport); i++ {
			id := fmt.Sprintf("s%06d", i)
			records = append(records, store.Record{
				Subject:   face.Subject{ID: id, Name: "Name " + id},
				Templates: []face.Template{{ID: "t" + id, ModelID: "test", Embedding: embedding(i), Quality: 0.5}},
			})
		}
		if _, err := from.Import(ctx, face.DefaultTenant, face.DefaultGallery, records); err != nil {
			t.Fatal(err)
		}
	}
	closeStore(t, from)

	file := filepath.Join(dir, "people.ndjson")
	server, stop := startServer(t, func(o *app.Options) { o.DatabaseURL = "sqlite:" + path })
	if got := runTool(ctx, "export", "--server", server, "default", "-o", file); got.code != exitOK || !strings.Contains(got.stderr, fmt.Sprint(people, " subjects")) {
		t.Fatalf("%+v", got)
	}
	stop()
	server, stop = startServer(t, func(o *app.Options) { o.DatabaseURL = url })
	if got := runTool(ctx, "import", "--server", server, "default", file); got.code != exitOK || !strings.Contains(got.stderr, fmt.Sprint(people, " subjects created")) {
		t.Fatalf("%+v", got)
	}
	stop()

	from = openFile(t, path)
	defer closeStore(t, from)
	for _, engine := range []string{postgres.SearchIndex, postgres.SearchPgvector} {
		to, err := postgres.Open(ctx, postgres.Options{URL: url, Search: engine})
		if err == nil {
			err = to.AwaitReady(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
		asked := probes
		if engine == postgres.SearchPgvector && people > 10_000 {
			asked /= 10 // each reads everything
		}
		for i := range asked {
			probe := embedding(i * people / probes)
			for j, n := range embedding(-1 - i) {
				probe[j] += n
			}
			probe, err := probe.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			want, err := from.Search(ctx, face.DefaultTenant, face.DefaultGallery, "test", probe, k)
			if err != nil {
				t.Fatal(err)
			}
			got, err := to.Search(ctx, face.DefaultTenant, face.DefaultGallery, "test", probe, k)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" || len(got.Candidates) != k || got.GallerySize != people {
				t.Fatalf("%s, probe %d of a gallery of %d: %s", engine, i, got.GallerySize, d)
			}
		}
		t.Logf("%s: %d templates exported, imported, and the same answers to %d probes", engine, people, asked)
		closeStore(t, to)
	}
}
