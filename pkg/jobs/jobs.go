// Package jobs makes style-transfer pictures in the background. A job is
// durable, with its inputs, before its submission is answered; a worker that dies
// leaves it to another, which goes on from the last checkpoint.
//
// What a job is, who works on it and what came of it is in the database. A
// worker looks there for the job whose turn it is when it is woken, by its own
// server or by a notification of Postgres, and each second besides: waking a
// worker for nothing does no harm, and a notification that is lost costs a
// second.
package jobs

import (
	"cmp"
	"context"
	"image"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/internal/ballast"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/style"
)

// State is where a job is.
type State string

// The states. The last three are final.
const (
	Queued    State = "queued"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Canceled  State = "canceled"
)

// States lists every state.
func States() []State { return []State{Queued, Running, Succeeded, Failed, Canceled} }

// Final reports whether nothing will change any more.
func (s State) Final() bool { return s == Succeeded || s == Failed || s == Canceled }

// Job is a job as it is shown.
type Job struct {
	ID, Tenant    string
	State         State
	Canceling     bool // its end was asked for and has not come
	Params        style.Params
	CheckIdentity bool

	Iteration, Iterations int
	Width, Height         int
	Shrunk                int
	Loss                  style.Loss
	ETA                   time.Duration // 0: not known
	Preview               int           // number of the last preview, 0: none

	Problem  *Problem  // of a failed job
	Identity *Identity // of a succeeded one that asked for it

	CreatedAt, StartedAt, FinishedAt time.Time // zero: not yet
}

// Progress is the share of the iterations that are done.
func (j Job) Progress() float64 {
	switch {
	case j.State == Succeeded:
		return 1
	case j.Iterations == 0:
		return 0
	}
	return float64(j.Iteration) / float64(j.Iterations)
}

// Problem is why a job failed.
type Problem struct {
	Code   string `json:"code"` // of a [face.Kind]
	Title  string `json:"title"`
	Detail string `json:"detail,omitempty"`
}

// Identity says whether the picture still shows who the content shows: a
// score, or the reason why there is none.
type Identity struct {
	Score          float64     `json:"score"`
	Match          *bool       `json:"match,omitempty"` // nil: the encoder has no such operating point
	OperatingPoint string      `json:"operating_point,omitempty"`
	ModelID        string      `json:"model_id,omitempty"`
	Reason         face.Reason `json:"reason,omitempty"`
	Picture        string      `json:"picture,omitempty"` // that the reason is about: "content" or "result"
}

// Request is what a job is made of. Pictures are the bytes that were sent.
type Request struct {
	// ID may be empty. A job that is there under it already is answered as it
	// is, so that a request may be repeated.
	ID            string
	Tenant, KeyID string
	Content       []byte
	Styles, Masks [][]byte
	Params        style.Params
	CheckIdentity bool
}

// Queue is what callers may do with jobs. Every call names a tenant, and no
// call sees or touches another tenant's jobs. Besides the kinds that are named,
// errors are Internal, Unavailable, StorageFull and the ends of the context.
type Queue interface {
	// Submit checks everything that can be checked and returns once the job
	// and its pictures are durable. Invalid, TooLarge, UnsupportedImage,
	// InvalidImage: with the field. QueueFull: the tenant has too many waiting,
	// or keeps too much.
	Submit(ctx context.Context, r Request) (Job, error)
	// Job returns a job. NotFound.
	Job(ctx context.Context, tenant, id string) (Job, error)
	// List lists, newest first. Invalid: the page.
	List(ctx context.Context, tenant string, p store.Page) (items []Job, next string, err error)
	// Delete cancels a job that is queued, at once, or running, within an
	// iteration; erases one that succeeded or failed, with its picture; and
	// leaves one that is canceled as it is. It returns what is left of it, or
	// what was erased. NotFound.
	Delete(ctx context.Context, tenant, id string) (Job, error)
	// Result is the picture of a job that succeeded, as PNG. NotFinished: it is
	// on its way. NotFound: also where there will never be one.
	Result(ctx context.Context, tenant, id string) ([]byte, error)
	// Preview asks for previews for the next seconds and returns the present
	// one, as PNG, when its number is above after; else nil. NotFound.
	Preview(ctx context.Context, tenant, id string, after int) (png []byte, number int, err error)
}

