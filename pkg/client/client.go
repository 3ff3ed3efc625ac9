// Package client calls a Likeness server over HTTP. Its types and most of its
// methods are generated from the contract, api/openapi.yaml; there is one
// method for each operation, under the name of its operationId.
//
// A [Client] is safe for use by several goroutines. What the server refuses is
// a [*Problem]. A request that the server could not take in (429, 503), or
// whose connection broke, is sent again, as [Options] say: each request can be
// repeated without harm, since reading changes nothing and a write carries an
// Idempotency-Key. Imports, exports and jobs that are followed are streams:
// they use the same memory however long they are.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"

	"github.com/hashicorp/go-retryablehttp"
)

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config codegen.yaml ../../api/openapi.yaml

// maxAnswer bounds an answer that is read as a whole, in bytes. The largest
// one is a picture.
const maxAnswer = 256 << 20

// Options of a client. A field that is zero is as [DefaultOptions] have it.
type Options struct {
	// Key is the secret of the API key. It is empty for a server that asks for
	// none. It is sent to the server, and is in no error and no text of a value
	// of this package.
	Key string
	// UserAgent is the User-Agent of requests.
	UserAgent string
	// Transport sends the requests.
	Transport http.RoundTripper

	// Attempts is how often a request is sent at most, the first time included.
	Attempts int
	// FirstWait is the time before the second attempt where the server names
	// none. It doubles with each further one, up to MaxWait.
	FirstWait time.Duration
	// MaxWait is the longest time to wait before an attempt. Where the server
	// asks for more with Retry-After, its refusal is the result.
	MaxWait time.Duration
	// AttemptTimeout bounds one attempt of a request that is no stream, from
	// the connection to the end of the answer.
	AttemptTimeout time.Duration
	// IdleTimeout bounds how long a stream may stand still.
	IdleTimeout time.Duration
}

// DefaultOptions are the options of a client without a key.
func DefaultOptions() Options {
	return Options{
		UserAgent: "likeness-go", Transport: http.DefaultTransport,
		Attempts: 8, FirstWait: time.Second, MaxWait: 5 * time.Minute,
		AttemptTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute,
	}
}

func (o Options) withDefaults() Options {
	d := DefaultOptions()
	o.UserAgent = cmp.Or(o.UserAgent, d.UserAgent)
	if o.Transport == nil {
		o.Transport = d.Transport
	}
	o.Attempts = cmp.Or(o.Attempts, d.Attempts)
	o.FirstWait = cmp.Or(o.FirstWait, d.FirstWait)
	o.MaxWait = cmp.Or(o.MaxWait, d.MaxWait)
	o.AttemptTimeout = cmp.Or(o.AttemptTimeout, d.AttemptTimeout)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, d.IdleTimeout)
	return o
}

// String describes the options without the key.
func (o Options) String() string {
	key := "no key"
	if o.Key != "" {
		key = "a key"
	}
	return fmt.Sprintf("client.Options{%s, %d attempts, at most %v apart}", key, o.Attempts, o.MaxWait)
}

// GoString is the same as String: %#v must not show the key either.
func (o Options) GoString() string { return o.String() }

// Client calls one server.
type Client struct {
	base      *url.URL
	options   Options // without the key
	authorize func(*http.Request)
	http      *http.Client // without a time limit, for streams
}

// New makes a client of the server at a base URL, such as
// https://faces.example or http://127.0.0.1:8080/prefix. The error is about a
// base URL that is not http:// or https:// with a host, or about options that
// are negative.
func New(baseURL string, o Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("the server's address: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("the server's address %q is not http://HOST or https://HOST", base.Redacted())
	}
	o = o.withDefaults()
	for name, least := range map[string]time.Duration{
		"Attempts": time.Duration(o.Attempts), "FirstWait": o.FirstWait, "MaxWait": o.MaxWait,
		"AttemptTimeout": o.AttemptTimeout, "IdleTimeout": o.IdleTimeout,
	} {
		if least < 0 {
			return nil, fmt.Errorf("field Options.%s is negative", name)
		}
	}
	authorize := func(*http.Request) {}
	if key := o.Key; key != "" {
		authorize = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) }
	}
	o.Key = ""
	return &Client{base: base, options: o, authorize: authorize, http: &http.Client{
		Transport: o.Transport,
		// A redirect would carry photos and the key to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// CloseIdleConnections closes the connections that no request uses.
func (c *Client) CloseIdleConnections() { c.http.CloseIdleConnections() }

// CallOption changes one call.
type CallOption func(*request)

// IdempotencyKey names the Idempotency-Key of a write: 1 to 128 printable ASCII
// characters without spaces. The same write with the same key is carried out
// once, also where it is sent by another process. Without this option the
// client makes a key for each call.
func IdempotencyKey(key string) CallOption { return func(r *request) { r.key = key } }

// SingleAttempt sends the request once, whatever happens.
func SingleAttempt() CallOption { return func(r *request) { r.attempts = 1 } }

// Replayed sets what replayed points at: whether the answer is that of an
// earlier request with the same Idempotency-Key.
func Replayed(replayed *bool) CallOption { return func(r *request) { r.replayed = replayed } }

// request is a request before it is sent.
type request struct {
	method string
	path   string // escaped
	query  url.Values
	body   any    // nil, a form, or a value that is sent as JSON
	accept string // empty: application/json
	keyed  bool   // takes an Idempotency-Key

	// As the caller's options say.
	key      string
	attempts int
	replayed *bool
}

// path fills the parameters of a route in, in order.
func path(route string, values ...string) string {
	var b strings.Builder
	for _, value := range values {
		before, rest, _ := strings.Cut(route, "{")
		_, after, _ := strings.Cut(rest, "}")
		b.WriteString(before)
		b.WriteString(url.PathEscape(value))
		route = after
	}
	return b.String() + route
}

// query encodes a struct of parameters; those that are nil are left out.
func query(params any) url.Values {
	values, v := url.Values{}, reflect.ValueOf(params)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("form"), ",")
		if field := v.Field(i); !field.IsZero() {
			values.Set(name, fmt.Sprint(reflect.Indirect(field)))
		}
	}
	return values
}

