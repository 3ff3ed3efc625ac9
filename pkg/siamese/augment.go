package siamese

import (
	"bytes"
	"image"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/imaging"
)

// Photo is one aligned face of the training set.
type Photo struct {
	Image *image.RGBA
	// ToSrc brings a pixel of the encoder's input to where it is in Image.
	ToSrc imaging.Affine
}

// Augmentation says how much a face is changed each time that it is shown.
// Chances are 0..1; the zero value changes nothing.
type Augmentation struct {
	Turn    float64 // degrees either way
	Grow    float64 // of the size, either way: 0.1 is 0.9..1.1
	Shift   float64 // pixels of the input either way, along each axis
	Flip    float64 // chance
	Light   float64 // of brightness and contrast, either way
	Grey    float64 // chance of losing all colour
	Tint    float64 // of each colour, either way
	Blur    float64 // chance of a blur over 3 to 7 pixels
	Shrink  float64 // chance of being shown at 0.25 to 0.7 of the size, enlarged again
	Occlude float64 // chance of a rectangle of up to a third of each side
	Noise   float64 // chance of grain, up to 10 grey levels

	// What follows is used for matching a teacher only, because it makes a face
	// that nobody has, or hides so much of one that only a teacher knows better.
	Plain      float64 // chance of being turned, moved, mirrored and shrunk only
	Warp       float64 // pixels of the input by which features are moved, in half of the faces
	Mix        float64 // chance of being blended with another face
	Sunglasses float64 // chance
	Mask       float64 // chance of a mask over nose, mouth and chin
	Hand       float64 // chance of fingers before the face
	CutOut     float64 // chance that the eyes, an eye or the mouth are painted over
	Dark       float64 // chance of a third to a twentieth of the light, with the grain of a dark picture
	SideLight  float64 // chance of light from one side
	Squeeze    float64 // chance of a JPEG of quality 10 to 50
}

// DefaultAugmentation covers the differences between photos from door cameras
// and phones.
func DefaultAugmentation() Augmentation {
	return Augmentation{
		Turn: 8, Grow: 0.08, Shift: 3, Flip: 0.5, Light: 0.25, Grey: 0.1, Tint: 0.08,
		Blur: 0.15, Shrink: 0.25, Occlude: 0.15, Noise: 0.25,
	}
}

// MatchingAugmentation changes faces much more than [DefaultAugmentation]: a
// teacher that sees the same picture says what is right for any picture.
func MatchingAugmentation() Augmentation {
	return Augmentation{
		Turn: 10, Grow: 0.1, Shift: 3, Flip: 0.5, Light: 0.3, Grey: 0.1, Tint: 0.1,
		Blur: 0.12, Shrink: 0.2, Occlude: 0.08, Noise: 0.2,
		Plain: 0.3, Warp: 4, Mix: 0.25, Sunglasses: 0.1, Mask: 0.1, Hand: 0.05, CutOut: 0.05, Dark: 0.1, SideLight: 0.2, Squeeze: 0.1,
	}
}

// augmenter writes photos into tensors. It is not safe for concurrent use.
type augmenter struct {
	how     Augmentation
	input   imaging.Planar
	planar  imaging.Planar // the input's size, as plain red, green, blue 0..255
	small   *image.RGBA
	scratch []float32
}

func newAugmenter(how Augmentation, input imaging.Planar) *augmenter {
	return &augmenter{
		how: how, input: input,
		planar:  imaging.Planar{Width: input.Width, Height: input.Height, Scale: [3]float32{1, 1, 1}},
		scratch: make([]float32, input.Width*input.Height),
	}
}

// write puts a photo into dst, changed as rng says.
func (a *augmenter) write(dst []float32, p Photo, rng *rand.Rand) {
	a.draw(dst, p, rng)
	a.worsen(dst, rng)
	normalise(dst, a.input)
}

