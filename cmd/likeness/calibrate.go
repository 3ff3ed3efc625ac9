package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

type calibrateCmd struct {
	pipelineFlags
	Images      []string `required:"" type:"path" placeholder:"TAR|DIR" help:"Photos to compare with one another; may be given more than once."`
	Write       string   `type:"path" placeholder:"FILE.json" help:"Put what was measured into this manifest of the encoder, which is made when it is not there, instead of printing it."`
	Split       bool     `help:"Also calibrate on half of the people and count on the other half how often strangers pass at those thresholds, both ways round."`
	Head        bool     `help:"Also train a verification head, which gives the API its probability, on the people of whom there are several photos."`
	Reliability string   `type:"path" placeholder:"FILE.png" help:"Draw how far the head's probabilities can be believed; with --head."`

	OperatingPoint string `default:"fmr_1e-4" env:"LIKENESS_OPERATING_POINT" help:"Operating point that your server decides at (default: fmr_1e-4). Where the photos do not support it, calibrate says how many more people are needed."`
}

// Help is what --help says beside the flags.
func (calibrateCmd) Help() string {
	return "Everybody is compared with everybody else, and a threshold is named for each false match rate that at least " +
		"30 false matches support. Two photos of one person must not be compared, so it must be known who is on them: " +
		"in a set whose photos lie in several folders, a folder is a person. A set whose photos lie in one folder tells nobody apart: " +
		"its photos are compared with those of the other sets only, which must show other people. " +
		"Strangers of one set are more alike than those of two, so both are counted, those within a set and all, and a threshold " +
		"keeps to its rate among either. " +
		"The 95 % interval of each threshold's rate comes from drawing people, not comparisons. " +
		"A photo takes about 1 KB of memory and a person 2 KB, however many comparisons that makes. " +
		"A restart of the server takes what was written up; LIKENESS_MODELS_DIR may hold the manifest."
}

// portrait is one acquired photo.
type portrait struct {
	embedding face.Embedding
	set       int
	person    string // empty in a set that tells nobody apart
}

// impostors reports whether two portraits certainly show different people.
func impostors(a, b *portrait) bool {
	if a.set != b.set {
		return true
	}
	return a.person != "" && a.person != b.person
}

