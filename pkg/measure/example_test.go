package measure_test

import (
	"fmt"
	"log"
	"math/rand/v2"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// The threshold for a wanted false match rate, and how many photos of the
// right person it costs.
func ExampleScores() {
	mated := []float64{0.9, 0.8, 0.7, 0.6, 0.3}
	impostor := []float64{0.5, 0.4, 0.3, 0.2, 0.2, 0.1, 0.1, 0, 0, -0.1}
	scores, err := measure.NewScores(mated, impostor)
	if err != nil {
		log.Fatal(err)
	}
	threshold := scores.ThresholdAt(0.1)
	fmr, fnmr := scores.FMR(threshold), scores.FNMR(threshold)
	fmt.Printf("threshold %.2f: %d of %d impostors match, %d of %d mated do not\n", threshold, fmr.Count, fmr.Total, fnmr.Count, fnmr.Total)
	// Output: threshold 0.40: 1 of 10 impostors match, 1 of 5 mated do not
}

// A calibration names only the operating points that so many comparisons of
// different people support.
func ExampleCalibrate() {
	rng := rand.New(rand.NewPCG(1, 2))
	impostors := measure.NewImpostors()
	for range 100_000 {
		impostors.Add(0.1 * rng.NormFloat64())
	}
	calibration, err := measure.Calibrate("100,000 comparisons of nobody", impostors)
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range calibration.Points {
		fmt.Printf("%s: %.2f\n", p.Name, p.Threshold)
	}
	// Output:
	// fmr_1e-2: 0.23
	// fmr_1e-3: 0.31
}

// Lists of pairs say which photos are compared and what is right.
func ExampleReadPairs() {
	pairs, err := measure.ReadPairs(strings.NewReader("ada/1.jpg ada/2.jpg 1\nada/1.jpg grace/1.jpg 0\n"))
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range pairs {
		fmt.Println(p.Probe, p.Reference, p.Mated)
	}
	// Output:
	// ada/1.jpg ada/2.jpg true
	// ada/1.jpg grace/1.jpg false
}

// Labelled pairs of photos, one of which shows no face.
func ExampleVerifyPairs() {
	pairs, err := measure.ReadPairs(strings.NewReader(`
# probe reference same-person
ada/1.jpg   ada/2.jpg   1
ada/1.jpg   ada/3.jpg   1
grace/1.jpg grace/2.jpg 1
ada/1.jpg   grace/1.jpg 0
ada/2.jpg   grace/2.jpg 0
`))
	if err != nil {
		log.Fatal(err)
	}
	people, err := measure.PeopleOnPhotos(pairs)
	if err != nil {
		log.Fatal(err)
	}
	embedding := func(e ...float32) measure.Photo { return measure.Photo{Embeddings: []face.Embedding{e}} }
	photos := map[string]measure.Photo{
		"ada/1.jpg": embedding(1, 0), "ada/2.jpg": embedding(0.8, 0.6), "ada/3.jpg": {Failure: face.NoFace.Code()},
		"grace/1.jpg": embedding(0, 1), "grace/2.jpg": embedding(0, 1),
	}
	v, err := measure.VerifyPairs(pairs, people, photos, nil, measure.DefaultOptions())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("compared:", v.Mated, "mated,", v.Impostor, "impostor")
	fmt.Println("accuracy:", v.Accuracy, "with failures as non-matches:", v.WithFailures.Accuracy)
	// Output:
	// compared: 2/3 mated, 2/2 impostor
	// accuracy: 4/4 with failures as non-matches: 4/5
}

// A rate with its interval: no error among 300 does not mean that there are none.
func ExampleRate_Interval() {
	rate := measure.Rate{Count: 0, Total: 300}
	interval := rate.Interval(0.95)
	fmt.Printf("%s: at most %.1f %%\n", rate, 100*interval.High)
	// Output: 0/300: at most 1.2 %
}
