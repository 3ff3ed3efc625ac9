package match_test

import (
	"fmt"
	"log"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// encoder is the built-in encoder, with what was measured of it.
func encoder() embed.Model {
	registry, err := embed.OpenRegistry(models.FS)
	if err != nil {
		log.Fatal(err)
	}
	m, err := registry.Model("builtin-encoder")
	if err != nil {
		log.Fatal(err)
	}
	return m
}

// Two subjects are so close together that naming one would be a guess.
func ExampleIdentify() {
	candidates := []face.Candidate{{SubjectID: "ada", Score: 0.71}, {SubjectID: "grace", Score: 0.68}}
	decision, margin := match.Identify(candidates, 0.52, 0.05)
	fmt.Printf("%s, margin %.2f\n", decision, margin)
	// Output: ambiguous, margin 0.03
}

// A subject's templates are fused: a probe is compared with their mean, which is
// scaled so that the false match rate of a threshold holds.
func ExampleVerify() {
	probe := face.Embedding{0.6, 0.8}
	enrolled := []face.Template{
		{ID: "t1", Embedding: face.Embedding{1, 0}},
		{ID: "t2", Embedding: face.Embedding{0, 1}},
	}
	score, reference, err := match.Verify(probe, enrolled)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.2f with %d templates\n", score, reference.Templates)
	// Output: 0.85 with 2 templates
}

// A threshold is never guessed: it is that of a false match rate that was
// measured of the encoder.
func ExamplePolicy_Point() {
	policy := match.NewPolicy(encoder().Calibration)
	point, err := policy.Point("fmr_1e-4")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(point.FMR, point.Threshold > 0 && point.Threshold < 1)

	_, err = match.NewPolicy(nil).Point("fmr_1e-4") // an encoder that nobody calibrated
	fmt.Println(face.KindOf(err))
	// Output:
	// 0.0001 true
	// operating_point_unsupported
}

// How often a search of many errs when each comparison errs once in 10,000.
func ExampleFPIR() {
	for _, subjects := range []int{1, 100, 10_000} {
		fmt.Printf("%d subjects: %.4f\n", subjects, match.FPIR(1e-4, subjects))
	}
	// Output:
	// 1 subjects: 0.0001
	// 100 subjects: 0.0100
	// 10000 subjects: 0.6321
}

// A stranger should be named in one search out of 100, whatever the size of
// the gallery: the threshold grows with it.
func ExamplePolicy_Identification() {
	policy := match.NewPolicy(encoder().Calibration)
	one, err := policy.Identification("fmr_1e-2", 1)
	if err != nil {
		log.Fatal(err)
	}
	many, err := policy.Identification("fmr_1e-2", 1000)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(many.Threshold > one.Threshold)
	// Output: true
}

// Several frames of one person make one embedding, in which good frames count
// for more.
func ExampleFuse() {
	frames := []face.Embedding{{1, 0}, {0, 1}}
	quality := []float32{0.9, 0.3}
	fused, err := match.Fuse(frames, quality)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%.2f\n", fused)
	// Output: [0.95 0.32]
}

// The verification head turns two embeddings into a probability.
func ExampleHead_Probability() {
	m := encoder()
	head := match.NewHead(m.Head)
	same := make(face.Embedding, m.Dimension)
	same[0] = 1
	other := make(face.Embedding, m.Dimension)
	other[1] = 1
	for _, e := range []face.Embedding{same, other} {
		p, ok := head.Probability(same, e)
		fmt.Println(p > 0.5, ok)
	}
	// Output:
	// true true
	// false true
}

// A calibration for a false match rate of one in 10,000 takes this many
// comparisons of different people.
func ExampleNeededComparisons() {
	n := match.NeededComparisons(1e-4)
	fmt.Println(n, "comparisons, of about", match.PeopleFor(n), "people")
	// Output: 300000 comparisons, of about 776 people
}
