package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/siamese"
)

type modelsCohort struct {
	pipelineFlags
	Images []string `required:"" type:"path" placeholder:"TAR|DIR" help:"Photos of the cohort: each folder is one person, of whom one photo is used. May be repeated."`
	People int      `default:"2000" help:"Use so many people at most."`
	Top    int      `default:"24" help:"How many of the most similar people say how typical a face is."`
	ID     string   `name:"id" required:"" placeholder:"ID" help:"Id of the new encoder."`
	Out    string   `required:"" type:"path" placeholder:"DIR" help:"Models folder for the new encoder and its manifest."`
}

// Help is what --help says beside the flags.
func (modelsCohort) Help() string {
	return "Some faces are like those of many strangers, and are taken for others more often than a threshold promises. " +
		"The new encoder is --encoder with one more number in its embedding, which says how alike a face is to a cohort of other people, " +
		"and lowers the cosines of such faces (adaptive score normalisation). " +
		"The cohort is kept in the model's file as embeddings in bytes, without photos and names. " +
		"Take people whom you will not enrol, and whose photos you do not use to calibrate. " +
		"Scores are different then, so the new encoder has no operating points: run likeness calibrate with it before it decides anything. " +
		"Its weights are stored as halves."
}

// fewestCohort is how many people a cohort needs at least: with fewer, how
// typical a face is would depend on who they are.
const fewestCohort = 100

func (c modelsCohort) Run(t *tool) (err error) {
	if c.ID == c.Encoder {
		return usageError{fmt.Errorf("--id: %s is the encoder that is normalised; choose another id", c.ID)}
	}
	if c.Top < 1 || c.People < fewestCohort || c.Top > c.People/4 {
		return usageError{fmt.Errorf("--top %d of --people %d: a cohort has at least %d people, and the most similar are a quarter of them at most", c.Top, c.People, fewestCohort)}
	}
	registry, err := c.openRegistry()
	if err != nil {
		return err
	}
	base, err := registry.Model(c.Encoder)
	if err != nil {
		return err
	}
	data, err := base.ReadVerified()
	if err != nil {
		return err
	}
	model, err := grad.Parse(data)
	if err != nil {
		return err
	}
	if slices.Contains(model.Layers(), siamese.CohortOutput) {
		return usageError{fmt.Errorf("--encoder: %s has a cohort already", c.Encoder)}
	}
	cohort, err := c.embedCohort(t)
	if err != nil {
		return err
	}
	if len(cohort) < fewestCohort || c.Top > len(cohort)/4 {
		return usageError{fmt.Errorf("--images: only %d people have a photo that can be used; a cohort has at least %d, and four times --top", len(cohort), fewestCohort)}
	}
	// How typical each of them is for the others.
	mean := 0.0
	for i, e := range cohort {
		mean += siamese.Typicality(e, slices.Concat(cohort[:i], cohort[i+1:]), c.Top) / float64(len(cohort))
	}
	in := base.Input
	made, err := siamese.WithCohort(model, in.Name, base.Outputs[0].Name, []int64{1, 3, int64(in.Height), int64(in.Width)}, cohort, c.Top, mean)
	if err != nil {
		return err
	}
	text, err := c.describeNormalised(base.Manifest, made, len(cohort))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	file, manifest := filepath.Join(c.Out, c.ID+".onnx"), filepath.Join(c.Out, c.ID+".json")
	if err := errors.Join(replaceFile(file, made), replaceFile(manifest, text)); err != nil {
		return err
	}
	fmt.Fprintf(t.stderr, "a cohort of %d people, to whom a face is alike by %.3f on average; wrote %s and %s\n", len(cohort), mean, file, manifest)
	return nil
}

// embedCohort embeds one photo of each person.
func (c modelsCohort) embedCohort(t *tool) (cohort []face.Embedding, err error) {
	pipeline, err := c.openPipeline(t.ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	for _, name := range c.Images {
		set, err := photos.Open(name)
		if err != nil {
			return nil, usageError{fmt.Errorf("--images: %w", err)}
		}
		var first []string
		for _, photo := range set.Names() { // sorted
			if len(first) == 0 || path.Dir(first[len(first)-1]) != path.Dir(photo) {
				first = append(first, photo)
			}
		}
		first = first[:min(len(first), c.People-len(cohort))]
		embedded, err := embedPhotos(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, first)
		if err := errors.Join(err, set.Close()); err != nil {
			return nil, err
		}
		for _, photo := range embedded {
			if e := photo.Embedding(); e != nil {
				cohort = append(cohort, e)
			}
		}
	}
	return cohort, nil
}

// describeNormalised makes the manifest of the new encoder.
func (c modelsCohort) describeNormalised(base embed.Manifest, model []byte, people int) ([]byte, error) {
	sum := sha256.Sum256(model)
	m := base
	m.ID, m.File, m.SHA256, m.Size = c.ID, c.ID+".onnx", hex.EncodeToString(sum[:]), int64(len(model))
	m.URL, m.Published, m.Calibration, m.Head = "", nil, nil, nil
	m.Dimension++
	m.Cohort = &embed.Cohort{People: people, Top: c.Top}
	m.Outputs = []embed.Output{{Name: siamese.CohortOutput, Shape: []int64{1, int64(m.Dimension)}}}
	m.Source = fmt.Sprintf("likeness models cohort, %s, from %s", time.Now().UTC().Format(time.DateOnly), base.ID)
	m.Notes = fmt.Sprintf("%s Its last number normalises scores by a cohort of %d people, of whom the %d most similar count.", base.Notes, people, c.Top)
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	_, err = embed.ParseManifest(text)
	return append(text, '\n'), err
}
