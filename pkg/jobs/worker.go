package jobs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/style"
)

// Why a run was ended from outside.
var (
	errCanceled = errors.New("the job was canceled")
	errDeadline = errors.New("the job's time is over")
	errStopping = errors.New("the server stops")
)

const (
	// previewEvery and previewSide bound what previews cost.
	previewEvery = 2 * time.Second
	previewSide  = 512
	// settleAgain is the longest pause between tries to write an end down.
	settleAgain = 5 * time.Second
	// writeLimit is when a write beside the work is given up.
	writeLimit = 10 * time.Second
)

// progress is how far a run is.
type progress struct {
	iteration, iterations int
	width, height, shrunk int
	loss                  style.Loss
	eta, spent            time.Duration
}

// run is one attempt at a job.
type run struct {
	*Service
	c       *claimed
	begun   time.Time
	last    atomic.Pointer[progress]
	watched atomic.Bool

	saved     int       // iteration of the last checkpoint
	nextSave  time.Time // not before, after one that failed
	previewed time.Time
}

// serve works on jobs until the service stops. It looks for one when it is
// woken, and each second besides: a job may have become due, or a
// notification may be lost.
func (s *Service) serve() {
	tick := time.NewTicker(max(100*time.Millisecond, min(time.Second, s.o.Beat)))
	defer tick.Stop()
	for {
		select {
		case <-s.stopping:
			return
		case <-s.ring:
		case <-tick.C:
		}
		for s.workOnNext() {
		}
	}
}

// workOnNext works on the job whose turn it is, and reports whether there was
// one.
func (s *Service) workOnNext() bool {
	select {
	case <-s.stopping:
		return false
	default:
	}
	c, err := s.queue.claimNext(s.work, s.owner)
	if s.work.Err() != nil {
		return false
	}
	if s.failing.Swap(err != nil) != (err != nil) && err != nil {
		s.o.Logger.Warn("style jobs: none can be begun; trying again each second", "error", err)
	}
	if err != nil || c == nil {
		return false
	}
	s.wake()
	done := make(chan struct{})
	go func() {
		defer close(done)
		stepBack(s.o.Nice, s.o.Logger)
		(&run{Service: s, c: c, begun: time.Now(), saved: c.saved}).work()
	}()
	<-done
	return true
}

// work carries the attempt out and writes down how it ended.
func (r *run) work() {
	r.last.Store(&progress{
		iteration: r.c.saved, iterations: r.c.Iterations, width: r.c.Width, height: r.c.Height,
		shrunk: r.c.Shrunk, loss: r.c.Loss, spent: r.c.spent,
	})
	ctx, cancel := context.WithCancelCause(r.Service.work)
	defer cancel(nil)
	timed, free := context.WithTimeoutCause(ctx, r.o.Deadline-r.c.spent, errDeadline)
	defer free()

	r.mu.Lock()
	r.running[r.c.ID] = cancel
	r.mu.Unlock()
	ended, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		r.heartbeat(ctx, cancel, ended)
	}()
	o := r.carryOut(timed)
	o.progress = r.now()
	r.settle(ctx, o)
	close(ended)
	<-stopped
	r.mu.Lock()
	delete(r.running, r.c.ID)
	r.mu.Unlock()
}

// now is the progress with the time that was worked.
func (r *run) now() progress {
	p := *r.last.Load()
	p.spent = r.c.spent + time.Since(r.begun)
	return p
}

// heartbeat tells the database that the worker lives, until the attempt is
// settled. While the database cannot be reached, no other worker can take the job
// either.
func (r *run) heartbeat(ctx context.Context, cancel context.CancelCauseFunc, ended <-chan struct{}) {
	tick := time.NewTicker(r.o.Beat)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		writing, free := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
		canceled, watched, err := r.queue.writeBeat(writing, r.c, r.now())
		free()
		r.watched.Store(watched)
		switch {
		case errors.Is(err, errLost):
			cancel(errLost)
			return
		case err != nil:
			r.o.Logger.Warn("style job: no heartbeat", "job_id", r.c.ID, "error", err)
		case canceled:
			cancel(errCanceled)
		}
	}
}

