package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/measure"
)

// pipelineFlags choose the pipeline of a measurement. It is the server's own.
type pipelineFlags struct {
	modelFolders
	Detector    string `default:"builtin-detector" env:"LIKENESS_DETECTOR" placeholder:"ID" help:"Face detector (default: builtin-detector)."`
	Encoder     string `default:"builtin-encoder-2" env:"LIKENESS_ENCODER" placeholder:"ID" help:"Face encoder (default: builtin-encoder-2)."`
	ORTLibrary  string `name:"ort-library" env:"LIKENESS_ORT_LIBRARY" type:"path" placeholder:"FILE" help:"ONNX Runtime's library, if it is not in one of the usual places."`
	Provider    string `default:"cpu" env:"LIKENESS_PROVIDER" placeholder:"NAME" help:"Execution provider of ONNX Runtime (default: cpu)."`
	Parallel    int    `default:"0" placeholder:"N" help:"How many photos are processed at the same time (default: the number of cores)."`
	Face        string `default:"largest" enum:"largest,only" placeholder:"WHICH" help:"Which face of a photo is used: the largest (default); or only, which refuses photos with a second face of similar size."`
	QualityGate string `default:"auto" enum:"auto,off" placeholder:"WHAT" help:"auto (default): photos that the quality gate refuses are failures to acquire, as for the server. off: they are compared, too."`
}

// workers is how many photos are processed at the same time.
func (f pipelineFlags) workers() int {
	if f.Parallel > 0 {
		return f.Parallel
	}
	return runtime.GOMAXPROCS(0)
}

func (f pipelineFlags) pick() embed.Pick {
	if f.Face == "only" {
		return embed.PickOnly
	}
	return embed.PickLargest
}

func (f pipelineFlags) openPipeline(ctx context.Context) (*likeness.Pipeline, error) {
	return app.OpenPipeline(ctx, likeness.Options{
		ModelsDirs: f.folders(), Detector: f.Detector, Encoder: f.Encoder,
		Library: f.ORTLibrary, Provider: f.Provider,
		Slots: f.workers(),
	})
}

// embedPhotos embeds each photo once, by the named encoders or by the pipeline's
// own. A photo without a usable face is a failure in the result; any other error
// ends the work.
func embedPhotos(ctx context.Context, stderr io.Writer, p *likeness.Pipeline, f pipelineFlags, set photos.Set, names []string, encoders ...string) ([]measure.Photo, error) {
	out := make([]measure.Photo, len(names))
	bar := newProgress(stderr, "embedding photos", int64(len(names)), false)
	defer bar.Close()
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(f.workers())
	for i, name := range names {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			photo, err := set.ReadFile(name)
			if err != nil {
				return err
			}
			samples, err := p.EmbedWith(working, photo, f.pick(), embed.Want{Encoders: encoders})
			switch {
			case err == nil && f.QualityGate == "auto" && len(samples[0].Face.Quality.Reasons) > 0:
				out[i].Failure = face.LowQuality.Code()
			case err == nil:
				out[i].Embeddings = []face.Embedding{samples[0].Embedding}
				if len(encoders) > 1 {
					out[i].Embeddings = samples[0].Embeddings
				}
			case failsToAcquire(err):
				out[i].Failure = face.KindOf(err).Code()
			default:
				return fmt.Errorf("%s: %w", name, err)
			}
			bar.Add(1)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return out, ctx.Err() // which may have ended before the first photo
}

// cropFaces finds the largest face of each photo, as a crop of about 20 KB from
// which the input of an encoder is made later. The crop is nil where there is no
// face.
func cropFaces(ctx context.Context, stderr io.Writer, p *likeness.Pipeline, workers int, what string, set photos.Set, names []string) ([]embed.Sample, error) {
	out := make([]embed.Sample, len(names))
	bar := newProgress(stderr, what, int64(len(names)), false)
	defer bar.Close()
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i, name := range names {
		if working.Err() != nil {
			break
		}
		group.Go(func() error {
			defer bar.Add(1)
			photo, err := set.ReadFile(name)
			if err != nil {
				return err
			}
			samples, err := p.EmbedWith(working, photo, embed.PickLargest, embed.Want{Crop: true})
			switch {
			case err == nil:
				out[i] = samples[0]
			case !failsToAcquire(err):
				return fmt.Errorf("%s: %w", name, err)
			}
			return nil
		})
	}
	return out, errors.Join(group.Wait(), ctx.Err())
}

// failsToAcquire reports whether an error is about the photo itself.
func failsToAcquire(err error) bool {
	return slices.Contains([]face.Kind{
		face.NoFace, face.ManyFaces, face.LowQuality,
		face.Invalid, face.InvalidImage, face.UnsupportedImage, face.TooLarge,
	}, face.KindOf(err))
}

// describeFailures says how many failures there are of each code:
// "1 invalid_image, 12 no_face".
func describeFailures(failures map[string]int) string {
	var parts []string
	for code, n := range failures {
		parts = append(parts, fmt.Sprintf("%d %s", n, code))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}
