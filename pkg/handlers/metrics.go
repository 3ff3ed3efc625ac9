package handlers

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

type metrics struct {
	duration  *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	decisions *prometheus.CounterVec
	failures  *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer, galleries store.Galleries) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "likeness_http_request_duration_seconds",
			Help:    "Time from a request's headers to the end of its answer.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // 1 ms .. 8 s
		}, []string{"route", "code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "likeness_http_requests_in_flight",
			Help: "Requests under way, that for the metrics counted in.",
		}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "likeness_decisions_total",
			Help: "Decisions of verification and identification.",
		}, []string{"route", "decision"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "likeness_failure_to_acquire_total",
			Help: "Photos and faces that were not compared or enrolled, by reason. One of them may have several.",
		}, []string{"reason"}),
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.duration, m.inFlight, m.decisions, m.failures, templates{galleries}} {
		errs = append(errs, r.Register(c))
	}
	// A series that is there from the start lets a dashboard see its first rise.
	for route, decisions := range map[string][]string{
		"/verify":    {"match", "non_match"},
		"/recognize": {"match", "unknown", "ambiguous", "low_quality"},
	} {
		for _, d := range decisions {
			m.decisions.WithLabelValues(route, d)
		}
	}
	m.failures.WithLabelValues(string(face.ReasonNoFace))
	return m, errors.Join(errs...)
}

// notAcquired counts a failure to acquire.
func (m *metrics) notAcquired(reasons []face.Reason) {
	for _, reason := range reasons {
		m.failures.WithLabelValues(string(reason)).Inc()
	}
}

// templates counts the templates of each gallery at each scrape.
type templates struct{ store.Galleries }

func (t templates) desc() *prometheus.Desc {
	return prometheus.NewDesc("likeness_templates",
		"Templates by gallery; another tenant's than the default one's is tenant/gallery.", []string{"gallery"}, nil)
}

// Describe implements [prometheus.Collector].
func (t templates) Describe(ch chan<- *prometheus.Desc) { ch <- t.desc() }

// Collect implements [prometheus.Collector].
func (t templates) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	counts, err := t.CountTemplates(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(t.desc(), err)
		return
	}
	for _, c := range counts {
		label := c.Gallery
		if c.Tenant != face.DefaultTenant {
			label = c.Tenant + "/" + c.Gallery
		}
		ch <- prometheus.MustNewConstMetric(t.desc(), prometheus.GaugeValue, float64(c.Templates), label)
	}
}
