package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/likeness-id/likeness/pkg/embed"
)

// verify compares requests per second of POST /verify with the same work done
// by the bare pipeline in one process. The two sides take turns; the clients
// run on the server's own cores, and what they cost is counted against it.
func (b *bench) verify(ctx context.Context) error {
	p, err := b.open(ctx, nil)
	if err != nil {
		return err
	}
	defer p.Close()
	s, subjects, people, err := b.populated(ctx, 48)
	if err != nil {
		return err
	}

	b.printf("## POST /verify against the bare pipeline, 250x250 photos\n\nMedian of %d rounds of %s a side, taking turns.\n\n"+
		"| request | clients | /verify per s | bare per s | ratio | KiB allocated a request |\n|---|---|---|---|---|---|\n", b.Rounds, b.Round)
	for _, kind := range verifications(subjects, people) {
		http := kind.send(ctx, s)
		bare := func(i int) error {
			for n := range kind.photos {
				if _, err := p.Embed(ctx, people[(i+n)%len(people)], embed.PickLargest); err != nil {
					return err
				}
			}
			return nil
		}
		for _, clients := range []int{1, 2, 4, 8, 16} {
			var httpRate, bareRate []float64
			var allocated, requests float64
			for range b.Rounds {
				rate, _, err := load(bare, clients, b.Round)
				if err != nil {
					return err
				}
				bareRate = append(bareRate, rate)
				before, err := s.metric(ctx, "go_memstats_alloc_bytes_total")
				if err != nil {
					return err
				}
				rate, n, err := load(http, clients, b.Round)
				if err != nil {
					return err
				}
				after, err := s.metric(ctx, "go_memstats_alloc_bytes_total")
				if err != nil {
					return err
				}
				httpRate = append(httpRate, rate)
				allocated, requests = allocated+after-before, requests+float64(n)
			}
			h, w := median(httpRate), median(bareRate)
			b.printf("| %s | %d | %.1f | %.1f | %.2f | %.0f |\n", kind.name, clients, h, w, h/w, allocated/requests/1024)
		}
	}
	b.printf("\n")
	return s.stop()
}

// verification is a kind of request to POST /verify.
type verification struct {
	name   string
	photos int // that one request takes through the pipeline
	reqs   []request
}

// verifications are requests of each kind, one for each enrolled person.
func verifications(subjects []string, people [][]byte) []verification {
	bySubject, byImage := make([]request, len(people)), make([]request, len(people))
	for i, photo := range people {
		bySubject[i] = form("POST", "/verify", 200, "probe", photo, "subject_id", subjects[i], "face", "largest")
		byImage[i] = form("POST", "/verify", 200, "probe", photo, "reference", people[(i+1)%len(people)], "face", "largest")
	}
	return []verification{{"probe + subject_id", 1, bySubject}, {"probe + reference", 2, byImage}}
}

// send returns the work of sending the i-th request to a server.
func (v verification) send(ctx context.Context, s *server) func(i int) error {
	return func(i int) error { return s.send(ctx, v.reqs[i%len(v.reqs)]) }
}

// against compares requests per second of POST /verify of the server with
// those of another build of it, the yardstick. Both run all the time and are
// put under load in turns.
func (b *bench) against(ctx context.Context) (err error) {
	if b.Against == "" {
		return errors.New("--against is missing: it names the other build of the server")
	}
	other := *b
	other.Server = b.Against
	var servers [2]*server
	var kinds [2][]verification
	for i, build := range []*bench{b, &other} {
		s, subjects, people, err := build.populated(ctx, 48)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers[i], kinds[i] = s, verifications(subjects, people)
	}
	b.printf("## POST /verify against another build, 250x250 photos\n\nMedian of %d rounds of %s a side, taking turns.\n\n"+
		"| request | clients | per s | yardstick per s | ratio |\n|---|---|---|---|---|\n", b.Rounds, b.Round)
	for k, kind := range kinds[0] {
		for _, clients := range []int{1, 2, 4, 8, 16} {
			var rates [2][]float64
			for range b.Rounds {
				for i, s := range servers {
					rate, _, err := load(kinds[i][k].send(ctx, s), clients, b.Round)
					if err != nil {
						return err
					}
					rates[i] = append(rates[i], rate)
				}
			}
			own, yardstick := median(rates[0]), median(rates[1])
			b.printf("| %s | %d | %.1f | %.1f | %.2f |\n", kind.name, clients, own, yardstick, own/yardstick)
		}
	}
	b.printf("\n")
	return nil
}

// load runs work in several goroutines for a while and returns how often it was
// done, per second and in total.
func load(work func(i int) error, clients int, length time.Duration) (rate float64, done int64, err error) {
	var next, finished atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, clients)
	start := time.Now()
	for range clients {
		wg.Go(func() {
			for time.Since(start) < length {
				if err := work(int(next.Add(1))); err != nil {
					errs <- fmt.Errorf("under load: %w", err)
					return
				}
				finished.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	close(errs)
	return float64(finished.Load()) / took.Seconds(), finished.Load(), <-errs
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
