package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// MaxPage is the longest part of a list.
	MaxPage = 1000

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

// SubjectList names the list of a gallery's subjects that pass a filter, for
// [ReadPage] and [CutPage].
func SubjectList(tenant, gallery string, f SubjectFilter) []string {
	list := []string{"subjects", tenant, gallery}
	if f != (SubjectFilter{}) {
		list = append(list, f.Name, f.ExternalID)
	}
	return list
}

// ReadPage returns the id that a page starts after, empty for the first. The list
// names what is listed: a cursor of another list is Invalid.
func ReadPage(op string, p Page, list ...string) (after string, err error) {
	if p.Limit < 1 || p.Limit > MaxPage {
		return "", face.Errorf(face.Invalid, op, "limit must be 1 to %d", MaxPage)
	}
	if p.Cursor == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err == nil && len(raw) > cursorSumSize {
		after = string(raw[cursorSumSize:])
		// No key is in the sum, so anybody may have made it, over an id that no database takes.
		if bytes.Equal(raw[:cursorSumSize], cursorSum(list, after)) && utf8.ValidString(after) && !strings.ContainsRune(after, 0) {
			return after, nil
		}
	}
	return "", face.Errorf(face.Invalid, op, "the cursor is not one of this list")
}

// CheckOrder is Internal where the ids of a list do not ascend, the first of
// them from the one that the list is to start after. A damaged store may give
// such a list, and whoever went on behind its last id would go round for ever.
func CheckOrder[T any, ID cmp.Ordered](op string, after ID, items []T, id func(T) ID) error {
	for _, item := range items {
		if err := CheckNext(op, after, id(item)); err != nil {
			return err
		}
		after = id(item)
	}
	return nil
}

// CheckNext is CheckOrder of one item.
func CheckNext[ID cmp.Ordered](op string, after, next ID) error {
	if next <= after {
		return &face.Error{Kind: face.Internal, Op: op, Detail: "the stored data is damaged", Err: errOrder}
	}
	return nil
}

var errOrder = errors.New("the store is damaged: it gives a list out of order; `likeness store check` says what to do")

// CutPage takes the one item too many off a list and makes the cursor of the
// next page from the last that stays.
func CutPage[T any](items []T, p Page, id func(T) string, list ...string) ([]T, string) {
	if len(items) <= p.Limit {
		return items, ""
	}
	items = items[:p.Limit]
	return items, makeCursor(id(items[p.Limit-1]), list...)
}
