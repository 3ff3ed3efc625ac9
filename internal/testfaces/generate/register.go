package main

import "math"

// Five landmarks bring the eyes, the nose and the mouth onto each other, but
// not brows, jaws and hair. What is left is found by Thirion's demons: each
// pixel moves so that the brightness agrees, and the movement is kept smooth.

// The pictures that are registered are half the frame.
const (
	halfWidth  = frameWidth / 2
	halfHeight = frameHeight / 2
)

// plane is one number for each pixel of half the frame.
type plane []float32

func newPlane() plane { return make(plane, halfWidth*halfHeight) }

// blur smooths a plane in place: three box filters, about a Gaussian.
func (p plane) blur(radius int) {
	line := make([]float32, max(halfWidth, halfHeight))
	for range 3 {
		for y := range halfHeight {
			boxFilter(p[y*halfWidth:], halfWidth, 1, radius, line)
		}
		for x := range halfWidth {
			boxFilter(p[x:], halfHeight, halfWidth, radius, line)
		}
	}
}

func boxFilter(p []float32, n, stride, radius int, line []float32) {
	for i := range n {
		line[i] = p[i*stride]
	}
	at := func(i int) float32 { return line[min(max(i, 0), n-1)] }
	var sum float32
	for i := -radius; i <= radius; i++ {
		sum += at(i)
	}
	for i := range n {
		p[i*stride] = sum / float32(2*radius+1)
		sum += at(i+radius+1) - at(i-radius)
	}
}

// at interpolates at any place; outside, the edge goes on.
func (p plane) at(x, y float32) float32 {
	x, y = min(max(x, 0), halfWidth-1.001), min(max(y, 0), halfHeight-1.001)
	left, top := int(x), int(y)
	fx, fy := x-float32(left), y-float32(top)
	q := p[top*halfWidth+left:]
	return (q[0]*(1-fx)+q[1]*fx)*(1-fy) + (q[halfWidth]*(1-fx)+q[halfWidth+1]*fx)*fy
}

// texture is a picture's luma where the light and the contrast of each place
// are taken out.
func (p picture) texture() plane {
	out := newPlane()
	for y := range halfHeight {
		for x := range halfWidth {
			var sum float64
			for _, i := range []int{0, 1, frameWidth, frameWidth + 1} {
				q := p[3*(2*y*frameWidth+2*x+i):]
				sum += 0.25 * fromLinear(float64(0.3*q[0]+0.6*q[1]+0.1*q[2]))
			}
			out[y*halfWidth+x] = float32(sum)
		}
	}
	const neighbourhood = 7
	mean := append(plane(nil), out...)
	mean.blur(neighbourhood)
	square := newPlane()
	for i := range out {
		out[i] -= mean[i]
		square[i] = out[i] * out[i]
	}
	square.blur(neighbourhood)
	for i := range out {
		out[i] /= float32(math.Sqrt(max(float64(square[i]), 0))) + 0.03 // a running sum may end below 0
	}
	return out
}

// shift is how far each pixel of half the frame moves.
type shift struct{ x, y plane }

// register finds the shift that brings moving onto still.
func register(still, moving plane) shift {
	const farthest = 9
	s := shift{newPlane(), newPlane()}
	for _, pass := range []struct{ detail, smooth, times int }{{4, 7, 12}, {2, 5, 12}, {1, 4, 8}} {
		a, b := append(plane(nil), still...), append(plane(nil), moving...)
		a.blur(pass.detail)
		b.blur(pass.detail)
		for range pass.times {
			for y := range halfHeight {
				for x := range halfWidth {
					i := y*halfWidth + x
					fx, fy := float32(x), float32(y)
					gx := (a.at(fx+1, fy) - a.at(fx-1, fy)) / 2
					gy := (a.at(fx, fy+1) - a.at(fx, fy-1)) / 2
					d := b.at(fx+s.x[i], fy+s.y[i]) - a[i]
					k := d / (gx*gx + gy*gy + d*d/4 + 0.02)
					s.x[i] = min(max(s.x[i]-k*gx, -farthest), farthest)
					s.y[i] = min(max(s.y[i]-k*gy, -farthest), farthest)
				}
			}
			s.x.blur(pass.smooth)
			s.y.blur(pass.smooth)
		}
	}
	return s
}

// after is the flow that goes by the shift first.
func (f flow) after(s shift) flow {
	out := make(flow, len(f))
	for y := range frameHeight {
		for x := range frameWidth {
			hx, hy := float32(x)/2-0.25, float32(y)/2-0.25
			tx := min(max(float32(x)+2*s.x.at(hx, hy), 0), frameWidth-1.001)
			ty := min(max(float32(y)+2*s.y.at(hx, hy), 0), frameHeight-1.001)
			left, top := int(tx), int(ty)
			ax, ay := tx-float32(left), ty-float32(top)
			q, r := f[2*(top*frameWidth+left):], f[2*((top+1)*frameWidth+left):]
			for k := range 2 {
				out[2*(y*frameWidth+x)+k] = (q[k]*(1-ax)+q[k+2]*ax)*(1-ay) + (r[k]*(1-ax)+r[k+2]*ax)*ay
			}
		}
	}
	return out
}

// moved is the picture with each place taken from where the shift says.
func (p picture) moved(s shift) picture {
	out := newPicture()
	for y := range frameHeight {
		for x := range frameWidth {
			hx, hy := float32(x)/2-0.25, float32(y)/2-0.25
			c := p.at(float64(x)+2*float64(s.x.at(hx, hy)), float64(y)+2*float64(s.y.at(hx, hy)))
			for k, v := range c {
				out[3*(y*frameWidth+x)+k] = float32(v)
			}
		}
	}
	return out
}
