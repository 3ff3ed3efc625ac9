// Crops makes the training data of the quality network. Photos under the
// conditions of internal/conditions go through the product's own pipeline
// without a quality network, and every face that it finds is written as a crop
// of 96 x 96 pixels with its class. See ../README.md.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"image"
	"image/draw"
	"io/fs"
	"log"
	"math"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/internal/conditions"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// The classes, in the order of the network's output.
const (
	acceptable = iota
	notAFace
	misaligned
	stretched
	negative
	covered
	cropped
)

// side is that of a crop, in pixels.
const side = 96

// template is where the landmarks come to lie in a crop: that of the manifest.
func template() [5]face.Point {
	return [5]face.Point{{X: 32, Y: 36}, {X: 64, Y: 36}, {X: 48, Y: 54}, {X: 35, Y: 73}, {X: 61, Y: 73}}
}

// change is a condition with the class of what it makes of a good photo.
type change struct {
	name   string
	class  int
	weight int
	make   func(r *rand.Rand, p conditions.Photo) conditions.Photo
}

func uniform(r *rand.Rand, low, high float64) float64 { return low + (high-low)*r.Float64() }

func changes() []change {
	type photo = conditions.Photo
	return []change{
		{"turned", acceptable, 5, func(r *rand.Rand, p photo) photo { return conditions.Turn(p, uniform(r, -180, 180)) }},
		{"tilted", acceptable, 2, func(r *rand.Rand, p photo) photo { return conditions.Turn(p, uniform(r, -40, 40)) }},
		{"squeezed", acceptable, 1, func(r *rand.Rand, p photo) photo { return conditions.Squeeze(p, 10+r.IntN(40)) }},
		{"blurred", acceptable, 1, func(r *rand.Rand, p photo) photo { return conditions.Blur(p, uniform(r, 0.3, 0.05*p.EyeDistance())) }},
		{"light", acceptable, 2, func(r *rand.Rand, p photo) photo { return conditions.Light(p, math.Exp(uniform(r, -1.3, 0.6))) }},
		{"grey", acceptable, 1, func(_ *rand.Rand, p photo) photo { return conditions.Grey(p) }},
		{"small", acceptable, 1, func(r *rand.Rand, p photo) photo { return conditions.Small(p, uniform(r, 16, 30)) }},
		{"noisy", acceptable, 1, func(r *rand.Rand, p photo) photo { return conditions.Noise(r, p, uniform(r, 2, 16)) }},
		{"stretched little", acceptable, 1, func(r *rand.Rand, p photo) photo { return conditions.Stretch(p, uniform(r, 0.94, 1.07), 1) }},
		{"wide", stretched, 2, func(r *rand.Rand, p photo) photo { return conditions.Stretch(p, uniform(r, 1.28, 2), 1) }},
		{"high", stretched, 2, func(r *rand.Rand, p photo) photo { return conditions.Stretch(p, 1, uniform(r, 1.28, 2)) }},
		{"negative", negative, 1, func(r *rand.Rand, p photo) photo { return conditions.Negative(p) }},
		{"grey negative", negative, 1, func(r *rand.Rand, p photo) photo { return conditions.Negative(conditions.Grey(p)) }},
		{"sunglasses", covered, 3, conditions.Sunglasses},
		{"mask", covered, 3, conditions.Mask},
		{"patch", covered, 2, conditions.Patch},
		{"cut", cropped, 3, func(r *rand.Rand, p photo) photo {
			return conditions.Cut(p, uniform(r, 1.3, 2.6), uniform(r, -0.4, 0.4), uniform(r, -0.4, 0.4))
		}},
		{"sketch", notAFace, 1, func(r *rand.Rand, p photo) photo { return conditions.Sketch(p, uniform(r, 2, 8)) }},
		{"poster", notAFace, 1, func(r *rand.Rand, p photo) photo { return conditions.Poster(p, 2+r.IntN(2)) }},
	}
}

