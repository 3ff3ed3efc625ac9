package style

import (
	"math"
	"slices"
)

// eigenSymmetric finds the eigenvalues of a symmetric matrix of n x n numbers,
// the largest first, and its eigenvectors in the same order, each of length 1.
// The signs of the vectors are arbitrary. It uses the cyclic Jacobi method
// (Golub and Van Loan, Matrix Computations, section 8.5), which is exact enough
// and fast enough for the small matrices of this package. It is not ok when the
// matrix has numbers that are not finite.
func eigenSymmetric(matrix [][]float64) (values []float64, vectors [][]float64, ok bool) {
	n := len(matrix)
	a, v := make([][]float64, n), make([][]float64, n) // v holds the eigenvectors as rows
	var norm float64
	for i, row := range matrix {
		a[i], v[i] = slices.Clone(row), make([]float64, n)
		v[i][i] = 1
		norm = math.Hypot(norm, length(row))
	}
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return nil, nil, false
	}
	const maxSweeps = 64 // it converges quadratically: ten are many
	for range maxSweeps {
		rotated := false
		for p := range n {
			for q := p + 1; q < n; q++ {
				if math.Abs(a[p][q]) > 1e-17*norm {
					rotateJacobi(a, v, p, q)
					rotated = true
				}
			}
		}
		if !rotated {
			break
		}
	}
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case a[i][i] > a[j][j]:
			return -1
		case a[i][i] < a[j][j]:
			return 1
		}
		return 0
	})
	for _, i := range order {
		values, vectors = append(values, a[i][i]), append(vectors, v[i])
	}
	return values, vectors, true
}

// rotateJacobi turns the plane of two axes so that a[p][q] becomes 0, and turns
// the eigenvectors with it.
func rotateJacobi(a, v [][]float64, p, q int) {
	tau := (a[q][q] - a[p][p]) / (2 * a[p][q])
	t := math.Copysign(1/(math.Abs(tau)+math.Hypot(1, tau)), tau)
	c := 1 / math.Hypot(1, t)
	s := t * c
	for k := range a {
		a[k][p], a[k][q] = c*a[k][p]-s*a[k][q], s*a[k][p]+c*a[k][q]
	}
	for k := range a {
		a[p][k], a[q][k] = c*a[p][k]-s*a[q][k], s*a[p][k]+c*a[q][k]
		v[p][k], v[q][k] = c*v[p][k]-s*v[q][k], s*v[p][k]+c*v[q][k]
	}
	a[p][q], a[q][p] = 0, 0
}

// scalarProduct is the scalar product of two vectors of the same length.
func scalarProduct(a, b []float64) (sum float64) {
	for i, x := range a {
		sum += x * b[i]
	}
	return sum
}

// length is the Euclidean length of a vector.
func length(v []float64) float64 { return math.Sqrt(scalarProduct(v, v)) }

// addScaled adds a multiple of a vector to another one.
func addScaled(to []float64, factor float64, v []float64) {
	for i, x := range v {
		to[i] += factor * x
	}
}
