package embed

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// verdict is what the quality network says of a face.
type verdict struct {
	acceptable float32     // probability, 0..1, that it is a face as encoders know them
	limit      float32     // the least that passes
	against    face.Reason // what else it most likely is
	noFace     float32     // probability that the landmarks are not those of a face
	passes     bool
	turned     bool // it may be a face that was shown turned
}

// surely is the probability from which the quality network's reason against a
// face counts as certain. A face that is covered, stretched or a negative is then
// not looked at again, because each look is another chance to pass. What is no
// face is then left out of picks.
const surely = 0.8

// turnedCaution is how far the limit moves towards 1 for a face that was shown
// turned by more than 45 degrees. Most photos are upright, and a person in
// profile must not be taken for one who lies on their side.
const turnedCaution = 0.5

// screener is the quality network of one slot.
type screener struct {
	session   Session
	input     imaging.Planar
	frame     frame
	threshold float32
	classes   []face.Reason
}

func newScreener(n Network, m Manifest) (*screener, error) {
	switch {
	case m.Task != TaskQuality:
		return nil, fmt.Errorf("Options.QualityModel: %s is of task %q", m.ID, m.Task)
	case len(m.Alignment) != 5 || m.Input.Width <= 0 || m.Input.Height <= 0:
		return nil, fmt.Errorf("Options.QualityModel: %s has no fixed input with 5 alignment points", m.ID)
	case len(m.Classes) < 2:
		return nil, fmt.Errorf("Options.QualityModel: %s has %d classes, want 2 at least", m.ID, len(m.Classes))
	}
	s := &screener{
		input: planar(m.Input, m.Input.Width, m.Input.Height), threshold: m.Threshold, classes: m.Classes,
		frame: frame{points: templateOf(m.Alignment), width: m.Input.Width, height: m.Input.Height},
	}
	var err error
	if s.session, err = n.Session(1, 3, int64(m.Input.Height), int64(m.Input.Width)); err != nil {
		return nil, err
	}
	if got := len(s.session.Output(0)); got != len(m.Classes) {
		return nil, errors.Join(fmt.Errorf("quality model %s gives %d numbers, its manifest has %d classes", m.ID, got, len(m.Classes)), s.session.Close())
	}
	return s, nil
}

// screen asks the quality network about a face, unless it has a verdict already.
func (w *worker) screen(ctx context.Context, n faceArea, d *detection) error {
	const op = "embed.screen"
	switch {
	case d.verdict != nil:
		return nil
	case w.quality == nil:
		d.verdict = &verdict{acceptable: 1, passes: true}
		return nil
	}
	q := w.quality
	toSrc, err := n.warpFrom(q.frame.points)
	if err != nil {
		return err
	}
	q.input.Warp(q.session.Input(), n.img, toSrc)
	if err := q.session.Run(ctx); err != nil {
		return face.Wrap(face.Internal, op, err)
	}
	out := q.session.Output(0)
	likeliest := 1
	var upright, noFace float32
	for i, p := range out {
		if i > 0 && p > out[likeliest] {
			likeliest = i
		}
		switch q.classes[i] {
		case face.ReasonCoveredFace, face.ReasonStretchedFace, face.ReasonNegativeImage:
			upright += p
		case face.ReasonNotAFace, face.ReasonMisalignedFace:
			noFace += p
		}
	}
	limit := q.threshold
	if math.Abs(d.shown) > math.Pi/4 {
		limit += turnedCaution * (1 - limit)
	}
	passes := out[0] >= limit
	d.verdict = &verdict{
		acceptable: out[0], noFace: noFace, limit: limit, against: q.classes[likeliest],
		passes: passes, turned: !passes && (upright < surely || d.score < w.p.o.Quality.MinDetectionScore),
	}
	return nil
}
