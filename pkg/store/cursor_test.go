package store_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func TestCheckOrder(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		after string
		ids   []string
		good  bool
	}{
		"none":             {"m", nil, true},
		"ascending":        {"", []string{"a", "b"}, true},
		"after the cursor": {"m", []string{"n", "z"}, true},
		"of no name":       {"", []string{""}, false},
		"at the cursor":    {"m", []string{"m", "n"}, false},
		"before it":        {"m", []string{"a"}, false},
		"twice":            {"", []string{"a", "a"}, false},
		"descending":       {"", []string{"b", "a"}, false},
	} {
		err := store.CheckOrder("List", tt.after, tt.ids, func(id string) string { return id })
		if e, ok := errors.AsType[*face.Error](err); tt.good != (err == nil) || !tt.good && (!ok || e.Kind != face.Internal || e.Detail == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReadPage: a cursor whose sum is right is not right for that.
func TestReadPage(t *testing.T) {
	t.Parallel()
	for id, good := range map[string]bool{"ada": true, "a\x00b": false, "\xff": false} {
		sum := sha256.Sum256([]byte("galleries\x00acme\x00" + id))
		cursor := base64.RawURLEncoding.EncodeToString(append(sum[:4], id...))
		after, err := store.ReadPage("List", store.Page{Limit: 1, Cursor: cursor}, "galleries", "acme")
		if good != (err == nil) || good && after != id || !good && !errors.Is(err, face.Invalid) {
			t.Errorf("%q: %q, %v", id, after, err)
		}
	}
}
