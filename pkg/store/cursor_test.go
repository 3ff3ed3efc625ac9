package store_test

import (
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
