package face_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
)

func TestExcerpt(t *testing.T) {
	t.Parallel()
	a := func(n int) string { return strings.Repeat("a", n) }
	for text, want := range map[string]string{
		"":                           "",
		"naïve":                      "naïve",
		a(100):                       a(100),
		a(101):                       a(100) + "…",
		a(99) + "ü":                  a(99) + "…",
		a(98) + "ü":                  a(98) + "ü",
		a(97) + "😀":                  a(97) + "…",
		"\xff\xfe":                   "\uFFFD",
		strings.Repeat("\x80", 1000): "\uFFFD…",
		a(99) + "\xff" + a(9):        a(99) + "\uFFFD…",
	} {
		if got := face.Excerpt(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestPointAt: an error points at a field if the caller can mend it there.
func TestPointAt(t *testing.T) {
	t.Parallel()
	elsewhere := &face.Error{Kind: face.Invalid, Fields: []face.FieldError{{Pointer: "/k"}}}
	other := errors.New("other")
	for _, tt := range []struct {
		name            string
		err             error
		pointer, detail string // of the first field; empty: it has none
	}{
		{"with a detail", face.Errorf(face.NoFace, "op", "nobody there"), "/probe", "nobody there"},
		{"without a detail", face.Errorf(face.NoFace, "op", ""), "/probe", face.NoFace.Title()},
		{"wrapped", fmt.Errorf("outer: %w", face.Errorf(face.ManyFaces, "op", "two")), "/probe", "two"},
		{"points elsewhere", elsewhere, "/k", ""},
		{"of the server", face.Errorf(face.Overloaded, "op", "busy"), "", ""},
		{"no face.Error", other, "", ""},
		{"none", nil, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got := face.PointAt(tt.err, "/probe")
			var pointed *face.Error
			if errors.As(got, &pointed) && len(pointed.Fields) > 0 {
				if f := pointed.Fields[0]; f.Pointer != tt.pointer || f.Detail != tt.detail {
					t.Errorf("got %+v", f)
				}
			} else if tt.pointer != "" || !errors.Is(got, tt.err) && tt.err != nil {
				t.Errorf("got %v", got)
			}
			var before *face.Error
			if errors.As(tt.err, &before) && before != elsewhere && before.Fields != nil {
				t.Error("the error itself was changed")
			}
		})
	}
}
