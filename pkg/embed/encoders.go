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
	e := &encoder{network: n, model: m, frame: frame{width: m.Input.Width, height: m.Input.Height}}
	for i, t := range m.Alignment {
		e.frame.points[i] = face.Point{X: t[0], Y: t[1]}
	}
	return e, nil
}

// encoders are those that were asked for so far. The weights of each are in
// memory once, from then on, and the tensors of its sessions once a slot.
type encoders struct {
	own  *encoder
	load func(id string) (Network, Manifest, error)

	mu     sync.Mutex
	loaded map[string]*encoder
	closed bool
}

// close ends loading, so that the caller knows all the networks there are.
func (s *encoders) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// get finds encoders by their ids, or the pipeline's own for none, and loads
// those that are not there yet. Who needs another one waits meanwhile, which
// happens once for each model.
func (s *encoders) get(ids ...string) ([]*encoder, error) {
	if len(ids) == 0 {
		return []*encoder{s.own}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*encoder, len(ids))
	for i, id := range ids {
		e, ok := s.loaded[id]
		if !ok {
			var err error
			if e, err = s.open(id); err != nil {
				return nil, &face.Error{
					Kind: face.Unavailable, Op: "embed.encoder", Err: err,
					Detail: fmt.Sprintf("The encoder %s cannot be loaded.", id),
				}
			}
			s.loaded[id] = e
		}
		out[i] = e
	}
	return out, nil
}

func (s *encoders) open(id string) (*encoder, error) {
	if s.closed {
		return nil, errors.New("the pipeline is closed")
	}
	if s.load == nil {
		return nil, errors.New("the pipeline has one encoder only")
	}
	n, m, err := s.load(id)
	if err != nil {
		return nil, err
	}
	return newEncoder(n, m)
}

// Prepare loads encoders before they are needed, and runs each once. An
// encoder that cannot be used is Unavailable.
func (p *Pipeline) Prepare(ctx context.Context, ids ...string) error {
	asked, err := p.encoders.get(ids...)
	if err != nil {
		return err
	}
	w, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer p.gate.leave(w)
	for _, e := range asked {
		if _, err := w.head(e); err != nil {
			return err
		}
	}
	return nil
}

// EmbedCrop gives the embedding that an encoder makes of a crop. Errors:
// InvalidImage for what is no crop, Internal for one of which the encoder
// makes nothing, and those of EmbedWith.
func (p *Pipeline) EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error) {
	asked, err := p.encoders.get(encoder)
	if err != nil {
		return nil, err
	}
	w, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer p.gate.leave(w)
	h, err := w.head(asked[0])
	if err != nil {
		return nil, err
	}
	start := time.Now()
	n, err := nearOfCrop(crop)
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
func (h *head) align(n near) error {
	toSrc, err := n.warp(h.frame.points)
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