// carryOut makes the picture.
func (r *run) carryOut(ctx context.Context) (o outcome) {
	defer func() {
		if p := recover(); p != nil {
			r.o.Logger.Error("style job panicked", "job_id", r.c.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			o = outcome{state: Failed, problem: problemOf(face.Internal, "")}
		}
	}()
	if r.o.Deadline <= r.c.spent {
		return r.outcomeOf(ctx, errDeadline)
	}
	if err := r.queue.loadInputs(ctx, r.c); err != nil {
		return r.outcomeOf(ctx, wrap("load", err))
	}
	task, err := r.task(ctx, r.c.inputs, r.c.Params)
	if err != nil {
		return r.outcomeOf(ctx, err)
	}
	if task.Checkpoint = r.c.checkpoint; task.Checkpoint != nil {
		r.o.Logger.Info("style job resumed", "job_id", r.c.ID, "iteration", r.c.saved, "attempt", r.c.attempt)
	} else {
		r.o.Logger.Info("style job begun", "job_id", r.c.ID, "attempt", r.c.attempt)
	}
	img, err := r.o.Transferrer.Transfer(ctx, task, func(report style.Report) error { return r.observe(ctx, report) })
	if err != nil {
		if task.Checkpoint != nil && face.KindOf(err) == face.Invalid && context.Cause(ctx) == nil {
			// It was good when it was written: another version of us did.
			r.o.Logger.Warn("style job begins anew: its checkpoint is of no use", "job_id", r.c.ID, "error", err)
			return outcome{state: Queued, afresh: true}
		}
		return r.outcomeOf(ctx, err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return r.outcomeOf(ctx, err)
	}
	o = outcome{state: Succeeded, result: b.Bytes()}
	if r.c.CheckIdentity {
		if r.o.Identify == nil {
			return r.outcomeOf(ctx, face.Errorf(face.Unavailable, "jobs.carryOut", "this server cannot check identities"))
		}
		identity, err := r.o.Identify(ctx, r.c.inputs.content, img)
		if err != nil {
			return r.outcomeOf(ctx, err)
		}
		o.identity = &identity
	}
	return o
}

// observe looks around after each iteration.
func (r *run) observe(ctx context.Context, report style.Report) error {
	before := r.last.Load()
	if n := report.Iteration - before.iteration; n > 0 {
		r.metrics.iterations.Add(float64(n))
	}
	p := progress{
		iteration: report.Iteration, iterations: report.Iterations, width: report.Width, height: report.Height,
		shrunk: report.Shrunk, loss: report.Loss, eta: report.ETA,
	}
	r.last.Store(&p)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if report.Iteration >= report.Iterations {
		return nil // the picture is done
	}
	select {
	case <-r.stopping:
		_ = r.saveCheckpoint(ctx, report) // it said why; the job goes on from the one before
		return errStopping
	default:
	}
	if report.Iteration-r.saved >= checkpointEvery && time.Now().After(r.nextSave) {
		if err := r.saveCheckpoint(ctx, report); errors.Is(err, errLost) {
			return err
		}
	}
	if r.watched.Load() && time.Since(r.previewed) >= previewEvery {
		r.previewed = time.Now()
		if err := r.savePreview(ctx, report.Preview()); err != nil {
			r.o.Logger.Warn("style job: no preview", "job_id", r.c.ID, "error", err)
		}
	}
	return nil
}

// saveCheckpoint keeps a checkpoint. One that cannot be written now is tried again: the
// work goes on meanwhile.
func (r *run) saveCheckpoint(ctx context.Context, report style.Report) error {
	data, err := report.Checkpoint()
	if err == nil {
		writing, free := context.WithTimeout(ctx, writeLimit)
		defer free()
		err = r.queue.saveCheckpoint(writing, r.c, r.now(), data)
	}
	if err != nil {
		r.nextSave = time.Now().Add(time.Second)
		r.o.Logger.Warn("style job: no checkpoint", "job_id", r.c.ID, "iteration", report.Iteration, "error", err)
		return err
	}
	r.saved = report.Iteration
	return nil
}

func (r *run) savePreview(ctx context.Context, img *image.RGBA) error {
	if long := max(img.Rect.Dx(), img.Rect.Dy()); long > previewSide {
		small := image.NewRGBA(image.Rect(0, 0, max(1, img.Rect.Dx()*previewSide/long), max(1, img.Rect.Dy()*previewSide/long)))
		draw.ApproxBiLinear.Scale(small, small.Rect, img, img.Rect, draw.Src, nil)
		img = small
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return err
	}
	return r.queue.savePreview(ctx, r.c, b.Bytes())
}

// outcomeOf says what an error means for the job.
func (r *run) outcomeOf(ctx context.Context, err error) outcome {
	cause := context.Cause(ctx)
	switch {
	case errors.Is(cause, errLost), errors.Is(err, errLost):
		return outcome{} // it is no longer ours to end
	case errors.Is(cause, errCanceled):
		return outcome{state: Canceled}
	case errors.Is(cause, errDeadline), errors.Is(err, errDeadline):
		return outcome{state: Failed, problem: problemOf(face.Deadline, fmt.Sprintf("It was worked on for longer than %s.", r.o.Deadline))}
	case errors.Is(err, errStopping), r.Service.work.Err() != nil:
		return outcome{state: Queued}
	}
	kind, detail := face.KindOf(err), ""
	if e, ok := errors.AsType[*face.Error](err); ok {
		detail = e.Detail
		for _, f := range e.Fields {
			detail = f.Pointer + " " + f.Detail
		}
	}
	r.o.Logger.Warn("style job failed", "job_id", r.c.ID, "attempt", r.c.attempt, "code", kind.Code(), "error", err)
	if (kind == face.Unavailable || kind == face.StorageFull || kind == face.Overloaded) && r.c.faults+1 < maxFaults {
		return outcome{state: Queued, faulty: true, after: r.o.Beat << r.c.faults}
	}
	return outcome{state: Failed, problem: problemOf(kind, detail)}
}

func problemOf(kind face.Kind, detail string) *Problem {
	return &Problem{Code: kind.Code(), Title: kind.Title(), Detail: detail}
}

// settle writes the end down, however often it takes: a picture that is made
// is not lost because the disk is full for a while. Only the server's end, or
// somebody else who has the job, ends that.
func (r *run) settle(ctx context.Context, o outcome) {
	if o.state == "" {
		r.o.Logger.Warn("style job is another worker's by now", "job_id", r.c.ID, "attempt", r.c.attempt)
		return
	}
	pause := r.o.Beat / 10
	for {
		writing, free := context.WithTimeout(context.WithoutCancel(ctx), writeLimit)
		state, err := r.queue.settle(writing, r.c, o)
		free()
		switch {
		case errors.Is(err, errLost):
			r.o.Logger.Warn("style job is another worker's by now", "job_id", r.c.ID, "attempt", r.c.attempt)
			return
		case err == nil:
			r.wake() // the tenant's next may be begun
			if state.Final() {
				r.metrics.duration.WithLabelValues(string(state)).Observe(o.progress.spent.Seconds())
			}
			r.o.Logger.Info("style job left", "job_id", r.c.ID, "attempt", r.c.attempt, "state", state, "iteration", o.progress.iteration)
			return
		}
		r.o.Logger.Warn("style job: its end could not be written yet", "job_id", r.c.ID, "state", o.state, "error", err)
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-r.Service.work.Done():
			wait.Stop()
			return // it goes on from its checkpoint
		}
		pause = min(2*pause, settleAgain)
	}
}