func main() {
	log.SetFlags(0)
	var without, out string
	var from, to float64
	var quality bool
	var each int
	var sets, others []string
	flag.Func("photos", "a folder or tar archive of photos of faces; may come several times", func(s string) error { sets = append(sets, s); return nil })
	flag.Func("others", "a folder of pictures without faces of people; may come several times", func(s string) error { others = append(others, s); return nil })
	flag.StringVar(&without, "without", "", "a file of the names of people that are left out, one a line")
	flag.StringVar(&out, "out", "crops", "the folder to write crops.bin and crops.tsv into")
	flag.Float64Var(&from, "from", 0, "the share of the photos that is passed over, 0 to 1")
	flag.Float64Var(&to, "to", 1, "where the share of the photos that is used ends, 0 to 1")
	flag.BoolVar(&quality, "quality", false, "have the quality network that there is choose among the looks at a photo, to find what it errs on")
	flag.IntVar(&each, "each", 6, "how many changed copies are made of a photo")
	flag.Parse()
	if err := run(context.Background(), sets, others, without, out, from, to, quality, each); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, sets, others []string, without, out string, from, to float64, quality bool, each int) (err error) {
	p, err := likeness.Open(ctx, likeness.Options{
		Detector: "builtin-detector", Encoder: "builtin-encoder", WithoutQuality: !quality, Limits: imaging.DefaultLimits(),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	left, err := namesIn(without)
	if err != nil {
		return err
	}
	w, err := newWriter(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	m := maker{pipeline: p, out: w, each: each}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for _, name := range sets {
		set, err := photos.Open(name)
		if err != nil {
			return err
		}
		defer set.Close()
		for _, photo := range set.Names() {
			if !left[path.Base(path.Dir(photo))] && isWithin(random(photo).Float64(), from, to) {
				group.Go(func() error { return m.photo(ctx, set, photo) })
			}
		}
	}
	for _, folder := range others {
		err := filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				group.Go(func() error { return m.other(ctx, name) })
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return group.Wait()
}

func isWithin(x, from, to float64) bool { return x >= from && x < to }

func namesIn(file string) (map[string]bool, error) {
	names := map[string]bool{}
	if file == "" {
		return names, nil
	}
	b, err := os.ReadFile(file)
	for _, name := range strings.Fields(string(b)) {
		names[name] = true
	}
	return names, err
}

// random is a source that depends on the name alone.
func random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name))
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

// writer writes crops and what is known of them.
type writer struct {
	pixels, lines   *os.File
	crops, captions *bufio.Writer
	ready           chan struct{} // holds one token
}

func newWriter(folder string) (*writer, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	pixels, err := os.Create(filepath.Join(folder, "crops.bin"))
	if err != nil {
		return nil, err
	}
	lines, err := os.Create(filepath.Join(folder, "crops.tsv"))
	w := &writer{pixels: pixels, lines: lines, crops: bufio.NewWriter(pixels), captions: bufio.NewWriter(lines), ready: make(chan struct{}, 1)}
	w.ready <- struct{}{}
	return w, err
}

func (w *writer) close() error {
	return errors.Join(w.crops.Flush(), w.captions.Flush(), w.pixels.Close(), w.lines.Close())
}

// add writes the face with the landmarks, which count from the outer corner.
func (w *writer) add(class int, condition, name string, img *image.RGBA, points [5]face.Point) error {
	for i := range points {
		points[i].X, points[i].Y = points[i].X-0.5, points[i].Y-0.5
	}
	toCrop, err := imaging.FitSimilarity(points, template())
	if err != nil {
		return nil //nolint:nilerr // no face
	}
	crop := image.NewRGBA(image.Rect(0, 0, side, side))
	imaging.WarpRGBA(crop, img, toCrop.Inverse())
	rgb := make([]byte, 0, 3*side*side)
	for i := 0; i < len(crop.Pix); i += 4 {
		rgb = append(rgb, crop.Pix[i:i+3]...)
	}
	<-w.ready
	defer func() { w.ready <- struct{}{} }()
	if _, err := w.crops.Write(rgb); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w.captions, "%d\t%s\t%s\n", class, condition, name)
	return err
}

type maker struct {
	pipeline *likeness.Pipeline
	out      *writer
	each     int
}

// photo writes the crops of one photo with a face.
func (m maker) photo(ctx context.Context, set photos.Set, name string) error {
	b, err := set.ReadFile(name)
	if err != nil {
		return err
	}
	img, found, err := m.faces(ctx, b)
	if err != nil || len(found) == 0 {
		return err
	}
	// The face nearest to the middle is the one that the photo is of.
	main := 0
	off := func(f face.Face) float64 {
		return math.Hypot(float64(f.Box.X+f.Box.Width/2)-float64(img.Rect.Dx())/2, float64(f.Box.Y+f.Box.Height/2)-float64(img.Rect.Dy())/2)
	}
	for i, f := range found {
		if off(f) < off(found[main]) {
			main = i
		}
	}
	if found[main].DetectionScore < 0.75 {
		return nil
	}
	whole := conditions.Photo{Image: img, Points: pointsOf(found[main])}
	r := random(name)
	if err := m.out.add(acceptable, "clean", name, img, whole.Points); err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		if err := m.out.add(misaligned, "shifted", name, img, misplacedLandmarks(r, whole)); err != nil {
			return err
		}
	}
	for range m.each {
		c := drawChange(r)
		p := c.make(r, whole)
		class := c.class
		if r.IntN(4) == 0 { // conditions come together
			class, p = changeAgain(r, class, p)
		}
		if err := m.changed(ctx, name, c, class, p, len(found) > 1, r); err != nil {
			return err
		}
	}
	return nil
}

