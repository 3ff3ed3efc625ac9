package style

import "math"

// scale is one size of the picture, and how many steps are taken at it.
type scale struct {
	size  []int
	steps int
}

const (
	coarsest = 128  // about the long side at which a run begins
	fewer    = 0.64 // steps of a scale, as a share of those of the one before
	// narrowest is the shortest side that all networks take.
	narrowest = 32
)

// scaledSides scales sizes so that the longest is long. Sizes that are cut into
// tiles become multiples of the grain.
func scaledSides(of []int, long, most int) []int {
	longest := 0
	for _, n := range of {
		longest = max(longest, n)
	}
	out := make([]int, len(of))
	for i, n := range of {
		out[i] = max(1, int(math.Round(float64(n)*float64(long)/float64(longest))))
		if out[i] > most {
			out[i] = (out[i] + grain/2) / grain * grain
		}
	}
	return out
}

// schedule plans the scales up to a long side, each twice the one before it,
// and divides the steps among them. If there are fewer steps than scales, the
// coarse scales are left out.
func schedule(of []int, long, steps, most int) []scale {
	var all []scale
	for l := float64(long); ; l /= 2 {
		size := scaledSides(of, int(math.Round(l)), most)
		short := size[0]
		for _, n := range size {
			short = min(short, n)
		}
		if len(all) > 0 && (short < narrowest || l < coarsest*0.75 || len(all) == steps) {
			break
		}
		all = append([]scale{{size: size}}, all...)
	}
	shareSteps(all, steps)
	return all
}

// shareSteps gives each scale its part of the steps, at least one.
func shareSteps(all []scale, steps int) {
	var sum float64
	for i := range all {
		sum += math.Pow(fewer, float64(i))
	}
	left := steps
	for i := range all {
		rest := len(all) - 1 - i
		n := int(math.Round(float64(steps) * math.Pow(fewer, float64(i)) / sum))
		if rest == 0 {
			n = left
		}
		all[i].steps = min(max(n, 1), left-rest)
		left -= all[i].steps
	}
}
