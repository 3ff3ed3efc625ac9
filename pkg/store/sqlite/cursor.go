package sqlite

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

const (
	maxPage       = 1000
	cursorSumSize = 4
)

// A cursor is the last id of a page, behind a short checksum over the list it
// is a place in. It keeps no secret; the checksum is there so that a mangled
// cursor, or that of another list, is an error and not some other place.
func cursorSum(list []string, id string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(append(list, id), "\x00")))
	return sum[:cursorSumSize]
}

func makeCursor(id string, list ...string) string {
	return base64.RawURLEncoding.EncodeToString(append(cursorSum(list, id), id...))
}

// readPage returns the id that a page starts after, empty for the first.
func readPage(op string, p store.Page, list ...string) (after string, err error) {
	if p.Limit < 1 || p.Limit > maxPage {
		return "", face.Errorf(face.Invalid, op, "limit must be 1 to %d", maxPage)
	}
	if p.Cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err == nil && len(raw) > cursorSumSize {
		after = string(raw[cursorSumSize:])
		if bytes.Equal(raw[:cursorSumSize], cursorSum(list, after)) {
			return after, nil
		}
	}
	return "", face.Errorf(face.Invalid, op, "the cursor is not one of this list")
}

// cutPage takes the one item too many off a list and makes the cursor of the
// next page from the last that stays.
func cutPage[T any](items []T, p store.Page, id func(T) string, list ...string) ([]T, string) {
	if len(items) <= p.Limit {
		return items, ""
	}
	items = items[:p.Limit]
	return items, makeCursor(id(items[p.Limit-1]), list...)
}
