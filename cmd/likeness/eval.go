package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// How eval puts numbers on its own uncertainty.
const (
	confidence = 0.95
	replicates = 2000
	seed       = 1
)

type evalCmd struct {
	pipelineFlags
	Pairs  string `required:"" type:"existingfile" placeholder:"FILE" help:"Labelled pairs, one a line: probe reference 1|0, and the name of a fold if there are folds."`
	Images string `required:"" type:"path" placeholder:"TAR|DIR" help:"Where the photos of the pairs are."`
	JSON   string `name:"json" type:"path" placeholder:"FILE" help:"Also write the report, with the ROC, as JSON."`
	DET    string `name:"det" type:"path" placeholder:"FILE.png" help:"Also draw the DET curve."`
}

// Help is what --help says beside the flags.
func (evalCmd) Help() string {
	return "Every photo goes through the server's own pipeline once; nothing is kept. " +
		"A score at or above a threshold is a match. Rates are of the comparisons that took place; " +
		"photos without a usable face are failures to acquire, counted by reason, and the report also says what the rates become " +
		"when a pair that could not be compared counts as a non-match. " +
		"Intervals at 95 % come from a bootstrap over people, or from counts (Clopper-Pearson) where the threshold was not chosen on these pairs."
}

// report is what eval found. Its JSON form is for other programs.
type report struct {
	Encoder  string    `json:"encoder"`
	Detector string    `json:"detector"`
	Pairs    string    `json:"pairs"`
	Images   string    `json:"images"`
	Version  string    `json:"version"`
	Date     time.Time `json:"date"`

	Photos     int            `json:"photos"`
	FTA        match.Rate     `json:"failure_to_acquire"`
	Failures   map[string]int `json:"failures"`
	Mated      match.Rate     `json:"mated_compared"`    // of all mated pairs, those compared
	Impostor   match.Rate     `json:"impostor_compared"` // of all impostor pairs, those compared
	Confidence float64        `json:"confidence"`

	Accuracy          match.Rate       `json:"accuracy"`
	AccuracyThreshold float64          `json:"accuracy_threshold"`
	AccuracyInterval  match.Interval   `json:"accuracy_interval"`
	Folds             *folds           `json:"folds,omitempty"`
	EER               float64          `json:"eer"`
	AtFMR             []atFMR          `json:"at_fmr"`
	Points            []atPoint        `json:"operating_points"`
	WithFailures      withFailures     `json:"failures_as_non_matches"`
	ROC               []match.DETPoint `json:"roc"`
}

type folds struct {
	Number   int     `json:"number"`
	Accuracy float64 `json:"accuracy"`
	StdErr   float64 `json:"standard_error"`
}

// atFMR is the rate at the least threshold that keeps a false match rate on
// these very pairs.
type atFMR struct {
	Target    float64        `json:"fmr"`
	Threshold float64        `json:"threshold"`
	FMR       match.Rate     `json:"false_matches"`
	FNMR      match.Rate     `json:"false_non_matches"`
	Interval  match.Interval `json:"fnmr_interval"` // bootstrap over people
	Measured  bool           `json:"measured"`      // the rule of 30 holds for the false matches
}

// atPoint is what an operating point of the model's calibration does to these
// pairs, which had no part in choosing it.
type atPoint struct {
	face.OperatingPoint
	Observed         match.Rate     `json:"false_matches"`
	ObservedInterval match.Interval `json:"fmr_interval"`
	FNMR             match.Rate     `json:"false_non_matches"`
	FNMRInterval     match.Interval `json:"fnmr_interval"`
}

// withFailures is what the rates become when every pair that could not be
// compared counts as a non-match.
type withFailures struct {
	Accuracy match.Rate   `json:"accuracy"`
	FNMR     []match.Rate `json:"false_non_matches"` // in the order of at_fmr
}

// targets are the false match rates that are reported.
func targets() []float64 { return []float64{1e-2, 1e-3} }

