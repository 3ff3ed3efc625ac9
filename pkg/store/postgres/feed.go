package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pgvector/pgvector-go"
	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	// channel is where servers tell each other that there are changes.
	channel = "likeness_change"

	// changesKept is how long the sequence of changes is kept, and reloadAfter
	// the time without a look after which a server reads everything anew.
	changesKept = 24 * time.Hour
	reloadAfter = 12 * time.Hour

	// reloadSilent is how long looks may fail for want of an answer.
	reloadSilent = time.Minute

	// loadChunk is how many templates are added to the index at a time, and
	// loaders how many connections read at a time.
	loadChunk = 4096
	loaders   = 2

	// templateBytes is what the index needs for a template besides its numbers:
	// ids, maps, the share of its subject.
	templateBytes = 350

	// minPause and maxPause are the pauses before a load is tried again, and
	// loadPatience the time without a template after which one is given up.
	minPause     = 25 * time.Millisecond
	maxPause     = 5 * time.Second
	loadPatience = 30 * time.Second
)

// feed keeps the index what the database is. Only its one goroutine changes
// the index, in the order in which the changes were made, so that nothing that
// was erased can come back by a race.
type feed struct {
	s        *Store
	index    atomic.Pointer[index.Index] // nil: pgvector answers
	keys     map[int64]index.Key         // by row of gallery_model; of the feed's goroutine
	snapshot string                      // of the last look
	seq      int64                       // of the newest change seen until then
	timeline string                      // of the database then

	loaded  chan struct{}         // closed when the first load has ended
	ok      atomic.Bool           // the index is whole
	failed  atomic.Pointer[error] // why it is not yet
	total   atomic.Int64
	count   atomic.Int64
	current atomic.Int64 // when the last successful look began, in nanoseconds since 1970

	// missed counts the writes of this store that it could not catch up with
	// at once, and made up those of them that it has caught up with since.
	missed, madeUp atomic.Int64

	wake    chan struct{}
	mu      sync.Mutex
	waiting []chan error // callers that wait for the next look
	news    bool         // other servers must be notified
}

// start decides for an engine, and begins to load the index.
func (f *feed) start(ctx context.Context, s *Store, background context.Context) error {
	f.s, f.loaded, f.wake = s, make(chan struct{}), make(chan struct{}, 1)
	var total, need int64
	// As Holding.IndexBytes.
	if err := s.db.pool.QueryRow(ctx, `SELECT coalesce(sum(templates), 0)::bigint,
		coalesce(sum(5 * dimension * subjects + 4 * dimension * least(templates, 2 * (templates - subjects)) + $1 * templates), 0)::bigint
		FROM gallery_model`, templateBytes).Scan(&total, &need); err != nil {
		return err
	}
	f.total.Store(total)
	if s.o.Search == SearchPgvector || s.o.Search == SearchAuto && need > s.o.SearchMemory {
		s.o.Logger.Info("pgvector answers searches", "templates", total, "index_would_take_bytes", need)
		f.ok.Store(true)
		close(f.loaded)
		s.running.Go(func() { f.watchGraphs(background) })
		return nil
	}
	f.index.Store(index.New(index.Options{}))
	s.running.Go(func() { f.run(background) })
	if !s.o.DeafToNotify {
		s.running.Go(func() { f.listen(background) })
	}
	return nil
}

func (f *feed) run(ctx context.Context) {
	f.loadAnew(ctx)
	close(f.loaded)
	tick := time.NewTicker(f.s.o.PollInterval)
	defer tick.Stop()
	for ctx.Err() == nil && f.index.Load() != nil {
		select {
		case <-ctx.Done():
		case <-f.wake:
		case <-tick.C:
		}
		f.look(ctx)
	}
	f.watchGraphs(ctx)
	f.release(f.takeWaiting(), errClosed)
}

// loadAnew loads the index until it succeeds or ctx ends. Meanwhile searches
// are refused, and the old index, if there is one, makes room for the new.
func (f *feed) loadAnew(ctx context.Context) {
	start := time.Now()
	f.ok.Store(false)
	f.index.Store(index.New(index.Options{}))
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		err := f.load(ctx)
		began := time.Now()
		if err == nil {
			err = f.poll(ctx) // what was committed meanwhile
		}
		if err == nil {
			f.current.Store(began.UnixNano())
			break
		}
		if ctx.Err() != nil {
			return
		}
		f.failed.Store(&err)
		f.s.o.Logger.Warn("loading the index failed; starting over", "error", err)
		if !pgdb.Pause(ctx, pause) {
			return
		}
	}
	f.failed.Store(nil)
	f.ok.Store(true)
	f.s.o.Logger.Info("index loaded", "templates", f.count.Load(), "seconds", time.Since(start).Seconds())
}

