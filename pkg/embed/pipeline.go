// Package embed turns photos into embeddings: it finds the faces, judges the
// quality of each, aligns it and encodes it. A [Pipeline] does this with a
// bounded number of photos at a time. A [Manifest] says what a network expects,
// and a [Registry] holds the manifests and the files of all models that are
// known. The networks run behind the interfaces of this package, [Network] and
// [Session], so that it depends on no inference runtime; package likeness opens
// a pipeline on ONNX Runtime.
package embed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// The stages that Options.Observe is told of.
const (
	StageDecode = "decode" // bytes to upright pixels
	StageDetect = "detect" // the detector's looks at a photo; those at its small faces
	StageAlign  = "align"  // quality and warp of one face
	StageEncode = "encode" // one face to its embedding
)

// Pick says which of a photo's faces are wanted.
type Pick uint8

const (
	// PickOnly wants the one face that a photo is of, and refuses a photo in
	// which a second one competes: by its size, how near it is to the middle of
	// the photo, and its quality together. Whoever stands in the background or
	// at the edge does not, nor does what is no face, unless nothing better was
	// found; Sample.Found counts them all.
	PickOnly Pick = iota
	// PickLargest wants the face with the largest box, leaving out what is no
	// face as PickOnly does.
	PickLargest
	// PickAll wants every face; none at all is an answer too.
	PickAll
)

// Want says what is to be made of a photo's faces.
type Want struct {
	// Encoders are the models to encode each face with; none is the
	// pipeline's own.
	Encoders []string
	// Crop asks for what other encoders can be shown later.
	Crop bool
	// At picks the face whose box holds the place, in pixels of the upright
	// full-size photo, whatever the pick says. Nil: the pick decides.
	At *face.Point
}

// Sample is a face with its embeddings.
type Sample struct {
	Face       face.Face
	Embedding  face.Embedding   // the first of Embeddings
	Embeddings []face.Embedding // L2-normalised, one for each of Want.Encoders
	Crop       []byte           // a JPEG that EmbedCrop takes; nil unless it was wanted
	Found      int              // faces found in the photo, this one and those that nobody picked included
}

// Options of a [Pipeline].
type Options struct {
	Detector      Network
	DetectorModel Manifest
	Encoder       Network
	EncoderModel  Manifest
	// QualityNetwork says whether a crop shows a face as encoders know them.
	// Nil: every face passes.
	QualityNetwork Network
	QualityModel   Manifest
	// Load loads a further encoder by its id, when it is first used. The caller
	// closes the networks, after the pipeline. It may be called for several ids
	// at the same time, but not twice at the same time for one id. Nil: there
	// are no further encoders.
	Load func(id string) (Network, Manifest, error)

	// Slots is how many requests run at a time; 0 is one per CPU. Each holds
	// one thread, its sessions and at most one decoded photo. A request takes
	// one slot for all its photos.
	Slots int
	// Queue is how many more requests may wait for a slot; one more is
	// Overloaded at once. 0 is eight per slot, less than 0 none.
	Queue int
	// QueueTime is how long a request may wait for a slot while more requests
	// arrive than can be served; one that would wait longer is Overloaded at
	// once. 0 is half as long as a request takes, as measured. A batch, which
	// wants throughput and no short waits, sets it high, and Queue too.
	QueueTime time.Duration
	// MaxFaces is how many faces of one photo are looked at, the largest
	// first; 0 is 100.
	MaxFaces int
	// Limits of photos; the zero value is imaging.DefaultLimits.
	Limits imaging.Limits
	// Quality is the quality gate; the zero value is DefaultQualityLimits. If its
	// MinDetectionScore is the default one, the detector's QualityThreshold takes
	// its place, if its manifest has one.
	Quality QualityLimits

	// Observe, when set, is told how long each stage took. ObserveWait is told
	// how long each request waited for a slot; those that got none are not
	// counted. They must be safe for concurrent use.
	Observe     func(stage string, seconds float64)
	ObserveWait func(seconds float64)
}

// DefaultOptions are the options that zero fields stand for: one slot per CPU
// (GOMAXPROCS), a queue of eight per slot, at most 100 faces of a photo, and
// [imaging.DefaultLimits] and [DefaultQualityLimits]. Networks and their models
// have no default.
func DefaultOptions() Options {
	slots := runtime.GOMAXPROCS(0)
	return Options{
		Slots: slots, Queue: DefaultQueue(slots), MaxFaces: 100,
		Limits: imaging.DefaultLimits(), Quality: DefaultQualityLimits(),
	}
}

