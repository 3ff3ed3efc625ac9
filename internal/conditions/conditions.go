// Package conditions turns good photos of faces into what people send in
// practice: turned, stretched, cut, covered, dim, blurred, or not a photo at
// all. The quality network is trained on such pictures, and the benchmark
// "conditions" counts how many pass and how they are decided.
package conditions

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// Photo is a picture with one face, whose five landmarks have the order of
// [face.Landmarks.Points] and count from the outer corner of the first pixel.
type Photo struct {
	Image  *image.RGBA
	Points [5]face.Point
}

// Condition is one way to change a photo. Change never writes into the photo
// that it is given.
type Condition struct {
	Name   string
	Change func(r *rand.Rand, p Photo) Photo
}

// EyeDistance is the distance between the eyes in pixels.
func (p Photo) EyeDistance() float64 {
	return math.Hypot(float64(p.Points[1].X-p.Points[0].X), float64(p.Points[1].Y-p.Points[0].Y))
}

// Centre is the mean of the landmarks.
func (p Photo) Centre() (x, y float64) {
	for _, q := range p.Points {
		x, y = x+float64(q.X)/5, y+float64(q.Y)/5
	}
	return x, y
}

// JPEG is the photo as a file of the given quality, 1 to 100.
func (p Photo) JPEG(quality int) []byte {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, p.Image, &jpeg.Options{Quality: quality}); err != nil {
		panic(err) // an RGBA picture in memory always can be written
	}
	return b.Bytes()
}

// warped is the photo under an affine map, on a canvas of the given size.
// Coordinates count from the outer corner.
func (p Photo) warped(a imaging.Affine, width, height int) Photo {
	inverse := a.Inverse()
	inverse[2] += (inverse[0]+inverse[1])/2 - 0.5
	inverse[5] += (inverse[3]+inverse[4])/2 - 0.5
	out := Photo{Image: image.NewRGBA(image.Rect(0, 0, width, height))}
	imaging.WarpRGBA(out.Image, p.Image, inverse)
	for i, q := range p.Points {
		x, y := a.Apply(float64(q.X), float64(q.Y))
		out.Points[i] = face.Point{X: float32(x), Y: float32(y)}
	}
	return out
}

// Turn turns a photo by degrees, clockwise for positive ones, on a canvas that
// holds all of it. Quarter turns are exact.
func Turn(p Photo, degrees float64) Photo {
	sin, cos := math.Sincos(degrees * math.Pi / 180)
	w, h := float64(p.Image.Rect.Dx()), float64(p.Image.Rect.Dy())
	width := math.Round(w*math.Abs(cos) + h*math.Abs(sin))
	height := math.Round(w*math.Abs(sin) + h*math.Abs(cos))
	return p.warped(imaging.Affine{
		cos, -sin, width/2 - cos*w/2 + sin*h/2,
		sin, cos, height/2 - sin*w/2 - cos*h/2,
	}, int(width), int(height))
}

// Stretch makes a photo x times as wide and y times as high.
func Stretch(p Photo, x, y float64) Photo {
	w, h := float64(p.Image.Rect.Dx())*x, float64(p.Image.Rect.Dy())*y
	return p.warped(imaging.Affine{x, 0, 0, 0, y, 0}, max(int(w), 1), max(int(h), 1))
}

// Cut crops a photo to a square. Its side is given in eye distances, and its
// centre is the middle of the face moved by (dx, dy) eye distances.
func Cut(p Photo, side, dx, dy float64) Photo {
	d := p.EyeDistance()
	x, y := p.Centre()
	n := max(int(side*d), 1)
	return p.warped(imaging.Affine{1, 0, float64(n)/2 - x - dx*d, 0, 1, float64(n)/2 - y - dy*d}, n, n)
}

