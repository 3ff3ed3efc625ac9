package app

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

type following struct{}

func (following) Staleness() time.Duration { return 1500 * time.Millisecond }

func (following) DamagedTemplates(context.Context) (int, error) { return 3, nil }

func (following) Replicas() map[string]time.Duration {
	return map[string]time.Duration{"near": time.Second, "far": time.Minute}
}

func TestStoreState(t *testing.T) {
	t.Parallel()
	away := func(context.Context) error { return errors.New("away") }
	there := func(context.Context) error { return nil }
	for name, try := range map[string]struct {
		state storeState
		want  map[string]float64
	}{
		"one that follows a database": {storeState{there, following{}}, map[string]float64{
			"likeness_ready": 1, "likeness_index_staleness_seconds": 1.5, "likeness_damaged_templates": 3,
			"likeness_replica_lag_seconds near": 1, "likeness_replica_lag_seconds far": 60,
		}},
		"one that follows nothing": {storeState{there, nil}, map[string]float64{"likeness_ready": 1}},
		"one that is not ready":    {storeState{away, nil}, map[string]float64{"likeness_ready": 0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			registry := prometheus.NewPedanticRegistry()
			registry.MustRegister(try.state)
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]float64{}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					key := f.GetName()
					for _, l := range m.GetLabel() {
						key += " " + l.GetValue()
					}
					got[key] = m.GetGauge().GetValue()
				}
			}
			if diff := cmp.Diff(try.want, got); diff != "" {
				t.Errorf("gauges (-want +got):\n%s", diff)
			}
		})
	}
}
