package face_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

func TestKindsHaveCodesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, k := range face.Kinds() {
		if !regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`).MatchString(k.Code()) || k.Title() == "" || seen[k.Code()] {
			t.Errorf("kind %d: code %q, title %q", k, k.Code(), k.Title())
		}
		seen[k.Code()] = true
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("disk on fire")
	tests := []struct {
		name string
		err  error
		kind face.Kind
		text string
	}{
		{"none", nil, face.NoError, ""},
		{"plain", cause, face.Internal, "disk on fire"},
		{"without a kind", fmt.Errorf("x: %w", &face.Error{Op: "op"}), face.Internal, ""},
		{"detail", face.Errorf(face.NotFound, "store.Subject", "no subject %q", "a"), face.NotFound, `store.Subject: not_found: no subject "a"`},
		{"wrapped", fmt.Errorf("later: %w", face.Wrap(face.Unavailable, "op", cause)), face.Unavailable, "later: op: unavailable: disk on fire"},
		{"deadline", face.Wrap(face.Internal, "op", context.DeadlineExceeded), face.Deadline, ""},
		{"canceled", face.Wrap(face.Internal, "op", fmt.Errorf("x: %w", context.Canceled)), face.Canceled, ""},
		{"bare deadline", context.DeadlineExceeded, face.Deadline, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := face.KindOf(tt.err); got != tt.kind {
				t.Errorf("kind %v, want %v", got, tt.kind)
			}
			if tt.text != "" && tt.err.Error() != tt.text {
				t.Errorf("text %q, want %q", tt.err, tt.text)
			}
		})
	}
	diagnose := func(err error) (face.Kind, string) {
		if errors.Is(err, cause) {
			return face.StorageFull, "the storage is full"
		}
		return face.Internal, "what"
	}
	if face.Wrap(face.Internal, "op", nil) != nil || face.WrapDiagnosed("op", nil, diagnose) != nil {
		t.Error("no error became one")
	}
	shared := face.Errorf(face.NotFound, "", "not there")
	for _, tt := range []struct{ err, want error }{
		{fmt.Errorf("x: %w", cause), &face.Error{Kind: face.StorageFull, Op: "op", Detail: "the storage is full"}},
		{context.Canceled, &face.Error{Kind: face.Canceled, Op: "op"}},
		{shared, &face.Error{Kind: face.NotFound, Op: "op", Detail: "not there"}},
	} {
		got, ok := errors.AsType[*face.Error](face.WrapDiagnosed("op", tt.err, diagnose))
		want, _ := errors.AsType[*face.Error](tt.want)
		if !ok || got.Kind != want.Kind || got.Op != want.Op || got.Detail != want.Detail || !errors.Is(tt.err, face.NotFound) && !errors.Is(got, tt.err) {
			t.Errorf("%v: %+v, want %+v", tt.err, got, want)
		}
	}
	if shared.Op != "" {
		t.Error("an error that others share was changed")
	}
	err := face.Wrap(face.Conflict, "op", cause)
	if !errors.Is(err, face.Conflict) || errors.Is(err, face.NotFound) || !errors.Is(err, cause) {
		t.Error("errors.Is finds the wrong kind, or not the cause")
	}
}

func TestNormalise(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]face.Embedding{
		"empty": {}, "zero": {0, 0}, "nan": {1, float32(math.NaN())}, "inf": {float32(math.Inf(1)), 1}, "tiny": {1e-20, 0},
	} {
		if _, err := e.Normalise(); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	in := face.Embedding{3, 4e10}
	out, err := in.Normalise()
	if err != nil || math.Abs(out.Cosine(out)-1) > 1e-6 || in[0] != 3 {
		t.Errorf("%v, %v", out, err)
	}
}

// TestNothingPersonalIsLogged logs everything that is personal or secret.
func TestNothingPersonalIsLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	secret, key := face.NewKey("t", "front door", []face.Scope{face.ScopeVerify}, time.Time{})
	e := face.Embedding{0.12345}
	for _, h := range []slog.Handler{slog.NewJSONHandler(&log, nil), slog.NewTextHandler(&log, nil)} {
		slog.New(h).Info("x", "e", e, "t", face.Template{ID: "1", Embedding: e}, "s", face.Subject{ID: "1", Name: "Ada"}, "k", key)
	}
	for _, word := range []string{"12345", "Ada", secret, string(key.Hash)} {
		if strings.Contains(log.String(), word) {
			t.Errorf("the log holds %q", word)
		}
	}
}

func TestValidID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		"a": true, "jean@example.org": true, "A.b_c-9": true, strings.Repeat("a", 128): true,
		"": false, ".": false, "..": false, "-a": false, "a/b": false, "a b": false, "é": false, "a\n": false, strings.Repeat("a", 129): false,
	} {
		if got := face.ValidID(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
	if a, b := face.NewID(), face.NewID(); a == b || !face.ValidID(a) {
		t.Errorf("%q, %q", a, b)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	now := time.Now()
	secret, k := face.NewKey("acme", "door", []face.Scope{face.ScopeIdentify}, now.Add(time.Hour))
	if len(secret) < 43 || !bytes.Equal(face.HashSecret(secret), k.Hash) || bytes.Contains(k.Hash, []byte(secret)) {
		t.Error("the secret is short, or the hash is not its own")
	}
	if !k.Allows(face.ScopeIdentify) || k.Allows(face.ScopeEnrol) || !(face.Key{Scopes: []face.Scope{face.ScopeAdmin}}).Allows(face.ScopeEnrol) {
		t.Error("scopes")
	}
	revoked := k
	revoked.RevokedAt = now
	if !k.Live(now) || k.Live(now.Add(time.Hour)) || revoked.Live(now) {
		t.Error("life")
	}
}