// Margin puts a margin in the mean colour around a photo, as wide as a share of
// its longer side.
func Margin(p Photo, share float64) Photo {
	width, height := p.Image.Rect.Dx(), p.Image.Rect.Dy()
	n := int(math.Round(share * float64(max(width, height))))
	out := Photo{Image: image.NewRGBA(image.Rect(0, 0, width+2*n, height+2*n))}
	draw.Draw(out.Image, out.Image.Rect, image.NewUniform(meanColour(p.Image)), image.Point{}, draw.Src)
	draw.Draw(out.Image, image.Rect(n, n, n+width, n+height), p.Image, p.Image.Rect.Min, draw.Src)
	for i, q := range p.Points {
		out.Points[i] = face.Point{X: q.X + float32(n), Y: q.Y + float32(n)}
	}
	return out
}

func meanColour(photo *image.RGBA) color.RGBA {
	var sum [3]int
	for y := photo.Rect.Min.Y; y < photo.Rect.Max.Y; y++ {
		for x := photo.Rect.Min.X; x < photo.Rect.Max.X; x++ {
			at := photo.PixOffset(x, y)
			for k := range sum {
				sum[k] += int(photo.Pix[at+k])
			}
		}
	}
	pixels := max(photo.Rect.Dx()*photo.Rect.Dy(), 1)
	return color.RGBA{uint8(sum[0] / pixels), uint8(sum[1] / pixels), uint8(sum[2] / pixels), 255} //nolint:gosec // means of bytes
}

// each changes the colour of every pixel; u and v are the pixel's place about
// the face: the eyes are at (-1, 0) and (1, 0), the mouth's middle near (0, 2.2).
func (p Photo) each(change func(u, v float64, c [3]float64) [3]float64) Photo {
	out := Photo{Image: image.NewRGBA(p.Image.Rect), Points: p.Points}
	mx := float64(p.Points[0].X+p.Points[1].X) / 2
	my := float64(p.Points[0].Y+p.Points[1].Y) / 2
	ax, ay := float64(p.Points[1].X)-mx, float64(p.Points[1].Y)-my
	scale := max(ax*ax+ay*ay, 1e-9)
	for y := range p.Image.Rect.Dy() {
		for x := range p.Image.Rect.Dx() {
			i := p.Image.PixOffset(x, y)
			in, to := p.Image.Pix[i:i+3], out.Image.Pix[i:i+4]
			dx, dy := float64(x)+0.5-mx, float64(y)+0.5-my
			c := change((dx*ax+dy*ay)/scale, (dy*ax-dx*ay)/scale, [3]float64{float64(in[0]), float64(in[1]), float64(in[2])})
			for k, value := range c {
				to[k] = uint8(min(max(value+0.5, 0), 255))
			}
			to[3] = 255
		}
	}
	return out
}

// Light multiplies every colour.
func Light(p Photo, factor float64) Photo {
	return p.each(func(_, _ float64, c [3]float64) [3]float64 {
		return [3]float64{c[0] * factor, c[1] * factor, c[2] * factor}
	})
}

// Grey removes the colours.
func Grey(p Photo) Photo {
	return p.each(func(_, _ float64, c [3]float64) [3]float64 {
		l := luma(c)
		return [3]float64{l, l, l}
	})
}

func luma(c [3]float64) float64 { return 0.299*c[0] + 0.587*c[1] + 0.114*c[2] }

// Negative turns every colour into its opposite.
func Negative(p Photo) Photo {
	return p.each(func(_, _ float64, c [3]float64) [3]float64 {
		return [3]float64{255 - c[0], 255 - c[1], 255 - c[2]}
	})
}

// Poster reduces each colour to a number of levels.
func Poster(p Photo, levels int) Photo {
	step := 255 / float64(levels-1)
	return p.each(func(_, _ float64, c [3]float64) [3]float64 {
		for k := range c {
			c[k] = math.Round(c[k]/step) * step
		}
		return c
	})
}

