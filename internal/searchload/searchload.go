// Package searchload compares search engines. It sends the same searches to
// each, in turns, so that a slower moment of the machine affects all of them,
// and reports how fast each was and how often it was right.
package searchload

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
)

// Engine answers searches.
type Engine struct {
	Name string
	// Search returns the subject in the first place, or "".
	Search func(ctx context.Context, probe face.Embedding) (subject string, err error)
}

// Near returns a random unit vector whose cosine with v is about the given one.
func Near(rng *rand.Rand, v face.Embedding, cosine float64) face.Embedding {
	noise := make(face.Embedding, len(v))
	for i := range noise {
		noise[i] = float32(rng.NormFloat64())
	}
	return Towards(v, noise, cosine)
}

// Towards returns a unit vector in the plane of v and direction whose cosine
// with v is the given one.
func Towards(v, direction face.Embedding, cosine float64) face.Embedding {
	// The part of direction along v would change the cosine.
	var along, square float64
	for i := range v {
		along += float64(v[i]) * float64(direction[i])
	}
	off := make([]float64, len(v))
	for i := range v {
		off[i] = float64(direction[i]) - along*float64(v[i])
		square += off[i] * off[i]
	}
	if square == 0 {
		return slices.Clone(v)
	}
	scale := math.Sqrt((1 - cosine*cosine) / square)
	out := make(face.Embedding, len(v))
	for i := range v {
		out[i] = float32(cosine*float64(v[i]) + scale*off[i])
	}
	return out
}

// Answers searches an engine for each probe, several at a time, and calls done
// after each answer.
func Answers(ctx context.Context, e Engine, probes []face.Embedding, clients int, done func()) ([]string, error) {
	out := make([]string, len(probes))
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i, p := range probes {
		if asking.Err() != nil {
			break
		}
		group.Go(func() (err error) {
			if out[i], err = e.Search(asking, p); err == nil {
				done()
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err()
}

// Recall is the share of answers that equal the truth.
func Recall(answers, truth []string) float64 {
	right := 0
	for i, a := range answers {
		if a == truth[i] {
			right++
		}
	}
	return float64(right) / float64(max(len(answers), 1))
}

// Load is the result of one engine for a number of clients.
type Load struct {
	Queries  int
	P50, P95 time.Duration
	QPS      float64
}

// Measure runs the clients against each engine for a while, in turns, once in
// every round, and calls done after each turn. Every client searches at least
// once in a turn.
func Measure(ctx context.Context, engines []Engine, probes []face.Embedding, clients, rounds int, turn time.Duration, done func()) ([]Load, error) {
	times := make([][]time.Duration, len(engines))
	spent := make([]time.Duration, len(engines))
	for range rounds {
		for i, e := range engines {
			took, elapsed, err := takeTurn(ctx, e, probes, clients, turn)
			if err != nil {
				return nil, err
			}
			times[i], spent[i] = append(times[i], took...), spent[i]+elapsed
			done()
		}
	}
	loads := make([]Load, len(engines))
	for i := range engines {
		loads[i] = Load{
			Queries: len(times[i]), P50: Quantile(times[i], 0.5), P95: Quantile(times[i], 0.95),
			QPS: float64(len(times[i])) / max(spent[i].Seconds(), 1e-9),
		}
	}
	return loads, nil
}

// takeTurn runs one turn of one engine.
func takeTurn(ctx context.Context, e Engine, probes []face.Embedding, clients int, turn time.Duration) (times []time.Duration, elapsed time.Duration, err error) {
	var next atomic.Int64
	var mu sync.Mutex
	group, asking := errgroup.WithContext(ctx)
	start := time.Now()
	for range clients {
		group.Go(func() error {
			var mine []time.Duration
			for len(mine) == 0 || time.Since(start) < turn {
				p := probes[int(next.Add(1))%len(probes)]
				at := time.Now()
				if _, err := e.Search(asking, p); err != nil {
					return err
				}
				mine = append(mine, time.Since(at))
			}
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			return nil
		})
	}
	err = group.Wait()
	return times, time.Since(start), err
}

// Quantile is the q-th quantile (0..1) of times, which it sorts; 0 of none.
func Quantile(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[min(int(q*float64(len(times))), len(times)-1)]
}
