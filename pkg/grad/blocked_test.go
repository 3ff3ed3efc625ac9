package grad_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/grad"
)

// unblocked is a backend that does not say where it computes.
type unblocked struct{ grad.Backend }

// blockless are the cases in which no convolution is of whole blocks.
func blockless() []string {
	return []string{"one dimension", "in groups", "not in blocks"}
}

// watched says whether the last model was written for blocks.
type watched struct {
	*ort.Runtime
	blocks bool
}

func (w *watched) Compile(model []byte, inputs, outputs []grad.Port) (grad.Program, error) {
	w.blocks = bytes.Contains(model, []byte("com.microsoft.nchwc"))
	return w.Runtime.Compile(model, inputs, outputs)
}

// Channels in whole blocks are computed otherwise: what is learnt is held
// against the interpreter, and against the same graph without blocks.
func TestBlocked(t *testing.T) {
	t.Parallel()
	b := orttest.Runtime(t)
	same, strided := grad.Window{Pads: []int64{1, 1, 1, 1}}, grad.Window{Pads: []int64{1, 1, 1, 1}, Strides: []int64{2, 2}}
	norm := func(s *tensors, x *grad.Value) *grad.Value {
		y, _, _ := s.BatchNormTraining(x, s.in(x.Dim(1)), s.in(x.Dim(1)), 1e-3)
		return y
	}
	depthwise := func(s *tensors, x *grad.Value, w grad.Window, kernel ...int64) *grad.Value {
		w.Group = x.Dim(1)
		return s.Conv(x, s.in(append([]int64{x.Dim(1), 1}, kernel...)...), nil, w)
	}
	for name, build := range map[string]func(s *tensors) *grad.Value{
		"depthwise": func(s *tensors) *grad.Value { return depthwise(s, s.in(2, 32, 5, 6), same, 3, 3) },
		"depthwise, strides": func(s *tensors) *grad.Value {
			return depthwise(s, s.in(2, 16, 6, 8), strided, 3, 3)
		},
		"depthwise, odd strides": func(s *tensors) *grad.Value {
			return depthwise(s, s.in(1, 16, 7, 9), grad.Window{Strides: []int64{2, 3}, Pads: []int64{0, 1, 1, 2}}, 4, 3)
		},
		"depthwise, dilated": func(s *tensors) *grad.Value {
			return depthwise(s, s.in(2, 16, 6, 7), grad.Window{Dilations: []int64{2, 1}, Pads: []int64{2, 1, 2, 1}}, 3, 3)
		},
		"depthwise, one number": func(s *tensors) *grad.Value { return depthwise(s, s.in(2, 16, 4, 3), grad.Window{}, 1, 1) },
		"depthwise, whole":      func(s *tensors) *grad.Value { return depthwise(s, s.in(2, 16, 4, 3), grad.Window{}, 4, 3) },
		"dense":                 func(s *tensors) *grad.Value { return s.Conv(s.in(2, 16, 5, 6), s.in(32, 16, 3, 3), nil, same) },
		"dense, strides": func(s *tensors) *grad.Value {
			return s.Conv(s.Relu(s.Conv(s.in(1, 16, 8, 6), s.in(16, 16, 1, 1), nil, grad.Window{})), s.in(32, 16, 3, 3), nil, strided)
		},
		"dense, large strides": func(s *tensors) *grad.Value {
			return s.Conv(s.in(1, 16, 8, 9), s.in(16, 16, 2, 2), nil, grad.Window{Strides: []int64{4, 3}})
		},
		"dense, dilated": func(s *tensors) *grad.Value {
			return s.Conv(s.in(2, 16, 6, 7), s.in(16, 16, 3, 3), nil, grad.Window{Dilations: []int64{2, 1}, Pads: []int64{2, 1, 2, 1}})
		},
		"dense, dilated along rows": func(s *tensors) *grad.Value {
			return s.Conv(s.in(2, 16, 6, 7), s.in(16, 16, 3, 3), nil, grad.Window{Dilations: []int64{1, 2}, Pads: []int64{1, 2, 1, 2}})
		},
		"of three colours": func(s *tensors) *grad.Value { return s.Conv(s.in(2, 3, 6, 6), s.in(16, 3, 3, 3), nil, strided) },
		"of one colour":    func(s *tensors) *grad.Value { return s.Conv(s.in(2, 1, 4, 6), s.in(16, 1, 3, 2), nil, grad.Window{}) },
		"a bias":           func(s *tensors) *grad.Value { return s.Conv(s.in(1, 16, 4, 4), s.in(16, 16, 3, 3), s.in(16), same) },
		"in groups": func(s *tensors) *grad.Value {
			return s.Conv(s.in(1, 32, 4, 4), s.in(32, 16, 3, 3), nil, grad.Window{Group: 2})
		},
		"not in blocks": func(s *tensors) *grad.Value {
			return depthwise(s, s.Conv(s.in(1, 16, 4, 4), s.in(20, 16, 1, 1), nil, grad.Window{}), same, 3, 3)
		},
		"one dimension": func(s *tensors) *grad.Value { return s.Conv(s.in(2, 16, 9), s.in(16, 16, 3), nil, grad.Window{}) },
		"normalised": func(s *tensors) *grad.Value {
			return s.Relu(norm(s, s.Conv(s.in(3, 16, 4, 4), s.in(16, 16, 1, 1), nil, grad.Window{})))
		},
		"a leaking rectifier": func(s *tensors) *grad.Value {
			y := s.LeakyRelu(norm(s, s.Conv(s.in(3, 16, 4, 4), s.in(16, 16, 1, 1), nil, grad.Window{})), -0.5)
			return s.LeakyRelu(s.Conv(y, s.in(16, 16, 3, 3), nil, same), 3)
		},
		"normalised, fixed": func(s *tensors) *grad.Value {
			y := s.Conv(s.in(2, 16, 4, 4), s.in(16, 16, 3, 3), nil, same)
			return s.BatchNorm(y, s.in(16), s.in(16), s.Constant(slices.Repeat([]float32{0.1}, 16), 16), s.Constant(slices.Repeat([]float32{2}, 16), 16), 0)
		},
		"transposed": func(s *tensors) *grad.Value {
			return s.ConvTranspose(s.in(1, 32, 3, 4), s.in(32, 16, 3, 4), nil, grad.Window{Strides: []int64{2, 2}, Pads: []int64{1, 1, 0, 1}})
		},
		"cut and padded": func(s *tensors) *grad.Value {
			y := s.Conv(s.in(1, 16, 5, 5), s.in(16, 16, 1, 1), nil, grad.Window{})
			return s.Apply("Slice", nil, s.Pad(y, "constant", 0, 0, 1, 1, 0, 0, 1, 2), s.Integers(0, 1), s.Integers(7, 8), s.Integers(2, 3), s.Integers(2, 3))
		},
		"sums and scales": func(s *tensors) *grad.Value {
			y := s.Conv(s.in(2, 16, 4, 3), s.in(16, 16, 3, 3), nil, same)
			z := s.Mul(s.Sub(y, s.ReduceMean(y, 0, 2, 3)), s.in(1, 16, 1, 1))
			return s.Add(s.Mul(z, s.ReduceSum(s.Mul(y, z), 0, 2, 3)), s.Add(y, s.in(16, 1, 1)))
		},
		"an inverted residual": func(s *tensors) *grad.Value {
			x := s.Conv(s.in(2, 3, 8, 8), s.in(16, 3, 3, 3), nil, strided)
			y := s.Relu(norm(s, s.Conv(x, s.in(32, 16, 1, 1), nil, grad.Window{})))
			y = s.Relu(norm(s, depthwise(s, y, same, 3, 3)))
			return s.Add(x, norm(s, s.Conv(y, s.in(16, 32, 1, 1), nil, grad.Window{})))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blocks := false // not where all weights happen to be constants
			for seed := range uint64(6) {
				s := newTensors(seed)
				loss := s.weighed(build(s))
				gradients, err := s.Gradient(loss, s.with...)
				if err != nil {
					t.Fatal(err)
				}
				outputs := append([]*grad.Value{loss}, gradients...)
				backend := &watched{Runtime: b}
				got, err := compute(t, backend, s, outputs...)
				if err != nil {
					t.Fatal(err)
				}
				blocks = blocks || backend.blocks
				without, err := compute(t, unblocked{b}, s, outputs...)
				if err != nil {
					t.Fatal(err)
				}
				feed := map[*grad.Value][]float64{}
				for v, data := range s.data {
					feed[v] = toFloat64(data)
				}
				want := s.Interpret(feed, outputs...)
				for i := range outputs {
					if e := relativeError(got[i], want[i]); e > 1e-4 {
						t.Errorf("seed %d, output %d %v: off by %.1e, without blocks by %.1e", seed, i, outputs[i].Shape(), e, relativeError(without[i], want[i]))
					}
				}
			}
			if blocks == slices.Contains(blockless(), name) {
				t.Errorf("in blocks: %t", blocks)
			}
		})
	}
}
