package main

import (
	"bytes"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// drawTraining draws the curves of a run as a PNG, one below the other.
func drawTraining(name string, curve []curvePoint) error {
	panels := []struct {
		title string
		of    func(curvePoint) float64
	}{
		{"loss", func(p curvePoint) float64 { return p.Loss }},
		{"share of active triplets", func(p curvePoint) float64 { return p.Active }},
		{"FNMR at FMR 1e-2, people not learnt from", func(p curvePoint) float64 { return p.FNMR }},
	}
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(16*vg.Centimeter, 18*vg.Centimeter), vgimg.UseDPI(120))}
	tiles := draw.Tiles{Rows: len(panels), Cols: 1, PadX: vg.Points(6), PadY: vg.Points(10), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(14)}
	whole := draw.New(canvas)
	for row, panel := range panels {
		p := plot.New()
		p.Title.Text = panel.title
		p.X.Label.Text = "step"
		p.Y.Min = 0
		var line plotter.XYs
		for _, point := range curve {
			if y := panel.of(point); !math.IsNaN(y) && y >= 0 {
				line = append(line, plotter.XY{X: float64(point.Step), Y: y})
			}
		}
		p.Add(plotter.NewGrid())
		if len(line) > 0 {
			l, err := plotter.NewLine(line)
			if err != nil {
				return err
			}
			l.Color, l.Width = color.RGBA{R: 31, G: 95, B: 168, A: 255}, vg.Points(1.6)
			p.Add(l)
		}
		p.Draw(tiles.At(whole, 0, row))
	}
	var png bytes.Buffer
	if _, err := canvas.WriteTo(&png); err != nil {
		return err
	}
	return replaceFile(name, png.Bytes())
}
