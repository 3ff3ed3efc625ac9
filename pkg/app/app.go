// Package app composes the server: it opens the models, the store, the jobs and
// the HTTP handlers that [Options] ask for, and closes them in the reverse order.
// [New] opens everything, [App.Start] begins to answer, and [App.Stop] ends what
// is under way. [Run] does all three, as cmd/server does; a test can run it too. A
// Go program that needs no server uses package likeness instead.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/jobs"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store"
)

// App is a server. Make it with New, start it, stop it.
type App struct {
	log      *slog.Logger
	listener net.Listener
	server   *http.Server
	store    store.Store
	mover    *move.Mover
	jobs     *jobs.Service // nil: no style transfers
	failed   chan error    // the accept loop's end, when nobody asked for it
	cut      func()        // ends what requests are at work on
	undo     teardown

	purgeEvery time.Duration
	draining   chan struct{}
	drainOnce  sync.Once
}

// New opens everything, the listener too, so that what cannot work fails
// here. The caller ends what New made with Stop, also when it never starts it.
func New(ctx context.Context, o Options, version string, log *slog.Logger) (_ *App, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	a := &App{log: log, failed: make(chan error, 1), draining: make(chan struct{}), purgeEvery: o.PurgeInterval}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.undo.unwind(context.WithoutCancel(ctx)))
		}
	}()

	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m := newMetrics(registry)

	pipeline, err := OpenPipeline(ctx, likeness.Options{
		ModelsDirs: ModelFolders(o.DataDir, o.ModelsDir),
		Detector:   o.Detector, Encoder: o.Encoder,
		Library: o.ORTLibrary, Provider: o.Provider,
		Slots: o.Slots, Queue: cmp.Or(o.Queue, embed.DefaultQueue(cmp.Or(o.Slots, embed.DefaultOptions().Slots))), QueueTime: o.QueueTime, Limits: o.imageLimits(),
		Observe: m.observeStage, ObserveWait: m.gateWait.Observe,
	})
	if err != nil {
		return nil, err
	}
	a.undo.push("pipeline", func(context.Context) error { return runWithin(closeTimeout, pipeline.Close) })

	encoder := pipeline.Encoder()
	policy := match.NewPolicy(encoder.Calibration)
	if _, err := policy.Point(o.OperatingPoint); err != nil {
		if face.KindOf(err) == face.Invalid {
			return nil, fmt.Errorf("--operating-point: %w", err)
		}
		log.Warn("requests that name no operating point are refused: set --operating-point (LIKENESS_OPERATING_POINT) to one that the encoder's calibration supports, or calibrate it on more strangers",
			"encoder", encoder.ID, "operating_point", o.OperatingPoint, "error", err)
	}

	room := o.StoreLocation().ballast(o.DiskReserve)
	var db store.Store
	err = OpenWhenReachable(ctx, o.DatabaseWait, log, func() (err error) {
		if o.Migrate {
			before, after, err := Migrate(ctx, o.StoreLocation())
			if err != nil {
				return err
			}
			if before != after {
				log.Info("migrated", "schema_before", before, "schema", after)
			}
		}
		db, err = OpenStore(ctx, StoreOptions{
			StoreLocation: o.StoreLocation(), Ballast: room, ReadURLs: o.DatabaseReadURLs, Search: o.Search, SearchMemory: o.SearchMemory, Logger: log,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	a.store = db
	registry.MustRegister(storeState{a.ready, db})
	a.undo.push("store", func(context.Context) error { return db.Close() })
	name, _, err := o.StoreLocation().Name()
	if err != nil {
		return nil, err
	}

	crops, err := move.OpenCrops(o.CropKeyFile...)
	if err != nil {
		return nil, fmt.Errorf("--crop-key-file: %w", err)
	}
	var sealer identity.Sealer // nil without a key
	if crops.HasKey() {
		sealer = crops
	}
	a.mover, err = move.New(move.Options{
		Store: db, Pipeline: pipeline, Models: pipeline.Registry.Models(), Crops: crops,
		OperatingPoint: o.OperatingPoint, Logger: log, Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	if err := a.mover.CheckGalleries(ctx); err != nil {
		return nil, galleryError(err)
	}

	if err := a.openJobs(ctx, o, pipeline, room, registry); err != nil {
		return nil, err
	}

	if o.Auth == "off" {
		log.Warn("API keys are off: every caller on this machine may do everything", "listen", o.Listen)
	}
	decisions, err := identity.New(identity.Options{
		Store: db, Pipeline: pipeline, Models: pipeline.Registry.Models(), Sealer: sealer,
		OperatingPoint: o.OperatingPoint, AmbiguityMargin: o.AmbiguityMargin, WholeSearch: o.Identification == "search",
		AuditDecisions: o.AuditDecisions, WakeMover: a.mover.Wake, Observe: m.observeStage, Registerer: registry,
	})
	if err != nil {
		return nil, err
	}
	handler, err := handlers.New(handlers.Options{
		Store: db, Pipeline: pipeline, Identity: decisions, Models: pipeline.Registry.Models(), Auth: o.Auth == "on",
		MaxImageBytes: o.MaxImageBytes, RateLimit: o.RateLimit, AuthFailures: o.AuthFailures, TrustedProxies: o.TrustedProxies, CORSOrigins: o.CORSOrigins, PathPrefix: o.PathPrefix,
		RequestTimeout: o.RequestTimeout, BulkIdleTimeout: o.UploadTimeout,
		Logger: log, Registerer: registry, Gatherer: registry,
		Ready: a.ready, Mover: a.mover, Jobs: a.jobQueue(), Draining: a.draining,
	})
	if err != nil {
		return nil, err
	}

	var lc net.ListenConfig
	a.listener, err = lc.Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	requests, cut := context.WithCancel(context.Background())
	a.cut = cut
	a.server = &http.Server{
		Handler:           handler,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       o.UploadTimeout,
		WriteTimeout:      o.UploadTimeout + 10*time.Second, // the handler sets a later one once the body is in
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	a.undo.push("listener", func(context.Context) error {
		if err := a.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	log.Info("opened", "version", version, "listen", a.Addr(), "detector", pipeline.Detector().ID, "encoder", encoder.ID,
		"provider", o.Provider, "auth", o.Auth, "operating_point", o.OperatingPoint, "data", name)
	return a, nil
}

// Addr is the address that the server answers on.
func (a *App) Addr() string { return a.listener.Addr().String() }

// Start begins to answer and returns.
func (a *App) Start() {
	background, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.purge(background) })
	running.Go(func() { a.mover.Run(background) })
	a.undo.push("background work", func(context.Context) error {
		stop()
		running.Wait()
		return nil
	})
	if a.jobs != nil {
		a.jobs.Start()
	}
	go func() {
		if err := a.server.Serve(a.listener); !errors.Is(err, http.ErrServerClosed) {
			a.failed <- err
		}
	}()
	a.log.Info("answering", "listen", a.Addr())
}

// Stop drains: it answers not ready, takes no new connections, has style jobs
// keep a checkpoint at once, and waits for the requests under way until ctx
// ends. Then it cuts what is left and releases everything. That requests
// outlasted a deadline is logged and no error. It may be called more than once.
func (a *App) Stop(ctx context.Context) error {
	a.drainOnce.Do(func() { close(a.draining) })
	var (
		beside sync.WaitGroup
		kept   error
	)
	if a.jobs != nil {
		beside.Go(func() { kept = a.jobs.Stop(ctx) })
	}
	err := a.server.Shutdown(ctx)
	a.cut()
	if err != nil {
		a.log.Warn("requests under way were cut", "error", err)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		} else {
			err = fmt.Errorf("requests were cut: %w", err)
		}
		err = errors.Join(err, a.server.Close())
	}
	beside.Wait()
	return errors.Join(err, kept, a.undo.unwind(ctx))
}

// Run runs a server until drain ends, then stops it: requests under way have
// the drain timeout, or until cut ends.
func Run(drain, cut context.Context, o Options, version string, log *slog.Logger) error {
	a, err := New(drain, o, version, log)
	if err != nil {
		return err
	}
	a.Start()
	select {
	case <-drain.Done():
	case err = <-a.failed:
	}
	ctx, cancel := context.WithTimeout(cut, o.DrainTimeout)
	defer cancel()
	err = errors.Join(err, a.Stop(ctx))
	log.Info("stopped")
	return err
}

// ready is what /readyz answers.
func (a *App) ready(ctx context.Context) error {
	select {
	case <-a.draining:
		return face.Errorf(face.Unavailable, "app.ready", "draining")
	default:
	}
	if err := a.store.Ready(ctx); err != nil {
		return err
	}
	return a.mover.Ready()
}

// purge erases what is past its gallery's retention, at once and then at
// every interval, until ctx ends.
func (a *App) purge(ctx context.Context) {
	tick := time.NewTicker(a.purgeEvery)
	defer tick.Stop()
	for {
		switch n, err := a.store.PurgeExpired(ctx, time.Now()); {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.log.Error("purge", "error", err)
		case n > 0:
			a.log.Info("purged templates past their retention", "templates", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
