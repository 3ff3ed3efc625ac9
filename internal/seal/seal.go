// Package seal encrypts what the store must not be able to read. What is
// sealed says with which key, so that a wrong key is told apart from damage,
// and opens only in the place that it was sealed for.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// The errors of [Sealer.Open].
var (
	ErrKey     = errors.New("sealed with a key that is not here")
	ErrDamaged = errors.New("damaged, or sealed for another place")
)

// KeySize is the length of a key, in bytes.
const KeySize = 32

const (
	version   = 1
	idSize    = 8
	nonceSize = 12
	// Overhead is how much longer than the plain bytes the sealed ones are.
	Overhead = 1 + idSize + nonceSize + 16
)

// Sealer seals with its first key and opens with any. It is safe for
// concurrent use.
type Sealer struct {
	keys []key
}

type key struct {
	id   []byte // first bytes of the key's SHA-256
	aead cipher.AEAD
}

// New makes a sealer of keys of [KeySize] random bytes. Invalid: no key, one
// of another length, one that comes twice.
func New(keys ...[]byte) (*Sealer, error) {
	const op = "seal.New"
	s := &Sealer{}
	for _, k := range keys {
		if len(k) != KeySize {
			return nil, face.Errorf(face.Invalid, op, "a key has %d bytes, not %d", len(k), KeySize)
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			return nil, face.Wrap(face.Internal, op, err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, face.Wrap(face.Internal, op, err)
		}
		sum := sha256.Sum256(k)
		id := sum[:idSize]
		if slices.ContainsFunc(s.keys, func(other key) bool { return bytes.Equal(other.id, id) }) {
			return nil, face.Errorf(face.Invalid, op, "a key comes twice")
		}
		s.keys = append(s.keys, key{id, aead})
	}
	if len(s.keys) == 0 {
		return nil, face.Errorf(face.Invalid, op, "there is no key")
	}
	return s, nil
}

// ReadKeys makes a sealer of key files, the first of which seals. Each has
// one key: 64 hex digits, base64, or the 32 bytes themselves. Invalid: a file
// that cannot be read or holds no key; the error names the file.
func ReadKeys(files ...string) (*Sealer, error) {
	const op = "seal.ReadKeys"
	keys := make([][]byte, len(files))
	for i, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, &face.Error{Kind: face.Invalid, Op: op, Detail: "the key file cannot be read", Err: err}
		}
		if keys[i] = parse(data); keys[i] == nil {
			return nil, face.Errorf(face.Invalid, op,
				"%s holds no key: want 64 hex digits, base64 of %d bytes, or %d bytes; `openssl rand -hex %d` makes one",
				name, KeySize, KeySize, KeySize)
		}
	}
	return New(keys...)
}

// parse reads a key, or nil.
func parse(data []byte) []byte {
	// 32 characters are a password, or the hex digits of half a key.
	printable := !bytes.ContainsFunc(data, func(r rune) bool { return r < ' ' || r > '~' })
	if len(data) == KeySize && !printable {
		return data
	}
	text := string(bytes.TrimSpace(data))
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.StdEncoding.DecodeString, base64.RawStdEncoding.DecodeString,
		base64.URLEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if k, err := decode(text); err == nil && len(k) == KeySize {
			return k
		}
	}
	return nil
}

// Seal encrypts bytes for a place, which is not secret and is needed again to
// open them. The nonce is random, which carries 2^32 seals of one key.
func (s *Sealer) Seal(plain, place []byte) []byte {
	k := s.keys[0]
	out := make([]byte, 0, len(plain)+Overhead)
	out = append(append(out, version), k.id...)
	nonce := make([]byte, nonceSize)
	rand.Read(nonce) // never fails: crypto/rand ends the process instead
	out = append(out, nonce...)
	return k.aead.Seal(out, nonce, plain, bound(out[:1+idSize], place))
}

// Open decrypts what was sealed for the place. Errors: [ErrKey], [ErrDamaged].
func (s *Sealer) Open(sealed, place []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, ErrDamaged
	}
	header, rest := sealed[:1+idSize], sealed[1+idSize:]
	i := slices.IndexFunc(s.keys, func(k key) bool { return bytes.Equal(k.id, header[1:]) })
	if i < 0 {
		return nil, fmt.Errorf("%w (key id %x)", ErrKey, header[1:])
	}
	plain, err := s.keys[i].aead.Open(nil, rest[:nonceSize], rest[nonceSize:], bound(header, place))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}

// bound is what is authenticated beside the bytes.
func bound(header, place []byte) []byte { return append(bytes.Clone(header), place...) }
