package measure

import (
	"maps"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// Verification is what labelled pairs show about 1:1 comparisons.
type Verification struct {
	Mated    Rate `json:"mated_compared"`    // of all mated pairs, those that could be compared
	Impostor Rate `json:"impostor_compared"` // of all impostor pairs, those that could be compared

	Accuracy          Rate            `json:"accuracy"`
	AccuracyThreshold float64         `json:"accuracy_threshold"`
	AccuracyInterval  face.Interval   `json:"accuracy_interval"`
	Folds             *CrossValidated `json:"folds,omitempty"`
	EER               float64         `json:"eer"`
	AtFMR             []RatesAtFMR    `json:"at_fmr"`
	Points            []RatesAtPoint  `json:"operating_points"`
	WithFailures      WithFailures    `json:"failures_as_non_matches"`
	ROC               []DETPoint      `json:"roc"` // of the points with the same FMR, the one with the least FNMR
}

// CrossValidated is the accuracy of [FoldAccuracy].
type CrossValidated struct {
	Number   int     `json:"number"` // of folds
	Accuracy float64 `json:"accuracy"`
	StdErr   float64 `json:"standard_error"`
}

// RatesAtFMR are the rates at the least threshold that keeps a false match rate
// on these same pairs.
type RatesAtFMR struct {
	Target    float64       `json:"fmr"`
	Threshold float64       `json:"threshold"`
	FMR       Rate          `json:"false_matches"`
	FNMR      Rate          `json:"false_non_matches"`
	Interval  face.Interval `json:"fnmr_interval"` // bootstrap over people
	Measured  bool          `json:"measured"`      // there are at least match.Rule30 false matches
}

// RatesAtPoint are the rates at an operating point of the model's calibration,
// which was not chosen on these pairs. The intervals are from a bootstrap over
// people, or of Clopper and Pearson where nothing was counted.
type RatesAtPoint struct {
	face.OperatingPoint
	Observed         Rate          `json:"false_matches"`
	ObservedInterval face.Interval `json:"fmr_interval"`
	FNMR             Rate          `json:"false_non_matches"`
	FNMRInterval     face.Interval `json:"fnmr_interval"`
}

// WithFailures are the rates if every pair that could not be compared counts as
// a non-match.
type WithFailures struct {
	Accuracy Rate   `json:"accuracy"`
	FNMR     []Rate `json:"false_non_matches"` // in the order of Verification.AtFMR
}

// VerifyPairs compares the pairs and counts the errors. people names the person
// on each photo, as [PeopleOnPhotos] does; photos holds every photo of the pairs.
// A nil calibration has no operating points. Invalid: no mated or no impostor
// pair could be compared, in all pairs or in a fold.
func VerifyPairs(pairs []Pair, people map[string]string, photos map[string]Photo, cal *face.Calibration, o Options) (*Verification, error) {
	v := &Verification{}
	var comparisons []Comparison
	type scoresOfFold struct{ mated, impostor []float64 }
	folds := map[string]*scoresOfFold{}
	for _, p := range pairs {
		compared := &v.Impostor
		if p.Mated {
			compared = &v.Mated
		}
		probe, reference := photos[p.Probe].Embedding(), photos[p.Reference].Embedding()
		compared.Add(probe != nil && reference != nil)
		if probe == nil || reference == nil {
			continue
		}
		score := probe.Cosine(reference)
		comparisons = append(comparisons, Comparison{Score: score, Probe: people[p.Probe], Reference: people[p.Reference]})
		fold := folds[p.Fold]
		if fold == nil {
			fold = &scoresOfFold{}
			folds[p.Fold] = fold
		}
		if p.Mated {
			fold.mated = append(fold.mated, score)
		} else {
			fold.impostor = append(fold.impostor, score)
		}
	}

	var mated, impostor []float64
	var parts []*Scores
	for _, name := range slices.Sorted(maps.Keys(folds)) {
		fold := folds[name]
		part, err := NewScores(fold.mated, fold.impostor)
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		mated = append(mated, fold.mated...)
		impostor = append(impostor, fold.impostor...)
	}
	scores, err := NewScores(mated, impostor)
	if err != nil {
		return nil, err
	}
	if pairs[0].Fold != "" {
		mean, stderr, err := FoldAccuracy(parts)
		if err != nil {
			return nil, err
		}
		v.Folds = &CrossValidated{Number: len(parts), Accuracy: mean, StdErr: stderr}
	}
	confidence, err := Bootstrap(comparisons, o)
	if err != nil {
		return nil, err
	}
	v.count(scores, confidence, cal, o)
	v.drawPoints(comparisons, o)
	return v, nil
}

// drawPoints finds the intervals of the rates at the operating points. Their
// thresholds were not chosen on these pairs, but pairs that share a person are
// not independent: the counts alone would give intervals that are far too
// narrow.
func (v *Verification) drawPoints(comparisons []Comparison, o Options) {
	for _, kind := range []struct {
		mated bool
		rate  func(p *RatesAtPoint) (Rate, *face.Interval)
	}{
		{true, func(p *RatesAtPoint) (Rate, *face.Interval) { return p.FNMR, &p.FNMRInterval }},
		{false, func(p *RatesAtPoint) (Rate, *face.Interval) { return p.Observed, &p.ObservedInterval }},
	} {
		var probes, references []string
		var scores []float64
		for _, c := range comparisons {
			if c.Mated() == kind.mated {
				probes, references, scores = append(probes, c.Probe), append(references, c.Reference), append(scores, c.Score)
			}
		}
		drawn := make([][]float64, len(v.Points))
		resample(probes, references, o.Replicates, o, func(weight []float64) []float64 {
			for i, p := range v.Points {
				var wrong, total float64
				for j, w := range weight {
					total += w
					if (scores[j] < p.Threshold) == kind.mated {
						wrong += w
					}
				}
				if total > 0 {
					drawn[i] = append(drawn[i], wrong/total)
				}
			}
			return nil
		})
		for i := range v.Points {
			rate, interval := kind.rate(&v.Points[i])
			*interval = intervalOf(drawn[i], rate, o.Confidence)
		}
	}
}

// count fills in the rates.
func (v *Verification) count(scores *Scores, intervals Confidence, cal *face.Calibration, o Options) {
	v.Accuracy, v.AccuracyThreshold = scores.Accuracy()
	v.AccuracyInterval = intervals.Accuracy
	v.EER = scores.EER()
	v.ROC = slices.CompactFunc(scores.DET(), func(a, b DETPoint) bool { return a.FMR == b.FMR })

	// A pair that could not be compared is a non-match, which is right for
	// impostors and wrong for mated pairs.
	v.WithFailures.Accuracy = Rate{
		Count: v.Accuracy.Count + v.Impostor.Total - v.Impostor.Count,
		Total: v.Mated.Total + v.Impostor.Total,
	}
	for i, target := range o.FMRs {
		threshold := scores.ThresholdAt(target)
		fmr, fnmr := scores.FMR(threshold), scores.FNMR(threshold)
		v.AtFMR = append(v.AtFMR, RatesAtFMR{
			Target: target, Threshold: threshold, FMR: fmr, FNMR: fnmr,
			Interval: intervals.FNMR[i], Measured: fmr.Count >= match.Rule30,
		})
		v.WithFailures.FNMR = append(v.WithFailures.FNMR, Rate{Count: fnmr.Count + v.Mated.Total - v.Mated.Count, Total: v.Mated.Total})
	}
	for _, p := range match.NewPolicy(cal).Points() {
		fmr, fnmr := scores.FMR(p.Threshold), scores.FNMR(p.Threshold)
		v.Points = append(v.Points, RatesAtPoint{
			OperatingPoint: p, Observed: fmr, FNMR: fnmr,
		})
	}
}

// ROCAt is the point of the ROC with the most true matches at a false match
// rate of at most fmr. It is not ok when there are too few pairs to show so
// small a rate.
func (v *Verification) ROCAt(fmr float64) (point DETPoint, ok bool) {
	if fmr*float64(v.Impostor.Count) < 1 {
		return DETPoint{}, false
	}
	// The last point has a rate of 0, so there is one.
	return v.ROC[slices.IndexFunc(v.ROC, func(p DETPoint) bool { return p.FMR <= fmr })], true
}

// MeasureHeadOnPairs says how well the probabilities of a head agree with
// labelled pairs; nil when there is no head or no pair that it can judge.
func MeasureHeadOnPairs(head *match.Head, pairs []Pair, photos map[string]Photo) *Reliability {
	var probabilities []float64
	var mated []bool
	for _, pair := range pairs {
		if p, ok := head.Probability(photos[pair.Probe].Embedding(), photos[pair.Reference].Embedding()); ok {
			probabilities, mated = append(probabilities, p), append(mated, pair.Mated)
		}
	}
	if len(probabilities) == 0 {
		return nil
	}
	r := MeasureReliability(probabilities, mated)
	return &r
}
