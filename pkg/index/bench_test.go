package index_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

// filledIndex makes an index of n templates of unrelated people.
func filledIndex(b *testing.B, o index.Options, n, dim int) *index.Index {
	b.Helper()
	x := index.New(o)
	rng := rand.New(rand.NewPCG(1, 1))
	for from := 0; from < n; from += 16_384 {
		es := make([]index.Entry, min(16_384, n-from))
		for i := range es {
			es[i] = index.Entry{
				TemplateID: fmt.Sprintf("t%09d", from+i),
				SubjectID:  fmt.Sprintf("s%09d", from+i),
				Embedding:  fastUnitVector(rng, dim),
			}
		}
		mustAdd(b, x, testKey("m"), es...)
	}
	return x
}

// fastUnitVector is a random unit vector, made faster than [random] makes one: sums of
// four bytes are close enough to a normal distribution.
func fastUnitVector(rng *rand.Rand, dim int) face.Embedding {
	e := make(face.Embedding, dim)
	for i := range e {
		v := rng.Uint32()
		e[i] = float32(v&255+v>>8&255+v>>16&255+v>>24) - 510
	}
	u, err := e.Normalise()
	if err != nil {
		panic(err)
	}
	return u
}

// readAll is the yardstick: how fast a plain loop reads as many bytes as there
// are codes to be swept.
func readAll(words []uint64) uint64 {
	var a, b, c, d uint64
	for len(words) >= 8 {
		a += words[0] + words[4]
		b += words[1] + words[5]
		c += words[2] + words[6]
		d += words[3] + words[7]
		words = words[8:]
	}
	return a + b + c + d
}

// BenchmarkSearch identifies among templates of 256 numbers, ten candidates a
// search, on one core, and sets the time against that of a plain loop that
// reads as many bytes, taken in turn with it: ratio-to-read is the share of
// its speed that the sweep reaches.
func BenchmarkSearch(b *testing.B) {
	const dim = 256
	for _, size := range []struct {
		name string
		rows int
	}{{"1k", 1000}, {"100k", 100_000}, {"1M", 1_000_000}} {
		b.Run(size.name+"x256", func(b *testing.B) {
			x := filledIndex(b, index.Options{Workers: 1}, size.rows, dim)
			words := make([]uint64, size.rows*dim/8)
			for i := range words {
				words[i] = uint64(i)
			}
			rng := rand.New(rand.NewPCG(2, 2))
			var sum uint64
			var searches, reads []float64
			for b.Loop() {
				probe := fastUnitVector(rng, dim)
				start := time.Now()
				if _, _, err := x.Search(b.Context(), testKey("m"), probe, 10); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				sum += readAll(words)
				reads = append(reads, time.Since(middle).Seconds())
				searches = append(searches, middle.Sub(start).Seconds())
			}
			if sum == 1 {
				b.Log("the sum is used, so that it is computed")
			}
			slices.Sort(searches)
			slices.Sort(reads)
			p50 := searches[len(searches)/2]
			b.ReportMetric(1e3*p50, "p50-ms")
			b.ReportMetric(1e3*searches[len(searches)*95/100], "p95-ms")
			b.ReportMetric(float64(size.rows*dim)/p50/1e9, "GB/s")
			b.ReportMetric(reads[len(reads)/2]/p50, "ratio-to-read")
		})
	}
}

// BenchmarkKernel sweeps 100,000 templates of 256 numbers with each kernel.
func BenchmarkKernel(b *testing.B) {
	for _, kernel := range index.Kernels() {
		b.Run(kernel.String(), func(b *testing.B) {
			x := filledIndex(b, index.Options{Workers: 1, Kernel: kernel}, 100_000, 256)
			rng := rand.New(rand.NewPCG(2, 2))
			for b.Loop() {
				if _, _, err := x.Search(b.Context(), testKey("m"), fastUnitVector(rng, 256), 10); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAdd loads templates of 256 numbers, 8,192 a call.
func BenchmarkAdd(b *testing.B) {
	es := entries(8192, func(i int) int { return i }, func(int) face.Embedding { return nil })
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range es {
		es[i].Embedding = fastUnitVector(rng, 256)
	}
	x, n := index.New(index.Options{}), 0
	for b.Loop() {
		for i := range es {
			es[i].TemplateID = fmt.Sprintf("t%09d", n)
			es[i].SubjectID = fmt.Sprintf("s%09d", n)
			n++
		}
		mustAdd(b, x, testKey("m"), es...)
		if n > 1_000_000 {
			x.RemoveGallery("default", "default")
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(es)), "ns/template")
}
