package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// report is what eval measured. Its JSON form is for other programs.
type report struct {
	Encoder   string    `json:"encoder"`
	Detector  string    `json:"detector"`
	Pairs     string    `json:"pairs,omitempty"`
	Images    string    `json:"images"`
	Strangers string    `json:"strangers,omitempty"` // the other set
	Version   string    `json:"version"`
	Date      time.Time `json:"date"`

	Photos     int            `json:"photos"`
	FTA        measure.Rate   `json:"failure_to_acquire"`
	Failures   map[string]int `json:"failures"`
	Confidence float64        `json:"confidence"`

	QualityGate string  `json:"quality_gate"` // auto or off
	Margin      float64 `json:"margin,omitempty"`

	*measure.Verification                               // nil without pairs
	Identification        *measure.Identification       `json:"identification,omitempty"`
	OneShot               *measure.OneShot              `json:"one_shot,omitempty"`
	Enrolled              []measure.EnrolledRates       `json:"enrolled,omitempty"`
	Groups                []measure.GroupVerification   `json:"groups,omitempty"`
	All                   *measure.AllComparisonsReport `json:"all_comparisons,omitempty"`
	GroupComparisons      *measure.GroupComparisons     `json:"group_comparisons,omitempty"`
	Head                  *measure.Reliability          `json:"head,omitempty"` // of the probabilities of the encoder's head, on the pairs
}

// countPhotos counts the photos and the failures to acquire.
func (r *report) countPhotos(photos map[string]measure.Photo, o measure.Options) {
	r.Photos, r.Confidence = len(photos), o.Confidence
	r.Failures, r.FTA = measure.CountFailures(slices.Collect(maps.Values(photos)))
}

// reportSheet is the report for people: blocks of rows of cells.
type reportSheet struct{ Blocks []block }

type block struct {
	Head []string // of the columns; nil where the first cell says it all
	Rows [][]string
}

// startTable begins a block with column names, separated by tabs.
func (s *reportSheet) startTable(format string, args ...any) {
	s.Blocks = append(s.Blocks, block{Head: strings.Split(fmt.Sprintf(format, args...), "\t")})
}

// startBlock begins a block without column names.
func (s *reportSheet) startBlock() { s.Blocks = append(s.Blocks, block{}) }

