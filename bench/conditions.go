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
	"runtime"
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
	"github.com/likeness-id/likeness/pkg/measure"
)

type conditionsFlags struct {
	Encoders       []string `default:"builtin-encoder,mobileface-v2" help:"conditions: the encoders measured."`
	Subjects       int      `default:"400" help:"conditions: at most this many people, with two photos of each."`
	Condition      string   `help:"conditions: only conditions whose names contain this."`
	EveryCondition bool     `help:"conditions: all conditions, not only the eight that are compared between versions; and which face is meant."`
}

// usualConditions are the conditions that versions and encoders are compared
// under.
func usualConditions() []conditions.Condition {
	return []conditions.Condition{
		sameForAll("clean", func(p conditions.Photo) conditions.Photo { return p }),
		sameForAll("JPEG quality 20", func(p conditions.Photo) conditions.Photo { return conditions.Squeeze(p, 20) }),
		sameForAll("face of 40 px (eyes 16 px apart)", func(p conditions.Photo) conditions.Photo { return conditions.Small(p, 16.5) }),
		sameForAll("turned by 30 degrees", func(p conditions.Photo) conditions.Photo { return conditions.Turn(p, 30) }),
		sameForAll("blur, sigma 2 px", func(p conditions.Photo) conditions.Photo { return conditions.Blur(p, 2) }),
		sameForAll("light times 0.25", func(p conditions.Photo) conditions.Photo { return conditions.Light(p, 0.25) }),
		{Name: "sunglasses", Change: conditions.Sunglasses},
		{Name: "mask", Change: conditions.Mask},
	}
}

// otherConditions are those that the quality gate was built against.
func otherConditions() []conditions.Condition {
	out := []conditions.Condition{
		sameForAll("light times 1.8", func(p conditions.Photo) conditions.Photo { return conditions.Light(p, 1.8) }),
		sameForAll("grey", conditions.Grey),
		{Name: "noise of 12 of 255", Change: func(r *rand.Rand, p conditions.Photo) conditions.Photo { return conditions.Noise(r, p, 12) }},
	}
	for _, degrees := range []float64{15, 45, 60, 90, 120, 135, 180, -90, -20} {
		out = append(out, sameForAll(fmt.Sprintf("turned by %g degrees", degrees), func(p conditions.Photo) conditions.Photo { return conditions.Turn(p, degrees) }))
	}
	return append(out,
		sameForAll("stretched 1.2 wide", func(p conditions.Photo) conditions.Photo { return conditions.Stretch(p, 1.2, 1) }),
		sameForAll("stretched 1.5 wide", func(p conditions.Photo) conditions.Photo { return conditions.Stretch(p, 1.5, 1) }),
		sameForAll("stretched 1.2 high", func(p conditions.Photo) conditions.Photo { return conditions.Stretch(p, 1, 1.2) }),
		sameForAll("stretched 1.5 high", func(p conditions.Photo) conditions.Photo { return conditions.Stretch(p, 1, 1.5) }),
		sameForAll("negative", conditions.Negative),
		sameForAll("grey negative", func(p conditions.Photo) conditions.Photo { return conditions.Negative(conditions.Grey(p)) }),
		conditions.Condition{Name: "covered in part", Change: conditions.Patch},
		sameForAll("cut to 0.7 of the face", func(p conditions.Photo) conditions.Photo { return conditions.Cut(p, 1.9, 0, 0) }),
		sameForAll("cut as UTKFace is, with a margin", func(p conditions.Photo) conditions.Photo {
			return conditions.Margin(conditions.Cut(p, 2.63, 0.03, 0.02), 0.5)
		}),
		sameForAll("sketch", func(p conditions.Photo) conditions.Photo { return conditions.Sketch(p, 4) }),
		sameForAll("two levels of colour", func(p conditions.Photo) conditions.Photo { return conditions.Poster(p, 2) }),
	)
}

// sameForAll is a condition without chance.
func sameForAll(name string, change func(conditions.Photo) conditions.Photo) conditions.Condition {
	return conditions.Condition{Name: name, Change: func(_ *rand.Rand, p conditions.Photo) conditions.Photo { return change(p) }}
}

// pair is two photos of one person. Each is the reference of the other one,
// which is changed to be a probe.
type pair struct {
	person string
	files  [2][]byte
	photos [2]conditions.Photo
}

