package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/image/draw"
	"golang.org/x/image/math/f64"

	"github.com/likeness-id/likeness/internal/ort"
	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/models"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// detectFlags say which detectors are compared, and on how much.
type detectFlags struct {
	Detector  string `default:"builtin-detector" help:"detect, conditions: the detector measured."`
	Yardstick string `default:"yunet_n" help:"detect: the detector it is measured against."`
	People    string `default:"held-out" enum:"held-out,training" help:"detect: photos of the people that training left out, or, to choose a threshold, of the others."`
	Sitters   int    `default:"300" help:"detect: at most this many people, with one photo of each."`
	Scenes    int    `default:"80" help:"detect: scenes of each kind; the last eighth of them have no face."`
	Turns     int    `default:"60" help:"detect: timed runs of each detector at 320 pixels, taking turns; fewer at more pixels."`
}

// found is a face as a detector finds it, or as it is known to be.
type found struct {
	box    face.Box
	points [5]face.Point
	score  float32
}

func (f found) interocular() float64 { return pointDistance(f.points[0], f.points[1]) }

func pointDistance(a, b face.Point) float64 { return math.Hypot(float64(a.X-b.X), float64(a.Y-b.Y)) }

func (f found) iou(o found) float32 {
	a, b := f.box, o.box
	w := min(a.X+a.Width, b.X+b.Width) - max(a.X, b.X)
	h := min(a.Y+a.Height, b.Y+b.Height) - max(a.Y, b.Y)
	shared := max(w, 0) * max(h, 0)
	return shared / (a.Area() + b.Area() - shared)
}

// pointsError is the mean distance of the points in parts of the distance of the eyes.
func (f found) pointsError(truth found) float64 {
	sum := 0.0
	for i, p := range f.points {
		sum += pointDistance(p, truth.points[i])
	}
	return sum / 5 / truth.interocular()
}

// sitter is a photo with one face, which is known.
type sitter struct {
	img   image.Image
	truth found
}

// scene is a picture with the faces in it.
type scene struct {
	png   []byte
	truth []found
}

// sceneKind is one row of the report.
type sceneKind struct {
	name       string
	side       int     // of the picture and of the detector's input
	faces      int     // at most
	low, high  float64 // the face's width in pixels
	turn       float64 // degrees to either side
	spoil      bool    // dark, pale, blurred or noisy
	cover      bool    // a bar over a part of the face
	wholePhoto bool
}

func sceneKinds() []sceneKind {
	return []sceneKind{
		{name: "photo as it is", side: 320, faces: 1, wholePhoto: true},
		{name: "photo as it is", side: 640, faces: 1, wholePhoto: true},
		{name: "photo as it is", side: 1024, faces: 1, wholePhoto: true},
		{name: "24 to 48 px", side: 320, faces: 12, low: 24, high: 48, turn: 10},
		{name: "48 to 160 px", side: 320, faces: 4, low: 48, high: 160, turn: 10},
		{name: "24 to 48 px", side: 640, faces: 40, low: 24, high: 48, turn: 10},
		{name: "24 to 200 px", side: 640, faces: 16, low: 24, high: 200, turn: 10},
		{name: "24 to 200 px", side: 1024, faces: 40, low: 24, high: 200, turn: 10},
		{name: "turned up to 45 degrees", side: 640, faces: 12, low: 32, high: 160, turn: 45},
		{name: "partly covered", side: 640, faces: 12, low: 32, high: 160, turn: 10, cover: true},
		{name: "dark, pale, blurred or noisy", side: 640, faces: 12, low: 32, high: 160, turn: 10, spoil: true},
	}
}

