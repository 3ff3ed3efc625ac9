// Command generate makes the photos of internal/testfaces, of people who do not
// exist. Each face is the average of many people's photos. The same photos and
// models give the same bytes on one machine.
package main

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"image"
	"image/jpeg"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/internal/artwork"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
)

const (
	composites = 6  // people who do not exist
	shots      = 3  // photos of each
	crowd      = 32 // people averaged in one photo
	quality    = 86 // of the JPEGs

	// With fewer than 30 people somebody might be recognised, so this does not
	// compile then.
	_ = uint(crowd - 30)
	// The highest score that a photo may have with a real one.
	tooNear = 0.6
)

type generator struct {
	images, models, detector, encoder, out, cache string

	clusters   int
	pick       string
	exaggerate float64
	seed       uint64

	ctx      context.Context
	pipeline *likeness.Pipeline
	set      photos.Set
}

func main() {
	var g generator
	flag.StringVar(&g.images, "images", "../shared/data/lfw-dev.tar", "photos to average, a folder a person: TAR or DIR")
	flag.StringVar(&g.models, "models", "", "folder with models of your own")
	flag.StringVar(&g.detector, "detector", "builtin-detector", "detector's id")
	flag.StringVar(&g.encoder, "encoder", "builtin-encoder", "encoder's id")
	flag.StringVar(&g.out, "out", "internal/testfaces", "where the photos are written")
	flag.StringVar(&g.cache, "cache", "", "folder to keep found faces and averages in, for another start; none: they are not kept")
	flag.IntVar(&g.clusters, "clusters", 24, "clusters of likenesses to choose the people from")
	flag.StringVar(&g.pick, "pick", "", "numbers of the clusters to take, six with commas between; none: those whose averages score least with each other")
	flag.Float64Var(&g.exaggerate, "exaggerate", 0.3, "how far each face is moved away from the mean of all")
	flag.Uint64Var(&g.seed, "seed", 1, "seed of everything random")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	g.ctx = ctx
	if err := g.run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		stop()
		os.Exit(1)
	}
}

func (g *generator) run() (err error) {
	if g.pipeline, err = likeness.Open(g.ctx, likeness.Options{
		ModelsDirs: slices.DeleteFunc([]string{g.models}, func(dir string) bool { return dir == "" }), Detector: g.detector, Encoder: g.encoder, Slots: 2,
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.pipeline.Close()) }()
	if g.set, err = photos.Open(g.images); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.set.Close()) }()
	if g.cache != "" {
		if err := os.MkdirAll(g.cache, 0o755); err != nil {
			return err
		}
	}
	var all []source
	if err := g.cached("sources", &all, func() (err error) {
		all, err = findSources(g.ctx, g.pipeline, g.set)
		return err
	}); err != nil {
		return err
	}
	people := mostFrontal(usable(all))
	fmt.Fprintf(os.Stderr, "%d photos of people who are not held out; %d people with one that serves\n", len(all), len(people))
	chosen, everybody, err := g.choose(people)
	if err != nil {
		return err
	}
	crowds, err := dealPeople(people, chosen)
	if err != nil {
		return err
	}
	var heads [composites][shots]picture
	for i := range crowds {
		for j, c := range crowds[i] {
			h := fnv.New64a()
			for _, s := range c {
				h.Write([]byte(s.Name))
			}
			if err := g.cached(fmt.Sprintf("head-%x", h.Sum64()), &heads[i][j], func() (err error) {
				s, err := meanShape(c)
				if err != nil {
					return err
				}
				fmt.Fprintf(os.Stderr, "averaging person %d, photo %d\n", i+1, j+1)
				heads[i][j], err = average(g.set, c, s, 2)
				return err
			}); err != nil {
				return err
			}
		}
	}
	made, err := g.portraits(heads, everybody)
	if err != nil {
		return err
	}
	return g.report(made, all, crowds)
}

// cached reads a value that an earlier run stored, or makes and stores it.
func (g *generator) cached(name string, value any, build func() error) error {
	if g.cache == "" {
		return build()
	}
	name = filepath.Join(g.cache, name+".gob")
	f, err := os.Open(name)
	if err == nil {
		defer f.Close()
		return gob.NewDecoder(f).Decode(value)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := build(); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(value); err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o600)
}

