package index_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

// model is what an index should hold: the entries by key and template id.
type model map[index.Key]map[string]index.Entry

func (m model) entries(k index.Key) []index.Entry { return slices.Collect(maps.Values(m[k])) }

// compareRandomChanges makes random changes to an index and to a model of it, and compares
// the two. Embeddings come from a small pool half of the time, so that scores
// tie; batches are now and then large enough to bring their own slabs.
func compareRandomChanges(t *testing.T, seed uint64, steps int, kernel index.Kernel) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 99))
	x := index.New(index.Options{Kernel: kernel, Workers: 1 + rng.IntN(3)})
	want := model{}
	var keys []index.Key
	dims := map[index.Key]int{}
	pools := map[index.Key][]face.Embedding{}
	for i := range 4 {
		k := index.Key{Tenant: fmt.Sprint("t", i/2), Gallery: fmt.Sprint("g", i/2), ModelID: fmt.Sprint("m", i%2)}
		keys = append(keys, k)
		want[k] = map[string]index.Entry{}
		dims[k] = 1 + rng.IntN(80)
		for range 20 {
			pools[k] = append(pools[k], randomUnitVector(rng, dims[k]))
		}
	}
	subjects := 1 + rng.IntN(400)
	embedding := func(k index.Key) face.Embedding {
		e := pools[k][rng.IntN(20)]
		if rng.IntN(2) == 0 {
			e = movedBy(rng, e, 0.3)
		}
		return e
	}
	var id int
	for range steps {
		k := keys[rng.IntN(len(keys))]
		switch rng.IntN(12) {
		case 0, 1, 2, 3: // add a few, or many
			n := 1 + rng.IntN(30)
			if rng.IntN(8) == 0 {
				n = 1000 + rng.IntN(1000)
			}
			es := make([]index.Entry, n)
			for i := range es {
				id++
				es[i] = index.Entry{
					TemplateID: fmt.Sprint(id * 7919 % 1_000_003),
					SubjectID:  fmt.Sprint(rng.IntN(subjects)),
					Embedding:  embedding(k),
				}
				want[k][es[i].TemplateID] = es[i]
			}
			mustAdd(t, x, k, es...)
		case 4, 5, 6, 7: // remove some templates
			for id := range want[k] {
				if rng.IntN(5) > 0 {
					break
				}
				if !x.RemoveTemplate(k, id) {
					t.Fatalf("template %s was not there", id)
				}
				if x.RemoveTemplate(k, id) {
					t.Fatalf("template %s was there twice", id)
				}
				delete(want[k], id)
			}
		case 8, 9: // remove some subjects of every model
			for range rng.IntN(1 + subjects/3) {
				subject, n := fmt.Sprint(rng.IntN(subjects)), 0
				for _, other := range keys {
					if other.Tenant != k.Tenant {
						continue
					}
					for id, e := range want[other] {
						if e.SubjectID == subject {
							delete(want[other], id)
							n++
						}
					}
				}
				if got := x.RemoveSubject(k.Tenant, k.Gallery, subject); got != n {
					t.Fatalf("removed %d templates of a subject, want %d", got, n)
				}
			}
		case 10: // what is there must be refused, and change nothing
			for id := range want[k] {
				es := []index.Entry{{TemplateID: "new", SubjectID: "new", Embedding: embedding(k)}, {TemplateID: id, SubjectID: "new", Embedding: embedding(k)}}
				if err := x.Add(k, es...); !errors.Is(err, face.Conflict) {
					t.Fatalf("template %s again: %v", id, err)
				}
				break
			}
		case 11: // remove a gallery, now and then
			if rng.IntN(6) > 0 {
				continue
			}
			n := 0
			for _, other := range keys {
				if other.Tenant == k.Tenant {
					n += len(want[other])
					clear(want[other])
				}
			}
			if got := x.RemoveGallery(k.Tenant, k.Gallery); got != n {
				t.Fatalf("removed %d templates of a gallery, want %d", got, n)
			}
		}
		probe := embedding(k)
		checkSearch(t, x, k, bruteForce(want.entries(k), probe), probe, 1+rng.IntN(2*subjects))
		wantDim := dims[k]
		if len(want[k]) == 0 {
			wantDim = 0
		}
		if got := x.Dimension(k); got != wantDim {
			t.Fatalf("dimension %d, want %d", got, wantDim)
		}
	}
	var total, people int
	for k, es := range want {
		subjects := map[string]bool{}
		for _, e := range es {
			subjects[e.SubjectID] = true
		}
		total += len(es)
		people += len(subjects)
		if x.Templates(k) != len(es) || x.Subjects(k) != len(subjects) {
			t.Fatalf("%d templates of %d subjects, want %d of %d", x.Templates(k), x.Subjects(k), len(es), len(subjects))
		}
	}
	if s := x.Stats(); s.Templates != total || s.Subjects != people {
		t.Fatalf("%+v, want %d templates of %d subjects", s, total, people)
	}
}

