package embed

import (
	"context"
	"sync"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
)

// Slot is the right of one request to use the pipeline, for all its photos:
// [Pipeline.Enter] gives it, and Leave gives it back. It does one thing at a
// time; concurrent calls wait for each other. After Leave every other method
// fails with Internal.
type Slot interface {
	// Detect is [Pipeline.Detect] without the wait for a slot.
	Detect(ctx context.Context, photo []byte, maxFaces int) (faces []face.Face, found int, err error)
	// Embed is [Pipeline.EmbedWith] without the wait for a slot. The slot is
	// held while an encoder that was not used before is loaded.
	Embed(ctx context.Context, photo []byte, pick Pick, want Want) ([]Sample, error)
	// EmbedCrop is [Pipeline.EmbedCrop] without the wait for a slot.
	EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error)
	// Leave gives the slot to the next request, after the call under way. A
	// second call does nothing.
	Leave()
}

// Reserve holds a place at the gate for a request whose body is still to come,
// so that no body is read in vain. The place is used by [Pipeline.Enter], or
// given up by [Reservation.Cancel]. It expires when the body takes long; the
// request is then judged again when it enters. Errors: Overloaded when the
// request would wait for too long, Unavailable after Close.
func (p *Pipeline) Reserve() (*Reservation, error) { return p.gate.reserve() }

// Enter waits for a slot. r may be nil; the place that it holds, if any, is
// used. The caller calls Leave when the request has done its work on photos.
//
// Requests are served in the order in which they come. One that would wait for
// too long is refused at once: see Options.Queue and Options.QueueTime.
// Errors: Overloaded, Unavailable after Close, Canceled, Deadline.
func (p *Pipeline) Enter(ctx context.Context, r *Reservation) (Slot, error) {
	w, err := p.gate.enter(ctx, r)
	if err != nil {
		return nil, err
	}
	return &slot{gate: p.gate, worker: w, entered: time.Now()}, nil
}

type slot struct {
	gate    *gate
	entered time.Time

	mu     sync.Mutex // held by the call under way
	worker *worker    // nil: the slot was left
}

// errLeft is the error of a method that is called after Leave.
func errLeft() error {
	return face.Errorf(face.Internal, "embed.Slot", "the slot is used after Leave")
}

// Detect implements [Slot].
func (s *slot) Detect(ctx context.Context, photo []byte, maxFaces int) ([]face.Face, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil {
		return nil, 0, errLeft()
	}
	return s.worker.detectFaces(ctx, photo, maxFaces)
}

// Embed implements [Slot].
func (s *slot) Embed(ctx context.Context, photo []byte, pick Pick, want Want) ([]Sample, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil {
		return nil, errLeft()
	}
	return s.worker.embedFaces(ctx, photo, pick, want)
}

// EmbedCrop implements [Slot].
func (s *slot) EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker == nil {
		return nil, errLeft()
	}
	return s.worker.embedCrop(ctx, crop, encoder)
}

// Leave implements [Slot].
func (s *slot) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker != nil {
		s.gate.leave(s.worker, s.entered)
		s.worker = nil
	}
}

// Detect finds the faces of a photo, the largest first and at most maxFaces
// (0: Options.MaxFaces). Boxes and landmarks are in pixels of the upright
// full-size photo. found is how many faces there are in all, those left out of
// the list included. No face is no error. Errors: those of imaging.Decode and
// of [Pipeline.Enter].
func (p *Pipeline) Detect(ctx context.Context, photo []byte, maxFaces int) (faces []face.Face, found int, err error) {
	s, err := p.Enter(ctx, nil)
	if err != nil {
		return nil, 0, err
	}
	defer s.Leave()
	return s.Detect(ctx, photo, maxFaces)
}

// Embed finds the faces of a photo that pick asks for, the largest first, and
// gives each its embedding by the pipeline's own encoder. Quality refuses
// nothing here: it is part of the answer. Errors: NoFace and ManyFaces as pick
// says, with reasons; LowQuality where the photo is too dark or too bright to
// find a face; those of imaging.Decode and of [Pipeline.Enter].
func (p *Pipeline) Embed(ctx context.Context, photo []byte, pick Pick) ([]Sample, error) {
	return p.EmbedWith(ctx, photo, pick, Want{})
}

// EmbedWith is [Pipeline.Embed] with other encoders, or with a crop of each
// face. An encoder that cannot be loaded is Unavailable.
func (p *Pipeline) EmbedWith(ctx context.Context, photo []byte, pick Pick, want Want) ([]Sample, error) {
	// Encoders are loaded first, so that no slot is held meanwhile.
	if _, err := p.encoders.find(ctx, want.Encoders...); err != nil {
		return nil, err
	}
	s, err := p.Enter(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer s.Leave()
	return s.Embed(ctx, photo, pick, want)
}

// EmbedCrop gives the embedding that an encoder makes of a crop. Errors:
// InvalidImage for what is no crop, Internal for a crop of which the encoder
// makes nothing, Unavailable for an encoder that cannot be loaded, and those of
// [Pipeline.Enter].
func (p *Pipeline) EmbedCrop(ctx context.Context, crop []byte, encoder string) (face.Embedding, error) {
	if _, err := p.encoders.find(ctx, encoder); err != nil { // see EmbedWith
		return nil, err
	}
	w, err := p.gate.enterBackground(ctx)
	if err != nil {
		return nil, err
	}
	defer p.gate.leave(w, time.Time{})
	return w.embedCrop(ctx, crop, encoder)
}

// Prepare loads encoders before they are needed, and makes a session of each.
// An encoder that cannot be used is Unavailable.
func (p *Pipeline) Prepare(ctx context.Context, ids ...string) error {
	encoders, err := p.encoders.find(ctx, ids...)
	if err != nil {
		return err
	}
	w, err := p.gate.enterBackground(ctx)
	if err != nil {
		return err
	}
	defer p.gate.leave(w, time.Time{})
	for _, e := range encoders {
		if _, err := w.head(e); err != nil {
			return err
		}
	}
	return nil
}
