package main

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"strings"
	"unicode"

	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/inspect"
)

// Sizes on the sheets of inspect, in pixels.
const (
	unitCell   = 96
	unitGap    = 6
	unitLabel  = 18
	unitName   = 176 // room for the text about a unit
	unitTitle  = 30
	unitPoints = 13
	filterCell = 48
)

// encodePNG encodes the page as PNG.
func (c *canvas) encodePNG() ([]byte, error) {
	var b bytes.Buffer
	err := png.Encode(&b, c.RGBA)
	return b.Bytes(), err
}

// enlarge scales a picture into a cell. The pixels of a small one stay visible,
// because they are what a unit of the first layers sees.
func enlarge(img *image.RGBA, cell int) *image.RGBA {
	b := img.Bounds()
	scale := float64(cell) / float64(max(b.Dx(), b.Dy()))
	out := image.NewRGBA(image.Rect(0, 0, max(1, int(math.Round(scale*float64(b.Dx())))), max(1, int(math.Round(scale*float64(b.Dy()))))))
	var how draw.Scaler = draw.CatmullRom
	if scale >= 3 {
		how = draw.NearestNeighbor
	}
	how.Scale(out, out.Rect, img, b, draw.Src, nil)
	return out
}

// cropPatch cuts out what a unit sees; what is outside the picture is grey. Along
// an axis where the unit sees more than the picture, the whole picture is shown,
// and a ring marks the centre of the patch.
func cropPatch(img *image.RGBA, p inspect.Patch) *image.RGBA {
	window := image.Rect(int(p.X), int(p.Y), int(p.X+p.Width), int(p.Y+p.Height))
	middle := image.Pt((window.Min.X+window.Max.X-1)/2, (window.Min.Y+window.Max.Y-1)/2)
	whole := window == img.Rect
	if window.Dx() >= img.Rect.Dx() {
		window.Min.X, window.Max.X = img.Rect.Min.X, img.Rect.Max.X
	}
	if window.Dy() >= img.Rect.Dy() {
		window.Min.Y, window.Max.Y = img.Rect.Min.Y, img.Rect.Max.Y
	}
	out := image.NewRGBA(image.Rect(0, 0, window.Dx(), window.Dy()))
	draw.Draw(out, out.Rect, image.NewUniform(color.Gray{170}), image.Point{}, draw.Src)
	draw.Draw(out, img.Rect.Sub(window.Min), img, img.Rect.Min, draw.Src)
	out = enlarge(out, unitCell)
	if wide := p.Width >= int64(img.Rect.Dx()) || p.Height >= int64(img.Rect.Dy()); wide && !whole {
		scale := float64(unitCell) / float64(max(window.Dx(), window.Dy()))
		drawRing(out, scale*(float64(middle.X-window.Min.X)+0.5), scale*(float64(middle.Y-window.Min.Y)+0.5))
	}
	return out
}

// drawRing draws a white ring with a dark rim.
func drawRing(img *image.RGBA, x, y float64) {
	for py := range img.Rect.Dy() {
		for px := range img.Rect.Dx() {
			switch d := math.Hypot(float64(px)+0.5-x, float64(py)+0.5-y); {
			case d > 5 && d <= 7:
				img.SetRGBA(px, py, color.RGBA{255, 255, 255, 255})
			case d > 4 && d <= 8:
				img.SetRGBA(px, py, color.RGBA{0, 0, 0, 255})
			}
		}
	}
}

// describeField describes the receptive field of a layer.
func describeField(l inspect.Layer) string {
	if l.Stride == [2]int64{} {
		return "sees everything"
	}
	return fmt.Sprintf("sees %d x %d pixels, every %d", l.Field[1], l.Field[0], l.Stride[1])
}

// fileName makes a part of a file name of the name of a layer.
func fileName(layer string) string {
	return strings.Map(func(c rune) rune {
		if c == '_' || c == '.' || c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c)) {
			return c
		}
		return '-'
	}, layer)
}

