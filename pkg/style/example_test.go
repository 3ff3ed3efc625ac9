package style_test

import (
	"context"
	"fmt"
	"image"
	"image/color"
	stddraw "image/draw"
	"log"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/style"
)

// stripes are a picture to take the manner of.
func stripes() *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, 96, 96))
	stddraw.Draw(img, img.Rect, image.White, image.Point{}, stddraw.Src)
	for x := 0; x < 96; x += 12 {
		stddraw.Draw(img, image.Rect(x, 0, x+6, 96), image.NewUniform(color.RGBA{R: 200, A: 255}), image.Point{}, stddraw.Src)
	}
	return img
}

// square is a picture to paint.
func square() *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, 96, 96))
	stddraw.Draw(img, img.Rect, image.White, image.Point{}, stddraw.Src)
	stddraw.Draw(img, image.Rect(24, 24, 72, 72), image.Black, image.Point{}, stddraw.Src)
	return img
}

// One picture is painted in the manner of another. The loss falls from
// iteration to iteration.
func ExampleEngine_Transfer() {
	backend, err := likeness.OpenBackend(likeness.DefaultBackendOptions())
	if err != nil {
		log.Fatal(err)
	}
	defer backend.Close()
	registry, err := embed.OpenRegistry(models.FS)
	if err != nil {
		log.Fatal(err)
	}
	engine, err := style.New(style.Options{Backend: backend, Networks: likeness.FeatureNetworks(registry)})
	if err != nil {
		log.Fatal(err)
	}

	params := style.DefaultParams()
	params.Size, params.Iterations = 64, 5
	task := style.Task{Content: square(), Styles: []*image.RGBA{stripes()}, Params: params}
	var losses []float64
	picture, err := engine.Transfer(context.Background(), task, func(r style.Report) error {
		losses = append(losses, r.Loss.Total)
		return nil // an error would end it
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(picture.Rect.Size(), len(losses), losses[4] < losses[0])
	// Output: (64,64) 5 true
}

// What is wrong with a task is known before anything is computed.
func ExampleParams_Validate() {
	params := style.DefaultParams()
	params.Size = 10_000
	fmt.Println(params.Validate(1))
	// Output: style.Params: invalid_request: params.size: 10000 is not within 64..2048
}