// taken is the result of a photo: an embedding for each encoder, or none where
// no face was found, and whether it passes the quality gate.
type taken struct {
	embeddings []face.Embedding
	passes     bool
}

// conditions shows, for each condition, how many changed photos the quality
// gate refuses, how many of the others match a clean photo of the same person,
// and how often strangers match. It uses people who were not in the training
// data of any built-in model.
func (b *bench) conditions(ctx context.Context) (err error) {
	p, err := likeness.Open(ctx, likeness.Options{ModelsDirs: b.ModelsDir, Detector: b.Detector})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	thresholds := make([]float64, len(b.Encoders))
	var notes []string
	for i, id := range b.Encoders {
		var note string
		if thresholds[i], note, err = b.strictThreshold(ctx, p, id); err != nil {
			return fmt.Errorf("%s: %w", id, err)
		}
		notes = append(notes, fmt.Sprintf("`%s` %.5f (%s)", id, thresholds[i], note))
	}
	pairs, err := b.pairs(ctx, p)
	if err != nil {
		return err
	}
	references, err := b.embedAll(ctx, p, 2*len(pairs), func(i int) []byte { return pairs[i/2].files[i%2] })
	if err != nil {
		return err
	}
	b.printf("## Conditions\n\n%d held-out people, two photos of each: both are changed to be probes, and each is compared with the other one as it is. ", len(pairs))
	b.printf("Detector `%s`. Threshold at FMR 1e-4: %s. ", b.Detector, strings.Join(notes, ", "))
	b.printf("Refused is the share of the probes that do not pass the quality gate, or in which no face is found. FNMR with the gate is of the probes that pass, beside references that pass; without the gate it is of all, and a probe without a face is a non-match; 95 %% intervals from a bootstrap over people. ")
	b.printf("Strangers are those matched, in units of 1e-4: a changed probe beside everybody else's clean photos, and two changed probes of different people.\n\n| condition | refused %% |")
	for _, id := range b.Encoders {
		b.printf(" %s: FNMR %% with the gate | FNMR %% without | strangers, with | both changed, with | strangers, without | both changed, without |", id)
	}
	b.printf("\n|---|---|%s\n", strings.Repeat("---|", 6*len(b.Encoders)))
	rows := usualConditions()
	if b.EveryCondition {
		rows = append(rows, otherConditions()...)
	}
	for _, c := range rows {
		if !strings.Contains(c.Name, b.Condition) {
			continue
		}
		// A condition's chance does not depend on which others are measured.
		h := fnv.New64a()
		h.Write([]byte(c.Name))
		probes, err := b.embedAll(ctx, p, 2*len(pairs), func(i int) []byte {
			return c.Change(rand.New(rand.NewPCG(h.Sum64(), uint64(i))), pairs[i/2].photos[i%2]).JPEG(95)
		})
		if err != nil {
			return err
		}
		b.printCondition(c.Name, thresholds, pairs, references, probes)
	}
	b.printf("\n")
	if !b.EveryCondition {
		return nil
	}
	return b.choices(ctx, p)
}

