// Package siamese trains an encoder of faces. One network with shared weights
// embeds all images of a batch, and a loss pulls the embeddings of one person
// together and pushes those of different people apart. The loss is that of
// triplets, of pairs, or the distance to the embeddings of a teacher. A [Trainer]
// takes one step at a time, can be saved and loaded between steps, and exports the
// trained encoder as ONNX.
//
// Distances are squared L2 distances of normalised embeddings, 0..4; with a
// cosine s they are 2 - 2s.
package siamese

import (
	"github.com/likeness-id/likeness/pkg/grad"
)

// Distance adds the squared L2 distance of each row of a to the same row of
// b, both [T,D]: shape [T,1].
func Distance(g *grad.Graph, a, b *grad.Value) *grad.Value {
	d := g.Sub(a, b)
	return g.ReduceSum(g.Mul(d, d), 1)
}

// TripletLoss adds the loss of FaceNet (Schroff, Kalenichenko and Philbin,
// arXiv 1503.03832, equation 3) over triplets of embeddings, each [T,D]:
//
//	L = sum_i w_i max(d(A_i,P_i) - d(A_i,N_i) + margin, 0)
//
// A triplet costs nothing once the negative is farther than the positive by at
// least the margin. The weights [T,1] turn the sum into a mean, and are 0 for
// rows that hold no triplet. Shape [1].
func TripletLoss(g *grad.Graph, anchors, positives, negatives, weights *grad.Value, margin float64) *grad.Value {
	over := g.Add(g.Sub(Distance(g, anchors, positives), Distance(g, anchors, negatives)), g.Scalar(margin))
	return g.Total(g.Mul(g.Relu(over), weights))
}

// ContrastiveLoss adds the loss of Hadsell, Chopra and LeCun ("Dimensionality
// Reduction by Learning an Invariant Mapping", CVPR 2006) over pairs, each
// [T,D], where same [T,1] is 1 for two samples of one person and 0 for two
// people, and D is the distance that is not squared:
//
//	L = sum_i w_i ( same_i D_i^2/2 + (1-same_i) max(margin - D_i, 0)^2/2 )
func ContrastiveLoss(g *grad.Graph, a, b, same, weights *grad.Value, margin float64) *grad.Value {
	squared := Distance(g, a, b)
	// The square root has no derivative at 0, and two equal embeddings must not
	// give NaN.
	d := g.Sqrt(g.Add(squared, g.Scalar(1e-12)))
	short := g.Relu(g.Sub(g.Scalar(margin), d))
	apart := g.Mul(g.Sub(g.Scalar(1), same), g.Mul(short, short))
	return g.Total(g.Mul(g.Scale(g.Add(g.Mul(same, squared), apart), 0.5), weights))
}
