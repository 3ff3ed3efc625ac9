package app

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// readyTimeout bounds the look at the store that a scrape takes.
const readyTimeout = 2 * time.Second

// storeState says at each scrape whether the server is ready and, where the
// store has an index or replicas that follow a database, how far behind they
// are.
type storeState struct {
	ready func(context.Context) error
	store any
}

func (storeState) descs() (ready, stale, lag, engine, damaged *prometheus.Desc) {
	return prometheus.NewDesc("likeness_ready", "Whether GET /readyz answers 200.", nil, nil),
		prometheus.NewDesc("likeness_index_staleness_seconds", "How far the index may be behind the database.", nil, nil),
		prometheus.NewDesc("likeness_replica_lag_seconds", "How far a read replica may be behind the primary; decades when it never answered.", []string{"replica"}, nil),
		prometheus.NewDesc("likeness_search_engine", "The engine that answers searches now.", []string{"engine"}, nil),
		prometheus.NewDesc("likeness_damaged_templates", "Templates whose stored embedding is damaged, as far as the server has met them: they are left out of searches, and the log names them.", nil, nil)
}

// Describe implements [prometheus.Collector].
func (s storeState) Describe(ch chan<- *prometheus.Desc) {
	ready, stale, lag, engine, damaged := s.descs()
	ch <- ready
	ch <- stale
	ch <- lag
	ch <- engine
	ch <- damaged
}

// Collect implements [prometheus.Collector].
func (s storeState) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	ready, stale, lag, engine, damaged := s.descs()
	is := 1.0
	if s.ready(ctx) != nil {
		is = 0
	}
	ch <- prometheus.MustNewConstMetric(ready, prometheus.GaugeValue, is)
	if f, ok := s.store.(interface{ Staleness() time.Duration }); ok {
		ch <- prometheus.MustNewConstMetric(stale, prometheus.GaugeValue, f.Staleness().Seconds())
	}
	if d, ok := s.store.(interface {
		DamagedTemplates(context.Context) (int, error)
	}); ok {
		if n, err := d.DamagedTemplates(ctx); err == nil { // else the store is away, which others tell
			ch <- prometheus.MustNewConstMetric(damaged, prometheus.GaugeValue, float64(n))
		}
	}
	if e, ok := s.store.(interface{ Engine() string }); ok {
		ch <- prometheus.MustNewConstMetric(engine, prometheus.GaugeValue, 1, e.Engine())
	}
	if r, ok := s.store.(interface {
		Replicas() map[string]time.Duration
	}); ok {
		for host, behind := range r.Replicas() {
			ch <- prometheus.MustNewConstMetric(lag, prometheus.GaugeValue, behind.Seconds(), host)
		}
	}
}