// changeAgain changes a photo a second time without changing its class.
func changeAgain(r *rand.Rand, class int, p conditions.Photo) (int, conditions.Photo) {
	switch r.IntN(5) {
	case 0:
		return class, conditions.Light(p, math.Exp(uniform(r, -0.9, 0.4)))
	case 1:
		return class, conditions.Blur(p, uniform(r, 0.3, max(0.03*p.EyeDistance(), 1)))
	case 2:
		return class, conditions.Grey(p)
	case 3:
		return class, conditions.Turn(p, uniform(r, -25, 25))
	}
	return class, conditions.Squeeze(p, 15+r.IntN(40))
}

// changed writes the faces that are found in a changed photo.
func (m maker) changed(ctx context.Context, name string, c change, class int, p conditions.Photo, company bool, r *rand.Rand) error {
	img, found, err := m.faces(ctx, p.JPEG(85+r.IntN(12)))
	if err != nil {
		return err
	}
	eyes := p.EyeDistance()
	px, py := p.Centre()
	for _, f := range found {
		points := pointsOf(f)
		fx, fy := conditions.Photo{Points: points}.Centre()
		if math.Hypot(fx-px, fy-py) > 1.2*eyes {
			if company || f.DetectionScore < 0.6 {
				continue // somebody else, perhaps
			}
			if err := m.out.add(notAFace, c.name+", elsewhere", name, img, points); err != nil {
				return err
			}
			continue
		}
		var worst float64
		for i, q := range points {
			worst = max(worst, math.Hypot(float64(q.X-p.Points[i].X), float64(q.Y-p.Points[i].Y))/eyes)
		}
		is := class
		switch {
		case class != acceptable:
		case worst > 0.4:
			is = misaligned
		case worst > 0.22:
			continue
		}
		if err := m.out.add(is, c.name, name, img, points); err != nil {
			return err
		}
	}
	return nil
}

// misplacedLandmarks are landmarks that do not fit the face: turned, enlarged or moved.
func misplacedLandmarks(r *rand.Rand, p conditions.Photo) (out [5]face.Point) {
	cx, cy := p.Centre()
	angle := uniform(r, 20, 180) * math.Pi / 180 * float64(1-2*r.IntN(2))
	scale, dx, dy := math.Exp(uniform(r, -0.15, 0.15)), 0.0, 0.0
	switch r.IntN(3) {
	case 0:
		angle, scale = 0, math.Exp(uniform(r, 0.35, 0.8)*float64(1-2*r.IntN(2)))
	case 1:
		a := uniform(r, 0, 2*math.Pi)
		angle, dx, dy = uniform(r, -0.3, 0.3), math.Cos(a)*uniform(r, 0.35, 1), math.Sin(a)*uniform(r, 0.35, 1)
	}
	sin, cos := math.Sincos(angle)
	for i, q := range p.Points {
		x, y := (float64(q.X)-cx)*scale, (float64(q.Y)-cy)*scale
		out[i] = face.Point{X: float32(cx + cos*x - sin*y + dx*p.EyeDistance()), Y: float32(cy + sin*x + cos*y + dy*p.EyeDistance())}
	}
	return out
}

func drawChange(r *rand.Rand) change {
	all, sum := changes(), 0
	for _, c := range all {
		sum += c.weight
	}
	n := r.IntN(sum)
	for _, c := range all {
		if n -= c.weight; n < 0 {
			return c
		}
	}
	return all[0]
}

// other writes whatever is taken for a face in a picture without one, and in
// changed copies of it.
func (m maker) other(ctx context.Context, name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	img, found, err := m.faces(ctx, b)
	if err != nil {
		return nil //nolint:nilerr // no picture
	}
	r := random(name)
	whole := conditions.Photo{Image: img}
	for i := 0; ; i++ {
		for _, f := range found {
			if err := m.out.add(notAFace, "other", name, img, pointsOf(f)); err != nil {
				return err
			}
		}
		if i == m.each {
			return nil
		}
		_, p := changeAgain(r, notAFace, conditions.Turn(whole, uniform(r, -180, 180)))
		if img, found, err = m.faces(ctx, p.JPEG(90)); err != nil {
			return err
		}
	}
}

func (m maker) faces(ctx context.Context, photo []byte) (*image.RGBA, []face.Face, error) {
	decoded, err := imaging.Decode(ctx, photo, imaging.DefaultLimits(), math.MaxInt)
	if err != nil {
		return nil, nil, err
	}
	img := image.NewRGBA(image.Rect(0, 0, decoded.RGBA.Rect.Dx(), decoded.RGBA.Rect.Dy()))
	draw.Draw(img, img.Rect, decoded.RGBA, decoded.RGBA.Rect.Min, draw.Src)
	found, _, err := m.pipeline.Detect(ctx, photo, 0)
	return img, found, err
}

func pointsOf(f face.Face) [5]face.Point { return f.Landmarks.Points() }
