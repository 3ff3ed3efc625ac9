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
	"time"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

type evalCmd struct {
	pipelineFlags
	Images   string `required:"" type:"path" placeholder:"TAR|DIR" help:"The photos. For --identify and --one-shot, the photos of each person are in a folder of their own."`
	Pairs    string `type:"existingfile" placeholder:"FILE" help:"Measure verification on the labelled pairs of this file. Each line is: probe reference 1|0, with the name of a fold if there are folds. LFW's own pairs.txt can be read, too."`
	Identify bool   `help:"Measure open-set identification: one photo of each of half of the people is enrolled; their other photos, and those of everybody else, are searched for."`
	OneShot  bool   `help:"Measure one-shot identification: which of N people is this, if one photo of each is enrolled?"`
	Against  string `placeholder:"ID" help:"With --one-shot: a second encoder to compare with, such as an untrained one."`
	Labels   string `type:"existingfile" placeholder:"FILE.csv" help:"Also report the rates of each group. Each line is: photo,group or person,group."`
	JSON     string `name:"json" type:"path" placeholder:"FILE" help:"Also write the report, with the curves, as JSON."`
	HTML     string `name:"html" type:"path" placeholder:"FILE" help:"Also write the report, with plots, as a self-contained HTML page."`
	DET      string `name:"det" type:"path" placeholder:"FILE.png" help:"Also draw the DET curve of the pairs."`
}

// Help is what --help says beside the flags.
func (evalCmd) Help() string {
	return "Every photo goes through the server's own pipeline once. Nothing is stored. " +
		"A score at or above a threshold is a match. Rates count the comparisons that took place. " +
		"Photos without a usable face are failures to acquire and are counted by reason. The report also gives the rates " +
		"for the case that a pair which could not be compared counts as a non-match. " +
		"The 95 % intervals come from a bootstrap over people, or from the counts (Clopper-Pearson) where the threshold was not chosen on these pairs."
}

func (c evalCmd) Run(t *tool) (err error) {
	switch {
	case c.Pairs == "" && !c.Identify && !c.OneShot:
		return usageError{errors.New("nothing to measure: --pairs, --identify or --one-shot is missing")}
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
	pairs, people, err := c.readPairs(set)
	if err != nil {
		return usageError{err}
	}
	names := slices.Sorted(maps.Keys(people))
	groups, err := c.readGroups(people)
	if err != nil {
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
	embedded, err := embedPhotos(t.ctx, t.stderr, pipeline, c.pipelineFlags, set, names, encoders...)
	if err != nil {
		return err
	}
	byName := make(map[string]measure.Photo, len(names))
	for i, name := range names {
		byName[name] = embedded[i]
	}

	r := &report{
		Encoder: pipeline.Encoder().ID, Detector: pipeline.Detector().ID, Images: filepath.Base(c.Images),
		Version: version, Date: time.Now().UTC().Truncate(time.Second),
	}
	if err := c.measure(r, evalData{pairs, people, groups, names, byName}, pipeline.Encoder(), encoders); err != nil {
		return err
	}
	return c.write(t, r)
}

// evalData is what the report is measured on.
type evalData struct {
	pairs  []measure.Pair
	people map[string]string // by photo
	groups map[string]string // by photo
	names  []string          // of all photos
	photos map[string]measure.Photo
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
	if c.Identify {
		if r.Identification, err = measure.Identify(d.names, d.photos, d.groups, encoder.Calibration, o); err != nil {
			return usageError{fmt.Errorf("--images: %s", explain(err))}
		}
	}
	if c.OneShot {
		if r.OneShot, err = measure.IdentifyOneShot(d.names, d.photos, encoders, o); err != nil {
			return usageError{fmt.Errorf("--one-shot: %s", explain(err))}
		}
	}
	r.Groups = measure.VerifyGroups(r.Verification, d.pairs, d.photos, d.groups, o)
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
	if c.Identify || c.OneShot {
		for _, name := range set.Names() {
			if _, ok := people[name]; !ok {
				people[name] = path.Dir(name)
			}
		}
	}
	return pairs, people, nil
}

// readGroups reads which photo is in which group; nil without labels.
func (c evalCmd) readGroups(people map[string]string) (map[string]string, error) {
	if c.Labels == "" {
		return nil, nil
	}
	f, err := os.Open(c.Labels)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return measure.ReadGroups(f, people)
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
