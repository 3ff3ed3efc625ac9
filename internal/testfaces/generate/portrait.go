package main

import (
	"image"
	"math"
	"math/rand/v2"
)

// toned is the picture as it is seen: brightness 0..1, not light.
func (p picture) toned() picture {
	out := make(picture, len(p))
	for i, v := range p {
		out[i] = float32(fromLinear(float64(v)))
	}
	return out
}

// blurred is the picture out of focus, three box filters of a radius.
func (p picture) blurred(radius int) picture {
	out := append(picture(nil), p...)
	line := make([]float32, max(frameWidth, frameHeight))
	for range 3 {
		for k := range 3 {
			for y := range frameHeight {
				boxFilter(out[3*y*frameWidth+k:], frameWidth, 3, radius, line)
			}
			for x := range frameWidth {
				boxFilter(out[3*x+k:], frameHeight, 3*frameWidth, radius, line)
			}
		}
	}
	return out
}

// sharpened brings back what averaging takes: fine and middling detail.
func (p picture) sharpened() picture {
	out := append(picture(nil), p...)
	for _, s := range []struct {
		radius int
		by     float32
	}{{1, 1.1}, {3, 0.45}} {
		soft := p.blurred(s.radius)
		for i := range out {
			out[i] += s.by * (p[i] - soft[i])
		}
	}
	for i, v := range out {
		out[i] = min(max(v, 0), 1)
	}
	return out
}

// exaggerated is a face further from the mean of all: a caricature. Only what
// is large is exaggerated, light and complexion and the forms, so that no
// edges appear twice.
func (p picture) exaggerated(all picture, by float32) picture {
	const coarse = 4
	own, others := p.blurred(coarse), all.blurred(coarse)
	out := append(picture(nil), p...)
	for i := range out {
		out[i] = min(max(out[i]+by*(own[i]-others[i]), 0), 1)
	}
	return out
}

// at interpolates; beyond the edge it goes on.
func (p picture) at(x, y float64) (c [3]float64) {
	x, y = min(max(x, 0), frameWidth-1.001), min(max(y, 0), frameHeight-1.001)
	left, top := int(x), int(y)
	fx, fy := x-float64(left), y-float64(top)
	q, r := p[3*(top*frameWidth+left):], p[3*((top+1)*frameWidth+left):]
	for k := range 3 {
		c[k] = (float64(q[k])*(1-fx)+float64(q[k+3])*fx)*(1-fy) + (float64(r[k])*(1-fx)+float64(r[k+3])*fx)*fy
	}
	return c
}

// around is the mean colour of a part of the frame.
func (p picture) around(r image.Rectangle) (c [3]float64) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			for k := range 3 {
				c[k] += float64(p[3*(y*frameWidth+x)+k]) / float64(r.Dx()*r.Dy())
			}
		}
	}
	return c
}

func smoothStep(low, high, x float64) float64 {
	t := min(max((x-low)/(high-low), 0), 1)
	return t * t * (3 - 2*t)
}

func mixColours(a, b [3]float64, t float64) [3]float64 {
	for k := range 3 {
		a[k] += (b[k] - a[k]) * t
	}
	return a
}

func scaledColour(a [3]float64, by float64) [3]float64 {
	return [3]float64{a[0] * by, a[1] * by, a[2] * by}
}

// sitter is a face that a photo is taken of, and where it is in the photo.
type sitter struct {
	head           picture // toned
	cloth          [3]float64
	x, y           float64 // where the point between the eyes is, in pixels of the photo
	scale          float64 // pixels of the photo for one of the frame
	turn           float64 // of the head, radians
	squeeze, shear float64 // a hint of another pose
}

// look is what differs from photo to photo.
type look struct {
	width, height int
	backdrop      backdrop
	lightX        float64 // how much more light comes from the right, and from above
	lightY        float64
	cast          [3]float64
	gamma         float64
	soft          float64 // pixels out of focus
	grain         float64
}

// backdrop is what hangs behind the sitter.
type backdrop struct {
	kind     int
	from, to [3]float64
	discs    [][4]float64 // x, y, radius, brightness
}

