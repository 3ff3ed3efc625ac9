package main

import (
	"fmt"
	"image"
	"image/color"
	"math"
	"path/filepath"
	"slices"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/likeness-id/likeness/pkg/style"
)

// Sizes on a contact sheet, in pixels.
const (
	sheetCell   = 320
	sheetGap    = 16
	sheetLabel  = 26
	sheetTitle  = 40
	sheetPoints = 15
)

// sheet is the contact sheet of a run: what went in, how it came about, and
// what came out.
type sheet struct {
	task   style.Task
	styles []string // names of the files
	seen   int      // of the moments
	cells  []cell   // pictures under way
}

type cell struct {
	img   image.Image
	label string
}

// sheetMoments are when a picture is taken, as parts of all iterations: most
// happens in the beginning.
func sheetMoments() []float64 { return []float64{0, 0.05, 0.12, 0.22, 0.38, 0.6, 0.8} }

// observe keeps a picture when it is time for one.
func (s *sheet) observe(r style.Report) {
	due := false
	for moments := sheetMoments(); s.seen < len(moments); s.seen++ {
		if r.Iteration < int(math.Ceil(moments[s.seen]*float64(r.Iterations))) {
			break
		}
		due = true
	}
	if due && r.Preview != nil && r.Iteration < r.Iterations {
		s.cells = append(s.cells, cell{fitCell(r.Preview()), fmt.Sprintf("iteration %d, %d x %d", r.Iteration, r.Width, r.Height)})
	}
}

// fitCell scales a picture so that it fills a cell along one side.
func fitCell(img image.Image) image.Image {
	b := img.Bounds()
	scale := sheetCell / float64(max(b.Dx(), b.Dy()))
	out := image.NewRGBA(image.Rect(0, 0, max(1, int(math.Round(scale*float64(b.Dx())))), max(1, int(math.Round(scale*float64(b.Dy()))))))
	draw.CatmullRom.Scale(out, out.Rect, img, b, draw.Src, nil)
	return out
}

// write draws the sheet: a row of what went in, then the run, its result last.
func (s *sheet) write(name string, result image.Image) error {
	parsed, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return err
	}
	text, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: sheetPoints, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		return err
	}
	inputs := []cell{{fitCell(s.task.Content), "content"}}
	for i, img := range s.task.Styles {
		inputs = append(inputs, cell{fitCell(img), "style: " + filepath.Base(s.styles[i])})
	}
	b := result.Bounds()
	run := append(slices.Clip(s.cells), cell{fitCell(result), fmt.Sprintf("result, %d x %d", b.Dx(), b.Dy())})
	columns := max(len(inputs), min(4, len(run)))
	rows := [][]cell{inputs}
	for len(run) > 0 {
		n := min(columns, len(run))
		rows = append(rows, run[:n])
		run = run[n:]
	}

	heights := make([]int, len(rows))
	total := sheetTitle
	for i, row := range rows {
		for _, c := range row {
			heights[i] = max(heights[i], c.img.Bounds().Dy())
		}
		total += heights[i] + sheetLabel + sheetGap
	}
	page := image.NewRGBA(image.Rect(0, 0, columns*(sheetCell+sheetGap)+sheetGap, total))
	draw.Draw(page, page.Rect, image.White, image.Point{}, draw.Src)
	say := func(x, y, width int, what string) {
		d := font.Drawer{Dst: page, Src: image.NewUniform(color.Gray{40}), Face: text, Dot: fixed.P(x, y)}
		for runes := []rune(what); d.MeasureString(what) > fixed.I(width) && len(runes) > 0; {
			runes = runes[:len(runes)-1]
			what = string(runes) + "…"
		}
		d.DrawString(what)
	}
	p := s.task.Params
	say(sheetGap, sheetTitle-14, page.Rect.Dx()-2*sheetGap, fmt.Sprintf("%s features, %d px, %d iterations of %s from %s, %s weights %g : %g : %g, seed %d",
		p.Features, p.Size, p.Iterations, p.Optimizer, p.Init, p.Weights, p.ContentWeight, p.StyleWeight, p.TVWeight, p.Seed))
	y := sheetTitle
	for i, row := range rows {
		for j, c := range row {
			x, size := sheetGap+j*(sheetCell+sheetGap), c.img.Bounds()
			at := image.Pt(x, y+(heights[i]-size.Dy())/2)
			draw.Draw(page, image.Rectangle{Min: at, Max: at.Add(size.Size())}, c.img, size.Min, draw.Src)
			say(x, y+heights[i]+18, sheetCell, c.label)
		}
		y += heights[i] + sheetLabel + sheetGap
	}
	return writePicture(name, page)
}
