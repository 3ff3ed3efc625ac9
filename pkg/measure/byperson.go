package measure

import "github.com/likeness-id/likeness/pkg/face"

// RateByPerson is a rate of comparisons in which every person has the same
// weight: the mean of the people's own rates. The plain rate of all comparisons
// is mostly that of the few people with many photos, because somebody with n
// photos has n(n-1)/2 comparisons.
type RateByPerson struct {
	People      int           `json:"people"`
	Comparisons Rate          `json:"comparisons"` // all of them, with the same weight
	Value       float64       `json:"value"`       // 0..1; 0 without people
	Interval    face.Interval `json:"interval"`    // bootstrap over people, or Clopper and Pearson's of them if nothing was counted; empty without people
}

// CountByPerson counts comparisons, each with its person and whether it belongs
// to the rate. It uses Replicates, Confidence and Seed of the options.
func CountByPerson(people []string, counted []bool, o Options) RateByPerson {
	var r RateByPerson
	index := map[string]int{}
	var names []string
	var own []Rate
	for i, person := range people {
		if _, ok := index[person]; !ok {
			index[person] = len(names)
			names, own = append(names, person), append(own, Rate{})
		}
		own[index[person]].Add(counted[i])
		r.Comparisons.Add(counted[i])
	}
	r.People = len(names)
	if r.People == 0 {
		return r
	}
	values := make([]float64, len(own))
	ones := make([]float64, len(own))
	for i, rate := range own {
		values[i], ones[i] = rate.Value(), 1
	}
	r.Value = weightedMean(values, ones)
	if r.Comparisons.Count == 0 {
		r.Interval = Rate{Total: int64(r.People)}.Interval(o.Confidence)
		return r
	}
	r.Interval = resample(names, names, o.Replicates, o, func(weight []float64) []float64 {
		return []float64{weightedMean(values, weight)}
	})[0]
	return r
}

// weightedMean is the mean of values whose weights are not all 0.
func weightedMean(values, weights []float64) float64 {
	var sum, total float64
	for i, w := range weights {
		sum += w * values[i]
		total += w
	}
	return sum / total
}
