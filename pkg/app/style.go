package app

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"image"
	"image/jpeg"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/style"
)

// newTransferrer makes what makes style transfers, in a runtime of its own
// with so many threads: the doors' runtime has none to spare.
func newTransferrer(o Options, p *likeness.Pipeline, threads int) (_ style.Transferrer, closes func() error, err error) {
	if o.Transferrer != nil {
		return o.Transferrer, func() error { return nil }, nil
	}
	runtime, err := likeness.OpenBackend(likeness.BackendOptions{Library: o.ORTLibrary, Provider: o.Provider, Threads: threads})
	if err != nil {
		return nil, nil, err
	}
	engine, err := style.New(style.Options{Backend: runtime, Networks: likeness.FeatureNetworks(p.Registry)})
	if err != nil {
		return nil, nil, errors.Join(err, runtime.Close())
	}
	return engine, runtime.Close, nil
}

// openJobs opens the style-transfer jobs.
func (a *App) openJobs(ctx context.Context, o Options, p *likeness.Pipeline, room *ballast.File, registry prometheus.Registerer) error {
	transferrer, closes, err := newTransferrer(o, p, cmp.Or(o.StyleThreads, max(1, runtime.GOMAXPROCS(0)/2)))
	if err != nil {
		return err
	}
	a.undo.push("style transfer", func(context.Context) error { return closes() })
	options := jobs.Options{
		Transferrer: transferrer, Identify: newIdentityCheck(p, o.OperatingPoint, o.MaxImageBytes), Limits: o.imageLimits(),
		Workers: o.StyleWorkers, PerTenant: o.StylePerTenant, MaxQueued: o.StyleQueue, MaxBytes: o.StyleBytes,
		Deadline: o.StyleDeadline, TTL: o.StyleTTL, Room: room, Logger: a.log, Registerer: registry,
	}
	location := o.StoreLocation()
	if location.isPostgres() {
		err := OpenWhenReachable(ctx, o.DatabaseWait, a.log, func() (err error) {
			a.jobs, err = jobs.OpenPostgres(ctx, location.DatabaseURL, location.PasswordFile, options)
			return err
		})
		if err != nil {
			return err
		}
	} else {
		path, err := location.jobsPath()
		if err != nil {
			return err
		}
		// Who waits at a door has nothing to do with pictures: a file of jobs
		// that cannot be read costs the jobs alone.
		if a.jobs, err = jobs.OpenSQLite(ctx, path, options); err != nil {
			a.log.Error("style transfers are not available, all else is: their file cannot be opened. To mend it, stop the server and restore a backup, "+
				"or move the file and those that begin with its name aside, which loses the jobs in it and nobody who is enrolled",
				"file", path, "error", err)
			return nil
		}
	}
	a.undo.push("style jobs", func(context.Context) error { return a.jobs.Close() })
	return nil
}

// jobQueue is the queue for the handlers. If there are no style transfers, it is
// a nil interface and not a nil pointer in an interface.
func (a *App) jobQueue() jobs.Queue {
	if a.jobs == nil {
		return nil
	}
	return a.jobs
}

const (
	// identityRetry is how long a style-transfer job waits before it asks for a
	// slot again, where the requests have filled the queue: they come first.
	identityRetry = time.Second
	// identityQuality is the quality of the JPEG that is compared, as an avatar
	// is sent, unless that has more bytes than the pipeline takes.
	identityQuality = 95
)

// enterPatiently waits for a slot until ctx ends, however many requests come.
func enterPatiently(ctx context.Context, p *embed.Pipeline) (embed.Slot, error) {
	for {
		slot, err := p.Enter(ctx, nil)
		if !errors.Is(err, face.Overloaded) {
			return slot, err
		}
		select {
		case <-time.After(identityRetry):
		case <-ctx.Done():
			return nil, face.Wrap(face.Canceled, "app.identify", ctx.Err())
		}
	}
}

// newIdentityCheck gives the function that compares the largest face of a result
// with the largest face of its content.
func newIdentityCheck(p *likeness.Pipeline, operatingPoint string, maxBytes int64) func(context.Context, []byte, *image.RGBA) (jobs.Identity, error) {
	encoder := p.Encoder()
	policy := match.NewPolicy(encoder.Calibration)
	// embedding is nil if there is no face.
	embedding := func(ctx context.Context, slot embed.Slot, photo []byte) (face.Embedding, error) {
		samples, err := slot.Embed(ctx, photo, embed.PickLargest, embed.Want{Encoders: []string{encoder.ID}})
		switch face.KindOf(err) {
		case face.NoFace, face.LowQuality: // the latter where a picture is too dark or too bright to show a face
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return samples[0].Embedding, nil
	}
	return func(ctx context.Context, content []byte, result *image.RGBA) (jobs.Identity, error) {
		identity := jobs.Identity{ModelID: encoder.ID}
		var b bytes.Buffer
		for quality := identityQuality; b.Len() == 0 || int64(b.Len()) > maxBytes && quality > 0; quality -= 15 {
			b.Reset()
			if err := jpeg.Encode(&b, result, &jpeg.Options{Quality: quality}); err != nil {
				return identity, face.Wrap(face.Internal, "app.identify", err)
			}
		}
		slot, err := enterPatiently(ctx, p.Pipeline)
		if err != nil {
			return identity, err
		}
		defer slot.Leave()
		var embeddings []face.Embedding
		for _, picture := range []struct {
			name string
			data []byte
		}{{"content", content}, {"result", b.Bytes()}} {
			e, err := embedding(ctx, slot, picture.data)
			if err != nil {
				return identity, err
			}
			if e == nil {
				identity.Reason, identity.Picture = face.ReasonNoFace, picture.name
				return identity, nil
			}
			embeddings = append(embeddings, e)
		}
		score, _, err := match.Verify(embeddings[1], []face.Template{{Embedding: embeddings[0]}})
		if err != nil {
			return identity, err
		}
		identity.Score = score
		if point, err := policy.Point(operatingPoint); err == nil {
			same := score >= point.Threshold
			identity.Match, identity.OperatingPoint = &same, point.Name
		}
		return identity, nil
	}
}
