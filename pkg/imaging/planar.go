package imaging

import (
	"encoding/binary"
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

// plane is one colour of a tensor; v is written into it as v*scale + black.
type plane struct {
	v            []float32
	scale, black float32
}

// planes splits dst into the planes of red, green and blue.
func (p Planar) planes(dst []float32) [3]plane {
	n := p.Width * p.Height
	var out [3]plane
	for i := range out {
		out[i] = plane{dst[i*n : (i+1)*n], p.Scale[i], -p.Mean[i] * p.Scale[i]}
	}
	if p.BGR {
		out[0], out[2] = out[2], out[0]
	}
	return out
}

// Letterbox writes src into dst (3*Width*Height values), its aspect kept, as
// large as it fits, in the top left corner; the rest is black. Src must have at
// least one pixel. The returned scale is tensor pixels per pixel of src, the
// same for both axes. Measured from the outer corner of the first pixel, the
// point (x, y) of the tensor is the point (x/scale, y/scale) of src.
//
// Shrinking averages the area that each tensor pixel covers; growing
// interpolates between the pixels' centres. A last column or row that covers
// only a part of a tensor pixel is left out. It allocates nothing.
func (p Planar) Letterbox(dst []float32, src *image.RGBA) (scale float64) {
	sw, sh := src.Rect.Dx(), src.Rect.Dy()
	step := max(float64(sw)/float64(p.Width), float64(sh)/float64(p.Height))
	columns, rows := newAxis(sw, p.Width, step), newAxis(sh, p.Height, step)
	planes := p.planes(dst)
	for _, pl := range planes {
		for i := range pl.v {
			pl.v[i] = pl.black
		}
	}
	// A tile is a few columns of the result, so that their weights and one row
	// of their sums fit on the stack. Each row of src is filtered along x once
	// and then added to the rows of the result that it contributes to.
	var (
		taps [tile]tap
		sums [3][tile]float32
	)
	for left := 0; left < columns.n; left += tile {
		n := min(tile, columns.n-left)
		for i := range taps[:n] {
			taps[i] = columns.tap(left + i)
		}
		for sy := range sh {
			from, to := rows.reach(sy)
			if from == to {
				continue
			}
			filterRow(&sums, taps[:n], columns.whole(), src.Pix[sy*src.Stride:][:4*sw])
			for y := from; y < to; y++ {
				weight := float32(rows.weight(y, sy) / one)
				if weight == 0 {
					continue
				}
				for c, pl := range planes {
					add(pl.v[y*p.Width+left:][:n], sums[c][:n], weight*pl.scale)
				}
			}
		}
	}
	return 1 / step
}

// tile is how many columns are filtered at once.
const tile = 64

// one is 1 in the fixed-point weights of the inner loops here and in warp.go.
const one = 1 << 16

// filterRow writes the taps' weighted sums over a row of pixels, of which
// whole lie between the first and the last two of each tap. The sums are whole
// numbers below 1<<24, which float32 holds exactly.
//
// Red and blue are summed up in the two halves of one word, so that one
// multiplication serves both.
func filterRow(sums *[3][tile]float32, taps []tap, whole int, row []uint8) {
	for i := range taps[:min(len(taps), tile)] {
		t := &taps[i]
		first, next, last := pixel(row, t.at), pixel(row, t.next), pixel(row, t.last)
		rb := first.redBlue()*uint64(t.first) + next.redBlue()*uint64(t.nextShare) + last.redBlue()*uint64(t.lastShare)
		g := first.green()*t.first + next.green()*t.nextShare + last.green()*t.lastShare
		if whole > 0 {
			var middleRB uint64
			var middleG uint32
			for m := row[t.at+px:][:px*whole]; len(m) >= px; m = m[px:] {
				p := pixel(m, 0)
				middleRB += p.redBlue()
				middleG += p.green()
			}
			rb, g = rb+middleRB*uint64(t.middle), g+middleG*t.middle
		}
		sums[0][i], sums[1][i], sums[2][i] = float32(int32(rb)), float32(int32(g)), float32(int32(rb>>32))
	}
}

// px is how many bytes a pixel has.
const px = 4

// rgba is a pixel, red in the lowest byte.
type rgba uint32

func pixel(row []uint8, at uint32) rgba { return rgba(binary.LittleEndian.Uint32(row[at:])) }

// redBlue has red in the lower half, blue in the upper.
func (p rgba) redBlue() uint64 { return uint64(p&0xff) | uint64(p&0xff0000)<<16 }
func (p rgba) green() uint32   { return uint32(p >> 8 & 0xff) }

// add adds k times each sum.
func add(out, sums []float32, k float32) {
	sums = sums[:len(out)]
	for i := range out {
		out[i] += k * sums[i]
	}
}

// axis resamples size pixels to n, each step of them wide.
type axis struct {
	size, n int
	step    float64
}

// newAxis fits size pixels into at most most pixels, and makes at least one.
func newAxis(size, most int, step float64) axis {
	const rounding = 1e-9
	n := int(float64(size)/step + rounding)
	return axis{size, min(max(n, 1), most), min(step, float64(size))}
}

// centre is where pixel i of the result lies when it grows, in pixel-index
// coordinates; the edge pixels reach outwards.
func (a axis) centre(i int) float64 {
	return clamp((float64(i)+0.5)*a.step-0.5, 0, float64(a.size-1))
}

// weight is the share, 0..1, that source pixel s has in pixel i of the result.
func (a axis) weight(i, s int) float64 {
	if a.step < 1 {
		return max(0, 1-math.Abs(a.centre(i)-float64(s)))
	}
	from, to := float64(i)*a.step, float64(i+1)*a.step
	return max(0, min(to, float64(s+1))-max(from, float64(s))) / a.step
}

// reach bounds the pixels of the result that source pixel s may contribute to:
// from "from" up to, not including, "to".
func (a axis) reach(s int) (from, to int) {
	from = min(max(int((float64(s)-0.5)/a.step)-1, 0), a.n)
	return from, max(from, min(int((float64(s)+1.5)/a.step)+1, a.n))
}

// whole is how many source pixels between the first and the last two of a tap
// are covered entirely, wherever the tap lies.
func (a axis) whole() int { return max(0, int(a.step)-1) }

// tap says which pixels of a row one column of the result is made of: a first
// pixel, then [axis.whole] pixels of one weight, then two more, of which the
// last may have the weight 0. All columns have the same number of pixels, so
// that the inner loop needs no unpredictable branch. Weights are in units of
// 1/[one] and their sum is exactly one.
type tap struct {
	at, next, last                      uint32 // bytes into the row
	first, middle, nextShare, lastShare uint32
}

func (a axis) tap(i int) tap {
	at := int(float64(i) * a.step)
	if a.step < 1 {
		at = int(a.centre(i))
	}
	whole, end := a.whole(), a.size-1
	share := func(s int) uint32 {
		if s > end {
			return 0
		}
		return uint32(a.weight(i, s) * one) // rounded down, so that first gets what is left
	}
	t := tap{
		at: uint32(at * px), next: uint32(min(at+whole+1, end) * px), last: uint32(min(at+whole+2, end) * px),
		nextShare: share(at + whole + 1), lastShare: share(at + whole + 2),
	}
	if whole > 0 {
		t.middle = share(at + 1)
	}
	t.first = one - uint32(whole)*t.middle - t.nextShare - t.lastShare
	return t
}

// clamp limits v to low..high. It returns low if v is not a number.
func clamp(v, low, high float64) float64 {
	if v > low {
		return min(v, high)
	}
	return low
}