func newBackdrop(rng *rand.Rand, kind int, colour [3]float64) backdrop {
	b := backdrop{kind: kind, from: scaledColour(colour, 1.12), to: scaledColour(colour, 0.62)}
	for range 16 {
		b.discs = append(b.discs, [4]float64{rng.Float64(), rng.Float64() * 0.9, 0.03 + 0.07*rng.Float64(), 0.04 + 0.10*rng.Float64()})
	}
	return b
}

// at is its colour: x and y are 0..1 of the photo.
func (b backdrop) at(x, y float64) [3]float64 {
	switch b.kind {
	case 0: // a studio's wall, lit in the middle
		return mixColours(b.from, b.to, smoothStep(0.05, 0.85, math.Hypot(x-0.5, (y-0.4)*0.9)))
	case 1: // daylight that falls on a wall in bands
		c := mixColours(b.from, b.to, 0.25+0.5*y)
		band := math.Sin(9*x+5*y+0.7) + 0.4*math.Sin(17*x-3*y)
		return scaledColour(c, 1+0.10*smoothStep(-0.5, 0.9, band))
	default: // lights far behind
		c := mixColours(b.from, b.to, 0.35+0.6*smoothStep(0, 1, y))
		for _, d := range b.discs {
			k := d[3] * (1 - smoothStep(0.85, 1.1, math.Hypot(x-d[0], y-d[1])/d[2]))
			for i := range c {
				c[i] += k * (0.4 + c[i])
			}
		}
		return c
	}
}

// paint takes the photo.
func (l look) paint(rng *rand.Rand, sitters ...sitter) *image.RGBA {
	w, h := l.width, l.height
	canvas := make([][3]float64, w*h)
	for y := range h {
		for x := range w {
			canvas[y*w+x] = l.backdrop.at(float64(x)/float64(w), float64(y)/float64(h))
		}
	}
	for _, s := range sitters {
		m := newMatte(s.head)
		below := mixColours(m.cloth, s.cloth, 0.75)
		sin, cos := math.Sincos(s.turn)
		for y := range h {
			for x := range w {
				px, py := (float64(x)-s.x)/s.scale, (float64(y)-s.y)/s.scale
				c := &canvas[y*w+x]
				// The torso stays upright.
				if k := torsoShare(px+frameWidth/2, py+eyesDown); k > 0 {
					fold := 1.1 + 0.05*math.Sin(px/13+2*math.Sin(py/31)) - 0.0026*math.Abs(px)
					*c = mixColours(*c, scaledColour(below, fold), k)
				}
				fx, fy := cos*px+sin*py, cos*py-sin*px
				fx = fx/s.squeeze + s.shear*fy
				fx, fy = fx+frameWidth/2, fy+eyesDown
				if k := headShare(fx, fy); k > 0 {
					*c = mixColours(*c, m.before(*c, fx, fy), k)
				}
			}
		}
	}
	if l.soft > 0 {
		canvas = defocused(canvas, w, h, l.soft)
	}
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			light := 1 + l.lightX*(float64(x)/float64(w)-0.5) + l.lightY*(0.5-float64(y)/float64(h))
			noise := l.grain * rng.NormFloat64()
			at := img.PixOffset(x, y)
			for k, v := range canvas[y*w+x] {
				v = math.Pow(min(max(v*light*l.cast[k], 0), 1), l.gamma) + noise
				img.Pix[at+k] = uint8(255*min(max(v, 0), 1) + 0.5)
			}
			img.Pix[at+3] = 255
		}
	}
	return img
}

// matte tells an averaged head from the averaged background around it.
type matte struct {
	head, coarse picture
	was          picture    // the averaged background, also where the head is before it
	cloth        [3]float64 // of what is worn
}

