package main

import (
	"bytes"
	"html/template"
	"image/color"
	"math"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/likeness-id/likeness/pkg/measure"
)

// reportPage is the report as one file: no script, no font, nothing to fetch.
const reportPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; }
table { border-collapse: collapse; margin: 1.2rem 0; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #ddd; font-variant-numeric: tabular-nums; }
th { font-size: .8rem; color: #555; }
figure { display: inline-block; margin: 0 1rem 1rem 0; }
svg { width: 30rem; max-width: 100%; height: auto; }
footer { color: #555; font-size: .85rem; }
</style>
</head>
<body>
<h1>{{.Title}}</h1>
{{range .Blocks}}<table>
{{if .Head}}<tr>{{range .Head}}<th>{{.}}</th>{{end}}</tr>
{{end}}{{range .Rows}}<tr>{{range .}}<td>{{.}}</td>{{end}}</tr>
{{end}}</table>
{{end}}{{range .Plots}}<figure>{{.}}</figure>
{{end}}<footer>likeness {{.Version}}, {{.Date}}. Photos: {{.Images}}. Intervals at 95 %. Rates are of comparisons that took place, unless it says otherwise.</footer>
</body>
</html>
`

// writePage writes the report with its plots.
func writePage(name string, r *report) error {
	var plots []*plot.Plot
	add := func(p *plot.Plot, err error) error {
		plots = append(plots, p)
		return err
	}
	if r.Verification != nil {
		if err := add(plotDET(r)); err != nil {
			return err
		}
	}
	if r.Head != nil {
		if err := add(plotReliability(measure.HeadMeasurement{Variant: "head", Reliability: *r.Head})); err != nil {
			return err
		}
	}
	if r.Identification != nil {
		if err := add(plotCMC(r)); err != nil {
			return err
		}
		if err := add(plotDIR(r)); err != nil {
			return err
		}
	}
	var svgs []template.HTML
	for _, p := range plots {
		svg, err := renderSVG(p)
		if err != nil {
			return err
		}
		svgs = append(svgs, svg)
	}
	t, err := template.New("page").Parse(reportPage)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{
		"Title": r.title(), "Blocks": r.sheet().Blocks, "Plots": svgs,
		"Version": r.Version, "Date": r.Date.Format("2006-01-02"), "Images": r.Images,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// plotCMC draws how often the right person is among the first.
func plotCMC(r *report) (*plot.Plot, error) {
	p := newPlot("Cumulative match characteristic", "Among the first", "Rate")
	var points plotter.XYs
	for i, v := range r.Identification.CMC {
		points = append(points, plotter.XY{X: float64(i + 1), Y: v})
	}
	p.X.Min, p.X.Max, p.Y.Max = 1, float64(max(2, len(points))), 1
	p.Y.Min = math.Floor(points[0].Y*10) / 10
	if p.Y.Min == p.Y.Max {
		p.Y.Min = 0.9
	}
	return p, addLine(p, "", curveColour(), vg.Points(1.8), points)
}

// plotDIR draws the detection and identification rate over the false positive
// identification rate, with the intervals.
func plotDIR(r *report) (*plot.Plot, error) {
	p := newPlot("Open-set identification, in the first place", "False positive identification rate", "Detection and identification rate")
	id := r.Identification
	low := 0.5 / float64(id.Strangers.Count)
	var points plotter.XYs
	for _, c := range id.Curve {
		at := plotter.XY{X: math.Max(c.FPIR, low), Y: c.DIR}
		if n := len(points); n > 0 {
			points = append(points, plotter.XY{X: at.X, Y: points[n-1].Y}) // a staircase
		}
		points = append(points, at)
	}
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = low, 1, 0, 1
	if err := addLine(p, "measured", curveColour(), vg.Points(1.8), points); err != nil {
		return nil, err
	}
	bars := &withErrors{}
	for _, a := range id.AtFPIR {
		if a.Target >= low {
			dir := a.DIR.Value()
			bars.XYs = append(bars.XYs, plotter.XY{X: a.Target, Y: dir})
			bars.YErrors = append(bars.YErrors, struct{ Low, High float64 }{a.Interval.Low - dir, a.Interval.High - dir})
		}
	}
	if err := addIntervals(p, bars, markColour()); err != nil {
		return nil, err
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-6)
	return p, nil
}

// addIntervals adds points with their intervals, if there are any.
func addIntervals(p *plot.Plot, points *withErrors, c color.Color) error {
	if len(points.XYs) == 0 {
		return nil
	}
	bars, err := plotter.NewYErrorBars(points)
	if err != nil {
		return err
	}
	dots, err := plotter.NewScatter(points.XYs)
	if err != nil {
		return err
	}
	bars.Color, bars.Width, bars.CapWidth = c, vg.Points(1.3), vg.Points(8)
	dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(3.5)
	p.Add(bars, dots)
	p.Legend.Add("95 % interval (people)", dots)
	return nil
}