// look asks once for what has changed and tells those who waited for it.
func (f *feed) look(ctx context.Context) {
	if ctx.Err() != nil || !f.ok.Load() {
		return
	}
	waiting := f.takeWaiting()
	began := time.Now()
	err := f.poll(ctx)
	// More than a look can carry is better read anew, too.
	if errors.Is(err, errAnother) || errors.Is(err, errSilent) && f.staleness() > reloadSilent {
		f.s.o.Logger.Warn("reading the index anew", "error", err)
		f.loadAnew(ctx)
		err = ctx.Err()
	}
	if err == nil {
		f.current.Store(max(began.UnixNano(), f.current.Load()))
	} else if ctx.Err() == nil {
		f.s.o.Logger.Warn("cannot look for changes", "error", err, "stale_seconds", f.staleness().Seconds())
	}
	f.release(waiting, err)
	if err == nil && f.takeNews() {
		// Outside of the writes: it would have them commit one by one.
		telling, cancel := context.WithTimeout(ctx, f.patience())
		_, err := f.s.db.own.Exec(telling, `SELECT pg_notify($1, $2)`, channel, f.s.owner)
		cancel()
		if err != nil && ctx.Err() == nil {
			f.s.o.Logger.Warn("cannot announce changes; others find them by polling", "error", err)
		}
	}
	if err == nil {
		f.keepWithin()
	}
}

func (f *feed) takeWaiting() []chan error {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting
	f.waiting = nil
	return w
}

func (f *feed) takeNews() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	news := f.news
	f.news = false
	return news
}

func (f *feed) release(waiting []chan error, err error) {
	for _, w := range waiting {
		w <- err
	}
}

