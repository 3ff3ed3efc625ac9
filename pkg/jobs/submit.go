package jobs

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
	"github.com/likeness-id/likeness/pkg/style"
)

// inputs are the pictures of a job as they were sent.
type inputs struct {
	content       []byte
	styles, masks [][]byte
}

// task decodes the pictures, no larger than they are of use. Errors point at
// the field.
func (s *Service) task(ctx context.Context, in inputs, p style.Params) (style.Task, error) {
	const op = "jobs.task"
	t := style.Task{Params: p}
	switch {
	case len(in.content) == 0:
		return t, invalid("/content", "is missing")
	case len(in.styles) < 1 || len(in.styles) > style.MaxStyles:
		return t, invalid("/style", fmt.Sprintf("must be 1 to %d images", style.MaxStyles))
	case len(in.masks) > 0 && len(in.masks) != len(in.styles):
		return t, invalid("/mask", fmt.Sprintf("%d masks for %d style images", len(in.masks), len(in.styles)))
	}
	if err := p.Validate(len(in.styles)); err != nil {
		return t, pointAtParam(err)
	}
	decode := func(field string, data []byte, side int) (*image.RGBA, error) {
		img, err := imaging.Decode(ctx, data, s.o.Limits, side)
		if err != nil {
			return nil, withPointer(err, field)
		}
		if min(img.Width, img.Height) < minSide {
			return nil, invalid(field, fmt.Sprintf("has %d x %d pixels; %d along the shorter side are needed", img.Width, img.Height, minSide))
		}
		return img.RGBA, nil
	}
	var err error
	if t.Content, err = decode("/content", in.content, p.Size); err != nil {
		return t, err
	}
	long := int(math.Ceil(float64(p.Size) * max(1, p.StyleScale)))
	for i, data := range in.styles {
		img, err := decode(fmt.Sprintf("/style/%d", i), data, long)
		if err != nil {
			return t, err
		}
		t.Styles = append(t.Styles, img)
	}
	for i, data := range in.masks {
		img, err := decode(fmt.Sprintf("/mask/%d", i), data, p.Size)
		if err != nil {
			return t, err
		}
		t.Masks = append(t.Masks, toGray(img))
	}
	if err := s.o.Transferrer.Check(t); err != nil {
		if face.KindOf(err) == face.Invalid {
			return t, pointAtParam(err)
		}
		return t, face.Wrap(face.KindOf(err), op, err)
	}
	return t, nil
}

// toGray is the luma of an opaque picture.
func toGray(img *image.RGBA) *image.Gray {
	g := image.NewGray(img.Rect)
	for y := img.Rect.Min.Y; y < img.Rect.Max.Y; y++ {
		for x := img.Rect.Min.X; x < img.Rect.Max.X; x++ {
			g.Set(x, y, img.RGBAAt(x, y))
		}
	}
	return g
}

func invalid(pointer, detail string) *face.Error {
	e := face.Errorf(face.Invalid, "jobs.Submit", "The request breaks the contract.")
	e.Fields = []face.FieldError{{Pointer: pointer, Detail: detail}}
	return e
}

// withPointer is an error about a picture with the field it came in.
func withPointer(err error, field string) error {
	e := face.Error{Kind: face.KindOf(err), Op: "jobs.Submit", Err: err}
	if known, ok := errors.AsType[*face.Error](err); ok {
		e = *known
	}
	detail := e.Detail
	if detail == "" {
		detail = e.Kind.Title()
	}
	e.Fields = []face.FieldError{{Pointer: field, Detail: detail}}
	return &e
}

// pointAtParam turns the field that an error of package style begins with
// ("params.layers.style.r11: ...") into a pointer.
func pointAtParam(err error) error {
	e, ok := errors.AsType[*face.Error](err)
	if !ok {
		return err
	}
	name, detail, ok := strings.Cut(e.Detail, ": ")
	if !ok || strings.ContainsRune(name, ' ') {
		return err
	}
	return invalid("/"+strings.NewReplacer(".", "/", "[", "/", "]", "").Replace(name), detail)
}
