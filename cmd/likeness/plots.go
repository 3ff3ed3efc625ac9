package main

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"os"
	"strconv"
	"strings"

	"gonum.org/v1/gonum/stat/distuv"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// plotDET draws the detection error trade-off. Both axes are scaled by the normal
// deviate, as usual (Martin et al., Eurospeech 1997): two normal distributions of
// scores then give a straight line, and small rates have room.
func plotDET(r *report) (*plot.Plot, error) {
	// Such an axis has no rate of zero. It begins at half of the least rate that
	// these pairs can show.
	least := func(total int64) float64 { return math.Max(0.5/float64(total), 1e-6) }
	low := math.Min(least(r.Impostor.Count), least(r.Mated.Count))
	const high = 0.5

	p := newPlot(fmt.Sprintf("%s: %d mated and %d impostor comparisons", r.Encoder, r.Mated.Count, r.Impostor.Count),
		"False match rate (%)", "False non-match rate (%)")
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Min, axis.Max = normalDeviate(low), normalDeviate(high)
		axis.Tick.Marker = rateTicks(low, high)
	}

	equal, err := plotter.NewLine(plotter.XYs{{X: normalDeviate(low), Y: normalDeviate(low)}, {X: normalDeviate(high), Y: normalDeviate(high)}})
	if err != nil {
		return nil, err
	}
	equal.Color, equal.Dashes = guideColour(), []vg.Length{vg.Points(3), vg.Points(3)}
	p.Add(equal)
	p.Legend.Add(fmt.Sprintf("equal error rate %s", formatPercent(r.EER)), equal)

	if err := addLine(p, "measured", curveColour(), vg.Points(1.8), staircase(r.ROC, low, high)); err != nil {
		return nil, err
	}

	points := &withErrors{}
	for _, a := range r.AtFMR {
		if fnmr := a.FNMR.Value(); fnmr >= low && a.Target >= low {
			points.XYs = append(points.XYs, plotter.XY{X: normalDeviate(a.Target), Y: normalDeviate(fnmr)})
			points.YErrors = append(points.YErrors, struct{ Low, High float64 }{
				normalDeviate(math.Max(a.Interval.Low, low)) - normalDeviate(fnmr),
				normalDeviate(math.Min(a.Interval.High, high)) - normalDeviate(fnmr),
			})
		}
	}
	if err := addIntervals(p, points, markColour()); err != nil {
		return nil, err
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-6)
	return p, nil
}

// Plots are square, as wide as this.
const plotSide = 16 * vg.Centimeter

// drawWithMargin draws a plot on a canvas, with a margin.
func drawWithMargin(p *plot.Plot, c vg.CanvasSizer) {
	p.Draw(draw.Crop(draw.New(c), vg.Points(6), vg.Points(-14), vg.Points(6), vg.Points(-6)))
}

// savePNG writes a plot as a picture.
func savePNG(name string, p *plot.Plot) error {
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(plotSide, plotSide), vgimg.UseDPI(144))}
	drawWithMargin(p, canvas)
	var png bytes.Buffer
	if _, err := canvas.WriteTo(&png); err != nil {
		return err
	}
	return os.WriteFile(name, png.Bytes(), 0o644)
}

// renderSVG is a plot as an element of a page.
func renderSVG(p *plot.Plot) (template.HTML, error) {
	canvas := vgsvg.New(plotSide, plotSide)
	drawWithMargin(p, canvas)
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return "", err
	}
	_, element, ok := strings.Cut(svg.String(), "<svg")
	if !ok {
		return "", errors.New("the plot is no SVG")
	}
	return template.HTML("<svg" + element), nil //nolint:gosec // drawn here, its texts escaped by the canvas
}

// newPlot makes an empty plot with a grid, in the style of all plots here.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = x, y
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = vg.Points(12)
		axis.Tick.Label.Font.Size = vg.Points(10)
		axis.Padding = 0
	}
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)
	p.Legend.TextStyle.Font.Size = font.Length(11)
	p.Legend.Padding = vg.Points(4)
	return p
}

// addLine adds a curve. Without a name it is not in the legend.
func addLine(p *plot.Plot, name string, c color.Color, width vg.Length, points plotter.XYs) error {
	l, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	l.Color, l.Width = c, width
	p.Add(l)
	if name != "" {
		p.Legend.Add(name, l)
	}
	return nil
}

// Colours of the curves.
func curveColour() color.Color { return color.RGBA{R: 31, G: 95, B: 168, A: 255} }
func markColour() color.Color  { return color.RGBA{R: 192, G: 57, B: 43, A: 255} }
func guideColour() color.Color { return color.Gray{150} }

// plotReliability draws the share of mated pairs over the probability that a head
// gives. On the diagonal both are the same.
func plotReliability(heads ...measure.HeadMeasurement) (*plot.Plot, error) {
	p := newPlot("Reliability, for as many mated as impostor pairs", "Probability given", "Share of mated pairs")
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	if err := addLine(p, "", guideColour(), vg.Points(1), plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}); err != nil {
		return nil, err
	}
	seen := map[face.HeadVariant]bool{}
	for i, h := range heads {
		if seen[h.Variant] {
			continue
		}
		seen[h.Variant] = true
		var points plotter.XYs
		for _, b := range h.Reliability.Bins {
			points = append(points, plotter.XY{X: b.Probability, Y: b.Mated})
		}
		c := []color.Color{curveColour(), markColour()}[i%2]
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return nil, err
		}
		dots.Color, dots.Shape, dots.Radius = c, draw.CircleGlyph{}, vg.Points(3.5)
		if err := addLine(p, fmt.Sprintf("%s, error %s", h.Variant, formatPercent(h.Reliability.ECE)), c, vg.Points(1.8), points); err != nil {
			return nil, err
		}
		p.Add(dots)
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-6)
	return p, nil
}

// withErrors are points with intervals, in the form that the plotter needs.
type withErrors struct {
	plotter.XYs
	plotter.YErrors
}

// normalDeviate maps a rate to its normal deviate.
func normalDeviate(rate float64) float64 { return distuv.UnitNormal.Quantile(rate) }

// staircase is the part of the curve inside the drawn range, as a staircase.
// Rates of zero are drawn at the edge.
func staircase(roc []measure.DETPoint, low, high float64) plotter.XYs {
	at := func(v float64) float64 { return normalDeviate(math.Max(v, low)) }
	var out plotter.XYs
	for i, p := range roc {
		if p.FNMR > high {
			break
		}
		if i > 0 && roc[i-1].FMR <= high {
			out = append(out, plotter.XY{X: at(roc[i-1].FMR), Y: at(p.FNMR)})
		}
		if p.FMR <= high {
			out = append(out, plotter.XY{X: at(p.FMR), Y: at(p.FNMR)})
		}
	}
	return out
}

// rateTicks puts 1, 2 and 5 of each decade on an axis, in per cent.
func rateTicks(low, high float64) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for decade := -6; decade < 0; decade++ {
		for _, digit := range []float64{1, 2, 5} {
			rate := digit * math.Pow10(decade)
			if rate < low || rate > high*1.0001 {
				continue
			}
			ticks = append(ticks, plot.Tick{Value: normalDeviate(rate), Label: strconv.FormatFloat(rate*100, 'g', 3, 64)})
		}
	}
	return ticks
}
