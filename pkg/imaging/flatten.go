package imaging

import (
	"context"
	"image"
	"image/draw"
)

// flatten draws any image onto white, shrunk by the largest whole factor that
// leaves longSide pixels along the longer side; 0 keeps the size. Each pixel of
// the result is the mean of a square of pixels; at the right and bottom edges
// it is the mean of the part that exists. The scale is [Image.Scale].
//
// The image is converted one band of rows at a time, so that memory holds only
// one band and the result beside the decoded image. When the context ends, the
// rest of the result is left unwritten.
func flatten(ctx context.Context, img image.Image, longSide int) (*image.RGBA, float64) {
	b := img.Bounds()
	w, h := b.Dx(), b.Dy()
	factor := 1
	if longSide > 0 {
		factor = max(1, max(w, h)/longSide)
	}
	o, ok := img.(interface{ Opaque() bool })
	opaque := ok && o.Opaque()
	// onto draws the rows from y on that fit dst.
	onto := func(dst *image.RGBA, y int) {
		if !opaque {
			draw.Draw(dst, dst.Rect, image.White, image.Point{}, draw.Src)
		}
		draw.Draw(dst, dst.Rect, img, image.Pt(b.Min.X, b.Min.Y+y), draw.Over)
	}
	if factor == 1 {
		dst := image.NewRGBA(image.Rect(0, 0, w, h))
		const rows = 16
		for y := 0; y < h && ctx.Err() == nil; y += rows {
			onto(dst.SubImage(image.Rect(0, y, w, min(y+rows, h))).(*image.RGBA), y)
		}
		return dst, 1
	}
	dst := image.NewRGBA(image.Rect(0, 0, (w+factor-1)/factor, (h+factor-1)/factor))
	band := image.NewRGBA(image.Rect(0, 0, w, factor))
	for y := range dst.Rect.Dy() {
		if ctx.Err() != nil {
			break
		}
		band.Rect.Max.Y = min(factor, h-y*factor)
		onto(band, y*factor)
		shrinkBand(dst.Pix[y*dst.Stride:][:dst.Stride], band, factor)
	}
	return dst, 1 / float64(factor)
}

// shrinkBand writes one row: the mean of each square of the band.
func shrinkBand(dst []uint8, band *image.RGBA, factor int) {
	w, rows := band.Rect.Dx(), band.Rect.Dy()
	for x := 0; x < w; x += factor {
		columns := min(factor, w-x)
		var r, g, b uint32
		for y := range rows {
			row := band.Pix[y*band.Stride+4*x:][:4*columns]
			for ; len(row) >= 4; row = row[4:] {
				r += uint32(row[0])
				g += uint32(row[1])
				b += uint32(row[2])
			}
		}
		n := uint32(columns * rows)
		half := n / 2
		dst[0], dst[1], dst[2], dst[3] = uint8((r+half)/n), uint8((g+half)/n), uint8((b+half)/n), 255
		dst = dst[4:]
	}
}