// choose finds the directions, of those that people's embeddings cluster
// around, whose averages score least with each other. everybody is the mean
// of all the averages.
func (g *generator) choose(people []source) (chosen []face.Embedding, everybody picture, err error) {
	directions := centres(people, g.clusters, g.seed)
	type rough struct {
		Heads      []picture
		Embeddings []face.Embedding
	}
	var r rough
	if err := g.cached(fmt.Sprintf("rough-%d-%d", g.clusters, g.seed), &r, func() error {
		for i, d := range directions {
			c := nearest(people, d, 2*crowd)
			s, err := meanShape(c)
			if err != nil {
				return err
			}
			head, err := average(g.set, c, s, 0)
			if err != nil {
				return err
			}
			r.Heads = append(r.Heads, head)
			photo, err := g.photo(plainPhoto(head.toned().sharpened()))
			if err != nil {
				return fmt.Errorf("average %d: %w", i, err)
			}
			r.Embeddings = append(r.Embeddings, photo.Embedding)
		}
		return nil
	}); err != nil {
		return nil, nil, err
	}
	everybody = newPicture()
	for _, h := range r.Heads {
		for i, v := range h {
			everybody[i] += v / float32(len(r.Heads))
		}
	}
	picked := chooseFarthest(r.Embeddings, composites)
	if g.pick != "" {
		picked = nil
		for s := range strings.SplitSeq(g.pick, ",") {
			i, err := strconv.Atoi(s)
			if err != nil || i < 0 || i >= len(directions) {
				return nil, nil, fmt.Errorf("--pick: %q is no number of a cluster", s)
			}
			picked = append(picked, i)
		}
	}
	if len(picked) != composites {
		return nil, nil, fmt.Errorf("%d clusters are picked, want %d", len(picked), composites)
	}
	fmt.Fprintln(os.Stderr, "clusters", picked)
	for _, i := range picked {
		chosen = append(chosen, directions[i])
	}
	return chosen, everybody, nil
}

// plainPhoto is a photo with nothing but the average.
func plainPhoto(p picture) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, frameWidth, frameHeight))
	for i := range frameWidth * frameHeight {
		for k := range 3 {
			img.Pix[4*i+k] = uint8(255*p[3*i+k] + 0.5)
		}
		img.Pix[4*i+3] = 255
	}
	return img
}

// finished is a photo that was written, and what is found in it.
type finished struct {
	name string
	jpeg []byte
	embed.Sample
}

func (g *generator) photo(img image.Image) (f finished, err error) {
	var b bytes.Buffer
	if err := jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}); err != nil {
		return f, err
	}
	samples, err := g.pipeline.Embed(g.ctx, b.Bytes(), embed.PickOnly)
	if err != nil {
		return f, err
	}
	return finished{jpeg: b.Bytes(), Sample: samples[0]}, nil
}

// portraits makes and writes the photos.
func (g *generator) portraits(heads [composites][shots]picture, everybody picture) (made [composites][shots]finished, err error) {
	mean := everybody.toned()
	finish := func(p picture) picture {
		return p.toned().exaggerated(mean, float32(g.exaggerate)).sharpened()
	}
	for i := range heads {
		for j, h := range heads[i] {
			rng := rand.New(rand.NewPCG(g.seed, uint64(100*i+j)))
			f, err := g.photo(portrait(rng, i, j, finish(h)))
			if err != nil {
				return made, fmt.Errorf("person %d, photo %d: %w", i+1, j+1, err)
			}
			f.name = fmt.Sprintf("person-%d-%d.jpg", i+1, j+1)
			made[i][j] = f
			if err := os.WriteFile(filepath.Join(g.out, f.name), f.jpeg, 0o644); err != nil {
				return made, err
			}
		}
	}
	// In the group, each face is the average of everybody in its photos.
	var three []picture
	for _, i := range []int{0, 1, 2} {
		sum, still := newPicture(), heads[i][0].texture()
		for _, h := range heads[i] {
			for k, v := range h.moved(register(still, h.texture())) {
				sum[k] += v / shots
			}
		}
		three = append(three, finish(sum).sharpened()) // twice: each average takes detail
	}
	var b bytes.Buffer
	if err := jpeg.Encode(&b, groupPhoto(rand.New(rand.NewPCG(g.seed, 1000)), three), &jpeg.Options{Quality: quality}); err != nil {
		return made, err
	}
	if err := os.WriteFile(filepath.Join(g.out, "group.jpg"), b.Bytes(), 0o644); err != nil {
		return made, err
	}
	b.Reset()
	if err := jpeg.Encode(&b, artwork.Draw("valley", 560), &jpeg.Options{Quality: quality}); err != nil {
		return made, err
	}
	return made, os.WriteFile(filepath.Join(g.out, "nobody.jpg"), b.Bytes(), 0o644)
}

// colours of backdrops.
func colours() [][3]float64 {
	return [][3]float64{
		{0.53, 0.57, 0.62}, {0.58, 0.54, 0.49}, {0.51, 0.54, 0.52}, {0.56, 0.53, 0.55}, {0.49, 0.52, 0.58}, {0.60, 0.58, 0.55},
	}
}

// clothes are the colours that are worn.
func clothes() [][3]float64 {
	return [][3]float64{
		{0.16, 0.20, 0.30}, {0.34, 0.17, 0.18}, {0.20, 0.29, 0.25}, {0.24, 0.23, 0.24}, {0.36, 0.33, 0.30}, {0.20, 0.18, 0.27}, {0.15, 0.28, 0.33},
	}
}

