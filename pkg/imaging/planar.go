package imaging

import (
	"image"
	"math"
)

// Planar says how an image is written into a network's input: float32, three
// planes of Height rows of Width values, each (v-Mean)*Scale with v in 0..255.
type Planar struct {
	Width, Height int
	BGR           bool       // the planes are blue, green, red; else red, green, blue
	Mean, Scale   [3]float32 // by plane, in that order
}

// planes splits dst, which must hold 3*Width*Height values, into the planes
// of red, green and blue, each with the value that v becomes as v*mul - sub.
func (p Planar) planes(dst []float32) [3]plane {
	n := p.Width * p.Height
	var out [3]plane
	for i := range out {
		out[i] = plane{v: dst[i*n : (i+1)*n : (i+1)*n], mean: p.Mean[i], scale: p.Scale[i]}
	}
	if p.BGR {
		out[0], out[2] = out[2], out[0]
	}
	return out
}

type plane struct {
	v           []float32
	mean, scale float32
}

// Letterbox writes src into dst (3*Width*Height values), its aspect kept, as
// large as it fits, in the top left corner; the rest is black. The returned
// scale is tensor pixels per pixel of src, the same for both axes, about the
// outer corner of the first pixel: what is found at (x, y) of the tensor,
// measured from that corner, is at (x/scale, y/scale) of src.
//
// Shrinking averages the area that each tensor pixel covers; growing
// interpolates between the pixels' centres. It allocates nothing.
func (p Planar) Letterbox(dst []float32, src *image.RGBA) (scale float64) {
	sw, sh := src.Rect.Dx(), src.Rect.Dy()
	scale = min(float64(p.Width)/float64(sw), float64(p.Height)/float64(sh))
	w := clamp(int(math.Round(float64(sw)*scale)), 1, p.Width)
	h := clamp(int(math.Round(float64(sh)*scale)), 1, p.Height)
	planes := p.planes(dst)
	for y := range p.Height {
		var row [3][]float32
		for c := range planes {
			row[c] = planes[c].v[y*p.Width:][:p.Width]
		}
		filled := 0
		if y < h {
			filled = w
			if scale > 1 {
				growRow(row, w, y, src, 1/scale)
			} else {
				shrinkRow(row, w, y, src, 1/scale)
			}
		}
		for c, r := range row {
			clear(r[filled:])
			mean, scale := planes[c].mean, planes[c].scale
			for x, v := range r {
				r[x] = (v - mean) * scale
			}
		}
	}
	return scale
}

// one is 1 in the fixed-point coordinates and weights of the loops below:
// 16 fractional bits.
const one = 1 << 16