// drawPatches draws a sheet for each layer: a row for each unit, the strongest
// patch first.
func (r *inspectRun) drawPatches(ctx context.Context) error {
	// A photo is read once, for all sheets.
	type place struct {
		layer, row, column int
		patch              inspect.Patch
	}
	wanted := map[int][]place{}
	pages := make([]*canvas, len(r.layers))
	for i, l := range r.layers {
		units := r.chosen[l.Name]
		page, err := newCanvas(unitName+r.Patches*(unitCell+unitGap)+unitGap, unitTitle+len(units)*(unitCell+unitLabel+unitGap), unitPoints)
		if err != nil {
			return err
		}
		pages[i] = page
		page.drawText(unitGap, unitTitle-10, page.Rect.Dx()-2*unitGap, fmt.Sprintf("%s, layer %s, which %s; %d of %d units, %d photos",
			r.manifest.ID, l.Name, describeField(l), len(units), l.Channels, len(r.pictures)))
		for row, u := range units {
			y := unitTitle + row*(unitCell+unitLabel+unitGap)
			page.drawText(unitGap, y+20, unitName-unitGap, fmt.Sprintf("unit %d", u.Channel))
			page.drawText(unitGap, y+40, unitName-unitGap, fmt.Sprintf("mean %.3g ± %.3g", u.Mean, u.Deviation))
			page.drawText(unitGap, y+60, unitName-unitGap, fmt.Sprintf("above 0: %.3g %%", 100*u.Active))
			for column, p := range u.Strongest {
				if p.Activation == 0 {
					continue // the unit did not respond
				}
				wanted[p.Picture] = append(wanted[p.Picture], place{i, row, column, p})
			}
		}
	}
	for picture, places := range wanted {
		if err := ctx.Err(); err != nil {
			return err
		}
		img, err := r.pictures[picture].img()
		if err != nil {
			return fmt.Errorf("%s: %w", r.pictures[picture].name, err)
		}
		for _, at := range places {
			x, y := unitName+at.column*(unitCell+unitGap), unitTitle+at.row*(unitCell+unitLabel+unitGap)
			pages[at.layer].drawImage(cropPatch(img, at.patch), image.Pt(x, y))
			pages[at.layer].drawText(x, y+unitCell+unitLabel-4, unitCell, fmt.Sprintf("%.3g", at.patch.Activation))
		}
	}
	for i, l := range r.layers {
		if err := r.writeFile(fmt.Sprintf("patches-%d-%s.png", i+1, fileName(l.Name)), pages[i].encodePNG); err != nil {
			return err
		}
	}
	return nil
}

// drawMaximised draws the pictures that excite units, a row for each layer.
func (r *inspectRun) drawMaximised(ctx context.Context) error {
	if r.Steps == 0 {
		return nil
	}
	rows, err := r.maximise(ctx)
	if err != nil {
		return err
	}
	columns := 1
	for _, row := range rows {
		columns = max(columns, len(row))
	}
	page, err := newCanvas(unitName+columns*(unitCell+unitGap)+unitGap, unitTitle+len(rows)*(unitCell+unitLabel+unitGap), unitPoints)
	if err != nil {
		return err
	}
	page.drawText(unitGap, unitTitle-10, page.Rect.Dx()-2*unitGap, fmt.Sprintf("%s: pictures that excite units, %d steps of gradient ascent from noise", r.manifest.ID, r.Steps))
	for i, row := range rows {
		l, y := r.layers[i], unitTitle+i*(unitCell+unitLabel+unitGap)
		page.drawText(unitGap, y+20, unitName-unitGap, l.Name)
		page.drawText(unitGap, y+40, unitName-unitGap, strings.ReplaceAll(describeField(l), " pixels", ""))
		for j, img := range row {
			x := unitName + j*(unitCell+unitGap)
			page.drawImage(enlarge(img, unitCell), image.Pt(x, y))
			page.drawText(x, y+unitCell+unitLabel-4, unitCell, fmt.Sprintf("unit %d", r.chosen[l.Name][j].Channel))
		}
	}
	return r.writeFile("maximised.png", page.encodePNG)
}

// drawFilters draws the weights of the first layer: grey is 0, and each filter
// is as strong as its largest weight.
func (r *inspectRun) drawFilters(ctx context.Context) error {
	l, filters, err := r.network.Filters(ctx)
	if face.KindOf(err) == face.Invalid { // it does not begin with a convolution
		fmt.Fprintln(r.t.stderr, "no filters.png:", explain(err))
		return nil
	} else if err != nil {
		return err
	}
	const columns = 16
	rows := (len(filters) + columns - 1) / columns
	page, err := newCanvas(columns*(filterCell+unitGap)+unitGap, unitTitle+rows*(filterCell+unitLabel), unitPoints)
	if err != nil {
		return err
	}
	page.drawText(unitGap, unitTitle-10, page.Rect.Dx()-2*unitGap, fmt.Sprintf("%s, layer %s: %d filters of %d x %d pixels; grey is 0",
		r.manifest.ID, l.Name, len(filters), l.Field[1], l.Field[0]))
	for i, f := range filters {
		var largest float32
		for _, w := range f {
			largest = max(largest, w, -w)
		}
		img := r.renderPlanes(f, int(l.Field[1]), int(l.Field[0]), func(_ int, w float32) float32 {
			if largest == 0 {
				return 128
			}
			return 128 + 127*w/largest
		})
		x, y := unitGap+i%columns*(filterCell+unitGap), unitTitle+i/columns*(filterCell+unitLabel)
		page.drawImage(enlarge(img, filterCell), image.Pt(x, y))
		page.drawText(x, y+filterCell+13, filterCell, fmt.Sprint(i))
	}
	return r.writeFile("filters.png", page.encodePNG)
}
