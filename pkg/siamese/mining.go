package siamese

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Mining says which negatives make the triplets of a batch.
type Mining string

// The ways of mining. In each, every two photos of one person in the batch
// are an anchor and a positive, in both orders.
const (
	// Random takes any negative.
	Random Mining = "random"
	// SemiHard takes the nearest negative that is farther than the positive,
	// but by less than the margin. A pair without such a negative makes no
	// triplet.
	SemiHard Mining = "semi-hard"
	// Hard takes for each anchor its farthest positive and its nearest
	// negative (Hermans, Beyer and Leibe, arXiv 1703.07737: batch hard).
	Hard Mining = "hard"
)

// Triplet names three samples by their index: two of one person, and one of
// another.
type Triplet struct{ Anchor, Positive, Negative int }

// Batch is a batch after it was embedded.
type Batch struct {
	Embeddings []face.Embedding // normalised
	People     []int            // which person each embedding is of
}

func (b Batch) distance(i, j int) float64 {
	return 2 - 2*b.Embeddings[i].Cosine(b.Embeddings[j])
}

// splitByPerson are the photos of a's person, without a itself, and everybody else's.
func (b Batch) splitByPerson(a int) (positives, negatives []int) {
	for i, person := range b.People {
		switch {
		case person != b.People[a]:
			negatives = append(negatives, i)
		case i != a:
			positives = append(positives, i)
		}
	}
	return positives, negatives
}

// Active is the share of all possible triplets of a batch, mined or not, that
// do not satisfy the margin yet. It is 0 if the batch has no triplets.
func (b Batch) Active(margin float64) float64 {
	active, all := 0, 0
	for a := range b.People {
		positives, negatives := b.splitByPerson(a)
		far := make([]float64, len(negatives))
		for i, n := range negatives {
			far[i] = b.distance(a, n)
		}
		for _, p := range positives {
			d := b.distance(a, p)
			for _, f := range far {
				if d-f+margin > 0 {
					active++
				}
			}
		}
		all += len(positives) * len(negatives)
	}
	return float64(active) / float64(max(1, all))
}

// Mine makes the triplets of a batch.
func Mine(how Mining, b Batch, margin float64, rng *rand.Rand) (triplets []Triplet) {
	take := func(t Triplet) { triplets = append(triplets, t) }
	for a := range b.People {
		positives, negatives := b.splitByPerson(a)
		if len(positives) == 0 || len(negatives) == 0 {
			continue
		}
		nearer := func(i, j int) int { return cmp.Compare(b.distance(a, i), b.distance(a, j)) }
		switch how {
		case Hard:
			take(Triplet{a, slices.MaxFunc(positives, nearer), slices.MinFunc(negatives, nearer)})
		case SemiHard:
			slices.SortStableFunc(negatives, nearer)
			for _, p := range positives {
				d := b.distance(a, p)
				i := slices.IndexFunc(negatives, func(i int) bool { return b.distance(a, i) > d })
				if i >= 0 && b.distance(a, negatives[i]) < d+margin {
					take(Triplet{a, p, negatives[i]})
				}
			}
		default:
			for _, p := range positives {
				take(Triplet{a, p, negatives[rng.IntN(len(negatives))]})
			}
		}
	}
	return triplets
}

// Generator serves triplets of a whole set. Triplets that satisfy the margin
// are retired, the others are served again, and fresh ones fill the gaps. The
// share that is served again shows how much is still to be learnt. It is not
// safe for concurrent use.
type Generator struct {
	people  [][]int // the samples of each person
	several []int   // people with at least two
	rng     *rand.Rand
	pool    []Triplet // served, and not learnt yet
	limit   int
	// Retired and Kept count the triplets that were reported.
	Retired, Kept int
}

// NewGenerator makes a generator over samples, given the person of each. It
// keeps at most limit triplets that are not learnt. The error is Invalid if
// there are fewer than two people, or if no person has two samples.
func NewGenerator(people []int, limit int, rng *rand.Rand) (*Generator, error) {
	g := &Generator{rng: rng, limit: limit}
	at := map[int]int{}
	for sample, person := range people {
		i, known := at[person]
		if !known {
			i = len(g.people)
			at[person] = i
			g.people = append(g.people, nil)
		}
		g.people[i] = append(g.people[i], sample)
	}
	for i, samples := range g.people {
		if len(samples) > 1 {
			g.several = append(g.several, i)
		}
	}
	if len(g.people) < 2 || len(g.several) == 0 {
		return nil, face.Errorf(face.Invalid, "siamese.NewGenerator", "triplets need two people, and one with two photos")
	}
	return g, nil
}

// Next serves n triplets. Up to half of them are triplets that were not learnt
// yet, oldest first; the rest are fresh.
func (g *Generator) Next(n int) []Triplet {
	again := min(n/2, len(g.pool))
	out := slices.Clone(g.pool[:again])
	g.pool = slices.Delete(g.pool, 0, again)
	for len(out) < n {
		out = append(out, g.fresh())
	}
	return out
}

func (g *Generator) fresh() Triplet {
	person := g.several[g.rng.IntN(len(g.several))]
	samples := g.people[person]
	a := g.rng.IntN(len(samples))
	p := g.rng.IntN(len(samples) - 1)
	if p >= a {
		p++
	}
	other := g.rng.IntN(len(g.people) - 1)
	if other >= person {
		other++
	}
	return Triplet{samples[a], samples[p], g.people[other][g.rng.IntN(len(g.people[other]))]}
}

// Report records the loss of each served triplet. Triplets without a loss are
// retired.
func (g *Generator) Report(triplets []Triplet, losses []float64) {
	for i, t := range triplets {
		if losses[i] <= 0 {
			g.Retired++
			continue
		}
		g.Kept++
		if len(g.pool) < g.limit {
			g.pool = append(g.pool, t)
		}
	}
}
