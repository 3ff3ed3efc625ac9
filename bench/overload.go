package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"time"
)

// overload sends ten times as many requests as the server can answer, at random
// times, without waiting for answers. It compares the latency of admitted
// requests with that of an idle server. Clients and server share the cores, so
// the figures include the cost of refusing.
func (b *bench) overload(ctx context.Context) error {
	s, subjects, people, err := b.populated(ctx, 24, "LIKENESS_QUEUE_TIME=0s")
	if err != nil {
		return err
	}
	reqs := make([]request, len(people))
	for i, photo := range people {
		reqs[i] = form("POST", "/verify", 200, "probe", photo, "subject_id", subjects[i], "face", "largest")
	}
	length := b.Round * time.Duration(b.Rounds)
	var unloaded []time.Duration
	if _, _, err := load(func(i int) error {
		start := time.Now()
		err := s.send(ctx, reqs[i%len(reqs)])
		unloaded = append(unloaded, time.Since(start))
		return err
	}, 1, length); err != nil {
		return err
	}
	// As many clients as slots: no request waits, and no slot is free for long.
	capacity, _, err := load(func(i int) error { return s.send(ctx, reqs[i%len(reqs)]) }, runtime.GOMAXPROCS(0), length)
	if err != nil {
		return err
	}
	b.printf("## POST /verify under overload, 250x250 photos\n\nRequests come at random for %s each. The server has %d slots and answers %.1f requests per s.\n\n"+
		"| requests | per s | admitted per s | p50 ms | p99 ms | p99 against unloaded | refused | p99 of refusals ms |\n|---|---|---|---|---|---|---|---|\n",
		length, runtime.GOMAXPROCS(0), capacity)
	p99 := quantile(unloaded, 0.99)
	rate := float64(len(unloaded)) / length.Seconds()
	b.printf("| one after the other | %.1f | %.1f | %.1f | %.1f | 1 | 0 %% | |\n", rate, rate, ms(quantile(unloaded, 0.5)), ms(p99))
	for _, times := range []float64{0.5, 1, 2, 10} {
		admitted, refused, err := s.flood(ctx, reqs, times*capacity, length)
		if err != nil {
			return err
		}
		if len(admitted) == 0 {
			return fmt.Errorf("nothing was admitted of %d requests", len(refused))
		}
		refusals := ""
		if len(refused) > 0 {
			refusals = fmt.Sprintf("%.1f", ms(quantile(refused, 0.99)))
		}
		loaded := quantile(admitted, 0.99)
		b.printf("| %g times what it answers | %.1f | %.1f | %.1f | %.1f | %.2f | %.1f %% | %s |\n", times,
			float64(len(admitted)+len(refused))/length.Seconds(), float64(len(admitted))/length.Seconds(),
			ms(quantile(admitted, 0.5)), ms(loaded), float64(loaded)/float64(p99),
			100*float64(len(refused))/float64(len(admitted)+len(refused)), refusals)
	}
	b.printf("\n")
	return s.stop()
}

// flood sends requests at a rate for a while and returns the times of those
// that were answered 200, and of those that were answered 503.
func (s *server) flood(ctx context.Context, reqs []request, rate float64, length time.Duration) (admitted, refused []time.Duration, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	random := rand.New(rand.NewPCG(1, 2))
	next := time.Now()
	for i, end := 0, next.Add(length); next.Before(end); i++ {
		time.Sleep(time.Until(next))
		next = next.Add(time.Duration(random.ExpFloat64() / rate * float64(time.Second)))
		all.Go(func() {
			start := time.Now()
			status, answer, e := s.exchange(ctx, reqs[i%len(reqs)])
			took := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e != nil:
				err = e
			case status == http.StatusOK:
				admitted = append(admitted, took)
			case status == http.StatusServiceUnavailable:
				refused = append(refused, took)
			default:
				err = fmt.Errorf("under overload: %d: %s", status, answer)
			}
		})
	}
	all.Wait()
	return admitted, refused, err
}
