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
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge
	missed   *prometheus.CounterVec
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
			Help: "Requests under way, including the one for the metrics.",
		}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "likeness_deadlines_missed_total",
			Help: "Requests with max_ms that were answered 504, because they were not done in time.",
		}, []string{"route"}),
	}
	for _, route := range []string{"/verify", "/recognize"} { // a series from the start shows its first rise
		m.missed.WithLabelValues(route)
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.duration, m.inFlight, m.missed, templates{galleries}} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

// templates counts the templates of each gallery at each scrape.
type templates struct{ store.Galleries }

func (t templates) desc() *prometheus.Desc {
	return prometheus.NewDesc("likeness_templates",
		"Templates by gallery. For a tenant other than the default one, the label is tenant/gallery.", []string{"gallery"}, nil)
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