// DefaultQueue is how many requests may wait when there are so many slots:
// eight for each.
func DefaultQueue(slots int) int { return 8 * slots }

// withDefaults fills in what was left open and says which field is wrong.
func (o Options) withDefaults() (Options, error) {
	d := DefaultOptions()
	o.Slots = cmp.Or(o.Slots, d.Slots)
	o.Queue = max(0, cmp.Or(o.Queue, DefaultQueue(o.Slots)))
	o.MaxFaces = cmp.Or(o.MaxFaces, d.MaxFaces)
	o.Limits = cmp.Or(o.Limits, d.Limits)
	o.Quality = cmp.Or(o.Quality, d.Quality)
	if least := o.DetectorModel.QualityThreshold; least > 0 && o.Quality.MinDetectionScore == d.Quality.MinDetectionScore {
		o.Quality.MinDetectionScore = least
	}
	if o.Observe == nil {
		o.Observe = func(string, float64) {}
	}
	if o.ObserveWait == nil {
		o.ObserveWait = func(float64) {}
	}
	m := o.DetectorModel
	switch {
	case o.Detector == nil:
		return o, errors.New("Options.Detector is missing")
	case o.Encoder == nil:
		return o, errors.New("Options.Encoder is missing")
	case m.Task != TaskDetector:
		return o, fmt.Errorf("Options.DetectorModel: %s is of task %q", m.ID, m.Task)
	case m.Input.Width != m.Input.Height:
		return o, fmt.Errorf("Options.DetectorModel: %s has an input of %dx%d, want a square or any size", m.ID, m.Input.Width, m.Input.Height)
	case o.Slots < 0:
		return o, fmt.Errorf("Options.Slots: %d is less than 0", o.Slots)
	case o.QueueTime < 0:
		return o, fmt.Errorf("Options.QueueTime: %s is less than 0", o.QueueTime)
	case o.MaxFaces < 0:
		return o, fmt.Errorf("Options.MaxFaces: %d is less than 0", o.MaxFaces)
	}
	return o, nil
}

// Pipeline turns photos into faces and embeddings. It is safe for concurrent
// use; a bounded gate keeps the number of requests that run to the number of
// slots.
type Pipeline struct {
	o        Options
	encoders *encoders
	gate     *gate
}

// New makes a pipeline with all its sessions, so that what is wrong with the
// models shows here. The networks stay the caller's, to be closed after the
// pipeline. Errors: Invalid for options that cannot be, and for networks that
// contradict their manifests.
func New(o Options) (*Pipeline, error) {
	const op = "embed.New"
	o, err := o.withDefaults()
	if err != nil {
		return nil, face.Wrap(face.Invalid, op, err)
	}
	decoder, err := newDecoder(o.DetectorModel)
	if err != nil {
		return nil, face.Wrap(face.Invalid, op, err)
	}
	own, err := newEncoder(o.Encoder, o.EncoderModel)
	if err != nil {
		return nil, face.Wrap(face.Invalid, op, fmt.Errorf("Options.EncoderModel: %w", err))
	}
	p := &Pipeline{o: o, encoders: newEncoders(own, o.Load)}
	var workers []*worker
	for range o.Slots {
		w, err := newWorker(p, decoder)
		if err != nil {
			return nil, face.Wrap(face.Invalid, op, errors.Join(err, closeAll(workers)))
		}
		workers = append(workers, w)
	}
	p.gate = newGate(workers, o)
	return p, nil
}

// Detector is the manifest of the detector.
func (p *Pipeline) Detector() Manifest { return p.o.DetectorModel }

// Encoder is the manifest of the encoder.
func (p *Pipeline) Encoder() Manifest { return p.o.EncoderModel }

// Close turns new and waiting requests away, loads no more encoders, waits for
// the running requests, and closes the sessions. A second call does nothing.
func (p *Pipeline) Close() error {
	p.encoders.close()
	return face.Wrap(face.Internal, "embed.Close", closeAll(p.gate.close()))
}

func closeAll(workers []*worker) error {
	var errs []error
	for _, w := range workers {
		errs = append(errs, w.close())
	}
	return errors.Join(errs...)
}

