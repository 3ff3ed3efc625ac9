package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/style"
)

type styleCmd struct {
	modelFolders
	Content string   `short:"c" xor:"what" type:"existingfile" placeholder:"FILE" help:"Picture that is changed: ${formats}."`
	Signal  string   `xor:"what" type:"existingfile" placeholder:"FILE" help:"Signal that is changed instead: .csv (one line per sample, one column per channel), .wav (16-bit PCM, mono or stereo) or .npy (channels x samples)."`
	Volume  string   `xor:"what" type:"existingfile" placeholder:"FILE" help:"Volume that is changed instead: .npy, float32 or float64 in C order, with three axes, or four with the channels first."`
	Style   []string `short:"s" required:"" sep:"none" type:"existingfile" placeholder:"FILE" help:"What gives the style, of the same kind. May be repeated up to 4 times."`
	Out     string   `short:"o" required:"" placeholder:"FILE" help:"File of the result: .png, .jpg or .jpeg for a picture; otherwise the same type as the input. It is written when the run has ended."`

	Mask       []string `sep:"none" type:"existingfile" placeholder:"FILE" help:"Where in the content a style applies: a picture that is white there. Give none, or one for each --style."`
	Sheet      string   `placeholder:"FILE" help:"Also write a contact sheet of the run, .png or .jpg: content, styles, intermediate pictures, result."`
	Curve      string   `placeholder:"FILE.png" help:"Also draw the losses over the iterations."`
	CSV        string   `name:"csv" placeholder:"FILE" help:"Also write the losses of every iteration as CSV."`
	Checkpoint string   `placeholder:"FILE" help:"Where the state of a run is saved when it is stopped by Ctrl-C (default: OUT.checkpoint). If FILE exists, the run continues from it; all other flags must be the same."`

	styleParams
	Threads    int    `default:"0" placeholder:"N" help:"Number of threads (default: the number of cores)."`
	ORTLibrary string `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" placeholder:"FILE" help:"ONNX Runtime's library, if it is not in one of the usual places."`
	Provider   string `default:"cpu" env:"LIKENESS_PROVIDER" placeholder:"NAME" help:"Execution provider of ONNX Runtime (default: cpu)."`
}

// styleParams are [style.Params] as flags. Their defaults are those of
// [style.DefaultParams]; a test holds them together.
type styleParams struct {
	Features      string             `placeholder:"ID" help:"Network whose activations are compared: a model with the task features (default for a picture: builtin-features); or learned, which fits filters to these inputs (default for a signal or a volume)."`
	Size          int                `default:"512" placeholder:"PX" help:"Long side of the result, 64..2048 (default: 512). Time grows with its square."`
	Iterations    int                `default:"300" placeholder:"N" help:"Steps of the optimiser over all scales, 1..5000 (default: 300). More is sharper and closer to the style."`
	Weights       string             `default:"auto" placeholder:"HOW" help:"auto (default): each loss is divided by its size at the start, so that weights of 1 look right. literal: the weights below are alpha, beta and the factor of L_tv in the formulas."`
	ContentWeight float64            `default:"1" placeholder:"X" help:"Weight of the content (alpha), above 0 to 1e12 (default: 1). A larger one keeps more of the content."`
	StyleWeight   float64            `default:"1" placeholder:"X" help:"Weight of the style (beta), above 0 to 1e12 (default: 1). A larger one takes more of the style."`
	TVWeight      float64            `name:"tv-weight" default:"1" placeholder:"X" help:"Weight of the total variation, 0..1e12 (default: 1). A larger one gives a smoother result; 0 leaves grain."`
	ContentLayers map[string]float64 `mapsep:"," placeholder:"LAYER=X,..." help:"Layers whose activations are compared, with weights above 0 (default: the network's own)."`
	StyleLayers   map[string]float64 `mapsep:"," placeholder:"LAYER=X,..." help:"Layers whose Gram matrices are compared, with weights (lambda) above 0 (default: the network's own)."`
	Optimizer     string             `default:"lbfgs" placeholder:"NAME" help:"lbfgs (default), or adam, which needs less memory and more steps."`
	Init          string             `default:"content" placeholder:"WHAT" help:"What the optimiser starts from: content (default), or noise, which takes more of the style and keeps less of the content."`
	PreserveColor string             `default:"none" placeholder:"HOW" help:"none (default); luminance: keep the colours of the content; or histogram: first change the colours of the style to those of the content."`
	StyleScale    float64            `default:"1" placeholder:"X" help:"Size of a style image relative to the result, 0.25..4 (default: 1). A larger one makes larger strokes."`
	StyleWeights  []float64          `placeholder:"X" help:"Share of each style image, above 0, in the order of --style (default: equal)."`
	Seed          uint64             `default:"0" placeholder:"N" help:"The same seed gives the same result on the same machine (default: 0)."`
}

