package index

import (
	"context"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"

	"github.com/likeness-id/likeness/pkg/face"
)

// Key names what is searched together: the templates of one model in one
// gallery of one tenant.
type Key struct{ Tenant, Gallery, ModelID string }

// Entry is a template to be added. The index keeps the id strings, and so the
// longer strings that they may be cut from.
type Entry struct {
	TemplateID string
	SubjectID  string
	Embedding  face.Embedding // copied, never kept
}

// Hit is a subject found.
type Hit struct {
	SubjectID   string
	TemplateIDs []string // fused into what the probe was compared with, ascending
	Score       float64  // that of [face.Embedding.Cosine]
}

// Limits of what the index takes.
const (
	// MaxDimension is the longest embedding, in numbers.
	MaxDimension = 4096
	// NormTolerance is how far an embedding's length may be from 1.
	NormTolerance = 1e-3
)

// splitRows is how many rows are worth another goroutine. With fewer, the sweep
// ends before a second goroutine can help.
const splitRows = 25_000

// Options of an index. The zero value is good: a field that is left zero has
// the default that [DefaultOptions] gives it.
type Options struct {
	// Workers is how many goroutines one search may use. Default: GOMAXPROCS.
	// A gallery of fewer than 50,000 subjects is always swept by one.
	Workers int
	// Kernel is one of [Kernels]. Default: the first of them, the fastest.
	Kernel Kernel
}

// DefaultOptions are the options that zero fields stand for.
func DefaultOptions() Options {
	return Options{Workers: runtime.GOMAXPROCS(0), Kernel: Kernels()[0]}
}

// Index holds the templates of all galleries. It is safe for concurrent use.
// Every search that starts after a method has returned sees what the method
// added or removed; a search that is already running may or may not see it, but
// sees each subject with templates that they had at one moment.
type Index struct {
	workers int
	kernel  Kernel

	mu        sync.RWMutex // guards the two levels of the map
	galleries map[gallery]map[string]*partition
}

// gallery is a Key without the model.
type gallery struct{ tenant, name string }

func (k Key) gallery() gallery { return gallery{k.Tenant, k.Gallery} }

// New makes an empty index.
func New(o Options) *Index {
	d := DefaultOptions()
	if o.Workers <= 0 {
		o.Workers = d.Workers
	}
	if o.Kernel.scan == nil {
		o.Kernel = d.Kernel
	}
	return &Index{workers: o.Workers, kernel: o.Kernel, galleries: map[gallery]map[string]*partition{}}
}

// Validate reports whether the index takes an embedding, as a template or as
// a probe: 1 to [MaxDimension] finite numbers whose length is 1 within
// [NormTolerance]. Otherwise the error is Invalid.
func Validate(e face.Embedding) error {
	if len(e) == 0 || len(e) > MaxDimension {
		return face.Errorf(face.Invalid, "index.Validate", "embedding has %d numbers, 1 to %d are taken", len(e), MaxDimension)
	}
	// The negation also catches NaN, which numbers that are not finite lead to.
	if norm := math.Sqrt(squares(e)); !(math.Abs(norm-1) <= NormTolerance) {
		return face.Errorf(face.Invalid, "index.Validate", "embedding is not of unit length, or has numbers that are not finite")
	}
	return nil
}

// squares is the sum of a vector's squares, in four parts so that one addition
// does not wait for the other.
func squares(e face.Embedding) float64 {
	var parts [4]float64
	for len(e) >= 4 {
		parts[0] += float64(e[0]) * float64(e[0])
		parts[1] += float64(e[1]) * float64(e[1])
		parts[2] += float64(e[2]) * float64(e[2])
		parts[3] += float64(e[3]) * float64(e[3])
		e = e[4:]
	}
	for _, v := range e {
		parts[0] += float64(v) * float64(v)
	}
	return parts[0] + parts[1] + parts[2] + parts[3]
}

// Add adds templates, all of them or, with an error, none. Invalid: an
// embedding that [Validate] refuses. ModelMismatch: one whose length differs
// from the others' or from that of the templates under the key. Conflict: a
// template id that is under the key already, or twice among the entries.
//
// One call with many entries is cheaper than many calls with few. Several
// goroutines may add to the same key: from a thousand entries on, most of the
// work is done before any lock is taken.
func (x *Index) Add(key Key, entries ...Entry) error {
	if len(entries) == 0 {
		return nil
	}
	dim := len(entries[0].Embedding)
	for _, e := range entries {
		if err := Validate(e.Embedding); err != nil {
			return err
		}
		if len(e.Embedding) != dim {
			return mismatch(len(e.Embedding), dim)
		}
	}
	b := prepare(entries, dim)
	for {
		// A partition that was dropped meanwhile takes no entries.
		if ok, err := x.open(key).add(b); ok || err != nil {
			return err
		}
	}
}