func TestWalk(t *testing.T) {
	t.Parallel()
	for _, kernel := range index.Kernels() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				compareRandomChanges(t, seed, 60, kernel)
			}
		})
	}
}

func FuzzWalk(f *testing.F) {
	f.Add(uint64(100), uint8(50))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) {
		for _, kernel := range index.Kernels() {
			compareRandomChanges(t, seed, int(steps), kernel)
		}
	})
}

// TestCompaction removes much of a large gallery and expects the memory back,
// in few slabs, with the rest still found.
func TestCompaction(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 8))
	all := entries(30_000, func(i int) int { return i / 3 }, func(int) face.Embedding { return randomUnitVector(rng, 16) })
	x := index.New(index.Options{})
	for some := range slices.Chunk(all, 700) {
		mustAdd(t, x, testKey("m"), some...)
	}
	before := x.Stats()
	var left []index.Entry
	for i, e := range all {
		if i/3%10 == 0 {
			left = append(left, e)
		} else if i%3 == 0 {
			if n := x.RemoveSubject("default", "default", e.SubjectID); n != 3 {
				t.Fatalf("removed %d templates, want 3", n)
			}
		}
		if s := x.Stats(); i%1000 == 0 && s.Dead*4 > s.Subjects+s.Dead+40_000 {
			t.Fatalf("%d dead and %d live rows", s.Dead, s.Subjects)
		}
	}
	after := x.Stats()
	if after.Templates != len(left) || after.Bytes*5 > before.Bytes || after.Slabs > 4 {
		t.Errorf("%+v left of %+v", after, before)
	}
	probe := randomUnitVector(rng, 16)
	checkSearch(t, x, testKey("m"), bruteForce(left, probe), probe, 50)

	// One more after all are gone, of another length.
	for _, e := range left {
		x.RemoveTemplate(testKey("m"), e.TemplateID)
	}
	if s := x.Stats(); s != (index.Stats{}) {
		t.Errorf("%+v left of nothing", s)
	}
	probe = randomUnitVector(rng, 5)
	last := index.Entry{TemplateID: "t", SubjectID: "s", Embedding: probe}
	mustAdd(t, x, testKey("m"), last)
	checkSearch(t, x, testKey("m"), bruteForce([]index.Entry{last}, probe), probe, 3)
}

