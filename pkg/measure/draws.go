package measure

import "math/rand/v2"

// peopleDraws are the draws of a bootstrap over people: how often each person
// is drawn in each replicate.
type peopleDraws [][]int32 // by person and replicate

// drawPeople draws as many people as there are, with replacement, in each
// replicate. The stream tells independent draws with one seed apart.
func drawPeople(people int, o Options, stream uint64) peopleDraws {
	d := make(peopleDraws, people)
	for i := range d {
		d[i] = make([]int32, o.Replicates)
	}
	rng := rand.New(rand.NewPCG(o.Seed, stream))
	for r := range o.Replicates {
		for range people {
			d[rng.IntN(people)][r]++
		}
	}
	return d
}

// impostorPairs is, for each replicate, the number of impostor comparisons
// among photos, given by their person: a comparison counts as often as its two
// people were drawn, multiplied.
func (d peopleDraws) impostorPairs(photos []int, replicates int) []float64 {
	count := map[int]float64{}
	for _, person := range photos {
		count[person]++
	}
	all, own := make([]float64, replicates), make([]float64, replicates)
	for person, n := range count {
		for r, times := range d[person] {
			v := n * float64(times)
			all[r] += v
			own[r] += v * v
		}
	}
	for r := range all {
		all[r] = (all[r]*all[r] - own[r]) / 2
	}
	return all
}

// hit is an impostor comparison that reaches a threshold.
type hit struct {
	score float64
	a, b  int // the people
}

// weight is how often the comparison counts in a replicate. The two people may
// be drawn from two sets.
func (h hit) weight(of, with peopleDraws, replicate int) float64 {
	return float64(of[h.a][replicate]) * float64(with[h.b][replicate])
}
