package siamese

import (
	"math"

	"gonum.org/v1/gonum/mat"

	"github.com/likeness-id/likeness/pkg/face"
)

// Target turns the normalised embeddings of the teachers, one behind the other,
// into the embedding that the student learns, before it is normalised: a row
// vector of Rows numbers times Matrix, row-major, Rows x Columns. An empty matrix
// leaves them as they are.
type Target struct {
	Rows, Columns int
	Matrix        []float32
}

// NewTarget finds the target of a student that gives the given dimension.
// teachers holds, for each teacher, its normalised embeddings of the same faces;
// weights are the teachers' weights, which the squares of the embeddings'
// lengths get.
//
// The teachers' numbers are reduced to the directions in which the faces vary
// most (principal components of the second moments, so that inner products
// change least). If base is not nil, it holds what the student gives for the
// same faces before it learns, and the target is then rotated as near to that as
// a rotation can bring it (Schönemann, "A generalized solution of the orthogonal
// Procrustes problem", Psychometrika 1966): cosines stay the same, and what the
// student knows is of use. Invalid: too few faces, or teachers that give fewer
// numbers than the student.
func NewTarget(teachers [][]face.Embedding, weights []float64, dimension int, base []face.Embedding) (Target, error) {
	const op = "siamese.NewTarget"
	if len(teachers) == 0 || len(teachers[0]) == 0 || len(weights) != len(teachers) {
		return Target{}, face.Errorf(face.Invalid, op, "no embeddings, or %d weights for %d teachers", len(weights), len(teachers))
	}
	faces, rows := len(teachers[0]), 0
	for _, all := range teachers {
		if len(all) != faces {
			return Target{}, face.Errorf(face.Invalid, op, "the teachers did not embed the same faces")
		}
		rows += len(all[0])
	}
	switch {
	case rows < dimension:
		return Target{}, face.Errorf(face.Invalid, op, "the teachers give %d numbers, fewer than the student's %d", rows, dimension)
	case faces < 2*rows:
		return Target{}, face.Errorf(face.Invalid, op, "%d faces are too few for %d numbers", faces, rows)
	}
	// scale gives each teacher its weight.
	scale := make([]float64, 0, rows)
	x := mat.NewDense(faces, rows, nil)
	for k, all := range teachers {
		for range all[0] {
			scale = append(scale, math.Sqrt(weights[k]))
		}
	}
	for i := range faces {
		column := 0
		for _, all := range teachers {
			for _, v := range all[i] {
				x.Set(i, column, scale[column]*float64(v))
				column++
			}
		}
	}
	var moments mat.Dense
	moments.Mul(x.T(), x)
	symmetric := mat.NewSymDense(rows, nil)
	for i := range rows {
		for j := i; j < rows; j++ {
			symmetric.SetSym(i, j, moments.At(i, j)/float64(faces))
		}
	}
	var eigen mat.EigenSym
	if !eigen.Factorize(symmetric, true) {
		return Target{}, face.Errorf(face.Internal, op, "the principal components were not found")
	}
	var vectors mat.Dense
	eigen.VectorsTo(&vectors) // ascending
	m := mat.DenseCopyOf(vectors.Slice(0, rows, rows-dimension, rows))
	if base != nil {
		if len(base) != faces || len(base[0]) != dimension {
			return Target{}, face.Errorf(face.Invalid, op, "the student did not embed the same faces, or in another dimension")
		}
		var projected, between, rotated mat.Dense
		projected.Mul(x, m)
		own := mat.NewDense(faces, dimension, nil)
		for i, e := range base {
			for j, v := range e {
				own.Set(i, j, float64(v))
			}
		}
		between.Mul(projected.T(), own)
		var svd mat.SVD
		if !svd.Factorize(&between, mat.SVDThin) {
			return Target{}, face.Errorf(face.Internal, op, "the rotation was not found")
		}
		var u, v, rotation mat.Dense
		svd.UTo(&u)
		svd.VTo(&v)
		rotation.Mul(&u, v.T())
		rotated.Mul(m, &rotation)
		m = &rotated
	}
	t := Target{Rows: rows, Columns: dimension, Matrix: make([]float32, rows*dimension)}
	for i := range rows {
		for j := range dimension {
			t.Matrix[i*dimension+j] = float32(scale[i] * m.At(i, j))
		}
	}
	return t, nil
}

// Apply is what the student learns from the teachers' normalised embeddings of
// one face, one behind the other. The error is that of [face.Embedding.Normalise].
func (t Target) Apply(teachers face.Embedding) (face.Embedding, error) {
	out := make(face.Embedding, t.Columns)
	for i, x := range teachers {
		for j, m := range t.Matrix[i*t.Columns : (i+1)*t.Columns] {
			out[j] += x * m
		}
	}
	return out.Normalise()
}
