package match

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/optimize"
	"gonum.org/v1/gonum/stat"

	"github.com/likeness-id/likeness/pkg/face"
)

// Head turns two embeddings into the probability that they are of one person.
// A nil one knows none. It is safe for concurrent use.
type Head struct {
	face.Head
}

// NewHead makes a head of what a manifest says, which must have been checked;
// nil of nil.
func NewHead(h *face.Head) *Head {
	if h == nil {
		return nil
	}
	own := *h
	own.Weights = slices.Clone(h.Weights)
	return &Head{own}
}

// Probability is that both embeddings are of one person, 0..1, for as many
// mated as impostor pairs. All variants but the concatenated one give the same
// in both orders. It is not ok without a head, and for embeddings that are not
// of the head's length or not finite.
func (h *Head) Probability(a, b face.Embedding) (p float64, ok bool) {
	if h == nil || len(a) != len(b) || h.Variant.Features(len(a)) != len(h.Weights) {
		return 0, false
	}
	return finite(h.sure(h.logit(a, b)))
}

// OfScore is the probability that goes with a score. It is ok when the score is
// all that the head looks at; the others want the embeddings.
func (h *Head) OfScore(score float64) (p float64, ok bool) {
	if h == nil || h.Variant != face.HeadCosine || len(h.Weights) != 1 {
		return 0, false
	}
	return finite(h.sure(h.Weights[0]*score + h.Bias))
}

func finite(p float64) (float64, bool) {
	if math.IsNaN(p) {
		return 0, false
	}
	return p, true
}

// logit is what the head adds up, before the calibration.
func (h *Head) logit(a, b face.Embedding) float64 {
	g := make([]float64, len(h.Weights))
	features(h.Variant, a, b, g)
	return dot(h.Weights, g) + h.Bias
}

// sure is the calibrated probability of what the head adds up.
func (h *Head) sure(z float64) float64 { return sigmoid(h.Platt.Slope*z + h.Platt.Offset) }

func sigmoid(z float64) float64 { return 1 / (1 + math.Exp(-z)) }

func dot(a, b []float64) (sum float64) {
	for i, v := range a {
		sum += v * b[i]
	}
	return sum
}

// features writes what the variant looks at. Chi-squared was published for
// features that are never negative; ours are signed, and f + h may be zero or
// less where f and h differ most. The sum of the magnitudes is the same number
// where both are positive, and is never smaller than the difference.
func features(v face.HeadVariant, a, b face.Embedding, into []float64) {
	switch v {
	case face.HeadCosine:
		into[0] = a.Cosine(b)
	case face.HeadConcatenated:
		for i := range a {
			into[i], into[len(a)+i] = float64(a[i]), float64(b[i])
		}
	case face.HeadAbsolute:
		for i := range a {
			into[i] = math.Abs(float64(a[i]) - float64(b[i]))
		}
	case face.HeadSquared:
		for i := range a {
			d := float64(a[i]) - float64(b[i])
			into[i] = d * d
		}
	case face.HeadChiSquared:
		for i := range a {
			x, y := float64(a[i]), float64(b[i])
			into[i] = 0
			if sum := math.Abs(x) + math.Abs(y); sum != 0 { // what is no number stays so
				into[i] = (x - y) * (x - y) / sum
			}
		}
	}
}

// HeadVariants are those that can be trained. The first is the yardstick.
func HeadVariants() []face.HeadVariant {
	return []face.HeadVariant{
		face.HeadCosine, face.HeadAbsolute, face.HeadChiSquared, face.HeadSquared, face.HeadConcatenated,
	}
}

// Pair is two embeddings with the people they are of.
type Pair struct {
	A, B             face.Embedding
	PersonA, PersonB string
}

// Mated reports whether both are of one person.
func (p Pair) Mated() bool { return p.PersonA == p.PersonB }

// ridges are the strengths of the penalty on the weights that are tried.
func ridges() []float64 { return []float64{1e-4, 1e-3, 1e-2, 1e-1} }

