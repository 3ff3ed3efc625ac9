//go:build turbojpeg && cgo

package imaging

// #cgo pkg-config: libjpeg
// #include "jpeg_turbo.h"
import "C"

import (
	"context"
	"errors"
	"image"
	"sync/atomic"
	"unsafe"
)

// decodeJPEG decodes with libjpeg-turbo, which leaves out the high frequencies
// that a reduced size does not show: the inverse transform and all that comes
// after it are done on n/8 of each side.
//
// libjpeg repairs broken images and only warns. An image that it warns of, or
// does not decode (CMYK), is decoded by the standard library instead, so that
// both builds accept the same images.
func decodeJPEG(ctx context.Context, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	var stop atomic.Int32
	defer context.AfterFunc(ctx, func() { stop.Store(1) })()
	rgba, scale, err := decodeTurbo(&stop, data, size, longSide)
	if errors.Is(err, errNotWhole) {
		return decodeStrict(ctx, data, size, longSide)
	}
	return rgba, scale, err
}

var (
	errNotWhole = errors.New("libjpeg refuses the JPEG, does not convert its colours, or warns")
	errStopped  = errors.New("stopped")
)

// decodeTurbo ends soon after stop is no longer 0.
func decodeTurbo(stop *atomic.Int32, data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	eighths := eighths(max(size.X, size.Y), longSide)
	rgba := image.NewRGBA(image.Rect(0, 0, (size.X*eighths+7)/8, (size.Y*eighths+7)/8))
	switch C.decode_jpeg(
		(*C.uchar)(unsafe.SliceData(data)), C.ulong(len(data)), C.int(eighths), maxScans, (*C.int)(unsafe.Pointer(stop)),
		(*C.uchar)(unsafe.SliceData(rgba.Pix)), C.int(rgba.Rect.Dx()), C.int(rgba.Rect.Dy())) {
	case C.JPEG_DECODED:
		return rgba, float64(eighths) / 8, nil
	case C.JPEG_TOO_MANY_SCANS:
		return nil, 0, refuseScans()
	case C.JPEG_STOPPED:
		return nil, 0, errStopped
	}
	return nil, 0, errNotWhole
}

// eighths is the size to decode at: the least that leaves longSide of long
// pixels. From 5 to 7 the library has no SIMD code and is slower than at 8.
func eighths(long, longSide int) int {
	for n := 1; n <= 4; n++ {
		if longSide > 0 && (long*n+7)/8 >= longSide {
			return n
		}
	}
	return 8
}
