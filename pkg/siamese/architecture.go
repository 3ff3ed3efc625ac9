package siamese

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// Architectures are the encoders that can be taught from scratch.
func Architectures() []string { return []string{"plain", "mobile", "residual", "inverted"} }

// Untrained makes an encoder with random weights (He et al., arXiv 1502.01852)
// as an ONNX model: the input "image" [1,3,112,112] in 0..255 of either order
// of colours, the output "embedding" [1,dimension], not normalised.
//
// "plain" are 3x3 convolutions that halve the picture four times, 1.5 M weights
// at width 1. "mobile" are inverted residuals with depthwise convolutions
// (Sandler et al., arXiv 1801.04381), 0.9 M. "residual" are bottlenecks with
// 3x3 convolutions at half the width (He et al., arXiv 1512.03385), 1.3 M: the
// best for its speed in ONNX Runtime, and the architecture of the built-in
// encoder. Width scales the channels, 0.25..4. Invalid: another name, or
// numbers out of range.
func Untrained(name string, dimension int, width float64, seed uint64) ([]byte, error) {
	const op = "siamese.Untrained"
	if dimension < 8 || dimension > 1024 || !(width >= 0.25 && width <= 4) {
		return nil, face.Errorf(face.Invalid, op, "dimension %d (8..1024), width %g (0.25..4)", dimension, width)
	}
	b := &builder{g: grad.NewGraph(), rng: rand.New(rand.NewPCG(seed, 1)), width: width, start: 1} //nolint:gosec // reproducible on purpose
	side := int64(Side(name))
	x := b.g.Input("image", 1, 3, side, side)
	// Numbers without an axis are constants, not learnt.
	x = b.g.Mul(b.g.Sub(x, b.g.Constant([]float32{127.5})), b.g.Constant([]float32{1 / 128.}))
	switch name {
	case "plain":
		for i, channels := range []int64{32, 64, 64, 128, 128, 192, 192, 256} {
			x = b.unit(x, channels, 3, int64(1+(i+1)%2), false)
		}
	case "mobile":
		x = b.unit(x, 32, 3, 2, false)
		for _, stage := range []struct{ channels, stride, repeat int64 }{{32, 2, 1}, {48, 2, 3}, {64, 2, 4}, {96, 1, 3}} {
			for i := range stage.repeat {
				stride := int64(1)
				if i == 0 {
					stride = stage.stride
				}
				x = b.inverted(x, stage.channels, stride)
			}
		}
		x = b.unit(x, 256, 1, 1, false)
	case "residual":
		x = b.unit(x, 32, 3, 2, false)
		for _, stage := range []struct{ channels, repeat int64 }{{64, 1}, {128, 4}, {256, 3}} {
			x = b.unit(x, stage.channels, 3, 2, false)
			for range stage.repeat {
				x = b.bottleneck(x, stage.channels)
			}
		}
	case "inverted":
		x = b.unit(x, 32, 3, 2, false)
		x = b.linear(x, 64, 3, 2, false)
		n := 0
		for _, stage := range []struct{ wide, channels, stride, repeat int64 }{
			{128, 64, 1, 2}, {256, 128, 2, 1}, {256, 128, 1, 6}, {512, 128, 2, 1}, {256, 128, 1, 2},
		} {
			for range stage.repeat {
				n++
				x = b.g.Name(b.widened(x, stage.wide, stage.channels, stage.stride, 0.25), fmt.Sprintf("block%d", n))
			}
		}
		x = b.unit(x, 512, 1, 1, false)
	default:
		return nil, face.Errorf(face.Invalid, op, "architecture %q is not one of %q", name, Architectures())
	}
	// A weighted mean over the places, with weights for each channel: a
	// depthwise convolution as large as the picture.
	x = b.unit(x, x.Dim(1), x.Dim(2), 1, true)
	x = b.g.Reshape(x, -1, x.Dim(1))
	w := b.random(1/math.Sqrt(float64(x.Dim(1))), int64(dimension), x.Dim(1))
	x = b.norm(b.g.Gemm(x, b.g.Weight("head", w, int64(dimension), x.Dim(1)), false, true, 1), "head")
	return b.g.Marshal(b.g.Name(x, "embedding"))
}

// Side is the width and the height of the input of an architecture, in pixels.
func Side(name string) int {
	if name == "inverted" {
		return 128
	}
	return 112
}

type builder struct {
	g     *grad.Graph
	rng   *rand.Rand
	width float64
	units int
	start float32 // of the scale of a normalisation
}

func (b *builder) random(deviation float64, shape ...int64) []float32 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(deviation * b.rng.NormFloat64())
	}
	return data
}

func repeated(x float32, n int64) []float32 {
	data := make([]float32, n)
	for i := range data {
		data[i] = x
	}
	return data
}

// norm is a BatchNormalization that does nothing yet.
func (b *builder) norm(x *grad.Value, name string) *grad.Value {
	c := x.Dim(1)
	weight := func(part string, start float32) *grad.Value {
		return b.g.Weight(name+"/"+part, repeated(start, c), c)
	}
	return b.g.BatchNorm(x, weight("scale", b.start), weight("bias", 0), weight("mean", 0), weight("variance", 1), 1e-5)
}

// unit is a convolution with a normalisation and a rectifier. If it is
// depthwise, each channel sees only itself.
func (b *builder) unit(x *grad.Value, channels, kernel, stride int64, depthwise bool) *grad.Value {
	return b.g.Relu(b.linear(x, channels, kernel, stride, depthwise))
}

func (b *builder) linear(x *grad.Value, channels, kernel, stride int64, depthwise bool) *grad.Value {
	name := fmt.Sprintf("unit%d", b.units)
	b.units++
	in := x.Dim(1)
	w := grad.Window{Strides: []int64{stride, stride}}
	if depthwise {
		channels, in, w.Group = x.Dim(1), 1, x.Dim(1)
	} else {
		channels = max(8, int64(float64(channels)*b.width/8+0.5)*8)
	}
	if kernel == 3 {
		w.Pads = []int64{1, 1, 1, 1}
	}
	data := b.random(math.Sqrt(2/float64(in*kernel*kernel)), channels, in, kernel, kernel)
	y := b.g.Conv(x, b.g.Weight(name+"/weight", data, channels, in, kernel, kernel), nil, w)
	return b.norm(y, name)
}

// inverted widens, convolves each channel, narrows, and adds its input.
func (b *builder) inverted(x *grad.Value, channels, stride int64) *grad.Value {
	return b.widened(x, int64(float64(x.Dim(1)*3)/b.width), channels, stride, 1)
}

// widened is inverted with a given width. Its last normalisation starts with a
// given scale: the smaller, the less a block does at first.
func (b *builder) widened(x *grad.Value, wide, channels, stride int64, start float32) *grad.Value {
	y := b.unit(x, wide, 1, 1, false)
	y = b.unit(y, 0, 3, stride, true)
	b.start = start
	y = b.linear(y, channels, 1, 1, false)
	b.start = 1
	if stride == 1 && y.Dim(1) == x.Dim(1) {
		return b.g.Add(x, y)
	}
	return y
}

// bottleneck narrows to half, convolves, widens, and adds its input.
func (b *builder) bottleneck(x *grad.Value, channels int64) *grad.Value {
	y := b.unit(x, channels/2, 1, 1, false)
	y = b.unit(y, channels/2, 3, 1, false)
	return b.g.Relu(b.g.Add(x, b.linear(y, channels, 1, 1, false)))
}
