package measure

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
)

// portraitsOf makes portraits of so many people, each with that many photos; sameness
// is how near those of one person are to one another.
func portraitsOf(t *testing.T, set, people, photos int, sameness float64) (out []Portrait) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(set)))
	for i := range people {
		centre := make([]float64, 16)
		for k := range centre {
			centre[k] = sameness * rng.NormFloat64()
		}
		for range photos {
			e := make(face.Embedding, len(centre))
			for k := range e {
				e[k] = float32(centre[k] + rng.NormFloat64())
			}
			e, err := e.Normalise()
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, Portrait{e, set, fmt.Sprintf("person %d", i)})
		}
	}
	return out
}

// Nobody is in two parts, mated and impostor pairs are as many, and nobody has
// more than their share.
func TestPairsForHeads(t *testing.T) {
	t.Parallel()
	portraits := append(portraitsOf(t, 0, 20, 7, 1), portraitsOf(t, 1, 20, 1, 1)...)
	for i := range 5 { // a set that tells nobody apart has no pairs
		portraits = append(portraits, Portrait{portraits[i].Embedding, 2, ""})
	}
	all, err := pairsForHeads(portraits, 1)
	if err != nil {
		t.Fatal(err)
	}
	part, mated := map[string]int{}, map[string]int{}
	for i, pairs := range [][]EmbeddingPair{all.train, all.calibrate, all.heldOut} {
		if c := countPairs(pairs); c.Mated != c.Impostor || c.People != []int{12, 4, 4}[i] {
			t.Errorf("part %d: %+v", i, c)
		}
		for _, p := range pairs {
			for _, who := range []string{p.PersonA, p.PersonB} {
				if at, ok := part[who]; ok && at != i {
					t.Errorf("%s is in two parts", who)
				}
				part[who] = i
			}
			if p.Mated() {
				mated[p.PersonA]++
			}
		}
	}
	for who, n := range mated {
		if n != maxMatedPairsOfOne {
			t.Errorf("%s has %d mated pairs", who, n)
		}
	}
	for _, few := range [][]Portrait{nil, portraitsOf(t, 0, 3, 2, 1)} {
		if _, err := pairsForHeads(few, 1); !errors.Is(err, face.Invalid) {
			t.Errorf("%d portraits make a head: %v", len(few), err)
		}
	}
}

func TestUnrankPair(t *testing.T) {
	t.Parallel()
	i := 0
	for a := 1; a < 9; a++ {
		for b := range a {
			if x, y := unrankPair(i); x != a || y != b {
				t.Errorf("%d is %d, %d; want %d, %d", i, x, y, a, b)
			}
			i++
		}
	}
}
