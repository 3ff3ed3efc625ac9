package sqlite_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

const benchDim = 256

// templatesEnv is how many templates the benchmarks of loading and searching
// put into the gallery.
const templatesEnv = "LIKENESS_BENCH_TEMPLATES"

// inParallel calls f for each number below n, from so many callers.
func inParallel(callers, n int, f func(i int)) time.Duration {
	var next atomic.Int64
	var wg sync.WaitGroup
	begin := time.Now()
	for range callers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
	return time.Since(begin)
}

// BenchmarkEnrol measures durable enrolments against a yardstick in the same
// run, round by round: bare INSERTs of the same embedding into one table with
// the same durability, as many a transaction as there are callers. The ratio
// is the figure.
func BenchmarkEnrol(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprint("callers=", callers), func(b *testing.B) {
			dir := b.TempDir()
			s := open(b, filepath.Join(dir, "likeness.db"))
			defer closing(b, s)
			addBenchSubjects(b, s, 100)
			raw := openRaw(b, filepath.Join(dir, "raw.db"))
			defer closing(b, raw)
			e := embedding(1, benchDim)
			blob := sqlite.EncodeEmbedding(e)
			perRound := 50 * callers
			var mine, bare time.Duration
			for b.Loop() {
				mine += inParallel(callers, perRound, func(i int) {
					if err := enrol(s, face.NewID(), fmt.Sprint("s", i%100), e); err != nil {
						b.Error(err)
					}
				})
				begin := time.Now()
				for i := 0; i < perRound; i += callers {
					insertRaw(b, raw, blob, callers)
				}
				bare += time.Since(begin)
			}
			n := float64(perRound * b.N)
			b.ReportMetric(n/mine.Seconds(), "enrolments/s")
			b.ReportMetric(n/bare.Seconds(), "inserts/s")
			b.ReportMetric(bare.Seconds()/mine.Seconds(), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func openRaw(b *testing.B, path string) *sql.DB {
	b.Helper()
	db, err := sql.Open("sqlite", path+"?_pragma=synchronous(FULL)")
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, st := range []string{"PRAGMA page_size = 16384", "PRAGMA journal_mode = WAL", "CREATE TABLE raw (id INTEGER PRIMARY KEY, embedding BLOB)"} {
		if _, err := db.Exec(st); err != nil {
			b.Fatal(err)
		}
	}
	return db
}

func insertRaw(b *testing.B, db *sql.DB, blob []byte, n int) {
	b.Helper()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	st, err := tx.Prepare("INSERT INTO raw (embedding) VALUES (?)")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			b.Error(err)
		}
	}()
	for range n {
		if _, err := st.Exec(blob); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}

func addBenchSubjects(b *testing.B, s *sqlite.Store, n int) {
	b.Helper()
	inParallel(256, n, func(i int) { addSubject(b, s, fmt.Sprint("s", i)) })
}

// benchGallery fills a store with the templates that templatesEnv asks for,
// four a subject, and returns its file.
func benchGallery(b *testing.B) (path string, n int) {
	b.Helper()
	n = 100_000
	if v := os.Getenv(templatesEnv); v != "" {
		var err error
		if n, err = strconv.Atoi(v); err != nil {
			b.Fatal(err)
		}
	}
	path = filepath.Join(b.TempDir(), "likeness.db")
	s := open(b, path)
	defer closing(b, s)
	addBenchSubjects(b, s, n/4)
	took := inParallel(256, n, func(i int) {
		if err := enrol(s, fmt.Sprint("t", i), fmt.Sprint("s", i/4), embedding(i, benchDim)); err != nil {
			b.Error(err)
		}
	})
	b.Logf("enrolled %d templates in %.1f s", n, took.Seconds())
	return path, n
}

// BenchmarkLoad measures from Open until searches are answered.
func BenchmarkLoad(b *testing.B) {
	path, n := benchGallery(b)
	for b.Loop() {
		if err := open(b, path).Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "templates/s")
}

// BenchmarkSearch measures a search through the store against the same search
// in an index alone, round by round. The ratio is the figure.
func BenchmarkSearch(b *testing.B) {
	path, n := benchGallery(b)
	s := open(b, path)
	defer closing(b, s)
	x, key := index.New(index.Options{}), index.Key{Tenant: tenant, Gallery: face.DefaultGallery, ModelID: model}
	for i := range n {
		if err := x.Add(key, index.Entry{TemplateID: fmt.Sprint("t", i), SubjectID: fmt.Sprint("s", i/4), Embedding: embedding(i, benchDim)}); err != nil {
			b.Fatal(err)
		}
	}
	ctx := context.Background()
	var mine, bare []time.Duration
	for i := 0; b.Loop(); i++ {
		probe := embedding(-1-i, benchDim)
		begin := time.Now()
		if _, err := s.Search(ctx, tenant, face.DefaultGallery, model, probe, 5); err != nil {
			b.Fatal(err)
		}
		mine = append(mine, time.Since(begin))
		begin = time.Now()
		if _, _, err := x.Search(ctx, key, probe, 5); err != nil {
			b.Fatal(err)
		}
		bare = append(bare, time.Since(begin))
	}
	slices.Sort(mine)
	slices.Sort(bare)
	mid := b.N / 2
	b.ReportMetric(float64(mine[mid].Microseconds()), "store-p50-µs")
	b.ReportMetric(float64(bare[mid].Microseconds()), "index-p50-µs")
	b.ReportMetric(bare[mid].Seconds()/mine[mid].Seconds(), "ratio")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTemplates measures what a verification reads: one subject's
// templates.
func BenchmarkTemplates(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "likeness.db"))
	defer closing(b, s)
	addBenchSubjects(b, s, 1)
	if err := enrol(s, "t0", "s0", embedding(0, benchDim)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Templates(context.Background(), tenant, face.DefaultGallery, "s0", model); err != nil {
			b.Fatal(err)
		}
	}
}
