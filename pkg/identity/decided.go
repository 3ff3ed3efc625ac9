package identity

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/store"
)

// The outcomes of a verification. Those of an identification are the
// [match.Decision] values.
const (
	outcomeMatch    = "match"
	outcomeNonMatch = "non_match"
)

// attempt is a verification or an identification under way: who asks, and about
// whom.
type attempt struct {
	*Service
	by      Caller
	action  string // store.AuditVerify or store.AuditIdentify; the route is named like it
	gallery string // empty: nobody enrolled is meant
	subject string // the claimed one, or the best candidate of a match; empty: none
}

// decided is where every decision about somebody passes before it is answered.
// It counts what the quality gate has against the face, records the decision in
// the audit chain, if the service does that, and counts the decision. If the
// record fails, so does the request: no door opens on a decision that is not
// recorded. Nothing is decided for a caller who no longer waits. outcome is the
// decision in the words of the answer.
func (a attempt) decided(ctx context.Context, outcome string, reasons ...face.Reason) error {
	if err := ctx.Err(); err != nil {
		return face.Wrap(face.Canceled, "identity.decided", err)
	}
	a.notAcquired(reasons)
	if a.o.AuditDecisions && a.gallery != "" {
		d := store.Decision{Action: a.action, Gallery: a.gallery, SubjectID: a.subject, Decision: outcome}
		if err := a.Record(ctx, a.by, d); err != nil {
			return err
		}
	}
	a.metrics.decisions.WithLabelValues("/"+a.action, outcome).Inc()
	return nil
}

// notAcquired counts a photo or a face that is not compared or enrolled.
func (s *Service) notAcquired(reasons []face.Reason) {
	for _, reason := range reasons {
		s.metrics.failures.WithLabelValues(string(reason)).Inc()
	}
}

// checkQuality refuses a face that the quality gate has something against:
// the score of a blurred or tiny face says little about who it is.
func (s *Service) checkQuality(field string, sample embed.Sample) error {
	reasons := sample.Face.Quality.Reasons
	if len(reasons) == 0 {
		return nil
	}
	s.notAcquired(reasons)
	e := face.Errorf(face.LowQuality, "identity.checkQuality", "The quality gate refuses the face.")
	e.Reasons = reasons
	return face.PointAt(e, "/"+field)
}

// Record puts a record into the audit chain. Unavailable: that failed.
func (s *Service) Record(ctx context.Context, by Caller, d store.Decision) error {
	err := s.o.Store.RecordDecision(ctx, by.tenant(), store.Actor{KeyID: by.KeyID, RequestID: by.RequestID}, d)
	if err == nil || errors.Is(err, face.Canceled) {
		return err
	}
	return &face.Error{
		Kind: face.Unavailable, Op: "identity.Record", Err: err,
		Detail: "The request could not be recorded in the audit chain, so it was not carried out.",
	}
}

type metrics struct {
	decisions *prometheus.CounterVec
	failures  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "likeness_decisions_total",
			Help: "Decisions of verification and identification.",
		}, []string{"route", "decision"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "likeness_failure_to_acquire_total",
			Help: "Photos and faces that were not compared or enrolled, by reason. One of them may have several.",
		}, []string{"reason"}),
	}
	// A series that is there from the start lets a dashboard see its first rise.
	for _, outcome := range []string{outcomeMatch, outcomeNonMatch} {
		m.decisions.WithLabelValues("/"+store.AuditVerify, outcome)
	}
	for _, outcome := range []match.Decision{match.DecisionMatch, match.DecisionUnknown, match.DecisionAmbiguous, match.DecisionLowQuality} {
		m.decisions.WithLabelValues("/"+store.AuditIdentify, string(outcome))
	}
	m.failures.WithLabelValues(string(face.ReasonNoFace))
	return m, errors.Join(r.Register(m.decisions), r.Register(m.failures))
}
