package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// builtins compares the milliseconds of POST /verify on two servers, one with
// the built-in models and one with yunet_n and mobileface-v2. One client sends
// each request to both, one after the other; which comes first alternates.
func (b *bench) builtins(ctx context.Context) (err error) {
	models := [2][2]string{{"builtin-detector", "builtin-encoder"}, {"yunet_n", "mobileface-v2"}}
	people, err := b.people(48)
	if err != nil {
		return err
	}
	var servers [2]*server
	for i, m := range models {
		s, err := b.startServer(ctx, "LIKENESS_DETECTOR="+m[0], "LIKENESS_ENCODER="+m[1])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
		servers[i] = s
	}

	b.printf("## POST /verify with %s + %s against %s + %s\n\nOne client, each request to both servers in turn, %s a row. "+
		"Milliseconds are medians; the ratio is the median of the turns', with that of each third of the run.\n\n"+
		"| photos | request | turns | built-in ms | yardstick ms | ratio | thirds |\n|---|---|---|---|---|---|---|\n",
		models[0][0], models[0][1], models[1][0], models[1][1], b.Round*time.Duration(b.Rounds))
	for i, size := range sizes() {
		photos, ids, err := b.enrolledOnBoth(ctx, servers, people, size, fmt.Sprintf("n%d-", i))
		if err != nil {
			return err
		}
		for _, kind := range []string{"subject_id", "reference"} {
			requests := make([]request, len(photos))
			for i, photo := range photos {
				var other any = ids[i]
				if kind == "reference" {
					other = photos[(i+1)%len(photos)]
				}
				requests[i] = form("POST", "/verify", 200, "probe", photo, kind, other, "face", "largest")
			}
			times, ratios, err := inTurns(ctx, servers, requests, b.Round*time.Duration(b.Rounds))
			if err != nil {
				return err
			}
			var thirds [3]float64
			for i := range thirds {
				thirds[i] = median(slices.Clone(ratios[i*len(ratios)/3 : (i+1)*len(ratios)/3]))
			}
			b.printf("| %s | probe + %s | %d | %.2f | %.2f | %.3f | %.2f %.2f %.2f |\n", size.name, kind, len(ratios),
				ms(quantile(times[0], 0.5)), ms(quantile(times[1], 0.5)), median(ratios), thirds[0], thirds[1], thirds[2])
		}
	}
	b.printf("\n")
	return nil
}

// enrolledOnBoth enrols people on both servers and returns the photos, in the
// given size, of those that both accepted.
func (b *bench) enrolledOnBoth(ctx context.Context, servers [2]*server, people [][]byte, size size, prefix string) (photos [][]byte, ids []string, err error) {
	for i, photo := range people {
		if photo, err = enlarge(photo, size); err != nil {
			return nil, nil, err
		}
		id, taken := fmt.Sprintf("%s%d", prefix, i), true
		for _, s := range servers {
			ok, err := s.enrolOne(ctx, id, photo)
			if err != nil {
				return nil, nil, err
			}
			taken = taken && ok
		}
		if taken {
			photos, ids = append(photos, photo), append(ids, id)
		}
	}
	if len(ids) < len(people)/2 {
		return nil, nil, fmt.Errorf("only %d of %d photos could be enrolled", len(ids), len(people))
	}
	return photos, ids, nil
}

// inTurns sends the requests to both servers in turns for a while. It returns
// the times of each, and the ratio of each pair.
func inTurns(ctx context.Context, servers [2]*server, requests []request, length time.Duration) (times [2][]time.Duration, ratios []float64, err error) {
	const warm = 6 // the first are not like the rest
	start := time.Now()
	for turn := 0; turn < warm+3 || time.Since(start) < length; turn++ {
		var took [2]time.Duration
		for _, i := range [][]int{{0, 1}, {1, 0}}[turn%2] {
			at := time.Now()
			if err := servers[i].send(ctx, requests[turn%len(requests)]); err != nil {
				return times, nil, err
			}
			took[i] = time.Since(at)
		}
		if turn < warm {
			continue
		}
		times[0], times[1] = append(times[0], took[0]), append(times[1], took[1])
		ratios = append(ratios, float64(took[0])/float64(took[1]))
	}
	return times, ratios, nil
}
