package imaging_test

import (
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// noiseImage is an image in which no two neighbours are alike, so that reading one
// pixel for another shows. Its bounds may begin elsewhere than at (0,0), as
// those of a sub-image do.
func noiseImage(w, h int) *image.RGBA {
	rng := rand.New(rand.NewPCG(uint64(w), uint64(h)))
	whole := image.NewRGBA(image.Rect(0, 0, w+5, h+3))
	for i := range whole.Pix {
		whole.Pix[i] = uint8(rng.Uint32())
	}
	img := whole.SubImage(image.Rect(2, 1, 2+w, 1+h)).(*image.RGBA)
	for y := range h {
		for x := range w {
			img.Pix[y*img.Stride+4*x+3] = 255
		}
	}
	return img
}

// channelAt is one channel of one pixel, 0 outside.
func channelAt(img *image.RGBA, x, y, c int) float64 {
	if x < 0 || y < 0 || x >= img.Rect.Dx() || y >= img.Rect.Dy() {
		return 0
	}
	return float64(img.Pix[y*img.Stride+4*x+c])
}

// interpolate is bilinear interpolation in float64, black outside.
func interpolate(img *image.RGBA, x, y float64, c int) float64 {
	ix, iy := math.Floor(x), math.Floor(y)
	fx, fy := x-ix, y-iy
	i, j := int(ix), int(iy)
	return (1-fy)*((1-fx)*channelAt(img, i, j, c)+fx*channelAt(img, i+1, j, c)) +
		fy*((1-fx)*channelAt(img, i, j+1, c)+fx*channelAt(img, i+1, j+1, c))
}

// slowLetterbox says what Letterbox must give, pixel by pixel in float64.
func slowLetterbox(p imaging.Planar, src *image.RGBA) []float64 {
	sw, sh := float64(src.Rect.Dx()), float64(src.Rect.Dy())
	scale := min(float64(p.Width)/sw, float64(p.Height)/sh)
	w, h := max(math.Floor(sw*scale+1e-9), 1), max(math.Floor(sh*scale+1e-9), 1)
	return slowPlanar(p, func(x, y, c int) float64 {
		fx, fy := float64(x), float64(y)
		if fx >= w || fy >= h {
			return 0
		}
		if scale > 1 {
			return interpolate(src, min(max((fx+.5)/scale-.5, 0), sw-1), min(max((fy+.5)/scale-.5, 0), sh-1), c)
		}
		var sum, area float64
		for j := int(fy / scale); j < int(sh) && float64(j) < (fy+1)/scale; j++ {
			ry := min((fy+1)/scale, float64(j+1)) - max(fy/scale, float64(j))
			for i := int(fx / scale); i < int(sw) && float64(i) < (fx+1)/scale; i++ {
				rx := min((fx+1)/scale, float64(i+1)) - max(fx/scale, float64(i))
				if rx > 0 && ry > 0 {
					sum += rx * ry * channelAt(src, i, j, c)
					area += rx * ry
				}
			}
		}
		return sum / area
	})
}

// slowWarp says what Warp must give, for n*n samples per pixel.
func slowWarp(p imaging.Planar, src *image.RGBA, toSrc imaging.Affine, n int) []float64 {
	return slowPlanar(p, func(x, y, c int) float64 {
		var sum float64
		for j := range n {
			for i := range n {
				sx, sy := toSrc.Apply(float64(x)+(float64(i)+.5)/float64(n)-.5, float64(y)+(float64(j)+.5)/float64(n)-.5)
				sum += interpolate(src, sx, sy, c)
			}
		}
		return sum / float64(n*n)
	})
}

func slowPlanar(p imaging.Planar, value func(x, y, c int) float64) []float64 {
	out := make([]float64, 3*p.Width*p.Height)
	for c := range 3 {
		channel := c
		if p.BGR {
			channel = 2 - c
		}
		for y := range p.Height {
			for x := range p.Width {
				v := value(x, y, channel)
				out[(c*p.Height+y)*p.Width+x] = (v - float64(p.Mean[c])) * float64(p.Scale[c])
			}
		}
	}
	return out
}

func checkNear(t *testing.T, p imaging.Planar, got []float32, want []float64, tolerance float64) {
	t.Helper()
	for i := range want {
		if math.Abs(float64(got[i])-want[i]) > tolerance {
			n := p.Width * p.Height
			t.Fatalf("plane %d, x %d, y %d: got %v, want %v", i/n, i%n%p.Width, i%n/p.Width, got[i], want[i])
		}
	}
}

// filledTensor is a tensor full of what an earlier image left in it.
func filledTensor(p imaging.Planar) []float32 {
	dst := make([]float32, 3*p.Width*p.Height)
	for i := range dst {
		dst[i] = float32(math.NaN())
	}
	return dst
}

func TestLetterbox(t *testing.T) {
	t.Parallel()
	plain := [3]float32{1, 1, 1}
	for _, tc := range []struct {
		sw, sh int
		p      imaging.Planar
		want   float64 // scale
	}{
		{64, 64, imaging.Planar{Width: 64, Height: 64, Scale: plain}, 1},
		{64, 48, imaging.Planar{Width: 64, Height: 64, BGR: true, Scale: plain}, 1},
		{250, 250, imaging.Planar{Width: 320, Height: 320, BGR: true, Scale: plain}, 1.28},
		{200, 100, imaging.Planar{Width: 64, Height: 64, Mean: [3]float32{1, 2, 3}, Scale: [3]float32{1, .5, 2}}, .32},
		{100, 300, imaging.Planar{Width: 64, Height: 96, BGR: true, Mean: [3]float32{1, 2, 3}, Scale: [3]float32{1, .5, 2}}, .32},
		{128, 128, imaging.Planar{Width: 64, Height: 64, Scale: plain}, .5},
		{97, 61, imaging.Planar{Width: 96, Height: 96, Scale: plain}, 96. / 97},
		{333, 1, imaging.Planar{Width: 32, Height: 32, Scale: plain}, 32. / 333},
		{1, 1, imaging.Planar{Width: 32, Height: 16, Scale: plain}, 16},
		{2, 3, imaging.Planar{Width: 32, Height: 32, Scale: plain}, 32. / 3},
		{3, 200, imaging.Planar{Width: 32, Height: 64, Scale: plain}, .32},
	} {
		t.Run(fmt.Sprintf("%dx%d to %dx%d", tc.sw, tc.sh, tc.p.Width, tc.p.Height), func(t *testing.T) {
			t.Parallel()
			src, dst := noiseImage(tc.sw, tc.sh), filledTensor(tc.p)
			if got := tc.p.Letterbox(dst, src); math.Abs(got-tc.want) > 1e-12 {
				t.Errorf("scale %v, want %v", got, tc.want)
			}
			tolerance := 0.02
			if tc.want == 1 {
				tolerance = 0
			}
			checkNear(t, tc.p, dst, slowLetterbox(tc.p, src), tolerance)
		})
	}
}

func TestWarp(t *testing.T) {
	t.Parallel()
	turn := func(degrees, scale, x, y float64) imaging.Affine {
		s, c := math.Sincos(degrees * math.Pi / 180)
		return imaging.Affine{scale * c, -scale * s, x, scale * s, scale * c, y}
	}
	src := noiseImage(120, 90)
	for _, tc := range []struct {
		name      string
		toSrc     imaging.Affine
		samples   int
		tolerance float64
	}{
		{"identity", turn(0, 1, 0, 0), 1, 0},
		{"shift by whole pixels", turn(0, 1, 7, 11), 1, 0},
		{"quarter turn", imaging.Affine{0, -1, 60, 1, 0, 10}, 1, 0},
		{"half a pixel over each edge", turn(0, 1, -.5, -.5), 1, 0},
		{"over every edge", turn(30, 1.4, -20, -20), 1, .02},
		{"grow", turn(-20, .3, 40, 60), 1, .02},
		{"just below supersampling", turn(5, 1.49, 0, 0), 1, .02},
		{"shrink by two", turn(5, 2, 0, 0), 2, .02},
		{"shrink by three", turn(80, 3.2, 100, 0), 3, .02},
		{"shrink by more than eight", turn(0, 20, -100, -100), 8, .02},
		{"all outside", turn(0, 1, 500, 0), 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := imaging.Planar{Width: 31, Height: 17, BGR: true, Mean: [3]float32{1, 2, 4}, Scale: [3]float32{1, .5, 2}}
			dst := filledTensor(p)
			p.Warp(dst, src, tc.toSrc)
			checkNear(t, p, dst, slowWarp(p, src, tc.toSrc, tc.samples), tc.tolerance)

			rgba := image.NewRGBA(image.Rect(0, 0, 31, 17)).SubImage(image.Rect(1, 2, 31, 17)).(*image.RGBA)
			imaging.WarpRGBA(rgba, src, tc.toSrc)
			plain := imaging.Planar{Width: 30, Height: 15, Scale: [3]float32{1, 1, 1}}
			for i, want := range slowWarp(plain, src, tc.toSrc, tc.samples) {
				c, y, x := i/450, i%450/30, i%30
				if got := channelAt(rgba, x, y, c); math.Abs(got-want) > .52 {
					t.Fatalf("WarpRGBA: channel %d, x %d, y %d: got %v, want %v", c, x, y, got, want)
				}
				if channelAt(rgba, x, y, 3) != 255 {
					t.Fatalf("WarpRGBA: x %d, y %d is not opaque", x, y)
				}
			}
		})
	}
}

