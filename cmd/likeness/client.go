package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// How long the client bears with a server.
const (
	attempts       = 8               // of one request, the first included
	requestTimeout = 2 * time.Minute // of one attempt
	longestWait    = 5 * time.Minute // that Retry-After may ask for
	firstWait      = time.Second     // after a broken connection; it doubles each time
	maxAnswer      = 1 << 20
)

// client speaks to a server.
type client struct {
	base *url.URL
	key  string
	http *http.Client
}

// newClient makes a client for so many requests at a time. Close its idle
// connections when it is done.
func newClient(base *url.URL, key string, parallel int) *client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = parallel
	return &client{base: base, key: key, http: &http.Client{
		Transport: transport,
		Timeout:   requestTimeout,
		// A redirect would carry photos and key to where nobody sent them.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// problem is the server's error.
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Errors []struct {
		Pointer string `json:"pointer"`
		Detail  string `json:"detail"`
	} `json:"errors"`
	Reasons []face.Reason `json:"reasons"`
}

func (p *problem) Error() string { return fmt.Sprintf("the server says %s: %s", p.Code, p.explain()) }

// Is makes errors.Is(err, face.Conflict) work on what came over the wire.
func (p *problem) Is(target error) bool {
	k, ok := target.(face.Kind)
	return ok && k.Code() == p.Code
}

// explain is the problem in one line.
func (p *problem) explain() string {
	parts := []string{p.Title}
	if p.Detail != "" {
		parts[0] = p.Detail
	}
	for _, e := range p.Errors {
		if e.Detail != p.Detail { // which often says the same
			parts = append(parts, e.Pointer+": "+e.Detail)
		}
	}
	if p.Code == face.Unauthenticated.Code() {
		parts = append(parts, "put the secret of a good key into "+keyEnv+", or name a file that holds it with --key-file")
	}
	if len(p.Reasons) > 0 {
		parts = append(parts, joinWords(p.Reasons))
	}
	return strings.Join(parts, "; ")
}

// reach finds out whether a server answers at all, once, so that a wrong
// address is one error and not one a photo.
func (c *client) reach(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath("healthz").String(), nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("no server answers at %s; start one, or name it with --server: %w", c.base, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("what answers at %s is no Likeness server, or not a healthy one: its /healthz says %s", c.base, resp.Status)
	}
	return nil
}

// subject makes sure that a subject is there and returns when it was made:
// somebody of the same id who was erased and enrolled again is another subject.
func (c *client) subject(ctx context.Context, gallery, id, name string) (made time.Time, err error) {
	body, err := json.Marshal(map[string]string{"subject_id": id, "name": name})
	if err != nil {
		return time.Time{}, err
	}
	var answer struct {
		CreatedAt time.Time `json:"created_at"`
	}
	subjects := c.base.JoinPath("galleries", gallery, "subjects")
	_, err = c.do(ctx, request{http.MethodPost, subjects, "application/json", body, ""}, &answer)
	if errors.Is(err, face.Conflict) {
		_, err = c.do(ctx, request{method: http.MethodGet, url: subjects.JoinPath(id)}, &answer)
	}
	return answer.CreatedAt, err
}

// enrol adds a template of a photo to a subject, who was made at that time,
// and returns its id.
func (c *client) enrol(ctx context.Context, gallery, subject string, made time.Time, image []byte, fields map[string]string) (template string, err error) {
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	// The idempotency key is made of all that makes the request what it is, so
	// that asking again is the same request, today or in a year.
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		err = errors.Join(err, form.WriteField(name, fields[name]))
		fmt.Fprintf(sum, "%s=%s\n", name, fields[name])
	}
	part, partErr := form.CreateFormFile("image", "image") // a file's name is nobody's business
	if err := errors.Join(err, partErr); err != nil {
		return "", err
	}
	_, err = part.Write(image)
	if err := errors.Join(err, form.Close()); err != nil {
		return "", err
	}
	fmt.Fprintf(sum, "%s\n%s\n%d\n", gallery, subject, made.UnixMicro())
	sum.Write(image)

	var answer struct {
		TemplateID string `json:"template_id"`
	}
	where := c.base.JoinPath("galleries", gallery, "subjects", subject, "templates")
	for {
		idempotency := "enrol-" + hex.EncodeToString(sum.Sum(nil))
		replayed, err := c.do(ctx, request{http.MethodPost, where, form.FormDataContentType(), body.Bytes(), idempotency}, &answer)
		if err != nil || !replayed {
			return answer.TemplateID, err
		}
		// An answer from before: the template may have been erased since.
		var list struct {
			Items []struct {
				TemplateID string `json:"template_id"`
			} `json:"items"`
		}
		if _, err := c.do(ctx, request{method: http.MethodGet, url: where}, &list); err != nil {
			return "", err
		}
		for _, t := range list.Items {
			if t.TemplateID == answer.TemplateID {
				return t.TemplateID, nil
			}
		}
		sum.Write([]byte(answer.TemplateID)) // makes it another request
	}
}

// request is what is sent, as often as it takes.
type request struct {
	method      string
	url         *url.URL
	contentType string
	body        []byte
	idempotency string // Idempotency-Key; empty for none
}

// do sends a request, again when the server asks for it (429, 503) or the
// connection breaks, and decodes the answer. What the server refuses is a
// *problem. replayed: the answer is that of the same request made before.
func (c *client) do(ctx context.Context, r request, answer any) (replayed bool, err error) {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		resp, err := c.once(ctx, r)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		var pause time.Duration
		switch {
		case err != nil:
			pause, wait = wait, 2*wait
		case resp.status == http.StatusTooManyRequests || resp.status == http.StatusServiceUnavailable:
			err, pause = resp.problem(), resp.retryAfter
		case resp.status >= 300:
			return false, resp.problem()
		default:
			return resp.replayed, json.Unmarshal(resp.body, answer)
		}
		if attempt == attempts || pause > longestWait {
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// response is an answer read to its end.
type response struct {
	status     int
	retryAfter time.Duration
	replayed   bool
	body       []byte
}

func (c *client) once(ctx context.Context, r request) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, r.url.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	req.Header.Set("User-Agent", "likeness/"+version)
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	if r.idempotency != "" {
		req.Header.Set("Idempotency-Key", r.idempotency)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	return &response{
		resp.StatusCode, retryAfter(resp.Header.Get("Retry-After"), time.Now()),
		resp.Header.Get("Idempotency-Replayed") == "true", b,
	}, nil
}

// problem is the answer as an error. An answer that is no problem+json comes
// from something in between, and its status is all that is known of it.
func (r *response) problem() *problem {
	var p problem
	if err := json.Unmarshal(r.body, &p); err != nil || p.Code == "" {
		p = problem{Code: face.Internal.Code(), Title: fmt.Sprintf("HTTP %d without a problem in it", r.status)}
	}
	return &p
}

// retryAfter reads the header: seconds or a date. Without one, a second.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil && seconds >= 0 {
		return min(time.Duration(seconds), 24*60*60) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 0)
	}
	return time.Second
}
