package index

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// partition holds the templates under one key. Writers take turns; readers
// load a snapshot and need nothing else.
type partition struct {
	view     atomic.Pointer[view] // nil when empty
	version  atomic.Int64         // counts changes
	enrolled atomic.Int64         // subjects
	held     atomic.Int64         // templates

	mu        sync.Mutex
	dropped   bool  // the gallery was removed: nothing is added any more
	tail      *slab // the slab that grows; nil when there is none
	kept      int64 // numbers that several templates of one subject were added with
	templates map[string]*template
	subjects  map[string]*subject
}

// view is what readers see. It never changes.
type view struct {
	dim   int
	slabs []*slab
}

func newPartition() *partition {
	return &partition{templates: map[string]*template{}, subjects: map[string]*subject{}}
}

// snapshot is a view and the last change that is in it whole: at that version
// every subject has one row that is visible in the view.
func (p *partition) snapshot() (*view, int64) {
	for {
		version := p.version.Load()
		v := p.view.Load()
		// A compaction in between may have left out a row that was replaced after
		// this version.
		if p.version.Load() == version {
			return v, version
		}
	}
}

// batch holds entries that are being added, by subject. A large batch brings
// its own slabs, which are filled before any lock is taken and become part of
// the partition unchanged.
type batch struct {
	dim       int
	entries   []Entry
	templates []template // of the entries
	groups    [][]int32  // entries of one subject, by template id
	rows      []row      // of the groups, if nothing else is known of their subjects
	slabs     []*slab
}

// ownSlab is the number of subjects from which a batch brings its own slabs.
const ownSlab = 1024

func prepare(entries []Entry, dim int) *batch {
	b := &batch{dim: dim, entries: entries, templates: make([]template, len(entries)), groups: groupBySubject(entries)}
	for i, e := range entries {
		b.templates[i].id = e.TemplateID
	}
	b.rows = make([]row, len(b.groups))
	if len(b.groups) < ownSlab {
		return b
	}
	for i := range b.groups {
		at := i % slabRows
		if at == 0 {
			b.slabs = append(b.slabs, newSlab(dim, min(slabRows, len(b.groups)-i)))
		}
		s := b.slabs[len(b.slabs)-1]
		s.put(at, b.fuse(i, &b.rows[i]), &b.rows[i])
		s.n.Store(int64(at + 1))
	}
	return b
}

// groupBySubject lists which entries are of one subject, each time by template
// id.
func groupBySubject(entries []Entry) [][]int32 {
	groupOf := make([]int32, len(entries))
	var sizes []int32
	numbers := make(map[string]int32, len(entries))
	for i, e := range entries {
		group, ok := numbers[e.SubjectID]
		if !ok {
			group = int32(len(sizes))
			numbers[e.SubjectID] = group
			sizes = append(sizes, 0)
		}
		groupOf[i] = group
		sizes[group]++
	}
	groups, all := make([][]int32, len(sizes)), make([]int32, len(entries))
	for group, n := range sizes {
		groups[group], all = all[:0:n], all[n:]
	}
	for i, group := range groupOf {
		groups[group] = append(groups[group], int32(i))
	}
	for _, group := range groups {
		slices.SortFunc(group, func(i, j int32) int { return byID(entries[i].TemplateID, entries[j].TemplateID) })
	}
	return groups
}

