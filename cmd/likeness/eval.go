package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

type evalCmd struct {
	pipelineFlags
	enrolledFlags
	Images   string `required:"" type:"path" placeholder:"TAR|DIR" help:"The photos. For --identify, --one-shot and --enrolled, the photos of each person are in a folder of their own."`
	Pairs    string `type:"existingfile" placeholder:"FILE" help:"Measure verification on the labelled pairs of this file. Each line is: probe reference 1|0, with the name of a fold if there are folds. LFW's own pairs.txt can be read, too."`
	All      bool   `help:"Measure verification on all comparisons: all photos are compared with one another, and every person has the same weight. No choice of pairs can flatter."`
	Identify bool   `help:"Measure open-set identification: one photo of each of half of the people is enrolled; their other photos, and those of everybody else, are searched for."`
	Gallery  int    `placeholder:"N" help:"With --identify: exactly this many people are enrolled, also some who have one photo only. Without --strangers, everybody is searched for as a stranger, too, with their own template left out."`
	OneShot  bool   `help:"Measure one-shot identification: which of N people is this, if one photo of each is enrolled?"`
	Against  string `placeholder:"ID" help:"With --one-shot: a second encoder to compare with, such as an untrained one."`
	Labels   string `placeholder:"FILE.csv|utkface" help:"The rates of each group: of the pairs or searches that are measured, or, if nothing else is measured, of all comparisons within the group. Each line of the file is: photo,group or person,group. utkface: the names of the photos hold age, sex and group, as in UTKFace."`
	People   string `type:"existingfile" placeholder:"FILE" help:"Use only the photos of the people of this file, one name per line; the folder of a photo is its person. Not for --pairs, which name their photos."`

	Strangers string  `type:"path" placeholder:"TAR|DIR" help:"Photos of other people, which nobody labelled. With --all, they are also compared with everybody; with --identify and --gallery, they are the strangers that are searched for."`
	Mates     string  `type:"existingfile" placeholder:"FILE" help:"Photos that are known to show the same person although their folders do not say so, which must not count as strangers. Each line is: photo photo 1."`
	Margin    float64 `placeholder:"SHARE" help:"Put a margin around each photo of --images, in the mean colour of the photo and as wide as this share of its longer side. For photos that are cut close to the face, such as those of UTKFace (0.5): detector and quality gate expect something around a face."`
	JSON      string  `name:"json" type:"path" placeholder:"FILE" help:"Also write the report, with the curves, as JSON."`
	HTML      string  `name:"html" type:"path" placeholder:"FILE" help:"Also write the report, with plots, as a self-contained HTML page."`
	DET       string  `name:"det" type:"path" placeholder:"FILE.png" help:"Also draw the DET curve of the pairs."`
}

// Help is what --help says beside the flags.
func (evalCmd) Help() string {
	return "Every photo goes through the server's own pipeline once. Nothing is stored. " +
		"A score at or above a threshold is a match. Rates count the comparisons that took place. " +
		"Photos without a usable face are failures to acquire and are counted by reason. The report also gives the rates " +
		"for the case that a pair which could not be compared counts as a non-match. " +
		"The 95 % intervals come from a bootstrap over people, because comparisons that share a person are not independent; " +
		"or from the counts (Clopper-Pearson) where no error was counted, and in the tables of groups of pairs and of searches at operating points."
}