func (p styleParams) params() style.Params {
	return style.Params{
		Features: cmp.Or(p.Features, style.BuiltIn), Size: p.Size, Iterations: p.Iterations, Weights: p.Weights,
		ContentWeight: p.ContentWeight, StyleWeight: p.StyleWeight, TVWeight: p.TVWeight,
		Layers:    style.Layers{Content: p.ContentLayers, Style: p.StyleLayers},
		Optimizer: p.Optimizer, Init: p.Init, PreserveColor: p.PreserveColor,
		StyleScale: p.StyleScale, StyleWeights: p.StyleWeights, Seed: p.Seed,
	}
}

// Help is what --help says beside the flags.
func (styleCmd) Help() string {
	return "Neural style transfer by Gram matrices, in this process. The result has the shape of the content. " +
		"The first Ctrl-C ends the run after the current iteration and saves its state in a checkpoint; the second ends it at once. " +
		"For a signal or a volume no checkpoint is saved, the features are learned or random (drawn with the seed), and --size, --style-scale and --preserve-color have no effect. " +
		"The losses of --curve and --csv are weighted. Those of a resumed run start at the checkpoint."
}

// Validate refuses calls that would fail after all the work, or overwrite an
// input.
func (c styleCmd) Validate() error {
	if c.Content+c.Signal+c.Volume == "" {
		return errors.New("one of --content, --signal and --volume is needed")
	}
	if len(c.Style) > style.MaxStyles {
		return fmt.Errorf("--style: %d files; at most %d are allowed", len(c.Style), style.MaxStyles)
	}
	if c.Threads < 0 {
		return fmt.Errorf("--threads: %d is below 0", c.Threads)
	}
	pictures := []string{".png", ".jpg", ".jpeg"}
	inputs := slices.Concat([]string{c.Content, c.Signal, c.Volume}, c.Style, c.Mask)
	results := []string{strings.ToLower(filepath.Ext(c.Signal + c.Volume))}
	if c.Content != "" {
		results = pictures
	} else if c.Sheet != "" || c.Checkpoint != "" || len(c.Mask) > 0 || len(c.Style) > 1 {
		return errors.New("--sheet, --checkpoint, --mask and a second --style are for pictures")
	}
	var outputs []string
	for _, o := range []struct {
		flag, name string
		extensions []string
	}{
		{"--out", c.Out, results},
		{"--sheet", c.Sheet, pictures},
		{"--curve", c.Curve, []string{".png"}},
		{"--csv", c.CSV, nil},
		{"--checkpoint", c.checkpointFile(), nil},
	} {
		if o.name == "" {
			continue
		}
		if o.extensions != nil && !slices.Contains(o.extensions, strings.ToLower(filepath.Ext(o.name))) {
			return fmt.Errorf("%s: %s does not end in %s", o.flag, o.name, strings.Join(o.extensions, ", "))
		}
		if info, err := os.Stat(filepath.Dir(o.name)); err != nil || !info.IsDir() {
			return fmt.Errorf("%s: there is no folder %s", o.flag, filepath.Dir(o.name))
		}
		if info, err := os.Stat(o.name); err == nil && info.IsDir() {
			return fmt.Errorf("%s: %s is a folder", o.flag, o.name)
		}
		for _, other := range slices.Concat(inputs, outputs) {
			if sameFile(o.name, other) {
				return fmt.Errorf("%s: %s is also used by another flag of this call, and would be overwritten", o.flag, o.name)
			}
		}
		outputs = append(outputs, o.name)
	}
	return nil
}

// sameFile reports whether two names are of the same file, which need not exist.
func sameFile(a, b string) bool {
	if b == "" {
		return false
	}
	first, err := os.Stat(a)
	second, err2 := os.Stat(b)
	if err == nil && err2 == nil {
		return os.SameFile(first, second)
	}
	a, err = filepath.Abs(a)
	b, err2 = filepath.Abs(b)
	return err == nil && err2 == nil && a == b
}

func (c styleCmd) checkpointFile() string {
	if c.Checkpoint == "" {
		return c.Out + ".checkpoint"
	}
	return c.Checkpoint
}

func (c styleCmd) threads() int {
	if c.Threads > 0 {
		return c.Threads
	}
	return runtime.GOMAXPROCS(0)
}

