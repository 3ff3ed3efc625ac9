package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/jpeg"
	"path"
	"slices"
	"strings"

	"golang.org/x/image/draw"

	"github.com/likeness-id/likeness/internal/photos"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
)

// source is a photo that may go into an average.
type source struct {
	Name      string
	Person    string
	Points    [5]face.Point
	Quality   face.Quality
	Box       face.Box
	Embedding face.Embedding
}

// heldOut are the people whom `likeness train` measures on and never learns
// from; they stay untouched here too.
func heldOut(person string) bool {
	h := fnv.New64a()
	h.Write([]byte(path.Base(person)))
	return h.Sum64()%1000 < 200
}

// findSources finds the face of every photo in the set of people who are not
// held out.
func findSources(ctx context.Context, p *likeness.Pipeline, set photos.Set) ([]source, error) {
	var names []string
	for _, n := range set.Names() {
		if strings.EqualFold(path.Ext(n), ".jpg") && !heldOut(path.Dir(n)) {
			names = append(names, n)
		}
	}
	found := make([]source, len(names))
	errs := make([]error, len(names))
	forEach(len(names), func(i int) { found[i], errs[i] = findSource(ctx, p, set, names[i]) })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(s source) bool { return s.Embedding == nil })
	return found, nil
}

func findSource(ctx context.Context, p *likeness.Pipeline, set photos.Set, name string) (source, error) {
	photo, err := set.ReadFile(name)
	if err != nil {
		return source{}, err
	}
	samples, err := p.Embed(ctx, photo, embed.PickLargest)
	if kind := face.KindOf(err); kind == face.NoFace {
		return source{}, nil
	} else if err != nil {
		return source{}, fmt.Errorf("%s: %w", name, err)
	}
	s := samples[0]
	return source{name, path.Dir(name), s.Face.Landmarks.Points(), s.Face.Quality, s.Face.Box, s.Embedding}, nil
}

// pixels decodes a photo.
func pixels(set photos.Set, name string) (*image.RGBA, error) {
	b, err := set.ReadFile(name)
	if err != nil {
		return nil, err
	}
	img, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := image.NewRGBA(image.Rect(0, 0, img.Bounds().Dx(), img.Bounds().Dy()))
	draw.Copy(out, image.Point{}, img, img.Bounds(), draw.Src, nil)
	return out, nil
}
