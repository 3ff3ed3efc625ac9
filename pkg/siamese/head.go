package siamese

import (
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Names in a model that WithHead made.
const (
	HeadWeight = "siamese:head"
	HeadOutput = "siamese:embedding"
)

// WithHead returns a model with one more linear layer, [D,D], after its
// embedding. The layer is the identity at first; it serves to adapt an encoder
// whose own weights stay fixed. shape is that of the image, with a batch of
// one.
func WithHead(m *grad.Model, image, embedding string, shape []int64) ([]byte, error) {
	g := grad.NewGraph()
	im, err := g.Import(m, map[string]*grad.Value{image: g.Input(image, shape...)}, []string{embedding}, grad.ImportOptions{})
	if err != nil {
		return nil, err
	}
	e := im.Layers[embedding]
	if len(e.Shape()) != 2 {
		return nil, face.Errorf(face.Invalid, "siamese.WithHead", "layer %q has the shape %v, not [1,D]", embedding, e.Shape())
	}
	d := e.Dim(1)
	same := make([]float32, d*d)
	for i := range d {
		same[i*d+i] = 1
	}
	return g.Marshal(g.Name(g.MatMul(e, g.Weight(HeadWeight, same, d, d)), HeadOutput))
}