func (c styleCmd) Run(t *tool) (err error) {
	if c.Content == "" {
		return c.transferField(t)
	}
	task := style.Task{Params: c.params()}
	// Before any picture is decoded at a size that is out of range.
	if err := task.Params.Validate(len(c.Style)); err != nil {
		return c.asUsageError(err)
	}
	if task.Content, err = t.readPicture("--content", c.Content, c.Size); err != nil {
		return err
	}
	for _, name := range c.Style {
		img, err := t.readPicture("--style", name, int(math.Ceil(float64(c.Size)*c.StyleScale)))
		if err != nil {
			return err
		}
		task.Styles = append(task.Styles, img)
	}
	for _, name := range c.Mask {
		img, err := t.readPicture("--mask", name, c.Size)
		if err != nil {
			return err
		}
		task.Masks = append(task.Masks, toGray(img))
	}
	engine, done, err := c.openEngine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	return c.transferPicture(t, engine, task)
}

// maxPictureBytes bounds a file of the operator. The server's limit is lower.
const maxPictureBytes = 64 << 20

// readPicture decodes a picture for a long side.
func (t *tool) readPicture(flag, name string, longSide int) (*image.RGBA, error) {
	complain := func(err error) error { return usageError{fmt.Errorf("%s: %s: %s", flag, name, explain(err))} }
	limits := imaging.DefaultLimits()
	limits.MaxBytes = maxPictureBytes
	data, err := readLimited(name, limits.MaxBytes)
	if err != nil {
		return nil, complain(err)
	}
	img, err := imaging.Decode(t.ctx, data, limits, longSide)
	if face.KindOf(err) == face.Canceled {
		return nil, err
	} else if err != nil {
		return nil, complain(err)
	}
	return img.RGBA, nil
}

// readLimited reads a file of no more than a limit.
func readLimited(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > limit {
		return nil, face.Errorf(face.TooLarge, "style", "the file has %d bytes; at most %d are read", info.Size(), limit)
	}
	return os.ReadFile(name)
}

func toGray(img *image.RGBA) *image.Gray {
	out := image.NewGray(img.Rect)
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			out.Set(x, y, color.GrayModel.Convert(img.RGBAAt(x, y)))
		}
	}
	return out
}

// writePicture writes a picture in the format that its name says.
func writePicture(name string, img image.Image) error {
	const quality = 92
	var b bytes.Buffer
	var err error
	if strings.EqualFold(filepath.Ext(name), ".png") {
		err = png.Encode(&b, img)
	} else {
		err = jpeg.Encode(&b, img, &jpeg.Options{Quality: quality})
	}
	if err != nil {
		return err
	}
	return replaceFile(name, b.Bytes())
}

// transferPicture makes the picture and writes all output files.
func (c styleCmd) transferPicture(t *tool, engine style.Transferrer, task style.Task) error {
	if err := engine.Check(task); err != nil {
		return c.asUsageError(err)
	}
	s := &sheet{task: task, styles: c.Style}
	var result *image.RGBA
	err := c.runTransfer(t, func(ctx context.Context, checkpoint []byte, observe func(style.Report) error) (err error) {
		task.Checkpoint = checkpoint
		result, err = engine.Transfer(ctx, task, func(r style.Report) error {
			if c.Sheet != "" {
				s.observe(r)
			}
			return observe(r)
		})
		return err
	}, func() error {
		err := writePicture(c.Out, result)
		if err == nil && c.Sheet != "" {
			err = s.write(c.Sheet, result)
		}
		return err
	})
	return c.asUsageError(err)
}

// transferField changes a signal or a volume.
func (c styleCmd) transferField(t *tool) (err error) {
	flag, name, axes := "--signal", c.Signal, 1
	if c.Volume != "" {
		flag, name, axes = "--volume", c.Volume, 3
	}
	content, err := readField(flag, name, axes)
	if err != nil {
		return err
	}
	like, err := readField("--style", c.Style[0], axes)
	if err != nil {
		return err
	}
	engine, done, err := c.openEngine()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	params := c.params()
	params.Features = cmp.Or(c.Features, style.Learned)
	var result style.Field
	return c.asUsageError(c.runTransfer(t, func(ctx context.Context, _ []byte, observe func(style.Report) error) (err error) {
		result, err = engine.TransferField(ctx, asField(content), asField(like), params, observe)
		return err
	}, func() error {
		out := *content
		out.Data = result.Data
		data, err := out.Encode(filepath.Ext(c.Out))
		if err != nil {
			return err
		}
		return replaceFile(c.Out, data)
	}))
}

// errStopped ends a run whose state was kept.
var errStopped = errors.New("stopped")

