package identity

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

// FaceRule says which faces of a photo are meant.
type FaceRule string

// The rules.
const (
	FaceOnly    FaceRule = "only"    // the one that the photo is of; refused if a second one competes
	FaceLargest FaceRule = "largest" // the one with the largest box
	FaceAll     FaceRule = "all"     // all of them; none is an answer too
)

// Sample is a face that was taken from a photo.
type Sample struct {
	Face  face.Face
	Found int // faces found in the photo, those that were not taken included
}

// invalidField is an Invalid error about one field of a request.
func invalidField(name, detail string) error {
	return &face.Error{
		Kind: face.Invalid, Op: "identity.request", Detail: "The request breaks the contract.",
		Fields: []face.FieldError{{Pointer: "/" + name, Detail: detail}},
	}
}

// field is a field of a request that may be left out.
type field struct {
	name  string
	given bool
}

// exactlyOne refuses a request that has none of the fields, or several.
func exactlyOne(fields ...field) error {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	all, chosen := strings.Join(names, ", "), false
	for _, f := range fields {
		if f.given && chosen {
			return invalidField(f.name, "only one may be given of "+all)
		}
		chosen = chosen || f.given
	}
	if !chosen {
		return invalidField(names[0], "is missing: one must be given of "+all)
	}
	return nil
}

// galleryOf is the gallery that a request names, or the default one.
func galleryOf(name string) (string, error) {
	switch {
	case name == "":
		return face.DefaultGallery, nil
	case !face.ValidID(name):
		return "", invalidField("gallery", face.IDRule)
	}
	return name, nil
}

// wanted says which face of a photo is meant: the one at a place, if there is
// a place, else what the pick says.
type wanted struct {
	pick  embed.Pick
	place *face.Point
}

// chosenFace reads the field face, whose default is the first of the rules, and
// the field that names a place.
func chosenFace(rule FaceRule, placeField string, place []float32, rules ...FaceRule) (wanted, error) {
	pick, err := pickOf("face", rule, rules...)
	switch {
	case err != nil || place == nil:
		return wanted{pick: pick}, err
	case len(place) != 2:
		return wanted{}, invalidField(placeField, "must be two numbers: x and y in pixels of the upright image")
	case rule != "":
		return wanted{}, invalidField(placeField, "must not be given together with face")
	}
	return wanted{pick: pick, place: &face.Point{X: place[0], Y: place[1]}}, nil
}

// pickOf reads a field with a rule, whose default is the first of the rules.
func pickOf(name string, rule FaceRule, rules ...FaceRule) (embed.Pick, error) {
	if rule == "" {
		rule = rules[0]
	}
	if !slices.Contains(rules, rule) {
		var names []string
		for _, r := range rules {
			names = append(names, string(r))
		}
		return 0, invalidField(name, "must be one of "+strings.Join(names, ", "))
	}
	switch rule {
	case FaceLargest:
		return embed.PickLargest, nil
	case FaceAll:
		return embed.PickAll, nil
	}
	return embed.PickOnly, nil
}

// acquire embeds the faces of a photo and counts what could not be acquired.
// Errors point at the field of the photo.
func (s *Service) acquire(ctx context.Context, slot embed.Slot, name string, photo []byte, which wanted, want embed.Want) ([]embed.Sample, error) {
	want.At = which.place
	samples, err := slot.Embed(ctx, photo, which.pick, want)
	if e, ok := errors.AsType[*face.Error](err); ok {
		s.notAcquired(e.Reasons)
	}
	return samples, face.PointAt(err, "/"+name)
}

// embedding checks an embedding that the caller computed and scales it to unit
// length.
func (e Encoder) embedding(name string, numbers []float32, modelID string) (face.Embedding, error) {
	const op = "identity.embedding"
	switch {
	case modelID == "":
		return nil, invalidField("model_id", "is missing: an embedding needs the model that made it")
	case modelID != e.ID:
		return nil, face.PointAt(face.Errorf(face.ModelMismatch, op, "The model in use is %s.", e.ID), "/model_id")
	case len(numbers) != e.Dimension:
		return nil, face.PointAt(face.Errorf(face.ModelMismatch, op, "An embedding of %s has %d numbers, not %d.", e.ID, e.Dimension, len(numbers)), "/"+name)
	}
	unit, err := face.Embedding(numbers).Normalise()
	return unit, face.PointAt(err, "/"+name)
}

// point is the operating point that a request names, or the default one.
func (s *Service) point(e Encoder, name string) (p face.OperatingPoint, err error) {
	if name == "" {
		p, err = s.DefaultPoint(e)
	} else {
		p, err = e.Policy.Point(name)
	}
	return p, face.PointAt(err, "/operating_point")
}

// DefaultPoint is the operating point of requests that name none. If the
// encoder's calibration does not support it, the error is
// OperatingPointUnsupported and says what the operator can set.
func (s *Service) DefaultPoint(e Encoder) (face.OperatingPoint, error) {
	return e.DefaultPoint(s.o.OperatingPoint)
}

// DefaultPoint is the operating point of that name, which is the server's: see
// [Service.DefaultPoint].
func (e Encoder) DefaultPoint(name string) (face.OperatingPoint, error) {
	p, err := e.Policy.Point(name)
	if known, ok := errors.AsType[*face.Error](err); ok && len(e.Policy.Points()) > 0 {
		return p, face.Errorf(known.Kind, known.Op,
			"%s; a request that names no operating_point gets the server's, which --operating-point (LIKENESS_OPERATING_POINT) sets", known.Detail)
	}
	return p, err
}
