package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/client"
)

// doors measures how much longer POST /verify takes while the server works on
// a style-transfer job: rounds without and with a job take turns.
func (b *bench) doors(ctx context.Context) error {
	s, subjects, people, err := b.populated(ctx, 48)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	requests := make([]request, len(people))
	for i, photo := range people {
		requests[i] = form("POST", "/verify", 200, "probe", photo, "subject_id", subjects[i], "face", "largest")
	}
	var content, style bytes.Buffer
	if err := errors.Join(png.Encode(&content, wavesPicture(640, 480, 0.02)), png.Encode(&style, wavesPicture(512, 512, 0.15))); err != nil {
		return err
	}
	b.printf("## POST /verify beside a style-transfer job (512 px), 250x250 photos\n\n%d rounds of %s a side, taking turns; "+
		"quantiles over all requests of a side.\n\n| clients | p50 ms alone | p50 ms with a job | p95 ms alone | p95 ms with a job | p95 ratio | iterations/s of the job |\n|---|---|---|---|---|---|---|\n",
		b.Rounds, b.Round)
	for _, clients := range []int{1, 2} {
		var mu sync.Mutex
		var alone, beside []time.Duration
		measure := func(into *[]time.Duration) error {
			_, _, err := load(func(i int) error {
				at := time.Now()
				err := s.send(ctx, requests[i%len(requests)])
				took := time.Since(at)
				mu.Lock()
				defer mu.Unlock()
				*into = append(*into, took)
				return err
			}, clients, b.Round)
			return err
		}
		var iterations, seconds float64
		for range b.Rounds {
			if err := measure(&alone); err != nil {
				return err
			}
			job, err := s.submit(ctx, content.Bytes(), style.Bytes())
			if err != nil {
				return err
			}
			from, err := s.await(ctx, job, func(j *client.StyleTransfer) bool { return j.Iteration > 0 })
			if err != nil {
				return err
			}
			began := time.Now()
			if err := measure(&beside); err != nil {
				return err
			}
			to, err := s.await(ctx, job, func(*client.StyleTransfer) bool { return true })
			if err != nil {
				return err
			}
			if to.State != client.JobStateRunning {
				return fmt.Errorf("the job is %s: it ended within the round", to.State)
			}
			iterations, seconds = iterations+float64(to.Iteration-from.Iteration), seconds+time.Since(began).Seconds()
			if _, err := s.api.DeleteStyleTransfer(ctx, job); err != nil {
				return err
			}
			if _, err := s.await(ctx, job, func(j *client.StyleTransfer) bool { return j.State == client.JobStateCanceled }); err != nil {
				return err
			}
		}
		slices.Sort(alone)
		slices.Sort(beside)
		a, w := quantile(alone, 0.95), quantile(beside, 0.95)
		b.printf("| %d | %.1f | %.1f | %.1f | %.1f | %.2f | %.1f |\n", clients, ms(quantile(alone, 0.5)), ms(quantile(beside, 0.5)), ms(a), ms(w), ms(w)/ms(a), iterations/seconds)
	}
	b.printf("\n")
	return err
}

// wavesPicture is a picture with something in it.
func wavesPicture(w, h int, pitch float64) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := func(a, c float64) uint8 {
				return uint8(127.5 + 120*math.Sin(pitch*(a*float64(x)+c*float64(y)+20*math.Sin(float64(x+y)/40))))
			}
			img.SetRGBA(x, y, color.RGBA{v(1, 0.3), v(0.2, 1), v(0.7, -0.6), 255})
		}
	}
	return img
}

// submit starts a job that takes longer than any round.
func (s *server) submit(ctx context.Context, content, style []byte) (job string, err error) {
	accepted, err := s.api.StartStyleTransfer(ctx, client.StyleTransferForm{
		Content: client.PhotoBytes(content), Style: []client.Photo{client.PhotoBytes(style)},
		Params: &client.StyleParams{Size: new(512), Iterations: new(5000)},
	})
	if err != nil {
		return "", err
	}
	return accepted.JobID, nil
}

// await asks for a job until it is as it should be. It asks, and does not
// follow the job's events, so that what is measured is the state of this moment.
func (s *server) await(ctx context.Context, job string, is func(*client.StyleTransfer) bool) (*client.StyleTransfer, error) {
	for {
		j, err := s.api.GetStyleTransfer(ctx, job)
		if err != nil || is(j) {
			return j, err
		}
		if j.State == client.JobStateFailed || j.State == client.JobStateSucceeded {
			return j, fmt.Errorf("job %s has %s", job, j.State)
		}
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}
