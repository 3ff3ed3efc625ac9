//go:build !(turbojpeg && cgo)

package imaging

import (
	"context"
	"image"
)

// decodeJPEG decodes with the standard library alone.
func decodeJPEG(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	return decodeStrict(ctx, data, size, longSide)
}
