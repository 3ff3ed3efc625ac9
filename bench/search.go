package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

// search times identification in the in-memory index with one thread, in turns
// with a plain loop that reads as many bytes as the index's int8 codes have.
// The largest gallery does not fit into a cache, so the loop measures the
// memory's bandwidth. The report gives the speed of each search as a fraction
// of that bandwidth, and of the loop's speed at the same size, which for a
// small gallery is the speed of a cache.
func (b *bench) search(ctx context.Context) error {
	const dim, probes, each = 256, 60, 4 // templates of a person
	b.printf("## Identification, %d dimensions, k = 5, one thread\n\n"+
		"Templates are of unrelated people, four each, mates at a cosine of about 0.6; an index has a row for each person. Probes are half mates, half strangers.\n\n"+
		"| templates | p50 ms | p95 ms | GB/s of codes | of the memory's bandwidth | plain loop p50 ms | of the plain loop | all cores p50 ms |\n|---|---|---|---|---|---|---|---|\n", dim)
	type result struct {
		templates                            int
		p50, p95, loop, allCores, throughput float64 // ms, and GB/s
	}
	var results []result
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{1_000, 100_000, 1_000_000} {
		one, all := index.New(index.Options{Workers: 1}), index.New(index.Options{})
		key := index.Key{Tenant: "bench", Gallery: "g", ModelID: "m"}
		var mates []face.Embedding
		for at := 0; at < n; {
			var entries []index.Entry
			for len(entries) < 10_000 && at < n {
				centre := randomUnitVector(rng, dim)
				for t := 0; t < each && at < n; t++ {
					e := vectorAtCosine(rng, centre, 0.775) // the cosine of two such is 0.775 squared
					entries = append(entries, index.Entry{TemplateID: strconv.Itoa(at), SubjectID: strconv.Itoa(at / each), Embedding: e})
					at++
				}
				if len(mates) < probes/2 {
					mates = append(mates, vectorAtCosine(rng, centre, 0.775))
				}
			}
			for _, x := range []*index.Index{one, all} {
				if err := x.Add(key, entries...); err != nil {
					return err
				}
			}
			if at%200_000 == 0 {
				fmt.Fprintf(os.Stderr, "bench: search: %d of %d templates\n", at, n)
			}
		}
		words := make([]uint64, n/each*dim/8)
		for i := range words {
			words[i] = uint64(i)
		}
		runtime.GC()
		var single, parallel, read []time.Duration
		var sink uint64
		for i := range probes {
			probe := randomUnitVector(rng, dim)
			if i%2 == 0 {
				probe = mates[i/2%len(mates)]
			}
			for _, side := range []struct {
				x     *index.Index
				times *[]time.Duration
			}{{one, &single}, {all, &parallel}} {
				start := time.Now()
				if _, _, err := side.x.Search(ctx, key, probe, 5); err != nil {
					return err
				}
				*side.times = append(*side.times, time.Since(start))
			}
			start := time.Now()
			sink += sumWords(words)
			read = append(read, time.Since(start))
		}
		r := result{
			templates: n, p50: ms(quantile(single, 0.5)), p95: ms(quantile(single, 0.95)),
			loop: ms(quantile(read, 0.5)), allCores: ms(quantile(parallel, 0.5)),
		}
		r.throughput = float64(n/each*dim) / r.p50 / 1e6
		results = append(results, r)
		runtime.KeepAlive(sink)
	}
	largest := results[len(results)-1]
	bandwidth := float64(largest.templates/each*dim) / largest.loop / 1e6
	for _, r := range results {
		b.printf("| %d | %.3f | %.3f | %.1f | %.2f | %.3f | %.2f | %.3f |\n",
			r.templates, r.p50, r.p95, r.throughput, r.throughput/bandwidth, r.loop, r.loop/r.p50, r.allCores)
	}
	b.printf("\nThe memory's bandwidth, by the plain loop over %d MB: %.1f GB/s.\n\n", largest.templates/each*dim/1e6, bandwidth)
	return nil
}

// sumWords reads every word, eight at a time, so that the loop waits only for
// the memory.
func sumWords(words []uint64) uint64 {
	var a, b, c, d uint64
	for len(words) >= 8 {
		w := words[:8]
		a += w[0] + w[4]
		b += w[1] + w[5]
		c += w[2] + w[6]
		d += w[3] + w[7]
		words = words[8:]
	}
	return a + b + c + d
}

func randomUnitVector(rng *rand.Rand, dim int) face.Embedding {
	e := make(face.Embedding, dim)
	var sum float64
	for i := range e {
		v := rng.NormFloat64()
		e[i], sum = float32(v), sum+v*v
	}
	for i := range e {
		e[i] = float32(float64(e[i]) / math.Sqrt(sum))
	}
	return e
}

// vectorAtCosine is a unit vector whose cosine with centre is about the given one.
func vectorAtCosine(rng *rand.Rand, centre face.Embedding, cosine float64) face.Embedding {
	noise, e := randomUnitVector(rng, len(centre)), make(face.Embedding, len(centre))
	for i := range e {
		e[i] = float32(cosine*float64(centre[i]) + math.Sqrt(1-cosine*cosine)*float64(noise[i]))
	}
	out, err := e.Normalise()
	if err != nil { // two unit vectors that cancel out: as good as never
		return centre
	}
	return out
}
