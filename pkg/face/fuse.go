package face

import (
	"cmp"
	"math"
	"slices"
)

// minMeanLength is the length below which a mean is none: so far may the length
// of a stored embedding be from 1, so that a shorter mean may be nothing but
// that error.
const minMeanLength = 1e-3

// FuseEmbeddings makes the one embedding that several of a subject's are
// compared as: their mean, divided by the power 9/16 of its length. Divided by
// all of its length, it would let strangers pass more often the more photos
// there are; not divided, less often. With that power they pass about as often
// as with one photo, for encoders of several kinds (docs/adr/0031).
//
// The numbers are added in float64 in the order given. Rounding depends on it,
// so give them in the order of their template ids: then the same templates have
// the same bits wherever and whenever they are fused, and in whatever order they
// were enrolled.
//
// One embedding is itself, bit for bit. Embeddings whose mean is shorter than
// 1e-3 cancel out, as no faces of one person do, and their mean says nothing:
// then the first stands for all. Give at least one, all of as many numbers and
// of unit length within 1e-3. The result is no longer than they are. It may share
// memory with the first.
func FuseEmbeddings(ordered []Embedding) Embedding {
	if len(ordered) == 1 {
		return ordered[0]
	}
	n := float64(len(ordered))
	mean := make([]float64, len(ordered[0]))
	for _, e := range ordered {
		for i, v := range e {
			mean[i] += float64(v)
		}
	}
	var squares float64
	for i := range mean {
		mean[i] /= n
		squares += float64(mean[i] * mean[i]) // the conversion keeps a compiler from rounding once where others round twice
	}
	length := math.Sqrt(squares)
	if length < minMeanLength {
		return ordered[0]
	}
	root := math.Sqrt(length) // roots are the same on every machine, and powers are not
	divisor := root * math.Sqrt(math.Sqrt(math.Sqrt(root)))
	fused := make(Embedding, len(mean))
	for i, v := range mean {
		fused[i] = float32(v / divisor)
	}
	return fused
}

// FuseTemplates is what a subject is compared as, and how many templates are in
// it: [FuseEmbeddings] of those of their templates of one model that have an
// embedding, in the order of their ids. It is nil if none has. All embeddings
// are of as many numbers.
func FuseTemplates(templates []Template) (fused Embedding, n int) {
	ordered := slices.SortedStableFunc(slices.Values(templates), func(a, b Template) int { return cmp.Compare(a.ID, b.ID) })
	var embeddings []Embedding
	for _, t := range ordered {
		if t.Embedding != nil {
			embeddings = append(embeddings, t.Embedding)
		}
	}
	if len(embeddings) == 0 {
		return nil, 0
	}
	return FuseEmbeddings(embeddings), len(embeddings)
}