// RemoveTemplate removes one template and reports whether it was there.
func (x *Index) RemoveTemplate(key Key, templateID string) bool {
	p := x.find(key)
	return p != nil && p.removeTemplate(templateID)
}

// RemoveSubject removes a subject's templates of every model from a gallery
// and returns how many there were.
func (x *Index) RemoveSubject(tenant, name, subjectID string) int {
	x.mu.RLock()
	models := slices.Collect(maps.Values(x.galleries[gallery{tenant, name}]))
	x.mu.RUnlock()
	var n int
	for _, p := range models {
		n += p.removeSubject(subjectID)
	}
	return n
}

// RemoveGallery removes the templates of every model of a gallery and returns
// how many there were.
func (x *Index) RemoveGallery(tenant, name string) int {
	g := gallery{tenant, name}
	x.mu.Lock()
	models := x.galleries[g]
	delete(x.galleries, g)
	x.mu.Unlock()
	var n int
	for _, p := range models {
		n += p.drop()
	}
	return n
}

// Subjects is how many subjects there are under a key: those that a search
// compares the probe with.
func (x *Index) Subjects(key Key) int {
	if p := x.find(key); p != nil {
		return int(p.enrolled.Load())
	}
	return 0
}

// Dimension is the length of the embeddings under a key, 0 when there are none.
func (x *Index) Dimension(key Key) int {
	if p := x.find(key); p != nil {
		if v := p.view.Load(); v != nil {
			return v.dim
		}
	}
	return 0
}

// Templates is how many templates there are under a key.
func (x *Index) Templates(key Key) int {
	if p := x.find(key); p != nil {
		return int(p.held.Load())
	}
	return 0
}

// Search returns the k best subjects under a key, or all when there are
// fewer: highest score first, equal scores by subject id. Each subject is
// compared once, as what [face.FuseEmbeddings] makes of their templates. It also
// returns how many subjects there are. An unknown key has none.
//
// Invalid: k is not positive, or [Validate] refuses the probe. ModelMismatch:
// the probe's length. Canceled, Deadline: ctx ended.
func (x *Index) Search(ctx context.Context, key Key, probe face.Embedding, k int) (hits []Hit, subjects int, err error) {
	if k < 1 {
		return nil, 0, face.Errorf(face.Invalid, "index.Search", "k is %d, it must be positive", k)
	}
	if err := Validate(probe); err != nil {
		return nil, 0, err
	}
	p := x.find(key)
	if p == nil {
		return nil, 0, nil
	}
	v, version := p.snapshot()
	subjects = int(p.enrolled.Load())
	if v == nil {
		return nil, 0, nil
	}
	if len(probe) != v.dim {
		return nil, 0, mismatch(len(probe), v.dim)
	}
	hits, err = x.sweep(ctx, v.slabs, version, probe, k)
	if err != nil {
		return nil, 0, face.Wrap(face.Internal, "index.Search", err)
	}
	// Subjects that were added or removed meanwhile may be in only one of the
	// two results.
	return hits, max(subjects, len(hits)), nil
}

// Stats says what an index holds.
type Stats struct {
	Subjects  int   // that can be found
	Templates int   // of theirs
	Dead      int   // rows removed or replaced, their memory not yet given back
	Slabs     int   // blocks that a sweep of everything walks over
	Bytes     int64 // of the slabs and of the embeddings that were fused, without ids and maps
}

// Stats adds up all galleries, one after the other. It and writers wait for
// each other; searches never wait for it.
func (x *Index) Stats() Stats {
	x.mu.RLock()
	var all []*partition
	for _, models := range x.galleries {
		all = slices.AppendSeq(all, maps.Values(models))
	}
	x.mu.RUnlock()
	var s Stats
	for _, p := range all {
		p.addTo(&s)
	}
	return s
}

func (x *Index) find(key Key) *partition {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.galleries[key.gallery()][key.ModelID]
}

// open finds a partition, or makes an empty one.
func (x *Index) open(key Key) *partition {
	if p := x.find(key); p != nil {
		return p
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	models := x.galleries[key.gallery()]
	if models == nil {
		models = map[string]*partition{}
		x.galleries[key.gallery()] = models
	}
	p := models[key.ModelID]
	if p == nil {
		p = newPartition()
		models[key.ModelID] = p
	}
	return p
}

func mismatch(got, want int) error {
	return face.Errorf(face.ModelMismatch, "index", "embedding has %d numbers, the model's have %d", got, want)
}
