package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
)

type modelsManifest struct {
	File         string `arg:"" type:"existingfile" help:"ONNX file of the detector."`
	Decoder      string `required:"" enum:"${decoders}" help:"Family of the detector: one of ${decoders}. InsightFace exports SCRFD and RetinaFace as scrfd."`
	ID           string `help:"Id of the model (default: the file's name without .onnx)."`
	License      string `required:"" help:"Licence of the file: an SPDX identifier, or LicenseRef- and a name."`
	Source       string `required:"" help:"Where the file comes from."`
	TrainingData string `required:"" help:"What the detector was trained on; say so if that is not known."`
}

func (modelsManifest) Help() string {
	return `Prints a manifest to the standard output. Write it to a file called ID.json in the folder of the ONNX file, name the folder with LIKENESS_MODELS_DIR, and start the server with --detector ID:

likeness models manifest det_500m.onnx --decoder scrfd --license LicenseRef-InsightFace-non-commercial --source https://github.com/deepinsight/insightface --training-data "WIDER FACE" > det_500m.json

Names and sizes come from the file. The colour order, the mean, the scale and the thresholds are those that the published files of the family need; change them if yours differs. models/README.md explains every field.`
}

func (c modelsManifest) Run(t *tool) error {
	data, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	m, err := c.describe(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if _, err := embed.ParseManifest(text); err != nil {
		return fmt.Errorf("%s cannot be used: %w", c.File, err)
	}
	_, err = fmt.Fprintf(t.stdout, "%s\n", text)
	return err
}

// describe makes the manifest of an ONNX file.
func (c modelsManifest) describe(data []byte) (m embed.Manifest, err error) {
	model, err := grad.Parse(data)
	if err != nil {
		return m, err
	}
	inputs := model.InputPorts()
	if len(inputs) != 1 || len(inputs[0].Shape) != 4 {
		return m, fmt.Errorf("the graph has the inputs %q, want one of N x 3 x height x width", model.Inputs())
	}
	sum := sha256.Sum256(data)
	name := filepath.Base(c.File)
	m = embed.Manifest{
		ID: cmp.Or(c.ID, strings.TrimSuffix(name, ".onnx")), Task: embed.TaskDetector, File: name,
		SHA256: hex.EncodeToString(sum[:]), Size: int64(len(data)),
		License: c.License, Source: c.Source, TrainingData: c.TrainingData,
		Input:   embed.Input{Name: inputs[0].Name, Order: "bgr", Scale: [3]float32{1, 1, 1}},
		Decoder: c.Decoder, Threshold: 0.6,
	}
	if height, width := inputs[0].Shape[2], inputs[0].Shape[3]; height > 0 && width > 0 {
		m.Input.Width, m.Input.Height = int(width), int(height)
	} else {
		m.Input.Multiple = 32
	}
	outputs := model.OutputPorts()
	if c.Decoder == "scrfd" {
		const scale = 1. / 128
		m.Input.Order = "rgb"
		m.Input.Mean, m.Input.Scale = [3]float32{127.5, 127.5, 127.5}, [3]float32{scale, scale, scale}
		m.Threshold, m.QualityThreshold = 0.5, 0.6
		sortHeads(outputs)
	}
	for _, o := range outputs {
		// Between the batch and the last size there is the number of anchors, which
		// depends on the input, whatever the graph declares.
		shape := slices.Clone(o.Shape)
		for i := range shape[:max(len(shape)-1, 0)] {
			if i > 0 || len(shape) < 3 || m.Input.Width == 0 && shape[i] != 1 {
				shape[i] = -1
			}
		}
		m.Outputs = append(m.Outputs, embed.Output{Name: o.Name, Shape: shape})
	}
	return m, nil
}

// sortHeads puts scores before boxes and boxes before landmarks, as their last
// sizes tell, and the finest grid first where the graph declares how many
// anchors there are; else they stay in their order.
func sortHeads(outputs []grad.Port) {
	last := func(p grad.Port) int64 {
		if len(p.Shape) == 0 {
			return 0
		}
		return p.Shape[len(p.Shape)-1]
	}
	anchors := func(p grad.Port) int64 {
		if len(p.Shape) < 2 {
			return 0
		}
		return p.Shape[len(p.Shape)-2]
	}
	slices.SortStableFunc(outputs, func(a, b grad.Port) int {
		return cmp.Or(cmp.Compare(last(a), last(b)), cmp.Compare(anchors(b), anchors(a)))
	})
}