// fuse makes a row of a group's templates and returns its embedding.
func (b *batch) fuse(group int, r *row) face.Embedding {
	members := b.groups[group]
	if len(members) == 1 {
		r.one = &b.templates[members[0]]
		return b.entries[members[0]].Embedding
	}
	r.several = &several{}
	for _, i := range members {
		r.several.add(&b.templates[i], slices.Clone(b.entries[i].Embedding))
	}
	return r.several.fused()
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
	for i := range b.templates {
		id := b.templates[i].id
		if _, taken := p.templates[id]; taken {
			for j := range i {
				delete(p.templates, b.templates[j].id)
			}
			return false, face.Errorf(face.Conflict, "index.Add", "template %s is there already", id)
		}
		p.templates[id] = &b.templates[i]
	}
	version := p.version.Load() + 1
	for i, members := range b.groups {
		r := &b.rows[i]
		r.born = version
		s := p.subjects[b.entries[members[0]].SubjectID]
		if s == nil {
			s = &subject{id: b.entries[members[0]].SubjectID}
			p.subjects[s.id] = s
			if b.slabs == nil {
				p.append(b.dim, b.fuse(i, r), r)
			}
			p.give(s, r)
			continue
		}
		if b.slabs != nil {
			r.slab.remove(int(r.at)) // it was made without the templates that are there
			r = &row{born: version}
		}
		r.one, r.several = nil, s.row.together()
		for _, m := range members {
			r.several.add(&b.templates[m], slices.Clone(b.entries[m].Embedding))
		}
		p.append(b.dim, r.several.fused(), r)
		p.give(s, r)
	}
	if b.slabs != nil {
		p.publish(b.dim, b.slabs...)
	}
	p.version.Store(version)
	p.tidy()
	return true, nil
}

// give makes a row, which is written, the subject's. The row before it stays
// for the searches that began before this change.
func (p *partition) give(s *subject, r *row) {
	if s.row != nil {
		s.row.slab.supersede(s.row, r.born)
		p.kept -= s.row.forget()
	}
	s.row, r.subject = r, s
	if r.one != nil {
		r.one.subject = s
		return
	}
	for i, t := range r.several.templates {
		t.subject = s
		p.kept += int64(len(r.several.numbers[i]))
	}
}

// count tells readers how much is there.
func (p *partition) count() {
	p.enrolled.Store(int64(len(p.subjects)))
	p.held.Store(int64(len(p.templates)))
}

// append writes one row after the last. Each new slab is twice as large as the
// one before, so that a gallery of few people stays small.
func (p *partition) append(dim int, e face.Embedding, r *row) {
	if p.tail == nil || int(p.tail.n.Load()) == len(p.tail.rows) {
		p.tail = newSlab(dim, min(slabRows, max(tileRows, len(p.subjects)-1)))
		p.publish(dim, p.tail)
	}
	n := p.tail.n.Load()
	p.tail.put(int(n), e, r)
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
	t := p.templates[id]
	if t == nil {
		return false
	}
	s := t.subject
	if s.row.one == t {
		p.remove(s)
	} else {
		delete(p.templates, id)
		version := p.version.Load() + 1
		r := &row{born: version, several: s.row.together()}
		r.several.remove(t)
		fused := r.several.fused()
		if len(r.several.templates) == 1 {
			r.one, r.several = r.several.templates[0], nil
		}
		p.append(len(fused), fused, r)
		p.give(s, r)
		p.version.Store(version)
	}
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
	n := p.remove(s)
	p.tidy()
	return n
}

// remove hides a subject and forgets their templates. It returns how many
// there were.
func (p *partition) remove(s *subject) (n int) {
	for t := range s.row.templates() {
		delete(p.templates, t.id)
		n++
	}
	delete(p.subjects, s.id)
	s.row.slab.remove(int(s.row.at))
	p.kept -= s.row.forget()
	return n
}

// tidy cleans up after a change: a partition that is empty may then take
// embeddings of another length, and a sparse one is compacted.
func (p *partition) tidy() {
	p.count()
	if len(p.subjects) == 0 {
		p.view.Store(nil)
		p.tail = nil
		// A Go map never shrinks, so an emptied map would keep all its memory.
		p.templates, p.subjects = map[string]*template{}, map[string]*subject{}
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
	return len(p.templates)
}

func (p *partition) addTo(s *Stats) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.view.Load()
	if v == nil {
		return
	}
	s.Templates += len(p.templates)
	s.Subjects += len(p.subjects)
	s.Slabs += len(v.slabs)
	s.Bytes += 4 * p.kept
	for _, slab := range v.slabs {
		s.Dead += slab.dead
		s.Bytes += slab.bytes()
	}
}
