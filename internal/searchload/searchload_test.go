package searchload_test

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/searchload"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/index"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNear(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	v := face.Embedding{0.6, 0.8, 0, 0, 0, 0}
	for _, want := range []float64{-0.5, 0, 0.6, 0.99, 1} {
		got := searchload.Near(rng, v, want)
		if err := index.Validate(got); err != nil || math.Abs(got.Cosine(v)-want) > 1e-6 {
			t.Errorf("cosine %g: %g, %v", want, got.Cosine(v), err)
		}
	}
	if got := searchload.Towards(v, make(face.Embedding, len(v)), 0.5); got.Cosine(v) < 0.999 {
		t.Errorf("towards nothing: %v", got)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	probes := []face.Embedding{{1, 0}, {0, 1}, {1, 0}, {0, 1}}
	named := searchload.Engine{Name: "named", Search: func(_ context.Context, p face.Embedding) (string, error) {
		if p[0] == 1 {
			return "first", nil
		}
		return "second", nil
	}}
	var done atomic.Int64
	got, err := searchload.Answers(t.Context(), named, probes, 2, func() { done.Add(1) })
	if err != nil || done.Load() != 4 {
		t.Fatalf("%v, %d done", err, done.Load())
	}
	if r := searchload.Recall(got, []string{"first", "second", "second", "second"}); r != 0.75 {
		t.Errorf("recall %g of %v", r, got)
	}
	broken := searchload.Engine{Search: func(context.Context, face.Embedding) (string, error) { return "", errors.New("broken") }}
	if _, err := searchload.Answers(t.Context(), broken, probes, 2, func() {}); err == nil {
		t.Error("no error of a broken engine")
	}
	if _, err := searchload.Measure(t.Context(), []searchload.Engine{named, broken}, probes, 2, 1, 0, func() {}); err == nil {
		t.Error("no error of a broken engine under load")
	}
}

// Engines take turns, and all that was asked is counted.
func TestMeasure(t *testing.T) {
	t.Parallel()
	var asked [2]atomic.Int64
	var engines []searchload.Engine
	for i := range asked {
		engines = append(engines, searchload.Engine{Search: func(context.Context, face.Embedding) (string, error) {
			asked[i].Add(1)
			return "", nil
		}})
	}
	turns := 0
	loads, err := searchload.Measure(t.Context(), engines, []face.Embedding{{1}}, 3, 2, time.Millisecond, func() { turns++ })
	if err != nil || turns != 4 {
		t.Fatalf("%v, %d turns", err, turns)
	}
	for i, l := range loads {
		if int64(l.Queries) != asked[i].Load() || l.Queries < 6 || l.P50 > l.P95 || l.QPS <= 0 {
			t.Errorf("engine %d: %+v of %d", i, l, asked[i].Load())
		}
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	times := []time.Duration{5, 1, 4, 2, 3}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0, 1}, {0.5, 3}, {0.95, 5}, {1, 5}} {
		if got := searchload.Quantile(times, tt.q); got != tt.want {
			t.Errorf("%g: %d, want %d", tt.q, got, tt.want)
		}
	}
	if got := searchload.Quantile(nil, 0.5); got != 0 {
		t.Errorf("of none: %d", got)
	}
}
