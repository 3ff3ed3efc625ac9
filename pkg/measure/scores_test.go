package measure_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// tied draws scores from few values, so that most of them tie.
func tied(rng *rand.Rand, n, values int, shift float64) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = float64(rng.IntN(values))/float64(values) + shift
	}
	return out
}

func count(scores []float64, match func(float64) bool) (n int64) {
	for _, s := range scores {
		if match(s) {
			n++
		}
	}
	return n
}

// Everything that Scores says is recounted here, score by score.
func TestScoresBruteForce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		values := 1 + rng.IntN(12)
		mated := tied(rng, 1+rng.IntN(30), values, float64(rng.IntN(3))/float64(values))
		impostor := tied(rng, 1+rng.IntN(60), values, 0)
		s, err := measure.NewScores(mated, impostor)
		if err != nil {
			t.Fatal(err)
		}
		all := slices.Concat(mated, impostor)
		slices.Sort(all)
		candidates := []float64{-5}
		for _, v := range slices.Compact(all) {
			candidates = append(candidates, v, math.Nextafter(v, 2))
		}

		best := int64(-1)
		for _, at := range candidates {
			reaches := func(v float64) bool { return v >= at }
			fm, tm := count(impostor, reaches), count(mated, reaches)
			if got, want := s.FMR(at), (measure.Rate{Count: fm, Total: int64(len(impostor))}); got != want {
				t.Fatalf("FMR(%v) = %v, want %v", at, got, want)
			}
			if got, want := s.FNMR(at), (measure.Rate{Count: int64(len(mated)) - tm, Total: int64(len(mated))}); got != want {
				t.Fatalf("FNMR(%v) = %v, want %v", at, got, want)
			}
			if got := s.TMR(at).Count; got != tm {
				t.Fatalf("TMR(%v) = %v, want %v", at, got, tm)
			}
			right := tm + int64(len(impostor)) - fm
			if got := s.AccuracyAt(at).Count; got != right {
				t.Fatalf("AccuracyAt(%v) = %v, want %v", at, got, right)
			}
			best = max(best, right)
		}
		if got, at := s.Accuracy(); got.Count != best || s.AccuracyAt(at) != got {
			t.Fatalf("Accuracy = %v at %v, want %d", got, at, best)
		}

		for _, target := range []float64{0, 0.01, 0.1, 0.25, 1.0 / 3, 0.5, 0.999, 1} {
			at := s.ThresholdAt(target)
			if got := s.FMR(at).Value(); got > target {
				t.Fatalf("ThresholdAt(%v) = %v lets %v pass", target, at, got)
			}
			for _, lower := range candidates {
				if lower < at && lower > -5 && s.FMR(lower).Value() <= target && s.FNMR(lower).Count < s.FNMR(at).Count {
					t.Fatalf("ThresholdAt(%v) = %v, but %v is enough", target, at, lower)
				}
			}
		}

		det := s.DET()
		if first, last := det[0], det[len(det)-1]; first.FMR != 1 || first.FNMR != 0 || last.FMR != 0 || last.FNMR != 1 {
			t.Fatalf("DET runs from %v to %v", first, last)
		}
		for _, p := range det {
			if p.FMR != s.FMR(p.Threshold).Value() || p.FNMR != s.FNMR(p.Threshold).Value() {
				t.Fatalf("DET point %v, but FMR %v, FNMR %v", p, s.FMR(p.Threshold), s.FNMR(p.Threshold))
			}
		}
	}
}

func TestScoresGolden(t *testing.T) {
	t.Parallel()
	s, err := measure.NewScores([]float64{0.9, 0.4, 0.8, 0.6}, []float64{0.1, 0.5, 0.3, 0.5, 0.2})
	if err != nil {
		t.Fatal(err)
	}
	if best, at := s.Accuracy(); best != (measure.Rate{Count: 8, Total: 9}) || at != 0.6 {
		t.Errorf("Accuracy = %v at %v, want 8/9 at 0.6", best, at)
	}
	// 1 of 5 may match, but the two best impostors tie: neither may.
	if got, want := s.ThresholdAt(0.2), math.Nextafter(0.5, 1); got != want {
		t.Errorf("ThresholdAt(0.2) = %v, want %v", got, want)
	}
	if got, want := s.ThresholdAt(0.4), math.Nextafter(0.3, 1); got != want {
		t.Errorf("ThresholdAt(0.4) = %v, want %v", got, want)
	}
	if got := s.EER(); math.Abs(got-(0.25+0)/2) > 1e-12 && math.Abs(got-(0.25+0.4)/2) > 1e-12 {
		t.Errorf("EER = %v", got)
	}
}

// The product of a rate and a number of comparisons must not lose one of them
// to rounding: these are the sizes at which the rule of 30 decides.
func TestThresholdAtCountsExactly(t *testing.T) {
	t.Parallel()
	for _, fmr := range match.TargetFMRs() {
		n := int(math.Round(2 / fmr))
		impostor := make([]float64, n)
		for i := range impostor {
			impostor[i] = float64(i)
		}
		s, err := measure.NewScores([]float64{1}, impostor)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.FMR(s.ThresholdAt(fmr)).Count; got != 2 {
			t.Errorf("at %v, %d of %d match, want 2", fmr, got, n)
		}
	}
}