// catchUp returns when everything that was committed before is in the index.
func (f *feed) catchUp(ctx context.Context, news bool) error {
	if f.index.Load() == nil {
		return nil
	}
	if !f.ok.Load() {
		return errLoading
	}
	done := make(chan error, 1)
	f.mu.Lock()
	f.waiting = append(f.waiting, done)
	f.news = f.news || news
	f.mu.Unlock()
	if f.index.Load() == nil { // given up in between
		return nil
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wrote lets the index catch up with a write of this store before its caller
// is answered. The write is durable whatever comes of it: should the database
// be gone just now, the next search waits for it.
func (f *feed) wrote(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	if err := f.catchUp(ctx, true); err != nil {
		f.missed.Add(1)
		if errors.Is(err, errLoading) {
			return
		}
		f.s.o.Logger.Warn("a write is not searched yet", "error", err)
	}
}

// makeUp catches up with writes of this store that the index has missed.
func (f *feed) makeUp(ctx context.Context) error {
	missed := f.missed.Load()
	if missed == f.madeUp.Load() {
		return nil
	}
	if err := f.catchUp(ctx, false); err != nil {
		return err
	}
	for {
		made := f.madeUp.Load()
		if made >= missed || f.madeUp.CompareAndSwap(made, missed) {
			return nil
		}
	}
}

// poll applies what was committed since the last look. The rows of the
// statement and its snapshot belong together; the transactions that the last
// snapshot did not see are those that have been committed since, however long
// ago they began. A database that was killed may give the numbers of its last
// transactions, which left nothing behind, to new ones: an old snapshot takes
// those for seen. What they changed is newer than everything seen all the same.
func (f *feed) poll(ctx context.Context) error {
	if f.staleness() > reloadAfter {
		return fmt.Errorf("%w: changes are kept no longer than %v", errAnother, changesKept)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(f.patience(), func() { cancel(errSilent) })
	defer silence.Stop()
	apply := &changes{feed: f, index: f.index.Load()}
	var snapshot, line string
	var back bool
	rows, err := f.s.db.own.Query(ctx, `
		SELECT pg_current_snapshot()::text, `+timeline+`, pg_snapshot_xmax(pg_current_snapshot()) < pg_snapshot_xmax($1::text::pg_snapshot),
			c.seq, c.gallery_model, c.template, c.erased, t.id, s.id, t.embedding, g.tenant, g.id, m.model_id, m.dimension
		FROM (VALUES (1)) one LEFT JOIN (
			template_change c LEFT JOIN (
				template t JOIN subject s ON s.row_id = t.subject
				JOIN gallery_model m ON m.row_id = t.gallery_model JOIN gallery g ON g.row_id = m.gallery
			) ON c.erased IS NULL AND t.row_id = c.template
		) ON (c.xid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(c.xid, $1::text::pg_snapshot) OR c.seq > $2)
			AND c.xid < pg_snapshot_xmax(pg_current_snapshot()) -- a restored backup has numbers from elsewhere
		ORDER BY c.seq`, f.snapshot, f.seq)
	newest := f.seq
	err = scanAll(rows, err, func(rows pgx.Rows) error {
		silence.Reset(f.patience())
		var seq, shelf, template *int64
		var erased, id, subject, tenant, gallery, model *string
		var v *pgvector.Vector
		var dimension *int
		if err := rows.Scan(&snapshot, &line, &back, &seq, &shelf, &template, &erased, &id, &subject, &v, &tenant, &gallery, &model, &dimension); err != nil {
			return err
		}
		if line != f.timeline || back {
			return fmt.Errorf("%w: it is another one, or an earlier state of it", errAnother)
		}
		if seq != nil {
			newest = max(newest, *seq)
		}
		switch {
		case shelf == nil: // nothing changed
		case erased != nil:
			apply.erase(*shelf, rowID(*erased, *template))
		case id != nil: // not erased again
			f.keys[*shelf] = index.Key{Tenant: *tenant, Gallery: *gallery, ModelID: *model}
			apply.add(*shelf, *dimension, index.Entry{TemplateID: rowID(*id, *template), SubjectID: *subject, Embedding: v.Slice()})
		}
		return nil
	})
	apply.flush()
	if err != nil {
		if errors.Is(context.Cause(ctx), errSilent) {
			return fmt.Errorf("%w: %w", errSilent, err)
		}
		return err
	}
	f.snapshot, f.seq = snapshot, newest
	return nil
}

// patience is how long a look may take: a connection that has gone silent
// must not keep the index from what a new one would tell.
func (f *feed) patience() time.Duration { return max(f.s.o.MaxStaleness/2, time.Second) }

// timeline tells a database from another one: of another cluster, or under a
// primary that may lack the last transactions of the one before.
const timeline = `(SELECT system_identifier || '/' FROM pg_control_system()) || (SELECT oid FROM pg_database WHERE datname = current_database())
	|| '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)`

var (
	// errAnother says that the changes since the last look are not to be had.
	errAnother = errors.New("the database does not go on where it was")
	// errSilent says that the database does not answer in time.
	errSilent = errors.New("the database does not answer a look for changes")
	// errLoading says that there is nothing to catch up with yet.
	errLoading = face.Errorf(face.Unavailable, "", "the index is loading")
)

// changes are applied in order; what is added in a row is added together.
type changes struct {
	*feed
	index   *index.Index
	pending map[int64][]index.Entry
	n       int
}

func (c *changes) add(shelf int64, dimension int, e index.Entry) {
	if len(e.Embedding) != dimension {
		c.note(shelf, e, checkEmbedding(e.Embedding, dimension))
		return
	}
	if c.pending == nil {
		c.pending = map[int64][]index.Entry{}
	}
	c.pending[shelf] = append(c.pending[shelf], e)
	c.n++
	if c.n >= loadChunk {
		c.flush()
	}
}

func (c *changes) erase(shelf int64, template string) {
	c.flush()
	if key, ok := c.keys[shelf]; ok {
		c.index.RemoveTemplate(key, template)
	}
}

func (c *changes) flush() {
	for shelf, entries := range c.pending {
		if c.index.Add(c.keys[shelf], entries...) == nil {
			continue
		}
		// Some are there already, since a look that was cut off is repeated; or
		// one is damaged. That one must not keep all others out.
		for _, e := range entries {
			if err := c.index.Add(c.keys[shelf], e); err != nil && !errors.Is(err, face.Conflict) {
				c.note(shelf, e, err)
			}
		}
	}
	c.pending, c.n = nil, 0
}

func (c *changes) note(shelf int64, e index.Entry, damage error) {
	id, _, _ := strings.Cut(e.TemplateID, rowMark)
	k := c.keys[shelf]
	c.s.damaged.Note(store.Place{Tenant: k.Tenant, Gallery: k.Gallery, ModelID: k.ModelID, SubjectID: e.SubjectID, TemplateID: id}, damage)
}

// load reads everything into a new index, as one snapshot has it, and puts it
// in the place of the old one.
func (f *feed) load(ctx context.Context) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go f.watchLoading(ctx, cancel)
	tx, err := f.s.db.own.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	// It waits, and keeps its snapshot, while others read.
	if _, err := tx.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
		return err
	}
	var snapshot, line, exported string
	var total, last, seq int64
	if err := tx.QueryRow(ctx, `SELECT pg_current_snapshot()::text, `+timeline+`, pg_export_snapshot(),
		(SELECT coalesce(sum(templates), 0)::bigint FROM gallery_model), (SELECT coalesce(max(row_id), 0) FROM template),
		(SELECT coalesce(max(seq), 0) FROM template_change)`).
		Scan(&snapshot, &line, &exported, &total, &last, &seq); err != nil {
		return err
	}
	f.total.Store(total)
	f.count.Store(0)
	keys := map[int64]index.Key{}
	rows, err := tx.Query(ctx, `SELECT m.row_id, g.tenant, g.id, m.model_id FROM gallery_model m JOIN gallery g ON g.row_id = m.gallery`)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var shelf int64
		var k index.Key
		err := rows.Scan(&shelf, &k.Tenant, &k.Gallery, &k.ModelID)
		keys[shelf] = k
		return err
	}); err != nil {
		return err
	}
	x := index.New(index.Options{})
	g, loading := errgroup.WithContext(ctx)
	for part := range int64(loaders) {
		g.Go(func() error {
			return f.loadPart(loading, x, keys, exported, last*part/loaders, last*(part+1)/loaders)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.keys, f.snapshot, f.timeline, f.seq = keys, snapshot, line, seq
	f.index.Store(x)
	f.current.Store(began.UnixNano())
	return nil
}

// watchLoading ends a load that comes to nothing any more.
func (f *feed) watchLoading(ctx context.Context, end context.CancelFunc) {
	for last := int64(-1); pgdb.Pause(ctx, loadPatience); {
		if now := f.count.Load(); now != last {
			last = now
			continue
		}
		end()
		return
	}
}

// loadPart reads the rows after one row id up to another.
func (f *feed) loadPart(ctx context.Context, x *index.Index, keys map[int64]index.Key, snapshot string, after, last int64) error {
	tx, err := f.s.db.own.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // nothing was written
	// The name of a snapshot comes from the database itself.
	if _, err := tx.Exec(ctx, fmt.Sprintf(`SET TRANSACTION SNAPSHOT '%s'`, snapshot)); err != nil {
		return err
	}
	apply := &changes{feed: &feed{s: f.s, keys: keys}, index: x}
	rows, err := tx.Query(ctx, `SELECT t.gallery_model, m.dimension, t.id, t.row_id, s.id, t.embedding
		FROM template t JOIN subject s ON s.row_id = t.subject JOIN gallery_model m ON m.row_id = t.gallery_model
		WHERE t.row_id > $1 AND t.row_id <= $2`, after, last)
	if err := scanAll(rows, err, func(rows pgx.Rows) error {
		var shelf int64
		var id, subject string
		var row int64
		var dimension int
		var v pgvector.Vector
		if err := rows.Scan(&shelf, &dimension, &id, &row, &subject, &v); err != nil {
			return err
		}
		f.count.Add(1)
		apply.add(shelf, dimension, index.Entry{TemplateID: rowID(id, row), SubjectID: subject, Embedding: v.Slice()})
		return nil
	}); err != nil {
		return err
	}
	apply.flush()
	return nil
}

// keepWithin gives the index up when it has outgrown the memory it may use.
func (f *feed) keepWithin() {
	if f.s.o.Search != SearchAuto {
		return
	}
	stats := f.index.Load().Stats()
	if need := stats.Bytes + int64(stats.Templates)*templateBytes; need > f.s.o.SearchMemory {
		f.s.o.Logger.Warn("the index has outgrown its memory: pgvector answers searches from now on",
			"templates", stats.Templates, "bytes", need, "search_memory", f.s.o.SearchMemory)
		f.index.Store(nil)
		f.release(f.takeWaiting(), nil)
	}
}

// listen wakes the feed when another server announces changes.
func (f *feed) listen(ctx context.Context) {
	pgdb.Listen(ctx, f.s.db.own, channel, func(owner string) {
		if owner != f.s.owner {
			select {
			case f.wake <- struct{}{}:
			default:
			}
		}
	}, func(err error) {
		f.s.o.Logger.Warn("not told of changes; polling for them", "error", err)
	})
}

// watchGraphs keeps the list of graphs current where there is no feed.
func (f *feed) watchGraphs(ctx context.Context) {
	for pgdb.Pause(ctx, 10*f.s.o.PollInterval) {
		if err := f.s.readGraphs(ctx); err != nil && ctx.Err() == nil {
			f.s.o.Logger.Warn("cannot read the list of search graphs", "error", err)
		}
	}
}

// staleness is the time since the last look that succeeded.
func (f *feed) staleness() time.Duration {
	at := f.current.Load()
	if f.index.Load() == nil || at == 0 {
		return 0
	}
	return time.Since(time.Unix(0, at))
}

// ready reports nil when searches are answered.
func (f *feed) ready() error {
	switch failed := f.failed.Load(); {
	case failed != nil:
		return &face.Error{Kind: face.Unavailable, Detail: "the index could not be loaded yet", Err: *failed}
	case !f.ok.Load():
		return face.Errorf(face.Unavailable, "", "loaded %d of %d templates", f.count.Load(), f.total.Load())
	case f.staleness() > f.s.o.MaxStaleness:
		return face.Errorf(face.Unavailable, "", "the index is %.0f s behind the database", f.staleness().Seconds())
	}
	return nil
}
