package siamese

import "math"

// Optimizer changes weights by their gradients. Its state is plain slices,
// kept in checkpoints.
type Optimizer struct {
	// Kind is "adamw" (Loshchilov and Hutter, arXiv 1711.05101) or "sgd" (with
	// momentum, and weight decay in the gradient).
	Kind        string
	Momentum    float64 // sgd; adamw: beta1
	Beta2       float64 // adamw
	Epsilon     float64 // adamw
	WeightDecay float64

	Steps         int
	First, Second [][]float32 // running means of the gradient and of its square
}

// NewOptimizer makes an optimizer with the usual constants.
func NewOptimizer(kind string, weightDecay float64) *Optimizer {
	return &Optimizer{Kind: kind, Momentum: 0.9, Beta2: 0.999, Epsilon: 1e-8, WeightDecay: weightDecay}
}

// Step changes the weights in place. decays says which of them decay; scales
// and biases do not.
func (o *Optimizer) Step(weights, gradients [][]float32, decays []bool, rate float64) {
	if o.First == nil {
		for _, w := range weights {
			o.First = append(o.First, make([]float32, len(w)))
			if o.Kind != "sgd" {
				o.Second = append(o.Second, make([]float32, len(w)))
			}
		}
	}
	o.Steps++
	unbias1 := 1 / (1 - math.Pow(o.Momentum, float64(o.Steps)))
	unbias2 := 1 / (1 - math.Pow(o.Beta2, float64(o.Steps)))
	for i, w := range weights {
		decay := 0.0
		if decays[i] {
			decay = o.WeightDecay
		}
		first := o.First[i]
		if o.Kind == "sgd" {
			for k, d := range gradients[i] {
				m := float32(o.Momentum)*first[k] + d + float32(decay)*w[k]
				first[k] = m
				w[k] -= float32(rate) * m
			}
			continue
		}
		second := o.Second[i]
		b1, b2 := float32(o.Momentum), float32(o.Beta2)
		for k, d := range gradients[i] {
			first[k] += (1 - b1) * (d - first[k])
			second[k] += (1 - b2) * (d*d - second[k])
			step := float64(first[k]) * unbias1 / (math.Sqrt(float64(second[k])*unbias2) + o.Epsilon)
			w[k] -= float32(rate * (step + decay*float64(w[k])))
		}
	}
}

// Clip scales gradients down so that their common L2 norm is at most the given
// one, and returns the norm that they had.
func Clip(gradients [][]float32, most float64) float64 {
	var sum float64
	for _, g := range gradients {
		for _, d := range g {
			sum += float64(d) * float64(d)
		}
	}
	norm := math.Sqrt(sum)
	if most > 0 && norm > most {
		by := float32(most / norm)
		for _, g := range gradients {
			for k := range g {
				g[k] *= by
			}
		}
	}
	return norm
}

// Rate is the learning rate at a step: it rises linearly to the peak during the
// warm-up, then falls as half a cosine to a hundredth of the peak at the last
// step.
func Rate(step, warmUp, steps int, peak float64) float64 {
	if step < warmUp {
		return peak * float64(step+1) / float64(warmUp)
	}
	done := float64(step-warmUp) / math.Max(1, float64(steps-warmUp))
	return peak * (0.01 + 0.99*0.5*(1+math.Cos(math.Pi*math.Min(1, done))))
}
