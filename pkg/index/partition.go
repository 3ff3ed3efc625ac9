package index

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// partition holds the templates under one key. Writers take turns; readers
// load the view and need nothing else.
type partition struct {
	view     atomic.Pointer[view] // nil when empty
	enrolled atomic.Int64         // subjects
	held     atomic.Int64         // templates

	mu       sync.Mutex
	dropped  bool  // the gallery was removed: nothing is added any more
	tail     *slab // the slab that grows; nil when there is none
	rows     map[string]*row
	subjects map[string]*subject
}

// view is what readers see. It never changes.
type view struct {
	dim   int
	slabs []*slab
}

func newPartition() *partition {
	return &partition{rows: map[string]*row{}, subjects: map[string]*subject{}}
}

// batch holds entries that are being added. A large batch brings its own slabs,
// which are filled before any lock is taken and become part of the partition
// unchanged.
type batch struct {
	entries []Entry
	rows    []row // of the entries
	dim     int
	slabs   []*slab
}

// ownSlab is the number of entries from which a batch brings its own slabs.
const ownSlab = 1024

func prepare(entries []Entry, dim int) *batch {
	b := &batch{entries: entries, dim: dim, rows: make([]row, len(entries))}
	for i, e := range entries {
		b.rows[i].templateID = e.TemplateID
	}
	if len(entries) < ownSlab {
		return b
	}
	for i := range entries {
		at := i % slabRows
		if at == 0 {
			b.slabs = append(b.slabs, newSlab(dim, min(slabRows, len(entries)-i)))
		}
		s := b.slabs[len(b.slabs)-1]
		s.put(at, entries[i].Embedding, &b.rows[i])
		s.n.Store(int64(at + 1))
	}
	return b
}

// add reports false, and adds nothing, when the partition was dropped.
func (p *partition) add(b *batch) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dropped {
		return false, nil
	}
	if v := p.view.Load(); v != nil && v.dim != b.dim {
		return false, mismatch(b.dim, v.dim)
	}
	for i := range b.rows {
		id := b.rows[i].templateID
		if _, taken := p.rows[id]; taken {
			for j := range i {
				delete(p.rows, b.rows[j].templateID)
			}
			return false, face.Errorf(face.Conflict, "index.Add", "template %s is there already", id)
		}
		p.rows[id] = &b.rows[i]
	}
	for i, e := range b.entries {
		p.enrol(e.SubjectID, &b.rows[i])
	}
	if b.slabs != nil {
		p.publish(b.dim, b.slabs...)
	} else {
		for i, e := range b.entries {
			p.append(e, &b.rows[i])
		}
	}
	p.count()
	return true, nil
}

// count tells readers how much is there.
func (p *partition) count() {
	p.enrolled.Store(int64(len(p.subjects)))
	p.held.Store(int64(len(p.rows)))
}

// enrol gives a row to its subject.
func (p *partition) enrol(id string, r *row) {
	s := p.subjects[id]
	if s == nil {
		s = &subject{id: id}
		s.rows = s.first[:0]
		p.subjects[id] = s
	}
	r.subject, r.nth = s, int32(len(s.rows))
	s.rows = append(s.rows, r)
}

// append writes one row after the last. Each new slab is twice as large as the
// one before, so that a gallery of few people stays small.
func (p *partition) append(e Entry, r *row) {
	if p.tail == nil || int(p.tail.n.Load()) == len(p.tail.rows) {
		p.tail = newSlab(len(e.Embedding), min(slabRows, max(tileRows, len(p.rows))))
		p.publish(p.tail.dim, p.tail)
	}
	n := p.tail.n.Load()
	p.tail.put(int(n), e.Embedding, r)
	p.tail.n.Store(n + 1)
}

// publish shows readers more slabs.
func (p *partition) publish(dim int, slabs ...*slab) {
	var old []*slab
	if v := p.view.Load(); v != nil {
		old = v.slabs
	}
	p.view.Store(&view{dim: dim, slabs: slices.Concat(old, slabs)})
}

func (p *partition) removeTemplate(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.rows[id]
	if r == nil {
		return false
	}
	p.remove(r)
	p.tidy()
	return true
}

func (p *partition) removeSubject(id string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.subjects[id]
	if s == nil {
		return 0
	}
	n := len(s.rows)
	for len(s.rows) > 0 {
		p.remove(s.rows[len(s.rows)-1])
	}
	p.tidy()
	return n
}

// remove hides a row and forgets it.
func (p *partition) remove(r *row) {
	r.slab.remove(int(r.at))
	delete(p.rows, r.templateID)
	s := r.subject
	last := len(s.rows) - 1
	s.rows[r.nth] = s.rows[last]
	s.rows[r.nth].nth = r.nth
	s.rows[last] = nil
	s.rows = s.rows[:last]
	if last == 0 {
		delete(p.subjects, s.id)
	}
}

// tidy cleans up after a removal: a partition that is empty may then take
// embeddings of another length, and a sparse one is compacted.
func (p *partition) tidy() {
	p.count()
	if len(p.rows) == 0 {
		p.view.Store(nil)
		p.tail = nil
		// A Go map never shrinks, so an emptied map would keep all its memory.
		p.rows, p.subjects = map[string]*row{}, map[string]*subject{}
		return
	}
	if slices.ContainsFunc(p.view.Load().slabs, (*slab).sparse) {
		p.compact()
	}
}

// compact copies the rows of sparse slabs into new ones. It includes small
// slabs, so that their number stays low. Running searches go on reading the old
// slabs.
func (p *partition) compact() {
	v := p.view.Load()
	var slabs []*slab
	var moved []*row
	for _, s := range v.slabs {
		switch {
		case s == p.tail && s.sparse():
			p.tail = nil
			fallthrough
		case s.sparse(), s != p.tail && s.live() <= slabRows/4:
			moved = append(moved, s.alive()...)
		default:
			slabs = append(slabs, s)
		}
	}
	for rows := range slices.Chunk(moved, slabRows) {
		s := newSlab(v.dim, len(rows))
		for at, r := range rows {
			s.put(at, r.slab.embedding(int(r.at)), r)
		}
		s.n.Store(int64(len(rows)))
		slabs = append(slabs, s)
	}
	p.view.Store(&view{dim: v.dim, slabs: slabs})
}

// drop ends the partition and returns how many templates it had. The index's
// map must no longer hold it, so that no search can start on it.
func (p *partition) drop() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped = true
	return len(p.rows)
}

func (p *partition) addTo(s *Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.view.Load()
	if v == nil {
		return
	}
	s.Templates += len(p.rows)
	s.Slabs += len(v.slabs)
	for _, slab := range v.slabs {
		s.Dead += slab.dead
		s.Bytes += slab.bytes()
	}
}