// newRequest makes the HTTP request without its body.
func (c *Client) newRequest(ctx context.Context, r request) (*http.Request, error) {
	target := strings.TrimSuffix(c.base.String(), "/") + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", cmp.Or(r.accept, "application/json")+", application/problem+json")
	req.Header.Set("User-Agent", c.options.UserAgent)
	if r.keyed {
		req.Header.Set("Idempotency-Key", cmp.Or(r.key, rand.Text()))
	}
	c.authorize(req)
	return req, nil
}

// invoke sends a request and reads its JSON answer.
func invoke[T any](ctx context.Context, c *Client, r request, options []CallOption) (*T, error) {
	body, err := c.send(ctx, r, options)
	if err != nil {
		return nil, err
	}
	answer := new(T)
	if err := json.Unmarshal(body, answer); err != nil {
		return nil, fmt.Errorf("the answer to %s %s: %w", r.method, r.path, err)
	}
	return answer, nil
}

// send sends a request, as often as it needs, and returns the body of the
// answer. The error is a *Problem where the server refused it.
func (c *Client) send(ctx context.Context, r request, options []CallOption) ([]byte, error) {
	for _, option := range options {
		option(&r)
	}
	raw, err := c.newRequest(ctx, r)
	if err != nil {
		return nil, err
	}
	req, err := retryablehttp.FromRequest(raw)
	if err != nil {
		return nil, err
	}
	content, kind, err := encode(r.body)
	if err != nil {
		return nil, err
	}
	if content != nil {
		if err := req.SetBody(content); err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", kind)
	}
	var answer []byte
	var read *http.Response // what the answer was read from
	readAnswer := func(resp *http.Response) (err error) {
		read = resp
		defer resp.Body.Close()
		answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		return err
	}
	req.SetResponseHandler(readAnswer) // so that an answer that breaks off is asked for again
	limited := *c.http
	limited.Timeout = c.options.AttemptTimeout
	sender := retryablehttp.Client{
		HTTPClient:   &limited,
		RetryMax:     cmp.Or(r.attempts, c.options.Attempts) - 1,
		RetryWaitMin: c.options.FirstWait, RetryWaitMax: c.options.MaxWait,
		CheckRetry: c.shouldRetry, Backoff: retryablehttp.DefaultBackoff, ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}
	resp, err := sender.Do(req)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	if resp != read { // the refusal of the last attempt
		if err := readAnswer(resp); err != nil {
			return nil, err
		}
	}
	if r.replayed != nil {
		*r.replayed = resp.Header.Get("Idempotency-Replayed") == "true"
	}
	switch {
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("the answer to %s %s is larger than %d bytes", r.method, r.path, maxAnswer)
	case resp.StatusCode >= 300:
		return nil, newProblem(resp, answer)
	}
	return answer, nil
}

// shouldRetry reports whether an attempt is to be followed by another: where
// the connection broke, and where the server is busy and does not ask to wait
// for too long.
func (c *Client) shouldRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return true, nil
	case isBusy(resp.StatusCode):
		return retryAfter(resp.Header) <= c.options.MaxWait, nil
	}
	return false, nil
}

// isBusy reports whether the server asks to send the request again later.
func isBusy(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable
}

// encode is a body and its Content-Type. Both are empty without a body.
func encode(body any) (content []byte, kind string, err error) {
	switch b := body.(type) {
	case nil:
		return nil, "", nil
	case form:
		return b.encode()
	}
	content, err = json.Marshal(body)
	return bytes.TrimSpace(content), "application/json", err
}
