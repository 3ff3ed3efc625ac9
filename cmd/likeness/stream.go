package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// streamIdle is how long a stream may stand still before it is given up.
const streamIdle = 2 * time.Minute

// stream sends a request whose answer, and body, may take any time in all. What
// the server refuses is a *problem; again says how long to wait before the
// request may be sent once more, and is less than 0 where that would not help.
func (c *client) stream(ctx context.Context, method string, where *url.URL, body io.Reader) (answer io.ReadCloser, again time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	watch := &idleWatch{cancel: cancel, timer: time.AfterFunc(streamIdle, cancel)}
	if body != nil {
		body = watchedReader{body, watch}
	}
	req, err := http.NewRequestWithContext(ctx, method, where.String(), body)
	if err != nil {
		watch.stop()
		return nil, -1, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/x-ndjson")
	}
	req.Header.Set("Accept", "application/x-ndjson, application/problem+json")
	req.Header.Set("User-Agent", "likeness/"+version)
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	resp, err := (&http.Client{Transport: c.http.Transport, CheckRedirect: c.http.CheckRedirect}).Do(req)
	if err != nil {
		watch.stop()
		return nil, 0, err
	}
	if resp.StatusCode == http.StatusOK {
		return &watchedBody{watchedReader{resp.Body, watch}, resp.Body}, 0, nil
	}
	defer watch.stop()
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, 0, err
	}
	r := response{status: resp.StatusCode, body: b}
	again = -1
	if r.status == http.StatusTooManyRequests || r.status >= 500 {
		again = retryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return nil, again, r.problem()
}

// idleWatch cancels a stream on which nothing happens.
type idleWatch struct {
	cancel context.CancelFunc
	mu     sync.Mutex
	timer  *time.Timer
	ended  bool
}

func (w *idleWatch) touch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(streamIdle)
	}
}

func (w *idleWatch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel()
}

type watchedReader struct {
	io.Reader
	watch *idleWatch
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.watch.touch()
	return n, err
}

type watchedBody struct {
	watchedReader
	body io.Closer
}

// Close ends the stream, whatever is still under way.
func (b *watchedBody) Close() error {
	b.watch.stop()
	return b.body.Close()
}

// patience lets a transfer go on after a fault, as long as it gets anywhere.
type patience struct {
	failures int // since it last got further
	wait     time.Duration
}

// progressed forgets the faults before.
func (p *patience) progressed() { p.failures, p.wait = 0, firstWait }

// bear waits before the next attempt, or returns the fault when there is to be
// none. again is as of [client.stream].
func (p *patience) bear(ctx context.Context, t *tool, again time.Duration, fault error) error {
	p.failures++
	p.wait = max(p.wait, firstWait)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if again < 0 || again > longestWait || p.failures == attempts {
		return fault
	}
	// Longer each time: a server needs a while to notice that a connection is
	// gone, and until then the key's import is still under way.
	again, p.wait = max(again, p.wait), 2*p.wait
	fmt.Fprintf(t.stderr, "likeness: %v; going on in %v\n", fault, again)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(again):
		return nil
	}
}
