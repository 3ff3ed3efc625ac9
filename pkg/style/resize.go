package style

import (
	"image"
	"math"
)

// area is how many numbers a tensor of some sizes has.
func area(size []int) int {
	n := 1
	for _, s := range size {
		n *= s
	}
	return n
}

// tap says which numbers of an axis one number of the result is made of:
// weights, beginning at a first number.
type tap struct {
	at      int
	weights []float32
}

// resamplingTaps resample an axis linearly. If the axis shrinks, each number of
// the result is a mean over the numbers that it covers, which avoids aliasing.
func resamplingTaps(from, to int) []tap {
	out := make([]tap, to)
	step := float64(from) / float64(to)
	reach := max(step, 1)
	for i := range out {
		centre := (float64(i)+0.5)*step - 0.5
		first, last := int(math.Ceil(centre-reach)), int(math.Floor(centre+reach))
		var sum float64
		var w []float64
		for s := first; s <= last; s++ {
			share := 0.0
			if s >= 0 && s < from {
				share = max(0, 1-math.Abs(float64(s)-centre)/reach)
			}
			w = append(w, share)
			sum += share
		}
		for len(w) > 1 && w[0] == 0 {
			w, first = w[1:], first+1
		}
		for len(w) > 1 && w[len(w)-1] == 0 {
			w = w[:len(w)-1]
		}
		out[i] = tap{first, make([]float32, len(w))}
		for j := range w {
			out[i].weights[j] = float32(w[j] / sum)
		}
	}
	return out
}

// resize resamples data, of some channels and spatial sizes, to other sizes,
// one axis after the other. The result is new memory.
func resize(data []float32, channels int, from, to []int) []float32 {
	data = append([]float32(nil), data...)
	outer := channels
	for axis := range from {
		inner := area(from[axis+1:])
		if from[axis] != to[axis] {
			data = resizeAxis(data, outer, inner, from[axis], to[axis])
		}
		outer *= to[axis]
	}
	return data
}

func resizeAxis(data []float32, outer, inner, from, to int) []float32 {
	out := make([]float32, outer*to*inner)
	all := resamplingTaps(from, to)
	for o := range outer {
		src, dst := data[o*from*inner:][:from*inner], out[o*to*inner:][:to*inner]
		for i, t := range all {
			row := dst[i*inner:][:inner]
			for j, w := range t.weights {
				for k, v := range src[(t.at+j)*inner:][:inner] {
					row[k] += w * v
				}
			}
		}
	}
	return out
}

// planes is a picture as three planes of height by width numbers 0..255.
func planes(img *image.RGBA, height, width int) []float32 {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := make([]float32, 3*h*width)
	all := resamplingTaps(w, width)
	for y := range h {
		row := img.Pix[y*img.Stride:][:4*w]
		for x, t := range all {
			var r, g, b float32
			for j, weight := range t.weights {
				p := row[4*(t.at+j):][:3]
				r += weight * float32(p[0])
				g += weight * float32(p[1])
				b += weight * float32(p[2])
			}
			at := y*width + x
			out[at], out[h*width+at], out[2*h*width+at] = r, g, b
		}
	}
	if h != height {
		out = resizeAxis(out, 3, width, h, height)
	}
	return out
}

// grey is a mask as numbers 0..1.
func grey(img *image.Gray, height, width int) []float32 {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	data := make([]float32, w*h)
	for y := range h {
		for x, v := range img.Pix[y*img.Stride:][:w] {
			data[y*w+x] = float32(v) / 255
		}
	}
	return resize(data, 1, []int{h, w}, []int{height, width})
}

// picture makes an image of planes; values outside 0..255 are clipped.
func picture(data []float32, height, width int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	n := height * width
	for i := range n {
		p := img.Pix[4*i:][:4]
		for c := range 3 {
			p[c] = uint8(min(max(data[c*n+i]+0.5, 0), 255))
		}
		p[3] = 255
	}
	return img
}
