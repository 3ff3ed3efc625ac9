package measure

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/stat"

	"github.com/likeness-id/likeness/pkg/face"
)

// Comparison is one comparison of two samples whose people are known. It is
// mated when both samples are of the same person.
type Comparison struct {
	Score            float64
	Probe, Reference string // the people: subject ids, not samples
}

// Mated reports whether both samples are of one person.
func (c Comparison) Mated() bool { return c.Probe == c.Reference }

// Confidence holds the intervals that [Bootstrap] finds.
type Confidence struct {
	FNMR     []face.Interval // at each of Options.FMRs, in order
	Accuracy face.Interval   // of the best threshold
}

// Bootstrap finds confidence intervals of the false non-match rate at false
// match rates and of the best-threshold accuracy, by drawing people, not
// comparisons, with replacement: comparisons that share a person are not
// independent, and a person who is hard to recognise is hard in all of them. A
// comparison counts once for each time that its people were drawn together
// (their draws multiplied), which for impostors overstates the spread rather
// than hide it. The threshold is sought anew in each draw, so its uncertainty
// is inside the interval. It uses FMRs, Replicates, Confidence and Seed of the
// options. Invalid: there are no mated or no impostor comparisons, or the
// options are out of range.
func Bootstrap(comparisons []Comparison, o Options) (Confidence, error) {
	mated := 0
	people := map[string]int{}
	for _, c := range comparisons {
		if c.Mated() {
			mated++
		}
		for _, person := range []string{c.Probe, c.Reference} {
			if _, ok := people[person]; !ok {
				people[person] = len(people)
			}
		}
	}
	if mated == 0 || mated == len(comparisons) || o.Replicates < 1 || !(o.Confidence > 0 && o.Confidence < 1) {
		return Confidence{}, face.Errorf(face.Invalid, "measure.Bootstrap",
			"a bootstrap needs mated and impostor comparisons, a number of replicates and a confidence between 0 and 1")
	}
	sorted := make([]indexed, len(comparisons))
	for i, c := range comparisons {
		sorted[i] = indexed{c.Score, people[c.Probe], people[c.Reference]}
	}
	slices.SortFunc(sorted, func(a, b indexed) int { return cmp.Compare(b.score, a.score) })

	rng := rand.New(rand.NewPCG(o.Seed, 0))
	draws := make([]int64, len(people))
	fnmr := make([][]float64, len(o.FMRs))
	var accuracy []float64
	for range o.Replicates {
		clear(draws)
		for range draws {
			draws[rng.IntN(len(draws))]++
		}
		r := replicate(sorted, draws, o.FMRs)
		if r == nil {
			continue // nobody with a mated, or no impostor, comparison was drawn
		}
		for i := range o.FMRs {
			fnmr[i] = append(fnmr[i], r[i])
		}
		accuracy = append(accuracy, r[len(o.FMRs)])
	}
	if len(accuracy) == 0 {
		return Confidence{}, face.Errorf(face.Invalid, "measure.Bootstrap", "too few people to draw from")
	}
	out := Confidence{Accuracy: percentiles(accuracy, o.Confidence)}
	for i := range o.FMRs {
		out.FNMR = append(out.FNMR, percentiles(fnmr[i], o.Confidence))
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
			if falseMatches <= allowedErrors(fmr, allImpostor) {
				out[i] = 1 - float64(matches)/float64(allMated)
			}
		}
		right = max(right, matches+allImpostor-falseMatches)
	}
	out[len(fmrs)] = float64(right) / float64(allMated+allImpostor)
	return out
}

// resample finds the intervals of any numbers that are computed from weighted
// cases, by drawing people: case i is of the people a[i] and b[i], and weighs as
// in [Bootstrap]. A draw for which numbers returns nil does not count. The
// result is nil when no draw counts.
func resample(a, b []string, replicates int, o Options, numbers func(weight []float64) []float64) []face.Interval {
	people := map[string]int{}
	index := func(person string) int {
		if _, ok := people[person]; !ok {
			people[person] = len(people)
		}
		return people[person]
	}
	cases := make([]indexed, len(a))
	for i := range a {
		cases[i] = indexed{probe: index(a[i]), reference: index(b[i])}
	}
	rng := rand.New(rand.NewPCG(o.Seed, 0))
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
	var out []face.Interval
	for _, column := range columns {
		out = append(out, percentiles(column, o.Confidence))
	}
	return out
}

// percentiles is the interval that holds the middle part of the values.
func percentiles(values []float64, confidence float64) face.Interval {
	slices.Sort(values)
	tail := (1 - confidence) / 2
	return face.Interval{
		Low:  stat.Quantile(tail, stat.Empirical, values, nil),
		High: stat.Quantile(1-tail, stat.Empirical, values, nil),
	}
}
