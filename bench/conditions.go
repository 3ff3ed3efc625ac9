package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/conditions"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
)

type conditionsFlags struct {
	Encoders  []string `default:"builtin-encoder,mobileface-v2" help:"conditions: the encoders measured."`
	Subjects  int      `default:"400" help:"conditions: at most this many people, with two photos of each."`
	Condition string   `help:"conditions: only conditions whose names contain this."`
	Gate      bool     `default:"true" negatable:"" help:"conditions: leave out what the quality gate refuses, as the server does."`
}

// rows are the conditions of the report.
func rows() []conditions.Condition {
	type photo = conditions.Photo
	row := func(name string, change func(photo) photo) conditions.Condition {
		return conditions.Condition{Name: name, Change: func(_ *rand.Rand, p photo) photo { return change(p) }}
	}
	out := []conditions.Condition{
		row("clean", func(p photo) photo { return p }),
		row("JPEG quality 20", func(p photo) photo { return conditions.Squeeze(p, 20) }),
		row("eyes 16 px apart", func(p photo) photo { return conditions.Small(p, 16.5) }),
		row("blur, sigma 2 px", func(p photo) photo { return conditions.Blur(p, 2) }),
		row("light times 0.25", func(p photo) photo { return conditions.Light(p, 0.25) }),
		row("light times 1.8", func(p photo) photo { return conditions.Light(p, 1.8) }),
		row("grey", conditions.Grey),
		{Name: "noise of 12 of 255", Change: func(r *rand.Rand, p photo) photo { return conditions.Noise(r, p, 12) }},
	}
	for _, degrees := range []float64{15, 30, 45, 60, 90, 120, 135, 180, -90, -20} {
		out = append(out, row(fmt.Sprintf("turned by %g degrees", degrees), func(p photo) photo { return conditions.Turn(p, degrees) }))
	}
	return append(out,
		row("stretched 1.2 wide", func(p photo) photo { return conditions.Stretch(p, 1.2, 1) }),
		row("stretched 1.5 wide", func(p photo) photo { return conditions.Stretch(p, 1.5, 1) }),
		row("stretched 1.2 high", func(p photo) photo { return conditions.Stretch(p, 1, 1.2) }),
		row("stretched 1.5 high", func(p photo) photo { return conditions.Stretch(p, 1, 1.5) }),
		row("negative", conditions.Negative),
		row("grey negative", func(p photo) photo { return conditions.Negative(conditions.Grey(p)) }),
		conditions.Condition{Name: "sunglasses", Change: conditions.Sunglasses},
		conditions.Condition{Name: "mask", Change: conditions.Mask},
		conditions.Condition{Name: "covered in part", Change: conditions.Patch},
		row("cut to 0.7 of the face", func(p photo) photo { return conditions.Cut(p, 1.9, 0, 0) }),
		row("sketch", func(p photo) photo { return conditions.Sketch(p, 4) }),
		row("two levels of colour", func(p photo) photo { return conditions.Poster(p, 2) }),
	)
}

// pair is two photos of one person. The first is the reference, as it is; both
// are changed to be probes.
type pair struct {
	reference []byte
	photos    [2]conditions.Photo
}

// taken is the result of a photo: an embedding for each encoder, or none.
type taken []face.Embedding

