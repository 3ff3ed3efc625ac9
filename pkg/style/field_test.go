package style_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/style"
)

// Signals and volumes come nearer to the style, in the content's sizes and
// units.
func TestTransferField(t *testing.T) {
	t.Parallel()
	beat := style.Field{Channels: 1, Size: []int{700}}
	for i := range 700 {
		beat.Data = append(beat.Data, float32(0.001*math.Exp(-math.Pow(float64(i%90-30)/4, 2))))
	}
	hum := style.Field{Channels: 1, Size: []int{500}}
	for i := range 500 {
		hum.Data = append(hum.Data, float32(0.0005+0.0005*math.Sin(float64(i)*0.8)))
	}
	ball := style.Field{Channels: 1, Size: []int{20, 24, 22}}
	for i := range 20 * 24 * 22 {
		z, y, x := float64(i/528-10), float64(i/22%24-12), float64(i%22-11)
		ball.Data = append(ball.Data, float32(-700+1000*math.Exp(-(x*x+y*y+z*z)/40)))
	}
	weave := style.Field{Channels: 1, Size: []int{16, 16, 16}}
	for i := range 4096 {
		weave.Data = append(weave.Data, float32(-400+400*math.Sin(float64(i%16))*math.Cos(float64(i/256))))
	}
	for _, tt := range []struct {
		name           string
		content, style style.Field
	}{{"signal", beat, hum}, {"volume", ball, weave}, {"picture", speckled(1, 2, 40, 48), speckled(2, 2, 64, 36)}} {
		for _, features := range []string{style.Learned, style.Random} {
			if tt.name == "picture" && features == style.Learned {
				continue // as any picture is
			}
			t.Run(tt.name+" "+features, func(t *testing.T) {
				t.Parallel()
				p := style.DefaultParams()
				p.Features, p.Iterations, p.ContentWeight = features, 25, 0.05
				var losses []style.Loss
				var widths []int
				e := engine(t)
				observe := func(r style.Report) error {
					losses, widths = append(losses, r.Loss), append(widths, r.Width)
					return nil
				}
				got, err := e.TransferField(t.Context(), tt.content, tt.style, p, observe)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.content.Size, got.Size); diff != "" || len(got.Data) != len(tt.content.Data) {
					t.Errorf("sizes (-want +got):\n%s", diff)
				}
				if len(losses) != p.Iterations {
					t.Errorf("%d reports", len(losses))
				}
				first := 0
				for i := range losses {
					if i > 0 && widths[i] != widths[i-1] {
						first = i
					}
				}
				if a, b := losses[first].Style, losses[len(losses)-1].Style; b > a {
					t.Errorf("L_style went from %g to %g", a, b)
				}
				lowest, highest := bounds(append(append([]float32{}, tt.content.Data...), tt.style.Data...))
				low, high := bounds(got.Data)
				if spread := highest - lowest; low < lowest-2*spread || high > highest+2*spread {
					t.Errorf("the result goes from %g to %g, what was given from %g to %g", low, high, lowest, highest)
				}
				again, err := e.TransferField(t.Context(), tt.content, tt.style, p, nil)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(got.Data, again.Data); diff != "" {
					t.Error("the same field twice is not the same")
				}
			})
		}
	}
}

func bounds(data []float32) (low, high float64) {
	low, high = math.Inf(1), math.Inf(-1)
	for _, v := range data {
		low, high = min(low, float64(v)), max(high, float64(v))
	}
	return low, high
}

func TestTransferFieldRefuses(t *testing.T) {
	t.Parallel()
	e := engine(t)
	good := speckled(1, 1, 40)
	nan := speckled(1, 1, 40)
	nan.Data[7] = float32(math.NaN())
	for says, tt := range map[string]struct {
		one, two style.Field
		change   func(*style.Params)
	}{
		"content: number 7":     {nan, good, nil},
		"content: 0 spatial":    {style.Field{Channels: 1, Data: []float32{1}}, good, nil},
		"content: 0 channels":   {style.Field{Size: []int{40}}, good, nil},
		"content: sizes":        {speckled(1, 1, 7), good, nil},
		"content: 40 numbers":   {style.Field{Channels: 1, Size: []int{50}, Data: good.Data}, good, nil},
		"style: 1 channels of":  {speckled(1, 1, 40, 40), good, nil},
		"style: 2 channels":     {good, speckled(1, 2, 40), nil},
		"params.features":       {good, good, func(p *style.Params) { p.Features = "squeezenet11" }},
		"params.content_weight": {good, good, func(p *style.Params) { p.ContentWeight = 0 }},
		"params.layers":         {good, good, func(p *style.Params) { p.Layers.Style = map[string]float64{"l9": 1} }},
		"content: sizes [65536": {style.Field{Channels: 1, Size: []int{1 << 16, 1 << 16, 1 << 16}}, good, nil},
	} {
		p := style.DefaultParams()
		p.Features, p.Iterations = style.Learned, 2
		if tt.change != nil {
			tt.change(&p)
		}
		_, err := e.TransferField(t.Context(), tt.one, tt.two, p, nil)
		if face.KindOf(err) != face.Invalid || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// The rule of the output volume: 32x32x32 of 16 channels under 32 filters of
// 3x3x3, without padding and with a stride of 1, give 30x30x30 of 32.
func TestOutputVolume(t *testing.T) {
	t.Parallel()
	g := grad.NewGraph()
	x := g.Input("x", 1, 16, 32, 32, 32)
	w := make([]float32, 32*16*27)
	for i := range w {
		w[i] = 1
	}
	y := g.Conv(x, g.Constant(w, 32, 16, 3, 3, 3), nil, grad.Window{})
	if diff := cmp.Diff([]int64{1, 32, 30, 30, 30}, y.Shape()); diff != "" {
		t.Errorf("shape (-want +got):\n%s", diff)
	}
	loss := g.Total(y)
	d, err := g.Gradient(loss, x)
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.Compile(orttest.Runtime(t), loss, d[0])
	if err != nil {
		t.Fatal(err)
	}
	in := p.Input(0)
	for i := range in {
		in[i] = 1
	}
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, want := p.Output(0)[0], float32(32*30*30*30*16*27); got != want {
		t.Errorf("the sum is %g, want %g", got, want)
	}
	// A number in the middle is seen by 27 places of each of the 32 filters,
	// one in a corner by a single one.
	if corner, inside := p.Output(1)[0], p.Output(1)[16*1024+16*32+16]; corner != 32 || inside != 32*27 {
		t.Errorf("the gradient is %g in a corner and %g inside", corner, inside)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