func (c evalCmd) Run(t *tool) (err error) {
	switch {
	case c.Pairs == "" && !c.All && !c.Identify && !c.OneShot && c.Labels == "" && len(c.Enrolled) == 0:
		return usageError{errors.New("nothing to measure: --pairs, --all, --identify, --one-shot, --enrolled or --labels is missing")}
	case c.Gallery != 0 && !c.Identify:
		return usageError{errors.New("--gallery: needs --identify")}
	case c.Gallery < 0 || c.Gallery == 1:
		return usageError{errors.New("--gallery: needs at least 2 people")}
	case c.Strangers != "" && !c.All && c.Gallery == 0:
		return usageError{errors.New("--strangers: needs --all, or --identify with --gallery")}
	case c.Mates != "" && !c.All && len(c.Enrolled) == 0 && !c.comparesGroups():
		return usageError{errors.New("--mates: needs --all or --enrolled, or --labels alone")}
	case c.People != "" && c.Pairs != "":
		return usageError{errors.New("--people: not with --pairs, which name their photos")}
	case !(c.Margin >= 0 && c.Margin <= 2):
		return usageError{errors.New("--margin: a share from 0 to 2")}
	case c.Against != "" && !c.OneShot:
		return usageError{errors.New("--against: needs --one-shot")}
	case c.DET != "" && c.Pairs == "":
		return usageError{errors.New("--det: needs --pairs")}
	}
	set, err := photos.Open(c.Images)
	if err != nil {
		return usageError{fmt.Errorf("--images: %w", err)}
	}
	defer set.Close()
	d := evalData{}
	if d.pairs, d.people, err = c.readPairs(set); err != nil {
		return usageError{err}
	}
	d.names = slices.Sorted(maps.Keys(d.people))
	if d.labels, err = c.readLabels(d.people); err != nil {
		return usageError{fmt.Errorf("--labels: %s: %s", c.Labels, explain(err))}
	}

	pipeline, err := c.openPipeline(t.ctx)
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
	shown := set
	if c.Margin > 0 {
		shown = marginSet{set, c.Margin}
	}
	embedded, err := embedPhotos(t.ctx, t.stderr, pipeline, c.pipelineFlags, shown, d.names, encoders...)
	if err != nil {
		return err
	}
	d.photos = make(map[string]measure.Photo, len(d.names))
	for i, name := range d.names {
		d.photos[name] = embedded[i]
	}
	if d.strangers, err = c.embedStrangers(t, pipeline); err != nil {
		return err
	}

	r := &report{
		Encoder: pipeline.Encoder().ID, Detector: pipeline.Detector().ID, Images: filepath.Base(c.Images),
		Version: version, Date: time.Now().UTC().Truncate(time.Second), QualityGate: c.QualityGate, Margin: c.Margin,
	}
	if c.Strangers != "" {
		r.Strangers = filepath.Base(c.Strangers)
	}
	if err := c.measure(r, d, pipeline.Encoder(), encoders); err != nil {
		return err
	}
	if err := c.measureEnrolled(t.ctx, r, d, pipeline.Encoder(), c.workers()); err != nil {
		return err
	}
	return c.write(t, r)
}

// comparesGroups reports whether the groups are all that is measured.
func (c evalCmd) comparesGroups() bool {
	return c.Labels != "" && c.Pairs == "" && !c.All && !c.Identify && !c.OneShot && len(c.Enrolled) == 0
}

