package imaging_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"log"
	"os"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// A photo is decoded upright and within limits. Here no more than 100 pixels
// are needed along the longer side, so a large JPEG is decoded at a reduced
// size, which is faster.
func ExampleDecode() {
	photo, err := os.ReadFile("../../internal/testfaces/person-1-1.jpg")
	if err != nil {
		log.Fatal(err)
	}
	img, err := imaging.Decode(context.Background(), photo, imaging.DefaultLimits(), 100)
	if err != nil {
		log.Fatal(err)
	}
	decoded := img.RGBA.Rect.Size()
	fmt.Printf("the photo has %d x %d pixels; fewer were decoded: %t\n", img.Width, img.Height, decoded.X < img.Width && decoded.Y >= 100)
	// Output: the photo has 480 x 600 pixels; fewer were decoded: true
}

// What is too large is refused by its header, before memory is taken for its
// pixels.
func ExampleLimits() {
	var photo bytes.Buffer
	if err := png.Encode(&photo, image.NewGray(image.Rect(0, 0, 640, 480))); err != nil {
		log.Fatal(err)
	}
	limits := imaging.DefaultLimits()
	limits.MaxPixels = 100_000
	_, err := imaging.Decode(context.Background(), photo.Bytes(), limits, 0)
	fmt.Println(face.KindOf(err))
	// Output: too_large
}

// The similarity that brings an encoder's five alignment points onto the
// landmarks of a face says where each pixel of the aligned face comes from.
func ExampleFitSimilarity() {
	template := [5]face.Point{{X: 38, Y: 52}, {X: 74, Y: 52}, {X: 56, Y: 72}, {X: 42, Y: 92}, {X: 71, Y: 92}}
	var landmarks [5]face.Point // the same face, twice as large and elsewhere
	for i, p := range template {
		landmarks[i] = face.Point{X: 2*p.X + 100, Y: 2*p.Y + 50}
	}
	toPhoto, err := imaging.FitSimilarity(template, landmarks)
	if err != nil {
		log.Fatal(err)
	}
	x, y := toPhoto.Apply(0, 0)
	fmt.Printf("the aligned face begins at (%.0f, %.0f) of the photo\n", x, y)
	// Output: the aligned face begins at (100, 50) of the photo
}

// A network takes a tensor of planes. The photo keeps its proportions; what is
// left of the tensor is black.
func ExamplePlanar_Letterbox() {
	photo := image.NewRGBA(image.Rect(0, 0, 400, 200))
	input := imaging.Planar{Width: 100, Height: 100, Scale: [3]float32{1, 1, 1}}
	tensor := make([]float32, 3*input.Width*input.Height)
	scale := input.Letterbox(tensor, photo)
	fmt.Println(scale)
	// Output: 0.25
}

// A region of a photo is drawn anew, scaled and turned as the map says.
func ExampleWarpRGBA() {
	photo := image.NewRGBA(image.Rect(0, 0, 100, 100))
	photo.Pix[photo.PixOffset(40, 30)] = 255 // a red dot
	crop := image.NewRGBA(image.Rect(0, 0, 10, 10))
	imaging.WarpRGBA(crop, photo, imaging.Affine{1, 0, 35, 0, 1, 25}) // from (35, 25)
	fmt.Println(crop.RGBAAt(5, 5).R, crop.RGBAAt(6, 5).R)
	// Output: 255 0
}
