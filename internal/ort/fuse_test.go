package ort_test

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// A PRelu with one slope is loaded as LeakyRelu, whatever the slope is, and
// gives what it gave before. One with a slope for each channel is left alone.
func TestFuseSlopes(t *testing.T) {
	t.Parallel()
	wave := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(math.Sin(float64(i*i%97) + 0.3))
		}
		return out
	}
	g := grad.NewGraph()
	y := g.Input("x", 1, 3, 16, 16)
	for _, slopes := range []*grad.Value{
		g.Constant([]float32{0.25}, 1), g.Constant([]float32{-1.5}, 1, 1, 1), g.Constant([]float32{3}, 1, 1, 1, 1), g.Constant(wave(16), 16, 1, 1),
	} {
		y = g.Conv(y, g.Constant(wave(int(16*y.Dim(1)*9)), 16, y.Dim(1), 3, 3), nil, grad.Window{Pads: []int64{1, 1, 1, 1}})
		y = g.PRelu(g.Scale(y, 0.1), slopes)
	}
	y = g.Name(g.Reshape(y, 1, -1), "y")
	model, err := g.Marshal(y)
	if err != nil {
		t.Fatal(err)
	}

	fused, err := ort.FuseSlopes(model)
	if err != nil {
		t.Fatal(err)
	}
	var p onnxpb.Model
	if err := proto.Unmarshal(fused, &p); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, n := range p.Graph.Node {
		count[n.OpType]++
	}
	if count["LeakyRelu"] != 3 || count["PRelu"] != 1 {
		t.Errorf("the operators are %v", count)
	}

	r := orttest.Runtime(t)
	in, out := grad.Port{Name: "x", Shape: []int64{1, 3, 16, 16}}, grad.Port{Name: "y", Shape: y.Shape()}
	plain, err := r.Compile(model, []grad.Port{in}, []grad.Port{out})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, plain)
	n, err := r.Load(model, embed.Manifest{
		Input: embed.Input{Name: "x", Width: 16, Height: 16}, Outputs: []embed.Output{{Name: "y", Shape: y.Shape()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, n)
	s := open(t, n, in.Shape...)
	for _, x := range [][]float32{plain.Input(0), s.Input()} {
		copy(x, wave(len(x)))
	}
	if err := plain.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range plain.Output(0) {
		if got := s.Output(0)[i]; math.Abs(float64(got-want)) > 1e-5*max(1, math.Abs(float64(want))) {
			t.Fatalf("number %d is %v, and was %v", i, got, want)
		}
	}
}

// A model without a PRelu is not even read.
func TestFuseSlopesOfOthers(t *testing.T) {
	t.Parallel()
	text := []byte("not a model")
	if got, err := ort.FuseSlopes(text); err != nil || !bytes.Equal(got, text) {
		t.Errorf("%q, %v", got, err)
	}
}
