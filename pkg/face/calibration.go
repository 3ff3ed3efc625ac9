package face

// Interval is a confidence interval of a rate.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// OperatingPoint is a threshold with the false match rate it stands for.
type OperatingPoint struct {
	Name      string   `json:"name"`              // "fmr_1e-4"
	FMR       float64  `json:"fmr"`               // the target false match rate
	Threshold float64  `json:"threshold"`         // a score at or above it is a match
	Interval  Interval `json:"interval,omitzero"` // of the threshold's rate, at 95 %: bootstrap over people
}

// Calibration holds the measured impostor scores of a model. A model without a
// calibration has no operating points and makes no decisions.
type Calibration struct {
	Source      string           `json:"source"`      // the photos, the command and the date
	Comparisons int64            `json:"comparisons"` // impostor comparisons measured
	Points      []OperatingPoint `json:"points"`      // the named points it supports, least strict first
	Curve       []CurvePoint     `json:"curve"`       // FMR by score, score ascending, FMR descending
}

// CurvePoint is one measured point of the false match rate.
type CurvePoint struct {
	Score float64 `json:"score"`
	FMR   float64 `json:"fmr"` // share of impostor scores at or above Score
}

// HeadVariant says which features a verification head computes from two
// embeddings f and h; i counts their numbers.
type HeadVariant string

// The variants.
const (
	HeadCosine       HeadVariant = "cosine"             // the score alone
	HeadAbsolute     HeadVariant = "absolute"           // |f_i - h_i|
	HeadChiSquared   HeadVariant = "chi_squared"        // (f_i - h_i)^2 / (|f_i| + |h_i|)
	HeadSquared      HeadVariant = "squared_difference" // (f_i - h_i)^2
	HeadConcatenated HeadVariant = "concatenated"       // f_i, then h_i
)

// Features is how many numbers, each with a weight, the variant computes from
// two embeddings of that dimension. It is 0 for an unknown variant.
func (v HeadVariant) Features(dimension int) int {
	switch v {
	case HeadCosine:
		return 1
	case HeadAbsolute, HeadChiSquared, HeadSquared:
		return dimension
	case HeadConcatenated:
		return 2 * dimension
	}
	return 0
}

// Head is a verification head: with z = sum_k Weights[k] g_k + Bias over the
// features g of its variant, the probability that two embeddings are of one
// person is sigmoid(Platt.Slope * z + Platt.Offset). It assumes the stated
// prior: if only one comparison in a thousand is mated, the same evidence means
// less.
type Head struct {
	Source  string      `json:"source"` // the photos, the command and the date
	Variant HeadVariant `json:"variant"`
	Prior   float64     `json:"prior"` // share of mated pairs that the probability assumes: 0.5
	Bias    float64     `json:"bias"`
	Platt   Platt       `json:"platt"`
	Trained PairCount   `json:"trained"`  // on these pairs
	HeldOut HeldOut     `json:"held_out"` // measured on people who had no part in it
	Weights []float64   `json:"weights"`
}

// Platt turns the sum z of a head into log-odds. It is fitted on pairs that the
// weights have not seen. The slope is positive: more evidence is never less
// probable.
type Platt struct {
	Slope  float64 `json:"slope"`
	Offset float64 `json:"offset"`
}

// PairCount says how many pairs, and of how many people, were used.
type PairCount struct {
	People   int `json:"people"`
	Mated    int `json:"mated"`
	Impostor int `json:"impostor"`
}

// HeldOut is how well a head does on people that it was not trained on.
type HeldOut struct {
	PairCount
	Accuracy float64 `json:"accuracy"`                   // of "more probable than not"
	ECE      float64 `json:"expected_calibration_error"` // mean distance of the probability from the share of mated pairs
}
