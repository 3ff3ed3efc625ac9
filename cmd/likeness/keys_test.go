package main

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	made := runTool(t.Context(), "keys", "create", "--data-dir", dir, "--name", "front door", "--scopes", "identify,read,read", "--expires", "90d")
	if made.code != exitOK {
		t.Fatalf("create: %+v", made)
	}
	secret := strings.TrimSuffix(made.stdout, "\n")
	if raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(secret, "lk_")); err != nil || len(raw) != 32 {
		t.Fatalf("stdout is not the secret alone: %q", made.stdout)
	}
	if strings.Contains(made.stderr, secret) {
		t.Error("the secret is on stderr too")
	}

	keys, err := sqlite.OpenKeys(t.Context(), filepath.Join(dir, "likeness.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
	})
	key, err := keys.KeyByHash(t.Context(), face.HashSecret(secret))
	if err != nil {
		t.Fatal(err)
	}
	if key.Name != "front door" || len(key.Scopes) != 2 || !key.Allows(face.ScopeIdentify) || key.Allows(face.ScopeEnrol) || key.Tenant != face.DefaultTenant {
		t.Errorf("stored: %+v", key)
	}
	if left := time.Until(key.ExpiresAt); left < 89*24*time.Hour || left > 90*24*time.Hour {
		t.Errorf("expires in %v", left)
	}

	listed := runTool(t.Context(), "keys", "list", "--data-dir", dir)
	if listed.code != exitOK || !regexp.MustCompile(key.ID+` +default +front door +identify,read .* live`).MatchString(listed.stdout) {
		t.Errorf("list: %+v", listed)
	}
	if strings.Contains(listed.stdout, secret) {
		t.Error("the list shows the secret")
	}
	if other := runTool(t.Context(), "keys", "list", "--data-dir", dir, "--tenant", "other"); strings.Contains(other.stdout, key.ID) {
		t.Errorf("another tenant's list: %+v", other)
	}

	if got := runTool(t.Context(), "keys", "revoke", "--data-dir", dir, key.ID); got.code != exitOK {
		t.Errorf("revoke: %+v", got)
	}
	if key, err = keys.KeyByHash(t.Context(), key.Hash); err != nil || key.Live(time.Now()) {
		t.Errorf("after revoke: %+v, %v", key, err)
	}
	if got := runTool(t.Context(), "keys", "list", "--data-dir", dir); !strings.Contains(got.stdout, "revoked 20") {
		t.Errorf("list after revoke: %+v", got)
	}
	if got := runTool(t.Context(), "keys", "revoke", "--data-dir", dir, "nobody"); got.code != exitFailed || !strings.Contains(got.stderr, "no key with this id") {
		t.Errorf("revoke of nothing: %+v", got)
	}
	if got := runTool(t.Context(), "keys", "revoke", "--data-dir", dir, secret); got.code != exitUsage || !strings.Contains(got.stderr, "not an id") || strings.Contains(got.stderr, secret) {
		t.Errorf("revoke of a secret: %+v", got)
	}
}

// The keys are those of the server's store, wherever it is, and a mistyped
// folder is an error, not an empty list.
func TestKeysStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := filepath.Join(dir, "elsewhere", "other.db")
	if got := runTool(t.Context(), "keys", "create", "--data-dir", dir, "--database-url", "sqlite:"+other, "--name", "x", "--scopes", "read"); got.code != exitOK || !strings.Contains(got.stderr, other) {
		t.Errorf("create: %+v", got)
	}
	if got := runTool(t.Context(), "keys", "list", "--data-dir", dir, "--database-url", "sqlite:"+other); got.code != exitOK || !strings.Contains(got.stdout, "live") {
		t.Errorf("list: %+v", got)
	}
	for _, command := range [][]string{{"keys", "list"}, {"keys", "revoke", "nobody"}} {
		got := runTool(t.Context(), append(command, "--data-dir", dir)...)
		if got.code != exitFailed || got.stdout != "" || !strings.Contains(got.stderr, "there is no store at "+dir) {
			t.Errorf("%v without a store: %+v", command, got)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "likeness.db")); err == nil {
		t.Error("looking for keys made a store")
	}
	if got := runTool(t.Context(), "keys", "list", "--database-url", "redis://u:secret@h/d"); got.code != exitUsage || strings.Contains(got.stderr, "secret") {
		t.Errorf("another store: %+v", got)
	}
}

func TestLifetime(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]time.Duration{
		"never": 0, "90d": 90 * 24 * time.Hour, "12h": 12 * time.Hour, "1h30m": 90 * time.Minute, "36500d": 36500 * 24 * time.Hour,
	} {
		var l lifetime
		if err := l.UnmarshalText([]byte(in)); err != nil || time.Duration(l) != want {
			t.Errorf("%q = %v, %v; want %v", in, time.Duration(l), err, want)
		}
	}
	for _, in := range []string{"", "0d", "-1d", "0s", "-5h", "d", "1.5d", "90", "36501d", "99999999999999999999d", "9223372036854775807d", "1y", "never "} {
		var l lifetime
		if err := l.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q = %v", in, time.Duration(l))
		}
	}
	if !errors.Is(usageError{face.Invalid}, face.Invalid) {
		t.Error("a usage error hides its cause")
	}
}