// strictThreshold is the threshold of an encoder's fmr_1e-4. Without a
// calibration it is found on all impostor comparisons of the held-out people,
// whose photos pass the quality gate.
func (b *bench) strictThreshold(ctx context.Context, p *likeness.Pipeline, id string) (threshold float64, note string, err error) {
	m, err := p.Registry.Model(id)
	if err != nil {
		return 0, "", err
	}
	if m.Calibration != nil {
		point, err := match.NewPolicy(m.Calibration).Point("fmr_1e-4")
		return point.Threshold, "calibrated", err
	}
	set, err := photos.Open(b.Images)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	names := slices.DeleteFunc(slices.Clone(set.Names()), func(n string) bool { return !heldOut(path.Base(path.Dir(n))) })
	portraits := make([]*measure.Portrait, len(names))
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			data, err := set.ReadFile(name)
			if err != nil {
				return err
			}
			t, err := embedOne(working, p, data, id)
			if t.passes {
				portraits[i] = &measure.Portrait{Embedding: t.embeddings[0], Person: path.Dir(name)}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, "", err
	}
	calibrator := measure.Calibrator{Workers: runtime.GOMAXPROCS(0), Options: measure.DefaultOptions()}
	for _, portrait := range portraits {
		if portrait != nil {
			calibrator.Portraits = append(calibrator.Portraits, *portrait)
		}
	}
	report, err := calibrator.Calibrate(ctx, "held-out people")
	if err != nil {
		return 0, "", err
	}
	point, err := match.NewPolicy(&report.Calibration).Point("fmr_1e-4")
	return point.Threshold, fmt.Sprintf("its manifest has no calibration, so this is that of %d impostor comparisons of held-out people", report.Comparisons), err
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

// printCondition prints a row of the table. Probe i is the changed photo of
// reference i, whose other photo is reference i^1.
func (b *bench) printCondition(name string, thresholds []float64, pairs []pair, references, probes []taken) {
	refused := measure.Rate{}
	for _, p := range probes {
		refused.Add(!p.passes)
	}
	b.printf("| %s | %.1f |", name, 100*refused.Value())
	for e, threshold := range thresholds {
		with, without := countCondition(e, threshold, pairs, references, probes, true), countCondition(e, threshold, pairs, references, probes, false)
		for _, c := range []conditionCounts{with, without} {
			if c.fnmr.People == 0 {
				b.printf(" – |")
				continue
			}
			b.printf(" %.1f [%.1f, %.1f] of %d |", 100*c.fnmr.Value, 100*c.fnmr.Interval.Low, 100*c.fnmr.Interval.High, c.fnmr.Comparisons.Total)
		}
		for _, r := range []measure.Rate{with.strangers, with.bothChanged, without.strangers, without.bothChanged} {
			if r.Total == 0 {
				b.printf(" – |")
			} else {
				b.printf(" %.2f |", 1e4*r.Value())
			}
		}
	}
	b.printf("\n")
}

// conditionCounts are the errors under one condition.
type conditionCounts struct {
	fnmr                   measure.RateByPerson
	strangers, bothChanged measure.Rate
}

// countCondition counts the errors of the encoder with that index, with the
// quality gate or without it.
func countCondition(encoder int, threshold float64, pairs []pair, references, probes []taken, gate bool) (c conditionCounts) {
	usable := func(t taken) bool { return t.embeddings != nil && (t.passes || !gate) }
	matches := func(a, b taken) bool { return a.embeddings[encoder].Cosine(b.embeddings[encoder]) >= threshold }
	var people []string
	var missed []bool
	for i, p := range probes {
		if own := references[i^1]; usable(own) && (usable(p) || !gate) {
			people, missed = append(people, pairs[i/2].person), append(missed, !usable(p) || !matches(p, own))
		}
		if !usable(p) {
			continue
		}
		for j, r := range references {
			if j/2 != i/2 && usable(r) {
				c.strangers.Add(matches(p, r))
			}
		}
		for j, other := range probes[:i] {
			if j/2 != i/2 && usable(other) {
				c.bothChanged.Add(matches(p, other))
			}
		}
	}
	c.fnmr = measure.CountByPerson(people, missed, measure.DefaultOptions())
	return c
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
		q := pair{person: person}
		for i := range q.photos {
			if q.files[i], err = set.ReadFile(of[person][i]); err != nil {
				return nil, err
			}
			if q.photos[i], err = photoOf(ctx, p, q.files[i]); err != nil {
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

// photoOf decodes a photo, with the landmarks of its largest face.
func photoOf(ctx context.Context, p *likeness.Pipeline, data []byte) (conditions.Photo, error) {
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

// embedAll embeds photos with all encoders.
func (b *bench) embedAll(ctx context.Context, p *likeness.Pipeline, n int, photo func(i int) []byte) ([]taken, error) {
	out := make([]taken, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range out {
		group.Go(func() (err error) {
			out[i], err = embedOne(ctx, p, photo(i), b.Encoders...)
			return err
		})
	}
	return out, group.Wait()
}

// embedOne embeds the largest face of a photo, as /verify does with
// face=largest.
func embedOne(ctx context.Context, p *likeness.Pipeline, photo []byte, encoders ...string) (taken, error) {
	samples, err := p.EmbedWith(ctx, photo, embed.PickLargest, embed.Want{Encoders: encoders})
	switch {
	case errors.Is(err, face.NoFace), errors.Is(err, face.ManyFaces), errors.Is(err, face.LowQuality):
		return taken{}, nil
	case err != nil:
		return taken{}, err
	}
	return taken{embeddings: samples[0].Embeddings, passes: len(samples[0].Face.Quality.Reasons) == 0}, nil
}