// Sketch draws dark lines on white where the light changes.
func Sketch(p Photo, strength float64) Photo {
	blurred := Blur(p, 0.02*p.EyeDistance())
	at := func(x, y int) float64 {
		x, y = min(max(x, 0), p.Image.Rect.Dx()-1), min(max(y, 0), p.Image.Rect.Dy()-1)
		q := blurred.Image.Pix[blurred.Image.PixOffset(x, y):]
		return luma([3]float64{float64(q[0]), float64(q[1]), float64(q[2])})
	}
	out := Photo{Image: image.NewRGBA(p.Image.Rect), Points: p.Points}
	for y := range p.Image.Rect.Dy() {
		for x := range p.Image.Rect.Dx() {
			gx, gy := at(x+1, y)-at(x-1, y), at(x, y+1)-at(x, y-1)
			v := uint8(255 - min(strength*math.Hypot(gx, gy), 255))
			copy(out.Image.Pix[out.Image.PixOffset(x, y):], []uint8{v, v, v, 255})
		}
	}
	return out
}

// Noise adds grain of a standard deviation, in steps of 255.
func Noise(r *rand.Rand, p Photo, deviation float64) Photo {
	return p.each(func(_, _ float64, c [3]float64) [3]float64 {
		for k := range c {
			c[k] += r.NormFloat64() * deviation
		}
		return c
	})
}

// Blur softens a photo with a Gaussian of sigma pixels.
func Blur(p Photo, sigma float64) Photo {
	n := int(math.Ceil(3 * sigma))
	if n < 1 {
		return p
	}
	weights := make([]float64, 2*n+1)
	var sum float64
	for i := range weights {
		weights[i] = math.Exp(-float64((i-n)*(i-n)) / (2 * sigma * sigma))
		sum += weights[i]
	}
	along := func(src *image.RGBA, dx, dy int) *image.RGBA {
		dst := image.NewRGBA(src.Rect)
		for y := range src.Rect.Dy() {
			for x := range src.Rect.Dx() {
				var c [3]float64
				for i, w := range weights {
					sx := min(max(x+(i-n)*dx, 0), src.Rect.Dx()-1)
					sy := min(max(y+(i-n)*dy, 0), src.Rect.Dy()-1)
					q := src.Pix[src.PixOffset(sx, sy):][:3]
					for k := range c {
						c[k] += w / sum * float64(q[k])
					}
				}
				copy(dst.Pix[dst.PixOffset(x, y):], []uint8{uint8(c[0] + 0.5), uint8(c[1] + 0.5), uint8(c[2] + 0.5), 255})
			}
		}
		return dst
	}
	return Photo{Image: along(along(p.Image, 1, 0), 0, 1), Points: p.Points}
}

// Small shrinks a photo so that the eyes are at most a number of pixels apart.
func Small(p Photo, eyes float64) Photo {
	f := min(eyes/p.EyeDistance(), 1)
	return Stretch(p, f, f)
}

// Squeeze compresses a photo as a JPEG of the given quality and reads it again.
func Squeeze(p Photo, quality int) Photo {
	img, err := jpeg.Decode(bytes.NewReader(p.JPEG(quality)))
	if err != nil {
		panic(err) // what was just written can be read
	}
	out := Photo{Image: image.NewRGBA(p.Image.Rect), Points: p.Points}
	for y := range p.Image.Rect.Dy() {
		for x := range p.Image.Rect.Dx() {
			out.Image.Set(x, y, img.At(x, y))
		}
	}
	return out
}

