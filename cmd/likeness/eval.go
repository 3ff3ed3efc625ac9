package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// How eval puts numbers on its own uncertainty.
const (
	confidence = 0.95
	seed       = 1
)

type evalCmd struct {
	pipelineFlags
	Images   string `required:"" type:"path" placeholder:"TAR|DIR" help:"Where the photos are; for --identify and --one-shot, each person's in a folder of their own."`
	Pairs    string `type:"existingfile" placeholder:"FILE" help:"Verification on labelled pairs, one a line: probe reference 1|0, and the name of a fold if there are folds; or LFW's own pairs.txt."`
	Identify bool   `help:"Open-set identification: one photo of half of the people is enrolled, and others of theirs and of everybody else are searched for."`
	OneShot  bool   `help:"One-shot identification: who of N is this, from a single enrolled photo of each."`
	Against  string `placeholder:"ID" help:"With --one-shot: a second encoder to put beside it, such as an untrained one."`
	Labels   string `type:"existingfile" placeholder:"FILE.csv" help:"Lines of photo,group or person,group: the rates of each group, too."`
	JSON     string `name:"json" type:"path" placeholder:"FILE" help:"Also write the report, with the curves, as JSON."`
	HTML     string `name:"html" type:"path" placeholder:"FILE" help:"Also write the report, with plots, as a page that needs nothing else."`
	DET      string `name:"det" type:"path" placeholder:"FILE.png" help:"Also draw the DET curve of the pairs."`
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
	Pairs    string    `json:"pairs,omitempty"`
	Images   string    `json:"images"`
	Version  string    `json:"version"`
	Date     time.Time `json:"date"`

	Photos     int            `json:"photos"`
	FTA        measure.Rate   `json:"failure_to_acquire"`
	Failures   map[string]int `json:"failures"`
	Confidence float64        `json:"confidence"`

	*verification                       // nil without pairs
	Identification *identification      `json:"identification,omitempty"`
	OneShot        *oneShot             `json:"one_shot,omitempty"`
	Groups         []group              `json:"groups,omitempty"`
	Head           *measure.Reliability `json:"head,omitempty"` // of the probabilities of the encoder's head, on the pairs
}

// verification is what the pairs show.
type verification struct {
	Mated    measure.Rate `json:"mated_compared"`    // of all mated pairs, those compared
	Impostor measure.Rate `json:"impostor_compared"` // of all impostor pairs, those compared

	Accuracy          measure.Rate       `json:"accuracy"`
	AccuracyThreshold float64            `json:"accuracy_threshold"`
	AccuracyInterval  face.Interval      `json:"accuracy_interval"`
	Folds             *folds             `json:"folds,omitempty"`
	EER               float64            `json:"eer"`
	AtFMR             []atFMR            `json:"at_fmr"`
	Points            []atPoint          `json:"operating_points"`
	WithFailures      withFailures       `json:"failures_as_non_matches"`
	ROC               []measure.DETPoint `json:"roc"`
}

type folds struct {
	Number   int     `json:"number"`
	Accuracy float64 `json:"accuracy"`
	StdErr   float64 `json:"standard_error"`
}

// atFMR is the rate at the least threshold that keeps a false match rate on
// these very pairs.
type atFMR struct {
	Target    float64       `json:"fmr"`
	Threshold float64       `json:"threshold"`
	FMR       measure.Rate  `json:"false_matches"`
	FNMR      measure.Rate  `json:"false_non_matches"`
	Interval  face.Interval `json:"fnmr_interval"` // bootstrap over people
	Measured  bool          `json:"measured"`      // the rule of 30 holds for the false matches
}

// atPoint is what an operating point of the model's calibration does to these
// pairs, which had no part in choosing it.
type atPoint struct {
	face.OperatingPoint
	Observed         measure.Rate  `json:"false_matches"`
	ObservedInterval face.Interval `json:"fmr_interval"`
	FNMR             measure.Rate  `json:"false_non_matches"`
	FNMRInterval     face.Interval `json:"fnmr_interval"`
}

