package postgres

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/likeness-id/likeness/internal/pgdb"
)

// watchReplicas is how often it is looked how far the replicas are.
const watchReplicas = 200 * time.Millisecond

// replicas are streaming copies of the primary that share the reading. One is
// asked only when it has everything that this store wrote, and is not further
// behind the primary than the operator allows.
type replicas struct {
	s     *Store
	all   []*replica
	next  atomic.Uint64
	wrote atomic.Int64 // the position in the log of the last write of this store
}

type replica struct {
	pool     *pgxpool.Pool
	host     string
	replayed atomic.Int64 // the position in the log up to which it is
	asOf     atomic.Int64 // when the primary was there, in nanoseconds since 1970
}

func (r *replicas) open(ctx context.Context, s *Store, background context.Context) error {
	r.s = s
	for _, url := range s.o.ReadURLs {
		pool, err := newPool(ctx, url, s.o.PasswordFile, func(*pgxpool.Config) {})
		if err != nil {
			return err
		}
		r.all = append(r.all, &replica{pool: pool, host: pool.Config().ConnConfig.Host})
	}
	if len(r.all) > 0 {
		s.db.wrote = r.note
		s.running.Go(func() { r.watch(background) })
	}
	return nil
}

func (r *replicas) close() {
	for _, one := range r.all {
		one.pool.Close()
	}
}

// read runs work on a replica that is far enough, and on the primary where
// there is none or it fails.
func (r *replicas) read(ctx context.Context, work func(context.Context, querier) error) error {
	if one := r.pick(); one != nil {
		err := work(ctx, one.pool)
		if err == nil || !pgdb.IsTransient(err) {
			return err
		}
		one.asOf.Store(0) // until it has been seen again
	}
	return r.s.db.read(ctx, work)
}

func (r *replicas) pick() *replica {
	if len(r.all) == 0 {
		return nil
	}
	need, oldest := r.wrote.Load(), time.Now().Add(-r.s.o.MaxReplicaLag).UnixNano()
	start := r.next.Add(1)
	for i := range uint64(len(r.all)) {
		one := r.all[(start+i)%uint64(len(r.all))]
		if one.asOf.Load() >= oldest && one.replayed.Load() >= need {
			return one
		}
	}
	return nil
}

// note remembers how far the log is after a write, so that whoever wrote reads
// it. Where that cannot be found out, no replica is asked until it is.
func (r *replicas) note(ctx context.Context) {
	at := int64(math.MaxInt64)
	_ = r.s.db.own.QueryRow(ctx, primaryPosition).Scan(&at) // at stays
	for {
		old := r.wrote.Load()
		if old >= at || r.wrote.CompareAndSwap(old, at) {
			return
		}
	}
}

const primaryPosition = `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint`

// watch keeps an eye on how far each replica is behind.
func (r *replicas) watch(ctx context.Context) {
	type mark struct {
		at  time.Time
		pos int64
	}
	var marks []mark // of the primary, the oldest first
	for ; ctx.Err() == nil; pgdb.Pause(ctx, watchReplicas) {
		now := time.Now()
		var pos int64
		looking, cancel := context.WithTimeout(ctx, r.s.o.MaxReplicaLag)
		err := r.s.db.own.QueryRow(looking, primaryPosition).Scan(&pos)
		cancel()
		if err == nil {
			r.wrote.CompareAndSwap(math.MaxInt64, pos)
			if n := len(marks); n > 0 && pos < marks[n-1].pos {
				// Another primary, which had not got so far.
				marks = nil
				r.wrote.Store(0)
			}
			marks = append(marks, mark{now, pos})
		}
		for len(marks) > 1 && now.Sub(marks[0].at) > r.s.o.MaxReplicaLag+time.Second {
			marks = marks[1:]
		}
		for _, one := range r.all {
			looking, cancel := context.WithTimeout(ctx, r.s.o.MaxReplicaLag)
			var replayed int64
			err := one.pool.QueryRow(looking, `SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery()
				THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')::bigint`).Scan(&replayed)
			cancel()
			if err != nil {
				if one.asOf.Swap(0) != 0 && ctx.Err() == nil {
					r.s.o.Logger.Warn("a read replica does not answer; the others and the primary do its work", "host", one.host, "error", err)
				}
				continue
			}
			one.replayed.Store(replayed)
			for _, m := range marks {
				if m.pos <= replayed {
					one.asOf.Store(m.at.UnixNano())
				}
			}
		}
	}
}

// Replicas says, for each read replica by host, how far it is behind the
// primary at most.
func (s *Store) Replicas() map[string]time.Duration {
	behind := map[string]time.Duration{}
	for _, one := range s.replicas.all {
		if at := one.asOf.Load(); at > 0 {
			behind[one.host] = time.Since(time.Unix(0, at))
		} else {
			behind[one.host] = time.Since(time.Unix(0, 0)) // never seen
		}
	}
	return behind
}