// draw puts a photo into dst as red, green and blue 0..255: turned, moved,
// mirrored, and some as coarse as a small face is.
func (a *augmenter) draw(dst []float32, p Photo, rng *rand.Rand) {
	h := a.how
	around := func(by float64) float64 { return by * (2*rng.Float64() - 1) }
	chance := func(p float64) bool { return rng.Float64() < p }

	// The map from a pixel of the input to the photo, about the input's middle.
	cx, cy := float64(a.input.Width-1)/2, float64(a.input.Height-1)/2
	angle, size := around(h.Turn)*math.Pi/180, 1+around(h.Grow)
	sin, cos := math.Sincos(angle)
	sin, cos = sin/size, cos/size
	mirror := 1.0
	if chance(h.Flip) {
		mirror = -1
	}
	dx, dy := around(h.Shift), around(h.Shift)
	jitter := imaging.Affine{
		cos * mirror, -sin, cx + dx - cos*mirror*cx + sin*cy,
		sin * mirror, cos, cy + dy - sin*mirror*cx - cos*cy,
	}
	toSrc := compose(p.ToSrc, jitter)
	if chance(h.Shrink) {
		a.writeShrunk(dst, p, toSrc, 0.25+0.45*rng.Float64())
	} else {
		a.planar.Warp(dst, p.Image, toSrc)
	}
}

// worsen changes sharpness, light and colour, and hides a part.
func (a *augmenter) worsen(dst []float32, rng *rand.Rand) {
	h := a.how
	around := func(by float64) float64 { return by * (2*rng.Float64() - 1) }
	chance := func(p float64) bool { return rng.Float64() < p }
	if chance(h.Blur) {
		a.blur(dst, 1+rng.IntN(3))
	}
	a.colour(dst, h, chance, around)
	if chance(h.SideLight) {
		a.sideLight(dst, rng)
	}
	noise := float32(0)
	if chance(h.Noise) {
		noise = float32(10 * rng.Float64())
	}
	if chance(h.Dark) {
		left := float32(math.Exp(-1.1 - 1.9*rng.Float64()))
		for i := range dst {
			dst[i] *= left
		}
		noise = 1 + 3*rng.Float32()
	}
	if noise > 0 {
		for i := range dst {
			dst[i] += noise * float32(rng.NormFloat64())
		}
	}
	if chance(h.Occlude) {
		a.occlude(dst, rng)
	}
	if chance(h.Squeeze) {
		a.squeeze(dst, 10+rng.IntN(41))
	}
}

// compose is first b, then a.
func compose(a, b imaging.Affine) imaging.Affine {
	return imaging.Affine{
		a[0]*b[0] + a[1]*b[3], a[0]*b[1] + a[1]*b[4], a[0]*b[2] + a[1]*b[5] + a[2],
		a[3]*b[0] + a[4]*b[3], a[3]*b[1] + a[4]*b[4], a[3]*b[2] + a[4]*b[5] + a[5],
	}
}

// writeShrunk removes detail, as in a small face of a wide photo.
func (a *augmenter) writeShrunk(dst []float32, p Photo, toSrc imaging.Affine, by float64) {
	w, h := max(8, int(by*float64(a.input.Width))), max(8, int(by*float64(a.input.Height)))
	if a.small == nil {
		a.small = image.NewRGBA(image.Rect(0, 0, a.input.Width, a.input.Height))
	}
	small, _ := a.small.SubImage(image.Rect(0, 0, w, h)).(*image.RGBA)
	sx, sy := float64(a.input.Width)/float64(w), float64(a.input.Height)/float64(h)
	down := imaging.Affine{sx, 0, (sx - 1) / 2, 0, sy, (sy - 1) / 2}
	imaging.WarpRGBA(small, p.Image, compose(toSrc, down))
	a.planar.Warp(dst, small, imaging.Affine{1 / sx, 0, (1/sx - 1) / 2, 0, 1 / sy, (1/sy - 1) / 2})
}

