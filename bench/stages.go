package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/likeness-id/likeness/pkg/embed"
)

// stages times each stage of the pipeline alone on one photo at a time, and
// counts the bytes that one photo leaves to the garbage collector.
func (b *bench) stages(ctx context.Context) error {
	const warm, photosEach = 5, 40
	spent := map[string]time.Duration{}
	p, err := b.open(ctx, func(stage string, seconds float64) {
		spent[stage] += time.Duration(seconds * float64(time.Second))
	})
	if err != nil {
		return err
	}
	defer p.Close()
	people, err := b.people(photosEach)
	if err != nil {
		return err
	}
	b.printf("## One photo through the pipeline, one at a time\n\n| photo | decode ms | detect ms | align ms | encode ms | whole ms | KiB allocated |\n|---|---|---|---|---|---|---|\n")
	for _, s := range sizes() {
		var set [][]byte
		for _, photo := range people[:min(len(people), photosEach)] {
			big, err := enlarge(photo, s)
			if err != nil {
				return err
			}
			set = append(set, big)
		}
		embedAll := func(photos [][]byte) error {
			for _, photo := range photos {
				if _, err := p.Embed(ctx, photo, embed.PickLargest); err != nil {
					return fmt.Errorf("%s: %w", s.name, err)
				}
			}
			return nil
		}
		if err := embedAll(set[:min(warm, len(set))]); err != nil {
			return err
		}
		clear(spent)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		if err := embedAll(set); err != nil {
			return err
		}
		whole := time.Since(start)
		runtime.ReadMemStats(&after)
		n := time.Duration(len(set))
		b.printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %.0f |\n", s.name,
			ms(spent["decode"]/n), ms(spent["detect"]/n), ms(spent["align"]/n), ms(spent["encode"]/n), ms(whole/n),
			float64(after.TotalAlloc-before.TotalAlloc)/float64(n)/1024)
	}
	b.printf("\n")
	return nil
}