// withFailures is what the rates become when every pair that could not be
// compared counts as a non-match.
type withFailures struct {
	Accuracy measure.Rate   `json:"accuracy"`
	FNMR     []measure.Rate `json:"false_non_matches"` // in the order of at_fmr
}

// targets are the false match rates that are reported.
func targets() []float64 { return []float64{1e-2, 1e-3} }

func (c evalCmd) Run(t *tool) (err error) {
	switch {
	case c.Pairs == "" && !c.Identify && !c.OneShot:
		return usageError{errors.New("nothing to measure: --pairs, --identify or --one-shot is missing")}
	case c.Against != "" && !c.OneShot:
		return usageError{errors.New("--against: a second encoder is for --one-shot")}
	case c.DET != "" && c.Pairs == "":
		return usageError{errors.New("--det: the curve is of --pairs")}
	}
	set, err := photos.Open(c.Images)
	if err != nil {
		return usageError{fmt.Errorf("--images: %w", err)}
	}
	defer set.Close()
	pairs, who, err := c.people(set)
	if err != nil {
		return usageError{err}
	}
	names := slices.Sorted(maps.Keys(who))
	groups, err := c.groups(who)
	if err != nil {
		return usageError{fmt.Errorf("--labels: %s: %w", c.Labels, err)}
	}

	pipeline, err := c.open(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	encoders := []string{pipeline.Encoder().ID}
	if c.Against != "" {
		encoders = append(encoders, c.Against)
		if _, err := pipeline.Registry.Model(c.Against); err != nil {
			return usageError{fmt.Errorf("--against: %w", err)}
		}
	}
	embedded, err := acquire(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, names, encoders...)
	if err != nil {
		return err
	}
	byName := make(map[string]acquired, len(names))
	for i, name := range names {
		byName[name] = embedded[i]
	}

	r := &report{}
	if c.Pairs != "" {
		if r, err = evaluate(pairs, who, byName, pipeline.Encoder().Calibration); err != nil {
			return err
		}
		r.Pairs = filepath.Base(c.Pairs)
		r.Head = believed(pairs, byName, match.NewHead(pipeline.Encoder().Head))
	}
	r.acquired(byName)
	if c.Identify {
		if r.Identification, err = identify(names, byName, groups, pipeline.Encoder().Calibration); err != nil {
			return usageError{err}
		}
	}
	if c.OneShot {
		if r.OneShot, err = oneShots(names, byName, encoders); err != nil {
			return usageError{err}
		}
	}
	r.Groups = byGroup(r.verification, pairs, byName, groups)
	r.Encoder, r.Detector, r.Images = pipeline.Encoder().ID, pipeline.Detector().ID, filepath.Base(c.Images)
	r.Version, r.Date = version, time.Now().UTC().Truncate(time.Second)
	return c.write(t, r)
}

// people are the pairs, if there are any, and everybody who is on a photo that
// is needed.
func (c evalCmd) people(set photos.Set) (pairs []pair, who map[string]string, err error) {
	who = map[string]string{}
	if c.Pairs != "" {
		file, err := os.Open(c.Pairs)
		if err != nil {
			return nil, nil, err
		}
		pairs, err = parsePairs(file)
		if err = errors.Join(err, file.Close()); err == nil {
			underPrefix(pairs, set.Names())
			who, err = people(pairs)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("--pairs: %s: %w", c.Pairs, err)
		}
	}
	for name := range who {
		if _, ok := slices.BinarySearch(set.Names(), name); !ok {
			return nil, nil, fmt.Errorf("--images: %s has no %s, which the pairs name", c.Images, name)
		}
	}
	if c.Identify || c.OneShot {
		for _, name := range set.Names() {
			if _, ok := who[name]; !ok {
				who[name] = path.Dir(name)
			}
		}
	}
	return pairs, who, nil
}

// write tells the report in every form that was asked for.
func (c evalCmd) write(t *tool, r *report) error {
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
	if c.HTML != "" {
		if err := writePage(c.HTML, r); err != nil {
			return err
		}
		fmt.Fprintln(t.stderr, "wrote", c.HTML)
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

// acquired counts the photos and those without a usable face.
func (r *report) acquired(photos map[string]acquired) {
	var failed int
	r.Photos, r.Confidence = len(photos), confidence
	r.Failures, failed = tally(slices.Collect(maps.Values(photos)))
	r.FTA = measure.Rate{Count: int64(failed), Total: int64(len(photos))}
}

// believed says how far the probabilities of a head can be believed on the
// pairs; nil when there is no head.
func believed(pairs []pair, photos map[string]acquired, head *match.Head) *measure.Reliability {
	var p []float64
	var mated []bool
	for _, pair := range pairs {
		if v, ok := head.Probability(photos[pair.probe].embedding, photos[pair.reference].embedding); ok {
			p, mated = append(p, v), append(mated, pair.mated)
		}
	}
	if len(p) == 0 {
		return nil
	}
	r := measure.MeasureReliability(p, mated)
	return &r
}

// evaluate compares the pairs and counts.
func evaluate(pairs []pair, who map[string]string, photos map[string]acquired, cal *face.Calibration) (*report, error) {
	r := &report{verification: &verification{}}
	r.acquired(photos)

	var comparisons []measure.Comparison
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
		comparisons = append(comparisons, measure.Comparison{Score: score, Probe: who[p.probe], Reference: who[p.reference]})
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
	var parts []*measure.Scores
	for _, fold := range slices.Sorted(maps.Keys(byFold)) {
		part, err := measure.NewScores(byFold[fold][0], byFold[fold][1])
		if err != nil {
			return nil, err
		}
		parts = append(parts, part)
		mated = append(mated, byFold[fold][0]...)
		impostor = append(impostor, byFold[fold][1]...)
	}
	scores, err := measure.NewScores(mated, impostor)
	if err != nil {
		return nil, err
	}
	if pairs[0].fold != "" {
		mean, stderr, err := measure.FoldAccuracy(parts)
		if err != nil {
			return nil, err
		}
		r.Folds = &folds{Number: len(parts), Accuracy: mean, StdErr: stderr}
	}

	intervals, err := measure.Bootstrap(comparisons, measure.DefaultOptions())
	if err != nil {
		return nil, err
	}
	r.Accuracy, r.AccuracyThreshold = scores.Accuracy()
	r.AccuracyInterval = intervals.Accuracy
	r.EER = scores.EER()

	// A pair that could not be compared is a non-match: right for impostors,
	// wrong for mated ones.
	lostMated := r.Mated.Total - r.Mated.Count
	r.WithFailures.Accuracy = measure.Rate{
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
		r.WithFailures.FNMR = append(r.WithFailures.FNMR, measure.Rate{Count: fnmr.Count + lostMated, Total: r.Mated.Total})
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
func corners(det []measure.DETPoint) []measure.DETPoint {
	return slices.CompactFunc(det, func(a, b measure.DETPoint) bool { return a.FMR == b.FMR })
}

// rowSheet is the report for people: blocks of rows of cells.
type rowSheet struct{ Blocks []block }

type block struct {
	Head []string // of the columns; nil where the first cell says it all
	Rows [][]string
}

// head begins a block with columns of these names, divided by tabs.
func (s *rowSheet) head(format string, args ...any) {
	s.Blocks = append(s.Blocks, block{Head: strings.Split(fmt.Sprintf(format, args...), "\t")})
}

// next begins a block.
func (s *rowSheet) next() { s.Blocks = append(s.Blocks, block{}) }

// row adds a row to the last block, its cells divided by tabs.
func (s *rowSheet) row(format string, args ...any) {
	b := &s.Blocks[len(s.Blocks)-1]
	b.Rows = append(b.Rows, strings.Split(fmt.Sprintf(format, args...), "\t"))
}

// print writes the report for people.
func (r *report) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, r.title())
	for _, b := range r.sheet().Blocks {
		fmt.Fprintln(w)
		if b.Head != nil {
			fmt.Fprintln(w, strings.Join(b.Head, "\t"))
		}
		for _, row := range b.Rows {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
	}
	return w.Flush()
}

func (r *report) title() string {
	on := r.Pairs
	if on == "" {
		on = r.Images
	}
	return fmt.Sprintf("%s with %s on %s", r.Encoder, r.Detector, on)
}

func (r *report) sheet() *rowSheet {
	s := &rowSheet{}
	s.next()
	s.row("photos\t%d", r.Photos)
	failures := ""
	if r.FTA.Count > 0 {
		failures = ": " + listed(r.Failures)
	}
	s.row("failures to acquire\t%s\t%s%s", percent(r.FTA.Value()), r.FTA, failures)
	rough := r.verificationRows(s)
	rough = r.Identification.rows(s) || rough
	r.OneShot.rows(s)
	groupRows(s, r.Groups)
	if rough {
		s.next()
		s.row("* rests on fewer than %d errors of strangers: take it as a hint (rule of 30, ISO/IEC 19795-1)", match.Rule30)
	}
	return s
}

// verificationRows adds what the pairs show, and reports whether some of it is
// rough.
func (r *report) verificationRows(s *rowSheet) (rough bool) {
	if r.verification == nil {
		return false
	}
	s.row("mated pairs compared\t%d of %d", r.Mated.Count, r.Mated.Total)
	s.row("impostor pairs compared\t%d of %d", r.Impostor.Count, r.Impostor.Total)
	s.next()
	s.row("best-threshold accuracy\t%s\t%s\t[%s]\tat %.4f", percent(r.Accuracy.Value()), r.Accuracy, span(r.AccuracyInterval), r.AccuracyThreshold)
	s.row("  failures as non-matches\t%s\t%s", percent(r.WithFailures.Accuracy.Value()), r.WithFailures.Accuracy)
	if r.Folds != nil {
		s.row("accuracy over %d folds\t%s\t± %s", r.Folds.Number, percent(r.Folds.Accuracy), percent(r.Folds.StdErr))
	}
	s.row("equal error rate\t%s", percent(r.EER))
	if r.Head != nil {
		s.row("the head: accuracy\t%s", percent(r.Head.Accuracy))
		s.row("  expected calibration error\t%s", percent(r.Head.ECE))
	}
	s.head("AT FMR\tTHRESHOLD\tFALSE MATCHES\tFNMR\tNON-MATCHES\t95 %% INTERVAL\tTAR\tTAR, FAILURES AS NON-MATCHES")
	for i, a := range r.AtFMR {
		star := ""
		if !a.Measured {
			star, rough = "*", true
		}
		s.row("%g%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s\t%s", a.Target, star, a.Threshold, a.FMR, percent(a.FNMR.Value()), a.FNMR, span(a.Interval),
			percent(1-a.FNMR.Value()), percent(1-r.WithFailures.FNMR[i].Value()))
	}
	if len(r.Points) > 0 {
		s.head("OPERATING POINT\tTHRESHOLD\tFALSE MATCHES\tOBSERVED FMR\t95 %% INTERVAL\tFNMR\t95 %% INTERVAL")
		for _, p := range r.Points {
			s.row("%s\t%.4f\t%s\t%s\t[%s]\t%s\t[%s]", p.Name, p.Threshold, p.Observed, percent(p.Observed.Value()), span(p.ObservedInterval),
				percent(p.FNMR.Value()), span(p.FNMRInterval))
		}
	}
	s.head("ROC: FMR\tTAR")
	for _, fmr := range []float64{0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001} {
		if p, ok := r.at(fmr); ok {
			s.row("%g\t%s", fmr, percent(1-p.FNMR))
		}
	}
	return rough
}

// at is the point of the ROC with the most true matches at a false match rate
// of at most fmr. It is not ok when the pairs cannot show so small a rate.
func (r *report) at(fmr float64) (measure.DETPoint, bool) {
	i := slices.IndexFunc(r.ROC, func(p measure.DETPoint) bool { return p.FMR <= fmr })
	if fmr*float64(r.Impostor.Count) < 1 {
		return measure.DETPoint{}, false
	}
	return r.ROC[i], true // the last has a rate of 0, so there is one
}

func percent(v float64) string { return fmt.Sprintf("%.2f %%", 100*v) }

func span(i face.Interval) string { return fmt.Sprintf("%.2f, %.2f", 100*i.Low, 100*i.High) }