// detect compares two detectors on scenes whose faces are known, because they
// are composed of photos with one face each. By default these are photos of
// people who were not in the training data.
func (b *bench) detect(ctx context.Context) (err error) {
	d, err := b.openDetectors()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	sitters, err := b.sitters(ctx, d.nets[1])
	if err != nil {
		return err
	}
	own := d.nets[0].model.Threshold
	b.printf("## %s against %s\n\n%d photos of as many %s people; %d scenes of each kind, an eighth of them without a face. ",
		b.Detector, b.Yardstick, len(sitters), b.People, b.Scenes)
	b.printf("Found: at the precision that the yardstick has at its threshold, and the score that takes. Error of the points: mean, in %% of the distance of the eyes, on faces that both found. The last two: at the threshold of the manifest.\n\n")
	b.printf("| scenes | input | faces | precision %% | found %% | yardstick found %% | difference | score | points off %% | yardstick off %% | difference | precision %% at %.2f | found %% |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n", own)
	var all [2]detectRun
	for i, k := range sceneKinds() {
		scenes, err := b.compose(k, sitters, rand.New(rand.NewPCG(7, uint64(i))))
		if err != nil {
			return err
		}
		var runs [2]detectRun
		for j, n := range d.nets {
			if runs[j], err = n.look(ctx, k.side, scenes); err != nil {
				return err
			}
		}
		b.compared(k.name, strconv.Itoa(k.side), d, runs)
		for j := range all {
			all[j] = all[j].and(runs[j])
		}
	}
	b.compared("all of them", "", d, all)
	b.printf("\n")
	return b.detectSpeed(ctx, d)
}

// compared prints a row of the report.
func (b *bench) compared(name, side string, d *detectors, runs [2]detectRun) {
	yard := runs[1].at(d.nets[1].model.Threshold)
	mine := runs[0].atPrecision(yard.precision())
	as := runs[0].at(d.nets[0].model.Threshold)
	var ours, theirs, both float64
	for s, scene := range runs[0].scenes {
		for f, truth := range scene.truth {
			if p, q := mine.matches[s][f], yard.matches[s][f]; p != nil && q != nil {
				ours, theirs, both = ours+p.pointsError(truth), theirs+q.pointsError(truth), both+1
			}
		}
	}
	b.printf("| %s | %s | %d | %.2f | %.2f | %.2f | %+.2f | %.2f | %.2f | %.2f | %+.2f | %.2f | %.2f |\n", name, side, yard.faces,
		100*yard.precision(), 100*mine.recall(), 100*yard.recall(), 100*(mine.recall()-yard.recall()), mine.threshold,
		100*ours/both, 100*theirs/both, 100*(ours-theirs)/both, 100*as.precision(), 100*as.recall())
}

// detectors are both detectors and what they need; the measured one comes
// first.
type detectors struct {
	nets [2]detectNet
	undo []func() error
}

type detectNet struct {
	model            embed.Manifest
	network, encoder embed.Network
	encoderModel     embed.Manifest
}

