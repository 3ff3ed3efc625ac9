package sqlite

import (
	"context"
	"database/sql"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// loadChunk is how many templates are read and indexed at a time. Commits
	// wait for the chunks under way, so it bounds how long.
	loadChunk = 2048

	// loadParts is into how many ranges of rows the work is cut, so that the
	// cores end at about the same time although erases leave uneven gaps.
	loadParts = 64
)

// loading is the state of filling the index.
type loading struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the loader has ended
	total  int64
	loaded atomic.Int64
	ready  atomic.Bool
	failed atomic.Pointer[error]
}

// fail makes the store not ready for good; the first cause is kept.
func (l *loading) fail(err error) {
	l.failed.CompareAndSwap(nil, &err)
}

// startLoading reads into the index what is in the file now. What is enrolled
// later has a larger row id, and the writer adds it; a row that is erased
// meanwhile was either read before the erase landed, which then removes it
// from the index, or is not there any more when its chunk is read: a chunk is
// read and indexed while no commit can land.
func (s *Store) startLoading(ctx context.Context) error {
	var last int64
	l := &s.loading
	err := s.db.view(ctx, func(v session) error {
		_, err := v.scanFirst([]any{&last, &l.total}, `SELECT coalesce(max(row_id), 0),
			(SELECT coalesce(sum(templates), 0) FROM gallery_model) FROM template`)
		return err
	})
	if err != nil {
		return err
	}
	var background context.Context
	background, l.cancel = context.WithCancel(context.Background())
	l.done = make(chan struct{})
	go s.load(background, last)
	return nil
}

func (s *Store) load(ctx context.Context, last int64) {
	l := &s.loading
	defer close(l.done)
	defer l.cancel()
	start := time.Now()
	g, loading := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	step := last/loadParts + 1
	for from := int64(0); from < last; from += step {
		g.Go(func() error { return s.loadPart(loading, from, min(from+step, last)) })
	}
	switch err := g.Wait(); {
	case err == nil:
		l.ready.Store(true)
		s.db.log.Info("index loaded", "templates", l.loaded.Load(), "seconds", time.Since(start).Seconds())
	case ctx.Err() == nil: // not merely closed before it was done
		s.db.log.Error("cannot load the index", "error", err)
		l.fail(err)
	}
}

// loadPart loads the rows after one row id up to another.
func (s *Store) loadPart(ctx context.Context, after, last int64) error {
	for after < last && ctx.Err() == nil {
		next, err := s.loadRows(after, last)
		if err != nil || next == after {
			return err
		}
		after = next
	}
	return ctx.Err()
}

// loadRows loads up to loadChunk rows and returns the last row id it saw.
// It has no context: a chunk is soon done, and SQLite's watching a context
// costs at every row.
func (s *Store) loadRows(after, last int64) (int64, error) {
	s.db.landing.RLock()
	defer s.db.landing.RUnlock()
	chunk := make(map[index.Key][]index.Entry)
	var (
		count   int64
		numbers face.Embedding // of all embeddings of the chunk
	)
	err := s.db.view(context.Background(), func(v session) error {
		return v.each(func(rows *sql.Rows) error {
			var (
				e    index.Entry
				k    index.Key
				blob sql.RawBytes
				sum  int64
				dim  sql.NullInt64
				row  int64
			)
			if err := rows.Scan(&row, &e.TemplateID, &k.ModelID, &blob, &sum, &dim, &e.SubjectID, &k.Tenant, &k.Gallery); err != nil {
				return err
			}
			if err := store.CheckNext("load", after, row); err != nil {
				return err
			}
			after = row
			count++
			n := len(blob) / 4
			if cap(numbers)-len(numbers) < n {
				numbers = make(face.Embedding, 0, n*256)
			}
			start := len(numbers)
			var damage error
			if numbers, damage = readEmbedding(numbers, blob, sum, dim); damage != nil {
				s.damaged.Note(placeOf(k, e.SubjectID, e.TemplateID), damage)
				return nil
			}
			e.Embedding = numbers[start:len(numbers):len(numbers)]
			chunk[k] = append(chunk[k], e)
			return nil
		}, `SELECT t.row_id, t.id, t.model_id, t.embedding, t.checksum, `+dimensionOf+`, s.id, g.tenant, g.id
			FROM template t JOIN subject s ON s.row_id = t.subject JOIN gallery g ON g.row_id = t.gallery
			WHERE t.row_id > ? AND t.row_id <= ? ORDER BY t.row_id LIMIT ?`, after, last, loadChunk)
	})
	if err != nil {
		return after, err
	}
	for k, entries := range chunk {
		s.addToIndex(k, entries...)
	}
	s.loading.loaded.Add(count)
	return after, nil
}

// Ready implements [store.Store].
func (s *Store) Ready(context.Context) error {
	const op = "sqlite.Ready"
	l := &s.loading
	switch failed := l.failed.Load(); {
	case s.db.isClosed():
		return s.db.wrap("Ready", errClosed)
	case failed != nil:
		return &face.Error{Kind: face.Unavailable, Op: op, Detail: "the index could not be loaded", Err: *failed}
	case !l.ready.Load():
		return face.Errorf(face.Unavailable, op, "loaded %d of %d templates", l.loaded.Load(), l.total)
	}
	return nil
}

// AwaitReady returns when the index is loaded, with what [Store.Ready] then
// says, or when the context ends.
func (s *Store) AwaitReady(ctx context.Context) error {
	select {
	case <-s.loading.done:
		return s.Ready(ctx)
	case <-ctx.Done():
		return face.Wrap(face.Internal, "sqlite.AwaitReady", ctx.Err())
	}
}
