package embed

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// frame is a picture that faces are warped to: its size, and where in it the
// five landmarks come to lie.
type frame struct {
	points        [5]face.Point
	width, height int
}

// encoder is a network with its manifest.
type encoder struct {
	network Network
	model   Manifest
	frame   frame
}

func newEncoder(n Network, m Manifest) (*encoder, error) {
	switch {
	case n == nil:
		return nil, fmt.Errorf("%s has no network", m.ID)
	case m.Task != TaskEncoder:
		return nil, fmt.Errorf("%s is of task %q", m.ID, m.Task)
	case m.Input.Width <= 0 || m.Input.Height <= 0 || m.Dimension <= 0:
		return nil, fmt.Errorf("%s has no fixed input and dimension", m.ID)
	case len(m.Alignment) != 5:
		return nil, fmt.Errorf("%s has %d alignment points, want 5", m.ID, len(m.Alignment))
	}
	f := frame{points: templateOf(m.Alignment), width: m.Input.Width, height: m.Input.Height}
	return &encoder{network: n, model: m, frame: f}, nil
}

// templateOf is a manifest's alignment, of which at most five points count.
func templateOf(alignment [][2]float32) (template [5]face.Point) {
	for i := range min(len(template), len(alignment)) {
		template[i] = face.Point{X: alignment[i][0], Y: alignment[i][1]}
	}
	return template
}

// loadRetry is how long an encoder that could not be loaded is not tried again:
// otherwise its file would be read and hashed for every request.
const loadRetry = 10 * time.Second

// encoders are those that were used so far. From its first use on, an encoder's
// weights are in memory once, and the tensors of its sessions once a slot.
type encoders struct {
	own  *encoder
	load func(id string) (Network, Manifest, error)

	mu     sync.Mutex // never held while an encoder is loaded
	known  map[string]*loading
	closed bool
	loads  sync.WaitGroup
}

// loading is an encoder that is being loaded or was loaded. encoder or err is
// set when done is closed.
type loading struct {
	done    chan struct{}
	encoder *encoder
	err     error
	retryAt time.Time // after a failure; guarded by encoders.mu
}

func newEncoders(own *encoder, load func(string) (Network, Manifest, error)) *encoders {
	loaded := &loading{done: make(chan struct{}), encoder: own}
	close(loaded.done)
	return &encoders{own: own, load: load, known: map[string]*loading{own.model.ID: loaded}}
}

// close ends loading and waits for what is being loaded, so that the caller
// knows all the networks there are.
func (s *encoders) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.loads.Wait()
}

// find finds encoders by their ids, or the pipeline's own if there is no id, and
// loads those that were not used before. Only a caller who needs an encoder that
// is being loaded waits for it.
func (s *encoders) find(ctx context.Context, ids ...string) ([]*encoder, error) {
	const op = "embed.encoder"
	if len(ids) == 0 {
		return []*encoder{s.own}, nil
	}
	out := make([]*encoder, len(ids))
	for i, id := range ids {
		l := s.startLoading(id)
		select {
		case <-l.done:
		default:
			select {
			case <-l.done:
			case <-ctx.Done():
				return nil, face.Wrap(face.Canceled, op, ctx.Err())
			}
		}
		if l.err != nil {
			return nil, &face.Error{
				Kind: face.Unavailable, Op: op, Err: l.err,
				Detail: fmt.Sprintf("The encoder %s cannot be loaded.", id),
			}
		}
		out[i] = l.encoder
	}
	return out, nil
}

// startLoading begins to load an encoder, unless that has begun already. A caller
// who gives up does not end the loading: others may wait for it.
func (s *encoders) startLoading(id string) *loading {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.known[id]
	if ok && (l.retryAt.IsZero() || time.Now().Before(l.retryAt)) {
		return l
	}
	l = &loading{done: make(chan struct{})}
	if s.closed {
		l.err = errors.New("the pipeline is closed")
		close(l.done)
		return l
	}
	s.known[id] = l
	s.loads.Go(func() {
		defer close(l.done)
		if l.encoder, l.err = s.loadEncoder(id); l.err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			l.retryAt = time.Now().Add(loadRetry)
		}
	})
	return l
}

func (s *encoders) loadEncoder(id string) (*encoder, error) {
	if s.load == nil {
		return nil, errors.New("the pipeline has one encoder only")
	}
	n, m, err := s.load(id)
	if err != nil {
		return nil, err
	}
	return newEncoder(n, m)
}

// embedCrop is the work of [Pipeline.EmbedCrop].
func (w *worker) embedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error) {
	asked, err := w.p.encoders.find(ctx, encoder)
	if err != nil {
		return nil, err
	}
	h, err := w.head(asked[0])
	if err != nil {
		return nil, err
	}
	start := time.Now()
	n, err := parseCrop(ctx, crop)
	if err != nil {
		return nil, err
	}
	w.observe(StageDecode, start)
	start = time.Now()
	if err := h.align(n); err != nil {
		return nil, err
	}
	w.observe(StageAlign, start)
	return w.encode(ctx, h)
}

// head is an encoder's session of one slot.
type head struct {
	*encoder
	session Session
	input   imaging.Planar
}

// head is the worker's session of an encoder, made when it is first used.
func (w *worker) head(e *encoder) (*head, error) {
	if h, ok := w.heads[e]; ok {
		return h, nil
	}
	in := e.model.Input
	s, err := e.network.Session(1, 3, int64(in.Height), int64(in.Width))
	if err != nil {
		return nil, err
	}
	if got := len(s.Output(0)); got != e.model.Dimension {
		err := face.Errorf(face.Unavailable, "embed.encoder", "encoder %s gives %d numbers, its manifest says %d", e.model.ID, got, e.model.Dimension)
		return nil, errors.Join(err, s.Close())
	}
	h := &head{encoder: e, session: s, input: planar(in, in.Width, in.Height)}
	w.heads[e] = h
	return h, nil
}

// align warps a face straight into the encoder's input.
func (h *head) align(n faceArea) error {
	toSrc, err := n.warpFrom(h.frame.points)
	if err != nil {
		return err
	}
	h.input.Warp(h.session.Input(), n.img, toSrc)
	return nil
}

// encode encodes the aligned face.
func (w *worker) encode(ctx context.Context, h *head) (face.Embedding, error) {
	const op = "embed.encode"
	defer w.observe(StageEncode, time.Now())
	if err := h.session.Run(ctx); err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	e, err := face.Embedding(h.session.Output(0)).Normalise()
	return e, face.Wrap(face.Internal, op, err)
}