func (c calibrateCmd) Run(t *tool) (err error) {
	if c.Reliability != "" && !c.Head {
		return usageError{errors.New("--reliability: only a head has probabilities, which --head trains")}
	}
	if !slices.Contains(match.PointNames(), c.OperatingPoint) {
		return usageError{fmt.Errorf("--operating-point: %q is none of %s", c.OperatingPoint, strings.Join(match.PointNames(), ", "))}
	}
	pipeline, err := c.open(t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	var portraits []portrait
	var described []string
	for i := range c.Images {
		more, description, err := c.portraits(t, pipeline, i)
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
	cal, err := calibrated(t, portraits, c.workers(), source("every impostor comparison"))
	if err != nil {
		return err
	}
	if c.Split {
		if err := split(t, portraits, c.workers()); err != nil {
			return err
		}
	}
	units, _ := unitsOf(portraits)
	fmt.Fprint(t.stderr, missing(c.OperatingPoint, cal, len(units)))
	var head *face.Head
	if c.Head {
		if head, err = c.trainHead(t, portraits, source("pairs")); err != nil {
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

// calibrated compares everybody, and again for the intervals, once it is known
// at which thresholds; it tells of both.
func calibrated(t *tool, portraits []portrait, workers int, source string) (face.Calibration, error) {
	counted, err := compareAll(t.ctx, t.stderr, portraits, workers)
	if err != nil {
		return face.Calibration{}, err
	}
	cal, err := counted.calibration(source)
	if err != nil {
		return face.Calibration{}, err
	}
	intervals, err := spreadOf(t.ctx, t.stderr, portraits, cal.Points, workers)
	if err != nil {
		return face.Calibration{}, err
	}
	w := tabwriter.NewWriter(t.stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d impostor comparisons, %d of them within a set, support\nOPERATING POINT\tTHRESHOLD\tSET BY\tFALSE MATCHES\t95 %% INTERVAL OF THE RATE\n",
		cal.Comparisons, counted[withinSet].Total())
	for i := range cal.Points {
		p := &cal.Points[i]
		which := counted.strictest(p.Threshold)
		p.Interval = intervals[which][i]
		fmt.Fprintf(w, "%s\t%.5f\t%s\t%d\t[%.3g, %.3g]\n", p.Name, p.Threshold, which, counted[which].FMR(p.Threshold).Count, p.Interval.Low, p.Interval.High)
	}
	fmt.Fprintln(w)
	printGalleries(w, cal)
	return cal, w.Flush()
}

// missing says what a calibration on so many people lacks for an operating
// point, and what to do; nothing when it has it.
func missing(name string, cal face.Calibration, people int) string {
	i := slices.Index(match.PointNames(), name)
	need := match.NeededComparisons(match.TargetFMRs()[i])
	if cal.Comparisons >= need {
		return ""
	}
	// Comparisons grow with the square of the people.
	more := int(math.Ceil(float64(people)*math.Sqrt(float64(need)/float64(cal.Comparisons)))) - people
	strictest := cal.Points[len(cal.Points)-1].Name
	return fmt.Sprintf("\n%s is missing: it needs %d impostor comparisons, %d more than these. A server refuses to decide at it with this calibration.\n"+
		"Calibrate on about %d more people (strangers to one another, with as many photos each as these %d),\n"+
		"or start the server with --operating-point=%s (LIKENESS_OPERATING_POINT), the strictest that is supported.\n\n",
		name, need, need-cal.Comparisons, more, people, strictest)
}

// gallerySizes are those that the 1:N table names.
func gallerySizes() []int { return []int{1, 10, 100, 1000, 10_000, 100_000} }

// printGalleries says which threshold keeps a whole search of n templates to
// the rate of each operating point: what LIKENESS_IDENTIFICATION=search uses.
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

// portraits acquires the set of that index and says who is on its photos.
func (c calibrateCmd) portraits(t *tool, pipeline *likeness.Pipeline, index int) (out []portrait, description string, err error) {
	name := c.Images[index]
	set, err := photos.Open(name)
	if err != nil {
		return nil, "", usageError{fmt.Errorf("--images: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	embedded, err := acquire(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, set.Names())
	if err != nil {
		return nil, "", err
	}
	folders := map[string]bool{}
	for i, photo := range set.Names() {
		if embedded[i].failure == "" {
			folders[path.Dir(photo)] = true
			out = append(out, portrait{embedded[i].embedding, index, path.Dir(photo)})
		}
	}
	people := fmt.Sprintf("%d people", len(folders))
	if len(folders) < 2 {
		people = "unlabelled people, compared with the other sets only"
		for i := range out {
			out[i].person = ""
		}
	}
	description = fmt.Sprintf("%s (%d photos of %s)", filepath.Base(name), len(out), people)
	failures, failed := tally(embedded)
	fmt.Fprintf(t.stderr, "%s; failures to acquire: %d of %d %s\n", description, failed, len(embedded), listed(failures))
	return out, description, nil
}

// kind is which impostor comparisons are counted.
type kind int

const (
	ofAll kind = iota
	withinSet
	kinds
)

func (k kind) String() string { return [...]string{"all", "within a set"}[k] }

// comparisons are counted impostor comparisons, by kind.
type comparisons [kinds]*measure.Impostors

func (c comparisons) add(a, b *portrait, score float64) {
	c[ofAll].Add(score)
	if a.set == b.set {
		c[withinSet].Add(score)
	}
}

// calibration is that of all kinds; of a single set there is one.
func (c comparisons) calibration(source string) (face.Calibration, error) {
	if n := c[withinSet].Total(); n == 0 || n == c[ofAll].Total() {
		return measure.Calibrate(source, c[ofAll])
	}
	return measure.Calibrate(source, c[:]...)
}

// strictest is the kind of which the larger share passes a threshold.
func (c comparisons) strictest(threshold float64) kind {
	if r := c[withinSet].FMR(threshold); r.Count >= match.Rule30 && r.Value() > c[ofAll].FMR(threshold).Value() {
		return withinSet
	}
	return ofAll
}

// compareAll counts the scores of all impostor comparisons. It needs 3.2 MB a
// worker beside the embeddings.
func compareAll(ctx context.Context, stderr io.Writer, portraits []portrait, workers int) (comparisons, error) {
	parts := make([]comparisons, workers)
	for w := range parts {
		parts[w] = comparisons{measure.NewImpostors(), measure.NewImpostors()}
	}
	err := eachImpostors(ctx, stderr, "comparing", portraits, workers, func(worker, i, j int, score float64) {
		parts[worker].add(&portraits[i], &portraits[j], score)
	})
	for _, p := range parts[1:] {
		for k := range kinds {
			parts[0][k].Merge(p[k])
		}
	}
	return parts[0], err
}

// spreadOf finds the intervals of the points' false match rates, by kind.
func spreadOf(ctx context.Context, stderr io.Writer, portraits []portrait, points []face.OperatingPoint, workers int) (intervals [kinds][]face.Interval, err error) {
	units, of := unitsOf(portraits)
	thresholds := make([]float64, len(points))
	for i, p := range points {
		thresholds[i] = p.Threshold
	}
	var sums [kinds]*measure.Spread
	parts := make([][kinds]*measure.Spread, workers)
	for k := range kinds {
		sums[k] = measure.NewSpread(units, thresholds, k == ofAll, measure.DefaultOptions())
		for w := range parts {
			parts[w][k] = sums[k].Fork()
		}
	}
	err = eachImpostors(ctx, stderr, "drawing people", portraits, workers, func(worker, i, j int, score float64) {
		parts[worker][ofAll].Add(of[i], of[j], score)
		if portraits[i].set == portraits[j].set {
			parts[worker][withinSet].Add(of[i], of[j], score)
		}
	})
	for k, sum := range sums {
		for _, p := range parts {
			sum.Merge(p[k])
		}
		intervals[k] = sum.Intervals()
	}
	return intervals, err
}

// unitsOf are the people on the portraits, and the photos of unlabelled sets,
// and for each portrait the index of its own.
func unitsOf(portraits []portrait) (units []measure.Unit, of []int) {
	type key struct {
		set    int
		person string
	}
	known := map[key]int{}
	of = make([]int, len(portraits))
	for i, p := range portraits {
		at, ok := known[key{p.set, p.person}]
		if !ok || p.person == "" {
			at = len(units)
			known[key{p.set, p.person}] = at
			units = append(units, measure.Unit{Set: p.set, Stranger: p.person == ""})
		}
		units[at].Photos++
		of[i] = at
	}
	return units, of
}

// eachImpostors visits the score of every impostor comparison, on all workers
// at once; each is told its number and the indices of the portraits.
func eachImpostors(ctx context.Context, stderr io.Writer, what string, portraits []portrait, workers int, visit func(worker, i, j int, score float64)) error {
	n := int64(len(portraits))
	bar := newProgress(stderr, what, n*(n-1)/2, false)
	defer bar.Close()
	group, ctx := errgroup.WithContext(ctx)
	for w := range workers {
		group.Go(func() error {
			// Rows shrink from first to last; dealt out in turn, every worker
			// gets its share of long ones.
			for i := w; i < len(portraits); i += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				a := &portraits[i]
				for j := i + 1; j < len(portraits); j++ {
					if b := &portraits[j]; impostors(a, b) {
						visit(w, i, j, a.embedding.Cosine(b.embedding))
					}
				}
				bar.Add(n - 1 - int64(i))
			}
			return nil
		})
	}
	return group.Wait()
}

// halves deals the people out at random.
func halves(portraits []portrait) (parts [2][]portrait) {
	units, of := unitsOf(portraits)
	side := rand.New(rand.NewPCG(seed, 2)).Perm(len(units))
	for i, p := range portraits {
		half := side[of[i]] % 2
		parts[half] = append(parts[half], p)
	}
	return parts
}

// split says what the thresholds of one half of the people do to the other,
// which is what an operator may expect of people who were not measured.
func split(t *tool, portraits []portrait, workers int) error {
	parts := halves(portraits)
	w := tabwriter.NewWriter(t.stderr, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nCALIBRATED ON\tPOINT\tTHRESHOLD\tSET BY\tOF THOSE OF THE OTHER HALF\tFMR\t95 % INTERVAL\tFACTOR")
	for i, name := range []string{"first half", "second half"} {
		counted, err := compareAll(t.ctx, t.stderr, parts[i], workers)
		if err != nil {
			return err
		}
		cal, err := counted.calibration(name)
		if err != nil {
			return err
		}
		other, err := compareAll(t.ctx, t.stderr, parts[1-i], workers)
		if err != nil {
			return err
		}
		intervals, err := spreadOf(t.ctx, t.stderr, parts[1-i], cal.Points, workers)
		if err != nil {
			return err
		}
		for j, p := range cal.Points {
			// Of the kind that set the threshold.
			which := counted.strictest(p.Threshold)
			got := other[which].FMR(p.Threshold)
			in := intervals[which][j]
			fmt.Fprintf(w, "%s\t%s\t%.5f\t%s\t%s\t%.3g\t[%.3g, %.3g]\t%.2f\n",
				name, p.Name, p.Threshold, which, got, got.Value(), in.Low, in.High, got.Value()/p.FMR)
		}
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// printCalibration writes the block as a manifest holds it: one point a line.
func printCalibration(w io.Writer, cal face.Calibration) error {
	_, err := fmt.Fprintf(w, "%s\n", formatCalibration(cal, ""))
	return err
}

// formatCalibration is the calibration as JSON, one point a line, all lines
// but the first indented.
func formatCalibration(cal face.Calibration, indent string) []byte {
	var b bytes.Buffer
	line := func(depth int, format string, args ...any) {
		b.WriteString("\n" + indent + strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
	}
	b.WriteString("{")
	line(1, `"source": %s,`, quoted(cal.Source))
	line(1, `"comparisons": %d,`, cal.Comparisons)
	line(1, `"points": [`)
	for i, p := range cal.Points {
		interval := ""
		if p.Interval != (face.Interval{}) {
			interval = fmt.Sprintf(`, "interval": { "low": %.3g, "high": %.3g }`, p.Interval.Low, p.Interval.High)
		}
		line(2, `{ "name": %s, "fmr": %v, "threshold": %v%s }%s`, quoted(p.Name), p.FMR, p.Threshold, interval, comma(i, len(cal.Points)))
	}
	line(1, `],`)
	line(1, `"curve": [`)
	for i, p := range cal.Curve {
		line(2, `{ "score": %v, "fmr": %v }%s`, p.Score, p.FMR, comma(i, len(cal.Curve)))
	}
	line(1, `]`)
	line(0, `}`)
	return b.Bytes()
}

func comma(i, n int) string {
	if i == n-1 {
		return ""
	}
	return ","
}

func quoted(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return []byte(`""`)
	}
	return bytes.TrimSpace(b.Bytes())
}

// writeManifest puts the calibration, and the head if there is one, into the
// manifest in a file and leaves the rest of its text alone. A file that is not there is made of the model's
// manifest. The result is checked before it takes the file's place.
func writeManifest(name string, model embed.Manifest, cal face.Calibration, head *face.Head) error {
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		model.Calibration = nil
		if head != nil {
			model.Head = nil
		}
		text, err = json.MarshalIndent(model, "", "  ")
		text = append(text, '\n')
	}
	if err != nil {
		return err
	}
	old, err := embed.ParseManifest(text)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if old.ID != model.ID || old.SHA256 != model.SHA256 {
		return fmt.Errorf("%s is the manifest of another model (%s): the scores of %s say nothing of it", name, old.ID, model.ID)
	}
	text, err = replaceMember(text, "calibration", formatCalibration(cal, "  "))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if head != nil {
		if text, err = replaceMember(text, "head", formatHead(*head, "  ")); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if _, err := embed.ParseManifest(text); err != nil {
		return fmt.Errorf("%s would not be a manifest any more: %w", name, err)
	}
	return replaceFile(name, text)
}

// replaceMember replaces the value of a member of a JSON object, or appends
// the member, and keeps every other byte.
func replaceMember(object []byte, member string, value []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil { // the opening brace
		return nil, err
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		var old json.RawMessage
		if err := d.Decode(&old); err != nil {
			return nil, err
		}
		if end := int(d.InputOffset()); key == member {
			return bytes.Join([][]byte{object[:end-len(old)], value, object[end:]}, nil), nil
		}
	}
	last := bytes.TrimRight(object[:d.InputOffset()], " \t\r\n")
	return bytes.Join([][]byte{last, []byte(",\n  " + string(quoted(member)) + ": "), value, object[len(last):]}, nil), nil
}

// replaceFile writes a file so that it is the old one or the new one, whatever
// happens in between.
func replaceFile(name string, content []byte) error {
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(name); err == nil {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.part")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
