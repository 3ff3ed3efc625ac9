package likeness

import (
	"context"
	"errors"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// Comparison says how alike the faces of two photos are.
type Comparison struct {
	// Score is the cosine similarity of the two embeddings, -1..1: the higher,
	// the more alike. Scores of different encoders mean different things.
	Score float64
	// Match: the score reaches the threshold, so both faces count as the same
	// person's.
	Match bool
	// Threshold is the score that OperatingPoint was measured to need.
	Threshold      float64
	OperatingPoint string
	// Probability that both faces are the same person's, 0..1, if that was as
	// likely as not before the photos were seen. Nil: the encoder has no
	// verification head to compute it with.
	Probability *float64
	// Probe and Reference are the faces that were compared.
	Probe, Reference face.Face
}

// Compare compares the face in one photo with the face in another. The score
// is the same in both orders. A photo is the bytes of an image file of one of
// the types of [imaging.Formats].
//
// A photo may show several faces as long as one of them is clearly what the
// photo is of: see [embed.PickOnly]. A face that the quality gate has something
// against is refused, because such faces score high with strangers. To compare
// all the same, use Embed and [match.Verify].
//
// The detail of an error begins with the photo that it is about, "probe" or
// "reference". Kinds: NoFace, ManyFaces and LowQuality, with reasons;
// InvalidImage, UnsupportedImage and TooLarge for a photo that cannot be read;
// OperatingPointUnsupported where the encoder's calibration does not hold
// [Options.OperatingPoint]; Overloaded, Unavailable, Deadline, Canceled.
func (p *Pipeline) Compare(ctx context.Context, probe, reference []byte) (Comparison, error) {
	point, err := p.point()
	if err != nil {
		return Comparison{}, err
	}
	slot, err := p.Enter(ctx, nil)
	if err != nil {
		return Comparison{}, err
	}
	defer slot.Leave()
	a, err := usable(ctx, slot, "probe", probe)
	if err != nil {
		return Comparison{}, err
	}
	b, err := usable(ctx, slot, "reference", reference)
	if err != nil {
		return Comparison{}, err
	}
	score, _, err := match.Verify(a.Embedding, []face.Template{{Embedding: b.Embedding}})
	if err != nil {
		return Comparison{}, err
	}
	c := Comparison{
		Score: score, Match: score >= point.Threshold,
		Threshold: point.Threshold, OperatingPoint: point.Name,
		Probe: a.Face, Reference: b.Face,
	}
	if probability, ok := p.head.Probability(a.Embedding, b.Embedding); ok {
		c.Probability = &probability
	}
	return c, nil
}

func (p *Pipeline) point() (face.OperatingPoint, error) {
	return p.policy.Point(p.options.OperatingPoint)
}

// usable is the one face of a photo that the quality gate has nothing against.
func usable(ctx context.Context, slot embed.Slot, name string, photo []byte) (embed.Sample, error) {
	samples, err := slot.Embed(ctx, photo, embed.PickOnly, embed.Want{})
	if err != nil {
		return embed.Sample{}, errorAbout(name, err)
	}
	if reasons := samples[0].Face.Quality.Reasons; len(reasons) > 0 {
		return embed.Sample{}, errorAbout(name, &face.Error{
			Kind: face.LowQuality, Op: "likeness.quality", Detail: "The quality gate refuses the face.", Reasons: reasons,
		})
	}
	return samples[0], nil
}

// errorAbout has an error's detail begin with the name of the photo.
func errorAbout(name string, err error) error {
	e, ok := errors.AsType[*face.Error](err)
	if !ok {
		return err
	}
	about := *e
	about.Detail = strings.TrimSuffix(name+": "+e.Detail, ": ")
	return &about
}
