package embed

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// decoder turns the outputs of one family of detectors into detections.
// Everything else (input, suppression, further looks, quality) is the same for
// all families. A decoder keeps nothing of a run, so all slots share one.
type decoder interface {
	// check returns an error when the outputs of a new session for a
	// side x side input are not what decode reads. The error says what differs,
	// for whoever wrote the manifest.
	check(s Session, side int) error
	// decode appends what the session found to found: box, points and score, in
	// pixels of its side x side input. The detections overlap and have no
	// order. Numbers that are not finite or make no sense may be among them:
	// worker.detect drops those.
	decode(s Session, side int, found []detection) []detection
}

// decoders is the families by their names in [Manifest.Decoder]. A function
// finds the outputs that its family needs in a manifest, or says what is wrong
// with them. To add a family, write a decoder and name it here.
func decoders() map[string]func(Manifest) (decoder, error) {
	return map[string]func(Manifest) (decoder, error){
		"yunet": newYuNet,
		"scrfd": newSCRFD,
	}
}

// Decoders lists the families that [Manifest.Decoder] may name.
func Decoders() []string { return slices.Sorted(maps.Keys(decoders())) }

// decoderNames lists the families for errors: "scrfd" or "yunet".
func decoderNames() string {
	names := Decoders()
	for i, name := range names {
		names[i] = fmt.Sprintf("%q", name)
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// newDecoder makes the decoder of a detector.
func newDecoder(m Manifest) (decoder, error) {
	family, known := decoders()[m.Decoder]
	if !known {
		return nil, fmt.Errorf("detector %s: decoder %q is not known: it must be %s", m.ID, m.Decoder, decoderNames())
	}
	d, err := family(m)
	if err != nil {
		return nil, fmt.Errorf("detector %s, decoder %q: %w", m.ID, m.Decoder, err)
	}
	return d, nil
}

// outputNames are the names of a model's outputs, for errors.
func outputNames(m Manifest) []string {
	names := make([]string, len(m.Outputs))
	for i, o := range m.Outputs {
		names[i] = o.Name
	}
	return names
}

// strides are the widths in pixels of the cells of a detector's three grids.
func strides() [3]int { return [3]int{8, 16, 32} }

// detect runs the session of a rung, whose input is filled, and returns what it
// found, unsuppressed, in pixels of that input. The slice is valid until the
// next call.
func (w *worker) detect(ctx context.Context, r rung) ([]detection, error) {
	if err := r.session.Run(ctx); err != nil {
		return nil, face.Wrap(face.Internal, "embed.detect", err)
	}
	found := w.decoder.decode(r.session, r.side, w.candidates[:0])
	w.candidates = slices.DeleteFunc(found, func(d detection) bool { return !d.plausible(float32(r.side)) })
	for i, d := range w.candidates {
		w.candidates[i].seen = d.side()
	}
	return w.candidates, nil
}
