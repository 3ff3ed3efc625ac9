package index_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

// bruteForce is the oracle: it fuses the entries of each subject, scores every
// subject and sorts. It returns one hit for each subject there is.
func bruteForce(entries []index.Entry, probe face.Embedding) []index.Hit {
	bySubject := map[string][]index.Entry{}
	for _, e := range entries {
		bySubject[e.SubjectID] = append(bySubject[e.SubjectID], e)
	}
	var hits []index.Hit
	for id, own := range bySubject {
		slices.SortFunc(own, func(a, b index.Entry) int { return cmp.Compare(a.TemplateID, b.TemplateID) })
		h := index.Hit{SubjectID: id}
		var all []face.Embedding
		for _, e := range own {
			h.TemplateIDs, all = append(h.TemplateIDs, e.TemplateID), append(all, e.Embedding)
		}
		h.Score = probe.Cosine(face.FuseEmbeddings(all))
		hits = append(hits, h)
	}
	slices.SortFunc(hits, func(a, b index.Hit) int {
		return cmp.Or(-cmp.Compare(a.Score, b.Score), cmp.Compare(a.SubjectID, b.SubjectID))
	})
	return hits
}

// checkSearch compares a search with what the oracle says.
func checkSearch(t *testing.T, x *index.Index, key index.Key, all []index.Hit, probe face.Embedding, k int) {
	t.Helper()
	got, subjects, err := x.Search(t.Context(), key, probe, k)
	if err != nil {
		t.Fatal(err)
	}
	if subjects != len(all) {
		t.Errorf("k=%d: %d subjects, want %d", k, subjects, len(all))
	}
	if d := gocmp.Diff(all[:min(k, len(all))], got, cmpopts.EquateEmpty()); d != "" {
		t.Fatalf("k=%d of %d subjects: -brute force +index\n%s", k, len(all), d)
	}
}

func randomUnitVector(rng *rand.Rand, dim int) face.Embedding {
	e := make(face.Embedding, dim)
	for {
		for i := range e {
			e[i] = float32(rng.NormFloat64())
		}
		if u, err := e.Normalise(); err == nil {
			return u
		}
	}
}

// movedBy moves an embedding by about the given distance.
func movedBy(rng *rand.Rand, e face.Embedding, by float64) face.Embedding {
	out := slices.Clone(e)
	for i := range out {
		out[i] += float32(by * rng.NormFloat64() / math.Sqrt(float64(len(e))))
	}
	u, err := out.Normalise()
	if err != nil {
		panic(err)
	}
	return u
}

func testKey(model string) index.Key {
	return index.Key{Tenant: "default", Gallery: "default", ModelID: model}
}

func mustAdd(tb testing.TB, x *index.Index, k index.Key, entries ...index.Entry) {
	tb.Helper()
	if err := x.Add(k, entries...); err != nil {
		tb.Fatal(err)
	}
}

func entries(n int, subject func(i int) int, embedding func(i int) face.Embedding) []index.Entry {
	out := make([]index.Entry, n)
	for i := range out {
		out[i] = index.Entry{
			TemplateID: fmt.Sprintf("t%07d", i),
			SubjectID:  fmt.Sprintf("s%07d", subject(i)),
			Embedding:  embedding(i),
		}
	}
	return out
}

// TestSearchIsExact holds the index against brute force where a bound that is
// not one, or a tie that is broken by chance, would show.
func TestSearchIsExact(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	one := randomUnitVector(rng, 64)
	minus := slices.Clone(one)
	for i := range minus {
		minus[i] = -minus[i]
	}
	axis := func(dim, i int) face.Embedding {
		e := make(face.Embedding, dim)
		e[i] = 1
		return e
	}
	each := func(i int) int { return i }
	tests := map[string]struct {
		probe   face.Embedding
		entries []index.Entry
	}{
		"random": {randomUnitVector(rng, 64), entries(5000, each, func(int) face.Embedding { return randomUnitVector(rng, 64) })},
		"several templates": {randomUnitVector(rng, 64), entries(5000, func(i int) int { return i % 700 },
			func(int) face.Embedding { return randomUnitVector(rng, 64) })},
		"all equal":    {randomUnitVector(rng, 64), entries(3000, each, func(int) face.Embedding { return one })},
		"all opposite": {one, entries(3000, each, func(int) face.Embedding { return minus })},
		"duplicates": {movedBy(rng, one, 0.1), entries(3000, func(i int) int { return i * 7919 % 1000 },
			func(i int) face.Embedding { return movedBy(rand.New(rand.NewPCG(uint64(i%50), 1)), one, 0.5) })},
		"negative scores":   {minus, entries(3000, each, func(int) face.Embedding { return movedBy(rng, one, 0.3) })},
		"near ties":         {movedBy(rng, one, 0.2), entries(3000, each, func(int) face.Embedding { return movedBy(rng, one, 1e-9) })},
		"nearly near ties":  {movedBy(rng, one, 0.2), entries(3000, each, func(int) face.Embedding { return movedBy(rng, one, 1e-6) })},
		"close together":    {movedBy(rng, one, 0.01), entries(3000, each, func(int) face.Embedding { return movedBy(rng, one, 0.01) })},
		"one subject":       {randomUnitVector(rng, 64), entries(1500, func(int) int { return 0 }, func(int) face.Embedding { return randomUnitVector(rng, 64) })},
		"one subject, ties": {randomUnitVector(rng, 64), entries(1500, func(int) int { return 0 }, func(int) face.Embedding { return one })},
		"one among many": {randomUnitVector(rng, 64), entries(2000, func(i int) int { return max(0, i-1_900) },
			func(int) face.Embedding { return randomUnitVector(rng, 64) })},
		"templates that cancel out": {movedBy(rng, one, 0.5), entries(3000, func(i int) int { return i / 2 * 7 % 1500 },
			func(i int) face.Embedding {
				if i%2 == 0 {
					return one
				}
				return minus
			})},
		"axes":     {axis(300, 17), entries(600, each, func(i int) face.Embedding { return axis(300, i%300) })},
		"one axis": {randomUnitVector(rng, 300), entries(600, each, func(i int) face.Embedding { return movedBy(rng, axis(300, 5), 0.2) })},
		"one number": {face.Embedding{1}, entries(100, each, func(i int) face.Embedding {
			return face.Embedding{1 - 2*float32(i%2)}
		})},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := bruteForce(test.entries, test.probe)
			for _, kernel := range index.Kernels() {
				t.Run(kernel.String(), func(t *testing.T) {
					t.Parallel()
					x := index.New(index.Options{Kernel: kernel})
					mustAdd(t, x, testKey("m"), test.entries...)
					oneByOne := index.New(index.Options{Kernel: kernel})
					for _, e := range test.entries {
						mustAdd(t, oneByOne, testKey("m"), e)
					}
					for _, k := range []int{1, 2, 10, 100, 1000, 20_000} {
						checkSearch(t, x, testKey("m"), all, test.probe, k)
						checkSearch(t, oneByOne, testKey("m"), all, test.probe, k)
					}
				})
			}
		})
	}
}