// TestWarpOfNonsense checks that no map, however wild, reads outside src.
func TestWarpOfNonsense(t *testing.T) {
	t.Parallel()
	p := imaging.Planar{Width: 8, Height: 8, Scale: [3]float32{1, 1, 1}}
	wild := []float64{0, 1, -1, 1e300, -1e300, 1e18, math.NaN(), math.Inf(1), math.Inf(-1), 0.999999999, 1e-300}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var a imaging.Affine
		for i := range a {
			a[i] = wild[rng.IntN(len(wild))]
		}
		dst := filledTensor(p)
		p.Warp(dst, noiseImage(1+rng.IntN(3), 1+rng.IntN(3)), a)
		for i, v := range dst {
			if !(v >= 0 && v <= 255.01) {
				t.Fatalf("%v: value %d is %v", a, i, v)
			}
		}
	}
}

func TestNoAllocation(t *testing.T) {
	p := imaging.Planar{Width: 64, Height: 64, Scale: [3]float32{1, 1, 1}}
	dst, rgba := filledTensor(p), image.NewRGBA(image.Rect(0, 0, 32, 32))
	small, large := noiseImage(40, 30), noiseImage(200, 100)
	for name, f := range map[string]func(){
		"Letterbox, growing":   func() { p.Letterbox(dst, small) },
		"Letterbox, shrinking": func() { p.Letterbox(dst, large) },
		"Warp":                 func() { p.Warp(dst, large, imaging.Affine{2, 0, 1, 0, 2, 1}) },
		"WarpRGBA":             func() { imaging.WarpRGBA(rgba, large, imaging.Affine{2, 0, 1, 0, 2, 1}) },
	} {
		if n := testing.AllocsPerRun(10, f); n != 0 {
			t.Errorf("%s allocates %v times a call", name, n)
		}
	}
}

