package grad_test

import (
	"math"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// Whatever the bytes are, they are a model or refused, and so is each of its
// layers and its gradient.
func FuzzParse(f *testing.F) {
	for _, c := range modelForms() {
		f.Add(mustMarshal(f, c.model))
	}
	f.Add(mustMarshal(f, model(13, []*onnxpb.Node{
		node("Conv", "x, w, b -> a", "pads", []int64{1, 1, 1, 1}, "strides", []int64{2, 2}), node("Relu", "a -> r"),
		node("MaxPool", "r -> p", "kernel_shape", []int64{2, 2}, "ceil_mode", 1), node("AveragePool", "r -> q", "kernel_shape", []int64{2, 2}, "auto_pad", "SAME_LOWER"),
		node("Concat", "r, q -> s", "axis", 1), node("ConvTranspose", "s, t -> u", "strides", []int64{2, 2}, "output_padding", []int64{1, 0}),
		node("GlobalAveragePool", "u -> v"), node("Flatten", "v -> w2"), node("LpNormalization", "w2 -> y"),
	}, floatTensor("w", []int64{2, 3, 2, 2}, make([]float32, 24)...), floatTensor("b", []int64{2}, 1, 2), floatTensor("t", []int64{4, 1, 2, 2}, make([]float32, 16)...))))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := grad.Parse(data)
		if err != nil {
			checkRefused(t, err)
			return
		}
		layers := m.Layers()
		for _, layer := range layers[:min(16, len(layers))] {
			g := grad.NewGraph()
			inputs := map[string]*grad.Value{}
			for _, name := range m.Inputs() {
				inputs[name] = g.Input("in "+name, 2, 3, 4, 4)
			}
			im, err := g.Import(m, inputs, []string{layer}, grad.ImportOptions{
				AveragePools: len(data)%2 == 0, Training: len(data)%3 == 0,
				Variable: func(name string, _ []int64) bool { return len(name)%2 == 0 },
			})
			if err != nil {
				checkRefused(t, err)
				continue
			}
			y := im.Layers[layer]
			loss := g.Total(y)
			d, err := g.Gradient(loss, g.Inputs(y)...)
			if err != nil {
				checkRefused(t, err)
				continue
			}
			if _, err := g.Marshal(append(d, loss)...); err != nil {
				t.Errorf("a graph that was built is not written: %v", err)
			}
		}
	})
}

// Whatever a window's numbers are, it is refused or has the gradient that
// central differences say.
func FuzzConv(f *testing.F) {
	b := orttest.Runtime(f)
	f.Add(uint64(1), []byte{0, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 3, 2, 1, 0, 1, 1, 3})
	f.Add(uint64(2), []byte{1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 2, 2, 0, 1, 0, 1, 2, 1})
	f.Add(uint64(3), []byte{2, 2, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 2, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2})
	f.Add(uint64(4), []byte{3, 1, 0, 0, 0, 0, 2, 1, 0, 1, 1, 4, 1, 0, 0, 1, 1, 4, 0, 1})
	f.Fuzz(func(t *testing.T, seed uint64, numbers []byte) {
		next := func(n int64) int64 {
			if len(numbers) == 0 {
				return 0
			}
			v := int64(numbers[0]) % n
			numbers = numbers[1:]
			return v
		}
		s := newTensors(seed)
		op := []string{"Conv", "ConvTranspose", "MaxPool", "AveragePool"}[next(4)]
		rank := int(1 + next(3))
		group, perGroup, out := 1+next(3), 1+next(2), 1+next(2)
		in := []int64{1 + next(2), group * perGroup}
		var kernel, strides, dilations, before, after, rest []int64
		for range rank {
			kernel, strides, dilations = append(kernel, 1+next(4)), append(strides, 1+next(3)), append(dilations, 1+next(3))
			before, after, rest = append(before, next(5)), append(after, next(5)), append(rest, next(3))
			in = append(in, 1+next(6))
		}
		attrs := map[string]any{"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": append(before, after...)}
		inputs := []*grad.Value{s.in(in...)}
		shape := append([]int64{group * out, perGroup}, kernel...)
		switch op {
		case "AveragePool":
			attrs["count_include_pad"] = next(2)
			delete(attrs, "dilations")
		case "ConvTranspose":
			shape[0], shape[1] = group*perGroup, out
			attrs["output_padding"] = rest
			fallthrough
		case "Conv":
			attrs["group"] = group
			inputs = append(inputs, s.in(shape...))
			if next(2) > 0 {
				inputs = append(inputs, s.in(group*out))
			}
		}
		y := s.Apply(op, attrs, inputs...)
		if s.Err() != nil {
			checkRefused(t, s.Err())
			return
		}
		w, err := checkOperator(t, b, s, y)
		if err != nil {
			t.Fatalf("%s: %v (%v)", s.Describe(), err, face.KindOf(err))
		}
		if w.gradient > 1e-3 || w.formula > 1e-6 || w.forward > 1e-5 || math.IsNaN(w.forward) {
			t.Errorf("%s: %v", s.Describe(), w)
		}
	})
}