// TestSearchSplits takes a gallery that several goroutines sweep.
func TestSearchSplits(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	pool := make([]face.Embedding, 900) // so that there are ties across slabs
	for i := range pool {
		pool[i] = randomUnitVector(rng, 20)
	}
	people := entries(76_000, func(i int) int { return i * 31 % 30_000 },
		func(int) face.Embedding { return pool[rng.IntN(len(pool))] })
	probe := randomUnitVector(rng, 20)
	all := bruteForce(people, probe)
	for _, kernel := range index.Kernels() {
		t.Run(kernel.String(), func(t *testing.T) {
			t.Parallel()
			x := index.New(index.Options{Workers: 4, Kernel: kernel})
			mustAdd(t, x, testKey("m"), people...)
			for _, k := range []int{1, 10, 1000} {
				checkSearch(t, x, testKey("m"), all, probe, k)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(5, 6))
	nan, inf := randomUnitVector(rng, 8), randomUnitVector(rng, 8)
	nan[3], inf[4] = float32(math.NaN()), float32(math.Inf(-1))
	long := randomUnitVector(rng, 8)
	for i := range long {
		long[i] *= 1.01
	}
	good := randomUnitVector(rng, 8)
	x := index.New(index.Options{})
	mustAdd(t, x, testKey("m"), index.Entry{TemplateID: "a", SubjectID: "s", Embedding: good})

	vectors := map[string]struct {
		e    face.Embedding
		want face.Kind
	}{
		"nil":         {nil, face.Invalid},
		"NaN":         {nan, face.Invalid},
		"infinite":    {inf, face.Invalid},
		"zero":        {make(face.Embedding, 8), face.Invalid},
		"not of unit": {long, face.Invalid},
		"too long":    {randomUnitVector(rng, index.MaxDimension+1), face.Invalid},
		"other model": {randomUnitVector(rng, 9), face.ModelMismatch},
	}
	for name, v := range vectors {
		if err := x.Add(testKey("m"), index.Entry{TemplateID: "b", SubjectID: "s", Embedding: v.e}); !errors.Is(err, v.want) {
			t.Errorf("Add %s: %v, want %v", name, err, v.want)
		}
		if _, _, err := x.Search(t.Context(), testKey("m"), v.e, 1); !errors.Is(err, v.want) {
			t.Errorf("Search %s: %v, want %v", name, err, v.want)
		}
		// One bad entry keeps the good ones out.
		err := x.Add(testKey("m"), index.Entry{TemplateID: "c", SubjectID: "s", Embedding: good},
			index.Entry{TemplateID: "d", SubjectID: "s", Embedding: v.e})
		if err == nil {
			t.Errorf("Add of a good one and %s: no error", name)
		}
	}
	for name, ids := range map[string][]string{"there": {"c", "a"}, "twice": {"c", "d", "c"}} {
		var es []index.Entry
		for _, id := range ids {
			es = append(es, index.Entry{TemplateID: id, SubjectID: "new", Embedding: good})
		}
		if err := x.Add(testKey("m"), es...); !errors.Is(err, face.Conflict) {
			t.Errorf("Add of an id that is %s: %v, want Conflict", name, err)
		}
	}
	for _, k := range []int{0, -1} {
		if _, _, err := x.Search(t.Context(), testKey("m"), good, k); !errors.Is(err, face.Invalid) {
			t.Errorf("Search with k=%d: %v, want Invalid", k, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := x.Search(ctx, testKey("m"), good, 1); !errors.Is(err, face.Canceled) {
		t.Errorf("Search with an ended context: %v, want Canceled", err)
	}
	if got := x.Stats().Templates; got != 1 {
		t.Errorf("%d templates after what was refused, want 1", got)
	}
	checkSearch(t, x, testKey("m"), []index.Hit{{TemplateIDs: []string{"a"}, SubjectID: "s", Score: good.Cosine(good)}}, good, 5)
}
