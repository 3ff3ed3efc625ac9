package main

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// usable are the photos that an average may be made of: large, sharp, whole
// and from the front.
func usable(all []source) []source {
	return slices.DeleteFunc(slices.Clone(all), func(s source) bool {
		q := s.Quality
		return len(q.Reasons) > 0 || q.InterocularPx < 32 || q.Sharpness < 0.2 ||
			math.Abs(float64(q.Pose.Yaw)) > 14 || math.Abs(float64(q.Pose.Pitch)) > 14 || math.Abs(float64(q.Pose.Roll)) > 20
	})
}

// mostFrontal is one photo of each person: the one most from the front.
func mostFrontal(all []source) []source {
	turned := func(s source) float64 {
		return math.Hypot(float64(s.Quality.Pose.Yaw), float64(s.Quality.Pose.Pitch))
	}
	at := map[string]int{}
	var out []source
	for _, s := range all {
		if i, known := at[s.Person]; !known {
			at[s.Person] = len(out)
			out = append(out, s)
		} else if turned(s) < turned(out[i]) {
			out[i] = s
		}
	}
	return out
}

// centres groups faces by the direction of their embeddings.
func centres(all []source, k int, seed uint64) []face.Embedding {
	rng := rand.New(rand.NewPCG(seed, 1))
	dim := len(all[0].Embedding)
	var out []face.Embedding
	for _, i := range rng.Perm(len(all))[:k] {
		out = append(out, all[i].Embedding)
	}
	for range 25 {
		sums := make([]face.Embedding, k)
		for i := range sums {
			sums[i] = make(face.Embedding, dim)
		}
		for _, s := range all {
			near, score := 0, -2.0
			for i, c := range out {
				if x := s.Embedding.Cosine(c); x > score {
					near, score = i, x
				}
			}
			for j, v := range s.Embedding {
				sums[near][j] += v
			}
		}
		for i := range out {
			if c, err := sums[i].Normalise(); err == nil {
				out[i] = c
			}
		}
	}
	return out
}

// nearest are the n faces nearest to a direction, the nearest first.
func nearest(all []source, to face.Embedding, n int) []source {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b source) int {
		return cmp.Compare(b.Embedding.Cosine(to), a.Embedding.Cosine(to))
	})
	return out[:min(n, len(out))]
}

// chooseFarthest chooses n of the embeddings so that the highest score among them is
// the lowest there is, by trying all choices that can be better.
func chooseFarthest(all []face.Embedding, n int) []int {
	scores := make([][]float64, len(all))
	for i := range all {
		for j := range all {
			scores[i] = append(scores[i], all[i].Cosine(all[j]))
		}
	}
	var chosen []int
	lowest := 2.0
	var try func(picked []int, highest float64)
	try = func(picked []int, highest float64) {
		if len(picked) == n {
			chosen, lowest = slices.Clone(picked), highest
			return
		}
		from := 0
		if len(picked) > 0 {
			from = picked[len(picked)-1] + 1
		}
		for i := from; i < len(all); i++ {
			h := highest
			for _, j := range picked {
				h = max(h, scores[i][j])
			}
			if h < lowest {
				try(append(picked, i), h)
			}
		}
	}
	try(nil, -1)
	return chosen
}

// dealPeople gives each direction the people nearest to it, one direction and one
// photo to a person, and deals each direction's out over its photos.
func dealPeople(people []source, directions []face.Embedding) (crowds [composites][shots][]source, err error) {
	if least := composites * shots * crowd; len(people) < least {
		return crowds, fmt.Errorf("%d people with a photo that serves, need %d", len(people), least)
	}
	taken := map[string]bool{}
	queues := make([][]source, len(directions))
	for i, d := range directions {
		queues[i] = nearest(people, d, len(people))
	}
	for range shots * crowd {
		for i := range directions {
			for taken[queues[i][0].Person] {
				queues[i] = queues[i][1:]
			}
			s := queues[i][0]
			taken[s.Person] = true
			// The photo with the fewest so far; of those the first.
			to := 0
			for j := range crowds[i] {
				if len(crowds[i][j]) < len(crowds[i][to]) {
					to = j
				}
			}
			crowds[i][to] = append(crowds[i][to], s)
		}
	}
	return crowds, nil
}
