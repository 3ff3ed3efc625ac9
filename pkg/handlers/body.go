package handlers

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
)

// leastBody is the least that a request with a body counts for, so that very
// many small ones are bounded too, and what is read at a time.
const leastBody = 64 << 10

// The largest body without a photo has two embeddings.
const (
	numberBytes = 32      // bounds a number of an embedding, with a comma and the space around it
	othersBytes = 4 << 10 // bounds the other members
)

// limitBody bounds a body, and the bodies of all requests under way, and
// refuses media types that the route does not take.
func (s *server) limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if coding := strings.Join(r.Header.Values("Content-Encoding"), ", "); coding != "" && !strings.EqualFold(coding, "identity") {
			w.Header().Set("Accept-Encoding", "identity")
			s.fail(w, r, face.Errorf(face.UnsupportedMediaType, "handlers.limitBody",
				"The body is encoded (Content-Encoding: %s); send it as it is.", face.Excerpt(coding)))
			return
		}
		operation := operationOf(r)
		if !operation.TakesBody() {
			if r.ContentLength != 0 {
				s.fail(w, r, api.InvalidField("", "must not be there: the route takes no body"))
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		if operation.TakesLines() { // one at a time, so their number needs no limit
			if _, err := mediaType(r, operation); err != nil {
				s.fail(w, r, err)
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		switch size := r.ContentLength; { // less than 0: it does not say
		case size == 0:
			s.fail(w, r, api.InvalidField("", "is empty"))
			return
		case size > s.maxBody():
			s.fail(w, r, face.Errorf(face.TooLarge, "handlers.limitBody", "The body is larger than %d bytes.", s.maxBody()))
			return
		}
		end, err := mediaType(r, operation)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if operation.TakesForm() && !s.mayHaveNoPhoto(r, operation) { // so that no body is read in vain
			reservation, err := s.Pipeline.Reserve()
			if err != nil {
				s.fail(w, r, err)
				return
			}
			defer reservation.Cancel()
			callOf(r.Context()).reservation = reservation
		}
		body := &body{from: http.MaxBytesReader(w, r.Body, s.maxBody()), end: end, room: s.bodies, key: callOf(r.Context()).key}
		defer func() {
			left := callOf(r.Context()).left
			if left == nil {
				body.room.give(body.key, body.held)
				return
			}
			go func() { // work that was left behind still holds the photos
				<-left
				body.room.give(body.key, body.held)
			}()
		}()
		if err := body.hold(); err != nil {
			s.fail(w, r, err)
			return
		}
		r.Body = body
		next.ServeHTTP(w, r)
	})
}

// body is that of a request: one JSON value or one form, and nothing after it.
// It counts the bytes that have come, not those announced, towards what the
// caller may have under way.
type body struct {
	from io.Reader
	end  ending
	room *shares
	key  face.Key

	held, read int64     // bytes
	whole      bool      // all was read
	arrived    time.Time // when all was read
}

// ending finds where a body's value ends, which comes in several chunks: the
// index after it in this chunk, or less than 0 while it goes on.
type ending interface{ find(chunk []byte) int }

// Read gives the last bytes of the value out only once the body has ended
// behind it, so that no answer is made from a part of a body.
func (b *body) Read(p []byte) (int, error) {
	if b.whole {
		return 0, io.EOF
	}
	n, err := b.some(p)
	end := b.end.find(p[:n])
	if end < 0 {
		if _, form := b.end.(*formEnd); form && err == io.EOF { //nolint:errorlint // as below
			err = io.ErrUnexpectedEOF // package multipart takes one within a part's header for the end
		}
		return n, err
	}
	rest, more := p[end:n], make([]byte, 512)
	for {
		if len(bytes.Trim(rest, " \t\r\n")) > 0 {
			return 0, api.InvalidField("", "goes on after its end: a body is one JSON object or one form")
		}
		if err != nil {
			break
		}
		n, err = b.some(more)
		rest = more[:n]
	}
	if err != io.EOF { //nolint:errorlint // A reader's end is bare; what is wrapped is a body cut short.
		return 0, err
	}
	b.whole, b.arrived = true, time.Now()
	return end, nil
}

// some reads what has come, as far as there is room for it.
func (b *body) some(p []byte) (int, error) {
	n, err := b.from.Read(p[:min(len(p), leastBody)])
	if b.read += int64(n); b.read > b.held {
		if err := b.hold(); err != nil {
			return 0, err
		}
	}
	return n, err
}

// hold takes room for more bytes.
func (b *body) hold() error {
	if !b.room.take(b.key, leastBody) {
		return face.Errorf(face.Overloaded, "handlers.body", "too many bodies are under way, or too many of the key or the tenant")
	}
	b.held += leastBody
	return nil
}

// Close does nothing: net/http closes what it reads from.
func (*body) Close() error { return nil }

// jsonEnd finds the end of an object or an array. Any other value is refused
// before its end matters.
type jsonEnd struct {
	depth           int
	quoted, escaped bool
}

func (j *jsonEnd) find(chunk []byte) int {
	for i, c := range chunk {
		switch {
		case j.escaped:
			j.escaped = false
		case j.quoted:
			j.escaped, j.quoted = c == '\\', c != '"'
		case c == '"':
			j.quoted = true
		case c == '{' || c == '[':
			j.depth++
		case c == '}' || c == ']':
			if j.depth--; j.depth == 0 {
				return i + 1
			}
		}
	}
	return -1
}

// formEnd finds the delimiter that ends a multipart body.
type formEnd struct {
	delimiter []byte
	before    []byte // what came before the chunk and may be its beginning
}

func newFormEnd(boundary string) *formEnd {
	return &formEnd{delimiter: []byte("\n--" + boundary + "--"), before: []byte("\n")}
}

func (f *formEnd) find(chunk []byte) int {
	most := len(f.delimiter) - 1
	across := append(f.before, chunk[:min(most, len(chunk))]...)
	if i := bytes.Index(across, f.delimiter); i >= 0 {
		return i + len(f.delimiter) - len(f.before)
	}
	if i := bytes.Index(chunk, f.delimiter); i >= 0 {
		return i + len(f.delimiter)
	}
	if len(chunk) >= most {
		across = chunk
	}
	f.before = bytes.Clone(across[max(0, len(across)-most):])
	return -1
}

// mediaType refuses a Content-Type that the route does not take, and writes
// what it takes as the generated code looks for it. It gives what finds the
// body's end, or nil where that is the end of its last line.
func mediaType(r *http.Request, operation api.Operation) (ending, error) {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case operation.TakesLines():
		if err == nil && kind == api.NDJSON {
			return nil, nil
		}
	case err == nil && kind == "application/json":
		r.Header.Set("Content-Type", kind)
		return &jsonEnd{}, nil
	case err == nil && kind == "multipart/form-data" && operation.TakesForm():
		if params["boundary"] == "" {
			return nil, parameter("Content-Type", "has no boundary")
		}
		r.Header.Set("Content-Type", mime.FormatMediaType(kind, params))
		return newFormEnd(params["boundary"]), nil
	}
	return nil, face.Errorf(face.UnsupportedMediaType, "handlers.mediaType", "The route takes %s.", strings.Join(operation.BodyTypes, " and "))
}

// operationOf is what the contract says of the operation that a request is for.
// It is zero where the contract does not have it.
func operationOf(r *http.Request) api.Operation {
	operation, _ := api.FindOperation(r.Method, chi.RouteContext(r.Context()).RoutePattern())
	return operation
}

// mayHaveNoPhoto reports whether the operation takes embeddings as well, and the
// body is no larger than one that has nothing else: such a request needs no
// slot. Where it has a photo after all, it gets in line when the photo is read.
func (s *server) mayHaveNoPhoto(r *http.Request, operation api.Operation) bool {
	return operation.PhotoOptional && r.ContentLength >= 0 && r.ContentLength <= s.embeddings
}