// detectFaces is the work of [Pipeline.Detect].
func (w *worker) detectFaces(ctx context.Context, photo []byte, maxFaces int) (faces []face.Face, found int, err error) {
	v, err := w.findFaces(ctx, photo, PickAll)
	if err != nil {
		return nil, 0, err
	}
	v.frames = []frame{w.p.encoders.own.frame}
	if maxFaces > 0 {
		v.found = v.found[:min(maxFaces, len(v.found))]
	}
	if err := w.refine(ctx, v, photo); err != nil {
		return nil, 0, err
	}
	faces = make([]face.Face, len(v.found))
	for i, d := range v.found {
		start := time.Now()
		n, err := w.prepareFace(v, d, v.frames)
		if err != nil {
			return nil, 0, err
		}
		if faces[i], err = w.assessFace(ctx, n, d); err != nil {
			return nil, 0, err
		}
		w.observe(StageAlign, start)
	}
	return faces, v.count, nil
}

// embedFaces is the work of [Pipeline.EmbedWith].
func (w *worker) embedFaces(ctx context.Context, photo []byte, pick Pick, want Want) ([]Sample, error) {
	asked, err := w.p.encoders.find(ctx, want.Encoders...)
	if err != nil {
		return nil, err
	}
	// A session that cannot be made shows before anything is done.
	heads := make([]*head, len(asked))
	for i, e := range asked {
		if heads[i], err = w.head(e); err != nil {
			return nil, err
		}
	}
	if want.At != nil {
		pick = PickAll // what is small counts, too
	}
	v, err := w.findFaces(ctx, photo, pick)
	if err != nil {
		return nil, err
	}
	for _, e := range asked {
		v.frames = append(v.frames, e.frame)
	}
	if want.Crop {
		v.frames = append(v.frames, cropFrame())
	}
	if want.At != nil {
		v.found, err = v.faceAt(*want.At)
	} else {
		v.found, err = w.applyPick(v, pick)
	}
	if err != nil {
		return nil, err
	}
	if err := w.refine(ctx, v, photo); err != nil {
		return nil, err
	}
	samples := make([]Sample, len(v.found))
	for i, d := range v.found {
		if samples[i], err = w.embedFace(ctx, v, d, heads, want.Crop); err != nil {
			return nil, err
		}
		samples[i].Found = v.count
	}
	return samples, nil
}

// embedFace makes everything that is wanted of one face.
func (w *worker) embedFace(ctx context.Context, v *view, d detection, heads []*head, crop bool) (s Sample, err error) {
	start := time.Now()
	n, err := w.prepareFace(v, d, v.frames)
	if err != nil {
		return s, err
	}
	if s.Face, err = w.assessFace(ctx, n, d); err != nil {
		return s, err
	}
	for i, h := range heads {
		if i > 0 {
			start = time.Now()
		}
		if err := h.align(n); err != nil {
			return s, err
		}
		w.observe(StageAlign, start)
		e, err := w.encode(ctx, h)
		if err != nil {
			return s, err
		}
		s.Embeddings = append(s.Embeddings, e)
	}
	s.Embedding = s.Embeddings[0]
	if crop {
		s.Crop, err = n.crop()
	}
	return s, err
}

// worker is one slot: sessions and buffers that one request uses at a time.
type worker struct {
	p          *Pipeline
	decoder    decoder
	rungs      []rung // the smallest first
	detector   imaging.Planar
	heads      map[*encoder]*head // those used so far, the pipeline's own at least
	candidates []detection
	quality    *screener   // nil: there is none
	crop       *image.RGBA // for quality
	shrunk     *image.RGBA // for prepareFace and closeUp; grows to the largest need

	decoding <-chan struct{} // closed when the decode of the last photo has ended
}

// rung is a detector session for a side x side input.
type rung struct {
	side    int
	session Session
}

// ladder lists the input sizes of a detector that takes any.
func ladder() []int { return []int{320, 640, 1024} }

// settledSide is the side in pixels, as the detector sees it, from which a
// face of the first look is left as it is. In a look that finds such a face,
// another one a third as large is still found.
const settledSide = 40

