package index

import (
	"cmp"
	"iter"
	"slices"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// template is what was added under an id. The id never changes; the subject is
// guarded by the partition's mu.
type template struct {
	id      string
	subject *subject
}

// subject is somebody with at least one template. The id never changes; the row
// is guarded by the partition's mu.
type subject struct {
	id  string
	row *row
}

// row is what a subject is compared as from one change of their templates to
// the next: either the one template, or what several give together. A search
// sees the rows of the moment at which it began. born, subject and the templates
// do not change once readers can see the row; the place is guarded by the
// partition's mu.
type row struct {
	subject *subject
	one     *template
	several *several     // if there is not one
	born    int64        // version of the change that made it
	died    atomic.Int64 // of the change that replaced it; 0: none has
	slab    *slab
	at      int32 // in slab
}

// visible reports whether a search that began at a version looks at the row.
func (r *row) visible(version int64) bool {
	died := r.died.Load()
	return r.born <= version && (died == 0 || died > version)
}

// templates are those that the row was made of, by id.
func (r *row) templates() iter.Seq[*template] {
	if r.one != nil {
		return func(yield func(*template) bool) { yield(r.one) }
	}
	return slices.Values(r.several.templates)
}

// together is the row's templates with the numbers that they were added with,
// to be changed.
func (r *row) together() *several {
	if r.one != nil {
		return &several{[]*template{r.one}, []face.Embedding{slices.Clone(r.slab.embedding(int(r.at)))}}
	}
	return &several{slices.Clone(r.several.templates), slices.Clone(r.several.numbers)}
}

// forget lets go of the numbers that the row was fused of and returns how many
// there were. Searches do not need them.
func (r *row) forget() (n int64) {
	if r.one != nil {
		return 0
	}
	for _, e := range r.several.numbers {
		n += int64(len(e))
	}
	r.several.numbers = nil
	return n
}

// several are the templates of one subject, by id. Readers may see the
// templates; the numbers are guarded by the partition's mu.
type several struct {
	templates []*template
	numbers   []face.Embedding // that they were added with
}

func byID(a, b string) int { return cmp.Compare(a, b) }

func (s *several) find(id string) (int, bool) {
	return slices.BinarySearchFunc(s.templates, id, func(t *template, id string) int { return byID(t.id, id) })
}

func (s *several) add(t *template, e face.Embedding) {
	at, _ := s.find(t.id)
	s.templates = slices.Insert(s.templates, at, t)
	s.numbers = slices.Insert(s.numbers, at, e)
}

func (s *several) remove(t *template) {
	at, _ := s.find(t.id)
	s.templates = slices.Delete(s.templates, at, at+1)
	s.numbers = slices.Delete(s.numbers, at, at+1)
}

func (s *several) fused() face.Embedding { return face.FuseEmbeddings(s.numbers) }
