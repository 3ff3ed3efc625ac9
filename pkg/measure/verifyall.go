package measure

import (
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// AllComparisonsReport is what every comparison of a set of photos shows about
// verification. No pair is chosen, so no choice of pairs can flatter: everybody
// is compared with everybody else, and in the rates of mated comparisons every
// person weighs the same.
type AllComparisonsReport struct {
	People   int   `json:"people"`            // with a usable photo
	Several  int   `json:"people_with_mates"` // with at least two
	Mated    Rate  `json:"mated_compared"`    // of all pairs of photos of one person, those that could be compared
	Impostor int64 `json:"impostor_compared"`

	// Accuracy is the best that one threshold gives, if mated and impostor
	// comparisons weigh the same. Its interval draws the people of the mated ones
	// only: the impostors are too many to matter.
	Accuracy          Estimate `json:"accuracy"`
	AccuracyThreshold float64  `json:"accuracy_threshold"`

	At        []RatesOfAll `json:"at"`                  // at the false match rates of the options, and at the operating points
	Strangers int          `json:"strangers,omitempty"` // usable photos of the other set
	Highest   []ScoredPair `json:"highest_impostors"`   // to look at: they may be mates under two names
}

// RatesOfAll are the rates at a threshold.
type RatesOfAll struct {
	Name      string  `json:"name"`      // of an operating point, or "fmr 0.01 here"
	Target    float64 `json:"fmr"`       // the false match rate that it promises
	Threshold float64 `json:"threshold"` // the least one that keeps the rate on these same comparisons, or that of the point
	Here      bool    `json:"here"`      // chosen on these comparisons

	FMR          Rate          `json:"false_matches"`
	FMRInterval  face.Interval `json:"fmr_interval"` // bootstrap over people
	FNMR         RateByPerson  `json:"fnmr"`         // its interval includes the choice of the threshold
	WithFailures float64       `json:"fnmr_failures_as_non_matches"`

	Strangers         Rate          `json:"strangers_matched"` // of comparisons with the photos of the other set
	StrangersInterval face.Interval `json:"strangers_interval"`
}

// ScoredPair is a comparison with its score.
type ScoredPair struct {
	Probe     string  `json:"probe"`
	Reference string  `json:"reference"`
	Score     float64 `json:"score"`
}

// highestShown is how many of the highest scores a report shows.
const highestShown = 10

// VerifyAll compares all photos with one another. people names the person on
// each photo. The strangers are photos of another set, of other people who are
// not named; there may be none. A nil calibration has no operating points. It
// uses Replicates, Confidence, Seed and FMRs of the options. Invalid: there are
// no mated or no impostor comparisons.
func VerifyAll(names []string, people map[string]string, photos map[string]Photo, strangers []Photo, cal *face.Calibration, o Options) (*AllComparisonsReport, error) {
	v := newAllVerifier(names, people, photos, o)
	if len(v.matedPeople) == 0 || v.impostors.Total() == 0 {
		return nil, face.Errorf(face.Invalid, "measure.VerifyAll", "there must be people with several usable photos, and at least two people")
	}
	r := &AllComparisonsReport{
		People: len(v.people), Several: len(v.matedPeople), Impostor: v.impostors.Total(),
		Mated: Rate{Count: int64(len(v.mated)), Total: int64(len(v.mated) + len(v.lost))}, Highest: v.highest.pairs,
	}
	r.Accuracy, r.AccuracyThreshold = v.accuracy()
	for _, target := range o.FMRs {
		r.At = append(r.At, RatesOfAll{Name: fmt.Sprintf("fmr %g here", target), Target: target, Threshold: v.impostors.thresholdAt(target), Here: true})
	}
	for _, p := range match.NewPolicy(cal).Points() {
		r.At = append(r.At, RatesOfAll{Name: p.Name, Target: p.FMR, Threshold: p.Threshold})
	}
	v.count(r.At)
	r.Strangers = v.countStrangers(r.At, strangers)
	return r, nil
}

// allVerifier holds all comparisons of the photos.
type allVerifier struct {
	o          Options
	embeddings []face.Embedding // of the usable photos
	personOf   []int            // of the usable photos
	people     []string

	mated       []matedScore
	lost        []string // the person of each mated pair that could not be compared
	matedPeople [][]float64
	matedPerson []int // the person of each of those

	impostors *Impostors
	highest   highestPairs
}

type matedScore struct {
	person int
	score  float64
}

func newAllVerifier(names []string, people map[string]string, photos map[string]Photo, o Options) *allVerifier {
	v := &allVerifier{o: o, impostors: NewImpostors()}
	index := map[string]int{}
	all, usable := map[string]int{}, map[string]int{}
	var kept []string
	for _, name := range names {
		person := people[name]
		all[person]++
		e := photos[name].Embedding()
		if e == nil {
			continue
		}
		usable[person]++
		if _, ok := index[person]; !ok {
			index[person] = len(v.people)
			v.people = append(v.people, person)
		}
		v.embeddings, v.personOf, kept = append(v.embeddings, e), append(v.personOf, index[person]), append(kept, name)
	}
	for _, name := range names {
		person := people[name]
		n, m := all[person], usable[person]
		for range n*(n-1)/2 - m*(m-1)/2 {
			v.lost = append(v.lost, person)
		}
		all[person], usable[person] = 0, 0 // counted once
	}
	for i, a := range v.embeddings {
		for j, b := range v.embeddings[:i] {
			score := a.Cosine(b)
			if v.personOf[i] == v.personOf[j] {
				v.mated = append(v.mated, matedScore{v.personOf[i], score})
				continue
			}
			v.impostors.Add(score)
			v.highest.add(ScoredPair{Probe: kept[i], Reference: kept[j], Score: score})
		}
	}
	at := map[int]int{}
	for _, m := range v.mated {
		if _, ok := at[m.person]; !ok {
			at[m.person] = len(v.matedPeople)
			v.matedPeople, v.matedPerson = append(v.matedPeople, nil), append(v.matedPerson, m.person)
		}
		v.matedPeople[at[m.person]] = append(v.matedPeople[at[m.person]], m.score)
	}
	for _, scores := range v.matedPeople {
		slices.Sort(scores)
	}
	return v
}

// thresholdAt is the least threshold of five decimals of which the rate is at
// most fmr.
func (c *Impostors) thresholdAt(fmr float64) float64 {
	var above int64
	for i := gridLines - 1; i >= 0; i-- {
		if above += c.counts[i]; above > allowedErrors(fmr, c.total) {
			return gridScore(i + 1)
		}
	}
	return -1
}

// accuracy is the best accuracy over thresholds in steps of 0.002.
func (v *allVerifier) accuracy() (best Estimate, threshold float64) {
	var candidates, trueNonMatches []float64
	for i := 0; i < gridLines; i += gridPerUnit / 500 {
		if rate := v.impostors.FMR(gridScore(i)).Value(); rate > 0 && rate < 0.5 {
			candidates, trueNonMatches = append(candidates, gridScore(i)), append(trueNonMatches, 1-rate)
		}
	}
	names := make([]string, len(v.matedPeople))
	ones := make([]float64, len(v.matedPeople))
	matched := newMatrix(len(candidates), len(v.matedPeople)) // shares of each person's comparisons
	for i, scores := range v.matedPeople {
		names[i], ones[i] = v.people[v.matedPerson[i]], 1
		for c, t := range candidates {
			matched[c][i] = float64(countAtOrAbove(scores, t)) / float64(len(scores))
		}
	}
	bestOf := func(weight []float64) (accuracy, at float64) {
		for c, t := range candidates {
			if a := (weightedMean(matched[c], weight) + trueNonMatches[c]) / 2; a > accuracy {
				accuracy, at = a, t
			}
		}
		return accuracy, at
	}
	best.Value, threshold = bestOf(ones)
	if len(candidates) > 0 {
		best.Interval = resample(names, names, v.o.Replicates, v.o, func(weight []float64) []float64 {
			a, _ := bestOf(weight)
			return []float64{a}
		})[0]
	}
	return best, threshold
}

// hitsFrom are the impostor comparisons that reach a score, highest first.
func (v *allVerifier) hitsFrom(floor float64) []hit {
	var hits []hit
	for i, a := range v.embeddings {
		for j, b := range v.embeddings[:i] {
			if v.personOf[i] != v.personOf[j] {
				if score := a.Cosine(b); score >= floor {
					hits = append(hits, hit{score, v.personOf[i], v.personOf[j]})
				}
			}
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return descending(a.score, b.score) })
	return hits
}

// count fills in the rates. In each replicate a threshold that was chosen on
// these comparisons is chosen anew.
func (v *allVerifier) count(at []RatesOfAll) {
	// Twice the rate: in no draw is a threshold chosen anew sought below.
	floor := math.Inf(1)
	for _, a := range at {
		floor = min(floor, a.Threshold)
		if a.Here {
			floor = min(floor, v.impostors.thresholdAt(min(2*a.Target, 1)))
		}
	}
	hits := v.hitsFrom(floor)
	draws := drawPeople(len(v.people), v.o, 5)
	totals := draws.impostorPairs(v.personOf, v.o.Replicates)
	thresholds, rates := v.drawnThresholds(at, hits, draws, totals)

	names, people := make([]string, len(v.mated)), make([]float64, len(v.matedPeople))
	for i, m := range v.mated {
		names[i] = v.people[m.person]
	}
	for i := range at {
		a := &at[i]
		a.FMR = v.impostors.FMR(a.Threshold)
		a.FMRInterval = intervalOf(rates[i], a.FMR, v.o.Confidence)
		missed := make([]bool, len(v.mated), len(v.mated)+len(v.lost))
		for j, m := range v.mated {
			missed[j] = m.score < a.Threshold
		}
		once := v.o
		once.Replicates = 1 // the interval comes from below, with other thresholds
		a.FNMR = CountByPerson(names, missed, once)
		var drawn []float64
		for r, t := range thresholds[i] {
			var missed, total float64
			for p, scores := range v.matedPeople {
				times := float64(draws[v.matedPerson[p]][r])
				if times == 0 {
					continue
				}
				people[p] = 1 - float64(countAtOrAbove(scores, t))/float64(len(scores))
				missed, total = missed+times*people[p], total+times
			}
			if total > 0 {
				drawn = append(drawn, missed/total)
			}
		}
		if a.FNMR.Comparisons.Count > 0 && len(drawn) > 0 {
			a.FNMR.Interval = percentiles(drawn, v.o.Confidence)
		}
		for range v.lost {
			missed = append(missed, true)
		}
		a.WithFailures = CountByPerson(slices.Concat(names, v.lost), missed, once).Value
	}
}

// drawnThresholds gives, for each threshold, what it and its false match rate are
// in each replicate. The hits are sorted, highest first.
func (v *allVerifier) drawnThresholds(at []RatesOfAll, hits []hit, draws peopleDraws, totals []float64) (thresholds, rates [][]float64) {
	thresholds, rates = newMatrix(len(at), v.o.Replicates), newMatrix(len(at), v.o.Replicates)
	reach := func(threshold float64) int {
		return sort.Search(len(hits), func(k int) bool { return hits[k].score < threshold })
	}
	times := make([]float64, len(v.people))
	above := make([]float64, len(hits)+1) // weighted comparisons among the first hits
	for r := range v.o.Replicates {
		for person := range times {
			times[person] = float64(draws[person][r])
		}
		for k, h := range hits {
			above[k+1] = above[k] + times[h.a]*times[h.b]
		}
		for i, a := range at {
			first := reach(a.Threshold) // how many hits reach it
			thresholds[i][r] = a.Threshold
			if a.Here {
				// The most hits that the rate allows; the next one must not match.
				first = sort.Search(len(hits), func(k int) bool { return above[k+1] > a.Target*totals[r] })
				thresholds[i][r] = math.Inf(1)
				if first > 0 {
					thresholds[i][r] = hits[first-1].score
				}
			}
			if totals[r] > 0 {
				rates[i][r] = above[first] / totals[r]
			}
		}
	}
	return thresholds, rates
}

// countStrangers compares all photos with those of strangers, and returns how
// many of these are usable.
func (v *allVerifier) countStrangers(at []RatesOfAll, strangers []Photo) int {
	var others []face.Embedding
	for _, s := range strangers {
		if e := s.Embedding(); e != nil {
			others = append(others, e)
		}
	}
	if len(others) == 0 {
		return 0
	}
	floor := math.Inf(1)
	for _, a := range at {
		floor = min(floor, a.Threshold)
	}
	var hits []hit
	for i, a := range v.embeddings {
		for j, b := range others {
			if score := a.Cosine(b); score >= floor {
				hits = append(hits, hit{score, v.personOf[i], j})
			}
		}
	}
	slices.SortFunc(hits, func(a, b hit) int { return descending(a.score, b.score) })
	draws, drawn := drawPeople(len(v.people), v.o, 5), drawPeople(len(others), v.o, 6)
	totals := make([]float64, v.o.Replicates)
	for _, person := range v.personOf {
		for r, times := range draws[person] {
			totals[r] += float64(times) * float64(len(others))
		}
	}
	for i := range at {
		a := &at[i]
		n := sort.Search(len(hits), func(k int) bool { return hits[k].score < a.Threshold })
		rates := make([]float64, v.o.Replicates)
		for _, h := range hits[:n] {
			for r := range rates {
				rates[r] += h.weight(draws, drawn, r) / totals[r]
			}
		}
		a.Strangers = Rate{Count: int64(n), Total: int64(len(v.embeddings)) * int64(len(others))}
		a.StrangersInterval = intervalOf(rates, a.Strangers, v.o.Confidence)
	}
	return len(others)
}

// intervalOf is the interval of the drawn rates. Where nothing was counted no
// draw shows anything, so it is the one of Clopper and Pearson.
func intervalOf(drawn []float64, counted Rate, confidence float64) face.Interval {
	if counted.Count == 0 || len(drawn) == 0 {
		return counted.Interval(confidence)
	}
	return percentiles(drawn, confidence)
}

// highestPairs keeps the pairs with the highest scores, highest first.
type highestPairs struct{ pairs []ScoredPair }

func (h *highestPairs) add(p ScoredPair) {
	if n := len(h.pairs); n == highestShown {
		if p.Score <= h.pairs[n-1].Score {
			return
		}
		h.pairs = h.pairs[:n-1]
	}
	at := sort.Search(len(h.pairs), func(i int) bool { return h.pairs[i].Score < p.Score })
	h.pairs = slices.Insert(h.pairs, at, p)
}
