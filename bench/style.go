package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/style"
)

// styleFlags say what of style transfer is measured.
type styleFlags struct {
	StyleSizes      []int         `default:"256,512,1024" help:"style: sides of the square pictures."`
	StyleNets       []string      `default:"builtin,squeezenet,vgg19" enum:"builtin,squeezenet,vgg19" help:"style: feature networks; VGG-19 is its shape with random weights."`
	StyleRounds     int           `default:"11" help:"style: evaluations of each side, taking turns; the median counts."`
	StyleBudget     time.Duration `default:"3m" help:"style: after this time, no more rounds of a case, but at least three."`
	StyleIterations int           `default:"15" help:"style: steps of the optimiser at the full size."`
	StyleCase       string        `hidden:"" help:"style: measure one case and print it as JSON."`
}

//go:embed style_torch.py
var styleTorch []byte

// styleResult is what one case found; each of its two processes fills in its part.
type styleResult struct {
	Net    string
	Rounds int     `json:",omitzero"`
	FLOP   float64 `json:",omitzero"` // of one evaluation: convolutions and Grams, forward and backward

	Ours, Torch         float64 `json:",omitzero"` // seconds of an evaluation, the median
	Peak                float64 `json:",omitzero"` // FLOP a second of a product of matrices on the same runtime, the best
	OursPeak, TorchPeak float64 `json:",omitzero"` // bytes of resident memory at most
	LossError           float64 `json:",omitzero"` // the worst part, relative
	GradientError       float64 `json:",omitzero"` // relative L2
	Version             string  `json:",omitzero"` // of torch and its BLAS
	NoTorch             string  `json:",omitzero"` // why there is no yardstick

	Iteration     float64 `json:",omitzero"` // seconds of an optimiser's step, with all that belongs to it
	IterationPeak float64 `json:",omitzero"`
}

