// Package identitytest has a pipeline for tests that runs no network: what it
// finds in a photo is written in the photo.
package identitytest

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// The encoders that a [Pipeline] knows: its own, and one that galleries can be
// moved to.
const (
	ModelID   = "test-encoder"
	Dimension = 64

	NextModelID   = "next-encoder"
	NextDimension = 48
)

// Models are both encoders, calibrated, and a detector.
func Models() []embed.Model {
	return []embed.Model{
		{Manifest: embed.Manifest{ID: ModelID, Task: embed.TaskEncoder, Dimension: Dimension, Calibration: Calibration()}, Path: "x"},
		{Manifest: embed.Manifest{ID: NextModelID, Task: embed.TaskEncoder, Dimension: NextDimension, Calibration: Calibration()}, Path: "y"},
		{Manifest: embed.Manifest{ID: "another", Task: embed.TaskDetector, Notes: "n"}},
	}
}

const side = 16 // of a photo, in pixels

// Person is somebody on a photo.
type Person struct {
	Number uint8 // who it is; 255 is nobody
	Noise  uint8 // of this photo; 0 to 20 are the same person, 120 nobody
	Poor   bool  // the quality gate refuses the face
}

// Photo is a PNG that shows nobody: each pixel of its first row that is not
// white stands for a person.
func Photo(people ...Person) []byte {
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range img.Pix {
		img.Pix[i] = 255
	}
	for i, p := range people {
		c := color.RGBA{R: p.Number, G: p.Noise, A: 255}
		if p.Poor {
			c.B = 1
		}
		img.Set(i, 0, c)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Pipeline reads such photos. Decoding is real.
type Pipeline struct {
	Before       func(context.Context) error // is called before a photo is read; may be nil
	Head         *face.Head                  // of its encoder; may be nil
	Uncalibrated bool                        // its encoder has no calibration
	Slots        chan struct{}               // its capacity is how many requests may have a slot; nil: no limit
}

// Reserve is Overloaded while all slots are taken.
func (p Pipeline) Reserve() (*embed.Reservation, error) {
	if p.Slots != nil && len(p.Slots) == cap(p.Slots) {
		return nil, face.Errorf(face.Overloaded, "test", "")
	}
	return nil, nil
}

// Enter gives a slot, or is Overloaded while all are taken: nobody waits.
func (p Pipeline) Enter(context.Context, *embed.Reservation) (embed.Slot, error) {
	if p.Slots == nil {
		return slot{p, func() {}}, nil
	}
	select {
	case p.Slots <- struct{}{}:
		return slot{p, sync.OnceFunc(func() { <-p.Slots })}, nil
	default:
		return nil, face.Errorf(face.Overloaded, "test", "")
	}
}

// slot is a slot of a Pipeline.
type slot struct {
	Pipeline
	leave func()
}

// Leave implements [embed.Slot].
func (s slot) Leave() { s.leave() }

// EmbedCrop fails: no request has a crop.
func (Pipeline) EmbedCrop(context.Context, []byte, string) (face.Embedding, error) {
	return nil, face.Errorf(face.Internal, "test", "a request encodes no crop")
}

// Detector is a manifest without a file.
func (Pipeline) Detector() embed.Manifest {
	return embed.Manifest{ID: "test-detector", Task: embed.TaskDetector}
}

// Encoder is a manifest without a file, with [Calibration].
func (p Pipeline) Encoder() embed.Manifest {
	m := embed.Manifest{ID: ModelID, Task: embed.TaskEncoder, Dimension: Dimension, Head: p.Head}
	if !p.Uncalibrated {
		m.Calibration = Calibration()
	}
	return m
}

// Prepare has nothing to prepare.
func (Pipeline) Prepare(context.Context, ...string) error { return nil }

// Embed gives each encoder a vector of its own, and a crop that names the
// person.
func (p slot) Embed(ctx context.Context, photo []byte, pick embed.Pick, want embed.Want) ([]embed.Sample, error) {
	if want.At != nil {
		pick = embed.PickAll
	}
	samples, err := p.embed(ctx, photo, pick)
	if want.At != nil && err == nil {
		x := int(want.At.X)
		if x < 0 || x >= len(samples) {
			return nil, face.Errorf(face.NoFace, "test", "no face there")
		}
		samples = samples[x : x+1]
	}
	for i := range samples {
		s := &samples[i]
		for _, id := range want.Encoders {
			e := s.Embedding
			if id == NextModelID {
				e = slices.Clone(e)[:NextDimension]
				e, err = e.Normalise()
			}
			s.Embeddings = append(s.Embeddings, e)
		}
		if len(want.Encoders) > 0 {
			s.Embedding = s.Embeddings[0]
		}
		if want.Crop {
			s.Crop = []byte("crop of somebody")
		}
	}
	return samples, err
}

func (p Pipeline) embed(ctx context.Context, photo []byte, pick embed.Pick) ([]embed.Sample, error) {
	if p.Before != nil {
		if err := p.Before(ctx); err != nil {
			return nil, err
		}
	}
	img, err := imaging.Decode(ctx, photo, imaging.DefaultLimits(), 0)
	if err != nil {
		return nil, err
	}
	samples := []embed.Sample{}
	for x := range img.Width {
		c := img.RGBA.RGBAAt(x, 0)
		if c.R == 255 {
			break
		}
		f := face.Face{
			Box:            face.Box{X: float32(x), Width: 1, Height: 1},
			DetectionScore: 0.9,
			Quality:        face.Quality{Score: 1 - float32(c.G)/255, Sharpness: 0.5, Brightness: 0.5, InterocularPx: 30},
		}
		if c.B == 1 {
			f.Quality.Reasons = []face.Reason{face.ReasonLowSharpness}
		}
		samples = append(samples, embed.Sample{Face: f, Embedding: Vector(c.R, c.G)})
	}
	for i := range samples {
		samples[i].Found = len(samples)
	}
	refuse := func(kind face.Kind, reason face.Reason) ([]embed.Sample, error) {
		e := face.Errorf(kind, "test", "")
		e.Reasons = []face.Reason{reason}
		return nil, e
	}
	switch {
	case pick == embed.PickAll:
		return samples, nil
	case len(samples) == 0:
		return refuse(face.NoFace, face.ReasonNoFace)
	case pick == embed.PickOnly && len(samples) > 1:
		return refuse(face.ManyFaces, face.ReasonExceedsMaxFaces)
	}
	return samples[:1], nil
}

// Detect finds the people of a photo.
func (p slot) Detect(ctx context.Context, photo []byte, maxFaces int) (faces []face.Face, found int, err error) {
	samples, err := p.embed(ctx, photo, embed.PickAll)
	for _, s := range samples[:min(maxFaces, len(samples))] {
		faces = append(faces, s.Face)
	}
	return faces, len(samples), err
}

// Vector is a person's direction, turned by noise.
func Vector(number, noise uint8) face.Embedding {
	e := make(face.Embedding, Dimension)
	own, other := rand.New(rand.NewPCG(uint64(number), 1)), rand.New(rand.NewPCG(uint64(number), uint64(noise)+2))
	for i := range e {
		e[i] = float32(own.NormFloat64() + float64(noise)/40*other.NormFloat64())
	}
	n, err := e.Normalise()
	if err != nil {
		panic(err)
	}
	return n
}

// Calibration supports three operating points.
func Calibration() *face.Calibration {
	return &face.Calibration{
		Comparisons: 3e6,
		Points: []face.OperatingPoint{
			{Name: "fmr_1e-3", FMR: 1e-3, Threshold: 0.55},
			{Name: "fmr_1e-4", FMR: 1e-4, Threshold: 0.6},
			{Name: "fmr_1e-5", FMR: 1e-5, Threshold: 0.65},
		},
		Curve: []face.CurvePoint{{Score: 0, FMR: 0.5}, {Score: 0.6, FMR: 1e-4}, {Score: 0.7, FMR: 1e-5}},
	}
}
