// Package identity decides who somebody is, without HTTP. It verifies (1:1),
// recognises (1:N) and enrols, and it detects and embeds faces for those who
// compare them elsewhere. Every door of the service uses it: the HTTP handlers
// only translate.
//
// A request is a plain struct. The zero value of a field means its default. A
// field that is wrong comes back as a [face.Error] whose pointer is the field's
// name in the HTTP contract, such as /probe_embedding. Each decision is made on
// behalf of a [Caller] and passes through one place, where it is recorded and
// counted before it is answered.
package identity

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// Pipeline finds and encodes faces; [embed.Pipeline] is one.
type Pipeline interface {
	// Enter waits for the slot of a request, for all its photos.
	Enter(ctx context.Context, r *embed.Reservation) (embed.Slot, error)
	// Encoder is the model that galleries are searched with unless they name
	// another one. Its calibration and its head decide with it.
	Encoder() embed.Manifest
}

// Sealer seals the crop of a sample, so that the store cannot read it.
type Sealer interface {
	SealCrop(tenant, gallery, sample string, crop []byte) []byte
}

// Options of a [Service]. Store and Pipeline are required. [DefaultOptions]
// has the defaults of the rest.
type Options struct {
	Store    store.Store
	Pipeline Pipeline
	// Models are the models that the server knows. Galleries may be searched
	// with any encoder among them.
	Models []embed.Model
	// Sealer seals the crops that galleries keep. Nil: no crop is kept.
	Sealer Sealer

	// OperatingPoint is that of requests that name none: one of
	// [match.PointNames]. An encoder's calibration need not support it; then
	// such requests are refused. Empty: that of [DefaultOptions].
	OperatingPoint string
	// AmbiguityMargin, 0..1: if two subjects reach the threshold and their
	// scores are closer than this, the decision is ambiguous. 0: never.
	AmbiguityMargin float64
	// WholeSearch makes an operating point's false match rate hold for a whole
	// search and not for one comparison: the threshold grows with the gallery.
	WholeSearch bool
	// AuditDecisions records every decision about somebody enrolled before it
	// is answered. What cannot be recorded is not answered.
	AuditDecisions bool

	// WakeMover is called when somebody was enrolled in a gallery that is being
	// moved to another encoder. Nil: nothing is called.
	WakeMover func()
	// Observe is called with the seconds that a stage took; the only stage is
	// "search". Nil: nothing is called.
	Observe func(stage string, seconds float64)
	// Registerer of the metrics. Nil: a registry of its own, which nobody reads.
	Registerer prometheus.Registerer
}

// DefaultOptions are the defaults: one false match in 10,000 comparisons, and
// two candidates are ambiguous if both reach the threshold with scores closer
// than 0.05. Store and Pipeline have no default.
func DefaultOptions() Options {
	return Options{OperatingPoint: match.PointName(1e-4), AmbiguityMargin: 0.05}
}

// withDefaults fills in what is left out, and says which field is wrong.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Store == nil {
		errs = append(errs, errors.New("field Options.Store is missing"))
	}
	if o.Pipeline == nil {
		errs = append(errs, errors.New("field Options.Pipeline is missing"))
	}
	if o.OperatingPoint == "" {
		o.OperatingPoint = DefaultOptions().OperatingPoint
	}
	if _, err := match.NewPolicy(nil).Point(o.OperatingPoint); errors.Is(err, face.Invalid) {
		errs = append(errs, fmt.Errorf("Options.OperatingPoint: %w", err))
	}
	if !(o.AmbiguityMargin >= 0 && o.AmbiguityMargin <= 1) {
		errs = append(errs, fmt.Errorf("Options.AmbiguityMargin: %v is not between 0 and 1", o.AmbiguityMargin))
	}
	if o.WakeMover == nil {
		o.WakeMover = func() {}
	}
	if o.Observe == nil {
		o.Observe = func(string, float64) {}
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	return o, errors.Join(errs...)
}

// Service decides. It is safe for concurrent use.
type Service struct {
	o        Options
	encoders Encoders
	metrics  *metrics
}

// New makes a service and registers its metrics. The error says which option
// is wrong.
func New(o Options) (*Service, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Service{o: o, encoders: NewEncoders(o.Pipeline.Encoder(), o.Models)}
	s.metrics, err = newMetrics(o.Registerer)
	return s, err
}

// Encoders are the encoders that the service knows.
func (s *Service) Encoders() Encoders { return s.encoders }

// KeepsCrops reports whether the service can seal crops, which a gallery that
// stores images needs.
func (s *Service) KeepsCrops() bool { return s.o.Sealer != nil }

// Caller says on whose behalf a decision is made.
type Caller struct {
	Tenant    string // empty: [face.DefaultTenant]
	KeyID     string // the API key; empty without authentication
	RequestID string // goes into the audit record

	// Reservation is of a slot of the pipeline, for the request's photos. Nil:
	// the request enters without one.
	Reservation *embed.Reservation
}

func (c Caller) tenant() string {
	if c.Tenant == "" {
		return face.DefaultTenant
	}
	return c.Tenant
}
