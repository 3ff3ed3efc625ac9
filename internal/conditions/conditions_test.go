package conditions_test

import (
	"image"
	"image/color"
	"image/draw"
	"testing"

	"github.com/likeness-id/likeness/internal/conditions"
	"github.com/likeness-id/likeness/pkg/face"
)

// The margin is in the mean colour, and the photo lies in its middle.
func TestMargin(t *testing.T) {
	t.Parallel()
	photo := conditions.Photo{Image: image.NewRGBA(image.Rect(0, 0, 20, 10)), Points: [5]face.Point{{X: 1, Y: 2}}}
	draw.Draw(photo.Image, image.Rect(0, 0, 10, 10), image.NewUniform(color.RGBA{200, 0, 0, 255}), image.Point{}, draw.Src)
	draw.Draw(photo.Image, image.Rect(10, 0, 20, 10), image.NewUniform(color.RGBA{0, 100, 0, 255}), image.Point{}, draw.Src)
	got := conditions.Margin(photo, 0.25)
	if got.Image.Rect != image.Rect(0, 0, 30, 20) || got.Points[0] != (face.Point{X: 6, Y: 7}) {
		t.Fatal(got.Image.Rect, got.Points[0])
	}
	for at, want := range map[image.Point]color.RGBA{{0, 0}: {100, 50, 0, 255}, {29, 19}: {100, 50, 0, 255}, {5, 5}: {200, 0, 0, 255}, {24, 14}: {0, 100, 0, 255}} {
		if c := got.Image.RGBAAt(at.X, at.Y); c != want {
			t.Errorf("at %v %v, want %v", at, c, want)
		}
	}
}
