package style

import (
	"math"

	"gonum.org/v1/gonum/mat"
)

// keepChroma gives a picture the colours of another: its own brightness (Y of
// YIQ) with the other's I and Q. Both are planes of the same size.
func keepChroma(data, colours []float32) []float32 {
	n := len(data) / 3
	out := make([]float32, len(data))
	for i := range n {
		// Adding the same to red, green and blue changes nothing but Y.
		dy := luma(data[i], data[n+i], data[2*n+i]) - luma(colours[i], colours[n+i], colours[2*n+i])
		for c := range 3 {
			out[c*n+i] = colours[c*n+i] + dy
		}
	}
	return out
}

func luma(r, g, b float32) float32 { return 0.299*r + 0.587*g + 0.114*b }

// moments are the mean and the covariance of the colours of planes.
func moments(data []float32) (mean [3]float64, cov *mat.SymDense) {
	n := len(data) / 3
	for c := range 3 {
		for _, v := range data[c*n:][:n] {
			mean[c] += float64(v)
		}
		mean[c] /= float64(n)
	}
	cov = mat.NewSymDense(3, nil)
	for a := range 3 {
		for b := a; b < 3; b++ {
			var sum float64
			for i := range n {
				sum += (float64(data[a*n+i]) - mean[a]) * (float64(data[b*n+i]) - mean[b])
			}
			cov.SetSym(a, b, sum/float64(n))
		}
	}
	return mean, cov
}

// power is a symmetric matrix to a power; eigenvalues are at least 1, a
// quarter of what rounding to whole numbers makes of a flat picture's.
func power(m *mat.SymDense, exponent float64) *mat.Dense {
	var eig mat.EigenSym
	if !eig.Factorize(m, true) {
		return mat.NewDense(3, 3, []float64{1, 0, 0, 0, 1, 0, 0, 0, 1})
	}
	var vectors, out mat.Dense
	eig.VectorsTo(&vectors)
	scaled := mat.DenseCopyOf(&vectors)
	for j, v := range eig.Values(nil) {
		f := math.Pow(max(v, 1), exponent)
		for i := range 3 {
			scaled.Set(i, j, scaled.At(i, j)*f)
		}
	}
	out.Mul(scaled, vectors.T())
	return &out
}

// matchColours moves the colours of planes to the mean and the covariance of
// others, by the one linear map that does it without turning colours about.
func matchColours(data, to []float32) []float32 {
	fromMean, fromCov := moments(data)
	toMean, toCov := moments(to)
	var inner, turn mat.Dense
	root, inverse := power(fromCov, 0.5), power(fromCov, -0.5)
	inner.Mul(root, toCov)
	inner.Mul(mat.DenseCopyOf(&inner), root)
	middle := mat.NewSymDense(3, nil)
	for a := range 3 {
		for b := a; b < 3; b++ {
			middle.SetSym(a, b, (inner.At(a, b)+inner.At(b, a))/2)
		}
	}
	turn.Mul(inverse, power(middle, 0.5))
	turn.Mul(mat.DenseCopyOf(&turn), inverse)
	n := len(data) / 3
	out := make([]float32, len(data))
	for i := range n {
		for a := range 3 {
			v := toMean[a]
			for b := range 3 {
				v += turn.At(a, b) * (float64(data[b*n+i]) - fromMean[b])
			}
			out[a*n+i] = float32(v)
		}
	}
	return out
}
