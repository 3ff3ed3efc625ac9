//go:build turbojpeg && cgo

package imaging

import (
	"image"
	"sync/atomic"
)

// ErrStopped is what DecodeTurbo says when it was stopped.
var ErrStopped = errStopped

// DecodeTurbo decodes with libjpeg-turbo alone at full size.
func DecodeTurbo(stop *atomic.Int32, data []byte, size image.Point) (*image.RGBA, error) {
	img, _, err := decodeTurbo(stop, data, size, 0)
	return img, err
}