// Sunglasses draws dark glasses over the eyes.
func Sunglasses(r *rand.Rand, p Photo) Photo {
	between := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	width, height := between(0.62, 0.92), between(0.45, 0.8)
	power := between(1.8, 5)
	down := between(-0.1, 0.3)
	opaque := between(0.85, 1)
	dark := [3]float64{between(0, 60), between(0, 45), between(0, 45)}
	gradient := between(0, 60) * float64(r.IntN(2))
	frame := between(0.03, 0.12)
	return p.each(func(u, v float64, c [3]float64) [3]float64 {
		inside := func(grow float64) bool {
			a := math.Abs(math.Abs(u)-1) / (width + grow)
			return math.Pow(a, power)+math.Pow(math.Abs(v-down)/(height+grow), power) < 1
		}
		bridge := math.Abs(u) < 0.45 && math.Abs(v-down+0.25) < 0.08+frame/2
		temple := math.Abs(u) > 1+width-0.1 && math.Abs(u) < 2.3 && math.Abs(v-down+0.2) < 0.05+frame/2
		switch {
		case inside(0):
			for k := range c {
				c[k] = c[k]*(1-opaque) + (dark[k]+gradient*max(v-down+height, 0)/2/height)*opaque
			}
		case inside(frame) || bridge || temple:
			c = [3]float64{dark[0] / 2, dark[1] / 2, dark[2] / 2}
		}
		return c
	})
}

// Mask draws a mask over mouth and chin, and mostly over the nose.
func Mask(r *rand.Rand, p Photo) Photo {
	between := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	top := between(0.5, 1.25)
	bottom := between(3.1, 3.7)
	width := between(1.55, 2)
	colours := [][3]float64{{225, 230, 235}, {150, 190, 220}, {30, 30, 35}, {120, 170, 160}, {200, 160, 170}, {90, 100, 140}}
	colour := colours[r.IntN(len(colours))]
	shade := between(0.7, 1.1)
	pleats := between(0, 14)
	return p.each(func(u, v float64, c [3]float64) [3]float64 {
		edge := top + 0.3*math.Abs(u)/width // higher over the nose
		side := width * (1 - 0.35*math.Pow(max((v-top)/(bottom-top), 0), 2))
		if v < edge || v > bottom-0.5*u*u/width/width || math.Abs(u) > side {
			return c
		}
		light := shade * (1 - 0.25*math.Pow(u/width, 2))
		for k := range c {
			c[k] = colour[k]*light + pleats*math.Sin(9*v)
		}
		return c
	})
}

// Patch covers a part of the face: a bar over the eyes, one half, the mouth
// with the colour of skin, as a hand does, or a block anywhere.
func Patch(r *rand.Rand, p Photo) Photo {
	between := func(low, high float64) float64 { return low + (high-low)*r.Float64() }
	i := p.Image.PixOffset(
		min(max(int(p.Points[2].X), 0), p.Image.Rect.Dx()-1), min(max(int(p.Points[2].Y), 0), p.Image.Rect.Dy()-1))
	skin := [3]float64{float64(p.Image.Pix[i]), float64(p.Image.Pix[i+1]), float64(p.Image.Pix[i+2])}
	colour := skin
	for k := range colour {
		colour[k] *= between(0.75, 1.1)
	}
	if r.IntN(2) == 0 {
		colour = [3]float64{between(0, 255), between(0, 255), between(0, 255)}
	}
	var covers func(u, v float64) bool
	switch r.IntN(4) {
	case 0:
		h := between(0.35, 0.7)
		covers = func(u, v float64) bool { return math.Abs(v) < h && math.Abs(u) < 2.1 }
	case 1:
		side, from := float64(1-2*r.IntN(2)), between(-0.2, 0.2)
		covers = func(u, v float64) bool { return side*u > from && math.Abs(u) < 2.2 && v > -2 && v < 3.6 }
	case 2:
		w, y := between(1.1, 1.7), between(1.9, 2.5)
		covers = func(u, v float64) bool { return u*u/w/w+math.Pow((v-y)/1.1, 2) < 1 }
	default:
		x, y, w, h := between(-0.8, 0.8), between(0, 1.8), between(0.8, 1.4), between(0.8, 1.4)
		covers = func(u, v float64) bool { return math.Abs(u-x) < w && math.Abs(v-y) < h }
	}
	grain := between(0, 12)
	return p.each(func(u, v float64, c [3]float64) [3]float64 {
		if !covers(u, v) {
			return c
		}
		for k := range c {
			c[k] = colour[k] + grain*r.NormFloat64()
		}
		return c
	})
}
