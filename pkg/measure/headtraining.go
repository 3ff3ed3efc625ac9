package measure

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// maxMatedPairsOfOne is the most mated pairs of one person that a head is
// trained on. Otherwise a person with hundreds of photos would dominate it.
const maxMatedPairsOfOne = 10

// HeadTraining holds the trained heads, one of each variant in the order of
// [HeadVariants], and how good each is.
type HeadTraining struct {
	Heads        []*match.Head
	Measurements []HeadMeasurement
	Best         int // index of the head to use: see [BestHead]
}

// TrainHeads trains a verification head of every variant on three fifths of the
// people with several photos, calibrates it on a fifth, and measures it on the
// last fifth. Source says, for people, what it was trained on; trained, which
// may be nil, is called after each head. Invalid: too few people with several
// photos. The end of the context is an error, too.
func (c Calibrator) TrainHeads(ctx context.Context, source string, trained func(face.HeadVariant)) (HeadTraining, error) {
	pairs, err := pairsForHeads(c.Portraits, c.Options.Seed)
	if err != nil {
		return HeadTraining{}, err
	}
	var t HeadTraining
	for _, variant := range HeadVariants() {
		if err := ctx.Err(); err != nil {
			return HeadTraining{}, err
		}
		h, err := FitHead(variant, pairs.train, pairs.calibrate)
		if err != nil {
			return HeadTraining{}, fmt.Errorf("the head %s: %w", variant, err)
		}
		h.Source = source
		t.Heads = append(t.Heads, match.NewHead(&h))
		if trained != nil {
			trained(variant)
		}
	}
	if t.Measurements, err = MeasureHeads(t.Heads, pairs.heldOut, c.Options); err != nil {
		return HeadTraining{}, err
	}
	t.Best = BestHead(t.Measurements)
	for i, h := range t.Heads {
		m := t.Measurements[i]
		h.HeldOut = face.HeldOut{PairCount: countPairs(pairs.heldOut), Accuracy: m.Accuracy.Value, ECE: m.ECE.Value}
	}
	return t, nil
}

// headPairs are the pairs of a training. No person is in two parts.
type headPairs struct{ train, calibrate, heldOut []EmbeddingPair }

// pairsForHeads makes as many impostor as mated pairs. A person with a single
// photo is in no mated pair, so only people with several photos are used, for
// impostor pairs, too: otherwise an unknown face would give an impostor pair
// away.
func pairsForHeads(portraits []Portrait, seed uint64) (headPairs, error) {
	type person struct {
		name   string
		set    int
		photos []face.Embedding
	}
	units, unitOf := unitsOf(portraits)
	people := make([]person, len(units))
	for i, p := range portraits {
		own := &people[unitOf[i]]
		own.name, own.set = fmt.Sprintf("%d/%s", p.Set, p.Person), p.Set
		own.photos = append(own.photos, p.Embedding)
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	var peopleOf [3][]person
	dealt := 0
	for _, i := range rng.Perm(len(people)) {
		if units[i].Stranger || units[i].Photos < 2 {
			continue
		}
		part := []int{0, 1, 0, 2, 0}[dealt%5]
		dealt++
		peopleOf[part] = append(peopleOf[part], people[i])
	}
	var parts [3][]EmbeddingPair
	for part, own := range peopleOf {
		for _, p := range own {
			n := len(p.photos)
			impostors := 0 // still to be made
			for _, i := range rng.Perm(n * (n - 1) / 2)[:min(n*(n-1)/2, maxMatedPairsOfOne)] {
				a, b := unrankPair(i)
				parts[part] = append(parts[part], EmbeddingPair{A: p.photos[a], B: p.photos[b], PersonA: p.name, PersonB: p.name})
				impostors++
			}
			// People of another set would be too easy to tell apart, by how
			// they were photographed.
			for range 20 * impostors {
				if other := own[rng.IntN(len(own))]; impostors > 0 && other.name != p.name && other.set == p.set {
					impostors--
					parts[part] = append(parts[part], EmbeddingPair{
						A: p.photos[rng.IntN(n)], B: other.photos[rng.IntN(len(other.photos))], PersonA: p.name, PersonB: other.name,
					})
				}
			}
		}
		if c := countPairs(parts[part]); c.Mated == 0 || c.Impostor == 0 {
			return headPairs{}, face.Errorf(face.Invalid, "measure.TrainHeads",
				"too few people with several photos: a head needs at least ten, and hundreds to be useful")
		}
	}
	return headPairs{train: parts[0], calibrate: parts[1], heldOut: parts[2]}, nil
}

// unrankPair is the i-th pair of numbers a > b.
func unrankPair(i int) (a, b int) {
	for a = 1; i >= a; a++ {
		i -= a
	}
	return a, i
}
