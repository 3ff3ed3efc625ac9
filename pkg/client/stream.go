package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// errContent is behind an error about a stream that carries something else than
// the contract says.
var errContent = errors.New("this is not what the contract says")

// stream sends a request whose body and answer may take any time in all, once.
// Where nothing happens for as long as Options.IdleTimeout, it is cut off.
func (c *Client) stream(ctx context.Context, r request, body io.Reader, kind string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	watch := newWatch(c.options.IdleTimeout, cancel)
	req, err := c.newRequest(ctx, r)
	if err != nil {
		watch.stop()
		return nil, err
	}
	if body != nil {
		closer, ok := body.(io.Closer)
		if !ok {
			closer = io.NopCloser(nil)
		}
		req.Body = struct {
			io.Reader
			io.Closer
		}{watchedReader{body, watch}, closer}
		req.ContentLength = -1 // in chunks, as it comes
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		watch.stop()
		return nil, err
	}
	if resp.StatusCode < 300 {
		return &watchedBody{watchedReader{resp.Body, watch}, resp.Body}, nil
	}
	defer watch.stop()
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	return nil, newProblem(resp, text)
}

// watch cancels a stream on which nothing happens.
type watch struct {
	cancel context.CancelFunc
	idle   time.Duration

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

func newWatch(idle time.Duration, cancel context.CancelFunc) *watch {
	return &watch{cancel: cancel, idle: idle, timer: time.AfterFunc(idle, cancel)}
}

func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.timer.Reset(w.idle)
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.timer.Stop()
	w.cancel()
}

type watchedReader struct {
	io.Reader
	watch *watch
}

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.watch.reset()
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

// ExportOptions of [Client.ExportSubjects].
type ExportOptions struct {
	After string // begin with the first subject after this id; empty: with the first of all
	Crops bool   // with the sealed crops
}

// ExportSubjects yields all subjects of a gallery with their templates, ordered
// by id. It holds one subject in memory at a time. It is one request: an error
// ends it, and where [CanRetry] says so it can go on after the last subject.
//
// GET /galleries/{gallery}/export.
func (c *Client) ExportSubjects(ctx context.Context, gallery string, o ExportOptions) iter.Seq2[BulkSubject, error] {
	return func(yield func(BulkSubject, error) bool) {
		for line, err := range c.ExportLines(ctx, gallery, o) {
			var subject BulkSubject
			if err == nil {
				if err = json.Unmarshal(line, &subject); err != nil {
					err = fmt.Errorf("%w: a line of the export: %w", errContent, err)
				}
			}
			if !yield(subject, err) || err != nil {
				return
			}
		}
	}
}

// ExportLines is [Client.ExportSubjects] with the lines as the server sends
// them, their ends included, which an import takes. A line is valid until the
// next one.
func (c *Client) ExportLines(ctx context.Context, gallery string, o ExportOptions) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		values := url.Values{}
		if o.After != "" {
			values.Set("after", o.After)
		}
		if o.Crops {
			values.Set("crops", "true")
		}
		body, err := c.stream(ctx, request{
			method: http.MethodGet, path: path("/galleries/{gallery}/export", gallery), query: values, accept: ndjson,
		}, nil, "")
		if err != nil {
			yield(nil, err)
			return
		}
		defer body.Close()
		lines := lineReader{in: bufio.NewReaderSize(body, 64<<10)}
		for {
			line, err := lines.next()
			switch {
			case errors.Is(err, io.EOF) && len(line) == 0:
				return
			case err != nil:
				yield(nil, fmt.Errorf("the export was cut off: %w", cutOff(err)))
				return
			}
			if !yield(line, nil) {
				return
			}
		}
	}
}

const ndjson = "application/x-ndjson"

// lineReader reads lines of any length into one buffer.
type lineReader struct {
	in     *bufio.Reader
	buffer []byte
}

// next reads a line with its end. What an error comes with is no whole line.
func (l *lineReader) next() ([]byte, error) {
	l.buffer = l.buffer[:0]
	for {
		part, err := l.in.ReadSlice('\n')
		l.buffer = append(l.buffer, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return l.buffer, err
		}
	}
}

