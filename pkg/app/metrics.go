package app

import "github.com/prometheus/client_golang/prometheus"

// metrics are those that several rooms feed; each room registers its own.
type metrics struct {
	stages   *prometheus.HistogramVec
	gateWait prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "likeness_stage_duration_seconds",
			Help:    "Time spent in one stage of the work on one photo, or in one search.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 13), // 0.5 ms .. 2 s
		}, []string{"stage"}),
		gateWait: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "likeness_inference_gate_wait_seconds",
			Help:    "Time that a request waited for a slot, or a crop of a migration, or a style-transfer job; those that got none are not counted.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 10), // 0.1 ms .. 26 s
		}),
	}
	r.MustRegister(m.stages, m.gateWait)
	return m
}

func (m *metrics) observeStage(name string, seconds float64) {
	m.stages.WithLabelValues(name).Observe(seconds)
}
