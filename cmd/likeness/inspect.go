package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"image"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/inspect"
	"github.com/likeness-id/likeness/pkg/likeness"
)

type inspectCmd struct {
	modelFolders
	Model  string `required:"" placeholder:"ID|FILE" help:"Model to inspect: the id of an encoder or feature network, or its file, with a manifest beside it."`
	Images string `required:"" type:"path" placeholder:"TAR|DIR" help:"Photos that the model is shown."`
	Out    string `short:"o" required:"" type:"path" placeholder:"DIR" help:"Folder for the pictures and the table."`

	Layers  []string `sep:"," placeholder:"NAME" help:"Layers to inspect, by the names of their tensors (default: some at even steps of depth, or those that style transfer compares)."`
	Units   int      `default:"8" placeholder:"N" help:"How many units of each layer are drawn, 1..64, at even steps among those that respond to any photo (default: 8)."`
	Unit    []int    `placeholder:"I" help:"Draw these units of each layer instead. They are numbered from 0."`
	Patches int      `default:"9" placeholder:"N" help:"How many patches are drawn of each unit, each of another photo, 1..32 (default: 9)."`
	Photos  int      `default:"500" placeholder:"N" help:"How many photos are used at most, at even steps through the set (default: 500)."`
	Aligned bool     `help:"The photos are aligned crops of faces already: do not look for faces in them."`
	Side    int      `default:"224" placeholder:"PX" help:"Size that photos are scaled to for a network that accepts any size, 32..1024 (default: 224). An encoder has a fixed size."`
	Steps   int      `default:"150" placeholder:"N" help:"Steps of gradient ascent for the picture that excites a unit, 0..5000 (default: 150). 0 makes no pictures."`
	Seed    uint64   `default:"1" placeholder:"N" help:"Seed of the noise that the ascent starts from (default: 1)."`

	Detector   string `default:"builtin-detector" env:"LIKENESS_DETECTOR" placeholder:"ID" help:"Face detector (default: builtin-detector)."`
	ORTLibrary string `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" placeholder:"FILE" help:"ONNX Runtime's library, if it is not in one of the usual places."`
	Provider   string `default:"cpu" env:"LIKENESS_PROVIDER" placeholder:"NAME" help:"Execution provider of ONNX Runtime (default: cpu)."`
	Threads    int    `default:"0" placeholder:"N" help:"Number of threads (default: the number of cores)."`
}

// Help is what --help says beside the flags.
func (inspectCmd) Help() string {
	return "Writes four kinds of files. patches-LAYER.png has a row for each unit, with the patches of photos that excite it most, as large as its receptive field. " +
		"maximised.png has pictures made by gradient ascent that excite the same units. filters.png has the weights of the first layer. " +
		"units.csv has a row for every unit of the layers. The patches are parts of your photos: protect the files as you protect the photos."
}

const (
	defaultLayers = 6  // inspected if none is named
	maxUnits      = 64 // drawn of a layer, at most
)

// Validate refuses numbers that are out of range.
func (c inspectCmd) Validate() error {
	for _, f := range []struct {
		flag           string
		n, least, most int
	}{
		{"--units", c.Units, 1, maxUnits},
		{"--patches", c.Patches, 1, 32},
		{"--photos", c.Photos, 1, 1 << 20},
		{"--side", c.Side, 32, 1024},
		{"--steps", c.Steps, 0, 5000},
		{"--threads", c.Threads, 0, 1024},
	} {
		if f.n < f.least || f.n > f.most {
			return fmt.Errorf("%s: %d is not within %d..%d", f.flag, f.n, f.least, f.most)
		}
	}
	if len(c.Unit) > maxUnits {
		return fmt.Errorf("--unit: %d units are more than %d", len(c.Unit), maxUnits)
	}
	return nil
}

func (c inspectCmd) threads() int {
	if c.Threads > 0 {
		return c.Threads
	}
	return runtime.GOMAXPROCS(0)
}

// picture is a picture as the network sees it.
type picture struct {
	name string
	img  func() (*image.RGBA, error)
}

// inspectRun is one call of inspect.
type inspectRun struct {
	inspectCmd
	t        *tool
	manifest embed.Manifest
	input    imaging.Planar
	network  inspect.Network
	layers   []inspect.Layer // that are inspected
	pictures []picture
	units    map[string][]*inspect.Unit
	chosen   map[string][]*inspect.Unit // the units that are drawn
}