// TestConcurrent searches while others add and remove. What was added before
// a search began and not removed before it ended must be found; what was
// removed before it began must not be.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	const (
		absent = iota
		present
		leaving
		gone
	)
	for _, kernel := range index.Kernels() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			const writers, each = 3, 600
			rng := rand.New(rand.NewPCG(9, 9))
			all := entries(writers*each, func(i int) int { return i }, func(int) face.Embedding { return randomUnitVector(rng, 24) })
			at := make(map[string]int, len(all)) // by template id
			for i, e := range all {
				at[e.TemplateID] = i
			}
			state := make([]atomic.Int32, len(all))
			x := index.New(index.Options{Kernel: kernel, Workers: 2})
			var writing, searching sync.WaitGroup
			var done atomic.Bool

			for w := range writers {
				writing.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(w), 1))
					mine := all[w*each : (w+1)*each]
					var live []int
					remove := func(j int) {
						i := live[j]
						live = slices.Delete(live, j, j+1)
						state[i].Store(leaving)
						ok := w == 0 && x.RemoveSubject("default", "default", all[i].SubjectID) == 1 ||
							w != 0 && x.RemoveTemplate(testKey("m"), all[i].TemplateID)
						if !ok {
							t.Errorf("%s was not there", all[i].TemplateID)
						}
						state[i].Store(gone)
					}
					for n := 0; n < len(mine); {
						batch := mine[n:min(len(mine), n+1+rng.IntN(5))]
						if err := x.Add(testKey("m"), batch...); err != nil {
							t.Error(err)
							return
						}
						for range batch {
							state[w*each+n].Store(present)
							live = append(live, w*each+n)
							n++
						}
						for rng.IntN(3) > 0 && len(live) > 0 {
							remove(rng.IntN(len(live)))
						}
					}
					for len(live) > 20 {
						remove(rng.IntN(len(live)))
					}
				})
			}
			for s := range 2 {
				searching.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(s), 2))
					before := make([]int32, len(all))
					for last := false; !last; {
						last = done.Load() // so that the final state is looked at as well
						for i := range state {
							before[i] = state[i].Load()
						}
						probe := randomUnitVector(rng, 24)
						hits, subjects, err := x.Search(t.Context(), testKey("m"), probe, len(all))
						if err != nil {
							t.Error(err)
							return
						}
						if subjects < len(hits) {
							t.Errorf("%d hits of %d subjects", len(hits), subjects)
						}
						found := make([]bool, len(all))
						for n, h := range hits {
							i := at[h.TemplateIDs[0]]
							if found[i] || len(h.TemplateIDs) > 1 {
								t.Errorf("%v twice", h.TemplateIDs)
							}
							found[i] = true
							if before[i] == gone {
								t.Errorf("%v found after it was removed", h.TemplateIDs)
							}
							if h.SubjectID != all[i].SubjectID || h.Score != probe.Cosine(all[i].Embedding) {
								t.Errorf("%+v is not what was added", h)
							}
							if n > 0 && hits[n-1].Score < h.Score {
								t.Errorf("scores %g, %g in a row", hits[n-1].Score, h.Score)
							}
						}
						for i := range state {
							if before[i] == present && state[i].Load() == present && !found[i] {
								t.Errorf("%s not found after it was added", all[i].TemplateID)
							}
						}
						if t.Failed() {
							return
						}
					}
				})
			}
			writing.Wait()
			done.Store(true)
			searching.Wait()
			if n := x.Stats().Templates; n != writers*20 {
				t.Errorf("%d templates left, want %d", n, writers*20)
			}
		})
	}
}

