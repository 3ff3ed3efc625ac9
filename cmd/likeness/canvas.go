package main

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// canvas is a white page for pictures and text.
type canvas struct {
	*image.RGBA
	text font.Face
}

// newCanvas makes a page with letters of that height, in pixels.
func newCanvas(width, height int, letters float64) (*canvas, error) {
	parsed, err := opentype.Parse(goregular.TTF)
	if err != nil {
		return nil, err
	}
	text, err := opentype.NewFace(parsed, &opentype.FaceOptions{Size: letters, DPI: 72, Hinting: font.HintingFull})
	if err != nil {
		return nil, err
	}
	c := &canvas{image.NewRGBA(image.Rect(0, 0, width, height)), text}
	draw.Draw(c, c.Rect, image.White, image.Point{}, draw.Src)
	return c, nil
}

// drawText draws a line of text, and shortens it if it is wider than width.
func (c *canvas) drawText(x, y, width int, what string) {
	d := font.Drawer{Dst: c, Src: image.NewUniform(color.Gray{40}), Face: c.text, Dot: fixed.P(x, y)}
	for runes := []rune(what); d.MeasureString(what) > fixed.I(width) && len(runes) > 0; {
		runes = runes[:len(runes)-1]
		what = string(runes) + "…"
	}
	d.DrawString(what)
}

// drawImage draws a picture without scaling it.
func (c *canvas) drawImage(img image.Image, at image.Point) {
	size := img.Bounds()
	draw.Draw(c, image.Rectangle{Min: at, Max: at.Add(size.Size())}, img, size.Min, draw.Src)
}