// style measures loss, gradient and the optimiser's step of style transfer.
// Each case runs in a process of its own, so that the process's peak of memory
// is that of the case.
func (b *bench) style(ctx context.Context) error {
	if b.StyleCase != "" {
		return b.styleCase(ctx)
	}
	b.printf("## Style transfer, %d threads\n\n`go run ./bench %s`\n\n", b.threads(), strings.Join(os.Args[1:], " "))
	b.printf("| network | size | s per iteration | peak RSS MiB | GFLOP | s per evaluation | of the GEMM peak | torch s | ours / torch | torch peak MiB | losses differ by | gradient by |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	var notes []string
	for _, size := range b.StyleSizes {
		for _, net := range b.StyleNets {
			r, err := b.styleChild(ctx, net, size)
			if err != nil {
				return fmt.Errorf("%s at %d: %w", net, size, err)
			}
			b.printf("| %s | %d | %.3f | %.0f | %.1f | %.4f | %.2f |", r.Net, size,
				r.Iteration, r.IterationPeak/(1<<20), r.FLOP/1e9, r.Ours, r.FLOP/r.Ours/r.Peak)
			if r.NoTorch == "" {
				b.printf(" %.4f | %.2f | %.0f | %.1e | %.1e |\n", r.Torch, r.Ours/r.Torch, r.TorchPeak/(1<<20), r.LossError, r.GradientError)
				notes = append(notes, fmt.Sprintf("- %s at %d: %d rounds, GEMM peak %.0f GFLOP/s, one evaluation without optimiser peaks at %.0f MiB, torch %s.",
					r.Net, size, r.Rounds, r.Peak/1e9, r.OursPeak/(1<<20), r.Version))
			} else {
				b.printf(" - | - | - | - | - |\n")
				notes = append(notes, fmt.Sprintf("- %s at %d: %d rounds, GEMM peak %.0f GFLOP/s; no yardstick: %s.", r.Net, size, r.Rounds, r.Peak/1e9, r.NoTorch))
			}
		}
	}
	b.printf("\n%s\n\n", strings.Join(notes, "\n"))
	return nil
}

// styleChild measures one case, twice: the optimiser as users have it, and
// single evaluations against torch.
func (b *bench) styleChild(ctx context.Context, net string, size int) (*styleResult, error) {
	r := &styleResult{}
	for _, what := range []string{"iterate", "compare"} {
		fmt.Fprintf(os.Stderr, "bench: style: %s %s at %d\n", what, net, size)
		if err := runChild(ctx, r, "--only=style", fmt.Sprintf("--style-case=%s,%s,%d", what, net, size)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// styleCase measures one case and prints it.
func (b *bench) styleCase(ctx context.Context) (err error) {
	what, rest, _ := strings.Cut(b.StyleCase, ",")
	name, text, _ := strings.Cut(rest, ",")
	size, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	var net *stylenet
	switch name {
	case "builtin":
		net, err = builtinFeatures(b.ModelsDir)
	case "squeezenet":
		net, err = squeezeNet(b.ModelsDir)
	default:
		net = vgg19()
	}
	if err != nil {
		return err
	}
	rt, err := ort.Open(ort.Options{Threads: b.threads()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	var found any
	if what == "iterate" {
		found, err = b.iterate(ctx, rt, net, size)
	} else {
		found, err = b.compare(ctx, rt, net, size)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(b.out).Encode(found)
}

// pictures are a content, a style and a picture under way, [3,size,size] about
// zero: waves, and finer waves with noise.
func pictures(size int) (content, style, picture []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	n := 3 * size * size
	content, style, picture = make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range n {
		c, y, x := i/(size*size), i/size%size, i%size
		u, v := float64(x)/float64(size), float64(y)/float64(size)
		content[i] = float32(90 * math.Sin(7*u+float64(c)) * math.Cos(5*v-float64(c)))
		style[i] = float32(60*math.Sin(60*(u*u+v)+float64(c)) + 25*rng.NormFloat64())
		picture[i] = content[i] + float32(12*rng.NormFloat64())
	}
	return content, style, picture
}

// styleLoss is one term of the loss as both sides compute it.
type styleLoss struct {
	Kind   string  `json:"kind"` // content or style
	Layer  string  `json:"layer"`
	Weight float64 `json:"weight"`
	Scale  float64 `json:"scale"` // of the difference of Grams, before it is squared
}

// evaluation is losses and gradient of a picture, ready to run.
type evaluation struct {
	program grad.Program
	losses  []styleLoss
	tv      float64
	flop    float64
}

// evaluate makes the program: a pass over content and style for the targets of
// G, and then the losses with their gradient.
func evaluate(ctx context.Context, rt grad.Backend, net *stylenet, size int, content, style []float32) (_ *evaluation, err error) {
	e := &evaluation{tv: net.tvWeight / float64(3*size*size)}
	side := int64(size)

	g := grad.NewGraph()
	values, _ := net.build(g, g.Input(styleImage, 1, 3, side, side))
	wanted := []*grad.Value{values[net.content]}
	for _, l := range net.style {
		wanted = append(wanted, g.Gram(values[l.layer]))
	}
	first, err := g.Compile(rt, wanted...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	targets := make([][]float32, len(wanted))
	copy(first.Input(0), content)
	if err := first.Run(ctx); err != nil {
		return nil, err
	}
	targets[0] = copyOf(first.Output(0))
	e.losses = append(e.losses, styleLoss{"content", net.content, net.contentWeight / (0.5 * energy(targets[0], 1)), 1})
	copy(first.Input(0), style)
	if err := first.Run(ctx); err != nil {
		return nil, err
	}
	for i, l := range net.style {
		targets[i+1] = copyOf(first.Output(i + 1))
		a := values[l.layer]
		scale := 1 / (2 * float64(a.Len())) // 2 nC nH nW
		e.losses = append(e.losses, styleLoss{"style", l.layer, l.weight / energy(targets[i+1], scale), scale})
	}

	g = grad.NewGraph()
	image := g.Input(styleImage, 1, 3, side, side)
	values, conv := net.build(g, image)
	e.flop = 2 * conv // each convolution has one that leads back
	var inputs []*grad.Value
	parts := map[string]*grad.Value{}
	for i, l := range e.losses {
		a := values[l.Layer]
		if l.Kind == "style" {
			e.flop += 4 * float64(a.Dim(1)) * float64(a.Len()) // there and back
			a = g.Gram(a)
		}
		in := g.Input(fmt.Sprintf("target%d", i), a.Shape()...)
		inputs = append(inputs, in)
		part := g.Sub(a, in)
		if l.Kind == "content" {
			part = g.Scale(g.SumSquares(part), 0.5*l.Weight)
		} else {
			part = g.Scale(g.SumSquares(g.Scale(part, l.Scale)), l.Weight)
		}
		if parts[l.Kind] != nil {
			part = g.Add(parts[l.Kind], part)
		}
		parts[l.Kind] = part
	}
	across := g.Sub(g.Slice(image, 3, 1, side), g.Slice(image, 3, 0, side-1))
	down := g.Sub(g.Slice(image, 2, 1, side), g.Slice(image, 2, 0, side-1))
	tv := g.Scale(g.Add(g.SumSquares(across), g.SumSquares(down)), e.tv)
	total := g.Add(g.Add(parts["content"], parts["style"]), tv)
	gradient, err := g.Gradient(total, image)
	if err != nil {
		return nil, err
	}
	e.program, err = g.Compile(rt, g.Concat(0, total, parts["content"], parts["style"], tv), gradient[0])
	if err != nil {
		return nil, err
	}
	for i := range inputs {
		copy(e.program.Input(i+1), targets[i])
	}
	return e, nil
}

// copyOf is a copy: an output is valid until the next run only.
func copyOf(x []float32) []float32 { return slices.Clone(x) }

// energy is the sum of the squares of x times scale.
func energy(x []float32, scale float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += float64(v) * scale * float64(v) * scale
	}
	return sum
}

// gemmSide is the side of the matrices whose product is the measured peak.
const gemmSide = 2048

// compare runs an evaluation, torch's and a product of matrices in turns.
func (b *bench) compare(ctx context.Context, rt *ort.Runtime, net *stylenet, size int) (_ *styleResult, err error) {
	content, style, picture := pictures(size)
	e, err := evaluate(ctx, rt, net, size, content, style)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, e.program.Close()) }()
	copy(e.program.Input(0), picture)
	run := func(p grad.Program) (float64, error) {
		start := time.Now()
		err := p.Run(ctx)
		return time.Since(start).Seconds(), err
	}
	for range 2 {
		if _, err := run(e.program); err != nil {
			return nil, err
		}
	}
	r := &styleResult{Net: net.name, FLOP: e.flop}
	if r.OursPeak, err = peakRSS(); err != nil {
		return nil, err
	}

	g := grad.NewGraph()
	gemm, err := g.Compile(rt, g.MatMul(g.Input("a", gemmSide, gemmSide), g.Input("b", gemmSide, gemmSide)))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, gemm.Close()) }()
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range 2 {
		for j := range gemm.Input(i) {
			gemm.Input(i)[j] = rng.Float32() - 0.5
		}
	}
	torch, err := b.startTorch(ctx, net, e, size, content, style, picture)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, torch.stop()) }()
	r.NoTorch, r.Version = torch.missing, torch.version

	var ours, theirs, product []float64
	for start := time.Now(); len(ours) < b.StyleRounds && (len(ours) < 3 || time.Since(start) < b.StyleBudget); {
		s, err := run(e.program)
		if err != nil {
			return nil, err
		}
		ours = append(ours, s)
		if s, err = run(gemm); err != nil {
			return nil, err
		}
		product = append(product, s)
		if r.NoTorch != "" {
			continue
		}
		said, err := torch.ask("evaluate")
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, said.Seconds)
		for i, l := range e.program.Output(0) {
			r.LossError = max(r.LossError, math.Abs(float64(l)-said.Losses[i])/math.Abs(said.Losses[i]))
		}
	}
	r.Rounds, r.Ours, r.Peak = len(ours), median(ours), 2*gemmSide*gemmSide*gemmSide/slices.Min(product)
	if r.NoTorch == "" {
		r.Torch = median(theirs)
		if r.TorchPeak, r.GradientError, err = torch.gradient(e.program.Output(1)); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// startTorch hands a Python the same network, weights, pictures and factors.
func (b *bench) startTorch(ctx context.Context, net *stylenet, e *evaluation, size int, content, style, picture []float32) (*torchProcess, error) {
	var n numbers
	side := int64(size)
	ops := slices.Clone(net.ops)
	for i := range ops {
		if op := &ops[i]; op.Kind == "conv" {
			op.Weights, op.Bias = n.put(op.weights, op.shape...), n.put(op.bias, op.shape[0])
		}
	}
	task := map[string]any{
		"ops": ops, "losses": e.losses, "tv": e.tv, "threads": b.threads(),
		"content": n.put(content, 1, 3, side, side), "style": n.put(style, 1, 3, side, side), "picture": n.put(picture, 1, 3, side, side),
	}
	t, err := b.torch(ctx, styleTorch, n, task)
	if err != nil || t.missing != "" {
		return t, err
	}
	return t, t.warm("evaluate")
}

// iterate times the product: an [style.Engine] making a picture, from one
// report to the next at the full size.
func (b *bench) iterate(ctx context.Context, rt *ort.Runtime, net *stylenet, size int) (_ *styleResult, err error) {
	network, err := net.network()
	if err != nil {
		return nil, err
	}
	engine, err := style.New(style.Options{Backend: rt, Networks: []style.Network{network}})
	if err != nil {
		return nil, err
	}
	content, styled, _ := pictures(size)
	p := style.DefaultParams()
	// At least a tenth of the steps are at the full size. The coarse scales
	// only lead there, and the observer ends the run.
	p.Features, p.Size, p.Iterations = network.ID, size, min(16*b.StyleIterations, style.MaxIterations)
	enough := errors.New("enough")
	var last time.Time
	var times []float64
	_, err = engine.Transfer(ctx, style.Task{Content: toRGBA(content, size), Styles: []*image.RGBA{toRGBA(styled, size)}, Params: p}, func(r style.Report) error {
		if r.Width != size {
			return nil
		}
		now := time.Now()
		if !last.IsZero() {
			times = append(times, now.Sub(last).Seconds())
		}
		last = now
		if len(times) >= b.StyleIterations {
			return enough
		}
		return nil
	})
	if err != nil && !errors.Is(err, enough) {
		return nil, err
	}
	if len(times) < 3 {
		return nil, fmt.Errorf("only %d iterations at the full size", len(times))
	}
	r := &styleResult{Net: net.name, Iteration: median(times)}
	r.IterationPeak, err = peakRSS()
	return r, err
}

// toRGBA is a picture of what pictures made.
func toRGBA(x []float32, size int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, size, size))
	for i := range size * size {
		for c := range 3 {
			img.Pix[4*i+c] = uint8(max(0, min(255, x[c*size*size+i]+128)))
		}
		img.Pix[4*i+3] = 255
	}
	return img
}
