package main

import (
	"fmt"
	"image"
	"math"
	"path/filepath"
	"slices"

	"golang.org/x/image/draw"

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

// sheet is the contact sheet of a run: its inputs, intermediate pictures and the
// result.
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

// sheetMoments are when a picture is kept, as shares of all iterations. Most
// changes happen at the beginning.
func sheetMoments() []float64 { return []float64{0, 0.05, 0.12, 0.22, 0.38, 0.6, 0.8} }

// observe keeps a picture at each of the moments.
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

// write draws the sheet: a row of inputs, then the run with the result last.
func (s *sheet) write(name string, result image.Image) error {
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
	page, err := newCanvas(columns*(sheetCell+sheetGap)+sheetGap, total, sheetPoints)
	if err != nil {
		return err
	}
	p := s.task.Params
	page.drawText(sheetGap, sheetTitle-14, page.Rect.Dx()-2*sheetGap, fmt.Sprintf("%s features, %d px, %d iterations of %s from %s, %s weights %g : %g : %g, seed %d",
		p.Features, p.Size, p.Iterations, p.Optimizer, p.Init, p.Weights, p.ContentWeight, p.StyleWeight, p.TVWeight, p.Seed))
	y := sheetTitle
	for i, row := range rows {
		for j, c := range row {
			x := sheetGap + j*(sheetCell+sheetGap)
			page.drawImage(c.img, image.Pt(x, y+(heights[i]-c.img.Bounds().Dy())/2))
			page.drawText(x, y+heights[i]+18, sheetCell, c.label)
		}
		y += heights[i] + sheetLabel + sheetGap
	}
	return writePicture(name, page)
}