func newMatte(head picture) matte {
	const reach = 16
	// What lies around all hair is background; it is carried on inwards.
	was, weight := newPicture(), newPicture()
	for y := range frameHeight {
		for x := range frameWidth {
			w := float32(smoothStep(0.95, 1.15, math.Hypot(float64(x-frameWidth/2)/116, float64(y-176)/150)) * (1 - smoothStep(250, 310, float64(y))))
			for k := 3 * (y*frameWidth + x); k < 3*(y*frameWidth+x)+3; k++ {
				was[k], weight[k] = w*head[k], w
			}
		}
	}
	was, weight = was.blurred(reach), weight.blurred(reach)
	left := head.around(image.Rect(4, 30, 30, 200))
	right := head.around(image.Rect(frameWidth-30, 30, frameWidth-4, 200))
	for y := range frameHeight {
		for x := range frameWidth {
			far := mixColours(left, right, float64(x)/frameWidth)
			for k := range 3 {
				i := 3*(y*frameWidth+x) + k
				was[i] = (was[i] + 0.02*float32(far[k])) / (weight[i] + 0.02)
			}
		}
	}
	return matte{
		head: head, coarse: head.blurred(2), was: was,
		cloth: mixColours(
			head.around(image.Rect(20, frameHeight-25, 80, frameHeight-2)),
			head.around(image.Rect(frameWidth-80, frameHeight-25, frameWidth-20, frameHeight-2)), 0.5),
	}
}

// before is the head's colour at a place of the frame when another background
// is behind it. Hair is half transparent there, as it lies differently on each
// head: what shines through is exchanged.
func (m matte) before(background [3]float64, x, y float64) [3]float64 {
	c, soft, was := m.head.at(x, y), m.coarse.at(x, y), m.was.at(x, y)
	unlike := 0.0
	for k := range 3 {
		unlike += (soft[k] - was[k]) * (soft[k] - was[k])
	}
	solid := smoothStep(0.03, 0.22, math.Sqrt(unlike))
	// Near the middle it is rather hair like the background than background.
	solid = 1 - (1-solid)*(0.15+0.85*smoothStep(0.8, 1.1, math.Hypot((x-frameWidth/2)/106, (y-178)/142)))
	face := 1 - smoothStep(0.8, 1.1, math.Hypot((x-frameWidth/2)/90, (y-205)/128))
	neck := smoothStep(285, 325, y)
	solid = 1 - (1-solid)*(1-face)*(1-neck)
	for k := range 3 {
		c[k] = min(max(c[k]+(1-solid)*(background[k]-was[k]), 0), 1)
	}
	return c
}

// headShare is how much of a place in the frame is head, hair, neck and collar.
func headShare(x, y float64) float64 {
	if x < 0 || x > frameWidth {
		return 0
	}
	const cx, cy = frameWidth / 2, 182
	oval := 1 - smoothStep(0.72, 1, math.Hypot((x-cx)/136, (y-cy)/164))
	neck := smoothStep(250, 310, y) * (1 - smoothStep(0.6, 1, math.Abs(x-cx)/(66+0.28*max(y-300, 0))))
	return 1 - (1-oval)*(1-neck)
}

// torsoShare is how much of a place in the frame is shoulders.
func torsoShare(x, y float64) float64 {
	across := max(math.Abs(x-frameWidth/2)-38, 0)
	top := 322 + 0.0021*across*across + 0.12*across
	return smoothStep(top-5, top+9, y)
}

// defocused blurs by a Gaussian.
func defocused(c [][3]float64, w, h int, sigma float64) [][3]float64 {
	radius := int(3*sigma) + 1
	var weights []float64
	total := 0.0
	for i := -radius; i <= radius; i++ {
		weights = append(weights, math.Exp(-float64(i*i)/(2*sigma*sigma)))
		total += weights[len(weights)-1]
	}
	pass := func(in [][3]float64, dx, dy int) [][3]float64 {
		out := make([][3]float64, len(in))
		for y := range h {
			for x := range w {
				for i, k := range weights {
					sx, sy := min(max(x+(i-radius)*dx, 0), w-1), min(max(y+(i-radius)*dy, 0), h-1)
					for j, v := range in[sy*w+sx] {
						out[y*w+x][j] += v * k / total
					}
				}
			}
		}
		return out
	}
	return pass(pass(c, 1, 0), 0, 1)
}