func newWorker(p *Pipeline, decoder decoder) (_ *worker, err error) {
	d := p.o.DetectorModel
	w := &worker{p: p, decoder: decoder, crop: image.NewRGBA(image.Rect(0, 0, qualitySide, qualitySide)), heads: map[*encoder]*head{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	sides := ladder()
	if d.Input.Width != 0 {
		sides = []int{d.Input.Width}
	}
	for _, side := range sides {
		s, err := p.o.Detector.Session(1, 3, int64(side), int64(side))
		if err != nil {
			return nil, err
		}
		w.rungs = append(w.rungs, rung{side, s})
		if err := decoder.check(s, side); err != nil {
			return nil, fmt.Errorf("detector %s, decoder %q: %w", d.ID, d.Decoder, err)
		}
	}
	w.detector = planar(d.Input, 0, 0)
	if p.o.QualityNetwork != nil {
		if w.quality, err = newScreener(p.o.QualityNetwork, p.o.QualityModel); err != nil {
			return nil, err
		}
	}
	if _, err := w.head(p.encoders.own); err != nil {
		return nil, err
	}
	return w, nil
}

// planar is the tensor layout that a manifest describes.
func planar(in Input, width, height int) imaging.Planar {
	return imaging.Planar{Width: width, Height: height, BGR: in.Order == "bgr", Mean: in.Mean, Scale: in.Scale}
}

func (w *worker) close() error {
	var errs []error
	for _, r := range w.rungs {
		errs = append(errs, r.session.Close())
	}
	for _, h := range w.heads {
		errs = append(errs, h.session.Close())
	}
	if w.quality != nil {
		errs = append(errs, w.quality.session.Close())
	}
	return errors.Join(errs...)
}

// view is a decoded photo with what was found in it.
type view struct {
	img   *imaging.Image
	found []detection // in pixels of the upright full-size photo
	count int         // faces found, those left out of found included
	// How often the detector was shown a part of the photo, or the photo turned.
	extraLooks int
	// What the faces will be warped to, which says how many pixels they need.
	frames []frame
	// What makes a face of the first look certain: the side of its box, in
	// pixels of the full-size photo, and its score.
	certainSide, certainScore float32
}

// reduction is how many pixels of the full-size photo one decoded pixel is.
func (v *view) reduction() float32 { return float32(1 / v.img.Scale) }

func longSide(img *image.RGBA) int { return max(img.Rect.Dx(), img.Rect.Dy()) }

func (v *view) isCertain(d detection) bool {
	return d.side() >= v.certainSide && d.score >= v.certainScore
}

func (w *worker) observe(stage string, start time.Time) {
	w.p.o.Observe(stage, time.Since(start).Seconds())
}

// findFaces decodes a photo and finds its faces, the largest first.
//
// The first look at the photo is cheap, at the smallest rung. A second look
// follows if the photo has more pixels than that and a face may have been
// missed: always when all faces are wanted, otherwise when no face was found
// that is large enough to be certain. It uses the smallest rung that the photo
// fits in, or the largest.
func (w *worker) findFaces(ctx context.Context, photo []byte, pick Pick) (*view, error) {
	img, err := w.decode(ctx, photo, w.rungs[len(w.rungs)-1].side)
	if err != nil {
		return nil, err
	}
	defer w.observe(StageDetect, time.Now())
	v := &view{
		img:          img,
		certainSide:  settledSide * float32(max(img.Width, img.Height)) / float32(w.rungs[0].side),
		certainScore: w.p.o.Quality.MinDetectionScore,
	}
	if err := w.detectAtRung(ctx, v, w.rungs[0]); err != nil {
		return nil, err
	}
	missed := pick == PickAll || !slices.ContainsFunc(v.found, v.isCertain)
	if long := longSide(img.RGBA); missed && len(w.rungs) > 1 && long > w.rungs[0].side {
		second := w.rungs[len(w.rungs)-1]
		if i := slices.IndexFunc(w.rungs, func(r rung) bool { return r.side >= long }); i >= 0 {
			second = w.rungs[i]
		}
		if err := w.detectAtRung(ctx, v, second); err != nil {
			return nil, err
		}
	}
	sortBySize(v.found)
	v.count = len(v.found)
	v.found = v.found[:min(len(v.found), w.p.o.MaxFaces)]
	return v, w.rightFaces(ctx, v, pick)
}

// sortBySize puts the largest face first.
func sortBySize(found []detection) {
	slices.SortStableFunc(found, func(a, b detection) int { return cmp.Compare(b.area(), a.area()) })
}

// detectAtRung shows the photo to the detector at one rung and merges what it
// finds into v.found. Faces that were certain before stay as they are.
func (w *worker) detectAtRung(ctx context.Context, v *view, r rung) error {
	candidates, err := w.show(ctx, v.img.RGBA, r)
	if err != nil {
		return err
	}
	for i, d := range candidates {
		candidates[i] = d.rescaled(v.reduction(), 0, 0)
	}
	var certain []detection
	for _, d := range v.found {
		if v.isCertain(d) {
			certain = append(certain, d)
		} else {
			candidates = append(candidates, d)
		}
	}
	v.found = suppress(certain, candidates)
	return nil
}

// show gives what the detector finds in a picture at one rung, unsuppressed,
// in pixels of the picture. It holds until the next call.
func (w *worker) show(ctx context.Context, img *image.RGBA, r rung) ([]detection, error) {
	layout := w.detector
	layout.Width, layout.Height = r.side, r.side
	scale := layout.Letterbox(r.session.Input(), img)
	candidates, err := w.detect(ctx, r)
	for i, d := range candidates {
		candidates[i] = d.rescaled(float32(1/scale), 0, 0)
	}
	return candidates, err
}

// refine improves the faces that were found small. It decodes the photo again at
// a larger scale, if the photo has more pixels of them than the reduced picture
// that they were found in. Then it detects each face once more, alone and
// enlarged: landmarks that are a pixel off in a small face spoil its embedding.
func (w *worker) refine(ctx context.Context, v *view, photo []byte) error {
	if err := w.decodeLarger(ctx, v, photo); err != nil {
		return err
	}
	if !slices.ContainsFunc(v.found, w.needsCloseUp) {
		return nil
	}
	defer w.observe(StageDetect, time.Now())
	for i, d := range v.found {
		if !w.needsCloseUp(d) {
			continue
		}
		roll := d.shown
		if d.tilt() > settledRoll {
			roll = d.roll()
		}
		closer, _, err := w.closeUp(ctx, v, d, roll)
		if err != nil {
			return err
		}
		v.found[i] = closer
	}
	sortBySize(v.found)
	return nil
}

// passesSizeAndScore reports whether a face is large enough for the quality gate
// and scores high enough.
func (w *worker) passesSizeAndScore(d detection) bool {
	return distance(d.points[0], d.points[1]) >= w.p.o.Quality.MinInterocularPx &&
		d.score >= w.p.o.Quality.MinDetectionScore
}

// needsCloseUp reports whether a face is detected once more, from close up.
func (w *worker) needsCloseUp(d detection) bool {
	return d.seen < settledSide && w.passesSizeAndScore(d)
}

const (
	// closeUpSides is how much of the photo a close-up shows, in sides of the
	// face's box: about as much as the photos of LFW do.
	closeUpSides = 2.7
	// sameFace is the IoU from which a face seen close up is the one that was
	// looked for.
	sameFace = 0.3
)

// decodeLarger decodes the photo again, at a larger scale, if a face has fewer
// decoded pixels than the picture it is warped to and the photo has more. Faces
// that the quality gate refuses for their size or score do not count.
func (w *worker) decodeLarger(ctx context.Context, v *view, photo []byte) error {
	reduction := v.reduction()
	if reduction <= 1 {
		return nil
	}
	var want float32
	for _, f := range v.frames {
		want = max(want, distance(f.points[0], f.points[1]))
	}
	least := want
	for _, d := range v.found {
		if w.passesSizeAndScore(d) {
			least = min(least, distance(d.points[0], d.points[1])/reduction)
		}
	}
	if least >= want {
		return nil
	}
	long := float64(longSide(v.img.RGBA)) * float64(want/least)
	full := float64(max(v.img.Width, v.img.Height))
	img, err := w.decode(ctx, photo, int(math.Ceil(min(long, full))))
	if err != nil {
		return err
	}
	v.img = img
	return nil
}

// assessFace makes the face of a detection, with its quality.
func (w *worker) assessFace(ctx context.Context, n faceArea, d detection) (face.Face, error) {
	if err := w.screen(ctx, n, &d); err != nil {
		return face.Face{}, err
	}
	f := face.Face{
		Box:            face.Box{X: d.x0, Y: d.y0, Width: d.x1 - d.x0, Height: d.y1 - d.y0},
		Landmarks:      d.landmarks(),
		DetectionScore: d.score,
	}
	toSrc, err := n.warpFrom(qualityTemplate())
	if err != nil {
		return face.Face{}, err
	}
	imaging.WarpRGBA(w.crop, n.img, toSrc)
	f.Quality = w.p.o.Quality.assess(f, w.crop, n.visible, d.verdict)
	return f, nil
}
