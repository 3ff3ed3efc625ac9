package imaging

import (
	"math"

	"github.com/likeness-id/likeness/pkg/face"
)

// Affine maps (x, y) to (a[0] x + a[1] y + a[2], a[3] x + a[4] y + a[5]).
type Affine [6]float64

// Apply maps one point.
func (a Affine) Apply(x, y float64) (float64, float64) {
	return a[0]*x + a[1]*y + a[2], a[3]*x + a[4]*y + a[5]
}

// Inverse is the inverse map. If the map has none, because it maps everything
// onto a line or a point, the numbers of the result are not finite.
func (a Affine) Inverse() Affine {
	det := a[0]*a[4] - a[1]*a[3]
	b := Affine{a[4] / det, -a[1] / det, 0, -a[3] / det, a[0] / det, 0}
	b[2] = -(b[0]*a[2] + b[1]*a[5])
	b[5] = -(b[3]*a[2] + b[4]*a[5])
	return b
}

// FitSimilarity finds the rotation, scale and shift, never a reflection, that
// maps the points "from" onto the points "to" with the least sum of squared
// distances. Fitted from an alignment template to a face's landmarks, both in
// pixel-index coordinates, it is a toSrc of [Planar.Warp]. The error is Invalid
// when the points are not finite or either set has no extent, so that no
// similarity exists.
//
// In the plane the problem of Umeyama (1991) has a closed form: written as
// complex numbers about their means, the factor is the sum of to*conj(from)
// over the sum of |from|^2.
func FitSimilarity(from, to [5]face.Point) (Affine, error) {
	var fx, fy, tx, ty float64
	for i := range from {
		fx += float64(from[i].X) / 5
		fy += float64(from[i].Y) / 5
		tx += float64(to[i].X) / 5
		ty += float64(to[i].Y) / 5
	}
	var re, im, spread float64
	for i := range from {
		px, py := float64(from[i].X)-fx, float64(from[i].Y)-fy
		qx, qy := float64(to[i].X)-tx, float64(to[i].Y)-ty
		re += px*qx + py*qy
		im += px*qy - py*qx
		spread += px*px + py*py
	}
	re, im = re/spread, im/spread
	// This one test catches a scale of 0, 0/0 and infinities.
	const least = 1e-6
	if size := math.Hypot(re, im); !(spread > least && size > least && size < 1/least) {
		return Affine{}, face.Errorf(face.Invalid, "imaging.FitSimilarity", "the landmarks do not span a face")
	}
	return Affine{
		re, -im, tx - re*fx + im*fy,
		im, re, ty - im*fx - re*fy,
	}, nil
}