// fivePoints are the points (xy[0], xy[1]), (xy[2], xy[3]) and so on.
func fivePoints(xy ...float32) (out [5]face.Point) {
	for i := range out {
		out[i] = face.Point{X: xy[2*i], Y: xy[2*i+1]}
	}
	return out
}

func TestFitSimilarity(t *testing.T) {
	t.Parallel()
	template := fivePoints(38, 52, 74, 52, 56, 72, 42, 92, 71, 92)
	mapped := func(a imaging.Affine) (out [5]face.Point) {
		for i, p := range template {
			x, y := a.Apply(float64(p.X), float64(p.Y))
			out[i] = face.Point{X: float32(x), Y: float32(y)}
		}
		return out
	}
	for _, want := range []imaging.Affine{
		{1, 0, 0, 0, 1, 0},
		{2, 0, 10, 0, 2, -5},
		{0, -1, 100, 1, 0, 3},
		{.3, .4, 1000, -.4, .3, 2000},
		{-1.5, 0, 0, 0, -1.5, 0},
	} {
		got, err := imaging.FitSimilarity(template, mapped(want))
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if math.Abs(got[i]-want[i]) > 1e-3 {
				t.Errorf("got %v, want %v", got, want)
				break
			}
		}
	}
}

// TestFitSimilarityIsLeastSquares moves the fit a little in each of its four
// freedoms: where the points do not fit, nothing nearby may be better. One of
// the cases is a mirrored face, to which a reflection would fit best.
func TestFitSimilarityIsLeastSquares(t *testing.T) {
	t.Parallel()
	from := fivePoints(38, 52, 74, 52, 56, 72, 42, 92, 71, 92)
	for _, to := range [][5]face.Point{
		fivePoints(120, 80, 160, 95, 135, 110, 110, 130, 150, 140),
		fivePoints(160, 80, 120, 82, 141, 110, 158, 130, 121, 135),
	} {
		cost := func(a imaging.Affine) (sum float64) {
			for i := range from {
				x, y := a.Apply(float64(from[i].X), float64(from[i].Y))
				sum += math.Pow(x-float64(to[i].X), 2) + math.Pow(y-float64(to[i].Y), 2)
			}
			return sum
		}
		best, err := imaging.FitSimilarity(from, to)
		if err != nil {
			t.Fatal(err)
		}
		if det := best[0]*best[4] - best[1]*best[3]; det <= 0 {
			t.Errorf("%v reflects", best)
		}
		for _, d := range []float64{1e-3, -1e-3} {
			for _, other := range []imaging.Affine{
				{best[0] + d, best[1], best[2], best[3], best[4] + d, best[5]},
				{best[0], best[1] - d, best[2], best[3] + d, best[4], best[5]},
				{best[0], best[1], best[2] + d, best[3], best[4], best[5]},
				{best[0], best[1], best[2], best[3], best[4], best[5] + d},
			} {
				if cost(other) < cost(best) {
					t.Errorf("%v costs %v, %v only %v", best, cost(best), other, cost(other))
				}
			}
		}
	}
}