// portrait is a photo of one.
func portrait(rng *rand.Rand, person, shot int, head picture) *image.RGBA {
	between := func(low, high float64) float64 { return low + (high-low)*rng.Float64() }
	width := []int{480, 440, 400}[shot]
	height := []int{600, 520, 500}[shot]
	scale := float64(width) / frameWidth * between(0.93, 1.02)
	l := look{
		width: width, height: height,
		backdrop: newBackdrop(rng, (person+shot)%3, colours()[(person+2*shot)%len(colours())]),
		lightX:   []float64{0.12, -0.32, 0.28}[shot] * between(0.8, 1.2),
		lightY:   between(-0.05, 0.2),
		cast:     [3]float64{1 + []float64{0, 0.035, -0.035}[shot], 1, 1 - []float64{0, 0.05, -0.04}[shot]},
		gamma:    []float64{0.95, 1.08, 0.9}[shot],
		soft:     []float64{0, 0.5, 0.8}[shot],
		grain:    []float64{0.006, 0.012, 0.009}[shot],
	}
	// So that the bottom of the frame is that of the photo, or lies below it.
	eyes := float64(height) - (frameHeight-eyesDown-between(2, 12))*scale
	return l.paint(rng, sitter{
		head: head, cloth: clothes()[(2*person+3*shot)%len(clothes())], x: float64(width)/2 + between(-12, 12), y: eyes, scale: scale,
		turn: between(-0.07, 0.07), squeeze: between(0.95, 1.01), shear: between(-0.05, 0.05),
	})
}

// groupPhoto is a photo of several side by side.
func groupPhoto(rng *rand.Rand, heads []picture) *image.RGBA {
	const each, height = 225, 380
	l := look{
		width: each*len(heads) + 30, height: height, backdrop: newBackdrop(rng, 1, colours()[0]),
		lightX: 0.1, lightY: 0.1, cast: [3]float64{1.02, 1, 0.98}, gamma: 1, grain: 0.008,
	}
	var sitters []sitter
	for i, h := range heads {
		s := sitter{
			head: h, cloth: clothes()[(2*i+4)%len(clothes())], x: float64(15 + each/2 + each*i), scale: 0.76 + 0.04*float64(i%2), turn: 0.04 - 0.04*float64(i),
			squeeze: 0.98, shear: 0.02 - 0.02*float64(i),
		}
		s.y = height - (frameHeight-eyesDown-4)*s.scale
		sitters = append(sitters, s)
	}
	return l.paint(rng, sitters...)
}

// report prints the scores, and those of the nearest real photos.
func (g *generator) report(made [composites][shots]finished, all []source, crowds [composites][shots][]source) error {
	var flat []finished
	for _, p := range made {
		flat = append(flat, p[:]...)
	}
	least, most := 1.0, -1.0
	fmt.Fprintln(os.Stdout, "Scores of each two photos:")
	for i, a := range flat {
		cells := []string{strings.TrimSuffix(a.name, ".jpg")}
		for j, b := range flat {
			x := a.Embedding.Cosine(b.Embedding)
			cells = append(cells, fmt.Sprintf("%5.2f", x))
			switch {
			case i == j:
			case i/shots == j/shots:
				least = min(least, x)
			default:
				most = max(most, x)
			}
		}
		fmt.Fprintln(os.Stdout, strings.Join(cells, " "))
	}
	fmt.Fprintf(os.Stdout, "The same person: %.3f or more. Different people: %.3f or less.\n", least, most)
	// How near does anybody come to the photos, and to photos of others?
	nearest := -1.0
	for i, a := range flat {
		own, inside := -1.0, false
		for _, s := range all {
			if x := a.Embedding.Cosine(s.Embedding); x > own {
				own = x
				inside = slices.ContainsFunc(crowds[i/shots][i%shots], func(m source) bool { return m.Person == s.Person })
			}
		}
		nearest = max(nearest, own)
		q := a.Face.Quality
		fmt.Fprintf(os.Stdout, "%s: %d people, %d bytes, quality %.2f %v, sharpness %.2f, eyes %.0f pixels apart, highest score with any photo %.3f (of somebody in the average: %t)\n",
			a.name, len(crowds[i/shots][i%shots]), len(a.jpeg), q.Score, q.Reasons, q.Sharpness, q.InterocularPx, own, inside)
	}
	fmt.Fprintf(os.Stdout, "The highest score of any photo here with any of the %d photos: %.3f\n", len(all), nearest)
	var strangers []float64
	for i := 0; i < len(all); i += max(1, len(all)/500) {
		own := -1.0
		for _, s := range all {
			if s.Person != all[i].Person {
				own = max(own, all[i].Embedding.Cosine(s.Embedding))
			}
		}
		strangers = append(strangers, own)
	}
	slices.Sort(strangers)
	fmt.Fprintf(os.Stdout, "For comparison, the highest score of a real photo with any of somebody else: median %.3f, of one in ten %.3f or more\n",
		strangers[len(strangers)/2], strangers[len(strangers)*9/10])
	if nearest > tooNear {
		return fmt.Errorf("a photo scores %.3f with somebody's own; at most %g is allowed", nearest, tooNear)
	}
	return nil
}
