package grad_test

import (
	"math"
	"os"
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/grad"
)

func backend(t *testing.T) *ort.Runtime {
	t.Helper()
	r, err := ort.Open(ort.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// A real network with style-transfer losses has the gradient that central
// differences say.
func TestSqueezeNet(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(sharedtest.Path(t, "models/squeezenet11-features.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	for _, average := range []bool{true, false} {
		m, err := grad.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		g := grad.NewGraph()
		image := g.Input("image", 1, 3, 64, 48)
		im, err := g.Import(m, map[string]*grad.Value{"image": image}, []string{"conv1", "fire3/concat"}, grad.ImportOptions{AveragePools: average})
		if err != nil {
			t.Fatal(err)
		}
		loss := g.Add(g.Scale(g.SumSquares(im.Layers["fire3/concat"]), 1e-8), g.Scale(g.SumSquares(g.Gram(im.Layers["conv1"])), 1e-18))
		d, err := g.Gradient(loss, image)
		if err != nil {
			t.Fatal(err)
		}
		p, err := g.Compile(backend(t), loss, d[0])
		if err != nil {
			t.Fatal(err)
		}
		x := p.Input(0)
		dir := make([]float32, len(x))
		for i := range x {
			x[i] = float32((i*7919)%200) - 100
		}
		if err := p.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		var want float64
		for _, v := range p.Output(1) {
			want += float64(v) * float64(v)
		}
		want = math.Sqrt(want)
		// Along the gradient itself, where float32 tells most.
		for i, v := range p.Output(1) {
			dir[i] = float32(float64(v) / want)
		}
		at := func(h float32) float64 {
			for i := range x {
				x[i] += h * dir[i]
			}
			if err := p.Run(t.Context()); err != nil {
				t.Fatal(err)
			}
			l := float64(p.Output(0)[0])
			for i := range x {
				x[i] -= h * dir[i]
			}
			return l
		}
		got := (at(1) - at(-1)) / 2
		if rel := math.Abs(got-want) / math.Abs(want); rel > 5e-3 {
			t.Errorf("average pools %v: the loss changes by %g, the gradient says %g: off by %g", average, got, want, rel)
		} else {
			t.Logf("average pools %v: off by %.1e", average, rel)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
