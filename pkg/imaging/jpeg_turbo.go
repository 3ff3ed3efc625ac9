//go:build turbojpeg && cgo

package imaging

// #cgo pkg-config: libturbojpeg
// #include <turbojpeg.h>
import "C"

import (
	"image"
	"unsafe"
)

// decodeJPEG decodes with libjpeg-turbo, which leaves out the high frequencies
// that a reduced size does not show: the inverse transform and all that comes
// after it are done on n/8 of each side.
//
// libjpeg mends what is broken and only warns. What it warns of, and what it
// does not decode (CMYK), goes to the standard library, whose verdict counts;
// so both builds read the same images.
func decodeJPEG(data []byte, size image.Point, longSide int) (*image.RGBA, float64, error) {
	if rgba, scale := decodeTurbo(data, size, longSide); rgba != nil {
		return rgba, scale, nil
	}
	return decodeStrict(data, size, longSide)
}

// decodeTurbo returns nil for what it does not decode without a warning.
func decodeTurbo(data []byte, size image.Point, longSide int) (*image.RGBA, float64) {
	h := C.tjInitDecompress()
	if h == nil {
		return nil, 0
	}
	defer C.tjDestroy(h)
	src, n := (*C.uchar)(unsafe.Pointer(unsafe.SliceData(data))), C.ulong(len(data))
	var width, height, subsampling, space C.int
	if C.tjDecompressHeader3(h, src, n, &width, &height, &subsampling, &space) != 0 ||
		image.Pt(int(width), int(height)) != size ||
		space == C.TJCS_CMYK || space == C.TJCS_YCCK {
		return nil, 0
	}
	eighths := eighths(max(size.X, size.Y), longSide)
	rgba := image.NewRGBA(image.Rect(0, 0, (size.X*eighths+7)/8, (size.Y*eighths+7)/8))
	dst := (*C.uchar)(unsafe.Pointer(unsafe.SliceData(rgba.Pix)))
	if C.tjDecompress2(h, src, n, dst, C.int(rgba.Rect.Dx()), C.int(rgba.Stride), C.int(rgba.Rect.Dy()),
		C.TJPF_RGBA, C.TJFLAG_STOPONWARNING) != 0 {
		return nil, 0
	}
	return rgba, float64(eighths) / 8
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
