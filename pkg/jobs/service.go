package jobs

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// Service is the jobs of a server: their queue, and workers once it is
// started. It is safe for concurrent use.
type Service struct {
	o       Options
	owner   string
	queue   *queue
	metrics *metrics
	release func() error // of the file's lock; may be nil

	checking   chan struct{} // holds the one whose pictures are checked
	ring       chan struct{} // holds a token when a job may be there to be begun
	failing    atomic.Bool   // to look for a job, as it was logged
	stopping   chan struct{} // closed when workers shall put their jobs back
	work       context.Context
	cut        context.CancelFunc // ends what workers do, at once
	workers    sync.WaitGroup
	background sync.WaitGroup
	stop, end  sync.Once
	endErr     error

	mu      sync.Mutex
	started bool
	running map[string]context.CancelCauseFunc // by job id
}

var _ Queue = (*Service)(nil)

// open makes the service on either database.
func open(db database, o Options, release func() error) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Service{
		o: o, owner: face.NewID(), release: release, checking: make(chan struct{}, 1), ring: make(chan struct{}, 1),
		stopping: make(chan struct{}), running: map[string]context.CancelCauseFunc{},
		queue: &queue{db: db, perTenant: o.PerTenant, maxQueued: o.MaxQueued, maxBytes: o.MaxBytes},
	}
	s.work, s.cut = context.WithCancel(context.Background())
	s.metrics, err = newMetrics(o.Registerer, s.queue)
	return s, err
}

// Start begins to work on jobs: later, where the storage is full or away now.
func (s *Service) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started = true
	for range s.o.Workers {
		s.workers.Go(s.serve)
	}
	s.background.Go(s.housekeep)
	s.background.Go(func() {
		s.queue.db.listen(s.work, s.wake, func(err error) {
			s.o.Logger.Warn("style jobs: not told of new ones; looking for them each second", "error", err)
		})
	})
}

// wake has one worker that is idle look for a job. One that finds a job wakes
// the next.
func (s *Service) wake() {
	select {
	case s.ring <- struct{}{}:
	default: // somebody is about to look
	}
}

// Stop has workers keep a checkpoint and put their jobs back, and waits for
// them until ctx ends; then it cuts them off, and their jobs go on from the
// checkpoint before. It may be called more than once.
func (s *Service) Stop(ctx context.Context) (err error) {
	s.stop.Do(func() { close(s.stopping) })
	s.mu.Lock()
	started := s.started
	s.started = false
	s.mu.Unlock()
	if !started {
		return nil
	}
	ended := make(chan struct{})
	go func() {
		s.workers.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		err = wrap("Stop", ctx.Err())
		s.cut()
		select {
		case <-ended:
		case <-time.After(cutLimit):
			return errors.Join(face.Errorf(face.Deadline, "jobs.Stop", "A worker does not end."), err)
		}
	}
	s.cut()
	s.background.Wait()
	return err
}

// cutLimit is how long workers that are cut off may take: transferrers end
// within an iteration.
const cutLimit = 10 * time.Second

// Close stops what was not stopped, cutting it off, and releases everything.
// Closing twice is no error.
func (s *Service) Close() error {
	s.end.Do(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		err := s.Stop(ended)
		if face.KindOf(err) == face.Canceled {
			err = nil
		}
		s.cut()
		s.endErr = errors.Join(err, s.queue.db.close())
		if s.release != nil {
			s.endErr = errors.Join(s.endErr, s.release())
		}
	})
	return s.endErr
}

// housekeep looks after jobs whose workers died, and after those past their time.
func (s *Service) housekeep() {
	tick := time.NewTicker(2 * s.o.Beat)
	defer tick.Stop()
	purgeEvery := min(time.Minute, s.o.TTL)
	var purged time.Time
	for {
		if err := s.requeueSilent(s.work, leaseBeats*s.o.Beat); err != nil && s.work.Err() == nil {
			s.o.Logger.Warn("style jobs: no look after those whose worker died", "error", err)
		}
		if time.Since(purged) >= purgeEvery {
			switch n, err := s.queue.purge(s.work, s.o.TTL); {
			case s.work.Err() != nil:
			case err != nil:
				s.o.Logger.Warn("style jobs: no purge", "error", err)
			default:
				if purged = time.Now(); n > 0 {
					s.o.Logger.Info("purged style jobs past their time", "jobs", n)
				}
			}
		}
		if err := s.queue.tidy(s.work); err != nil && s.work.Err() == nil {
			s.o.Logger.Warn("style jobs: what was erased is in the log still; trying again", "error", err)
		}
		select {
		case <-tick.C:
		case <-s.stopping:
			return
		}
	}
}

func (s *Service) requeueSilent(ctx context.Context, silent time.Duration) error {
	lost, err := s.queue.requeueSilent(ctx, func(id string) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.running[id] != nil
	}, silent)
	for _, id := range lost {
		s.o.Logger.Warn("style job lost its worker", "job_id", id)
		s.wake()
	}
	return err
}

