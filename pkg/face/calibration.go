package face

// OperatingPoint is a threshold with the false match rate it stands for.
type OperatingPoint struct {
	Name      string  `json:"name"`      // "fmr_1e-4"
	FMR       float64 `json:"fmr"`       // the target false match rate
	Threshold float64 `json:"threshold"` // a score at or above it is a match
}

// Calibration is what was measured of a model's impostor scores. A model
// without one has no operating points, and no decision is made with it.
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