// Options of a [Service]. Transferrer must be there; the rest has defaults.
type Options struct {
	Transferrer style.Transferrer
	// Identify compares the picture with the content photo for jobs that ask
	// for it. Nil: Submit refuses them.
	Identify func(ctx context.Context, content []byte, result *image.RGBA) (Identity, error)
	Limits   imaging.Limits // of each picture; zero: the defaults

	Workers   int           // jobs at a time on this server; 0: 1
	PerTenant int           // jobs of a tenant at a time on all servers; 0: 1
	MaxQueued int           // jobs of a tenant that wait; 0: 100
	MaxBytes  int64         // of a tenant's jobs and pictures, when one more is taken; 0: 4 GiB
	Deadline  time.Duration // of the time that a job is worked on; 0: 30 minutes
	TTL       time.Duration // of a job after its end; 0: a day

	// Beat is how often a worker says that it lives, writes its progress and
	// looks whether the job was canceled elsewhere; 0: a second. A worker that
	// was silent for ten beats has lost the job.
	Beat time.Duration
	// Nice is by how much the threads of a worker step back behind the others;
	// 0: 10, below 0: not at all.
	Nice int

	// Room is kept free on the disk of an embedded store, for erasing. Where
	// there is less, Submit is StorageFull. Nil: none is kept.
	Room *ballast.File

	Logger     *slog.Logger          // nil: discard
	Registerer prometheus.Registerer // nil: no metrics
}

const (
	leaseBeats = 10
	// maxLosses is how many workers may die one after another without a
	// checkpoint in between: more, and the job is what kills them.
	maxLosses = 4
	// maxFaults is how often a fault that may pass is put up with, less one.
	maxFaults = 3
	// checkpointEvery is how many iterations may be lost.
	checkpointEvery = 10
	// minSide is the least side of a picture, pixels.
	minSide = 32
)

// DefaultOptions are the options that zero fields stand for: one job at a time
// on this server and of each tenant, at most 100 jobs and 4 GiB of a tenant that
// wait, 30 minutes of work on a job, a day until it is erased after its end, and
// [imaging.DefaultLimits] of each picture. A Transferrer has no default.
func DefaultOptions() Options {
	return Options{
		Limits:  imaging.DefaultLimits(),
		Workers: 1, PerTenant: 1, MaxQueued: 100, MaxBytes: 4 << 30,
		Deadline: 30 * time.Minute, TTL: 24 * time.Hour,
		Beat: time.Second, Nice: 10,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func (o Options) withDefaults() (Options, error) {
	if o.Transferrer == nil {
		return o, face.Errorf(face.Invalid, "jobs.Open", "field Options.Transferrer is missing")
	}
	d := DefaultOptions()
	o.Limits = cmp.Or(o.Limits, d.Limits)
	o.Workers = cmp.Or(o.Workers, d.Workers)
	o.PerTenant = cmp.Or(o.PerTenant, d.PerTenant)
	o.MaxQueued = cmp.Or(o.MaxQueued, d.MaxQueued)
	o.MaxBytes = cmp.Or(o.MaxBytes, d.MaxBytes)
	o.Deadline = cmp.Or(o.Deadline, d.Deadline)
	o.TTL = cmp.Or(o.TTL, d.TTL)
	o.Beat = cmp.Or(o.Beat, d.Beat)
	o.Nice = cmp.Or(o.Nice, d.Nice)
	o.Logger = cmp.Or(o.Logger, d.Logger)
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry() // one of its own each time: nobody looks at it
	}
	return o, nil
}
