package style_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"gonum.org/v1/gonum/mat"

	"github.com/likeness-id/likeness/pkg/style"
)

// The eigenvalues are gonum's, and the vectors make the matrix again.
func TestEigenSymmetric(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(31, 1))
	random := func(n, rank int) [][]float64 {
		m := make([][]float64, n)
		for i := range m {
			m[i] = make([]float64, n)
		}
		for range rank {
			v := make([]float64, n)
			for i := range v {
				v[i] = rng.NormFloat64()
			}
			weight := rng.NormFloat64()
			for i := range n {
				for j := range n {
					m[i][j] += weight * v[i] * v[j]
				}
			}
		}
		return m
	}
	for name, matrix := range map[string][][]float64{
		"one number": {{-3}},
		"zeros":      random(4, 0),
		"diagonal":   {{1, 0, 0}, {0, 5, 0}, {0, 0, 5}},
		"two":        {{2, 1}, {1, 2}},
		"singular":   random(9, 3),
		"full":       random(40, 40),
		"tiny":       {{1e-30, 2e-30}, {2e-30, 1e-30}},
	} {
		n := len(matrix)
		values, vectors, ok := style.EigenSymmetric(matrix)
		if !ok {
			t.Errorf("%s: not ok", name)
			continue
		}
		dense := mat.NewSymDense(n, slices.Concat(matrix...))
		var eig mat.EigenSym
		if !eig.Factorize(dense, false) {
			t.Fatal(name)
		}
		want := eig.Values(nil)
		slices.Reverse(want)
		scale := max(math.Abs(want[0]), math.Abs(want[n-1]))
		for i, v := range values {
			if math.Abs(v-want[i]) > 1e-13*float64(n)*scale {
				t.Errorf("%s: eigenvalue %d is %v, want %v", name, i, v, want[i])
			}
		}
		for i := range n {
			for j := range n {
				var entry, product float64
				for k, v := range vectors {
					entry += values[k] * v[i] * v[j]
					product += vectors[i][k] * vectors[j][k]
				}
				if math.Abs(entry-matrix[i][j]) > 1e-13*float64(n)*scale {
					t.Errorf("%s: entry %d,%d is %v, want %v", name, i, j, entry, matrix[i][j])
				}
				if unit := map[bool]float64{true: 1}[i == j]; math.Abs(product-unit) > 1e-13*float64(n) {
					t.Errorf("%s: vectors %d and %d have the product %v", name, i, j, product)
				}
			}
		}
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1)} {
		if _, _, ok := style.EigenSymmetric([][]float64{{1, bad}, {bad, 1}}); ok {
			t.Errorf("a matrix with %v was taken", bad)
		}
	}
}
