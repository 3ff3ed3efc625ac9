package measure_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// The intervals are those of a bootstrap that draws people, writes down whom it
// drew, and compares all of their photos again.
func TestSpreadBruteForce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(21, 1))
	var units []measure.Unit
	var photos []int // the unit of each
	for i := range 36 {
		u := measure.Unit{Set: i % 3, Photos: 1, Stranger: i%3 == 1}
		if !u.Stranger {
			u.Photos += rng.IntN(4)
		}
		units = append(units, u)
		for range u.Photos {
			photos = append(photos, i)
		}
	}
	compared := func(a, b int) bool {
		return a != b && (units[a].Set != units[b].Set || !units[a].Stranger)
	}
	likeness := make([]float64, len(units)) // some people look like many
	for i := range likeness {
		likeness[i] = 0.3 * rng.Float64()
	}
	scores := make([][]float64, len(photos))
	for i := range scores {
		scores[i] = make([]float64, len(photos))
		for j := range i {
			scores[i][j] = likeness[photos[i]] + likeness[photos[j]] + 0.1*rng.NormFloat64()
			scores[j][i] = scores[i][j]
		}
	}
	thresholds := []float64{0.3, 0.4, 0.5}

	for _, across := range []bool{true, false} {
		spreadByHand(t, units, photos, scores, thresholds, func(a, b int) bool {
			return compared(a, b) && (across || units[a].Set == units[b].Set)
		}, across)
	}
}

func spreadByHand(t *testing.T, units []measure.Unit, photos []int, scores [][]float64, thresholds []float64, compared func(a, b int) bool, across bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(21, 2))
	const replicates = 800
	spread := measure.NewSpread(units, thresholds, across, measure.Options{Replicates: replicates, Confidence: 0.9, Seed: 5})
	parts := [2]*measure.Spread{spread.Fork(), spread.Fork()}
	for i := range photos {
		for j := range i {
			if compared(photos[i], photos[j]) {
				parts[(i+j)%2].Add(photos[i], photos[j], scores[i][j])
			}
		}
	}
	spread.Merge(parts[0])
	spread.Merge(parts[1])
	got := spread.Intervals()

	members := map[int][]int{}
	for i, u := range units {
		members[u.Set] = append(members[u.Set], i)
	}
	byUnit := map[int][]int{}
	for i, u := range photos {
		byUnit[u] = append(byUnit[u], i)
	}
	rates := make([][]float64, len(thresholds))
	for range replicates {
		var drawn []int
		for set := range 3 {
			for range members[set] {
				drawn = append(drawn, members[set][rng.IntN(len(members[set]))])
			}
		}
		total, above := 0, make([]int, len(thresholds))
		for i, a := range drawn {
			for _, b := range drawn[:i] {
				if !compared(a, b) {
					continue
				}
				for _, x := range byUnit[a] {
					for _, y := range byUnit[b] {
						total++
						for k, at := range thresholds {
							if scores[x][y] >= at {
								above[k]++
							}
						}
					}
				}
			}
		}
		for k := range thresholds {
			rates[k] = append(rates[k], float64(above[k])/float64(total))
		}
	}
	for k, iv := range got {
		slices.Sort(rates[k])
		low, high := rates[k][replicates/20], rates[k][replicates*19/20]
		if math.Abs(iv.Low-low) > 0.15*(high-low) || math.Abs(iv.High-high) > 0.15*(high-low) {
			t.Errorf("across sets %t, at %v: %v, by hand [%v, %v]", across, thresholds[k], iv, low, high)
		}
	}
}

// When everybody looks alike, whoever is drawn, the rate is the rate.
func TestSpreadOfNothing(t *testing.T) {
	t.Parallel()
	units := make([]measure.Unit, 12)
	for i := range units {
		units[i] = measure.Unit{Photos: 1}
	}
	spread := measure.NewSpread(units, []float64{0.25, 0.5}, true, measure.Options{Replicates: 100, Confidence: 0.95, Seed: 1})
	for i := range units {
		for j := range i {
			spread.Add(i, j, 0.25)
		}
	}
	want := []face.Interval{{Low: 1, High: 1}, {Low: 0, High: 0}}
	if diff := cmp.Diff(want, spread.Intervals()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
