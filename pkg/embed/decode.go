package embed

import (
	"context"
	"time"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// decode decodes a photo with at least the given number of pixels along its
// longer side, if it has them.
//
// When ctx ends, decode returns at once, even while a decoder runs that cannot be
// interrupted: see [imaging.Decode]. The worker's next decode waits for that one
// to end, so that there are never more decodes than workers.
func (w *worker) decode(ctx context.Context, photo []byte, least int) (*imaging.Image, error) {
	defer w.observe(StageDecode, time.Now())
	if w.decoding != nil {
		select {
		case <-w.decoding:
		case <-ctx.Done():
			return nil, face.Wrap(face.Canceled, "embed.decode", ctx.Err())
		}
	}
	var (
		img   *imaging.Image
		err   error
		ended = make(chan struct{})
	)
	w.decoding = ended
	go func() {
		defer close(ended)
		img, err = imaging.Decode(ctx, photo, w.p.o.Limits, least)
	}()
	select {
	case <-ended:
		return img, err
	case <-ctx.Done():
		return nil, face.Wrap(face.Canceled, "embed.decode", ctx.Err())
	}
}
