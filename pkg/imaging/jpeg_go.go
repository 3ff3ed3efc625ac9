//go:build !(turbojpeg && cgo)

package imaging

import "image"

// decodeJPEG decodes with the standard library alone.
func decodeJPEG(data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	return decodeStrict(data, size, longSide)
}
