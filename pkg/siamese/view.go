package siamese

import (
	"math"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// viewMargin is how many pixels of a view lie around the student's input on
// each side: teachers may see more of the face.
const viewMargin = 16

// viewer draws one changed picture of a face and shows it to student and
// teachers, each in its own frame. It is not safe for concurrent use.
type viewer struct {
	augmenter // of the whole view
	hidden    float64
	inputs    []imaging.Planar // of the student, then of the teachers
	toView    []imaging.Affine
	points    [5]face.Point // the landmarks in the view
	view      []float32     // red, green, blue, 0..255
	other     []float32
}

func newViewer(o DistillOptions) *viewer {
	size := imaging.Planar{Width: o.Input.Width + 2*viewMargin, Height: o.Input.Height + 2*viewMargin, Scale: [3]float32{1, 1, 1}}
	v := &viewer{
		augmenter: *newAugmenter(o.Augmentation, size), hidden: o.Hidden,
		inputs: []imaging.Planar{o.Input}, toView: []imaging.Affine{{1, 0, viewMargin, 0, 1, viewMargin}},
		view: make([]float32, 3*size.Width*size.Height), other: make([]float32, 3*size.Width*size.Height),
	}
	for _, t := range o.Teachers {
		v.inputs = append(v.inputs, t.Input)
		v.toView = append(v.toView, compose(v.toView[0], t.ToStudent))
	}
	for i, p := range o.Landmarks {
		v.points[i] = face.Point{X: p.X + viewMargin, Y: p.Y + viewMargin}
	}
	return v
}

// show writes one view into the tensors of the student and of each teacher.
func (v *viewer) show(dst [][]float32, set Set, rng *rand.Rand) error {
	if err := v.drawAny(v.view, set, rng); err != nil {
		return err
	}
	if rng.Float64() < v.how.Plain {
		for i := range dst {
			v.sample(dst[i], v.view, i)
		}
		return nil
	}
	if rng.Float64() < v.how.Mix {
		if err := v.drawAny(v.other, set, rng); err != nil {
			return err
		}
		v.mix(rng)
	}
	if v.how.Warp > 0 && rng.IntN(2) == 0 {
		v.moveFeatures(v.how.Warp*rng.Float64(), rng)
	}
	copy(v.other, v.view)
	covered := v.cover(v.view, rng)
	seed := [2]uint64{rng.Uint64(), rng.Uint64()}
	again := func() *rand.Rand { return rand.New(rand.NewPCG(seed[0], seed[1])) } //nolint:gosec // reproducible on purpose
	v.worsen(v.view, again())
	v.sample(dst[0], v.view, 0)
	seen := v.view
	if covered && rng.Float64() < v.hidden {
		v.worsen(v.other, again())
		seen = v.other
	}
	for i := 1; i < len(dst); i++ {
		v.sample(dst[i], seen, i)
	}
	return nil
}

// drawAny draws a photo of the set.
func (v *viewer) drawAny(dst []float32, set Set, rng *rand.Rand) error {
	p, err := set.Photo(rng.IntN(set.Len()))
	if err != nil {
		return err
	}
	p.ToSrc = compose(p.ToSrc, imaging.Affine{1, 0, -viewMargin, 0, 1, -viewMargin})
	v.draw(dst, p, rng)
	return nil
}

// mix blends the view with the other picture, evenly or with a soft edge
// between two halves.
func (v *viewer) mix(rng *rand.Rand) {
	w, h := v.input.Width, v.input.Height
	part := rng.Float64()
	half := rng.IntN(2) == 0
	sin, cos := math.Sincos(2 * math.Pi * rng.Float64())
	where, soft := 50*(rng.Float64()-0.5), 1+11*rng.Float64()
	for y := range h {
		for x := range w {
			weight := part
			if half {
				edge := (cos*(float64(x)-float64(w-1)/2) + sin*(float64(y)-float64(h-1)/2) - where) / soft
				weight = 1 / (1 + math.Exp(-edge))
			}
			for c := range 3 {
				i := c*w*h + y*w + x
				v.view[i] += float32(weight) * (v.other[i] - v.view[i])
			}
		}
	}
}

// moveFeatures displaces each place smoothly, which makes another person of a
// face: by bilinear interpolation between 5 x 5 random displacements.
func (v *viewer) moveFeatures(deviation float64, rng *rand.Rand) {
	const n = 5
	w, h := v.input.Width, v.input.Height
	var by [2][n][n]float64
	for k := range by {
		for j := range n {
			for i := range n {
				by[k][j][i] = deviation * rng.NormFloat64()
			}
		}
	}
	copy(v.other, v.view)
	for y := range h {
		fy := float64(y) / float64(h-1) * (n - 1)
		j := min(n-2, int(fy))
		fy -= float64(j)
		for x := range w {
			fx := float64(x) / float64(w-1) * (n - 1)
			i := min(n-2, int(fx))
			fx -= float64(i)
			var d [2]float64
			for k := range d {
				top := by[k][j][i] + fx*(by[k][j][i+1]-by[k][j][i])
				bottom := by[k][j+1][i] + fx*(by[k][j+1][i+1]-by[k][j+1][i])
				d[k] = top + fy*(bottom-top)
			}
			for c := range 3 {
				v.view[c*w*h+y*w+x] = interpolate(v.other[c*w*h:(c+1)*w*h], w, h, float64(x)+d[0], float64(y)+d[1])
			}
		}
	}
}

// interpolate is a plane's value between its four nearest pixels; outside, it
// is that of the edge.
func interpolate(plane []float32, w, h int, x, y float64) float32 {
	x, y = max(0, min(float64(w-1), x)), max(0, min(float64(h-1), y))
	i, j := min(w-2, int(x)), min(h-2, int(y))
	fx, fy := float32(x-float64(i)), float32(y-float64(j))
	row := plane[j*w+i:]
	top, bottom := row[0]+fx*(row[1]-row[0]), row[w]+fx*(row[w+1]-row[w])
	return top + fy*(bottom-top)
}

// near says that two maps differ by less than a hundredth of a pixel.
func near(a, b imaging.Affine) bool {
	for i := range a {
		if math.Abs(a[i]-b[i]) > 1e-5 {
			return false
		}
	}
	return true
}

// sample writes what the k-th network sees of a view.
func (v *viewer) sample(dst, view []float32, k int) {
	in, a := v.inputs[k], v.toView[k]
	w, h := v.input.Width, v.input.Height
	if in.Width == v.inputs[0].Width && in.Height == v.inputs[0].Height && near(a, v.toView[0]) { // a part of the view, pixel by pixel
		for c := range 3 {
			for y := range in.Height {
				copy(dst[(c*in.Height+y)*in.Width:][:in.Width], view[(c*h+y+viewMargin)*w+viewMargin:])
			}
		}
		normalise(dst, in)
		return
	}
	for y := range in.Height {
		for x := range in.Width {
			sx, sy := a.Apply(float64(x), float64(y))
			for c := range 3 {
				dst[c*in.Width*in.Height+y*in.Width+x] = interpolate(view[c*w*h:(c+1)*w*h], w, h, sx, sy)
			}
		}
	}
	normalise(dst, in)
}