// blur is the mean of 2r+1 pixels along the rows, then along the columns.
func (a *augmenter) blur(dst []float32, r int) {
	w, h := a.input.Width, a.input.Height
	unit := 1 / float32(2*r+1)
	line := func(plane []float32, from, step, n int) {
		var sum float32
		at := func(i int) float32 { return plane[from+step*max(0, min(n-1, i))] }
		for i := -r; i <= r; i++ {
			sum += at(i)
		}
		for i := range n {
			a.scratch[i] = sum * unit
			sum += at(i+r+1) - at(i-r)
		}
		for i := range n {
			plane[from+step*i] = a.scratch[i]
		}
	}
	for c := range 3 {
		plane := dst[c*w*h : (c+1)*w*h]
		for y := range h {
			line(plane, y*w, 1, w)
		}
		for x := range w {
			line(plane, x, w, h)
		}
	}
}

func (a *augmenter) colour(dst []float32, h Augmentation, chance func(float64) bool, around func(float64) float64) {
	area := a.input.Width * a.input.Height
	contrast, bright := 1+around(h.Light), 255*around(h.Light)/2
	var gains [3]float32
	for c := range gains {
		gains[c] = float32(contrast * (1 + around(h.Tint)))
	}
	if chance(h.Grey) {
		for i := range area {
			y := 0.299*dst[i] + 0.587*dst[area+i] + 0.114*dst[2*area+i]
			dst[i], dst[area+i], dst[2*area+i] = y, y, y
		}
		gains[1], gains[2] = gains[0], gains[0]
	}
	offset := float32(127.5*(1-contrast) + bright)
	for c, gain := range gains {
		for i := c * area; i < (c+1)*area; i++ {
			dst[i] = dst[i]*gain + offset
		}
	}
}

func (a *augmenter) occlude(dst []float32, rng *rand.Rand) {
	w, h := a.input.Width, a.input.Height
	dx, dy := w/8+rng.IntN(w/4), h/8+rng.IntN(h/4)
	x0, y0 := rng.IntN(w-dx), rng.IntN(h-dy)
	for c := range 3 {
		shade := 255 * rng.Float32()
		for y := y0; y < y0+dy; y++ {
			row := dst[c*w*h+y*w:]
			for x := x0; x < x0+dx; x++ {
				row[x] = shade
			}
		}
	}
}

// sideLight makes one side of the picture lighter and the other darker.
func (a *augmenter) sideLight(dst []float32, rng *rand.Rand) {
	w, h := a.input.Width, a.input.Height
	sin, cos := math.Sincos(2 * math.Pi * rng.Float64())
	by := 0.7 * rng.Float64()
	for y := range h {
		for x := range w {
			slope := (cos*(float64(x)-float64(w-1)/2) + sin*(float64(y)-float64(h-1)/2)) / (float64(w) / 2)
			gain := float32(max(0, 1+by*slope))
			for c := range 3 {
				dst[c*w*h+y*w+x] *= gain
			}
		}
	}
}

// squeeze makes a JPEG of the picture, and reads it.
func (a *augmenter) squeeze(dst []float32, quality int) {
	w, h := a.input.Width, a.input.Height
	area := w * h
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for i := range area {
		for c := range 3 {
			img.Pix[4*i+c] = uint8(max(0, min(255, dst[c*area+i]+0.5)))
		}
		img.Pix[4*i+3] = 255
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}); err != nil {
		return // a picture in memory: it stays as it is
	}
	back, err := jpeg.Decode(&b)
	if err != nil {
		return
	}
	draw.Draw(img, img.Rect, back, image.Point{}, draw.Src)
	for i := range area {
		for c := range 3 {
			dst[c*area+i] = float32(img.Pix[4*i+c])
		}
	}
}

// normalise clips to 0..255 and turns red, green and blue into the numbers that
// an input takes.
func normalise(dst []float32, in imaging.Planar) {
	area := in.Width * in.Height
	if in.BGR {
		for i := range area {
			dst[i], dst[2*area+i] = dst[2*area+i], dst[i]
		}
	}
	for c := range 3 {
		mean, scale := in.Mean[c], in.Scale[c]
		for i := c * area; i < (c+1)*area; i++ {
			dst[i] = (max(0, min(255, dst[i])) - mean) * scale
		}
	}
}
