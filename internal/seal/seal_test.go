package seal_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/seal"
	"github.com/likeness-id/likeness/pkg/face"
)

func testKey(fill byte) []byte { return bytes.Repeat([]byte{fill}, seal.KeySize) }

func newSealer(tb testing.TB, keys ...[]byte) *seal.Sealer {
	tb.Helper()
	s, err := seal.New(keys...)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func TestSeal(t *testing.T) {
	t.Parallel()
	s, place := newSealer(t, testKey(1)), []byte("acme/staff/photo")
	for _, plain := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("photo"), 1000)} {
		sealed := s.Seal(plain, place)
		if len(sealed) != len(plain)+seal.Overhead || len(plain) > 1 && bytes.Contains(sealed, plain[:5]) {
			t.Errorf("%d bytes became %d, or can be read", len(plain), len(sealed))
		}
		if again := s.Seal(plain, place); bytes.Equal(again, sealed) {
			t.Error("two seals of the same are the same")
		}
		got, err := s.Open(sealed, place)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %d bytes of %d, %v", len(got), len(plain), err)
		}
		if _, err := s.Open(sealed, []byte("acme/staff/another")); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("in another place: %v", err)
		}
		if _, err := newSealer(t, testKey(2)).Open(sealed, place); !errors.Is(err, seal.ErrKey) {
			t.Errorf("with another key: %v", err)
		}
	}
}

// TestOpenVersion1 opens bytes that an earlier version of this package sealed: what a store holds
// must open after every update.
func TestOpenVersion1(t *testing.T) {
	t.Parallel()
	sealed, err := hex.DecodeString("0172cd6e8422c407fb1c39131f98462ab0f020b2378415a3619e891b99ee34e77a55fe14c16fe918a9dda28855a4dd9e0264c22ab6")
	if err != nil {
		t.Fatal(err)
	}
	got, err := newSealer(t, testKey(1)).Open(sealed, []byte("acme/staff/photo"))
	if err != nil || string(got) != "a crop of a face" {
		t.Errorf("opened %q, %v", got, err)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	s, place := newSealer(t, testKey(1)), []byte("p")
	sealed := s.Seal([]byte("photo"), place)
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := s.Open(bad, place); !errors.Is(err, seal.ErrDamaged) && !errors.Is(err, seal.ErrKey) {
			t.Errorf("a change of byte %d: %v", i, err)
		}
		if _, err := s.Open(sealed[:i], place); !errors.Is(err, seal.ErrDamaged) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

// A new key comes first, and the old one opens what it sealed.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, place := newSealer(t, testKey(1)), []byte("p")
	both, renewed := newSealer(t, testKey(2), testKey(1)), newSealer(t, testKey(2))
	if got, err := both.Open(old.Seal([]byte("photo"), place), place); err != nil || string(got) != "photo" {
		t.Errorf("sealed by the old key: %q, %v", got, err)
	}
	if got, err := renewed.Open(both.Seal([]byte("photo"), place), place); err != nil || string(got) != "photo" {
		t.Errorf("sealed by the new key: %q, %v", got, err)
	}
}

func TestReadKeys(t *testing.T) {
	t.Parallel()
	dir, k := t.TempDir(), testKey(0xfb)
	k[0] = '\n' // nothing may be trimmed off the bytes themselves
	sealed := newSealer(t, k).Seal([]byte("photo"), nil)
	file := func(content string) string {
		f, err := os.CreateTemp(dir, "key")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(content); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	for name, content := range map[string]string{
		"bytes": string(k), "hex": hex.EncodeToString(k), "upper hex and a line's end": strings.ToUpper(hex.EncodeToString(k)) + "\r\n",
		"base64": base64.StdEncoding.EncodeToString(k) + "\n", "raw base64": base64.RawStdEncoding.EncodeToString(k),
		"URL base64": base64.URLEncoding.EncodeToString(k),
	} {
		s, err := seal.ReadKeys(file(content))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := s.Open(sealed, nil); err != nil || string(got) != "photo" {
			t.Errorf("%s is another key: %v", name, err)
		}
	}
	for name, files := range map[string][]string{
		"not there": {filepath.Join(dir, "nothing")}, "empty": {file("")}, "a password": {file("correct horse")},
		"short": {file(hex.EncodeToString(k[:16]))}, "long": {file(string(k) + "x")}, "none": {},
		"twice": {file(string(k)), file(hex.EncodeToString(k))},
	} {
		_, err := seal.ReadKeys(files...)
		if !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), string(k[1:8])) || strings.Contains(err.Error(), "correct") {
			t.Errorf("%s: the error tells the key: %v", name, err)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string][][]byte{"none": {}, "short": {testKey(1)[:16]}, "twice": {testKey(1), testKey(1)}} {
		if _, err := seal.New(keys...); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
