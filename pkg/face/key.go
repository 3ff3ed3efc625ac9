package face

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"slices"
	"time"
)

// Scope is something an API key may do.
type Scope string

// The scopes. Admin includes all others.
const (
	ScopeVerify   Scope = "verify"
	ScopeIdentify Scope = "identify"
	ScopeEnrol    Scope = "enrol"
	ScopeRead     Scope = "read"
	ScopeAdmin    Scope = "admin"
	ScopeStyle    Scope = "style"
)

// Scopes lists every scope.
func Scopes() []Scope {
	return []Scope{ScopeVerify, ScopeIdentify, ScopeEnrol, ScopeRead, ScopeAdmin, ScopeStyle}
}

// Key is an API key as it is stored. The secret itself is shown once, when the
// key is made, and is not stored.
type Key struct {
	ID        string
	Tenant    string
	Name      string // what the operator calls it
	Hash      []byte // SHA-256 of the secret
	Scopes    []Scope
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
	RevokedAt time.Time // zero: not revoked
}

// Allows reports whether the key has the scope.
func (k Key) Allows(s Scope) bool {
	return slices.Contains(k.Scopes, s) || slices.Contains(k.Scopes, ScopeAdmin)
}

// Live reports whether the key is neither revoked nor expired at the time.
func (k Key) Live(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// LogValue shows the id alone.
func (k Key) LogValue() slog.Value { return slog.StringValue("key " + k.ID) }

// secretPrefix marks a Likeness secret, so that scanners for leaked credentials
// recognise it.
const secretPrefix = "lk_"

// NewKey makes a key with a fresh 256-bit secret. The secret is returned once
// and is not part of the key.
func NewKey(tenant, name string, scopes []Scope, expires time.Time) (secret string, k Key) {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return secret, Key{
		ID: NewID(), Tenant: tenant, Name: name, Hash: HashSecret(secret),
		Scopes: scopes, CreatedAt: time.Now().UTC(), ExpiresAt: expires,
	}
}

// HashSecret is the SHA-256 under which a secret is stored. The secret has
// 256 random bits, so it needs neither salt nor stretching.
func HashSecret(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}
