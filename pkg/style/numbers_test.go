package style_test

import (
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gonum.org/v1/gonum/mat"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/style"
)

func TestSchedule(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		of          []int
		long, steps int
		sizes       [][]int
		counts      []int
	}{
		{[]int{300, 400}, 512, 310, [][]int{{96, 128}, {192, 256}, {384, 512}}, []int{151, 97, 62}},
		{[]int{400, 300}, 64, 5, [][]int{{64, 48}}, []int{5}},
		{[]int{100, 100}, 512, 2, [][]int{{256, 256}, {512, 512}}, []int{1, 1}},
		{[]int{100, 100}, 512, 1, [][]int{{512, 512}}, []int{1}},
		{[]int{1000, 100}, 512, 100, [][]int{{512, 51}}, []int{100}}, // half is too narrow
		{[]int{1365, 2048}, 2048, 100, [][]int{{85, 128}, {171, 256}, {341, 512}, {683, 1024}, {1376, 2048}}, []int{40, 26, 17, 11, 6}},
	} {
		sizes, counts := style.Schedule(tt.of, tt.long, tt.steps, 1184)
		if diff := cmp.Diff(tt.sizes, sizes); diff != "" {
			t.Errorf("%v to %d: sizes (-want +got):\n%s", tt.of, tt.long, diff)
		}
		if diff := cmp.Diff(tt.counts, counts); diff != "" {
			t.Errorf("%v to %d in %d: steps (-want +got):\n%s", tt.of, tt.long, tt.steps, diff)
		}
	}
	// Whatever is asked for, the steps add up and none is left out.
	rng := rand.New(rand.NewPCG(1, 1))
	for range 2000 {
		of, long, steps := []int{1 + rng.IntN(3000), 1 + rng.IntN(3000)}, 64+rng.IntN(1985), 1+rng.IntN(5000)
		_, counts := style.Schedule(of, long, steps, 1184)
		sum := 0
		for _, n := range counts {
			sum += n
			if n < 1 {
				t.Fatalf("%v to %d in %d: %v", of, long, steps, counts)
			}
		}
		if sum != steps {
			t.Fatalf("%v to %d in %d: %v", of, long, steps, counts)
		}
	}
}

func TestResize(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2][]int{{{7}, {19}}, {{40}, {9}}, {{12, 31}, {25, 8}}, {{5, 6, 7}, {9, 6, 2}}} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			t.Parallel()
			n := places(tt[0])
			flat := make([]float32, 2*n)
			for i := range flat {
				flat[i] = 3 + float32(i/n)
			}
			for i, v := range style.Resize(flat, 2, tt[0], tt[1]) {
				if want := 3 + float64(i/places(tt[1])); math.Abs(float64(v)-want) > 1e-5 {
					t.Fatalf("what was flat is %g at %d", v, i)
				}
			}
		})
	}
	// A ramp stays a ramp, but at its ends.
	ramp := make([]float32, 64)
	for i := range ramp {
		ramp[i] = float32(i) + 0.5
	}
	for i, v := range style.Resize(ramp, 1, []int{64}, []int{16}) {
		if want := (float64(i) + 0.5) * 4; i > 0 && i < 15 && math.Abs(float64(v)-want) > 1e-4 {
			t.Errorf("number %d of a ramp is %g, want %g", i, v, want)
		}
	}
	// Nothing fine turns into something coarse.
	for i := range ramp {
		ramp[i] = float32(i % 2)
	}
	for i, v := range style.Resize(ramp, 1, []int{64}, []int{24}) {
		if math.Abs(float64(v)-0.5) > 0.1 {
			t.Errorf("number %d of a grid is %g", i, v)
		}
	}
}

func TestPictureAndBack(t *testing.T) {
	t.Parallel()
	img := drawPicture(t, "mosaic", 90)
	data := style.Planes(img, 72, 90)
	if diff := cmp.Diff(img.Pix, style.Picture(data, 72, 90).Pix); diff != "" {
		t.Error("a picture of the same size is another")
	}
	// A part of a picture is that part.
	part, ok := img.SubImage(image.Rect(10, 20, 60, 70)).(*image.RGBA)
	if !ok {
		t.Fatal("no part")
	}
	if got, want := style.Planes(part, 50, 50)[0], float32(img.RGBAAt(10, 20).R); got != want {
		t.Errorf("the first number is %g, want %g", got, want)
	}
	for _, v := range style.Picture([]float32{-5, 300, 127.4}, 1, 1).Pix[:3] {
		if v != 0 && v != 255 && v != 127 {
			t.Errorf("%d", v)
		}
	}
}

