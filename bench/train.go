package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
	"github.com/likeness-id/likeness/pkg/siamese"
)

// trainFlags say what of training is measured.
type trainFlags struct {
	TrainNets   []string      `default:"plain,mobile" enum:"plain,mobile" help:"train: encoders to teach."`
	TrainBatch  int           `default:"36" help:"train: photos in a batch, three or more."`
	TrainRounds int           `default:"11" help:"train: evaluations of each side, taking turns; the median counts."`
	TrainBudget time.Duration `default:"2m" help:"train: after this time, no more rounds of a network, but at least three."`
	TrainCase   string        `hidden:"" help:"train: measure one network and print it as JSON."`
}

//go:embed train_torch.py
var trainTorch []byte

// trainResult is what one network found.
type trainResult struct {
	Weights, Rounds          int
	Ours, NCHW, ChannelsLast float64 // seconds of an evaluation, the median
	OursPeak, TorchPeak      float64 // bytes of resident memory at most
	LossError, GradientError float64 // relative, and relative L2
	Version, NoTorch         string
}

const (
	trainImage, trainEmbedding = "image", "embedding"
	trainSide, trainDimension  = 112, 128
	trainMargin                = 0.4
)

// train measures forward, triplet loss and the gradients of all weights, as a
// step of pkg/siamese has them.
func (b *bench) train(ctx context.Context) error {
	if b.TrainCase != "" {
		r, err := b.trainNet(ctx, b.TrainCase)
		if err != nil {
			return err
		}
		return json.NewEncoder(b.out).Encode(r)
	}
	b.printf("## Training, %d threads, %dx%d\n\n`go run ./bench %s`\n\n", b.threads(), trainSide, trainSide, strings.Join(os.Args[1:], " "))
	b.printf("| network | weights | batch | ms ours | ms torch nchw | ms torch channels last | images/s ours | torch nchw | torch channels last | ours / faster torch | loss differs by | gradient by | peak RSS MiB | torch's |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	var notes []string
	for _, net := range b.TrainNets {
		fmt.Fprintf(os.Stderr, "bench: train: %s\n", net)
		r := &trainResult{}
		if err := runChild(ctx, r, "--only=train", "--train-case="+net); err != nil {
			return fmt.Errorf("%s: %w", net, err)
		}
		batch := float64(b.TrainBatch)
		if r.NoTorch != "" {
			b.printf("| %s | %d | %d | %.1f | - | - | %.1f | - | - | - | - | - | %.0f | - |\n",
				net, r.Weights, b.TrainBatch, 1000*r.Ours, batch/r.Ours, r.OursPeak/(1<<20))
			notes = append(notes, fmt.Sprintf("- %s: %d rounds; no yardstick: %s.", net, r.Rounds, r.NoTorch))
			continue
		}
		b.printf("| %s | %d | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.1f | %.2f | %.1e | %.1e | %.0f | %.0f |\n",
			net, r.Weights, b.TrainBatch, 1000*r.Ours, 1000*r.NCHW, 1000*r.ChannelsLast, batch/r.Ours, batch/r.NCHW, batch/r.ChannelsLast,
			min(r.NCHW, r.ChannelsLast)/r.Ours, r.LossError, r.GradientError, r.OursPeak/(1<<20), r.TorchPeak/(1<<20))
		notes = append(notes, fmt.Sprintf("- %s: %d rounds, torch %s.", net, r.Rounds, r.Version))
	}
	b.printf("\n%s\n\n", strings.Join(notes, "\n"))
	return nil
}

// lesson is an evaluation ready to run, with what torch needs for the same.
type lesson struct {
	program grad.Program
	learnt  []string
	images  []float32
	picks   [3][]int // of each triplet
}

// lesson compiles what a step of learning computes.
func (b *bench) lesson(rt grad.Backend, data []byte) (*lesson, error) {
	m, err := grad.Parse(data)
	if err != nil {
		return nil, err
	}
	n := int64(b.TrainBatch)
	g := grad.NewGraph()
	image := g.Input(trainImage, n, 3, trainSide, trainSide)
	statistics := m.Statistics()
	im, err := g.Import(m, map[string]*grad.Value{trainImage: image}, []string{trainEmbedding}, grad.ImportOptions{
		Training: true, Variable: func(name string, _ []int64) bool { return !slices.Contains(statistics, name) },
	})
	if err != nil {
		return nil, err
	}
	e := g.Normalize(im.Layers[trainEmbedding], 1)
	var rows [3]*grad.Value
	for i := range rows {
		rows[i] = g.MatMul(g.Input(fmt.Sprintf("pick%d", i), n, n), e)
	}
	loss := siamese.TripletLoss(g, rows[0], rows[1], rows[2], g.Input("weights", n, 1), trainMargin)
	l := &lesson{}
	var learnt []*grad.Value
	for _, v := range g.Inputs(loss) {
		if im.Variables[v.Name()] == v {
			learnt = append(learnt, v)
			l.learnt = append(l.learnt, v.Name())
		}
	}
	gradients, err := g.Gradient(loss, learnt...)
	if err != nil {
		return nil, err
	}
	outputs := append([]*grad.Value{loss}, gradients...)
	if l.program, err = g.Compile(rt, outputs...); err != nil {
		return nil, err
	}
	// Three of each person, noise over a pattern of their own; each photo is an
	// anchor, with the next one of the same person and one of somebody else.
	rng := rand.New(rand.NewPCG(5, 6))
	size := 3 * trainSide * trainSide
	l.images = make([]float32, b.TrainBatch*size)
	for i := range l.images {
		k, at := i/size, i%size
		wave := math.Sin(float64(at%trainSide)*0.05*float64(1+k/3) + float64(at/trainSide)*0.03)
		l.images[i] = float32(max(0, min(255, 128+60*wave+30*rng.NormFloat64())))
	}
	for i := range b.TrainBatch {
		mate := i - i%3 + (i+1)%3
		for k, of := range []int{i, mate % b.TrainBatch, (i + 3) % b.TrainBatch} {
			l.picks[k] = append(l.picks[k], of)
		}
	}
	for i, v := range g.Inputs(outputs...) {
		in := l.program.Input(i)
		switch name := v.Name(); {
		case v == image:
			copy(in, l.images)
		case im.Initial[name] != nil:
			copy(in, im.Initial[name])
		case name == "weights":
			for k := range in {
				in[k] = 1 / float32(n)
			}
		default:
			for slot, of := range l.picks[name[len(name)-1]-'0'] {
				in[slot*b.TrainBatch+of] = 1
			}
		}
	}
	return l, nil
}

// trainNet runs an evaluation and torch's, in both layouts, in turns.
func (b *bench) trainNet(ctx context.Context, name string) (_ *trainResult, err error) {
	data, err := siamese.Untrained(name, trainDimension, 1, 1)
	if err != nil {
		return nil, err
	}
	rt, err := ort.Open(ort.Options{Threads: b.threads(), Spin: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	l, err := b.lesson(rt, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.program.Close()) }()
	for range 2 {
		if err := l.program.Run(ctx); err != nil {
			return nil, err
		}
	}
	r := &trainResult{}
	if r.OursPeak, err = peakRSS(); err != nil {
		return nil, err
	}
	torch, err := b.trainTorch(ctx, data, l)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, torch.stop()) }()
	r.NoTorch, r.Version = torch.missing, torch.version

	layouts := []string{"nchw", "channels_last"}
	var ours []float64
	theirs := make([][]float64, len(layouts))
	for start := time.Now(); len(ours) < b.TrainRounds && (len(ours) < 3 || time.Since(start) < b.TrainBudget); {
		begin := time.Now()
		if err := l.program.Run(ctx); err != nil {
			return nil, err
		}
		ours = append(ours, time.Since(begin).Seconds())
		if r.NoTorch != "" {
			continue
		}
		for i, layout := range layouts {
			said, err := torch.ask(layout)
			if err != nil {
				return nil, err
			}
			theirs[i] = append(theirs[i], said.Seconds)
			r.LossError = max(r.LossError, math.Abs(float64(l.program.Output(0)[0])/said.Losses[0]-1))
		}
	}
	var gradient []float32
	for i := range l.learnt {
		gradient = append(gradient, l.program.Output(1+i)...)
	}
	r.Rounds, r.Ours, r.Weights = len(ours), median(ours), len(gradient)
	if r.NoTorch == "" {
		r.NCHW, r.ChannelsLast = median(theirs[0]), median(theirs[1])
		if r.TorchPeak, r.GradientError, err = torch.gradient(gradient); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// trainNode is a node of the model as torch needs it.
type trainNode struct {
	Op      string   `json:"op"`
	In      []string `json:"in"`
	Out     string   `json:"out"`
	Stride  []int64  `json:"stride"`
	Pad     []int64  `json:"pad"`
	Group   int64    `json:"group"`
	Epsilon float32  `json:"epsilon"`
}

// trainTorch hands torch the nodes and weights of the very same model.
func (b *bench) trainTorch(ctx context.Context, data []byte, l *lesson) (*torchProcess, error) {
	var model onnxpb.Model
	if err := proto.Unmarshal(data, &model); err != nil {
		return nil, err
	}
	var n numbers
	var nodes []trainNode
	for _, p := range model.Graph.Node {
		node := trainNode{Op: p.OpType, In: p.Input, Out: p.Output[0], Stride: []int64{1, 1}, Pad: []int64{0, 0}, Group: 1, Epsilon: 1e-5}
		for _, a := range p.Attribute {
			switch a.Name {
			case "strides":
				node.Stride = a.Ints
			case "pads":
				node.Pad = a.Ints[:2] // before and after are the same here
			case "group":
				node.Group = a.GetI()
			case "epsilon":
				node.Epsilon = a.GetF()
			}
		}
		nodes = append(nodes, node)
	}
	weights := map[string]numbersAt{}
	for _, t := range model.Graph.Initializer {
		if t.DataType == onnxpb.Tensor_FLOAT {
			weights[t.Name] = n.raw(t.RawData, t.Dims...)
		} else { // the shape of a Reshape: torch's flattens
			weights[t.Name] = n.put([]float32{0}, 1)
		}
	}
	size := int64(b.TrainBatch)
	task := map[string]any{
		"nodes": nodes, "weights": weights, "learnt": l.learnt, "image": trainImage, "embedding": trainEmbedding,
		"images":  n.put(l.images, size, 3, trainSide, trainSide),
		"anchors": l.picks[0], "positives": l.picks[1], "negatives": l.picks[2],
		"margin": trainMargin, "threads": b.threads(),
	}
	t, err := b.torch(ctx, trainTorch, n, task)
	if err != nil || t.missing != "" {
		return t, err
	}
	return t, t.warm("nchw", "channels_last")
}
