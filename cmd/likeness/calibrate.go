package main

import (
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

type calibrateCmd struct {
	pipelineFlags
	Images      []string `required:"" type:"path" placeholder:"TAR|DIR" help:"Set of photos that are compared with one another. May be repeated."`
	Write       string   `type:"path" placeholder:"FILE.json" help:"Write the calibration into this manifest of the encoder, instead of printing it. The file is created if it does not exist."`
	Split       bool     `help:"Also calibrate on each half of the people, and count how often strangers of the other half pass at those thresholds."`
	Head        bool     `help:"Also train a verification head, on the people with several photos. It gives the probability that the API returns."`
	Reliability string   `type:"path" placeholder:"FILE.png" help:"With --head: draw how well the probabilities of the head agree with the truth."`

	OperatingPoint string `default:"fmr_1e-4" env:"LIKENESS_OPERATING_POINT" help:"Operating point of your server (default: fmr_1e-4). If there are too few photos for it, calibrate says how many more people are needed."`
}

// Help is what --help says beside the flags.
func (calibrateCmd) Help() string {
	return "Everybody is compared with everybody else. A threshold is set for each false match rate for which there are at least " +
		"30 false matches. Two photos of one person must not be compared, so it must be known who is on each photo. " +
		"If the photos of a set are in several folders, each folder is one person. If they are all in one folder, nobody knows who is on them: " +
		"they are compared only with the photos of the other sets, which must show other people. " +
		"Strangers of one set are more alike than strangers of two sets. Comparisons within a set and all comparisons are therefore counted apart, " +
		"and a threshold keeps its rate in both. " +
		"The 95 % interval of the rate of a threshold comes from drawing people, not comparisons. " +
		"A photo needs about 1 KB of memory and a person 2 KB; comparisons need none. " +
		"A server uses the new manifest after a restart, if the manifest is in a folder of LIKENESS_MODELS_DIR."
}

func (c calibrateCmd) Run(t *tool) (err error) {
	if c.Reliability != "" && !c.Head {
		return usageError{errors.New("--reliability: needs --head, because only a head gives probabilities")}
	}
	if !slices.Contains(match.PointNames(), c.OperatingPoint) {
		return usageError{fmt.Errorf("--operating-point: %q is none of %s", c.OperatingPoint, strings.Join(match.PointNames(), ", "))}
	}
	pipeline, err := c.openPipeline(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	var portraits []measure.Portrait
	var described []string
	for i := range c.Images {
		more, description, err := c.embedSet(t, pipeline, i)
		if err != nil {
			return err
		}
		portraits = append(portraits, more...)
		described = append(described, description)
	}
	source := func(what string) string {
		return fmt.Sprintf("likeness calibrate, %s, detector %s: %s of %s",
			time.Now().UTC().Format(time.DateOnly), pipeline.Detector().ID, what, strings.Join(described, " and "))
	}
	calibrator := newCalibrator(t, portraits, c.workers())
	cal, err := calibrate(t, calibrator, source("every impostor comparison"))
	if err != nil {
		return err
	}
	if c.Split {
		if err := crossCheck(t, calibrator); err != nil {
			return err
		}
	}
	fmt.Fprint(t.stderr, describeShortfall(c.OperatingPoint, cal, calibrator.People()))
	var head *face.Head
	if c.Head {
		if head, err = c.trainHead(t, calibrator, source("pairs")); err != nil {
			return err
		}
	}
	if c.Write == "" {
		if err := printCalibration(t.stdout, cal); err != nil || head == nil {
			return err
		}
		_, err := fmt.Fprintf(t.stdout, "%s\n", formatHead(*head, ""))
		return err
	}
	if err := writeManifest(c.Write, pipeline.Encoder(), cal, head); err != nil {
		return err
	}
	fmt.Fprintln(t.stderr, "wrote", c.Write)
	return nil
}

// newCalibrator makes a calibrator that shows its progress.
func newCalibrator(t *tool, portraits []measure.Portrait, workers int) measure.Calibrator {
	return measure.Calibrator{
		Portraits: portraits, Workers: workers, Options: measure.DefaultOptions(),
		Start: func(task string, comparisons int64) measure.Progress {
			return newProgress(t.stderr, task, comparisons, false)
		},
	}
}

// calibrate calibrates and prints the operating points with their support.
func calibrate(t *tool, c measure.Calibrator, source string) (face.Calibration, error) {
	report, err := c.Calibrate(t.ctx, source)
	if err != nil {
		return face.Calibration{}, err
	}
	w := tabwriter.NewWriter(t.stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d impostor comparisons, %d of them within a set, support\nOPERATING POINT\tTHRESHOLD\tSET BY\tFALSE MATCHES\t95 %% INTERVAL OF THE RATE\n",
		report.Comparisons, report.WithinASet)
	for i, p := range report.Points {
		support := report.Support[i]
		fmt.Fprintf(w, "%s\t%.5f\t%s\t%d\t[%.3g, %.3g]\n", p.Name, p.Threshold, support.SetBy, support.FalseMatches, p.Interval.Low, p.Interval.High)
	}
	fmt.Fprintln(w)
	printGalleries(w, report.Calibration)
	return report.Calibration, w.Flush()
}

// describeShortfall says what a calibration on so many people lacks for an
// operating point, and what to do about it. It is empty when nothing is missing.
func describeShortfall(point string, cal face.Calibration, people int) string {
	s, ok := measure.ShortfallOf(point, cal, people)
	if !ok {
		return ""
	}
	return fmt.Sprintf("\n%s is missing: it needs %d impostor comparisons, %d more than these. With this calibration, a server refuses this operating point.\n"+
		"Calibrate on about %d more people (strangers to one another, with as many photos each as these %d),\n"+
		"or start the server with --operating-point=%s (LIKENESS_OPERATING_POINT), the strictest that is supported.\n\n",
		point, s.Needed, s.Missing, s.MorePeople, people, s.Strictest)
}

// crossCheck prints what the thresholds of one half of the people do to the
// other half, which is what to expect for people who were not measured.
func crossCheck(t *tool, c measure.Calibrator) error {
	checks, err := c.CrossCheck(t.ctx)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(t.stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nCALIBRATED ON\tPOINT\tTHRESHOLD\tSET BY\tOF THOSE OF THE OTHER HALF\tFMR\t95 % INTERVAL\tFACTOR")
	for _, check := range checks {
		half := []string{"first half", "second half"}[check.Half]
		fmt.Fprintf(w, "%s\t%s\t%.5f\t%s\t%s\t%.3g\t[%.3g, %.3g]\t%.2f\n",
			half, check.Point.Name, check.Point.Threshold, check.SetBy, check.Observed, check.Observed.Value(),
			check.Interval.Low, check.Interval.High, check.Observed.Value()/check.Point.FMR)
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// gallerySizes are the columns of the table for 1:N search.
func gallerySizes() []int { return []int{1, 10, 100, 1000, 10_000, 100_000} }

// printGalleries prints the threshold at which a whole search of n templates
// keeps the rate of each operating point, as LIKENESS_IDENTIFICATION=search does.
func printGalleries(w io.Writer, cal face.Calibration) {
	policy := match.NewPolicy(&cal)
	fmt.Fprint(w, "A WHOLE SEARCH OF")
	for _, n := range gallerySizes() {
		fmt.Fprintf(w, "\t%d", n)
	}
	fmt.Fprintln(w)
	for _, p := range cal.Points {
		fmt.Fprint(w, p.Name)
		for _, n := range gallerySizes() {
			if at, err := policy.Identification(p.Name, n); err == nil {
				fmt.Fprintf(w, "\t%.5f", at.Threshold)
			} else {
				fmt.Fprint(w, "\t-")
			}
		}
		fmt.Fprintln(w)
	}
}

// embedSet embeds the photos of the set with that index and says who is on them.
func (c calibrateCmd) embedSet(t *tool, pipeline *likeness.Pipeline, index int) (out []measure.Portrait, description string, err error) {
	name := c.Images[index]
	set, err := photos.Open(name)
	if err != nil {
		return nil, "", usageError{fmt.Errorf("--images: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	embedded, err := embedPhotos(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, set.Names())
	if err != nil {
		return nil, "", err
	}
	folders := map[string]bool{}
	for i, photo := range set.Names() {
		if e := embedded[i].Embedding(); e != nil {
			folders[path.Dir(photo)] = true
			out = append(out, measure.Portrait{Embedding: e, Set: index, Person: path.Dir(photo)})
		}
	}
	people := fmt.Sprintf("%d people", len(folders))
	if len(folders) < 2 {
		people = "unlabelled people, compared with the other sets only"
		for i := range out {
			out[i].Person = ""
		}
	}
	description = fmt.Sprintf("%s (%d photos of %s)", filepath.Base(name), len(out), people)
	failures, fta := measure.CountFailures(embedded)
	fmt.Fprintf(t.stderr, "%s; failures to acquire: %d of %d %s\n", description, fta.Count, fta.Total, describeFailures(failures))
	return out, description, nil
}

// trainHead trains a head of every variant, prints how good each is, and returns
// the one to use.
func (c calibrateCmd) trainHead(t *tool, calibrator measure.Calibrator, source string) (*face.Head, error) {
	trained, err := calibrator.TrainHeads(t.ctx, source, func(v face.HeadVariant) { fmt.Fprintln(t.stderr, "trained the head", v) })
	if err != nil {
		if errors.Is(err, face.Invalid) {
			err = fmt.Errorf("--head: %s", explain(err))
		}
		return nil, err
	}
	if err := printHeads(t.stderr, trained, calibrator.Options.FMRs); err != nil {
		return nil, err
	}
	if c.Reliability != "" {
		p, err := plotReliability(trained.Measurements[0], trained.Measurements[trained.Best])
		if err == nil {
			err = savePNG(c.Reliability, p)
		}
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(t.stderr, "wrote", c.Reliability)
	}
	return &trained.Heads[trained.Best].Head, nil
}

// printHeads prints a table of how good each variant is.
func printHeads(out io.Writer, t measure.HeadTraining, fmrs []float64) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	trained, held := t.Heads[0].Trained, t.Heads[0].HeldOut
	fmt.Fprintf(w, "\nheads trained on %d mated and %d impostor pairs of %d people, measured on %d and %d of %d others\n",
		trained.Mated, trained.Impostor, trained.People, held.Mated, held.Impostor, held.People)
	fmt.Fprint(w, "HEAD\tACCURACY")
	for _, fmr := range fmrs {
		fmt.Fprintf(w, "\tTAR AT FMR %g", fmr)
	}
	fmt.Fprintln(w, "\tCALIBRATION ERROR\tLOG LOSS\tLESS THAN COSINE'S BY")
	cell := func(m measure.Estimate) string {
		return fmt.Sprintf("%s [%s]", formatPercent(m.Value), formatInterval(m.Interval))
	}
	plain := func(m measure.Estimate) string {
		return fmt.Sprintf("%.4f [%.4f, %.4f]", m.Value, m.Interval.Low, m.Interval.High)
	}
	for i, m := range t.Measurements {
		mark := ""
		if i == t.Best {
			mark = " (used)"
		}
		fmt.Fprintf(w, "%s%s\t%s", m.Variant, mark, cell(m.Accuracy))
		for _, tar := range m.TAR {
			fmt.Fprint(w, "\t"+cell(tar))
		}
		fmt.Fprintf(w, "\t%s\t%s\t%s\n", cell(m.ECE), plain(m.LogLoss), plain(m.Gain))
	}
	fmt.Fprintln(w)
	return w.Flush()
}
