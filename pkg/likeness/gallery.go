package likeness

import (
	"context"
	"time"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/match"
)

// Gallery is a set of people, each with one or more templates, that is
// searched for who a photo shows. It is in memory alone: what must outlive the
// process is kept by the caller, who can save the embeddings and add them again
// with [Gallery.EnrolEmbedding]. It is safe for concurrent use.
type Gallery struct {
	pipeline *Pipeline
	index    *index.Index
	key      index.Key
}

// NewGallery makes an empty gallery, which belongs to the pipeline's encoder:
// the embeddings of two encoders cannot be compared.
func (p *Pipeline) NewGallery() *Gallery {
	return &Gallery{
		pipeline: p, index: index.New(index.DefaultOptions()),
		key: index.Key{Tenant: face.DefaultTenant, Gallery: face.DefaultGallery, ModelID: p.Encoder().ID},
	}
}

// Enrol adds the face in a photo as a template of a subject, which it returns
// with its quality and its embedding. A subject may have several templates: a
// photo is compared with their mean, which recognises them better than any one
// of them.
//
// Errors: Invalid for an id that [face.ValidID] refuses, and those of
// [Pipeline.Compare] about a photo, whose detail begins with "photo".
func (g *Gallery) Enrol(ctx context.Context, subjectID string, photo []byte) (face.Template, error) {
	if err := checkSubject(subjectID); err != nil {
		return face.Template{}, err
	}
	slot, err := g.pipeline.Enter(ctx, nil)
	if err != nil {
		return face.Template{}, err
	}
	defer slot.Leave()
	s, err := usable(ctx, slot, "photo", photo)
	if err != nil {
		return face.Template{}, err
	}
	t, err := g.EnrolEmbedding(subjectID, s.Embedding)
	t.Quality = s.Face.Quality.Score
	return t, err
}

// EnrolEmbedding adds an embedding that the pipeline's encoder made as a
// template of a subject. Errors: Invalid for an id that [face.ValidID] refuses
// and for an embedding that [index.Validate] refuses; ModelMismatch for one of
// another length than the encoder's.
func (g *Gallery) EnrolEmbedding(subjectID string, e face.Embedding) (face.Template, error) {
	if err := checkSubject(subjectID); err != nil {
		return face.Template{}, err
	}
	if n := g.pipeline.Encoder().Dimension; len(e) != n {
		return face.Template{}, face.Errorf(face.ModelMismatch, "likeness.Enrol",
			"the embedding has %d numbers; those of %s have %d", len(e), g.key.ModelID, n)
	}
	t := face.Template{ID: face.NewID(), SubjectID: subjectID, ModelID: g.key.ModelID, Embedding: e, CreatedAt: time.Now()}
	if err := g.index.Add(g.key, index.Entry{TemplateID: t.ID, SubjectID: subjectID, Embedding: e}); err != nil {
		return face.Template{}, err
	}
	return t, nil
}

func checkSubject(id string) error {
	if !face.ValidID(id) {
		return face.Errorf(face.Invalid, "likeness.Enrol", "the subject's id %q: want 1 to 128 letters, digits and ._@-, the first a letter or a digit", face.Excerpt(id))
	}
	return nil
}

// Remove removes all templates of a subject and returns how many there were. A
// search that starts afterwards does not find them.
func (g *Gallery) Remove(subjectID string) int {
	return g.index.RemoveSubject(g.key.Tenant, g.key.Gallery, subjectID)
}

// Templates is how many templates there are, of all subjects.
func (g *Gallery) Templates() int { return g.index.Templates(g.key) }

// Identification says whom a search found.
type Identification struct {
	// Decision: match, the first candidate is the person; unknown, nobody in
	// the gallery is alike enough; ambiguous, the first two are, and so close
	// that naming one would be a guess; low_quality, the quality gate refuses
	// the face, so that nobody was searched for.
	Decision match.Decision
	// Threshold is the score that OperatingPoint was measured to need.
	Threshold      float64
	OperatingPoint string
	// Margin is how far the first candidate's score is above that of the
	// second subject; above -1, the least score, where there is no second.
	Margin float64
	// Candidates are the subjects with the highest scores, the best first,
	// those below the threshold included.
	Candidates []face.Candidate
	// Face is the face that was searched for; zero in SearchEmbedding.
	Face face.Face
}

// Search searches for the face in a photo, and returns at most k candidates.
// A photo of several people is searched for face by face: make their embeddings
// with Embed and [embed.PickAll], and give each to [Gallery.SearchEmbedding].
//
// The threshold bounds how often one comparison errs. Each subject in the
// gallery is one more comparison, so a search of many errs more often than
// that: see [match.FPIR].
//
// Errors: Invalid for a k below 1, and those of [Pipeline.Compare] about a
// photo, whose detail begins with "photo"; LowQuality is a decision, not an
// error, where there is a face.
func (g *Gallery) Search(ctx context.Context, photo []byte, k int) (Identification, error) {
	point, err := g.pipeline.point()
	if err != nil {
		return Identification{}, err // costs no look at the photo
	}
	if err := checkCandidates(k); err != nil {
		return Identification{}, err
	}
	samples, err := g.pipeline.Embed(ctx, photo, embed.PickOnly)
	if err != nil {
		return Identification{}, errorAbout("photo", err)
	}
	found := samples[0].Face
	if len(found.Quality.Reasons) > 0 {
		return Identification{Decision: match.DecisionLowQuality, Threshold: point.Threshold, OperatingPoint: point.Name, Face: found}, nil
	}
	i, err := g.SearchEmbedding(ctx, samples[0].Embedding, k)
	i.Face = found
	return i, err
}

// SearchEmbedding is [Gallery.Search] for an embedding that the pipeline's
// encoder made.
func (g *Gallery) SearchEmbedding(ctx context.Context, e face.Embedding, k int) (Identification, error) {
	point, err := g.pipeline.point()
	if err != nil {
		return Identification{}, err
	}
	if err := checkCandidates(k); err != nil {
		return Identification{}, err
	}
	// The decision needs the second best, whether it is wanted or not.
	hits, _, err := g.index.Search(ctx, g.key, e, max(k, 2))
	if err != nil {
		return Identification{}, err
	}
	candidates := make([]face.Candidate, len(hits))
	for i, h := range hits {
		candidates[i] = face.Candidate{SubjectID: h.SubjectID, Templates: len(h.TemplateIDs), Score: h.Score}
	}
	i := Identification{Threshold: point.Threshold, OperatingPoint: point.Name, Candidates: candidates[:min(k, len(candidates))]}
	i.Decision, i.Margin = match.Identify(candidates, point.Threshold, max(0, g.pipeline.options.AmbiguityMargin))
	return i, nil
}

func checkCandidates(k int) error {
	if k < 1 {
		return face.Errorf(face.Invalid, "likeness.Search", "k is %d; it must be 1 or more", k)
	}
	return nil
}