// TestConcurrentTemplates adds and removes templates of subjects who are there
// all the time, and now and then somebody else. Every search finds each of them
// once, with the score of templates that they had at one moment.
func TestConcurrentTemplates(t *testing.T) {
	t.Parallel()
	for _, kernel := range index.Kernels() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			const writers, each, dim, changes = 2, 25, 16, 1500
			x := index.New(index.Options{Kernel: kernel, Workers: 2})
			rng := rand.New(rand.NewPCG(5, 5))
			var mu sync.Mutex
			numbers := map[string]face.Embedding{} // by template
			template := func(subject string, n int, e face.Embedding) index.Entry {
				id := fmt.Sprintf("%s-%03d", subject, n)
				mu.Lock()
				numbers[id] = e
				mu.Unlock()
				return index.Entry{TemplateID: id, SubjectID: subject, Embedding: e}
			}
			var people []string
			for i := range writers * each {
				people = append(people, fmt.Sprintf("s%03d", i))
				mustAdd(t, x, testKey("m"), template(people[i], 0, randomUnitVector(rng, dim)))
			}
			var writing, searching sync.WaitGroup
			var done atomic.Bool
			for w := range writers {
				writing.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(w), 6))
					next := 1
					has := map[string][]string{}
					for _, p := range people[w*each : (w+1)*each] {
						has[p] = []string{p + "-000"}
					}
					for range changes {
						p := people[w*each+rng.IntN(each)]
						switch n := len(has[p]); {
						case n > 1 && rng.IntN(2) == 0:
							i := rng.IntN(n)
							if !x.RemoveTemplate(testKey("m"), has[p][i]) {
								t.Errorf("%s was not there", has[p][i])
							}
							has[p] = slices.Delete(has[p], i, i+1)
						default:
							var es []index.Entry
							for range 1 + rng.IntN(3) {
								es = append(es, template(p, next, randomUnitVector(rng, dim)))
								has[p] = append(has[p], es[len(es)-1].TemplateID)
								next++
							}
							visitor := template(fmt.Sprintf("v%d-%d", w, next), 0, randomUnitVector(rng, dim))
							if err := x.Add(testKey("m"), append(es, visitor)...); err != nil {
								t.Error(err)
							}
							x.RemoveSubject("default", "default", visitor.SubjectID)
						}
					}
				})
			}
			for s := range 2 {
				searching.Go(func() {
					rng := rand.New(rand.NewPCG(uint64(s), 7))
					for last := false; !last && !t.Failed(); {
						last = done.Load()
						probe := randomUnitVector(rng, dim)
						hits, _, err := x.Search(t.Context(), testKey("m"), probe, 1000)
						if err != nil {
							t.Error(err)
							return
						}
						var found []string
						for _, h := range hits {
							var all []face.Embedding
							mu.Lock()
							for _, id := range h.TemplateIDs {
								all = append(all, numbers[id])
							}
							mu.Unlock()
							if want := probe.Cosine(face.FuseEmbeddings(all)); h.Score != want {
								t.Errorf("%+v has not the score %v of its templates", h, want)
							}
							if h.SubjectID[0] == 's' {
								found = append(found, h.SubjectID)
							}
						}
						slices.Sort(found)
						if !slices.Equal(found, people) {
							t.Errorf("found %d of %d: %v", len(found), len(people), found)
						}
					}
				})
			}
			writing.Wait()
			done.Store(true)
			searching.Wait()
			if s := x.Stats(); s.Subjects != len(people) || s.Dead > s.Subjects+200 {
				t.Errorf("%+v is left of %d people", s, len(people))
			}
		})
	}
}

// TestRemoveGallery adds to a key from several goroutines while its gallery is
// removed again and again: a batch is there as a whole or not at all, and none
// goes into a gallery that is no more.
func TestRemoveGallery(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(10, 1))
	for _, size := range []struct{ batch, total int }{{2, 20_000}, {1500, 24_000}} {
		one := randomUnitVector(rng, 8)
		all := entries(size.total, func(i int) int { return i }, func(int) face.Embedding { return one })
		x := index.New(index.Options{})
		var adding, removing sync.WaitGroup
		var done atomic.Bool
		removed := 0
		for part := range slices.Chunk(all, len(all)/4) {
			adding.Go(func() {
				for batch := range slices.Chunk(part, size.batch) {
					if err := x.Add(testKey("m"), batch...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		removing.Go(func() {
			for !done.Load() {
				n := x.RemoveGallery("default", "default")
				if n%size.batch != 0 {
					t.Errorf("removed %d templates, not whole batches of %d", n, size.batch)
				}
				removed += n
			}
		})
		adding.Wait()
		done.Store(true)
		removing.Wait()
		if got := removed + x.RemoveGallery("default", "default"); got != len(all) {
			t.Errorf("%d templates came and went, want %d", got, len(all))
		}
	}
}
