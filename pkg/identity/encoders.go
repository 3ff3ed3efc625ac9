package identity

import (
	"cmp"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// Encoder is a model that galleries are searched with, and what was measured
// of it.
type Encoder struct {
	ID        string
	Dimension int // numbers of an embedding
	Policy    *match.Policy
	Head      *match.Head // nil: there are no probabilities
}

func newEncoder(m embed.Manifest) Encoder {
	return Encoder{ID: m.ID, Dimension: m.Dimension, Policy: match.NewPolicy(m.Calibration), Head: match.NewHead(m.Head)}
}

// want asks the pipeline for embeddings of these encoders.
func want(encoders ...Encoder) (w embed.Want) {
	for _, e := range encoders {
		w.Encoders = append(w.Encoders, e.ID)
	}
	return w
}

// Encoders are the encoders that a server knows. Make them with [NewEncoders].
type Encoders struct {
	def  Encoder
	byID map[string]Encoder
}

// NewEncoders are the encoders among the models, and the default one, which
// galleries are searched with that name no other.
func NewEncoders(def embed.Manifest, models []embed.Model) Encoders {
	e := Encoders{newEncoder(def), map[string]Encoder{}}
	for _, m := range models {
		if m.Task == embed.TaskEncoder {
			e.byID[m.ID] = newEncoder(m.Manifest)
		}
	}
	e.byID[def.ID] = e.def
	return e
}

// Default is the encoder of galleries that name no other, and of comparisons
// without a gallery.
func (e Encoders) Default() Encoder { return e.def }

// Find finds an encoder by its id.
func (e Encoders) Find(modelID string) (Encoder, bool) {
	found, ok := e.byID[modelID]
	return found, ok
}

// IDOf is the id of the encoder that a gallery is searched with, whether it is
// known or not.
func (e Encoders) IDOf(g face.Gallery) string { return cmp.Or(g.ModelID, e.def.ID) }

// Of is the encoder that a gallery is searched with. Unavailable: it is not
// known.
func (e Encoders) Of(g face.Gallery) (Encoder, error) { return e.known(e.IDOf(g)) }

// EnrolledWith are the encoders that a photo is enrolled with: the one that
// the gallery is searched with, and then the one that it is being moved to.
// Unavailable: one of them is not known.
func (e Encoders) EnrolledWith(g face.Gallery) ([]Encoder, error) {
	searched, err := e.Of(g)
	if err != nil || g.NextModelID == "" || g.NextModelID == searched.ID {
		return []Encoder{searched}, err
	}
	next, err := e.known(g.NextModelID)
	return []Encoder{searched, next}, err
}

// MaxDimension is the length of the longest embedding.
func (e Encoders) MaxDimension() (longest int) {
	for _, encoder := range e.byID {
		longest = max(longest, encoder.Dimension)
	}
	return longest
}

func (e Encoders) known(modelID string) (Encoder, error) {
	found, ok := e.Find(modelID)
	if !ok {
		return Encoder{}, face.Errorf(face.Unavailable, "identity.Encoders", "This server does not know the encoder %s of the gallery.", modelID)
	}
	return found, nil
}