func TestFitSimilarityRefuses(t *testing.T) {
	t.Parallel()
	good := fivePoints(38, 52, 74, 52, 56, 72, 42, 92, 71, 92)
	one := fivePoints(5, 5, 5, 5, 5, 5, 5, 5, 5, 5)
	nan, inf, huge := good, good, good
	nan[2].X = float32(math.NaN())
	inf[1].Y = float32(math.Inf(1))
	huge[0].X = math.MaxFloat32
	for name, tc := range map[string][2][5]face.Point{
		"one point": {one, one}, "from one point": {one, good}, "to one point": {good, one},
		"not a number": {good, nan}, "from not a number": {nan, good},
		"infinite": {good, inf}, "from infinite": {inf, good}, "out of all bounds": {good, huge},
	} {
		if a, err := imaging.FitSimilarity(tc[0], tc[1]); face.KindOf(err) != face.Invalid || err == nil {
			t.Errorf("%s: %v, %v", name, a, err)
		}
	}
}

func BenchmarkLetterbox(b *testing.B) {
	p := imaging.Planar{Width: 640, Height: 640, BGR: true, Scale: [3]float32{1, 1, 1}}
	dst := filledTensor(p)
	for _, size := range []image.Point{{250, 250}, {640, 640}, {1000, 750}, {1280, 960}, {4000, 3000}} {
		src := noiseImage(size.X, size.Y)
		b.Run(fmt.Sprintf("%dx%d", size.X, size.Y), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Letterbox(dst, src)
			}
		})
	}
}

func BenchmarkWarp(b *testing.B) {
	p := imaging.Planar{Width: 112, Height: 112, Scale: [3]float32{1, 1, 1}}
	dst, src := filledTensor(p), noiseImage(1200, 1200)
	for _, scale := range []float64{1, 2, 4, 8} {
		b.Run(fmt.Sprintf("shrink %v", scale), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Warp(dst, src, imaging.Affine{scale * .98, -scale * .17, 200, scale * .17, scale * .98, 50})
			}
		})
	}
}
