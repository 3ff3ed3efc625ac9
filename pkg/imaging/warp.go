package imaging

import (
	"image"
	"math"
)

// Warp writes into dst (3*Width*Height values) what toSrc finds in src: the
// value of the tensor's pixel (x, y) is src at toSrc.Apply(x, y), both in
// pixel-index coordinates, interpolated between the four nearest pixels;
// outside src all is black. Where toSrc shrinks by 1.5 or more, that is where
// plain interpolation would skip pixels, a square of samples is averaged, up
// to 8x8. It allocates nothing.
func (p Planar) Warp(dst []float32, src *image.RGBA, toSrc Affine) {
	planes := p.planes(dst)
	s := newSampler(src, toSrc)
	for y := range p.Height {
		row := y * p.Width
		for x := range p.Width {
			r, g, b := s.at(float64(x), float64(y))
			for c, v := range [3]float32{r, g, b} {
				planes[c].v[row+x] = (v - planes[c].mean) * planes[c].scale
			}
		}
	}
}

// WarpRGBA is [Planar.Warp] into pixels, opaque, rounded to the nearest.
func WarpRGBA(dst *image.RGBA, src *image.RGBA, toSrc Affine) {
	s := newSampler(src, toSrc)
	for y := range dst.Rect.Dy() {
		row := dst.Pix[y*dst.Stride:][:4*dst.Rect.Dx()]
		for x := range dst.Rect.Dx() {
			r, g, b := s.at(float64(x), float64(y))
			q := row[4*x:][:4]
			q[0], q[1], q[2], q[3] = uint8(r+0.5), uint8(g+0.5), uint8(b+0.5), 255
		}
	}
}

// sampler reads src through toSrc.
type sampler struct {
	src           *image.RGBA
	toSrc         Affine
	n             int     // samples along each axis of a pixel of the result
	unit          float32 // undoes the weights of bilinear and the sum of n*n
	right, bottom float64 // the last pixel's centre
}

func newSampler(src *image.RGBA, toSrc Affine) sampler {
	const most = 8
	shrink := max(math.Hypot(toSrc[0], toSrc[3]), math.Hypot(toSrc[1], toSrc[4]))
	n := int(clamp(math.Round(shrink), 1, most))
	return sampler{
		src: src, toSrc: toSrc, n: n, unit: toUnit / float32(n*n),
		right: float64(src.Rect.Dx() - 1), bottom: float64(src.Rect.Dy() - 1),
	}
}

// at is the colour, 0..255, at pixel (x, y) of the result.
func (s *sampler) at(x, y float64) (r, g, b float32) {
	var sr, sg, sb int64
	if s.n == 1 {
		sr, sg, sb = s.sample(s.toSrc.Apply(x, y))
	} else {
		step := 1 / float64(s.n)
		first := (step - 1) / 2 // of the samples, spread evenly about (x, y)
		for j := range s.n {
			for i := range s.n {
				r, g, b := s.sample(s.toSrc.Apply(x+first+float64(i)*step, y+first+float64(j)*step))
				sr, sg, sb = sr+r, sg+g, sb+b
			}
		}
	}
	return s.unit * float32(sr), s.unit * float32(sg), s.unit * float32(sb)
}

// sample interpolates at a position of src, with 32 fractional bits, and is
// black outside. The comparisons are false for what is not a number.
func (s *sampler) sample(x, y float64) (r, g, b int64) {
	if x >= 0 && x <= s.right && y >= 0 && y <= s.bottom {
		return bilinear(s.src, x, y)
	}
	if !(x > -1 && x < s.right+1 && y > -1 && y < s.bottom+1) {
		return 0, 0, 0
	}
	// Within a pixel of the edge: the nearest point of src, faded to black as
	// it would be were src lined with black pixels.
	nx, ny := clamp(x, 0, s.right), clamp(y, 0, s.bottom)
	r, g, b = bilinear(s.src, nx, ny)
	fade := int64((1 - math.Abs(x-nx)) * (1 - math.Abs(y-ny)) * one)
	return r * fade / one, g * fade / one, b * fade / one
}
