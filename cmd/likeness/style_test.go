package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"image"
	"image/color"
	_ "image/jpeg"
	_ "image/png"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/artwork"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/series"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/style"
)

// paintings is a folder with a content (with alpha), styles and what is no
// picture.
func paintings(t *testing.T) (path func(name string) string) {
	t.Helper()
	dir := t.TempDir()
	path = func(name string) string { return filepath.Join(dir, name) }
	content := image.NewNRGBA(image.Rect(0, 0, 80, 60))
	for y := range 60 {
		for x := range 80 {
			content.Set(x, y, color.NRGBA{uint8(3 * x), uint8(4 * y), 90, uint8(255 - x)})
		}
	}
	grey := image.NewGray(image.Rect(0, 0, 70, 70))
	half := image.NewGray(image.Rect(0, 0, 40, 30))
	for i := range grey.Pix {
		grey.Pix[i] = uint8(i * i)
	}
	for i := range half.Pix {
		half.Pix[i] = uint8(i % 40 / 20 * 255)
	}
	for name, img := range map[string]image.Image{
		"content.png": content, "strokes.jpg": artwork.Draw("strokes", 96), "grey.png": grey,
		"half.png": half, "black.png": image.NewGray(image.Rect(0, 0, 8, 8)),
	} {
		if err := writePicture(path(name), img); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"text.png": "no picture", "signal.csv": "1\n2\n3\n", "torn.checkpoint": "torn"} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func readImage(t *testing.T, name string) (img image.Image, format string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	img, format, err = image.Decode(bytes.NewReader(b))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return img, format
}

func TestStyle(t *testing.T) {
	t.Parallel()
	flags := builtInOnly(t)
	path := paintings(t)
	got := runTool(t.Context(), append([]string{
		"style", "-c", path("content.png"), "-s", path("strokes.jpg"), "-s", path("grey.png"),
		"--mask", path("half.png"), "--mask", path("content.png"), "-o", path("out.jpg"), "--size=64", "--iterations=5",
		"--sheet", path("sheet.jpg"), "--curve", path("losses.png"), "--csv", path("losses.csv"), "--threads=1",
	}, flags...)...)
	if got.code != exitOK || got.stdout != "" {
		t.Fatalf("%+v", got)
	}
	for _, says := range []string{"1/5 at 64x48: loss ", "5/5 at 64x48: loss ", " = content ", " + style ", " + tv ", "wrote " + path("out.jpg"), "wrote " + path("losses.csv")} {
		if !strings.Contains(got.stderr, says) {
			t.Errorf("it does not say %q:\n%s", says, got.stderr)
		}
	}
	if img, format := readImage(t, path("out.jpg")); img.Bounds() != image.Rect(0, 0, 64, 48) || format != "jpeg" {
		t.Errorf("the result is %v in %s", img.Bounds(), format)
	}
	// Three inputs in the first row, the run below.
	if img, _ := readImage(t, path("sheet.jpg")); img.Bounds().Dx() < 3*sheetCell || img.Bounds().Dy() < 2*sheetCell/2 {
		t.Errorf("the sheet is %v", img.Bounds())
	}
	if img, _ := readImage(t, path("losses.png")); img.Bounds().Dx() < 600 {
		t.Errorf("the curve is %v", img.Bounds())
	}
	f, err := os.Open(path("losses.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 2 || len(rows) > 6 {
		t.Fatalf("%v, %v", rows, err)
	}
	for _, row := range rows[1:] {
		if loss, err := strconv.ParseFloat(row[3], 64); err != nil || loss <= 0 || row[1] != "64" {
			t.Errorf("%v", row)
		}
	}
}

// stopAt stops what writes to it when it says something.
type stopAt struct {
	bytes.Buffer
	words string
	stop  context.CancelFunc
}

func (s *stopAt) Write(b []byte) (int, error) {
	if strings.Contains(string(b), s.words) {
		s.stop()
	}
	return s.Buffer.Write(b)
}

// What is stopped and goes on gives the same picture as what never stopped.
func TestStyleResume(t *testing.T) {
	t.Parallel()
	flags := builtInOnly(t)
	path := paintings(t)
	args := func(out string, more ...string) []string {
		return append([]string{
			"style", "--content", path("content.png"), "--style", path("strokes.jpg"), "--out", path(out), "--size=64", "--iterations=6", "--threads=1", "--seed=7",
		}, append(more, flags...)...)
	}
	if got := runTool(t.Context(), args("whole.png", "--checkpoint", path("not.there"))...); got.code != exitOK || !strings.Contains(got.stderr, "starting from the beginning") {
		t.Fatalf("%+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stderr := &stopAt{words: "3/6", stop: cancel}
	code := runCommand(ctx, args("stopped.png"), &bytes.Buffer{}, stderr)
	kept := path("stopped.png.checkpoint")
	if said := stderr.String(); code != exitFailed || !strings.Contains(said, "stopped at iteration 3 of 6") || !strings.Contains(said, "--checkpoint="+kept) {
		t.Fatalf("%d\n%s", code, said)
	}
	if _, err := os.Stat(path("stopped.png")); err == nil {
		t.Error("half a picture was written")
	}
	// Another run's state is refused, and stays.
	got := runTool(t.Context(), args("stopped.png", "--checkpoint", kept, "--style-weight=2")...)
	if got.code != exitUsage || !strings.Contains(got.stderr, "--checkpoint") {
		t.Errorf("another run's: %+v", got)
	}
	got = runTool(t.Context(), args("stopped.png", "--checkpoint", kept)...)
	if got.code != exitOK || strings.Contains(got.stderr, "3/6") || !strings.Contains(got.stderr, "4/6") {
		t.Fatalf("%+v", got)
	}
	if _, err := os.Stat(kept); err == nil {
		t.Error("the checkpoint of a finished run is left")
	}
	a, err := os.ReadFile(path("whole.png"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path("stopped.png"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the picture that was stopped is another one")
	}

	// Stopped before it began there is nothing to keep.
	got = runTool(ctx, args("never.png")...)
	if got.code != exitFailed || !strings.Contains(got.stderr, "stopped before the end") {
		t.Errorf("%+v", got)
	}
}

func TestStyleRefuses(t *testing.T) {
	t.Parallel()
	path := paintings(t)
	content, style, out := "--content="+path("content.png"), "--style="+path("strokes.jpg"), "--out="+path("out.png")
	for _, tt := range []struct {
		says    string
		runtime bool // it takes one to find out
		args    []string
	}{
		{"one of --content", false, []string{style, out}},
		{"--signal", false, []string{content, "--signal=" + path("signal.csv"), style, out}},
		{"--style", false, []string{content, out}},
		{"--style: 5 files", false, []string{content, style, style, style, style, style, out}},
		{"--out", false, []string{content, style}},
		{"none.png", false, []string{"--content=" + path("none.png"), style, out}},
		{"--out: " + path("out.webp"), false, []string{content, style, "--out=" + path("out.webp")}},
		{"--out: there is no folder", false, []string{content, style, "--out=" + path("none/out.png")}},
		{"--out: " + path("content.png") + " is also used by another flag", false, []string{content, style, "--out=" + path("content.png")}},
		{"--sheet: " + path("out.png") + " is also used by another flag", false, []string{content, style, out, "--sheet=" + path("out.png")}},
		{"--curve: " + path("c.svg"), false, []string{content, style, out, "--curve=" + path("c.svg")}},
		{"--csv: " + path("strokes.jpg"), false, []string{content, style, out, "--csv=" + path("strokes.jpg")}},
		{"--threads", false, []string{content, style, out, "--threads=-1"}},
		{"--out: " + path("out.png"), false, []string{"--signal=" + path("signal.csv"), "--style=" + path("signal.csv"), out}},
		{"are for pictures", false, []string{"--signal=" + path("signal.csv"), "--style=" + path("signal.csv"), "--out=" + path("o.csv"), "--sheet=" + path("s.png")}},
		{"--content: " + path("text.png") + ": not an image", false, []string{"--content=" + path("text.png"), style, out}},
		{"--style: " + path("text.png") + ": not an image", false, []string{content, "--style=" + path("text.png"), out}},
		{"--mask: " + path("text.png") + ": not an image", false, []string{content, style, "--mask=" + path("text.png"), out}},
		{"--size: 63 is not within", false, []string{content, style, out, "--size=63"}},
		{"--iterations: 0 is not", false, []string{content, style, out, "--iterations=0"}},
		{"--iterations: 1000000000 is not", false, []string{content, style, out, "--iterations=1000000000"}},
		{"--weights: \"heavy\"", false, []string{content, style, out, "--weights=heavy"}},
		{"--content-weight: 0 is not above", false, []string{content, style, out, "--content-weight=0"}},
		{"--style-weight: -1 is not above", false, []string{content, style, out, "--style-weight=-1"}},
		{"--tv-weight: -1 is not", false, []string{content, style, out, "--tv-weight=-1"}},
		{"--style-scale: 5 is not", false, []string{content, style, out, "--style-scale=5"}},
		{"--style-weights: 2 weights for 1", false, []string{content, style, out, "--style-weights=1,2"}},
		{"--preserve-color: \"all\"", false, []string{content, style, out, "--preserve-color=all"}},
		{"--style-layers: l1: -1 is not above", false, []string{content, style, out, "--style-layers=l1=-1"}},
		{"--mask: 1 masks for 2 styles", true, []string{content, style, style, "--mask=" + path("half.png"), out}},
		{"--mask: " + path("black.png") + ": nothing of it is white", true, []string{content, style, "--mask=" + path("black.png"), out}},
		{"--features: \"vgg99\" is not one of", true, []string{content, style, out, "--features=vgg99"}},
		{"--content-layers: \"builtin-features\" has no layer \"l99\"", true, []string{content, style, out, "--content-layers=l99=1"}},
		{"--checkpoint", true, []string{content, style, out, "--checkpoint=" + path("torn.checkpoint")}},
	} {
		t.Run(tt.says, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"style", "--size=64"}, tt.args...)
			if tt.runtime {
				args = append(args, builtInOnly(t)...)
			}
			got := runTool(t.Context(), args...)
			if got.code != exitUsage || got.stdout != "" || !strings.Contains(got.stderr, tt.says) {
				t.Errorf("%+v, want it to say %q", got, tt.says)
			}
		})
	}
	if b, err := os.ReadFile(path("text.png")); err != nil || string(b) != "no picture" {
		t.Errorf("an input was touched: %q, %v", b, err)
	}
}

// Signals and volumes keep their shape, their units and their format.
func TestStyleField(t *testing.T) {
	t.Parallel()
	orttest.Library(t)
	dir := t.TempDir()
	field := func(name string, f series.Field, at func(i int) float64) string {
		n := int64(1)
		for _, d := range f.Shape {
			n *= d
		}
		f.Data = make([]float32, n)
		for i := range f.Data {
			f.Data[i] = float32(at(i))
		}
		b, err := f.Encode(filepath.Ext(name))
		if err != nil {
			t.Fatal(err)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	beat := func(i int) float64 { return 0.3 * math.Exp(-math.Pow(float64(i%50-25)/4, 2)) }
	buzz := func(i int) float64 { return 0.2 * math.Sin(float64(i)) }
	for name, tt := range map[string]struct {
		flag, extension string
		axes            int
		content, like   series.Field
	}{
		"columns": {"--signal", ".csv", 1, series.Field{Shape: []int64{2, 300}}, series.Field{Shape: []int64{2, 200}}},
		"sound":   {"--signal", ".wav", 1, series.Field{Shape: []int64{1, 256}, Rate: 8000}, series.Field{Shape: []int64{1, 256}, Rate: 11025}},
		"volume":  {"--volume", ".npy", 3, series.Field{Shape: []int64{1, 12, 10, 16}, Bare: true}, series.Field{Shape: []int64{1, 16, 16, 16}, Bare: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := field(name+tt.extension, tt.content, beat)
			out := filepath.Join(dir, name+"-out"+tt.extension)
			args := []string{
				"style", tt.flag, in, "--style", field(name+"-style"+tt.extension, tt.like, buzz), "-o", out,
				"--iterations=5", "--threads=1", "--data-dir", dir, "--csv", filepath.Join(dir, name+"-losses.csv"),
				"--features=random", // to fit some takes long under the race detector
			}
			if got := runTool(t.Context(), args...); got.code != exitOK || !strings.Contains(got.stderr, "wrote "+out) {
				t.Fatalf("%+v", got)
			}
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			result, err := series.Decode(tt.extension, b, tt.axes)
			if err != nil {
				t.Fatal(err)
			}
			changed := false
			for i, v := range result.Data {
				if math.Abs(float64(v)) > 1.5 {
					t.Fatalf("number %d is %g", i, v)
				}
				changed = changed || math.Abs(float64(v)-beat(i)) > 1e-3
			}
			if result.Data = nil; !cmp.Equal(*result, tt.content) || !changed {
				t.Errorf("%+v for %+v, changed %v", *result, tt.content, changed)
			}

			// Stopped, it says so, and leaves nothing.
			ctx, cancel := context.WithCancel(t.Context())
			args[6] = filepath.Join(dir, name+"-stopped"+tt.extension)
			code := runCommand(ctx, args, &bytes.Buffer{}, &stopAt{words: "1/5", stop: cancel})
			if _, err := os.Stat(args[6]); code != exitFailed || err == nil {
				t.Errorf("stopped: %d, %v", code, err)
			}
		})
	}
}

func TestStyleFieldRefuses(t *testing.T) {
	t.Parallel()
	orttest.Library(t)
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	good := write("good.csv", strings.Repeat("1\n2\n", 20))
	for _, tt := range []struct{ says, signal, like, more string }{
		{"--signal: " + dir + "/words.csv: line 2", write("words.csv", "1\nx\n"), good, "--seed=1"},
		{"--style: " + dir + "/words.csv: line 2", good, filepath.Join(dir, "words.csv"), "--seed=1"},
		{"--signal: sizes [2]", write("short.csv", "1\n2\n"), good, "--seed=1"},
		{"--style: 2 channels of 1 axes", good, write("two.csv", strings.Repeat("1,2\n", 20)), "--seed=1"},
		{"--iterations: 0 is not", good, good, "--iterations=0"},
		{"--features: \"vgg\" is neither", good, good, "--features=vgg"},
	} {
		got := runTool(t.Context(), "style", "--signal", tt.signal, "--style", tt.like, "--out", filepath.Join(dir, "out.csv"), "--data-dir", dir, tt.more)
		if got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%+v, want it to say %q", got, tt.says)
		}
	}
}

// Without flags, the parameters are the package's defaults.
func TestStyleDefaults(t *testing.T) {
	t.Parallel()
	path := paintings(t)
	parse := func(more ...string) style.Params {
		var c cli
		parser, err := kong.New(&c, helpVariables())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(append([]string{"style", "-c", path("content.png"), "-s", path("grey.png"), "-o", path("o.png")}, more...)); err != nil {
			t.Fatal(err)
		}
		return c.Style.params()
	}
	if diff := cmp.Diff(style.DefaultParams(), parse()); diff != "" {
		t.Errorf("(-style.DefaultParams +flags):\n%s", diff)
	}
	p := parse("--style-layers=fire2/concat=4,conv1=0.5", "--style-weights=1,2")
	if diff := cmp.Diff(map[string]float64{"fire2/concat": 4, "conv1": 0.5}, p.Layers.Style); diff != "" || !cmp.Equal(p.StyleWeights, []float64{1, 2}) {
		t.Errorf("%v %v", diff, p.StyleWeights)
	}
}

// failing is an engine that cannot be made to fail otherwise.
type failing struct{ err error }

func (f failing) Check(style.Task) error { return nil }

func (f failing) Transfer(_ context.Context, t style.Task, observe func(style.Report) error) (*image.RGBA, error) {
	report := style.Report{
		Iteration: 1, Iterations: 2, Width: 64, Height: 48, Loss: style.Loss{Total: 1}, Shrunk: 3,
		Checkpoint: func() ([]byte, error) { return nil, f.err }, Preview: func() *image.RGBA { return t.Content },
	}
	if err := observe(report); err != nil {
		return nil, err
	}
	return nil, f.err
}

// An earlier result stays when there is no new one.
func TestStyleFails(t *testing.T) {
	t.Parallel()
	path := paintings(t)
	if err := os.WriteFile(path("out.png"), []byte("an earlier one"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := styleCmd{Out: path("out.png"), Sheet: path("sheet.png"), styleParams: styleParams{Size: 64}}
	task := style.Task{Content: artwork.Draw("valley", 64)}
	diverged := face.Errorf(face.Internal, "style", "the loss is not finite")
	for name, stopped := range map[string]bool{"diverges": false, "cannot be kept": true} {
		ctx, cancel := context.WithCancel(t.Context())
		stderr := &stopAt{words: "nothing", stop: cancel}
		if stopped {
			stderr.words = "1/2 at 64x48: loss 1 = content 0 + style 0 + tv 0, 3 steps shrunk"
		}
		err := c.transferPicture(&tool{ctx: ctx, stdout: &bytes.Buffer{}, stderr: stderr}, failing{diverged}, task)
		cancel()
		if err == nil || !strings.Contains(err.Error(), "not finite") || stopped != strings.Contains(err.Error(), "could not be saved") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(path("out.png")); err != nil || string(b) != "an earlier one" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestDrawLosses(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "losses.png")
	for _, history := range [][]style.Report{
		{{Iteration: 1, Iterations: 1, Width: 64, Height: 48}}, // nothing to be seen
		{{Iteration: 4, Iterations: 9, Width: 64, Height: 48, Loss: style.Loss{Total: 2, Style: 2}}, {Iteration: 5, Iterations: 9, Width: 128, Height: 96, Loss: style.Loss{Total: 3, Content: 1, Style: 2}}},
	} {
		if err := drawLosses(name, history); err != nil {
			t.Error(err)
		}
	}
}
