package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/likeness-id/likeness/pkg/style"
)

// drawLosses draws the losses over the iterations as a PNG, on a logarithmic
// axis. A vertical line marks where a larger scale begins: its losses cannot be
// compared with those of the scale before, because its targets are different.
func drawLosses(name string, history []style.Report) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("Losses over %d iterations", history[len(history)-1].Iteration)
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = "Iteration", "Loss, weighted"
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(12)
		axis.Tick.Label.Font.Size = vg.Points(10)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)

	low, high := math.Inf(1), 0.0
	for _, part := range []struct {
		name  string
		of    func(style.Loss) float64
		color color.Color
		width vg.Length
	}{
		{"total", func(l style.Loss) float64 { return l.Total }, color.RGBA{R: 40, G: 40, B: 40, A: 255}, vg.Points(2.2)},
		{"content", func(l style.Loss) float64 { return l.Content }, color.RGBA{R: 31, G: 95, B: 168, A: 255}, vg.Points(1.5)},
		{"style", func(l style.Loss) float64 { return l.Style }, color.RGBA{R: 192, G: 57, B: 43, A: 255}, vg.Points(1.5)},
		{"tv", func(l style.Loss) float64 { return l.TV }, color.RGBA{R: 39, G: 134, B: 79, A: 255}, vg.Points(1.5)},
	} {
		// A line for each scale: they are not connected.
		var line plotter.XYs
		first := true
		flush := func() error {
			if len(line) == 0 {
				return nil
			}
			l, err := plotter.NewLine(line)
			if err != nil {
				return err
			}
			l.Color, l.Width = part.color, part.width
			p.Add(l)
			if first {
				p.Legend.Add(part.name, l)
				first = false
			}
			line = nil
			return nil
		}
		for i, r := range history {
			if i > 0 && scaleBegins(history, i) {
				if err := flush(); err != nil {
					return err
				}
			}
			// A logarithmic axis has no 0.
			if v := part.of(r.Loss); v > 0 && !math.IsInf(v, 0) {
				line = append(line, plotter.XY{X: float64(r.Iteration), Y: v})
				low, high = min(low, v), max(high, v)
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	if high == 0 {
		low, high = 0.1, 10
	}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.X.Min, p.X.Max = float64(history[0].Iteration-1), float64(history[len(history)-1].Iteration)
	p.Y.Min, p.Y.Max = low/1.5, high*3 // with room for the names of the scales

	names := plotter.XYLabels{}
	for i, r := range history {
		if !scaleBegins(history, i) {
			continue
		}
		x := float64(r.Iteration) - 0.5
		line, err := plotter.NewLine(plotter.XYs{{X: x, Y: p.Y.Min}, {X: x, Y: p.Y.Max}})
		if err != nil {
			return err
		}
		line.Color, line.Dashes = color.Gray{150}, []vg.Length{vg.Points(3), vg.Points(3)}
		p.Add(line)
		names.XYs = append(names.XYs, plotter.XY{X: x, Y: high * 1.9})
		names.Labels = append(names.Labels, fmt.Sprintf(" %d px", max(r.Width, r.Height)))
	}
	labels, err := plotter.NewLabels(names)
	if err != nil {
		return err
	}
	p.Add(labels)
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(3)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(-8), vg.Points(-24)

	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(20*vg.Centimeter, 12*vg.Centimeter), vgimg.UseDPI(110))}
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(6), vg.Points(-14), vg.Points(6), vg.Points(-6)))
	var png bytes.Buffer
	if _, err := canvas.WriteTo(&png); err != nil {
		return err
	}
	return replaceFile(name, png.Bytes())
}

// scaleBegins reports whether the i-th report is the first of its scale.
func scaleBegins(history []style.Report, i int) bool {
	return i == 0 || history[i].Width != history[i-1].Width || history[i].Height != history[i-1].Height
}