// conditions counts, for each condition, how many photos pass the gate, how
// many of those match a clean reference, and how often strangers match. It uses
// people who were not in the training data of any built-in model.
func (b *bench) conditions(ctx context.Context) (err error) {
	p, err := b.open(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	points := make([]face.OperatingPoint, len(b.Encoders))
	for i, id := range b.Encoders {
		m, err := p.Registry.Model(id)
		if err != nil {
			return err
		}
		if points[i], err = match.NewPolicy(m.Calibration).Point("fmr_1e-4"); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
	}
	pairs, err := b.pairs(ctx, p)
	if err != nil {
		return err
	}
	references, err := b.embedAll(ctx, p, len(pairs), func(i int) []byte { return pairs[i].reference })
	if err != nil {
		return err
	}
	b.printf("## Conditions\n\n%d held-out people, two photos of each: the first as it is for reference, both changed as probes; found is the second beside the first. All but the first column count what passes the gate. ", len(pairs))
	b.printf("Strangers matched at `fmr_1e-4`, in units of 1e-4: a changed probe against everybody else's reference, and two changed probes of different people.\n\n| condition | passes the gate %% |")
	for _, id := range b.Encoders {
		b.printf(" %s: found %% | strangers | both changed |", id)
	}
	b.printf("\n|---|---|%s\n", string(bytes.Repeat([]byte("---|"), 3*len(b.Encoders))))
	for k, c := range rows() {
		if !strings.Contains(c.Name, b.Condition) {
			continue
		}
		probes, err := b.embedAll(ctx, p, 2*len(pairs), func(i int) []byte {
			return c.Change(rand.New(rand.NewPCG(uint64(k), uint64(i))), pairs[i/2].photos[1-i%2]).JPEG(95)
		})
		if err != nil {
			return err
		}
		b.printCondition(c.Name, points, references, probes)
	}
	b.printf("\n")
	return b.choices(ctx, p)
}

// choices uses unchanged photos of one person in the middle, with others beside
// them. It counts how many are refused, and how often a face is used that is
// not the one in the middle.
func (b *bench) choices(ctx context.Context, p *likeness.Pipeline) error {
	set, err := photos.Open(b.Images)
	if err != nil {
		return err
	}
	defer set.Close()
	var mu sync.Mutex
	counts := map[string]int{}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, name := range set.Names() {
		if !heldOut(path.Base(path.Dir(name))) {
			continue
		}
		group.Go(func() error {
			data, err := set.ReadFile(name)
			if err != nil {
				return err
			}
			all, _, err := p.Detect(ctx, data, 0)
			if err != nil {
				return err
			}
			outcomes := []string{"photos"}
			if len(all) > 1 {
				outcomes = append(outcomes, "with several faces")
			}
			samples, err := p.Embed(ctx, data, embed.PickOnly)
			switch {
			case errors.Is(err, face.NoFace), errors.Is(err, face.ManyFaces), errors.Is(err, face.LowQuality):
				outcomes = append(outcomes, face.KindOf(err).Code())
			case err != nil:
				return err
			default:
				if !middlemost(samples[0].Face, all) {
					outcomes = append(outcomes, "another face taken")
				}
				if len(samples[0].Face.Quality.Reasons) > 0 {
					outcomes = append(outcomes, face.LowQuality.Code())
				}
			}
			mu.Lock()
			defer mu.Unlock()
			for _, o := range outcomes {
				counts[o]++
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	b.printf("## Which face is meant\n\n%d photos of held-out people, who are in the middle; the detector finds several faces in %d. With `face=only`, the default: ", counts["photos"], counts["with several faces"])
	for i, o := range []string{"many_faces", "no_face", "low_quality", "another face taken"} {
		if i > 0 {
			b.printf(", ")
		}
		b.printf("%s %d (%.1f %%)", o, counts[o], 100*float64(counts[o])/float64(counts["photos"]))
	}
	b.printf(". Where there are other faces, `faces_found` says so.\n\n")
	return nil
}

// middlemost reports whether no other face is nearer to the middle of a photo
// of LFW, which has 250 x 250 pixels.
func middlemost(taken face.Face, all []face.Face) bool {
	off := func(f face.Face) float64 {
		return math.Hypot(float64(f.Box.X+f.Box.Width/2)-125, float64(f.Box.Y+f.Box.Height/2)-125)
	}
	return !slices.ContainsFunc(all, func(f face.Face) bool { return off(f) < off(taken)-1 })
}

// heldOut reports whether the person is in no training data of a built-in
// model.
func heldOut(person string) bool {
	h := fnv.New64a()
	h.Write([]byte(person))
	return h.Sum64()%1000 < 200
}

func (b *bench) printCondition(name string, points []face.OperatingPoint, references, probes []taken) {
	passed := 0
	for _, t := range probes {
		if t != nil {
			passed++
		}
	}
	b.printf("| %s | %.1f |", name, 100*float64(passed)/float64(len(probes)))
	for e, point := range points {
		var mated, found, strangers, matched, both, bothMatched float64
		for i, p := range probes {
			if p == nil {
				continue
			}
			for j, r := range references {
				if r == nil {
					continue
				}
				hit := 0.0
				if p[e].Cosine(r[e]) >= point.Threshold {
					hit = 1
				}
				switch {
				case i == 2*j:
					mated, found = mated+1, found+hit
				case i/2 != j:
					strangers, matched = strangers+1, matched+hit
				}
			}
			for j, o := range probes[:i] {
				if o == nil || i/2 == j/2 {
					continue
				}
				both++
				if p[e].Cosine(o[e]) >= point.Threshold {
					bothMatched++
				}
			}
		}
		b.printf(" %.1f | %.2f | %.2f |", 100*found/mated, 1e4*matched/strangers, 1e4*bothMatched/both)
	}
	b.printf("\n")
}

// pairs are two photos of each held-out person who has two in which a face is
// found.
func (b *bench) pairs(ctx context.Context, p *likeness.Pipeline) ([]pair, error) {
	set, err := photos.Open(b.Images)
	if err != nil {
		return nil, err
	}
	defer set.Close()
	of := map[string][]string{}
	var people []string
	for _, name := range set.Names() {
		person := path.Base(path.Dir(name))
		if !heldOut(person) {
			continue
		}
		if of[person] == nil {
			people = append(people, person)
		}
		of[person] = append(of[person], name)
	}
	var out []pair
	for _, person := range people {
		if len(of[person]) < 2 || len(out) == b.Subjects {
			continue
		}
		var q pair
		if q.reference, err = set.ReadFile(of[person][0]); err != nil {
			return nil, err
		}
		for i := range q.photos {
			if q.photos[i], err = photoOf(ctx, p, set, of[person][i]); err != nil {
				break
			}
		}
		switch {
		case errors.Is(err, face.NoFace):
		case err != nil:
			return nil, err
		default:
			out = append(out, q)
		}
	}
	return out, nil
}

// photoOf reads a photo with the landmarks of its largest face.
func photoOf(ctx context.Context, p *likeness.Pipeline, set photos.Set, name string) (conditions.Photo, error) {
	data, err := set.ReadFile(name)
	if err != nil {
		return conditions.Photo{}, err
	}
	samples, err := p.Embed(ctx, data, embed.PickLargest)
	if err != nil {
		return conditions.Photo{}, err
	}
	img, err := jpeg.Decode(bytes.NewReader(data))
	if err != nil {
		return conditions.Photo{}, err
	}
	out := conditions.Photo{Image: image.NewRGBA(img.Bounds()), Points: samples[0].Face.Landmarks.Points()}
	draw.Draw(out.Image, img.Bounds(), img, img.Bounds().Min, draw.Src)
	return out, nil
}

// embedAll embeds the largest faces of photos, as /verify does with face=largest.
func (b *bench) embedAll(ctx context.Context, p *likeness.Pipeline, n int, photo func(i int) []byte) ([]taken, error) {
	out := make([]taken, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i := range out {
		group.Go(func() error {
			samples, err := p.EmbedWith(ctx, photo(i), embed.PickLargest, embed.Want{Encoders: b.Encoders})
			switch {
			case errors.Is(err, face.NoFace), errors.Is(err, face.ManyFaces), errors.Is(err, face.LowQuality):
			case err != nil:
				return err
			case !b.Gate || len(samples[0].Face.Quality.Reasons) == 0:
				out[i] = samples[0].Embeddings
			}
			return nil
		})
	}
	return out, group.Wait()
}
