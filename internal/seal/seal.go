// Package seal encrypts what the store must not be able to read, with AES-GCM.
// Sealed bytes name their key, so that a missing key is not mistaken for
// damage, and they open only in the place that they were sealed for.
package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
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
	ErrKey     = errors.New("sealed with a key that this server does not have")
	ErrDamaged = errors.New("damaged, or sealed for another place")
)

// KeySize is the length of a key, in bytes.
const KeySize = 32

const (
	version    = 1
	idSize     = 8
	headerSize = 1 + idSize
	// Overhead is how many bytes longer the sealed bytes are than the plain
	// ones: the header, a nonce of 12 bytes and a tag of 16.
	Overhead = headerSize + 12 + 16
)

// Sealer seals with its first key and opens with any of its keys. It is safe
// for concurrent use.
type Sealer struct {
	keys []key
}

type key struct {
	id   []byte // first bytes of the key's SHA-256
	aead cipher.AEAD
}

// New makes a sealer from keys of [KeySize] random bytes each. The error is
// Invalid if there is no key, if a key has another length, or if a key is
// given twice.
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
		aead, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, face.Wrap(face.Internal, op, err)
		}
		sum := sha256.Sum256(k)
		id := sum[:idSize]
		if slices.ContainsFunc(s.keys, func(other key) bool { return bytes.Equal(other.id, id) }) {
			return nil, face.Errorf(face.Invalid, op, "a key is given twice")
		}
		s.keys = append(s.keys, key{id, aead})
	}
	if len(s.keys) == 0 {
		return nil, face.Errorf(face.Invalid, op, "there is no key")
	}
	return s, nil
}

// ReadKeys makes a sealer from key files; the key of the first file seals.
// Each file has one key: 64 hex digits, base64, or the 32 bytes themselves.
// The error is Invalid, and names the file, if a file cannot be read or holds
// no key.
func ReadKeys(files ...string) (*Sealer, error) {
	const op = "seal.ReadKeys"
	keys := make([][]byte, len(files))
	for i, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, &face.Error{Kind: face.Invalid, Op: op, Detail: "the key file cannot be read", Err: err}
		}
		if keys[i] = parseKey(data); keys[i] == nil {
			return nil, face.Errorf(face.Invalid, op,
				"%s holds no key: want 64 hex digits, base64 of %d bytes, or %d bytes; `openssl rand -hex %d` makes one",
				name, KeySize, KeySize, KeySize)
		}
	}
	return New(keys...)
}

// parseKey reads the key in a file's bytes. It is nil if there is none.
func parseKey(data []byte) []byte {
	// 32 printable characters are no key: they are a password, or the hex
	// digits of half a key.
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

// Seal encrypts bytes for a place, such as the id of the record that holds
// them. The place is not secret, and Open needs the same one. The result is
// the version, the key's id, a random nonce, the encrypted bytes and their
// tag. One key is good for 2^32 seals, because of the random nonce.
func (s *Sealer) Seal(plain, place []byte) []byte {
	k := s.keys[0]
	out := make([]byte, 0, len(plain)+Overhead)
	out = append(append(out, version), k.id...)
	return k.aead.Seal(out, nil, plain, additionalData(out, place))
}

// Open decrypts what was sealed for the place. Errors: [ErrKey], [ErrDamaged].
func (s *Sealer) Open(sealed, place []byte) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, ErrDamaged
	}
	header := sealed[:headerSize]
	i := slices.IndexFunc(s.keys, func(k key) bool { return bytes.Equal(k.id, header[1:]) })
	if i < 0 {
		return nil, fmt.Errorf("%w (key id %x)", ErrKey, header[1:])
	}
	plain, err := s.keys[i].aead.Open(nil, nil, sealed[headerSize:], additionalData(header, place))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}

// additionalData is what the tag protects beside the encrypted bytes.
func additionalData(header, place []byte) []byte { return append(bytes.Clone(header), place...) }