func (c inspectCmd) Run(t *tool) (err error) {
	model, err := c.findModel()
	if err != nil {
		return err
	}
	r := &inspectRun{inspectCmd: c, t: t, manifest: model.Manifest}
	data, err := model.ReadVerified()
	if err != nil {
		return err
	}
	if err := r.readModel(data); err != nil {
		return err
	}
	set, err := photos.Open(c.Images)
	if err != nil {
		return usageError{fmt.Errorf("--images: %w", err)}
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	if err := os.MkdirAll(c.Out, 0o755); err != nil {
		return err
	}
	if err := r.choosePictures(set); err != nil {
		return err
	}

	backend, err := likeness.OpenBackend(likeness.BackendOptions{Library: c.ORTLibrary, Provider: c.Provider, Threads: c.threads()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, backend.Close()) }()
	r.network.Backend = backend
	if err := r.surveyUnits(t.ctx); err != nil {
		return err
	}
	for _, draw := range []func(context.Context) error{r.writeTable, r.drawPatches, r.drawFilters, r.drawMaximised} {
		if err := draw(t.ctx); err != nil {
			return err
		}
	}
	return nil
}

// findModel finds the model that is inspected.
func (c *inspectCmd) findModel() (embed.Model, error) {
	info, err := os.Stat(c.Model)
	if err != nil || info.IsDir() {
		registry, err := c.openRegistry()
		if err != nil {
			return embed.Model{}, err
		}
		m, err := registry.Model(c.Model)
		if err != nil {
			return m, usageError{fmt.Errorf("--model: %s", explain(err))}
		}
		return m, nil
	}
	// The file's folder is one more models folder, if it is none yet.
	dir, err := filepath.Abs(filepath.Dir(c.Model))
	if err != nil {
		return embed.Model{}, err
	}
	if !slices.ContainsFunc(c.folders(), func(known string) bool { return sameFile(dir, known) }) {
		c.ModelsDir = append(slices.Clip(c.ModelsDir), dir)
	}
	registry, err := c.openRegistry()
	if err != nil {
		return embed.Model{}, err
	}
	for _, m := range registry.Models() {
		if !m.BuiltIn() && m.Path != "" && sameFile(m.Path, c.Model) {
			return m, nil
		}
	}
	return embed.Model{}, usageError{fmt.Errorf("--model: no manifest names the file %s; put one beside it", c.Model)}
}

// readModel reads the model and finds its layers.
func (r *inspectRun) readModel(data []byte) error {
	in := r.manifest.Input
	r.input = imaging.Planar{Width: in.Width, Height: in.Height, BGR: in.Order == "bgr", Mean: in.Mean, Scale: in.Scale}
	if in.Width == 0 || in.Height == 0 {
		r.input.Width, r.input.Height = r.Side, r.Side
		if in.Multiple > 1 && r.Side%in.Multiple != 0 {
			return usageError{fmt.Errorf("--side: %s takes multiples of %d", r.manifest.ID, in.Multiple)}
		}
	}
	var err error
	r.network.Image, r.network.Shape = in.Name, []int64{1, 3, int64(r.input.Height), int64(r.input.Width)}
	if r.network.Model, err = grad.Parse(data); err != nil {
		return err
	}
	all, err := r.network.Layers()
	if err != nil {
		return err
	}
	named := map[string]inspect.Layer{}
	var names []string
	for _, l := range all {
		named[l.Name] = l
		names = append(names, l.Name)
	}
	if len(r.Layers) == 0 {
		r.Layers = r.defaultLayerNames(all)
	}
	for i, name := range r.Layers {
		l, ok := named[name]
		if !ok {
			return usageError{fmt.Errorf("--layers: %s has no layer %q; it has %s", r.manifest.ID, name, strings.Join(names, ", "))}
		}
		for _, unit := range r.Unit {
			if unit < 0 || unit >= l.Channels {
				return usageError{fmt.Errorf("--unit: layer %s has the units 0 to %d, not %d", name, l.Channels-1, unit)}
			}
		}
		if !slices.Contains(r.Layers[:i], name) {
			r.layers = append(r.layers, l)
		}
	}
	return nil
}

// defaultLayerNames are the layers that style transfer compares, or some at even steps
// of depth and the embedding.
func (r *inspectRun) defaultLayerNames(all []inspect.Layer) []string {
	if f := r.manifest.Features; f != nil {
		known := maps.Clone(f.Style)
		maps.Copy(known, f.Content)
		known[r.manifest.Outputs[0].Name] = 0
		var names []string
		for _, l := range all {
			if _, ok := known[l.Name]; ok {
				names = append(names, l.Name)
			}
		}
		return names
	}
	names := inspect.Spread(all, defaultLayers)
	if r.manifest.Task == embed.TaskEncoder && !slices.Contains(names, r.manifest.Outputs[0].Name) {
		names = append(names, r.manifest.Outputs[0].Name)
	}
	return names
}

// choosePictures chooses photos at even steps through the set, and finds their
// faces if the model is an encoder. Only crops are kept in memory.
func (r *inspectRun) choosePictures(set photos.Set) error {
	all := set.Names()
	names := make([]string, min(len(all), r.Photos))
	for i := range names {
		names[i] = all[i*len(all)/len(names)]
	}
	var err error
	if r.manifest.Task == embed.TaskEncoder && !r.Aligned {
		err = r.chooseFaces(set, names)
	} else {
		err = r.chooseWhole(set, names)
	}
	if err != nil {
		return err
	}
	if len(r.pictures) == 0 {
		return usageError{fmt.Errorf("--images: none of the %[2]d photos of %[1]s can be used", r.Images, len(names))}
	}
	if less := len(names) - len(r.pictures); less > 0 {
		fmt.Fprintf(r.t.stderr, "%d of %d files are left out: they are no pictures or show no face\n", less, len(names))
	}
	return nil
}

func (r *inspectRun) chooseFaces(set photos.Set, names []string) (err error) {
	pipeline, err := pipelineFlags{
		modelFolders: r.modelFolders, Detector: r.Detector, Encoder: r.manifest.ID,
		ORTLibrary: r.ORTLibrary, Provider: r.Provider, Parallel: r.Threads, Face: "largest",
	}.openPipeline(r.t.ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, pipeline.Close()) }()
	found, err := cropFaces(r.t.ctx, r.t.stderr, pipeline, r.threads(), "finding faces", set, names)
	if err != nil {
		return err
	}
	for i, f := range found {
		if f.Crop == nil {
			continue
		}
		r.pictures = append(r.pictures, picture{names[i], func() (*image.RGBA, error) {
			img, toSrc, err := embed.AlignCrop(f.Crop, r.manifest.Alignment)
			if err != nil {
				return nil, err
			}
			out := image.NewRGBA(image.Rect(0, 0, r.input.Width, r.input.Height))
			imaging.WarpRGBA(out, img, toSrc)
			return out, nil
		}})
	}
	return nil
}

