package match

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"

	"github.com/likeness-id/likeness/pkg/face"
)

// Comparison is one comparison of two samples whose people are known. It is a
// mated one when they are the same.
type Comparison struct {
	Score            float64
	Probe, Reference string // the people: subject ids, not samples
}

// Mated reports whether both samples are of one person.
func (c Comparison) Mated() bool { return c.Probe == c.Reference }

// Confidence holds the intervals that [Bootstrap] finds.
type Confidence struct {
	FNMR     []Interval // at each of the asked false match rates, in order
	Accuracy Interval   // of the best threshold
}

// Bootstrap finds confidence intervals of the false non-match rate at false
// match rates and of the best-threshold accuracy, by drawing people, not
// comparisons, with replacement: comparisons that share a person are not
// independent, and a person who is hard to recognise is hard in all of them. A
// comparison counts once for each time that its people were drawn together
// (their draws multiplied), which for impostors overstates the spread rather
// than hide it. The threshold is sought anew in each draw, so its uncertainty
// is inside the interval. The same seed gives the same intervals.
//
// The comparisons must hold mated and impostor ones; replicates and the
// confidence, 0..1, are positive. Invalid: they are not.
func Bootstrap(comparisons []Comparison, fmrs []float64, replicates int, confidence float64, seed uint64) (Confidence, error) {
	mated := 0
	people := map[string]int{}
	for _, c := range comparisons {
		if c.Mated() {
			mated++
		}
		for _, who := range []string{c.Probe, c.Reference} {
			if _, ok := people[who]; !ok {
				people[who] = len(people)
			}
		}
	}
	if mated == 0 || mated == len(comparisons) || replicates < 1 || !(confidence > 0 && confidence < 1) {
		return Confidence{}, face.Errorf(face.Invalid, "match.Bootstrap",
			"a bootstrap needs mated and impostor comparisons, a number of replicates and a confidence between 0 and 1")
	}
	sorted := make([]indexed, len(comparisons))
	for i, c := range comparisons {
		sorted[i] = indexed{c.Score, people[c.Probe], people[c.Reference]}
	}
	slices.SortFunc(sorted, func(a, b indexed) int { return cmp.Compare(b.score, a.score) })

	rng := rand.New(rand.NewPCG(seed, 0))
	draws := make([]int64, len(people))
	fnmr := make([][]float64, len(fmrs))
	var accuracy []float64
	for range replicates {
		clear(draws)
		for range draws {
			draws[rng.IntN(len(draws))]++
		}
		r := replicate(sorted, draws, fmrs)
		if r == nil {
			continue // nobody with a mated, or no impostor, comparison was drawn
		}
		for i := range fmrs {
			fnmr[i] = append(fnmr[i], r[i])
		}
		accuracy = append(accuracy, r[len(fmrs)])
	}
	if len(accuracy) == 0 {
		return Confidence{}, face.Errorf(face.Invalid, "match.Bootstrap", "too few people to draw from")
	}
	out := Confidence{Accuracy: percentiles(accuracy, confidence)}
	for i := range fmrs {
		out.FNMR = append(out.FNMR, percentiles(fnmr[i], confidence))
	}
	return out, nil
}

type indexed struct {
	score            float64
	probe, reference int
}

// weight is how often a comparison counts in a draw of people.
func (c indexed) weight(draws []int64) (mated, impostor int64) {
	if c.probe == c.reference {
		return draws[c.probe], 0
	}
	return 0, draws[c.probe] * draws[c.reference]
}

// replicate computes, for one draw of people, the FNMR at each false match
// rate and then the best accuracy; nil when one kind of comparison is missing.
// The comparisons are sorted, highest score first.
func replicate(sorted []indexed, draws []int64, fmrs []float64) []float64 {
	var allMated, allImpostor int64
	for _, c := range sorted {
		m, i := c.weight(draws)
		allMated += m
		allImpostor += i
	}
	if allMated == 0 || allImpostor == 0 {
		return nil
	}
	out := make([]float64, len(fmrs)+1)
	for i := range fmrs {
		out[i] = 1
	}
	var matches, falseMatches int64
	right := allImpostor // all that is right while nothing matches
	for at := 0; at < len(sorted); {
		score := sorted[at].score
		for ; at < len(sorted) && sorted[at].score == score; at++ {
			m, i := sorted[at].weight(draws)
			matches += m
			falseMatches += i
		}
		for i, fmr := range fmrs {
			if falseMatches <= allowed(fmr, allImpostor) {
				out[i] = 1 - float64(matches)/float64(allMated)
			}
		}
		right = max(right, matches+allImpostor-falseMatches)
	}
	out[len(fmrs)] = float64(right) / float64(allMated+allImpostor)
	return out
}

// resample finds the intervals of any numbers that weighted cases give, by
// drawing people: case i is of the people a[i] and b[i], and weighs as in
// [Bootstrap]. A draw of which there are no numbers does not count; nil when
// that is every draw.
func resample(a, b []string, replicates int, confidence float64, seed uint64, numbers func(weight []float64) []float64) []Interval {
	people := map[string]int{}
	index := func(who string) int {
		if _, ok := people[who]; !ok {
			people[who] = len(people)
		}
		return people[who]
	}
	cases := make([]indexed, len(a))
	for i := range a {
		cases[i] = indexed{probe: index(a[i]), reference: index(b[i])}
	}
	rng := rand.New(rand.NewPCG(seed, 0))
	draws, weight := make([]int64, len(people)), make([]float64, len(a))
	var columns [][]float64
	for range replicates {
		clear(draws)
		for range draws {
			draws[rng.IntN(len(draws))]++
		}
		for i, c := range cases {
			mated, impostor := c.weight(draws)
			weight[i] = float64(mated + impostor)
		}
		row := numbers(weight)
		if columns == nil {
			columns = make([][]float64, len(row))
		}
		for i, v := range row {
			columns[i] = append(columns[i], v)
		}
	}
	var out []Interval
	for _, column := range columns {
		out = append(out, percentiles(column, confidence))
	}
	return out
}

// percentiles is the middle part of the values.
func percentiles(values []float64, confidence float64) Interval {
	slices.Sort(values)
	tail := (1 - confidence) / 2
	return Interval{
		Low:  stat.Quantile(tail, stat.Empirical, values, nil),
		High: stat.Quantile(1-tail, stat.Empirical, values, nil),
	}
}