func TestColours(t *testing.T) {
	t.Parallel()
	from, to := style.Planes(drawPicture(t, "waves", 80), 60, 80), style.Planes(drawPicture(t, "valley", 64), 48, 64)
	mean, cov := style.Moments(style.MatchColours(from, to))
	wantMean, wantCov := style.Moments(to)
	for i := range mean {
		if math.Abs(mean[i]-wantMean[i]) > 0.05 {
			t.Errorf("mean %v, want %v", mean, wantMean)
		}
	}
	for i := range cov {
		if math.Abs(cov[i]-wantCov[i]) > 0.02*wantCov[0] {
			t.Errorf("covariance %v, want %v", cov, wantCov)
		}
	}
	kept := style.KeepChroma(from, style.Planes(drawPicture(t, "valley", 80), 60, 80))
	colours := style.Planes(drawPicture(t, "valley", 80), 60, 80)
	n := 60 * 80
	for i := range n {
		luma := func(d []float32) float64 {
			return 0.299*float64(d[i]) + 0.587*float64(d[n+i]) + 0.114*float64(d[2*n+i])
		}
		if math.Abs(luma(kept)-luma(from)) > 1e-2 {
			t.Fatalf("pixel %d has the brightness %g, want %g", i, luma(kept), luma(from))
		}
		if d := float64(kept[i]-kept[n+i]) - float64(colours[i]-colours[n+i]); math.Abs(d) > 1e-2 {
			t.Fatalf("pixel %d has lost its colour by %g", i, d)
		}
	}
	// A grey picture has no colours to take apart.
	grey := make([]float32, 3*16)
	for _, v := range style.MatchColours(grey, grey) {
		if math.IsNaN(float64(v)) {
			t.Fatal("a flat picture's colours are not numbers")
		}
	}
}

// Both optimisers find the bottom of a long valley.
func TestMinimise(t *testing.T) {
	t.Parallel()
	const n = 200
	for name, steps := range map[string]int{"lbfgs": 200, "adam": 3000} {
		x := make([]float32, n)
		got, shrunk, err := style.Minimise(name, x, steps, func(x, gradient []float32) style.Loss {
			var sum float64
			for i, v := range x {
				k := 1 + 99*float64(i)/n
				d := float64(v) - float64(i%7)
				sum += k * d * d / 2
				gradient[i] = float32(k * d)
			}
			return style.Loss{Total: sum}
		})
		if err != nil || shrunk != 0 {
			t.Fatalf("%s: %d shrunk, %v", name, shrunk, err)
		}
		worst := 0.0
		for i, v := range got {
			worst = max(worst, math.Abs(float64(v)-float64(i%7)))
		}
		if limit := map[string]float64{"lbfgs": 0.02, "adam": 2}[name]; worst > limit {
			t.Errorf("%s is off by %g", name, worst)
		}
	}
}

// The largest eigenvalues are those that taking the whole matrix apart gives.
func TestLeading(t *testing.T) {
	t.Parallel()
	const dim, want = 90, 12
	rng := rand.New(rand.NewPCG(5, 5))
	root := mat.NewDense(dim, dim, nil)
	for i := range dim {
		for j := range dim {
			root.Set(i, j, rng.NormFloat64()/math.Pow(float64(j+1), 0.7))
		}
	}
	var full mat.SymDense
	full.SymOuterK(1, root)
	matrix := make([]float32, 0, dim*dim)
	for i := range dim * dim {
		matrix = append(matrix, float32(full.At(i/dim, i%dim)))
	}
	var eig mat.EigenSym
	if !eig.Factorize(&full, false) {
		t.Fatal("gonum finds none")
	}
	values, vectors, err := style.Leading(t.Context(), orttest.Runtime(t), matrix, dim, want)
	if err != nil {
		t.Fatal(err)
	}
	for c, v := range vectors {
		checkClose(t, fmt.Sprintf("eigenvalue %d", c), values[c], eig.Values(nil)[dim-1-c], 1e-3)
		for d, u := range vectors {
			var dot float64
			for i := range u {
				dot += u[i] * v[i]
			}
			if want := map[bool]float64{true: 1}[c == d]; math.Abs(dot-want) > 1e-6 {
				t.Errorf("vectors %d and %d: %g", c, d, dot)
			}
		}
	}
	// A matrix of nothing, or of one direction only, has its vectors, too.
	for _, one := range []float32{0, 3} {
		flat := make([]float32, 20*20)
		flat[0] = one
		if values, _, err = style.Leading(t.Context(), orttest.Runtime(t), flat, 20, 8); err != nil || values[0] != float64(one) {
			t.Errorf("%v, %v", values, err)
		}
	}
}
