package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/likeness-id/likeness/internal/fetch"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
)

type modelsCmd struct {
	List   modelsList   `cmd:"" help:"List the known models, with licence, source and operating points."`
	Pull   modelsPull   `cmd:"" help:"Download a model into the data folder, where the server finds it. An interrupted download continues where it stopped."`
	Verify modelsVerify `cmd:"" help:"Check size and SHA-256 of the model files."`

	Convert  modelsConvert  `cmd:"" help:"Make a model's file from the files that its source publishes, which you have downloaded."`
	Manifest modelsManifest `cmd:"" help:"Write the manifest of a detector's ONNX file, which a models folder needs beside the file."`

	Cohort modelsCohort `cmd:"" help:"Make an encoder whose scores are normalised by a cohort of other people."`

	Migrate modelsMigrate `cmd:"" help:"Move galleries of a running server to another encoder."`
	Status  modelsStatus  `cmd:"" help:"Show the progress of a move."`
}

func (m modelFolders) openRegistry() (*embed.Registry, error) {
	return embed.OpenRegistry(models.FS, m.folders()...)
}

type modelsList struct {
	modelFolders
}

func (c modelsList) Run(t *tool) error {
	registry, err := c.openRegistry()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(t.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tTASK\tSIZE\tLICENCE\tSOURCE\tOPERATING POINTS\tFILE")
	for _, m := range registry.Models() {
		file := modelLocation(m)
		switch {
		case file == "" && m.CanBePulled():
			file = "not here: likeness models pull " + m.ID
		case file == "":
			file = "not here: put " + m.File + " into a models folder"
		}
		size := m.Size
		if size == 0 { // it is cut out of a larger file that is downloaded
			size = m.Cut.Size
		}
		fmt.Fprintf(w, "%s\t%s\t%.1f MB\t%s\t%s\t%s\t%s\n",
			m.ID, m.Task, float64(size)/1e6, m.License, m.Source, describePoints(m), file)
	}
	return w.Flush()
}

// modelLocation says where a model's file is; empty when it does not exist.
func modelLocation(m embed.Model) string {
	if m.BuiltIn() {
		return "built in"
	}
	return m.Path
}

// describePoints names the operating points that a model supports.
func describePoints(m embed.Model) string {
	switch {
	case m.Task != embed.TaskEncoder:
		return "-"
	case m.Calibration == nil || len(m.Calibration.Points) == 0:
		return "not calibrated"
	}
	first, last := m.Calibration.Points[0], m.Calibration.Points[len(m.Calibration.Points)-1]
	return first.Name + " to " + last.Name
}

type modelsVerify struct {
	modelFolders
	IDs []string `arg:"" optional:"" name:"id" help:"Models to check (default: all whose file exists)."`
}

func (c modelsVerify) Run(t *tool) error {
	registry, err := c.openRegistry()
	if err != nil {
		return err
	}
	list := slices.DeleteFunc(registry.Models(), func(m embed.Model) bool { return m.Path == "" })
	if len(c.IDs) > 0 {
		list = nil
		for _, id := range c.IDs {
			m, err := registry.Model(id)
			if err != nil {
				return usageError{err}
			}
			list = append(list, m)
		}
	}
	var wrong []string
	for _, m := range list {
		if _, err := m.ReadVerified(); err != nil {
			wrong = append(wrong, m.ID)
			fmt.Fprintf(t.stdout, "wrong\t%s\t%s\n", m.ID, explain(err))
			continue
		}
		fmt.Fprintf(t.stdout, "ok\t%s\t%s\n", m.ID, modelLocation(m))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("these models cannot be used: %s", strings.Join(wrong, ", "))
	}
	return nil
}

type modelsPull struct {
	modelFolders
	ID string `arg:"" help:"Model to download; likeness models list shows the ids."`
}

func (c modelsPull) Run(t *tool) error {
	registry, err := c.openRegistry()
	if err != nil {
		return err
	}
	m, err := registry.Model(c.ID)
	if err != nil {
		return usageError{err}
	}
	if m.BuiltIn() {
		fmt.Fprintf(t.stderr, "%s is built in: there is nothing to download\n", m.ID)
		return nil
	}
	switch {
	case !m.CanBePulled() && m.Path != "":
		fmt.Fprintf(t.stderr, "%s is there already, and its manifest has no url to fetch it from: %s\n", m.ID, m.Path)
		return nil
	case !m.CanBePulled():
		return fmt.Errorf("%s cannot be fetched, because its manifest has no url: get %s from its source, %s, and put it into a models folder", m.ID, m.File, m.Source)
	}
	dir := app.PulledModels(c.DataDir)
	if m.Published != nil {
		return pullPublished(t, fetch.NewClient(), m, dir)
	}
	path := filepath.Join(dir, m.File)
	file, to := fetch.File{URL: m.URL, SHA256: m.SHA256, MaxBytes: m.Size}, path
	if m.Cut != nil {
		file.SHA256, file.MaxBytes, to = m.Cut.SHA256, m.Cut.Size, path+".whole"
	}
	bar := newProgress(t.stderr, "downloading "+m.ID, file.MaxBytes, true)
	defer bar.Close()
	if err := fetch.NewClient().Get(t.ctx, file, to, func(done, _ int64) { bar.Set(done) }); err != nil {
		return err
	}
	if m.Cut != nil {
		if err := cutModel(to, m.Manifest, dir); err != nil {
			return err
		}
	}
	bar.Print(t.stdout, "%s", path)
	return nil
}