func (c evalCmd) Run(t *tool) (err error) {
	file, err := os.Open(c.Pairs)
	if err != nil {
		return err
	}
	pairs, err := parsePairs(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return usageError{fmt.Errorf("--pairs: %s: %w", c.Pairs, err)}
	}
	who, err := people(pairs)
	if err != nil {
		return usageError{fmt.Errorf("--pairs: %s: %w", c.Pairs, err)}
	}
	set, err := photos.Open(c.Images)
	if err != nil {
		return usageError{fmt.Errorf("--images: %w", err)}
	}
	defer set.Close()
	names := slices.Sorted(maps.Keys(who))
	there := set.Names()
	for _, name := range names {
		if _, ok := slices.BinarySearch(there, name); !ok {
			return usageError{fmt.Errorf("--images: %s has no %s, which the pairs name", c.Images, name)}
		}
	}

	pipeline, err := c.open(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	embedded, err := acquire(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, names)
	if err != nil {
		return err
	}
	byName := make(map[string]acquired, len(names))
	for i, name := range names {
		byName[name] = embedded[i]
	}
	r, err := evaluate(pairs, who, byName, pipeline.Encoder().Calibration)
	if err != nil {
		return err
	}
	r.Encoder, r.Detector = pipeline.Encoder().ID, pipeline.Detector().ID
	r.Pairs, r.Images = filepath.Base(c.Pairs), filepath.Base(c.Images)
	r.Version, r.Date = version, time.Now().UTC().Truncate(time.Second)

	if err := r.print(t.stdout); err != nil {
		return err
	}
	if c.JSON != "" {
		b, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.JSON, append(b, '\n'), 0o644); err != nil {
			return err
		}
		fmt.Fprintln(t.stderr, "wrote", c.JSON)
	}
	if c.DET != "" {
		p, err := plotDET(r)
		if err == nil {
			err = savePNG(c.DET, p)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(t.stderr, "wrote", c.DET)
	}
	return nil
}

// evaluate compares the pairs and counts.
func evaluate(pairs []pair, who map[string]string, photos map[string]acquired, cal *face.Calibration) (*report, error) {
	r := &report{Photos: len(photos), Confidence: confidence}
	var failed int
	r.Failures, failed = tally(slices.Collect(maps.Values(photos)))
	r.FTA = match.Rate{Count: int64(failed), Total: int64(len(photos))}

	var comparisons []match.Comparison
	byFold := map[string]*[2][]float64{} // mated and impostor scores
	for _, p := range pairs {
		compared := &r.Impostor
		if p.mated {
			compared = &r.Mated
		}
		compared.Total++
		probe, reference := photos[p.probe], photos[p.reference]
		if probe.failure != "" || reference.failure != "" {
			continue
		}
		compared.Count++
		score := probe.embedding.Cosine(reference.embedding)
		comparisons = append(comparisons, match.Comparison{Score: score, Probe: who[p.probe], Reference: who[p.reference]})
		if byFold[p.fold] == nil {
			byFold[p.fold] = new([2][]float64)
		}
		kind := 0
		if !p.mated {
			kind = 1
		}
		byFold[p.fold][kind] = append(byFold[p.fold][kind], score)
	}

	var mated, impostor []float64
	var parts []*match.Scores
	for _, fold := range slices.Sorted(maps.Keys(byFold)) {
		part, err := match.NewScores(byFold[fold][0], byFold[fold][1])
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		mated = append(mated, byFold[fold][0]...)
		impostor = append(impostor, byFold[fold][1]...)
	}
	scores, err := match.NewScores(mated, impostor)
	if err != nil {
		return nil, err
	}
	if pairs[0].fold != "" {
		mean, stderr, err := match.FoldAccuracy(parts)
		if err != nil {
			return nil, err
		}
		r.Folds = &folds{Number: len(parts), Accuracy: mean, StdErr: stderr}
	}

	intervals, err := match.Bootstrap(comparisons, targets(), replicates, confidence, seed)
	if err != nil {
		return nil, err
	}
	r.Accuracy, r.AccuracyThreshold = scores.Accuracy()
	r.AccuracyInterval = intervals.Accuracy
	r.EER = scores.EER()

	// A pair that could not be compared is a non-match: right for impostors,
	// wrong for mated ones.
	lostMated := r.Mated.Total - r.Mated.Count
	r.WithFailures.Accuracy = match.Rate{
		Count: r.Accuracy.Count + r.Impostor.Total - r.Impostor.Count,
		Total: r.Mated.Total + r.Impostor.Total,
	}
	for i, fmr := range targets() {
		at := scores.ThresholdAt(fmr)
		fnmr := scores.FNMR(at)
		fm := scores.FMR(at)
		r.AtFMR = append(r.AtFMR, atFMR{
			Target: fmr, Threshold: at, FMR: fm, FNMR: fnmr,
			Interval: intervals.FNMR[i], Measured: fm.Count >= match.Rule30,
		})
		r.WithFailures.FNMR = append(r.WithFailures.FNMR, match.Rate{Count: fnmr.Count + lostMated, Total: r.Mated.Total})
	}
	for _, p := range match.NewPolicy(cal).Points() {
		fm, fnm := scores.FMR(p.Threshold), scores.FNMR(p.Threshold)
		r.Points = append(r.Points, atPoint{
			OperatingPoint: p, Observed: fm, ObservedInterval: fm.Interval(confidence),
			FNMR: fnm, FNMRInterval: fnm.Interval(confidence),
		})
	}
	r.ROC = corners(scores.DET())
	return r, nil
}

// corners leaves the points that make the shape: of those with the same false
// match rate, the one with the least false non-match rate.
func corners(det []match.DETPoint) []match.DETPoint {
	return slices.CompactFunc(det, func(a, b match.DETPoint) bool { return a.FMR == b.FMR })
}

// print writes the report for people.
func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	row("%s with %s on %s\n", r.Encoder, r.Detector, r.Pairs)
	row("photos\t%d", r.Photos)
	failures := ""
	if r.FTA.Count > 0 {
		failures = ": " + listed(r.Failures)
	}
	row("failures to acquire\t%s\t%s%s", percent(r.FTA.Value()), r.FTA, failures)
	row("mated pairs compared\t%d of %d", r.Mated.Count, r.Mated.Total)
	row("impostor pairs compared\t%d of %d", r.Impostor.Count, r.Impostor.Total)
	row("")
	row("best-threshold accuracy\t%s\t%s\t[%s]\tat %.4f", percent(r.Accuracy.Value()), r.Accuracy, span(r.AccuracyInterval), r.AccuracyThreshold)
	row("  failures as non-matches\t%s\t%s", percent(r.WithFailures.Accuracy.Value()), r.WithFailures.Accuracy)
	if r.Folds != nil {
		row("accuracy over %d folds\t%s\t± %s", r.Folds.Number, percent(r.Folds.Accuracy), percent(r.Folds.StdErr))
	}
	row("equal error rate\t%s", percent(r.EER))
	row("")
	row("AT FMR\tTHRESHOLD\tFALSE MATCHES\tFNMR\tNON-MATCHES\t95 %% INTERVAL\tTAR\tTAR, FAILURES AS NON-MATCHES")
	rough := false
	for i, a := range r.AtFMR {
		star := ""
		if !a.Measured {
			star, rough = "*", true
		}
		row("%g%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s\t%s", a.Target, star, a.Threshold, a.FMR, percent(a.FNMR.Value()), a.FNMR, span(a.Interval),
			percent(1-a.FNMR.Value()), percent(1-r.WithFailures.FNMR[i].Value()))
	}
	if len(r.Points) > 0 {
		row("")
		row("OPERATING POINT\tTHRESHOLD\tFALSE MATCHES\tOBSERVED FMR\t95 %% INTERVAL\tFNMR\t95 %% INTERVAL")
		for _, p := range r.Points {
			row("%s\t%.4f\t%s\t%s\t[%s]\t%s\t[%s]", p.Name, p.Threshold, p.Observed, percent(p.Observed.Value()), span(p.ObservedInterval),
				percent(p.FNMR.Value()), span(p.FNMRInterval))
		}
	}
	row("")
	row("ROC: FMR\tTAR")
	for _, fmr := range []float64{0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001} {
		if p, ok := r.at(fmr); ok {
			row("%g\t%s", fmr, percent(1-p.FNMR))
		}
	}
	if rough {
		row("\n* rests on fewer than %d false matches: take it as a hint (rule of 30, ISO/IEC 19795-1)", match.Rule30)
	}
	return w.Flush()
}

// at is the point of the ROC with the most true matches at a false match rate
// of at most fmr. It is not ok when the pairs cannot show so small a rate.
func (r *report) at(fmr float64) (match.DETPoint, bool) {
	i := slices.IndexFunc(r.ROC, func(p match.DETPoint) bool { return p.FMR <= fmr })
	if fmr*float64(r.Impostor.Count) < 1 {
		return match.DETPoint{}, false
	}
	return r.ROC[i], true // the last has a rate of 0, so there is one
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

func span(i match.Interval) string { return fmt.Sprintf("%.2f, %.2f", 100*i.Low, 100*i.High) }
