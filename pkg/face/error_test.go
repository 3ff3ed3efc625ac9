package face_test

import (
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
