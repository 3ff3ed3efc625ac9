package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
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
			from, err := s.await(ctx, job, func(j styleJob) bool { return j.Iteration > 0 })
			if err != nil {
				return err
			}
			began := time.Now()
			if err := measure(&beside); err != nil {
				return err
			}
			to, err := s.await(ctx, job, func(styleJob) bool { return true })
			if err != nil {
				return err
			}
			if to.State != "running" {
				return fmt.Errorf("the job is %s: it ended within the round", to.State)
			}
			iterations, seconds = iterations+float64(to.Iteration-from.Iteration), seconds+time.Since(began).Seconds()
			if err := s.call(ctx, http.MethodDelete, "/style-transfer/"+job, nil); err != nil {
				return err
			}
			if _, err := s.await(ctx, job, func(j styleJob) bool { return j.State == "canceled" }); err != nil {
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

type styleJob struct {
	ID        string `json:"job_id"`
	State     string `json:"state"`
	Iteration int    `json:"iteration"`
}

// submit starts a job that takes longer than any round.
func (s *server) submit(ctx context.Context, content, style []byte) (string, error) {
	r := form("POST", "/style-transfer", http.StatusAccepted, "content", content, "style", style, "params", `{"size":512,"iterations":5000}`)
	req, err := http.NewRequestWithContext(ctx, r.method, s.url+r.path, bytes.NewReader(r.body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", r.contentType)
	var job styleJob
	err = answer(req, &job)
	return job.ID, err
}

// await asks for a job until it is as it should be.
func (s *server) await(ctx context.Context, job string, is func(styleJob) bool) (j styleJob, err error) {
	for {
		if err := s.call(ctx, http.MethodGet, "/style-transfer/"+job, &j); err != nil || is(j) {
			return j, err
		}
		if j.State == "failed" || j.State == "succeeded" {
			return j, fmt.Errorf("job %s has %s", job, j.State)
		}
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *server) call(ctx context.Context, method, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, nil)
	if err != nil {
		return err
	}
	return answer(req, into)
}

// answer sends a request that must succeed.
func answer(req *http.Request, into any) error {
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %d: %s", req.Method, req.URL.Path, res.StatusCode, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