// chooseWhole uses the middle of each photo, as large as possible. The photos are
// read again when they are drawn.
func (r *inspectRun) chooseWhole(set photos.Set, names []string) error {
	read := func(name string) (*image.RGBA, error) {
		data, err := set.ReadFile(name)
		if err != nil {
			return nil, err
		}
		img, err := imaging.Decode(r.t.ctx, data, imaging.DefaultLimits(), 2*max(r.input.Width, r.input.Height))
		if err != nil {
			return nil, err
		}
		return cropCentre(img.RGBA, r.input.Width, r.input.Height), nil
	}
	bar := newProgress(r.t.stderr, "reading photos", int64(len(names)), false)
	defer bar.Close()
	for _, name := range names {
		if err := r.t.ctx.Err(); err != nil {
			return err
		}
		bar.Add(1)
		switch _, err := read(name); {
		case err == nil:
			r.pictures = append(r.pictures, picture{name, func() (*image.RGBA, error) { return read(name) }})
		case !failsToAcquire(err):
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// cropCentre cuts the largest part of that shape out of the middle of a picture
// and scales it.
func cropCentre(img *image.RGBA, width, height int) *image.RGBA {
	w, h := float64(img.Rect.Dx()), float64(img.Rect.Dy())
	step := min(w/float64(width), h/float64(height))
	out := image.NewRGBA(image.Rect(0, 0, width, height))
	imaging.WarpRGBA(out, img, imaging.Affine{
		step, 0, (w-step*float64(width-1))/2 - 0.5,
		0, step, (h-step*float64(height-1))/2 - 0.5,
	})
	return out
}

// surveyUnits runs the network on all pictures and chooses the units to draw.
func (r *inspectRun) surveyUnits(ctx context.Context) (err error) {
	var names []string
	for _, l := range r.layers {
		names = append(names, l.Name)
	}
	bar := newProgress(r.t.stderr, "looking at photos", int64(len(r.pictures)), false)
	defer bar.Close()
	identity := imaging.Affine{1, 0, 0, 0, 1, 0}
	r.units, err = r.network.Survey(ctx, names, len(r.pictures), r.Patches, func(i int, into []float32) error {
		img, err := r.pictures[i].img()
		if err == nil {
			r.input.Warp(into, img, identity)
		}
		return err
	}, func(int) { bar.Add(1) })
	if err != nil {
		return err
	}
	r.chosen = map[string][]*inspect.Unit{}
	for _, name := range names {
		all := r.units[name]
		if len(r.Unit) > 0 {
			for _, unit := range r.Unit {
				r.chosen[name] = append(r.chosen[name], all[unit])
			}
			continue
		}
		alive := slices.DeleteFunc(slices.Clone(all), func(u *inspect.Unit) bool { return u.Deviation == 0 })
		count := min(r.Units, len(alive))
		for i := range count {
			r.chosen[name] = append(r.chosen[name], alive[i*len(alive)/count])
		}
	}
	return nil
}

// writeFile writes a file into the output folder and prints its name.
func (r *inspectRun) writeFile(name string, content func() ([]byte, error)) error {
	name = filepath.Join(r.Out, name)
	data, err := content()
	if err == nil {
		err = replaceFile(name, data)
	}
	if err == nil {
		fmt.Fprintln(r.t.stderr, "wrote", name)
	}
	return err
}

// writeTable writes every unit of the layers.
func (r *inspectRun) writeTable(context.Context) error {
	number := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	rows := [][]string{{"layer", "unit", "mean", "std", "max", "active", "field_width", "field_height", "top_image", "top_x", "top_y"}}
	for _, l := range r.layers {
		for _, u := range r.units[l.Name] {
			top := u.Strongest[0]
			rows = append(rows, []string{
				l.Name, strconv.Itoa(u.Channel), number(u.Mean), number(u.Deviation), number(u.Max), number(u.Active),
				strconv.FormatInt(top.Width, 10), strconv.FormatInt(top.Height, 10),
				r.pictures[top.Picture].name, strconv.FormatInt(top.X, 10), strconv.FormatInt(top.Y, 10),
			})
		}
	}
	return r.writeFile("units.csv", func() ([]byte, error) {
		var b bytes.Buffer
		err := csv.NewWriter(&b).WriteAll(rows)
		return b.Bytes(), err
	})
}

// inputRange is the least and the greatest number of each plane of the input.
func (r *inspectRun) inputRange() (low, high []float32) {
	for i, mean := range r.input.Mean {
		a, b := -mean*r.input.Scale[i], (255-mean)*r.input.Scale[i]
		low, high = append(low, min(a, b)), append(high, max(a, b))
	}
	return low, high
}

// maximise makes pictures that excite the units that are drawn, a row for each
// layer.
func (r *inspectRun) maximise(ctx context.Context) ([][]*image.RGBA, error) {
	low, high := r.inputRange()
	total := 0
	for _, l := range r.layers {
		total += len(r.chosen[l.Name])
	}
	bar := newProgress(r.t.stderr, "exciting units", int64(total), false)
	defer bar.Close()
	rows := make([][]*image.RGBA, len(r.layers))
	for i, l := range r.layers {
		for _, u := range r.chosen[l.Name] {
			// Half-way between grain and blur; only the look depends on it.
			o := inspect.DefaultMaximiseOptions()
			o.Steps, o.Seed, o.Low, o.High = r.Steps, r.Seed, low, high
			tensor, _, err := r.network.Maximise(ctx, l.Name, u.Channel, o)
			if err != nil {
				return nil, err
			}
			rows[i] = append(rows[i], r.renderPlanes(tensor, r.input.Width, r.input.Height, func(plane int, v float32) float32 {
				return v/r.input.Scale[plane] + r.input.Mean[plane]
			}))
			bar.Add(1)
		}
	}
	return rows, nil
}

// renderPlanes makes a picture of three planes; value maps their numbers to
// 0..255.
func (r *inspectRun) renderPlanes(tensor []float32, width, height int, value func(plane int, v float32) float32) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		for plane := range 3 {
			colour := plane
			if r.input.BGR {
				colour = 2 - plane
			}
			out.Pix[4*i+colour] = uint8(min(max(value(plane, tensor[plane*width*height+i]), 0), 255) + 0.5)
		}
		out.Pix[4*i+3] = 255
	}
	return out
}
