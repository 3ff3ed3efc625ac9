package style

import "math"

// keepChroma gives a picture the colours of another: it keeps its own
// brightness (Y of YIQ) and takes I and Q of the other. Both are planes of the
// same size.
func keepChroma(data, colours []float32) []float32 {
	n := len(data) / 3
	out := make([]float32, len(data))
	for i := range n {
		// Adding the same number to red, green and blue changes only Y.
		dy := luma(data[i], data[n+i], data[2*n+i]) - luma(colours[i], colours[n+i], colours[2*n+i])
		for c := range 3 {
			out[c*n+i] = colours[c*n+i] + dy
		}
	}
	return out
}

func luma(r, g, b float32) float32 { return 0.299*r + 0.587*g + 0.114*b }

// matrix3 is a matrix over the three colours.
type matrix3 [3][3]float64

func (m matrix3) times(o matrix3) (out matrix3) {
	for a := range 3 {
		for b := range 3 {
			for k := range 3 {
				out[a][b] += m[a][k] * o[k][b]
			}
		}
	}
	return out
}

// meanAndCovariance are those of the colours of planes.
func meanAndCovariance(data []float32) (mean [3]float64, covariance matrix3) {
	n := len(data) / 3
	for c := range 3 {
		for _, v := range data[c*n:][:n] {
			mean[c] += float64(v)
		}
		mean[c] /= float64(n)
	}
	for a := range 3 {
		for b := a; b < 3; b++ {
			var sum float64
			for i := range n {
				sum += (float64(data[a*n+i]) - mean[a]) * (float64(data[b*n+i]) - mean[b])
			}
			covariance[a][b] = sum / float64(n)
			covariance[b][a] = covariance[a][b]
		}
	}
	return mean, covariance
}

// power raises a symmetric matrix to a power. Eigenvalues below 1 count as 1,
// so that nothing is divided by zero in a flat picture. 1 is a quarter of the
// variance that rounding to whole numbers gives a flat picture. A matrix with
// numbers that are not finite gives the identity.
func (m matrix3) power(exponent float64) (out matrix3) {
	values, vectors, ok := eigenSymmetric([][]float64{m[0][:], m[1][:], m[2][:]})
	if !ok {
		return matrix3{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	}
	for k, v := range vectors {
		f := math.Pow(max(values[k], 1), exponent)
		for a := range 3 {
			for b := range 3 {
				out[a][b] += f * v[a] * v[b]
			}
		}
	}
	return out
}

// matchColours moves the colours of planes to the mean and the covariance of
// others, by the one linear map that does so without exchanging colours: the
// optimal transport between two normal distributions.
func matchColours(data, to []float32) []float32 {
	fromMean, fromCovariance := meanAndCovariance(data)
	toMean, toCovariance := meanAndCovariance(to)
	root, inverse := fromCovariance.power(0.5), fromCovariance.power(-0.5)
	turn := inverse.times(root.times(toCovariance).times(root).power(0.5)).times(inverse)
	n := len(data) / 3
	out := make([]float32, len(data))
	for i := range n {
		for a := range 3 {
			v := toMean[a]
			for b := range 3 {
				v += turn[a][b] * (float64(data[b*n+i]) - fromMean[b])
			}
			out[a*n+i] = float32(v)
		}
	}
	return out
}
