package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error is the code of the problem and what the server says of it.
func (p *Problem) Error() string { return fmt.Sprintf("the server says %s: %s", p.Code, p.Explain()) }

// Explain is what the server says of the problem, in one line: its detail, the
// fields that are wrong, and the reasons of the quality gate.
func (p *Problem) Explain() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	parts := []string{text}
	for _, e := range p.Errors {
		if e.Detail != p.Detail { // which often says the same
			parts = append(parts, e.Pointer+": "+e.Detail)
		}
	}
	if len(p.Reasons) > 0 {
		var reasons []string
		for _, r := range p.Reasons {
			reasons = append(reasons, string(r))
		}
		slices.Sort(reasons)
		parts = append(parts, strings.Join(slices.Compact(reasons), ", "))
	}
	return strings.Join(parts, "; ")
}

// Is reports whether the target is the code of the problem, so that
// errors.Is(err, client.ProblemCodeNoFace) works.
func (p *Problem) Is(target error) bool {
	code, ok := target.(ProblemCode)
	return ok && code == p.Code
}

// Error is the code. It makes a ProblemCode a target of [errors.Is].
func (e ProblemCode) Error() string { return string(e) }

// newProblem is the problem of a refusal. An answer without one comes from
// something between the client and the server, and its status is all that is
// known.
func newProblem(resp *http.Response, body []byte) *Problem {
	p := &Problem{}
	if err := json.Unmarshal(body, p); err != nil || p.Code == "" {
		p = &Problem{Code: ProblemCodeInternal, Title: fmt.Sprintf("HTTP %d without a problem in it", resp.StatusCode)}
	}
	p.Status = resp.StatusCode
	if isBusy(p.Status) {
		p.RetryAfter = retryAfter(resp.Header)
	}
	return p
}

// CanRetry reports whether what failed may go well later, and how long the
// server asked to wait. It is false for nil, for an error of the caller, and
// for a stream that carried something else than the contract says.
func CanRetry(err error) (wait time.Duration, ok bool) {
	if p, is := errors.AsType[*Problem](err); is {
		return p.RetryAfter, isBusy(p.Status) || p.Status >= http.StatusInternalServerError
	}
	return 0, err != nil && !errors.Is(err, errContent)
}

// retryAfter reads the header: seconds or a date. Without one it is a second.
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil && seconds >= 0 {
		return min(time.Duration(seconds), 24*60*60) * time.Second
	}
	if date, err := http.ParseTime(text); err == nil {
		return max(time.Until(date), 0)
	}
	return time.Second
}