func (b *bench) openDetectors() (d *detectors, err error) {
	registry, err := embed.OpenRegistry(models.FS, b.ModelsDir...)
	if err != nil {
		return nil, err
	}
	rt, err := ort.Open(ort.Options{})
	if err != nil {
		return nil, err
	}
	d = &detectors{undo: []func() error{rt.Close}}
	load := func(id string) (embed.Network, embed.Manifest, error) {
		m, err := registry.Model(id)
		if err != nil {
			return nil, m.Manifest, err
		}
		data, err := m.ReadVerified()
		if err != nil {
			return nil, m.Manifest, err
		}
		n, err := rt.Load(data, m.Manifest)
		if err == nil {
			d.undo = append(d.undo, n.Close)
		}
		return n, m.Manifest, err
	}
	encoder, encoderModel, err := load("mobileface-v2")
	for i, id := range []string{b.Detector, b.Yardstick} {
		if err != nil {
			break
		}
		d.nets[i] = detectNet{encoder: encoder, encoderModel: encoderModel}
		d.nets[i].network, d.nets[i].model, err = load(id)
	}
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

func (d *detectors) close() error {
	var errs []error
	for _, undo := range slices.Backward(d.undo) {
		errs = append(errs, undo())
	}
	return errors.Join(errs...)
}

// pipeline takes one look at each picture, at the given size, and returns all
// detections that score at least the threshold. It does not look again at small
// faces.
func (n detectNet) pipeline(side int, threshold float32) (*embed.Pipeline, error) {
	m := n.model
	m.Input.Width, m.Input.Height, m.Threshold = side, side, threshold
	quality := embed.DefaultQualityLimits()
	quality.MinInterocularPx = math.MaxFloat32
	return embed.New(embed.Options{
		Detector: n.network, DetectorModel: m, Encoder: n.encoder, EncoderModel: n.encoderModel,
		Slots: 1, MaxFaces: 500, Quality: quality,
	})
}

func detectFaces(ctx context.Context, p *embed.Pipeline, photo []byte) ([]found, error) {
	faces, _, err := p.Detect(ctx, photo, 0)
	out := make([]found, len(faces))
	for i, f := range faces {
		out[i] = found{f.Box, f.Landmarks.Points(), f.DetectionScore}
	}
	return out, err
}

// sitters are photos, one of each person, of the fifth of the people that
// `likeness train` leaves out, or of the others. On each, the yardstick sees
// one face in eight looks: at four sizes, mirrored and not. The mean of the
// looks is taken as the truth. None of these looks is measured, because the
// yardstick would then be compared with itself.
func (b *bench) sitters(ctx context.Context, yardstick detectNet) (out []sitter, err error) {
	var looks []*embed.Pipeline
	for _, side := range []int{288, 352, 416, 480} {
		p, failed := yardstick.pipeline(side, 0.4)
		if failed != nil {
			return nil, failed
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		looks = append(looks, p)
	}
	set, err := photos.Open(b.Images)
	if err != nil {
		return nil, err
	}
	defer set.Close()
next:
	for _, name := range set.Names() {
		if len(out) == b.Sitters {
			break
		}
		if heldOut(path.Base(path.Dir(name))) != (b.People == "held-out") || !strings.HasSuffix(name, "_0001.jpg") {
			continue
		}
		data, err := set.ReadFile(name)
		if err != nil {
			return nil, err
		}
		img, err := jpeg.Decode(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		other, err := mirrored(img)
		if err != nil {
			return nil, err
		}
		var truth found
		for _, p := range looks {
			for i, photo := range [][]byte{data, other} {
				faces, err := detectFaces(ctx, p, photo)
				if err != nil {
					return nil, err
				}
				if len(faces) != 1 || faces[0].score < 0.8 {
					continue next
				}
				f := faces[0]
				if i == 1 {
					f = f.mirrored(float32(img.Bounds().Dx()))
				}
				truth = truth.plus(f, 0.5/float32(len(looks)))
			}
		}
		out = append(out, sitter{img, truth})
	}
	if len(out) < 50 {
		return nil, fmt.Errorf("%s has %d %s people with one face, which is too few", b.Images, len(out), b.People)
	}
	return out, nil
}

func mirrored(img image.Image) ([]byte, error) {
	b := img.Bounds()
	out := image.NewRGBA(b)
	draw.NearestNeighbor.Transform(out, f64.Aff3{-1, 0, float64(b.Min.X + b.Max.X), 0, 1, 0}, img, b, draw.Src, nil)
	var data bytes.Buffer
	err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&data, out)
	return data.Bytes(), err
}

// mirrored is the same face in a photo of the width that is mirrored back.
func (f found) mirrored(width float32) found {
	f.box.X = width - f.box.X - f.box.Width
	for i := range f.points {
		f.points[i].X = width - f.points[i].X
	}
	p := &f.points
	p[0], p[1], p[3], p[4] = p[1], p[0], p[4], p[3]
	return f
}

func (f found) plus(o found, weight float32) found {
	f.box.X += o.box.X * weight
	f.box.Y += o.box.Y * weight
	f.box.Width += o.box.Width * weight
	f.box.Height += o.box.Height * weight
	for i, p := range o.points {
		f.points[i].X += p.X * weight
		f.points[i].Y += p.Y * weight
	}
	return f
}

// compose makes the scenes of one kind.
func (b *bench) compose(k sceneKind, sitters []sitter, rng *rand.Rand) ([]scene, error) {
	scenes := make([]scene, b.Scenes)
	for i := range scenes {
		picture := backdrop(k.side, sitters, rng)
		var truth []found
		switch {
		case i >= len(scenes)-len(scenes)/8: // no face
		case k.wholePhoto:
			s := sitters[i%len(sitters)]
			scale := float64(k.side) / float64(s.img.Bounds().Dx())
			truth = append(truth, drawSitter(picture, s, scale, 0, float64(k.side)/2, float64(k.side)/2, true))
		default:
			truth = k.crowd(picture, sitters, rng)
		}
		if k.spoil {
			spoilPicture(picture, rng)
		}
		var data bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&data, picture); err != nil {
			return nil, err
		}
		scenes[i] = scene{data.Bytes(), truth}
	}
	return scenes, nil
}

// crowd puts faces where none is yet.
func (k sceneKind) crowd(picture *image.RGBA, sitters []sitter, rng *rand.Rand) []found {
	var truth []found
	want := 1 + rng.IntN(k.faces)
	for range 20 * want {
		if len(truth) == want {
			break
		}
		s := sitters[rng.IntN(len(sitters))]
		scale := k.low * math.Pow(k.high/k.low, rng.Float64()) / float64(s.truth.box.Width)
		reach := 0.9 * scale * float64(s.truth.box.Height)
		x, y := reach+rng.Float64()*(float64(k.side)-2*reach), reach+rng.Float64()*(float64(k.side)-2*reach)
		if slices.ContainsFunc(truth, func(o found) bool {
			cx, cy := o.centre()
			return math.Hypot(cx-x, cy-y) < reach+0.9*float64(o.box.Height)
		}) {
			continue
		}
		t := drawSitter(picture, s, scale, (2*rng.Float64()-1)*k.turn*math.Pi/180, x, y, false)
		truth = append(truth, t)
		if k.cover {
			w, h := float64(t.box.Width), float64(t.box.Height)
			x0, y0 := float64(t.box.X), float64(t.box.Y)
			bar := image.Rect(int(x0), int(y0+0.7*h), int(x0+w), int(y0+h))
			if rng.IntN(2) == 0 {
				bar = image.Rect(int(x0), int(y0), int(x0+0.3*w), int(y0+h))
			}
			draw.Draw(picture, bar, image.NewUniform(anyColour(rng)), image.Point{}, draw.Src)
		}
	}
	return truth
}

func (f found) centre() (x, y float64) {
	return float64(f.box.X + f.box.Width/2), float64(f.box.Y + f.box.Height/2)
}

// drawSitter draws a sitter, scaled and turned, with the centre of the face at (x, y)
// or with the whole photo there, and says where the face is then. The box of a
// turned face is as large as it was.
func drawSitter(picture *image.RGBA, s sitter, scale, turn, x, y float64, whole bool) found {
	cx, cy := s.truth.centre()
	bounds := s.img.Bounds()
	from := bounds
	if whole {
		cx, cy = float64(bounds.Dx())/2, float64(bounds.Dy())/2
	} else {
		half := 0.75 * float64(s.truth.box.Height)
		from = image.Rect(int(cx-half), int(cy-half), int(cx+half), int(cy+half)).Intersect(bounds)
	}
	sin, cos := math.Sincos(turn)
	m := f64.Aff3{scale * cos, -scale * sin, 0, scale * sin, scale * cos, 0}
	m[2], m[5] = x-m[0]*cx-m[1]*cy, y-m[3]*cx-m[4]*cy
	draw.CatmullRom.Transform(picture, m, s.img, from, draw.Src, nil)
	at := func(px, py float64) face.Point {
		return face.Point{X: float32(m[0]*px + m[1]*py + m[2]), Y: float32(m[3]*px + m[4]*py + m[5])}
	}
	var t found
	for i, p := range s.truth.points {
		t.points[i] = at(float64(p.X), float64(p.Y))
	}
	centre := at(s.truth.centre())
	w, h := float32(scale)*s.truth.box.Width, float32(scale)*s.truth.box.Height
	t.box = face.Box{X: centre.X - w/2, Y: centre.Y - h/2, Width: w, Height: h}
	return t
}

func anyColour(rng *rand.Rand) color.RGBA {
	return color.RGBA{uint8(rng.UintN(256)), uint8(rng.UintN(256)), uint8(rng.UintN(256)), 255}
}

// backdrop is the background of a scene: corners of photos, enlarged, side by
// side.
func backdrop(side int, sitters []sitter, rng *rand.Rand) *image.RGBA {
	picture := image.NewRGBA(image.Rect(0, 0, side, side))
	draw.Draw(picture, picture.Bounds(), image.NewUniform(anyColour(rng)), image.Point{}, draw.Src)
	tiles := 1 + rng.IntN(4)
	for i := range tiles * tiles {
		s := sitters[rng.IntN(len(sitters))]
		b, size := s.img.Bounds(), 40+rng.IntN(30)
		corner := image.Pt(rng.IntN(2)*(b.Dx()-size), rng.IntN(2)*(b.Dy()-size))
		from := image.Rectangle{corner, corner.Add(image.Pt(size, size))}
		t := s.truth.box
		if from.Overlaps(image.Rect(int(t.X), int(t.Y), int(t.X+t.Width), int(t.Y+t.Height))) {
			continue
		}
		x, y := i%tiles, i/tiles
		to := image.Rect(x*side/tiles, y*side/tiles, (x+1)*side/tiles, (y+1)*side/tiles)
		draw.BiLinear.Scale(picture, to, s.img, from, draw.Src, nil)
	}
	return picture
}

// spoilPicture makes a picture harder in one of four ways.
func spoilPicture(picture *image.RGBA, rng *rand.Rand) {
	change := func(f func(v float64) float64) {
		for i, v := range picture.Pix {
			if i%4 != 3 {
				picture.Pix[i] = uint8(min(max(f(float64(v)), 0), 255))
			}
		}
	}
	switch rng.IntN(4) {
	case 0:
		change(func(v float64) float64 { return 0.25 * v })
	case 1:
		change(func(v float64) float64 { return 150 + 0.4*v })
	case 2:
		small := image.NewRGBA(image.Rect(0, 0, picture.Rect.Dx()/2, picture.Rect.Dy()/2))
		draw.BiLinear.Scale(small, small.Rect, picture, picture.Rect, draw.Src, nil)
		draw.BiLinear.Scale(picture, picture.Rect, small, small.Rect, draw.Src, nil)
	default:
		change(func(v float64) float64 { return v + 20*rng.NormFloat64() })
	}
}

// detectRun holds all detections of a detector on some scenes, best first, each
// with the true face that it belongs to, or none.
type detectRun struct {
	scenes []scene
	said   []claim
}

type claim struct {
	found
	scene, truth int // truth -1: there is no face
}

// leastIoU is the least overlap (intersection over union) of a detection with a
// known face. It is low because the boxes of turned faces differ.
const leastIoU = 0.4

func (n detectNet) look(ctx context.Context, side int, scenes []scene) (r detectRun, err error) {
	p, err := n.pipeline(side, 0.05)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	r.scenes = scenes
	for i, s := range scenes {
		faces, err := detectFaces(ctx, p, s.png)
		if err != nil {
			return r, err
		}
		slices.SortStableFunc(faces, func(a, b found) int { return cmp.Compare(b.score, a.score) })
		taken := make([]bool, len(s.truth))
		for _, f := range faces {
			c := claim{f, i, -1}
			best := float32(leastIoU)
			for t, truth := range s.truth {
				if iou := f.iou(truth); !taken[t] && iou >= best {
					best, c.truth = iou, t
				}
			}
			if c.truth >= 0 {
				taken[c.truth] = true
			}
			r.said = append(r.said, c)
		}
	}
	slices.SortStableFunc(r.said, func(a, b claim) int { return cmp.Compare(b.score, a.score) })
	return r, nil
}

// detectResult is a run at one threshold.
type detectResult struct {
	threshold           float32
	right, wrong, faces int
	matches             [][]*found // by scene and face
}

func (r detectResult) recall() float64 { return float64(r.right) / float64(max(r.faces, 1)) }

func (r detectResult) precision() float64 {
	return float64(r.right) / float64(max(r.right+r.wrong, 1))
}

// and joins two runs.
func (r detectRun) and(o detectRun) detectRun {
	both := detectRun{scenes: slices.Concat(r.scenes, o.scenes), said: slices.Clone(r.said)}
	for _, c := range o.said {
		c.scene += len(r.scenes)
		both.said = append(both.said, c)
	}
	slices.SortStableFunc(both.said, func(a, b claim) int { return cmp.Compare(b.score, a.score) })
	return both
}

func (r detectRun) at(threshold float32) detectResult {
	out := detectResult{threshold: threshold}
	for _, s := range r.scenes {
		out.faces += len(s.truth)
		out.matches = append(out.matches, make([]*found, len(s.truth)))
	}
	for _, c := range r.said {
		if c.score < threshold {
			break
		}
		if c.truth < 0 {
			out.wrong++
			continue
		}
		out.right++
		out.matches[c.scene][c.truth] = &c.found
	}
	return out
}

// atPrecision is the run at the lowest threshold that has this precision.
func (r detectRun) atPrecision(least float64) detectResult {
	threshold, right := float32(1), 0
	for i, c := range r.said {
		if c.truth >= 0 {
			right++
		}
		if float64(right) >= least*float64(i+1) {
			threshold = c.score
		}
	}
	return r.at(threshold)
}

// detectSpeed times single runs of both networks, taking turns, on one thread.
func (b *bench) detectSpeed(ctx context.Context, d *detectors) (err error) {
	b.printf("| input | runs | %s ms | %s ms | ratio |\n|---|---|---|---|---|\n", b.Detector, b.Yardstick)
	for _, side := range []int{320, 640, 1024} {
		turns := max(b.Turns*320/side, 5)
		var sessions [2]embed.Session
		for i, n := range d.nets {
			s, failed := n.network.Session(1, 3, int64(side), int64(side))
			if failed != nil {
				return failed
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			rng := rand.New(rand.NewPCG(1, 1))
			for j := range s.Input() {
				s.Input()[j] = float32(rng.IntN(256))
			}
			sessions[i] = s
		}
		var times [2][]time.Duration
		var ratios []float64
		for turn := range turns + 3 {
			var took [2]time.Duration
			for _, i := range [][]int{{0, 1}, {1, 0}}[turn%2] {
				start := time.Now()
				if err := sessions[i].Run(ctx); err != nil {
					return err
				}
				took[i] = time.Since(start)
			}
			if turn < 3 { // the first are not like the rest
				continue
			}
			times[0], times[1] = append(times[0], took[0]), append(times[1], took[1])
			ratios = append(ratios, float64(took[0])/float64(took[1]))
		}
		slices.Sort(ratios)
		b.printf("| %d | %d | %.2f | %.2f | %.2f |\n", side, turns, ms(quantile(times[0], 0.5)), ms(quantile(times[1], 0.5)), ratios[len(ratios)/2])
	}
	b.printf("\nMilliseconds are medians; the ratio is the median of the turns'.\n\n")
	return nil
}
