package measure

import "github.com/likeness-id/likeness/pkg/face"

// Photo is the outcome of one photo of a data set: an embedding for each
// encoder that is measured, or the code of the reason why there is none, which
// is a failure to acquire.
type Photo struct {
	Embeddings []face.Embedding // by encoder, each of length 1
	Failure    string           // "no_face" and so on; empty when there are embeddings
}

// Embedding is the one by the first encoder; nil after a failure.
func (p Photo) Embedding() face.Embedding { return p.EmbeddingBy(0) }

// EmbeddingBy is the one by the i-th encoder; nil when there is none.
func (p Photo) EmbeddingBy(i int) face.Embedding {
	if i >= len(p.Embeddings) {
		return nil
	}
	return p.Embeddings[i]
}

// CountFailures counts the failures to acquire by their code, and as a rate of
// all photos (FTA).
func CountFailures(photos []Photo) (byCode map[string]int, fta Rate) {
	byCode = map[string]int{}
	for _, p := range photos {
		fta.Add(p.Failure != "")
		if p.Failure != "" {
			byCode[p.Failure]++
		}
	}
	return byCode, fta
}