// FitHead trains a head of the variant: logistic regression with a penalty on
// the weights of the standardised features (L2), on the pairs in train. The
// probability is calibrated on other pairs, which also choose how strong the
// penalty is: the strength that leaves the least log loss. Mated and impostor
// pairs weigh the same, however many there are of each, which makes the prior
// even. Source and held-out numbers are the caller's to add. Invalid: a kind of
// pairs is missing, the lengths differ, or numbers that are not finite.
func FitHead(variant face.HeadVariant, train, calibrate []Pair) (face.Head, error) {
	const op = "match.FitHead"
	for _, pairs := range [][]Pair{train, calibrate} {
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
	mean, scale := samples.standard()
	base := face.Head{Variant: variant, Prior: 0.5, Trained: countPairs(train), Weights: make([]float64, n)}
	best, least := face.Head{}, math.Inf(1)
	start := make([]float64, n+1)
	for _, ridge := range slices.Backward(ridges()) { // each from where the stronger one ended
		w, err := logistic(samples, mean, scale, ridge, start)
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
		if h.Platt, err = platt(&Head{h}, calibrate); err != nil {
			return face.Head{}, face.Wrap(face.Invalid, op, err)
		}
		head := &Head{h}
		p, mated := make([]float64, len(calibrate)), make([]bool, len(calibrate))
		for i, c := range calibrate {
			p[i], mated[i] = head.sure(head.logit(c.A, c.B)), c.Mated()
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

func countPairs(pairs []Pair) (c face.PairCount) {
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
	n      int // of features
	count  int
	at     func(i int, into []float64)
	target []float64
	weight []float64 // sums to 1
}

// samplesOf are the pairs, each kind with half of the weight. Where the order
// of a pair tells, both orders are cases.
func samplesOf(variant face.HeadVariant, pairs []Pair) samples {
	s := samples{n: variant.Features(len(pairs[0].A)), count: len(pairs)}
	if variant == face.HeadConcatenated {
		s.count *= 2
	}
	s.at = func(i int, into []float64) {
		p := pairs[i%len(pairs)]
		if i >= len(pairs) {
			p.A, p.B = p.B, p.A
		}
		features(variant, p.A, p.B, into)
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
	even(s.weight, mated)
	return s
}

// even scales the weights so that both kinds add up to a half.
func even(weight []float64, mated []bool) {
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

// standard is the mean of each feature and its standard deviation, or 1 where
// it never changes.
func (s samples) standard() (mean, scale []float64) {
	mean, scale = make([]float64, s.n), make([]float64, s.n)
	g := make([]float64, s.n)
	for i := range s.count {
		s.at(i, g)
		for k, v := range g {
			mean[k] += s.weight[i] * v
		}
	}
	for i := range s.count {
		s.at(i, g)
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

// logistic finds the weights of the standardised features, and the bias after
// them, with the least log loss plus ridge/2 times the squared weights.
func logistic(s samples, mean, scale []float64, ridge float64, start []float64) ([]float64, error) {
	g := make([]float64, s.n)
	both := func(w, gradient []float64) (loss float64) {
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
			s.at(i, g)
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
		Func: func(w []float64) float64 { return both(w, nil) },
		Grad: func(gradient, w []float64) { both(w, gradient) },
	}, start, &optimize.Settings{GradientThreshold: 1e-6, MajorIterations: 300}, &optimize.LBFGS{})
	// A line search that finds no better point than a very good one is no
	// failure.
	if err != nil && (result == nil || result.MajorIterations == 0) {
		return nil, err
	}
	return result.X, nil
}

// platt fits slope and offset of the log-odds. The targets are a little less
// than sure, as Platt has it, so that pairs which can be told apart without an
// error do not make a head that is infinitely sure of itself.
func platt(h *Head, pairs []Pair) (face.Platt, error) {
	c := countPairs(pairs)
	z := make([]float64, len(pairs))
	s := samplesOf(face.HeadCosine, pairs)
	for i, p := range pairs {
		z[i] = h.logit(p.A, p.B)
		if p.Mated() {
			s.target[i] = float64(c.Mated+1) / float64(c.Mated+2)
		} else {
			s.target[i] = 1 / float64(c.Impostor+2)
		}
	}
	s.at = func(i int, into []float64) { into[0] = z[i] }
	mean, scale := s.standard()
	w, err := logistic(s, mean, scale, 0, make([]float64, 2))
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

// Reliability says how far probabilities can be believed, where mated and
// impostor pairs weigh the same.
type Reliability struct {
	Bins     []Bin   `json:"bins"`
	ECE      float64 `json:"expected_calibration_error"`
	LogLoss  float64 `json:"log_loss"` // nats; ln 2 is what a coin gives
	Accuracy float64 `json:"accuracy"` // of "more probable than not"
}

// Bin holds the pairs that were given about the same probability.
type Bin struct {
	Probability float64 `json:"probability"` // their mean
	Mated       float64 `json:"mated"`       // the share of mated pairs among them
	Weight      float64 `json:"weight"`      // of all pairs, 0..1
}

// bins of the same width that a reliability is counted in.
const bins = 10

// MeasureReliability holds probabilities against the truth. Both kinds of pairs
// must be there.
func MeasureReliability(p []float64, mated []bool) Reliability {
	weight := make([]float64, len(p))
	for i := range weight {
		weight[i] = 1
	}
	even(weight, mated)
	return reliability(p, mated, weight)
}

// reliability is that of weighted pairs; the weights add up to 1.
func reliability(p []float64, mated []bool, weight []float64) (r Reliability) {
	r.Bins = make([]Bin, bins)
	for i, v := range p {
		truth := 0.0
		if mated[i] {
			truth = 1
		}
		b := &r.Bins[min(int(v*bins), bins-1)]
		b.Weight += weight[i]
		b.Probability += weight[i] * v
		b.Mated += weight[i] * truth
		if (v >= 0.5) == mated[i] {
			r.Accuracy += weight[i]
		}
		// What is certain and wrong would cost infinitely much.
		r.LogLoss -= weight[i] * math.Log(math.Max(1-math.Abs(truth-v), 1e-12))
	}
	for i := range r.Bins {
		b := &r.Bins[i]
		r.ECE += math.Abs(b.Probability - b.Mated)
		if b.Weight > 0 {
			b.Probability /= b.Weight
			b.Mated /= b.Weight
		}
	}
	r.Bins = slices.DeleteFunc(r.Bins, func(b Bin) bool { return b.Weight == 0 })
	return r
}

// Measured is a number with its confidence interval.
type Measured struct {
	Value    float64  `json:"value"`
	Interval Interval `json:"interval"`
}

// HeadMeasured is what a head is worth on pairs that had no part in it.
type HeadMeasured struct {
	Variant     face.HeadVariant `json:"variant"`
	Accuracy    Measured         `json:"accuracy"` // of "more probable than not"
	TAR         []Measured       `json:"tar"`      // at the asked false match rates, in order
	ECE         Measured         `json:"expected_calibration_error"`
	LogLoss     Measured         `json:"log_loss"`
	Gain        Measured         `json:"gain"` // log loss of the first head less this one's
	Reliability Reliability      `json:"reliability"`
}

// MeasureHeads measures heads on the same pairs. Intervals come from a
// bootstrap over people, as in [Bootstrap], and the gain over the first head is
// taken within each draw. Invalid: pairs of one kind only.
func MeasureHeads(heads []*Head, pairs []Pair, fmrs []float64, replicates int, confidence float64, seed uint64) ([]HeadMeasured, error) {
	mated := make([]bool, len(pairs))
	a, b := make([]string, len(pairs)), make([]string, len(pairs))
	for i, p := range pairs {
		mated[i], a[i], b[i] = p.Mated(), p.PersonA, p.PersonB
	}
	if !slices.Contains(mated, true) || !slices.Contains(mated, false) {
		return nil, face.Errorf(face.Invalid, "match.MeasureHeads", "heads are measured on mated and impostor pairs")
	}
	z, p := make([][]float64, len(heads)), make([][]float64, len(heads))
	order := make([][]int, len(heads))
	for k, h := range heads {
		z[k], p[k], order[k] = make([]float64, len(pairs)), make([]float64, len(pairs)), make([]int, len(pairs))
		for i, pair := range pairs {
			z[k][i] = h.logit(pair.A, pair.B)
			p[k][i] = h.sure(z[k][i])
			order[k][i] = i
		}
		slices.SortFunc(order[k], func(i, j int) int { return descending(z[k][i], z[k][j]) })
	}
	// All numbers of all heads, in one row.
	per := 3 + 1 + len(fmrs)
	numbers := func(weight []float64) []float64 {
		for i := range weight {
			if weight[i] > 0 && mated[i] {
				break
			}
			if i == len(weight)-1 {
				return nil
			}
		}
		w := slices.Clone(weight)
		even(w, mated)
		if math.IsNaN(stat.Mean(w, nil)) {
			return nil // nobody of a kind was drawn
		}
		var out []float64
		for k := range heads {
			r := reliability(p[k], mated, w)
			out = append(out, r.Accuracy, r.ECE, r.LogLoss, 0)
			out[k*per+3] = out[2] - r.LogLoss
			out = append(out, tars(z[k], order[k], mated, w, fmrs)...)
		}
		return out
	}
	ones := make([]float64, len(pairs))
	for i := range ones {
		ones[i] = 1
	}
	values := numbers(ones)
	intervals := resample(a, b, replicates, confidence, seed, numbers)
	if intervals == nil {
		return nil, face.Errorf(face.Invalid, "match.MeasureHeads", "too few people to draw from")
	}
	var out []HeadMeasured
	for k, h := range heads {
		at := func(i int) Measured { return Measured{values[k*per+i], intervals[k*per+i]} }
		m := HeadMeasured{
			Variant: h.Variant, Accuracy: at(0), ECE: at(1), LogLoss: at(2), Gain: at(3),
			Reliability: MeasureReliability(p[k], mated),
		}
		for i := range fmrs {
			m.TAR = append(m.TAR, at(4+i))
		}
		out = append(out, m)
	}
	return out, nil
}

// descending orders the highest first.
func descending(a, b float64) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

// tars are the shares of mated pairs above the least threshold that keeps each
// false match rate, for weighted pairs in descending order of their score.
func tars(score []float64, order []int, mated []bool, weight []float64, fmrs []float64) []float64 {
	out := make([]float64, len(fmrs))
	var genuine, impostor float64
	for at := 0; at < len(order); {
		tied := score[order[at]]
		for ; at < len(order) && score[order[at]] == tied; at++ {
			if i := order[at]; mated[i] {
				genuine += 2 * weight[i] // half of the weight is that of mated pairs
			} else {
				impostor += 2 * weight[i]
			}
		}
		for k, fmr := range fmrs {
			if impostor <= fmr*(1+1e-9) {
				out[k] = genuine
			}
		}
	}
	return out
}

// BestHead is the index of the head to use: the one with the least log loss of
// those that are better than the first with the confidence of the intervals,
// and else the first, which is then as good and simpler.
func BestHead(measured []HeadMeasured) int {
	best := 0
	for i, m := range measured {
		if m.Gain.Interval.Low > 0 && m.LogLoss.Value < measured[best].LogLoss.Value {
			best = i
		}
	}
	return best
}
