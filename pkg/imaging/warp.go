package imaging

import (
	"image"
	"math"
)

// Warp writes src, mapped by toSrc, into dst (3*Width*Height values). The
// tensor's pixel (x, y) gets the value of src at toSrc.Apply(x, y), both in
// pixel-index coordinates, interpolated between the four nearest pixels;
// outside src everything is black. If toSrc shrinks by 1.5 or more, plain
// interpolation would skip pixels, so a square of up to 8x8 samples is
// averaged. It allocates nothing.
func (p Planar) Warp(dst []float32, src *image.RGBA, toSrc Affine) {
	planes := p.planes(dst)
	red, green, blue := planes[0], planes[1], planes[2]
	s := newSampler(src, toSrc)
	for y := range p.Height {
		row := y * p.Width
		for x := range p.Width {
			r, g, b := s.at(float64(x), float64(y))
			red.v[row+x] = r*red.scale + red.black
			green.v[row+x] = g*green.scale + green.black
			blue.v[row+x] = b*blue.scale + blue.black
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

// sampler reads src through toSrc, n x n samples for one pixel of the result.
type sampler struct {
	src           *image.RGBA
	toSrc         Affine
	n             int
	step          float64 // between samples, in pixels of the result
	first         float64 // from a pixel's centre to its first sample
	unit          float32 // undoes the weights and the sum of n*n samples
	right, bottom float64 // centre of the last pixel of src
	// How far the samples reach from the first one, in pixels of src.
	minX, maxX, minY, maxY float64
	// The way in src from one sample to the next, in fixed point.
	alongX, alongY, downX, downY int
}

func newSampler(src *image.RGBA, toSrc Affine) sampler {
	const most = 8
	shrink := max(math.Hypot(toSrc[0], toSrc[3]), math.Hypot(toSrc[1], toSrc[4]))
	n := int(clamp(math.Round(shrink), 1, most))
	step := 1 / float64(n)
	reach := float64(n-1) * step
	toFixed := func(v float64) int { return int(math.Round(clamp(v*step, -1e6, 1e6) * one)) }
	return sampler{
		src: src, toSrc: toSrc, n: n, step: step, first: -reach / 2,
		unit:  1 / float32(one*one*n*n),
		right: float64(src.Rect.Dx() - 1), bottom: float64(src.Rect.Dy() - 1),
		minX:   reach * (min(toSrc[0], 0) + min(toSrc[1], 0)),
		maxX:   reach * (max(toSrc[0], 0) + max(toSrc[1], 0)),
		minY:   reach * (min(toSrc[3], 0) + min(toSrc[4], 0)),
		maxY:   reach * (max(toSrc[3], 0) + max(toSrc[4], 0)),
		alongX: toFixed(toSrc[0]), alongY: toFixed(toSrc[3]),
		downX: toFixed(toSrc[1]), downY: toFixed(toSrc[4]),
	}
}

// at is the colour, 0..255, at pixel (x, y) of the result.
func (s *sampler) at(x, y float64) (r, g, b float32) {
	const margin = 1e-3 // more than the fixed-point steps can stray
	sx, sy := s.toSrc.Apply(x+s.first, y+s.first)
	var sr, sg, sb int
	if sx+s.minX >= margin && sx+s.maxX <= s.right-margin && sy+s.minY >= margin && sy+s.maxY <= s.bottom-margin {
		sr, sg, sb = s.inside(int(sx*one), int(sy*one))
	} else {
		sr, sg, sb = s.edge(x+s.first, y+s.first)
	}
	return s.unit * float32(sr), s.unit * float32(sg), s.unit * float32(sb)
}

// inside sums up the samples from (x, y) of src on, in fixed point. All of them
// must lie between pixels that exist.
func (s *sampler) inside(x, y int) (r, g, b int) {
	pix, stride := s.src.Pix, s.src.Stride
	for range s.n {
		sx, sy := x, y
		for range s.n {
			fx, fy := sx&(one-1), sy&(one-1)
			at := sy/one*stride + sx/one*4
			p, q := pix[at:][:7], pix[at+stride:][:7]
			w11 := fx * fy
			w01, w10 := fx*one-w11, fy*one-w11
			w00 := one*one - fx*one - w10
			r += w00*int(p[0]) + w01*int(p[4]) + w10*int(q[0]) + w11*int(q[4])
			g += w00*int(p[1]) + w01*int(p[5]) + w10*int(q[1]) + w11*int(q[5])
			b += w00*int(p[2]) + w01*int(p[6]) + w10*int(q[2]) + w11*int(q[6])
			sx, sy = sx+s.alongX, sy+s.alongY
		}
		x, y = x+s.downX, y+s.downY
	}
	return r, g, b
}

// edge sums up the samples of a pixel, some of which may lie at the edges of
// src or outside it. (x, y) is the first sample, in pixels of the result.
func (s *sampler) edge(x, y float64) (r, g, b int) {
	for j := range s.n {
		for i := range s.n {
			sr, sg, sb := s.sample(s.toSrc.Apply(x+float64(i)*s.step, y+float64(j)*s.step))
			r, g, b = r+sr, g+sg, b+sb
		}
	}
	return r, g, b
}

// sample interpolates at any position, as if src were surrounded by black.
func (s *sampler) sample(x, y float64) (r, g, b int) {
	if !(x > -1 && x < s.right+1 && y > -1 && y < s.bottom+1) { // or not a number
		return 0, 0, 0
	}
	left, top := math.Floor(x), math.Floor(y)
	fx, fy := int((x-left)*one), int((y-top)*one)
	for j, wy := range [2]int{one - fy, fy} {
		for i, wx := range [2]int{one - fx, fx} {
			if px := image.Pt(int(left)+i, int(top)+j); px.In(image.Rectangle{Max: s.src.Rect.Size()}) {
				q, w := s.src.Pix[px.Y*s.src.Stride+4*px.X:][:3], wx*wy
				r, g, b = r+w*int(q[0]), g+w*int(q[1]), b+w*int(q[2])
			}
		}
	}
	return r, g, b
}
