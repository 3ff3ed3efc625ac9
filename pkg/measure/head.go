package measure

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/optimize"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// HeadVariants are those that can be trained. The first is the yardstick.
func HeadVariants() []face.HeadVariant {
	return []face.HeadVariant{
		face.HeadCosine, face.HeadAbsolute, face.HeadChiSquared, face.HeadSquared, face.HeadConcatenated,
	}
}

// EmbeddingPair is two embeddings with the people they are of.
type EmbeddingPair struct {
	A, B             face.Embedding
	PersonA, PersonB string
}

// Mated reports whether both are of one person.
func (p EmbeddingPair) Mated() bool { return p.PersonA == p.PersonB }

// ridges are the strengths of the penalty on the weights that are tried.
func ridges() []float64 { return []float64{1e-4, 1e-3, 1e-2, 1e-1} }

// FitHead trains a head of the variant: logistic regression with a penalty on
// the weights of the standardised features (L2), on the pairs in train. The
// probability is calibrated on other pairs, which also choose how strong the
// penalty is: the strength that leaves the least log loss. Mated and impostor
// pairs weigh the same, however many there are of each, which makes the prior
// even. Source and held-out numbers are the caller's to add. Invalid: a kind of
// pairs is missing, the lengths differ, or numbers that are not finite.
func FitHead(variant face.HeadVariant, train, calibrate []EmbeddingPair) (face.Head, error) {
	const op = "measure.FitHead"
	for _, pairs := range [][]EmbeddingPair{train, calibrate} {
		mated := 0
		for _, p := range pairs {
			if len(p.A) != len(train[0].A) || len(p.B) != len(p.A) {
				return face.Head{}, face.Errorf(face.Invalid, op, "embeddings of different lengths")
			}
			if p.Mated() {
				mated++
			}
		}
		if mated == 0 || mated == len(pairs) {
			return face.Head{}, face.Errorf(face.Invalid, op, "a head needs mated and impostor pairs to train and to calibrate on")
		}
	}
	n := variant.Features(len(train[0].A))
	if n == 0 {
		return face.Head{}, face.Errorf(face.Invalid, op, "there is no head %q", variant)
	}
	samples := samplesOf(variant, train)
	mean, scale := samples.meanAndScale()
	base := face.Head{Variant: variant, Prior: 0.5, Trained: countPairs(train), Weights: make([]float64, n)}
	best, least := face.Head{}, math.Inf(1)
	start := make([]float64, n+1)
	for _, ridge := range slices.Backward(ridges()) { // each from where the stronger one ended
		w, err := fitLogistic(samples, mean, scale, ridge, start)
		if err != nil {
			return face.Head{}, face.Wrap(face.Invalid, op, err)
		}
		start = w
		h := base
		h.Weights, h.Bias = make([]float64, n), w[n]
		for i := range n {
			h.Weights[i] = rounded(w[i] / scale[i])
			h.Bias -= h.Weights[i] * mean[i]
		}
		h.Bias = rounded(h.Bias)
		if h.Platt, err = fitPlatt(match.NewHead(&h), calibrate); err != nil {
			return face.Head{}, face.Wrap(face.Invalid, op, err)
		}
		head := match.NewHead(&h)
		p, mated := make([]float64, len(calibrate)), make([]bool, len(calibrate))
		for i, c := range calibrate {
			p[i], mated[i] = head.ProbabilityOf(head.Logit(c.A, c.B)), c.Mated()
		}
		if loss := MeasureReliability(p, mated).LogLoss; loss < least {
			best, least = h, loss
		}
	}
	if math.IsInf(least, 1) {
		return face.Head{}, face.Errorf(face.Invalid, op, "the embeddings have numbers that are not finite")
	}
	return best, nil
}

// rounded keeps a manifest readable; six digits move no probability by 1e-4.
func rounded(v float64) float64 { return significantTo(v, 6) }

func countPairs(pairs []EmbeddingPair) (c face.PairCount) {
	people := map[string]bool{}
	for _, p := range pairs {
		people[p.PersonA], people[p.PersonB] = true, true
		if p.Mated() {
			c.Mated++
		} else {
			c.Impostor++
		}
	}
	c.People = len(people)
	return c
}

// samples are the cases of a logistic regression. The features are made anew
// whenever they are looked at: they would take far more memory than the
// embeddings that they come from.
type samples struct {
	n        int // of features
	count    int
	features func(i int, into []float64)
	target   []float64
	weight   []float64 // sums to 1
}

