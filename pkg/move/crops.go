package move

import (
	"errors"
	"strings"

	"github.com/likeness-id/likeness/internal/seal"
	"github.com/likeness-id/likeness/pkg/store"
)

// ErrNoKey is the error of a server that has no key for the crops of a gallery.
var ErrNoKey = errors.New("there is no key to seal them with")

// Crops seals and opens the crops that galleries keep. The zero value has no
// key, and can do neither.
type Crops struct{ keys *seal.Sealer }

// OpenCrops reads the keys in the files: the first key seals, all of them open.
// Each file has one key of 32 bytes, as hex, base64 or raw. Without a file
// there is no key. Errors: Invalid, with the file that is wrong.
func OpenCrops(files ...string) (Crops, error) {
	if len(files) == 0 {
		return Crops{}, nil
	}
	keys, err := seal.ReadKeys(files...)
	return Crops{keys}, err
}

// HasKey reports whether there is a key to seal with.
func (c Crops) HasKey() bool { return c.keys != nil }

// SealCrop seals the crop of a sample, so that it can be opened as the crop of
// that sample only. There must be a key.
func (c Crops) SealCrop(tenant, gallery, sample string, crop []byte) []byte {
	return c.keys.Seal(crop, sealContext(tenant, gallery, sample))
}

// openCrop opens the crop of a sample. Errors: [seal.ErrKey], [seal.ErrDamaged].
func (c Crops) openCrop(tenant, gallery string, s store.Sample) ([]byte, error) {
	if c.keys == nil {
		return nil, seal.ErrKey
	}
	return c.keys.Open(s.Crop, sealContext(tenant, gallery, s.ID))
}

// sealContext binds a sealed crop to its sample. Ids have no zero byte.
func sealContext(tenant, gallery, sample string) []byte {
	return []byte(strings.Join([]string{tenant, gallery, sample}, "\x00"))
}