// cutOff is the error of a stream that ended before its end.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ImportOptions of [Client.ImportSubjects].
type ImportOptions struct {
	FromLine    int64 // pass over the lines before this one; the first is 1, and 0 is the same
	SummaryOnly bool  // answer nothing before the end of the lines, and then the summary alone
}

// Import is an import under way.
type Import struct {
	body    io.ReadCloser
	summary *BulkSummary
}

// ImportSubjects sends lines, each a [BulkSubject] in JSON, as [Client.ExportLines]
// and [Lines] give them, while the server answers them. It is one request, and is
// not repeated; lines that can be closed are closed at its end. Where [CanRetry] says so, begin again, or go on after the last
// line that has a result; lines that are sent again do no harm. Close the
// import, which ends what is still under way.
//
// POST /galleries/{gallery}/import.
func (c *Client) ImportSubjects(ctx context.Context, gallery string, lines io.Reader, o ImportOptions) (*Import, error) {
	values := url.Values{}
	if o.FromLine > 0 {
		values.Set("from_line", strconv.FormatInt(o.FromLine, 10))
	}
	if o.SummaryOnly {
		values.Set("answer", "summary")
	}
	body, err := c.stream(ctx, request{
		method: http.MethodPost, path: path("/galleries/{gallery}/import", gallery), query: values, accept: ndjson + ", application/json",
	}, lines, ndjson)
	if err != nil {
		return nil, err
	}
	return &Import{body: body}, nil
}

// Results yields what became of each line that is not blank, in order, as soon
// as it is durable. Read it while the lines are sent; the server waits for its
// reader. It ends with the summary, or with an error.
func (i *Import) Results() iter.Seq2[BulkResult, error] {
	return func(yield func(BulkResult, error) bool) {
		lines := lineReader{in: bufio.NewReader(i.body)}
		for {
			line, err := lines.next()
			if err != nil {
				yield(BulkResult{}, fmt.Errorf("the import was cut off: %w", cutOff(err)))
				return
			}
			var end struct{ Done *bool }
			var result BulkResult
			if err = json.Unmarshal(line, &end); err == nil && end.Done != nil {
				i.summary = &BulkSummary{}
				if err = json.Unmarshal(line, i.summary); err == nil {
					return
				}
			} else if err == nil {
				err = json.Unmarshal(line, &result)
			}
			if err != nil {
				yield(BulkResult{}, fmt.Errorf("%w: a line of the import's answer: %w", errContent, err))
				return
			}
			if !yield(result, nil) {
				return
			}
		}
	}
}

// Summary is the end of the import, once [Import.Results] has come to its end
// without an error; nil before. Where its Done is false, its Error says why the
// import ended early.
func (i *Import) Summary() *BulkSummary { return i.summary }

// Close ends the import, whatever is still under way.
func (i *Import) Close() error { return i.body.Close() }

// Lines are subjects as lines of an import, one at a time. An error of the
// sequence ends them, and is the error of reading.
func Lines(subjects iter.Seq2[BulkSubject, error]) io.ReadCloser {
	r, w := io.Pipe()
	go func() {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false) // it would make metadata longer than may be imported
		for subject, err := range subjects {
			if err == nil {
				err = enc.Encode(subject)
			}
			if err != nil {
				w.CloseWithError(err)
				return
			}
		}
		w.Close()
	}()
	return r
}

// FollowOptions of [Client.FollowStyleTransfer].
type FollowOptions struct {
	Previews bool // with pictures of how it looks so far
}

// StyleTransferEvent is news of a job: one of its fields is set.
type StyleTransferEvent struct {
	Job     *StyleTransfer
	Preview []byte // a PNG
}