// samplesOf are the pairs, each kind with half of the weight. Where the order
// of a pair tells, both orders are cases.
func samplesOf(variant face.HeadVariant, pairs []EmbeddingPair) samples {
	s := samples{n: variant.Features(len(pairs[0].A)), count: len(pairs)}
	if variant == face.HeadConcatenated {
		s.count *= 2
	}
	s.features = func(i int, into []float64) {
		p := pairs[i%len(pairs)]
		if i >= len(pairs) {
			p.A, p.B = p.B, p.A
		}
		match.WriteFeatures(into, variant, p.A, p.B)
	}
	s.target, s.weight = make([]float64, s.count), make([]float64, s.count)
	mated := make([]bool, s.count)
	for i := range mated {
		mated[i] = pairs[i%len(pairs)].Mated()
		if mated[i] {
			s.target[i] = 1
		}
		s.weight[i] = 1
	}
	balance(s.weight, mated)
	return s
}

// even scales the weights so that both kinds add up to a half.
func balance(weight []float64, mated []bool) {
	var sum [2]float64
	kind := func(i int) int {
		if mated[i] {
			return 1
		}
		return 0
	}
	for i, w := range weight {
		sum[kind(i)] += w
	}
	for i := range weight {
		weight[i] /= 2 * sum[kind(i)]
	}
}

// meanAndScale is the mean of each feature and its standard deviation, or 1 where
// it never changes.
func (s samples) meanAndScale() (mean, scale []float64) {
	mean, scale = make([]float64, s.n), make([]float64, s.n)
	g := make([]float64, s.n)
	for i := range s.count {
		s.features(i, g)
		for k, v := range g {
			mean[k] += s.weight[i] * v
		}
	}
	for i := range s.count {
		s.features(i, g)
		for k, v := range g {
			scale[k] += s.weight[i] * (v - mean[k]) * (v - mean[k])
		}
	}
	for k, v := range scale {
		scale[k] = 1
		if v > 1e-20 {
			scale[k] = math.Sqrt(v)
		}
	}
	return mean, scale
}

// fitLogistic finds the weights of the standardised features, and the bias after
// them, with the least log loss plus ridge/2 times the squared weights.
func fitLogistic(s samples, mean, scale []float64, ridge float64, start []float64) ([]float64, error) {
	g := make([]float64, s.n)
	lossAndGradient := func(w, gradient []float64) (loss float64) {
		for k := range s.n {
			loss += ridge / 2 * w[k] * w[k]
		}
		if gradient != nil {
			for k := range s.n {
				gradient[k] = ridge * w[k]
			}
			gradient[s.n] = 0
		}
		for i := range s.count {
			s.features(i, g)
			z := w[s.n]
			for k, v := range g {
				g[k] = (v - mean[k]) / scale[k]
				z += w[k] * g[k]
			}
			// -t log p - (1-t) log(1-p), without the overflow.
			loss += s.weight[i] * (math.Max(z, 0) + math.Log1p(math.Exp(-math.Abs(z))) - s.target[i]*z)
			if gradient != nil {
				d := s.weight[i] * (sigmoid(z) - s.target[i])
				for k, v := range g {
					gradient[k] += d * v
				}
				gradient[s.n] += d
			}
		}
		return loss
	}
	result, err := optimize.Minimize(optimize.Problem{
		Func: func(w []float64) float64 { return lossAndGradient(w, nil) },
		Grad: func(gradient, w []float64) { lossAndGradient(w, gradient) },
	}, start, &optimize.Settings{GradientThreshold: 1e-6, MajorIterations: 300}, &optimize.LBFGS{})
	// A line search that finds no better point than a very good one is no
	// failure.
	if err != nil && (result == nil || result.MajorIterations == 0) {
		return nil, err
	}
	return result.X, nil
}

// fitPlatt fits slope and offset of the log-odds. The targets are a little less
// than sure, as Platt has it, so that pairs which can be told apart without an
// error do not make a head that is infinitely sure of itself.
func fitPlatt(h *match.Head, pairs []EmbeddingPair) (face.Platt, error) {
	c := countPairs(pairs)
	z := make([]float64, len(pairs))
	s := samplesOf(face.HeadCosine, pairs)
	for i, p := range pairs {
		z[i] = h.Logit(p.A, p.B)
		if p.Mated() {
			s.target[i] = float64(c.Mated+1) / float64(c.Mated+2)
		} else {
			s.target[i] = 1 / float64(c.Impostor+2)
		}
	}
	s.features = func(i int, into []float64) { into[0] = z[i] }
	mean, scale := s.meanAndScale()
	w, err := fitLogistic(s, mean, scale, 0, make([]float64, 2))
	if err != nil {
		return face.Platt{}, err
	}
	slope := rounded(w[0] / scale[0])
	if !(slope > 0) {
		// Nothing was learnt: the best that does not turn round is to know
		// nothing.
		return face.Platt{Slope: 1e-6}, nil
	}
	return face.Platt{Slope: slope, Offset: rounded(w[1] - slope*mean[0])}, nil
}

func sigmoid(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
