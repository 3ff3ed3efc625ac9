package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// memory sends mixed requests, four at a time, and compares the server's
// resident memory after a tenth of them with that at the end: a server that
// keeps growing is killed in the end.
func (b *bench) memory(ctx context.Context) error {
	s, subjects, people, err := b.populated(ctx, 64)
	if err != nil {
		return err
	}
	var mix []request
	for i, photo := range people {
		other := people[(i+1)%len(people)]
		mix = append(mix,
			form("POST", "/verify", 200, "probe", photo, "subject_id", subjects[i], "face", "largest"),
			form("POST", "/verify", 200, "probe", photo, "reference", other, "face", "largest"),
			form("POST", "/recognize", 200, "probe", photo),
			form("POST", "/detect", 200, "image", photo),
			form("POST", "/embed", 200, "image", photo, "face", "largest"),
			request{"GET", "/galleries/default/subjects?limit=20", "", nil, 200},
			form("POST", "/detect", 400, "image", photo[:len(photo)/2]),
			form("POST", "/detect", 415, "image", []byte(strings.Repeat("not a photo ", 50))),
			request{"GET", "/nothing/here", "", nil, 404},
		)
		if i%8 == 0 {
			for _, size := range sizes()[1:] {
				big, err := enlarge(photo, size)
				if err != nil {
					return err
				}
				mix = append(mix, form("POST", "/recognize", 200, "probe", big))
			}
		}
	}
	first := b.Requests / 10
	var sent atomic.Int64
	var failed atomic.Pointer[error]
	sendUntil := func(total int) error {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for failed.Load() == nil {
					i := int(sent.Add(1))
					if i > total {
						sent.Add(-1)
						return
					}
					if err := s.send(ctx, mix[i%len(mix)]); err != nil {
						failed.CompareAndSwap(nil, &err)
					}
					if i%1000 == 0 {
						fmt.Fprintf(os.Stderr, "bench: memory: %d of %d requests\n", i, b.Requests)
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return *err
		}
		return nil
	}
	start := time.Now()
	var rss [2]float64
	for i, total := range []int{first, b.Requests} {
		if err := sendUntil(total); err != nil {
			return err
		}
		if rss[i], err = s.metric(ctx, "process_resident_memory_bytes"); err != nil {
			return err
		}
	}
	b.printf("## Memory over %d mixed requests\n\n| after | RSS MiB |\n|---|---|\n| %d | %.1f |\n| %d | %.1f |\n\nGrowth %.1f %%, in %s.\n\n",
		b.Requests, first, rss[0]/(1<<20), b.Requests, rss[1]/(1<<20), 100*(rss[1]/rss[0]-1), time.Since(start).Round(time.Second))
	return s.stop()
}