func TestNewScoresRefuses(t *testing.T) {
	t.Parallel()
	one := []float64{0.5}
	for name, in := range map[string][2][]float64{
		"nothing":     {nil, nil},
		"no mated":    {nil, one},
		"no impostor": {one, nil},
		"NaN":         {{0.5, math.NaN(), 0.1}, one},
		"+Inf":        {one, {math.Inf(1), 0}},
		"-Inf":        {one, {0, math.Inf(-1)}},
	} {
		if _, err := measure.NewScores(in[0], in[1]); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRateInterval(t *testing.T) {
	t.Parallel()
	// Published Clopper-Pearson intervals at 95 %.
	for _, tt := range []struct {
		rate measure.Rate
		want face.Interval
	}{
		{measure.Rate{Count: 0, Total: 10}, face.Interval{Low: 0, High: 0.30850}},
		{measure.Rate{Count: 10, Total: 10}, face.Interval{Low: 0.69150, High: 1}},
		{measure.Rate{Count: 5, Total: 10}, face.Interval{Low: 0.18709, High: 0.81291}},
		{measure.Rate{Count: 0, Total: 3000}, face.Interval{Low: 0, High: 0.00122888}},
	} {
		got := tt.rate.Interval(0.95)
		if math.Abs(got.Low-tt.want.Low) > 5e-6 || math.Abs(got.High-tt.want.High) > 5e-6 {
			t.Errorf("%v: %v, want %v", tt.rate, got, tt.want)
		}
	}
}

func TestFoldAccuracy(t *testing.T) {
	t.Parallel()
	fold := func(mated, impostor float64) *measure.Scores {
		s, err := measure.NewScores([]float64{mated}, []float64{impostor})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// The best threshold of the other two folds decides each: 0.6 for the
	// first two, 0.9 for the last, which rejects its mated pair.
	mean, stderr, err := measure.FoldAccuracy([]*measure.Scores{fold(0.9, 0.1), fold(0.9, 0.2), fold(0.6, 0.3)})
	if err != nil || math.Abs(mean-2.5/3) > 1e-12 || math.Abs(stderr-0.5/3) > 1e-12 {
		t.Errorf("FoldAccuracy = %v, %v, %v", mean, stderr, err)
	}
	if _, _, err := measure.FoldAccuracy([]*measure.Scores{fold(1, 0)}); !errors.Is(err, face.Invalid) {
		t.Errorf("one fold: %v", err)
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	var comparisons []measure.Comparison
	var mated, impostor []float64
	for range 600 {
		a, b := rng.IntN(300), rng.IntN(300)
		c := measure.Comparison{Score: 0.2 * rng.NormFloat64(), Probe: string(rune('一' + a)), Reference: string(rune('一' + b))}
		if rng.IntN(2) == 0 {
			c.Reference = c.Probe
			c.Score += 0.6
		}
		if c.Mated() {
			mated = append(mated, c.Score)
		} else {
			impostor = append(impostor, c.Score)
		}
		comparisons = append(comparisons, c)
	}
	s, err := measure.NewScores(mated, impostor)
	if err != nil {
		t.Fatal(err)
	}
	fmrs := []float64{0.1, 0.01}
	got, err := measure.Bootstrap(comparisons, measure.Options{FMRs: fmrs, Replicates: 500, Confidence: 0.95, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	for i, fmr := range fmrs {
		point := s.FNMR(s.ThresholdAt(fmr)).Value()
		if iv := got.FNMR[i]; !(iv.Low < point && point < iv.High && iv.High-iv.Low < 0.5) {
			t.Errorf("FNMR at %v is %v, interval %v", fmr, point, iv)
		}
	}
	best, _ := s.Accuracy()
	if iv := got.Accuracy; !(iv.Low <= best.Value() && best.Value() <= iv.High && iv.High-iv.Low < 0.1) {
		t.Errorf("accuracy %v, interval %v", best.Value(), iv)
	}
	again, err := measure.Bootstrap(comparisons, measure.Options{FMRs: fmrs, Replicates: 500, Confidence: 0.95, Seed: 7})
	if diff := cmp.Diff(got, again); diff != "" || err != nil {
		t.Errorf("the same seed gave other intervals: %v\n%s", err, diff)
	}
}

// When every draw gives the same answer, the interval is that answer, and it
// is the one that Scores gives.
func TestBootstrapAgreesWithScores(t *testing.T) {
	t.Parallel()
	comparisons := []measure.Comparison{
		{Score: 0.9, Probe: "a", Reference: "a"},
		{Score: 0.5, Probe: "a", Reference: "a"},
		{Score: 0.9, Probe: "b", Reference: "b"},
		{Score: 0.5, Probe: "b", Reference: "b"},
		{Score: 0.5, Probe: "a", Reference: "b"},
		{Score: 0.1, Probe: "b", Reference: "a"},
	}
	got, err := measure.Bootstrap(comparisons, measure.Options{FMRs: []float64{0.25, 0.5}, Replicates: 50, Confidence: 0.9, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := []face.Interval{{Low: 0.5, High: 0.5}, {Low: 0, High: 0}}
	if diff := cmp.Diff(want, got.FNMR); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBootstrapRefuses(t *testing.T) {
	t.Parallel()
	mated := measure.Comparison{Probe: "a", Reference: "a"}
	impostor := measure.Comparison{Probe: "a", Reference: "b"}
	for name, try := range map[string]struct {
		comparisons []measure.Comparison
		replicates  int
		confidence  float64
	}{
		"nothing":       {nil, 10, 0.95},
		"no impostor":   {[]measure.Comparison{mated}, 10, 0.95},
		"no mated":      {[]measure.Comparison{impostor}, 10, 0.95},
		"no replicates": {[]measure.Comparison{mated, impostor}, 0, 0.95},
		"no confidence": {[]measure.Comparison{mated, impostor}, 10, 0},
		"certainty":     {[]measure.Comparison{mated, impostor}, 10, 1},
	} {
		if _, err := measure.Bootstrap(try.comparisons, measure.Options{Replicates: try.replicates, Confidence: try.confidence, Seed: 1}); !errors.Is(err, face.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
