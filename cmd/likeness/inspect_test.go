package main

import (
	"crypto/sha256"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
)

// dotsNetwork is a network of features in a folder with its manifest: unit 0 of
// its layer "dots/seen" sees bright dots, unit 1 nothing, unit 2 red. Its input
// is blue first.
func dotsNetwork(t *testing.T) (file string) {
	t.Helper()
	g := grad.NewGraph()
	w := make([]float32, 3*3*9)
	for plane := range 3 {
		for i := range 9 {
			w[plane*9+i] = -1
		}
		w[plane*9+4] = 8
	}
	for i := range 9 {
		w[2*27+2*9+i] = 1 // the last plane is red
	}
	y := g.Name(g.Conv(g.Input("image", 1, 3, 32, 32), g.Weight("w", w, 3, 3, 3, 3), nil, grad.Window{Pads: []int64{1, 1, 1, 1}}), "conv")
	y = g.Name(g.Relu(y), "dots/seen")
	y = g.Name(g.MaxPool(y, grad.Window{Kernel: []int64{2, 2}, Strides: []int64{2, 2}}), "pool")
	data, err := g.Marshal(y)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(embed.Manifest{
		ID: "dots", Task: embed.TaskFeatures, File: "dots.onnx",
		SHA256: fmt.Sprintf("%x", sha256.Sum256(data)), Size: int64(len(data)),
		License: "MIT", Source: "this test", TrainingData: "none",
		Input:    embed.Input{Name: "image", Multiple: 2, Order: "bgr", Scale: [3]float32{1, 1, 1}},
		Outputs:  []embed.Output{{Name: "pool", Shape: []int64{1, 3, -1, -1}}},
		Features: &embed.Features{Content: map[string]float64{"dots/seen": 1}, Style: map[string]float64{"dots/seen": 1}, ContentWeight: 1, StyleWeight: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file = filepath.Join(dir, "dots.onnx")
	for name, content := range map[string][]byte{file: data, filepath.Join(dir, "dots.json"): manifest} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// dottedPhotos are a folder of black photos with a dot each, and what is none.
func dottedPhotos(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, dot := range map[string]struct {
		at image.Point
		c  color.RGBA
	}{
		"white.png":  {image.Pt(10, 20), color.RGBA{255, 255, 255, 255}},
		"corner.png": {image.Pt(0, 31), color.RGBA{200, 200, 200, 255}},
		"red.png":    {image.Pt(5, 6), color.RGBA{255, 0, 0, 255}},
	} {
		img := image.NewRGBA(image.Rect(0, 0, 32, 32))
		for i := range 32 * 32 {
			img.Pix[4*i+3] = 255
		}
		img.SetRGBA(dot.at.X, dot.at.Y, dot.c)
		if err := writePicture(filepath.Join(dir, name), img); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "torn.png"), []byte("no picture"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func inspectTable(t *testing.T, dir string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "units.csv"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Units of which it is known what they see are shown with that.
func TestInspect(t *testing.T) {
	t.Parallel()
	orttest.Library(t)
	out := filepath.Join(t.TempDir(), "new", "folder")
	got := runTool(t.Context(), "inspect", "--model", dotsNetwork(t), "--images", dottedPhotos(t), "--out", out,
		"--layers=dots/seen,pool", "--side=32", "--steps=20", "--patches=2", "--data-dir", t.TempDir())
	if got.code != exitOK || !strings.Contains(got.stderr, "1 of 4 files are left out") {
		t.Fatalf("%+v", got)
	}
	rows := inspectTable(t, out)
	for i, row := range rows {
		rows[i] = slices.Concat(row[:2], row[4:5], row[6:]) // without mean, deviation and share
	}
	if diff := cmp.Diff([][]string{
		{"layer", "unit", "max", "field_width", "field_height", "top_image", "top_x", "top_y"},
		{"dots/seen", "0", "6120", "3", "3", "white.png", "9", "19"},
		{"dots/seen", "1", "0", "3", "3", "corner.png", "-1", "-1"},
		{"dots/seen", "2", "255", "3", "3", "red.png", "3", "4"},
		{"pool", "0", "6120", "4", "4", "white.png", "9", "19"},
		{"pool", "1", "0", "4", "4", "corner.png", "-1", "-1"},
		{"pool", "2", "255", "4", "4", "red.png", "3", "3"},
	}, rows); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	// The silent unit has no row; in the others a pixel of a photo is 32 wide.
	sheet, _ := readImage(t, filepath.Join(out, "patches-1-dots-seen.png"))
	row := unitCell + unitLabel + unitGap
	if got, want := sheet.Bounds().Size(), image.Pt(unitName+2*(unitCell+unitGap)+unitGap, unitTitle+2*row); got != want {
		t.Errorf("the sheet is %v, want %v", got, want)
	}
	for _, tt := range []struct {
		what    string
		x, y    int
		r, g, b uint32
	}{
		{what: "the white dot", x: 48, y: 48, r: 255, g: 255, b: 255},
		{what: "beside the white dot", x: 16, y: 48},
		{what: "the dot in the corner", x: unitCell + unitGap + 48, y: 48, r: 200, g: 200, b: 200},
		{what: "beyond the corner", x: unitCell + unitGap + 16, y: 48, r: 170, g: 170, b: 170},
		{what: "the red dot, of the first place that sees it", x: 80, y: row + 80, r: 255},
	} {
		r, g, b, _ := sheet.At(unitName+tt.x, unitTitle+tt.y).RGBA()
		if r>>8 != tt.r || g>>8 != tt.g || b>>8 != tt.b {
			t.Errorf("%s: %d %d %d", tt.what, r>>8, g>>8, b>>8)
		}
	}
	filters, _ := readImage(t, filepath.Join(out, "filters.png"))
	for unit, want := range []uint32{255, 128, 255} {
		if r, _, _, _ := filters.At(unitGap+unit*(filterCell+unitGap)+filterCell/2, unitTitle+filterCell/2).RGBA(); r>>8 != want {
			t.Errorf("the middle of filter %d: %d, want %d", unit, r>>8, want)
		}
	}
	// What excites the unit that sees red is red.
	maximised, _ := readImage(t, filepath.Join(out, "maximised.png"))
	r, g, b, _ := maximised.At(unitName+unitCell+unitGap+unitCell/2, unitTitle+unitCell/2).RGBA()
	if r>>8 < 200 || g>>8 > 160 || b>>8 > 160 {
		t.Errorf("red is %d %d %d", r>>8, g>>8, b>>8)
	}
}

// What cannot be meant is refused, with what could be.
func TestInspectRefuses(t *testing.T) {
	t.Parallel()
	model, photos, none, out := dotsNetwork(t), dottedPhotos(t), t.TempDir(), t.TempDir()
	stray := filepath.Join(t.TempDir(), "stray.onnx")
	if err := os.WriteFile(stray, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, says string }{
		{"--model=nonsense --images=" + photos, "nonsense"},
		{"--model=" + stray + " --images=" + photos, "no manifest names"},
		{"--model=" + model + " --images=" + photos + "/none", "--images"},
		{"--model=" + model + " --images=" + none, "photo"},
		{"--model=" + model + " --side=33 --images=" + photos, "multiples of 2"},
		{"--model=" + model + " --layers=conv9 --images=" + photos, `no layer "conv9"; it has conv, dots/seen, pool`},
		{"--model=" + model + " --unit=0,3 --images=" + photos, "the units 0 to 2, not 3"},
		{"--model=" + model + " --unit=-1 --images=" + photos, "not -1"},
		{"--model=" + model + " --units=0 --images=" + photos, "--units"},
		{"--model=" + model + " --patches=33 --images=" + photos, "--patches"},
		{"--model=" + model + " --unit=" + strings.Repeat("0,", 64) + "0 --images=" + photos, "65 units are more than 64"},
	} {
		got := runTool(t.Context(), append([]string{"inspect", "--data-dir", none, "--out", out}, strings.Fields(tt.args)...)...)
		if got.code != exitUsage || !strings.Contains(got.stderr, tt.says) {
			t.Errorf("%s: %+v, want it to say %q", tt.args, got, tt.says)
		}
	}
}

// An encoder is shown the faces of photos.
func TestInspectEncoder(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	got := runMeasured(t, "inspect", "--model=mobileface-v2", "--images", sharedtest.Path(t, "data/lfw-dev.tar"), "--out", out,
		"--photos=4", "--layers=_minimumscalar5,fc5_bn", "--unit=3,5", "--patches=2", "--steps=2")
	if got.code != exitOK {
		t.Fatalf("%+v", got)
	}
	rows := inspectTable(t, out)
	if len(rows) != 1+96+256 || rows[1][6] != "15" || rows[len(rows)-1][6] != "112" {
		t.Errorf("%d rows, %v to %v", len(rows), rows[1], rows[len(rows)-1])
	}
	names, err := filepath.Glob(filepath.Join(out, "*.png"))
	if err != nil || len(names) != 4 {
		t.Errorf("%v, %v", names, err)
	}
}