// runTransfer runs a transfer: it shows the progress, saves the state when the
// run is stopped, and writes the results at the end.
func (c styleCmd) runTransfer(t *tool, transfer func(ctx context.Context, checkpoint []byte, observe func(style.Report) error) error, write func() error) error {
	var checkpoint []byte
	if c.Checkpoint != "" {
		data, err := os.ReadFile(c.Checkpoint)
		switch {
		case err == nil:
			checkpoint = data
		case errors.Is(err, os.ErrNotExist):
			fmt.Fprintf(t.stderr, "%s does not exist: starting from the beginning\n", c.Checkpoint)
		default:
			return fmt.Errorf("--checkpoint: %w", err)
		}
	}
	// A run is stopped between two iterations, if there is a state to save. Before
	// the first iteration there is none, so the run is stopped at once.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.ctx))
	defer cancel()
	var canSave atomic.Bool // there is a state that can be saved
	defer context.AfterFunc(t.ctx, func() {
		if !canSave.Load() {
			cancel()
		}
	})()
	line := newLossLine(t.stderr)
	defer line.Close()
	var history []style.Report
	kept := ""
	err := transfer(ctx, checkpoint, func(r style.Report) error {
		canSave.Store(r.Checkpoint != nil)
		line.Show(r)
		if err := t.ctx.Err(); err != nil {
			if r.Checkpoint == nil {
				return err // there is nothing to save
			}
			state, err := r.Checkpoint()
			if err == nil {
				err = replaceFile(c.checkpointFile(), state)
			}
			kept = fmt.Sprintf("iteration %d of %d", r.Iteration, r.Iterations)
			return errors.Join(err, errStopped)
		}
		r.Checkpoint, r.Preview = nil, nil // they hold the whole state
		history = append(history, r)
		return nil
	})
	line.Close()
	if errors.Is(err, errStopped) && kept != "" {
		if _, missing := os.Stat(c.checkpointFile()); missing != nil {
			return fmt.Errorf("stopped at %s; the state could not be saved: %w", kept, err)
		}
		return fmt.Errorf("stopped at %s, saved in %s: the same command with --checkpoint=%[2]s continues", kept, c.checkpointFile())
	}
	if err != nil {
		return err
	}
	if err := write(); err != nil {
		return err
	}
	if c.CSV != "" {
		if err := replaceFile(c.CSV, lossTable(history)); err != nil {
			return err
		}
	}
	if c.Curve != "" && len(history) > 0 {
		if err := drawLosses(c.Curve, history); err != nil {
			return err
		}
	}
	for _, name := range []string{c.Out, c.Sheet, c.Curve, c.CSV} {
		if name != "" {
			fmt.Fprintln(t.stderr, "wrote", name)
		}
	}
	if checkpoint != nil {
		return os.Remove(c.Checkpoint) // the run is complete
	}
	return nil
}

// lossTable is the losses as CSV.
func lossTable(history []style.Report) []byte {
	b := []byte("iteration,width,height,total,content,style,tv,shrunk\n")
	for _, r := range history {
		b = fmt.Appendf(b, "%d,%d,%d,%g,%g,%g,%g,%d\n", r.Iteration, r.Width, r.Height,
			r.Loss.Total, r.Loss.Content, r.Loss.Style, r.Loss.TV, r.Shrunk)
	}
	return b
}

// asUsageError turns an error about a field of a task into one about a flag.
func (c styleCmd) asUsageError(err error) error {
	e, ok := errors.AsType[*face.Error](err)
	if !ok || e.Kind != face.Invalid {
		return err
	}
	field, says, ok := strings.Cut(e.Detail, ": ")
	if !ok {
		return usageError{err}
	}
	name, index := field, -1
	if found := regexp.MustCompile(`^(.*)\[(\d+)\]$`).FindStringSubmatch(field); found != nil {
		name = found[1]
		index, _ = strconv.Atoi(found[2]) // digits
	}
	subject := ""
	which := func(files []string) {
		if index >= 0 && index < len(files) {
			subject = " " + files[index] + ":"
		}
	}
	rest, isParam := strings.CutPrefix(name, "params.")
	switch layer, _ := strings.CutPrefix(rest, "layers."); {
	case isParam && layer != rest:
		name, layer, _ = strings.Cut(layer, ".")
		name += "-layers"
		if layer != "" {
			subject = " " + layer + ":"
		}
	case isParam:
		name = rest
	case name == "style":
		which(c.Style)
	case name == "mask":
		which(c.Mask)
	case name == "content" && c.Signal != "":
		name = "signal"
	case name == "content" && c.Volume != "":
		name = "volume"
	case name == "content", name == "checkpoint":
	default:
		return usageError{err}
	}
	return usageError{fmt.Errorf("--%s:%s %s", strings.ReplaceAll(name, "_", "-"), subject, says)}
}