// FollowStyleTransfer yields a job whenever it changes, beginning with the
// present state, and ends after its final one. A stream that breaks before is
// opened again, as Options.Attempts and Options.FirstWait say; an event between
// forgets the earlier faults.
//
// GET /style-transfer/{job}/events.
func (c *Client) FollowStyleTransfer(ctx context.Context, job string, o FollowOptions) iter.Seq2[StyleTransferEvent, error] {
	return func(yield func(StyleTransferEvent, error) bool) {
		faults, wait := 0, c.options.FirstWait
		for {
			ended := false
			err := c.readEvents(ctx, job, o, func(e StyleTransferEvent) bool {
				faults, wait = 0, c.options.FirstWait
				ended = !yield(e, nil) || e.Job != nil && isFinal(e.Job.State)
				return !ended
			})
			if ended {
				return
			}
			if faults++; ctx.Err() != nil {
				err = ctx.Err()
			}
			pause, again := CanRetry(err)
			if !again || ctx.Err() != nil || pause > c.options.MaxWait || faults >= c.options.Attempts {
				yield(StyleTransferEvent{}, err)
				return
			}
			select {
			case <-ctx.Done():
				yield(StyleTransferEvent{}, ctx.Err())
				return
			case <-time.After(min(max(pause, wait), c.options.MaxWait)):
				wait *= 2
			}
		}
	}
}

// isFinal reports whether a job does not change any more.
func isFinal(state JobState) bool {
	return state == JobStateSucceeded || state == JobStateFailed || state == JobStateCanceled
}

// readEvents reads one stream of events until handle returns false. Its error
// says why it ended before.
func (c *Client) readEvents(ctx context.Context, job string, o FollowOptions, handle func(StyleTransferEvent) bool) error {
	values := url.Values{}
	if o.Previews {
		values.Set("preview", "true")
	}
	body, err := c.stream(ctx, request{
		method: http.MethodGet, path: path("/style-transfer/{job}/events", job), query: values, accept: "text/event-stream",
	}, nil, "")
	if err != nil {
		return err
	}
	defer body.Close()
	lines, event := lineReader{in: bufio.NewReader(body)}, ""
	for {
		line, err := lines.next()
		if err != nil {
			return fmt.Errorf("the events were cut off: %w", cutOff(err))
		}
		name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "event":
			event = string(value)
		case "data":
			news, err := readEvent(event, value)
			if err != nil {
				return fmt.Errorf("%w: the event %s: %w", errContent, event, err)
			}
			if (news.Job != nil || news.Preview != nil) && !handle(news) {
				return nil
			}
		}
	}
}

// readEvent reads the data of an event. The events that the client does not
// know are nothing.
func readEvent(event string, data []byte) (e StyleTransferEvent, err error) {
	switch event {
	case "job":
		e.Job = &StyleTransfer{}
		err = json.Unmarshal(data, e.Job)
	case "preview":
		var preview StyleTransferPreview
		err = json.Unmarshal(data, &preview)
		e.Preview = preview.Png
	}
	return e, err
}

// WaitForStyleTransfer follows a job until it has ended, and returns its final
// state, which may be that it failed or was canceled.
func (c *Client) WaitForStyleTransfer(ctx context.Context, job string) (*StyleTransfer, error) {
	var last *StyleTransfer
	for e, err := range c.FollowStyleTransfer(ctx, job, FollowOptions{}) {
		if err != nil {
			return last, err
		}
		last = e.Job
	}
	return last, nil
}

// GetStyleTransferResult is the picture that a job made, as a file of the
// format; PNG where it is empty. Before the job has succeeded the error is
// [ProblemCodeNotFinished].
//
// GET /style-transfer/{job}/result.
func (c *Client) GetStyleTransferResult(ctx context.Context, job string, format PictureFormat, options ...CallOption) ([]byte, error) {
	format = cmp.Or(format, PictureFormatPng)
	return c.send(ctx, request{
		method: http.MethodGet, path: path("/style-transfer/{job}/result", job),
		query: url.Values{"format": {string(format)}}, accept: "image/" + string(format),
	}, options)
}

// GetMetrics is what Prometheus reads, as text. With names, it has the metrics
// of these names alone.
//
// GET /metrics.
func (c *Client) GetMetrics(ctx context.Context, names ...string) ([]byte, error) {
	r := request{method: http.MethodGet, path: "/metrics", accept: "text/plain"}
	if len(names) > 0 {
		r.query = url.Values{"name[]": names}
	}
	return c.send(ctx, r, nil)
}

// GetContract is the server's contract, an OpenAPI document in YAML.
//
// GET /openapi.yaml.
func (c *Client) GetContract(ctx context.Context, options ...CallOption) ([]byte, error) {
	return c.send(ctx, request{method: http.MethodGet, path: "/openapi.yaml", accept: "application/yaml"}, options)
}
