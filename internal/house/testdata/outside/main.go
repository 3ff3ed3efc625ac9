// Command outside is a program of another module. It compares two photos, and
// uses the packages index and match beside likeness.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
)

func main() {
	if err := run(context.Background(), os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, probeFile, referenceFile string) error {
	pipeline, err := likeness.Open(ctx, likeness.DefaultOptions())
	if err != nil {
		return err
	}
	defer pipeline.Close()
	probe, err := os.ReadFile(probeFile)
	if err != nil {
		return err
	}
	reference, err := os.ReadFile(referenceFile)
	if err != nil {
		return err
	}
	c, err := pipeline.Compare(ctx, probe, reference)
	if err != nil {
		return err
	}
	fmt.Println("match:", c.Match)

	// The same with the packages that likeness puts together.
	var embeddings []face.Embedding
	for _, photo := range [][]byte{probe, reference} {
		samples, err := pipeline.Embed(ctx, photo, embed.PickOnly)
		if err != nil {
			return err
		}
		embeddings = append(embeddings, samples[0].Embedding)
	}
	people, key := index.New(index.DefaultOptions()), index.Key{ModelID: pipeline.Encoder().ID}
	if err := people.Add(key, index.Entry{TemplateID: "1", SubjectID: "ada", Embedding: embeddings[1]}); err != nil {
		return err
	}
	hits, _, err := people.Search(ctx, key, embeddings[0], 1)
	if err != nil {
		return err
	}
	point, err := match.NewPolicy(pipeline.Encoder().Calibration).Point("fmr_1e-4")
	if err != nil {
		return err
	}
	decision, _ := match.Identify([]face.Candidate{{SubjectID: hits[0].SubjectID, Score: hits[0].Score}}, point.Threshold, 0)
	fmt.Println("found:", hits[0].SubjectID, decision)
	return nil
}