// addRow adds a row to the last block, its cells separated by tabs.
func (s *reportSheet) addRow(format string, args ...any) {
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

func (r *report) sheet() *reportSheet {
	s := &reportSheet{}
	s.startBlock()
	s.addRow("photos\t%d", r.Photos)
	failures := ""
	if r.FTA.Count > 0 {
		failures = ": " + describeFailures(r.Failures)
	}
	s.addRow("failures to acquire\t%s\t%s%s", formatPercent(r.FTA.Value()), r.FTA, failures)
	s.addRow("quality gate\t%s", r.QualityGate)
	if r.Margin > 0 {
		s.addRow("margin around each photo\t%g of its longer side", r.Margin)
	}
	rough := r.addVerification(s)
	rough = s.addAllComparisons(r.All, r.Strangers) || rough
	rough = s.addIdentification(r.Identification) || rough
	s.addOneShot(r.OneShot)
	s.addEnrolled(r.Enrolled)
	s.addGroups(r.Groups)
	s.addGroupComparisons(r.GroupComparisons)
	if rough {
		s.startBlock()
		s.addRow("* rests on fewer than %d errors of strangers: take it as a hint (rule of 30, ISO/IEC 19795-1)", match.Rule30)
	}
	return s
}

// addVerification adds what the pairs show, and reports whether some of it is
// rough.
func (r *report) addVerification(s *reportSheet) (rough bool) {
	if r.Verification == nil {
		return false
	}
	s.addRow("mated pairs compared\t%d of %d", r.Mated.Count, r.Mated.Total)
	s.addRow("impostor pairs compared\t%d of %d", r.Impostor.Count, r.Impostor.Total)
	s.startBlock()
	s.addRow("best-threshold accuracy\t%s\t%s\t[%s]\tat %.4f", formatPercent(r.Accuracy.Value()), r.Accuracy, formatInterval(r.AccuracyInterval), r.AccuracyThreshold)
	s.addRow("  failures as non-matches\t%s\t%s", formatPercent(r.WithFailures.Accuracy.Value()), r.WithFailures.Accuracy)
	if r.Folds != nil {
		s.addRow("accuracy over %d folds\t%s\t± %s", r.Folds.Number, formatPercent(r.Folds.Accuracy), formatPercent(r.Folds.StdErr))
	}
	s.addRow("equal error rate\t%s", formatPercent(r.EER))
	if r.Head != nil {
		s.addRow("the head: accuracy\t%s", formatPercent(r.Head.Accuracy))
		s.addRow("  expected calibration error\t%s", formatPercent(r.Head.ECE))
	}
	s.startTable("AT FMR\tTHRESHOLD\tFALSE MATCHES\tFNMR\tNON-MATCHES\t95 %% INTERVAL\tTAR\tTAR, FAILURES AS NON-MATCHES")
	for i, a := range r.AtFMR {
		star := ""
		if !a.Measured {
			star, rough = "*", true
		}
		s.addRow("%g%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s\t%s", a.Target, star, a.Threshold, a.FMR, formatPercent(a.FNMR.Value()), a.FNMR, formatInterval(a.Interval),
			formatPercent(1-a.FNMR.Value()), formatPercent(1-r.WithFailures.FNMR[i].Value()))
	}
	if len(r.Points) > 0 {
		s.startTable("OPERATING POINT\tTHRESHOLD\tFALSE MATCHES\tOBSERVED FMR\t95 %% INTERVAL\tFNMR\t95 %% INTERVAL")
		for _, p := range r.Points {
			s.addRow("%s\t%.4f\t%s\t%s\t[%s]\t%s\t[%s]", p.Name, p.Threshold, p.Observed, formatPercent(p.Observed.Value()), formatInterval(p.ObservedInterval),
				formatPercent(p.FNMR.Value()), formatInterval(p.FNMRInterval))
		}
	}
	s.startTable("ROC: FMR\tTAR")
	for _, fmr := range []float64{0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001} {
		if p, ok := r.ROCAt(fmr); ok {
			s.addRow("%g\t%s", fmr, formatPercent(1-p.FNMR))
		}
	}
	return rough
}

// addIdentification adds what the searches show, and reports whether some of it
// is rough.
func (s *reportSheet) addIdentification(id *measure.Identification) (rough bool) {
	if id == nil {
		return false
	}
	s.startBlock()
	s.addRow("people enrolled, one photo each\t%d", id.Gallery)
	if id.Draws > 1 {
		s.addRow("draws of who is enrolled with which photo\t%d, counted together", id.Draws)
	}
	s.addRow("people who could not be enrolled\t%s", id.NotEnrolled)
	s.addRow("photos of theirs searched for\t%d of %d", id.Mated.Count, id.Mated.Total)
	s.addRow("photos of others searched for\t%d of %d", id.Strangers.Count, id.Strangers.Total)
	s.startTable("AMONG THE FIRST\tRATE\tFOUND\t95 %% INTERVAL\tFAILURES AS MISSES")
	for _, w := range id.Within {
		s.addRow("%d\t%s\t%s\t[%s]\t%s", w.K, formatPercent(w.Found.Value()), w.Found, formatInterval(w.Interval), formatPercent(w.WithFailures.Value()))
	}
	s.startTable("AT FPIR\tTHRESHOLD\tSTRANGERS NAMED\tDIR\tIDENTIFIED\t95 %% INTERVAL\tFAILURES AS MISSES")
	for _, a := range id.AtFPIR {
		star := ""
		if !a.Measured {
			star, rough = "*", true
		}
		s.addRow("%g%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s", a.Target, star, a.Threshold, a.FPIR, formatPercent(a.DIR.Value()), a.DIR, formatInterval(a.Interval), formatPercent(a.WithFailures.Value()))
	}
	if len(id.Points) > 0 {
		s.startTable("OPERATING POINT\tTHRESHOLD\tEXPECTED FPIR\tOBSERVED\tSTRANGERS NAMED\t95 %% INTERVAL\tDIR")
		for _, p := range id.Points {
			s.addRow("%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s", p.Name, p.Threshold, formatPercent(p.Expected), formatPercent(p.Observed.Value()), p.Observed,
				formatInterval(p.ObservedInterval), formatPercent(p.DIR.Value()))
		}
	}
	for i, a := range id.AtFPIR {
		if len(id.Groups) == 0 || !a.Measured {
			continue
		}
		s.startTable("GROUP, AT FPIR %g\tFIRST\tFOUND\tDIR\tFPIR\tSTRANGERS NAMED", a.Target)
		for _, g := range id.Groups {
			s.addRow("%s\t%s\t%s\t%s\t%s\t%s", g.Group, formatRate(g.First), g.First, formatRate(g.DIR[i]), formatRate(g.FPIR[i]), g.FPIR[i])
		}
	}
	return rough
}

// addOneShot adds how often the right one of N people comes first.
func (s *reportSheet) addOneShot(o *measure.OneShot) {
	if o == nil {
		return
	}
	header := []string{fmt.Sprintf("ONE-SHOT, %d PROBES OF %d PEOPLE", o.Probes, o.People)}
	for _, e := range o.Encoders {
		header = append(header, e, "95 % INTERVAL")
	}
	s.startTable("%s\tCHANCE", strings.Join(header, "\t"))
	for _, w := range o.Ways {
		cells := []string{fmt.Sprintf("one of %d", w.N)}
		for _, m := range w.Found {
			cells = append(cells, formatPercent(m.Value), "["+formatInterval(m.Interval)+"]")
		}
		s.addRow("%s\t%s", strings.Join(cells, "\t"), formatPercent(1/float64(w.N)))
	}
}

// addGroups adds the rates of each group.
func (s *reportSheet) addGroups(groups []measure.GroupVerification) {
	if len(groups) == 0 {
		return
	}
	s.startTable("GROUP\tPHOTOS\tFAILURES TO ACQUIRE")
	for _, g := range groups {
		if g.Photos > 0 {
			s.addRow("%s\t%d\t%s", g.Group, g.Photos, formatPercent(g.FTA.Value()))
		}
	}
	for i, at := range groups[0].At {
		s.startTable("GROUP, AT %s (%.4f)\tFMR\tFALSE MATCHES\t95 %% INTERVAL\tFNMR\tNON-MATCHES\t95 %% INTERVAL", at.Name, at.Threshold)
		for _, g := range groups {
			a := g.At[i]
			s.addRow("%s\t%s\t%s\t[%s]\t%s\t%s\t[%s]", g.Group, formatRate(a.FMR), a.FMR, formatInterval(a.FMRInterval), formatRate(a.FNMR), a.FNMR, formatInterval(a.FNMRInterval))
		}
	}
}
