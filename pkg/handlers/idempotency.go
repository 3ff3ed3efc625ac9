package handlers

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"io"
	"net/http"
	"path"
	"reflect"
	"strings"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const idempotencyHeader = "Idempotency-Key"

// claim is an Idempotency-Key that a request holds while it is carried out.
type claim struct {
	key         string // empty until it is claimed
	fingerprint []byte
	request     any
}

type claimKey struct{}

// record keeps the answer to a request with an Idempotency-Key back until it
// is stored, so that no caller knows an answer that a retry would not get.
func (s *server) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !operationOf(r).Replayed || len(r.Header.Values(idempotencyHeader)) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		c := &claim{}
		rec := &recorder{ResponseWriter: w}
		defer func() {
			if c.key != "" {
				s.settle(r, c, rec)
			}
			if rec.status != 0 {
				w.WriteHeader(rec.status)
				_, _ = w.Write(rec.body.Bytes()) // the caller has gone
			}
		}()
		next.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), claimKey{}, c)))
	})
}

// isReplayed reports whether a retry is to get the answer again. Not one that says
// to try again, nor a failure of ours, nor none at all, after a panic.
func isReplayed(status int) bool {
	return status >= 200 && status < 499 && status != http.StatusTooManyRequests
}

// settle stores the answer, or gives the claim up.
func (s *server) settle(r *http.Request, c *claim, rec *recorder) {
	ctx := r.Context()
	var answer *store.Answer
	if isReplayed(rec.status) {
		answer = &store.Answer{Status: rec.status, Location: rec.Header().Get("Location"), Body: rec.body.Bytes()}
		answer.Gallery, answer.Subject = subjectOfAnswer(operationOf(r), c.request, answer)
	}
	// The request's time may be over; its key must be settled all the same.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.RequestTimeout)
	defer cancel()
	if err := s.Store.EndRequest(ending, tenant(ctx), c.key, answer); err != nil {
		s.Logger.ErrorContext(ctx, "idempotency key not settled", "request_id", callOf(ctx).id, "error", err)
	}
}

// subjectOfAnswer is the subject that a stored answer is about: the answer is
// erased together with the subject. Both names are empty where the contract names
// no subject: a receipt outlives the erasure that it states.
func subjectOfAnswer(operation api.Operation, request any, a *store.Answer) (gallery, subject string) {
	if !operation.ErasedWithSubject || a.Status >= 300 {
		return "", ""
	}
	fields := reflect.ValueOf(request)
	gallery = fields.FieldByName("Gallery").String()
	if named := fields.FieldByName("Subject"); named.IsValid() {
		return gallery, named.String()
	}
	return gallery, path.Base(a.Location)
}

// once carries a request with an Idempotency-Key out, unless it was answered
// before. Which requests take a key, the contract says: their parameters hold it.
func (s *server) once(next api.StrictHandlerFunc, operation string) api.StrictHandlerFunc {
	return func(ctx context.Context, w http.ResponseWriter, r *http.Request, request any) (any, error) {
		key, ok := idempotencyKey(request)
		if !ok {
			return next(ctx, w, r, request)
		}
		if !validIdempotencyKey(key) {
			return nil, parameter(idempotencyHeader, "must be 1 to 128 printable ASCII characters without spaces")
		}
		fingerprint, err := fingerprint(operation, request)
		if err != nil {
			return nil, err
		}
		answer, err := s.Store.BeginRequest(ctx, tenant(ctx), key, fingerprint)
		if err != nil {
			return nil, err
		}
		if answer != nil {
			replay(w, answer)
			return nil, nil
		}
		c := ctx.Value(claimKey{}).(*claim)
		c.key, c.fingerprint, c.request = key, fingerprint, request
		return next(ctx, w, r, request)
	}
}

// idempotencyKey finds the key among a request's parameters.
func idempotencyKey(request any) (string, bool) {
	params := reflect.ValueOf(request).FieldByName("Params")
	if !params.IsValid() {
		return "", false
	}
	field := params.FieldByName("IdempotencyKey")
	if !field.IsValid() || field.IsNil() {
		return "", false
	}
	return field.Elem().String(), true
}

func validIdempotencyKey(key string) bool {
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return false
		}
	}
	return len(key) >= 1 && len(key) <= 128
}

// fingerprint tells requests apart by what was asked, not by how it was
// written: a retry draws another multipart boundary and may order its fields
// otherwise.
func fingerprint(operation string, request any) ([]byte, error) {
	h := sha256.New()
	_, _ = io.WriteString(h, operation+"\n") // a hash takes everything
	if err := json.NewEncoder(h).Encode(request); err != nil {
		return nil, face.Wrap(face.Internal, "handlers.fingerprint", err)
	}
	return h.Sum(nil), nil
}

// replay gives an answer again.
func replay(w http.ResponseWriter, a *store.Answer) {
	kind := "application/json"
	if a.Status >= 400 {
		kind = "application/problem+json"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Idempotency-Replayed", "true")
	if a.Location != "" {
		w.Header().Set("Location", a.Location)
	}
	if a.Status == http.StatusAccepted {
		w.Header().Set("Retry-After", "1") // as when it was accepted
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // the caller has gone
}

// repeatableID is the id of what a request under an Idempotency-Key makes: it
// follows from the request, so that one whose answer was lost in a crash makes
// no twin when it is repeated. It is empty for a request without a key.
func repeatableID(ctx context.Context) string {
	c, ok := ctx.Value(claimKey{}).(*claim)
	if !ok || c.key == "" {
		return ""
	}
	h := sha256.New()
	for _, part := range []string{tenant(ctx), c.key, string(c.fingerprint)} {
		_, _ = io.WriteString(h, part+"\x00") // a hash takes everything
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)))[:26]
}

// recorder keeps an answer back.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

// Unwrap lets [http.ResponseController] find the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Status is what was answered so far; 0: nothing.
func (r *recorder) Status() int { return r.status }