// Submit implements [Queue].
func (s *Service) Submit(ctx context.Context, r Request) (Job, error) {
	const op = "Submit"
	if r.CheckIdentity && s.o.Identify == nil {
		return Job{}, invalid("/check_identity", "this server cannot tell")
	}
	if err := s.check(ctx, r); err != nil {
		return Job{}, err
	}
	r.ID = cmp.Or(r.ID, face.NewID())
	j, err := s.queue.add(ctx, r)
	s.wake()
	return result(op, j, err)
}

// check decodes the pictures as the work will. They may be a gigabyte then, so
// callers take turns: all of them at once would be the end of the server.
func (s *Service) check(ctx context.Context, r Request) error {
	select {
	case s.checking <- struct{}{}:
	case <-ctx.Done():
		return face.Wrap(face.Canceled, "jobs.Submit", ctx.Err())
	}
	defer func() { <-s.checking }()
	_, err := s.task(ctx, inputs{r.Content, r.Styles, r.Masks}, r.Params)
	return err
}

// Job implements [Queue].
func (s *Service) Job(ctx context.Context, tenant, id string) (Job, error) {
	j, err := s.queue.job(ctx, s.queue.db, tenant, id, false)
	return result("Job", j, err)
}

// List implements [Queue].
func (s *Service) List(ctx context.Context, tenant string, p store.Page) ([]Job, string, error) {
	items, next, err := s.queue.list(ctx, tenant, p)
	return items, next, wrap("List", err)
}

// Delete implements [Queue].
func (s *Service) Delete(ctx context.Context, tenant, id string) (Job, error) {
	j, err := s.queue.cancelOrErase(ctx, tenant, id)
	if err == nil && j.Canceling {
		s.mu.Lock()
		if cancel := s.running[id]; cancel != nil {
			cancel(errCanceled)
		}
		s.mu.Unlock()
	}
	if err == nil {
		_ = s.queue.tidy(ctx) // what it cannot do now is done by and by
	}
	return result("Delete", j, err)
}

// Result implements [Queue].
func (s *Service) Result(ctx context.Context, tenant, id string) ([]byte, error) {
	const op = "Result"
	j, err := s.Job(ctx, tenant, id)
	switch {
	case err != nil:
		return nil, err
	case !j.State.Final():
		return nil, face.Errorf(face.NotFinished, "jobs."+op, "The job is %s.", j.State)
	case j.State != Succeeded:
		return nil, face.Errorf(face.NotFound, "jobs."+op, "The job %s and has no picture.", map[State]string{Failed: "failed", Canceled: "was canceled"}[j.State])
	}
	png, err := s.queue.blob(ctx, tenant, id, "result")
	if err == nil && png == nil { // erased this moment
		err = face.Errorf(face.NotFound, "", "There is no such job.")
	}
	return result(op, png, err)
}

// previewFor is how long one question for a preview has more of them made.
const previewFor = 10 * time.Second

// Preview implements [Queue].
func (s *Service) Preview(ctx context.Context, tenant, id string, after int) ([]byte, int, error) {
	const op = "Preview"
	if err := s.queue.requestPreviews(ctx, tenant, id, previewFor); err != nil {
		return nil, 0, wrap(op, err)
	}
	j, err := s.Job(ctx, tenant, id)
	if err != nil || j.Preview <= after {
		return nil, after, err
	}
	png, err := s.queue.blob(ctx, tenant, id, "preview")
	return png, j.Preview, wrap(op, err)
}

// result is what a method returns: a value, or an error alone.
func result[T any](op string, v T, err error) (T, error) {
	if err != nil {
		var none T
		return none, wrap(op, err)
	}
	return v, nil
}

// metrics of jobs.
type metrics struct {
	iterations prometheus.Counter
	duration   *prometheus.HistogramVec
}

func newMetrics(r prometheus.Registerer, q *queue) (*metrics, error) {
	m := &metrics{
		iterations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "likeness_style_iterations_total",
			Help: "Iterations that this server's style-transfer jobs made.",
		}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "likeness_style_duration_seconds",
			Help:    "Time that style-transfer jobs which ended here were worked on.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 12), // 1 s .. 34 min
		}, []string{"state"}),
	}
	return m, errors.Join(r.Register(m.iterations), r.Register(m.duration), r.Register(byState{q}))
}

// byState counts the jobs at each scrape.
type byState struct{ q *queue }

func (byState) desc() *prometheus.Desc {
	return prometheus.NewDesc("likeness_jobs", "Style-transfer jobs of all servers on the database, by state.", []string{"state"}, nil)
}

// Describe implements [prometheus.Collector].
func (b byState) Describe(ch chan<- *prometheus.Desc) { ch <- b.desc() }

// Collect implements [prometheus.Collector].
func (b byState) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	counts, err := b.q.count(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(b.desc(), err)
		return
	}
	for _, state := range States() {
		ch <- prometheus.MustNewConstMetric(b.desc(), prometheus.GaugeValue, float64(counts[state]), string(state))
	}
}