// embedStrangers embeds the photos of the other set, if there is one.
func (c evalCmd) embedStrangers(t *tool, pipeline *likeness.Pipeline) (_ []measure.Photo, err error) {
	if c.Strangers == "" {
		return nil, nil
	}
	set, err := photos.Open(c.Strangers)
	if err != nil {
		return nil, usageError{fmt.Errorf("--strangers: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	return embedPhotos(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, set.Names())
}

// evalData is what the report is measured on.
type evalData struct {
	pairs  []measure.Pair
	people map[string]string // by photo
	labels measure.GroupLabels
	names  []string // of all photos
	photos map[string]measure.Photo

	strangers []measure.Photo
}

// measure fills in the parts of the report that the flags ask for.
func (c evalCmd) measure(r *report, d evalData, encoder embed.Manifest, encoders []string) (err error) {
	o := measure.DefaultOptions()
	r.countPhotos(d.photos, o)
	if c.Pairs != "" {
		if r.Verification, err = measure.VerifyPairs(d.pairs, d.people, d.photos, encoder.Calibration, o); err != nil {
			return err
		}
		r.Pairs = filepath.Base(c.Pairs)
		r.Head = measure.MeasureHeadOnPairs(match.NewHead(encoder.Head), d.pairs, d.photos)
	}
	if c.All {
		all := o
		all.FMRs = []float64{1e-2, 1e-3, 1e-4} // all comparisons are enough for that
		if r.All, err = measure.VerifyAll(d.names, d.people, d.photos, d.strangers, encoder.Calibration, all); err != nil {
			return usageError{fmt.Errorf("--all: %s", explain(err))}
		}
	}
	switch {
	case c.Identify && c.Gallery > 0:
		r.Identification, err = measure.IdentifyInGallery(d.names, d.photos, d.strangers, c.Gallery, encoder.Calibration, o)
	case c.Identify:
		r.Identification, err = measure.Identify(d.names, d.photos, d.labels.Groups, encoder.Calibration, o)
	}
	if err != nil {
		return usageError{fmt.Errorf("--images: %s", explain(err))}
	}
	if c.OneShot {
		if r.OneShot, err = measure.IdentifyOneShot(d.names, d.photos, encoders, o); err != nil {
			return usageError{fmt.Errorf("--one-shot: %s", explain(err))}
		}
	}
	if c.comparesGroups() {
		if r.GroupComparisons, err = measure.CompareGroups(d.labels, d.people, d.photos, encoder.Calibration, o); err != nil {
			return usageError{fmt.Errorf("--labels: %s", explain(err))}
		}
	}
	r.Groups = measure.VerifyGroups(r.Verification, d.pairs, d.photos, d.labels.Groups, o)
	return nil
}

// readPairs reads the pairs, if there are any, and names the person on every
// photo that is measured.
func (c evalCmd) readPairs(set photos.Set) (pairs []measure.Pair, people map[string]string, err error) {
	people = map[string]string{}
	if c.Pairs != "" {
		file, err := os.Open(c.Pairs)
		if err != nil {
			return nil, nil, err
		}
		defer file.Close()
		pairs, err = measure.ReadPairs(file)
		if err == nil {
			measure.AddFolder(pairs, set.Names())
			people, err = measure.PeopleOnPhotos(pairs)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("--pairs: %s: %s", c.Pairs, explain(err))
		}
	}
	for name := range people {
		if _, ok := slices.BinarySearch(set.Names(), name); !ok {
			return nil, nil, fmt.Errorf("--images: %s does not contain %s, which the pairs name", c.Images, name)
		}
	}
	if !c.All && !c.Identify && !c.OneShot && len(c.Enrolled) == 0 && !c.comparesGroups() {
		return pairs, people, nil
	}
	wanted, err := c.readPeople()
	if err != nil {
		return nil, nil, err
	}
	unlabelled := len(slices.Compact(folders(set.Names()))) < 2
	for _, name := range set.Names() {
		person := path.Dir(name)
		if _, ok := people[name]; ok || wanted != nil && !wanted[path.Base(person)] {
			continue
		}
		if c.comparesGroups() && unlabelled {
			person = name
		}
		people[name] = person
	}
	if wanted != nil && len(people) == 0 {
		return nil, nil, fmt.Errorf("--people: %s has no photo of any of them", c.Images)
	}
	return pairs, people, c.joinMates(people, set.Names())
}

// folders are the folders of photos, which are sorted.
func folders(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = path.Dir(name)
	}
	return out
}

// readPeople reads whose photos are used; nil without --people.
func (c evalCmd) readPeople() (map[string]bool, error) {
	if c.People == "" {
		return nil, nil
	}
	b, err := os.ReadFile(c.People)
	if err != nil {
		return nil, err
	}
	people := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if name := strings.TrimSpace(line); name != "" && name[0] != '#' {
			people[name] = true
		}
	}
	return people, nil
}

// joinMates makes one person of the people on photos that are known to show the
// same one.
func (c evalCmd) joinMates(people map[string]string, names []string) error {
	if c.Mates == "" {
		return nil
	}
	f, err := os.Open(c.Mates)
	if err != nil {
		return err
	}
	defer f.Close()
	mates, err := measure.ReadPairs(f)
	if err != nil {
		return fmt.Errorf("--mates: %s: %s", c.Mates, explain(err))
	}
	measure.AddFolder(mates, names)
	for _, m := range mates {
		one, other := people[m.Probe], people[m.Reference]
		if !m.Mated || one == "" || other == "" {
			return fmt.Errorf("--mates: %s: the pair %s %s is not of two measured photos of one person", c.Mates, m.Probe, m.Reference)
		}
		for name, person := range people {
			if person == other {
				people[name] = one
			}
		}
	}
	return nil
}

// readLabels reads which photo is in which group; empty without labels.
func (c evalCmd) readLabels(people map[string]string) (measure.GroupLabels, error) {
	switch c.Labels {
	case "":
		return measure.GroupLabels{}, nil
	case "utkface":
		return measure.ReadUTKFace(slices.Sorted(maps.Keys(people)))
	}
	f, err := os.Open(c.Labels)
	if err != nil {
		return measure.GroupLabels{}, err
	}
	defer f.Close()
	groups, err := measure.ReadGroups(f, people)
	if err != nil {
		return measure.GroupLabels{}, err
	}
	return measure.LabelsOf(groups), nil
}

// write prints the report, and writes it in the other forms that the flags ask
// for.
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
