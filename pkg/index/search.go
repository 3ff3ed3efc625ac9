package index

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// sweep finds the k best subjects of some slabs, as they were at a version.
func (x *Index) sweep(ctx context.Context, slabs []*slab, version int64, probe face.Embedding, k int) ([]Hit, error) {
	var rows int
	for _, s := range slabs {
		rows += int(s.n.Load())
	}
	w := &sweep{kernel: x.kernel, query: x.kernel.prepare(probe), probe: probe, slabs: slabs, version: version}
	best := newRanking(k)
	workers := min(x.workers, rows/splitRows)
	if workers <= 1 {
		if err := w.run(ctx, best); err != nil {
			return nil, err
		}
		return best.hits(), nil
	}

	parts, errs := make([]*ranking, workers), make([]error, workers)
	var wg sync.WaitGroup
	for i := range workers {
		parts[i] = newRanking(k)
		wg.Go(func() { errs[i] = w.run(ctx, parts[i]) })
	}
	wg.Wait()
	for i, part := range parts {
		if errs[i] != nil {
			return nil, errs[i]
		}
		for _, r := range part.items {
			best.add(r.row, r.score)
		}
	}
	return best.hits(), nil
}

// sweep is one search under way. Its workers take slabs from it in turn.
type sweep struct {
	kernel  Kernel
	query   *query
	probe   face.Embedding
	slabs   []*slab
	version int64
	next    atomic.Int64
}

// run sweeps slabs until none is left.
func (w *sweep) run(ctx context.Context, best *ranking) error {
	var upper [tileRows]float32
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		i := int(w.next.Add(1)) - 1
		if i >= len(w.slabs) {
			return nil
		}
		from := 0
		if len(best.items) == 0 {
			from = w.seed(w.slabs[i], best, &upper)
		}
		w.slab(w.slabs[i], from, best, &upper)
	}
}

// seedRows is how many rows are looked at before the first is scored.
const seedRows = 1024

// seed begins a ranking with the first rows of a slab, and returns the row at
// which the sweep goes on. While the ranking is not full, every row may be
// among the best, and scoring a row takes as long as sweeping fifty. So seed
// first computes all bounds, then scores the rows with the highest bounds, and
// then only those others whose bounds still allow a place in the ranking.
func (w *sweep) seed(s *slab, best *ranking, upper *[tileRows]float32) int {
	n := min(int(s.n.Load()), seedRows)
	tiles := (n + tileRows - 1) / tileRows
	var bounds [seedRows]float32
	none := float32(math.NaN()) // the bound of a removed row, which reaches nothing
	for at := range n {
		bounds[at] = none
	}
	lead := make([]int, 0, 2*best.k) // the rows of the highest bounds, highest first
	limit := float32(math.Inf(-1))
	for tile := 0; ; tile++ {
		if tile = w.kernel.scan(s, w.query, tile, n, float32(math.Inf(-1)), upper); tile >= tiles {
			break
		}
		for i := range min(tileRows, n-tile*tileRows) {
			at, bound := tile*tileRows+i, upper[i]
			bounds[at] = bound
			if !(bound > limit) {
				continue
			}
			if len(lead) < cap(lead) {
				lead = append(lead, at)
			} else {
				lead[len(lead)-1] = at
			}
			for j := len(lead) - 1; j > 0 && bounds[lead[j-1]] < bound; j-- {
				lead[j], lead[j-1] = lead[j-1], lead[j]
			}
			if len(lead) == cap(lead) {
				limit = bounds[lead[len(lead)-1]]
			}
		}
	}
	for _, at := range lead {
		w.consider(s, at, bounds[at], best)
		bounds[at] = none // once is enough
	}
	floor := w.query.limit(best.floor())
	for at, bound := range bounds[:n] {
		if bound >= floor {
			w.consider(s, at, bound, best)
		}
	}
	return n
}

// slab scores those rows of a slab, from a row on, that may be among the best.
//
// The kernel stops at a tile with such a row, so that a threshold raised by the
// row's score applies from the next tile on. It leaves the bounds of the tile
// in upper.
func (w *sweep) slab(s *slab, from int, best *ranking, upper *[tileRows]float32) {
	n := int(s.n.Load())
	tiles := (n + tileRows - 1) / tileRows
	for tile := from / tileRows; ; tile++ {
		if tile = w.kernel.scan(s, w.query, tile, n, w.query.limit(best.floor()), upper); tile >= tiles {
			return
		}
		for at := max(from, tile*tileRows); at < min(n, (tile+1)*tileRows); at++ {
			w.consider(s, at, upper[at%tileRows], best)
		}
	}
}

// consider scores a row if its bound says that it may be among the best.
func (w *sweep) consider(s *slab, at int, upper float32, best *ranking) {
	// A removed row's bound is NaN, which is never at least the threshold.
	if !(w.query.bound(upper) >= best.floor()) {
		return
	}
	if r := s.rows[at]; r.visible(w.version) {
		best.add(r, w.probe.Cosine(s.embedding(at)))
	}
}

// ranking is the best k subjects so far. Each subject has one row that a search
// sees, so nobody comes twice.
type ranking struct {
	k     int
	items []ranked // best first
}

type ranked struct {
	score float64
	row   *row
}

// byRank is the order of a candidate list.
func byRank(a, b ranked) int {
	return cmp.Or(-cmp.Compare(a.score, b.score), cmp.Compare(a.row.subject.id, b.row.subject.id))
}

func newRanking(k int) *ranking { return &ranking{k: k} }

// floor is the score that a row must reach to change the ranking.
func (t *ranking) floor() float64 {
	if len(t.items) < t.k {
		return math.Inf(-1)
	}
	return t.items[t.k-1].score
}

// add inserts a row if it is among the best. The result does not depend on the
// order in which rows come.
func (t *ranking) add(r *row, score float64) {
	it := ranked{score, r}
	if len(t.items) == t.k {
		if byRank(it, t.items[t.k-1]) > 0 {
			return
		}
		t.items = t.items[:t.k-1]
	}
	at, _ := slices.BinarySearchFunc(t.items, it, byRank)
	t.items = slices.Insert(t.items, at, it)
}

func (t *ranking) hits() []Hit {
	out := make([]Hit, len(t.items))
	for i, it := range t.items {
		out[i] = Hit{SubjectID: it.row.subject.id, Score: it.score}
		for t := range it.row.templates() {
			out[i].TemplateIDs = append(out[i].TemplateIDs, t.id)
		}
	}
	return out
}
