package jobs_test

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/style"
)

// plain is a PNG of one colour.
func plain(c color.Color) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 64, 64))
	for i := range 64 * 64 {
		img.Set(i%64, i/64, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		log.Fatal(err)
	}
	return b.Bytes()
}

// A job is durable once it is submitted. A worker takes it, and its picture is
// there when it has succeeded.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "likeness-*")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
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
	options := jobs.DefaultOptions()
	options.Transferrer = engine
	service, err := jobs.OpenSQLite(ctx, filepath.Join(dir, "jobs.db"), options)
	if err != nil {
		log.Fatal(err)
	}
	defer service.Close()
	service.Start()

	params := style.DefaultParams()
	params.Size, params.Iterations = 64, 2
	job, err := service.Submit(ctx, jobs.Request{
		Tenant: face.DefaultTenant, Content: plain(color.White), Styles: [][]byte{plain(color.Black)}, Params: params,
	})
	if err != nil {
		log.Fatal(err)
	}
	for look := time.NewTicker(20 * time.Millisecond); !job.State.Final(); <-look.C {
		if job, err = service.Job(ctx, face.DefaultTenant, job.ID); err != nil {
			log.Fatal(err)
		}
	}
	picture, err := service.Result(ctx, face.DefaultTenant, job.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.State, job.Progress(), len(picture) > 0)
	if err := service.Stop(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: succeeded 1 true
}
