// Package postgres is the store of larger deployments: any number of servers
// share one Postgres with pgvector.
//
// Templates are searched either in an index in memory, which a feed of changes
// keeps current, or in the database by pgvector. Both give the exact answer,
// unless the operator has built a graph (see [Store.BuildGraph]) and stated the
// recall that is enough.
//
// A write runs to its end even if the caller's context ends, so its result is
// known unless the connection is lost in the middle of a commit. Then what is safe
// to repeat is repeated.
package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/likeness-id/likeness/internal/pgdb"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/store"
)

var (
	_ store.Store = (*Store)(nil)
	_ store.Keys  = (*Keys)(nil)
)

// The engines that answer searches.
const (
	SearchIndex    = "index"    // the index in memory
	SearchPgvector = "pgvector" // the database
	SearchAuto     = "auto"     // the index, as long as it fits into the memory it may use
)

// Options of a store.
type Options struct {
	// URL of the database, as libpq writes it: several hosts are tried in
	// turn, so that a failover needs no restart
	// (postgres://a,b/likeness?target_session_attrs=read-write).
	URL string
	// PasswordFile holds the password, when the URL does not. It is read at
	// each connection, so that it may be changed under a running server.
	PasswordFile string
	// ReadURLs are streaming replicas that share the reading.
	ReadURLs []string

	// Search is the engine; empty means [SearchAuto].
	Search string
	// SearchMemory is how many bytes the index may have with [SearchAuto];
	// 0 is half of the machine's memory.
	SearchMemory int64
	// GraphAbove is the size of a gallery, in subjects, up to which pgvector
	// searches exactly although the gallery has a graph; 0 is 50,000, less
	// uses every graph.
	GraphAbove int
	// PollInterval is how often changes are looked for when nobody announces
	// any; 0 is half a second.
	PollInterval time.Duration
	// MaxStaleness bounds how far the index may be behind the database before
	// searches are refused; 0 is 10 s.
	MaxStaleness time.Duration
	// MaxReplicaLag bounds how far a read replica may be behind; 0 is 1 s.
	MaxReplicaLag time.Duration
	// DeafToNotify leaves the announcements of other servers aside. Changes
	// are then found by polling alone, as behind a pooler that cannot listen.
	DeafToNotify bool

	// Logger gets what an operator should know. Nil discards it.
	Logger *slog.Logger
}

