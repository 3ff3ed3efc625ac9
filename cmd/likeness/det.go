package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"strconv"

	"gonum.org/v1/gonum/stat/distuv"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"

	"github.com/likeness-id/likeness/pkg/match"
)

// drawDET draws the detection error trade-off as a PNG. Both axes are stretched
// by the normal deviate, as is the custom: two normal distributions of scores
// then give a straight line, and small rates have room.
func drawDET(name string, r *report) error {
	// Rates of zero have no place on such an axis; a decade below the least
	// rate that these pairs can show there is nothing to see.
	least := func(total int64) float64 { return math.Max(0.5/float64(total), 1e-6) }
	low := math.Min(least(r.Impostor.Count), least(r.Mated.Count))
	const high = 0.5

	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s: %d mated and %d impostor comparisons", r.Encoder, r.Mated.Count, r.Impostor.Count)
	p.Title.TextStyle.Font.Size = vg.Points(13)
	p.Title.Padding = vg.Points(8)
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Min, axis.Max = deviate(low), deviate(high)
		axis.Tick.Marker = rateTicks(low, high)
		axis.Label.TextStyle.Font.Size = vg.Points(12)
		axis.Tick.Label.Font.Size = vg.Points(10)
		axis.Padding = 0
	}
	p.X.Label.Text = "False match rate (%)"
	p.Y.Label.Text = "False non-match rate (%)"
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{225}, color.Gray{225}
	p.Add(grid)

	equal, err := plotter.NewLine(plotter.XYs{{X: deviate(low), Y: deviate(low)}, {X: deviate(high), Y: deviate(high)}})
	if err != nil {
		return err
	}
	equal.Color, equal.Dashes = color.Gray{150}, []vg.Length{vg.Points(3), vg.Points(3)}
	p.Add(equal)
	p.Legend.Add(fmt.Sprintf("equal error rate %s", percent(r.EER)), equal)

	curve, err := plotter.NewLine(steps(r.ROC, low, high))
	if err != nil {
		return err
	}
	curve.Color, curve.Width = color.RGBA{R: 31, G: 95, B: 168, A: 255}, vg.Points(1.8)
	p.Add(curve)
	p.Legend.Add("measured", curve)

	points := &withErrors{}
	for _, a := range r.AtFMR {
		if fnmr := a.FNMR.Value(); fnmr >= low && a.Target >= low {
			points.XYs = append(points.XYs, plotter.XY{X: deviate(a.Target), Y: deviate(fnmr)})
			points.YErrors = append(points.YErrors, struct{ Low, High float64 }{
				deviate(math.Max(a.Interval.Low, low)) - deviate(fnmr),
				deviate(math.Min(a.Interval.High, high)) - deviate(fnmr),
			})
		}
	}
	if len(points.XYs) > 0 {
		bars, err := plotter.NewYErrorBars(points)
		if err != nil {
			return err
		}
		dots, err := plotter.NewScatter(points.XYs)
		if err != nil {
			return err
		}
		red := color.RGBA{R: 192, G: 57, B: 43, A: 255}
		bars.Color, bars.Width, bars.CapWidth = red, vg.Points(1.3), vg.Points(8)
		dots.Color, dots.Shape, dots.Radius = red, draw.CircleGlyph{}, vg.Points(3.5)
		p.Add(bars, dots)
		p.Legend.Add("95 % interval (people)", dots)
	}
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size = font.Length(11)
	p.Legend.Padding = vg.Points(4)
	p.Legend.XOffs, p.Legend.YOffs = vg.Points(8), vg.Points(-6)

	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(16*vg.Centimeter, 16*vg.Centimeter), vgimg.UseDPI(144))}
	p.Draw(draw.Crop(draw.New(canvas), vg.Points(6), vg.Points(-14), vg.Points(6), vg.Points(-6)))
	var png bytes.Buffer
	if _, err := canvas.WriteTo(&png); err != nil {
		return err
	}
	return os.WriteFile(name, png.Bytes(), 0o644)
}

// withErrors is points with intervals, as the plotter wants them.
type withErrors struct {
	plotter.XYs
	plotter.YErrors
}

// deviate maps a rate to its normal deviate.
func deviate(rate float64) float64 { return distuv.UnitNormal.Quantile(rate) }

// steps is the curve as the staircase that it is, as far as it lies in the
// drawn range. Rates of zero are drawn at its edge.
func steps(roc []match.DETPoint, low, high float64) plotter.XYs {
	at := func(v float64) float64 { return deviate(math.Max(v, low)) }
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
			ticks = append(ticks, plot.Tick{Value: deviate(rate), Label: strconv.FormatFloat(rate*100, 'g', 3, 64)})
		}
	}
	return ticks
}
