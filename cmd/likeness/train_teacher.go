package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/siamese"
)

// trainTeacher is an encoder that is learnt from.
type trainTeacher struct {
	manifest embed.Manifest
	model    *grad.Model
}

// scaledAlignment are the teacher's landmarks in a square input of another size.
func (t trainTeacher) scaledAlignment(side int) [][2]float32 {
	in := t.manifest.Input
	scaled := make([][2]float32, len(t.manifest.Alignment))
	for i, p := range t.manifest.Alignment {
		scaled[i] = [2]float32{p[0] * float32(side) / float32(in.Width), p[1] * float32(side) / float32(in.Height)}
	}
	return scaled
}

// loadTeachers reads the encoders of --teacher.
func (c trainCmd) loadTeachers() ([]trainTeacher, error) {
	if len(c.Teacher) == 0 {
		if len(c.Hint) > 0 || c.Alone > 0 || len(c.Weights) > 0 {
			return nil, usageError{fmt.Errorf("--hint, --alone and --teacher-weights need a --teacher")}
		}
		return nil, nil
	}
	if len(c.Weights) > 0 && len(c.Weights) != len(c.Teacher) {
		return nil, usageError{fmt.Errorf("--teacher-weights: %d weights for %d teachers", len(c.Weights), len(c.Teacher))}
	}
	registry, err := c.openRegistry()
	if err != nil {
		return nil, err
	}
	var teachers []trainTeacher
	for _, id := range c.Teacher {
		m, err := registry.Model(id)
		if err != nil {
			return nil, err
		}
		if m.Task != embed.TaskEncoder {
			return nil, usageError{fmt.Errorf("--teacher: %s is not an encoder", id)}
		}
		data, err := m.ReadVerified()
		if err != nil {
			return nil, err
		}
		manifest, model, err := parseWithoutCohort(m.Manifest, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		teachers = append(teachers, trainTeacher{manifest, model})
	}
	return teachers, nil
}

// parseWithoutCohort reads an encoder. The number that a cohort adds to its
// embedding is left out: scores are not normalised while something is learnt.
func parseWithoutCohort(m embed.Manifest, data []byte) (embed.Manifest, *grad.Model, error) {
	model, err := grad.Parse(data)
	if err != nil || !slices.Contains(model.Layers(), siamese.CohortPlain) {
		return m, model, err
	}
	if data, err = model.Cut(siamese.CohortPlain); err != nil {
		return m, nil, err
	}
	m.Dimension--
	m.Cohort = nil
	m.Outputs = []embed.Output{{Name: siamese.CohortPlain, Shape: []int64{1, int64(m.Dimension)}}}
	model, err = grad.Parse(data)
	return m, model, err
}

// planarInput is how an encoder's input is written.
func planarInput(m embed.Manifest) imaging.Planar {
	return imaging.Planar{
		Width: m.Input.Width, Height: m.Input.Height, BGR: m.Input.Order == "bgr",
		Mean: m.Input.Mean, Scale: m.Input.Scale,
	}
}

func landmarksOf(alignment [][2]float32) (p [5]face.Point) {
	for i := range p {
		p[i] = face.Point{X: alignment[i][0], Y: alignment[i][1]}
	}
	return p
}

// targetFaces is how many faces a target is found on.
const targetFaces = 4000

// distil makes a learner that matches the teachers.
func (r *trainRun) distil(backend grad.Backend, model *grad.Model, teachers []trainTeacher, set *trainSet) error {
	o := siamese.DefaultDistillOptions()
	o.Model, o.Image, o.Embedding, o.Input = model, r.base.Input.Name, r.base.Outputs[0].Name, planarInput(r.base)
	o.Landmarks = landmarksOf(r.base.Alignment)
	o.BatchNorm = r.BatchNorm || r.From != ""
	o.Alone, o.Batch, o.Replay, o.Steps, o.WarmUp, o.Rate = r.Alone, r.Batch, r.Replay, r.Steps, r.WarmUp, r.Rate
	o.Optimizer, o.WeightDecay, o.MaxNorm, o.Seed, o.Replicas = r.Optimizer, r.WeightDecay, r.MaxNorm, r.Seed, r.threads()
	var err error
	if o.Learn, err = r.chosenWeights(model); err != nil {
		return err
	}
	for _, t := range teachers {
		toStudent, err := imaging.FitSimilarity(landmarksOf(t.manifest.Alignment), o.Landmarks)
		if err != nil {
			return err
		}
		o.Teachers = append(o.Teachers, siamese.Teacher{
			Model: t.model, Image: t.manifest.Input.Name, Embedding: t.manifest.Outputs[0].Name, Input: planarInput(t.manifest), ToStudent: toStudent,
		})
	}
	for _, h := range r.Hint {
		teacher, student, ok := strings.Cut(h, "=")
		if !ok {
			return usageError{fmt.Errorf("--hint: %q is not TEACHER=STUDENT", h)}
		}
		o.Hints = append(o.Hints, siamese.Hint{Teacher: teacher, Student: student})
	}
	if o.Target, err = r.findTarget(backend, o, teachers, set); err != nil {
		return err
	}
	distiller, err := siamese.NewDistiller(backend, o, set)
	if err != nil {
		return err
	}
	r.learner, r.photos = distiller, o.Batch
	r.step = func(ctx context.Context) (curvePoint, error) {
		l, err := distiller.Step(ctx)
		return curvePoint{Loss: l.Loss, Apart: l.Apart, Hints: l.Hints, Rate: l.Rate}, err
	}
	return nil
}

// taughtCosine is the mean cosine of a student's embeddings to a teacher's from
// which the student is taken for one that this teacher taught before. Embeddings
// of encoders that know nothing of each other are near 0.
const taughtCosine = 0.5

// findTarget finds what the student learns. One teacher whose embeddings are as
// long as the student's is learnt as it is, if the student has nothing to lose,
// or learnt from this teacher before.
func (r *trainRun) findTarget(backend grad.Backend, o siamese.DistillOptions, teachers []trainTeacher, set *trainSet) (siamese.Target, error) {
	alike := len(teachers) == 1 && teachers[0].manifest.Dimension == r.base.Dimension
	if alike && r.From != "" {
		return siamese.Target{}, nil
	}
	n := min(set.Len(), targetFaces)
	photos := func(alignment [][2]float32) ([]siamese.Photo, error) {
		out := make([]siamese.Photo, n)
		for i := range out {
			img, toSrc, err := embed.AlignCrop(set.all[i*set.Len()/n].Crop, alignment)
			if err != nil {
				return nil, err
			}
			out[i] = siamese.Photo{Image: img, ToSrc: toSrc}
		}
		return out, nil
	}
	embedAll := func(model *grad.Model, m embed.Manifest) ([]face.Embedding, error) {
		shown, err := photos(m.Alignment)
		if err != nil {
			return nil, err
		}
		return siamese.EmbedWith(r.t.ctx, backend, model, m.Input.Name, m.Outputs[0].Name, planarInput(m), shown)
	}
	var given [][]face.Embedding
	weights := r.Weights
	for _, t := range teachers {
		e, err := embedAll(t.model, t.manifest)
		if err != nil {
			return siamese.Target{}, err
		}
		given = append(given, e)
		if len(r.Weights) == 0 {
			weights = append(weights, 1)
		}
	}
	var base []face.Embedding
	if r.From == "" {
		var err error
		if base, err = embedAll(o.Model, r.base); err != nil {
			return siamese.Target{}, err
		}
		if alike && meanCosine(given[0], base) > taughtCosine {
			return siamese.Target{}, nil
		}
	}
	return siamese.NewTarget(given, weights, r.base.Dimension, base)
}

// meanCosine is that of two encoders' normalised embeddings of the same faces.
func meanCosine(a, b []face.Embedding) float64 {
	var sum float64
	for i := range a {
		sum += a[i].Cosine(b[i])
	}
	return sum / float64(len(a))
}