// shrinkRow writes row y of an image shrunk by the factor step >= 1: the mean
// of the columns [x*step, (x+1)*step) and the rows [y*step, (y+1)*step).
//
// The sums of a row of src are added up in row itself, so no memory is needed
// for them.
func shrinkRow(row [3][]float32, w, y int, src *image.RGBA, step float64) {
	sw, sh := src.Rect.Dx(), src.Rect.Dy()
	r, g, b := row[0][:w], row[1][:w], row[2][:w]
	clear(r)
	clear(g)
	clear(b)
	top, bottom := float64(y)*step, min(float64(y+1)*step, float64(sh))
	fixed := int64(math.Round(step * (1 << 32)))
	limit := int64(sw) << 32
	var weight float32 // of all rows so far
	for sy := int(top); float64(sy) < bottom; sy++ {
		rowWeight := float32(min(bottom, float64(sy+1)) - max(top, float64(sy)))
		if rowWeight < 1e-6 {
			continue // rounding: the row is not really touched
		}
		weight += rowWeight
		k := rowWeight / one
		pix := src.Pix[sy*src.Stride:][:4*sw]
		for x := range r {
			from := int64(x) * fixed
			to := min(from+fixed, limit)
			i, last := int(from>>32), int(to>>32)
			var sr, sg, sb uint64
			if i == last { // within one pixel
				wt := uint64(to-from) >> 16
				sr, sg, sb = wt*uint64(pix[4*i]), wt*uint64(pix[4*i+1]), wt*uint64(pix[4*i+2])
			} else {
				wt := one - uint64(from&(1<<32-1))>>16
				q := pix[4*i : 4*last]
				sr, sg, sb = wt*uint64(q[0]), wt*uint64(q[1]), wt*uint64(q[2])
				var fr, fg, fb uint64
				for q = q[4:]; len(q) >= 4; q = q[4:] {
					fr += uint64(q[0])
					fg += uint64(q[1])
					fb += uint64(q[2])
				}
				sr, sg, sb = sr+fr*one, sg+fg*one, sb+fb*one
				if wt := uint64(to&(1<<32-1)) >> 16; wt > 0 {
					q := pix[4*last:][:4]
					sr, sg, sb = sr+wt*uint64(q[0]), sg+wt*uint64(q[1]), sb+wt*uint64(q[2])
				}
			}
			r[x] += float32(int64(sr)) * k
			g[x] += float32(int64(sg)) * k
			b[x] += float32(int64(sb)) * k
		}
	}
	inner := 1 / (weight * float32(step))
	for x := range r[:w-1] {
		r[x] *= inner
		g[x] *= inner
		b[x] *= inner
	}
	// The last column may reach beyond the image.
	x := w - 1
	width := min(float64(w)*step, float64(sw)) - float64(x)*step
	outer := 1 / (weight * float32(width))
	r[x] *= outer
	g[x] *= outer
	b[x] *= outer
}

// growRow writes row y of an image grown by 1/step: what lies between the
// centres of src's pixels, its edge pixels reaching outwards.
func growRow(row [3][]float32, w, y int, src *image.RGBA, step float64) {
	r, g, b := row[0][:w], row[1][:w], row[2][:w]
	right, bottom := float64(src.Rect.Dx()-1), float64(src.Rect.Dy()-1)
	sy := clamp((float64(y)+0.5)*step-0.5, 0, bottom)
	for x := range r {
		sx := clamp((float64(x)+0.5)*step-0.5, 0, right)
		sr, sg, sb := bilinear(src, sx, sy)
		r[x], g[x], b[x] = toUnit*float32(sr), toUnit*float32(sg), toUnit*float32(sb)
	}
}

// toUnit undoes the two weights of bilinear.
const toUnit = 1.0 / (one * one)

// bilinear interpolates red, green and blue at a position of which the
// nearest pixels exist: 0 <= x <= width-1, 0 <= y <= height-1. The result has
// 32 fractional bits; at the centre of a pixel it is exactly that pixel.
func bilinear(src *image.RGBA, x, y float64) (r, g, b int64) {
	ix, iy := int(x), int(y)
	fx, fy := int64((x-float64(ix))*one), int64((y-float64(iy))*one)
	// A neighbour of weight 0 may lie outside: the pixel itself stands in.
	right, below := 4, src.Stride
	if fx == 0 {
		right = 0
	}
	if fy == 0 {
		below = 0
	}
	at := iy*src.Stride + 4*ix
	a, ar := src.Pix[at:][:3], src.Pix[at+right:][:3]
	d, dr := src.Pix[at+below:][:3], src.Pix[at+below+right:][:3]
	w11, w10, w01 := fx*fy, fy*(one-fx), fx*(one-fy)
	w00 := one*one - w11 - w10 - w01
	r = w00*int64(a[0]) + w01*int64(ar[0]) + w10*int64(d[0]) + w11*int64(dr[0])
	g = w00*int64(a[1]) + w01*int64(ar[1]) + w10*int64(d[1]) + w11*int64(dr[1])
	b = w00*int64(a[2]) + w01*int64(ar[2]) + w10*int64(d[2]) + w11*int64(dr[2])
	return r, g, b
}

// clamp bounds v, and is low where v is not a number.
func clamp[T int | float64](v, low, high T) T {
	if v > low {
		return min(v, high)
	}
	return low
}