// DefaultOptions are the options that zero fields stand for: [SearchAuto] with
// half of the machine's memory, exact search up to 50,000 templates, half a
// second between looks for changes, an index at most 10 s behind and replicas at
// most 1 s. The URL has no default.
func DefaultOptions() Options {
	return Options{
		Search: SearchAuto, SearchMemory: machineMemory() / 2, GraphAbove: 50_000,
		PollInterval: 500 * time.Millisecond, MaxStaleness: 10 * time.Second, MaxReplicaLag: time.Second,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func (o Options) withDefaults() (Options, error) {
	d := DefaultOptions()
	o.Search = cmp.Or(o.Search, d.Search)
	switch o.Search {
	case SearchIndex, SearchPgvector, SearchAuto:
	default:
		return o, face.Errorf(face.Invalid, "postgres.Open", "%q is no search engine: index, pgvector or auto", o.Search)
	}
	o.SearchMemory = cmp.Or(o.SearchMemory, d.SearchMemory)
	o.GraphAbove = cmp.Or(o.GraphAbove, d.GraphAbove)
	o.PollInterval = cmp.Or(o.PollInterval, d.PollInterval)
	o.MaxStaleness = cmp.Or(o.MaxStaleness, d.MaxStaleness)
	o.MaxReplicaLag = cmp.Or(o.MaxReplicaLag, d.MaxReplicaLag)
	o.Logger = cmp.Or(o.Logger, d.Logger)
	return o, nil
}

// Store is a [store.Store] in a Postgres database.
type Store struct {
	Keys
	o        Options
	owner    string // of claims: this store
	replicas replicas
	feed     feed
	damaged  *store.Damaged
	scanned  atomic.Bool // or being scanned, for damaged templates
	graphs   atomic.Pointer[map[index.Key]graph]
	audit    auditor
	erasures atomic.Bool  // since the last vacuum
	imported atomic.Int64 // subjects

	background context.Context // of what runs in the background
	stop       context.CancelFunc
	running    sync.WaitGroup
	closeOnce  sync.Once
}

// Migrate brings the schema of a database up to date, that of the style-transfer
// jobs too, and returns the versions before and after. Several that run at once
// take turns. Unavailable: the database cannot be reached, is of a newer
// program, or lacks pgvector.
func Migrate(ctx context.Context, url, passwordFile string) (before, after int64, err error) {
	before, after, err = pgdb.Migrate(ctx, url, passwordFile)
	return before, after, wrap("Migrate", err)
}

// Open opens the store. It returns before the index is loaded: see
// [Store.AwaitReady]. The schema must be that of this program; [Migrate] makes
// it so. Unavailable: the database cannot be reached, or its schema is another
// one; the detail says what to do. Invalid: the options.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	const op = "Open"
	o, err = o.withDefaults()
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, o.URL, o.PasswordFile, o.Logger)
	if err != nil {
		return nil, wrap(op, err)
	}
	s := &Store{Keys: Keys{db}, o: o, owner: face.NewID(), damaged: store.NewDamaged(o.Logger)}
	background, stop := context.WithCancel(context.Background())
	s.stop, s.background = stop, background
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.readGraphs(ctx); err != nil {
		return nil, wrap(op, err)
	}
	if err := s.replicas.open(ctx, s, background); err != nil {
		return nil, wrap(op, err)
	}
	s.audit.start(s, background)
	if err := s.feed.start(ctx, s, background); err != nil {
		return nil, wrap(op, err)
	}
	return s, nil
}

// Close waits for calls under way, gives its claims up, and releases
// everything. Closing twice is no error.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.db.beginClose()
		s.stop()
		s.running.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		// Where the database is away, the claims lapse by themselves.
		_, _ = s.db.pool.Exec(ctx, `DELETE FROM idempotency WHERE owner = $1`, s.owner)
		s.replicas.close()
		s.db.release()
	})
	return nil
}

const closeTimeout = 2 * time.Second

// Ready implements [store.Store].
func (s *Store) Ready(ctx context.Context) error {
	const op = "Ready"
	return s.db.call(op, func() error {
		if err := s.feed.ready(); err != nil {
			return err
		}
		return s.db.pool.Ping(ctx)
	})
}

// AwaitReady returns when the index is loaded, or cannot be, or the context
// ends.
func (s *Store) AwaitReady(ctx context.Context) error {
	select {
	case <-s.feed.loaded:
		return s.Ready(ctx)
	case <-ctx.Done():
		return face.Wrap(face.Internal, "postgres.AwaitReady", ctx.Err())
	}
}

// Engine is the engine that answers searches now, [SearchIndex] or
// [SearchPgvector].
func (s *Store) Engine() string {
	if s.feed.index.Load() != nil {
		return SearchIndex
	}
	return SearchPgvector
}

// Staleness is how far the index may be behind the database: the time since
// the last look for changes that succeeded. It is 0 where there is no index.
func (s *Store) Staleness() time.Duration { return s.feed.staleness() }

// machineMemory is the memory that this process may use: that of its control
// group, or the machine's.
func machineMemory() int64 {
	const fallback = 2 << 30
	if b, err := os.ReadFile("/sys/fs/cgroup/memory.max"); err == nil {
		var n int64
		if _, err := fmt.Sscan(string(b), &n); err == nil && n > 0 {
			return n
		}
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return fallback
	}
	for line := range strings.Lines(string(b)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "MemTotal: %d kB", &kilobytes); err == nil {
			return kilobytes << 10
		}
	}
	return fallback
}
