package embed

import (
	"context"
	"image"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/imaging"
)

const (
	// settledRoll is the tilt, in radians, up to which a face is not turned
	// upright and shown to the detector again. From about there on, the points of
	// the detectors that we know show less roll than the head has, and never more
	// than about 19 degrees.
	settledRoll = 3 * math.Pi / 180
	// hardlyLeans is the tilt, in radians, up to which the points of a face in
	// profile are believed.
	hardlyLeans = 15 * math.Pi / 180
	// maxRightings is how often a face is turned and shown again at most. It is
	// enough to bring a face that was found at 45 degrees near settledRoll.
	maxRightings = 4
	// maxExtraLooks is how many times at most the detector is shown parts of one
	// photo, or the photo turned. A picture of a hundred odd faces must not hold a
	// slot for seconds. The largest faces come first.
	maxExtraLooks = 64
)

// quarterTurns are the turns, in radians, at which a photo is looked at again
// when no face passes in the photo as it is.
func quarterTurns() []float64 { return []float64{math.Pi / 2, math.Pi, -math.Pi / 2} }

// roll is the turn of the head in the photo, in radians: the direction from
// the subject's right to their left, by eyes and mouth together.
func (d detection) roll() float64 {
	p := d.points
	return math.Atan2(float64(p[1].Y-p[0].Y+p[4].Y-p[3].Y), float64(p[1].X-p[0].X+p[4].X-p[3].X))
}

// tilt is how far from upright the face was when the detector saw it, in
// radians, as its points say. It is never negative.
func (d detection) tilt() float64 { return math.Abs(math.Remainder(d.roll()-d.shown, 2*math.Pi)) }

// detectInSquare runs the detector at a rung on a square of the photo that is
// turned by roll (radians), so that a head of that roll is upright. The centre
// and the side of the square are in pixels of the decoded photo. The detections,
// unsuppressed, are in pixels of the full-size photo and valid until the
// detector runs again.
func (w *worker) detectInSquare(ctx context.Context, v *view, r rung, cx, cy, side, roll float64) ([]detection, error) {
	v.extraLooks++
	sin, cos := math.Sincos(roll)
	scale := side / float64(r.side)
	// From the tensor to the decoded photo, both counted from the outer corner
	// of the first pixel.
	half := float64(r.side) / 2
	there := imaging.Affine{
		scale * cos, -scale * sin, cx - scale*half*(cos-sin),
		scale * sin, scale * cos, cy - scale*half*(sin+cos),
	}
	layout := w.detector
	layout.Width, layout.Height = r.side, r.side
	img, toSrc := w.shrunkSource(v.img.RGBA, centred(there), r.side, r.side)
	layout.Warp(r.session.Input(), img, toSrc)
	candidates, err := w.detect(ctx, r)
	for i, d := range candidates {
		d = d.mapped(there).rescaled(v.reduction(), 0, 0)
		d.shown = roll
		candidates[i] = d
	}
	return candidates, err
}

// centred converts a map between coordinates that count from the outer corner of
// the first pixel to one between coordinates that count from its centre.
func centred(a imaging.Affine) imaging.Affine {
	a[2] += (a[0]+a[1])/2 - 0.5
	a[5] += (a[3]+a[4])/2 - 0.5
	return a
}

// shrunkSource returns what a warp to width x height should read, and the warp
// that reads from it. If the warp shrinks by two or more, that is the part of the
// photo that it reads, shrunk by a whole factor; else it is the photo itself. It
// is valid until the next call.
func (w *worker) shrunkSource(img *image.RGBA, toSrc imaging.Affine, width, height int) (*image.RGBA, imaging.Affine) {
	factor := int(math.Hypot(toSrc[0], toSrc[3]))
	region := sourceBounds(toSrc, width, height).Intersect(img.Rect)
	if factor < 2 || region.Empty() {
		return img, toSrc
	}
	w.shrunk = shrink(w.shrunk, img, region, factor)
	f := float64(factor)
	for i := range toSrc {
		toSrc[i] /= f
	}
	toSrc[2] += (0.5-float64(region.Min.X))/f - 0.5
	toSrc[5] += (0.5-float64(region.Min.Y))/f - 0.5
	return w.shrunk, toSrc
}

// mapped is the detection under a similarity. The sides of the box stay parallel
// to the axes: the box turns about its centre by whole quarter turns only.
func (d detection) mapped(a imaging.Affine) detection {
	point := func(x, y float32) (float32, float32) {
		mx, my := a.Apply(float64(x), float64(y))
		return float32(mx), float32(my)
	}
	scale := float32(math.Hypot(a[0], a[3]))
	cx, cy := point((d.x0+d.x1)/2, (d.y0+d.y1)/2)
	halfX, halfY := (d.x1-d.x0)/2*scale, (d.y1-d.y0)/2*scale
	if math.Abs(a[3]) > math.Abs(a[0]) {
		halfX, halfY = halfY, halfX
	}
	d.x0, d.y0, d.x1, d.y1 = cx-halfX, cy-halfY, cx+halfX, cy+halfY
	for i, p := range d.points {
		d.points[i].X, d.points[i].Y = point(p.X, p.Y)
	}
	return d
}

// closeUp runs the detector at the smallest rung on the surroundings of one face,
// turned by roll (radians). If the face is not found again, it returns d and
// false.
func (w *worker) closeUp(ctx context.Context, v *view, d detection, roll float64) (detection, bool, error) {
	here := d.rescaled(1/v.reduction(), 0, 0)
	x, y := float64(here.x0+here.x1)/2, float64(here.y0+here.y1)/2
	candidates, err := w.detectInSquare(ctx, v, w.rungs[0], x, y, float64(here.side())*closeUpSides, roll)
	if err != nil {
		return d, false, err
	}
	closer, found := d, false
	for _, c := range candidates {
		if c.iou(d) > sameFace && (!found || c.score > closer.score) {
			closer, found = c, true
		}
	}
	return closer, found, nil
}

// turnUpright turns a face upright and looks at it again, until its points say
// that it was upright. If the face is not found again, the last detection stays.
// A face in profile that hardly leans is left as it is: it is refused for its
// pose, and another look might find a face there that is less in profile.
func (w *worker) turnUpright(ctx context.Context, v *view, d detection) (detection, error) {
	if d.tilt() < hardlyLeans && absFloat32(estimatePose(d.landmarks()).Yaw) > w.p.o.Quality.MaxYaw {
		return d, nil
	}
	for range maxRightings {
		if d.tilt() <= settledRoll || v.extraLooks >= maxExtraLooks {
			break
		}
		closer, found, err := w.closeUp(ctx, v, d, d.roll())
		if err != nil || !found {
			return d, err
		}
		closer.seen = d.seen // what was found small is looked at once more by refine
		d = closer
	}
	return d, nil
}

// rightFaces turns the faces that matter to the pick upright and gives them
// their verdicts. If each of them may be a turned face, or there is none, the
// whole photo is looked at again by quarter turns, since a camera may be mounted
// on its side or upside down. Else only those that may be turned are looked at
// again by quarter turns, one by one.
func (w *worker) rightFaces(ctx context.Context, v *view, pick Pick) error {
	certain := false
	var largest *detection // that is a face
	for i, d := range v.found {
		if largest != nil && !pick.matters(d, *largest) {
			break // they are sorted by size
		}
		d, err := w.turnAndScreen(ctx, v, d)
		if err != nil {
			return err
		}
		v.found[i], certain = d, certain || !d.verdict.turned
		if largest == nil && w.isFace(d) {
			largest = &v.found[i]
		}
	}
	if !certain {
		return w.lookTurned(ctx, v)
	}
	for i, d := range v.found {
		if d.verdict == nil || !d.verdict.turned || !w.passesSizeAndScore(d) {
			continue
		}
		for _, turn := range quarterTurns() {
			if v.extraLooks >= maxExtraLooks {
				break
			}
			turned, found, err := w.closeUp(ctx, v, d, turn)
			if err != nil {
				return err
			}
			if !found {
				continue
			}
			if turned, err = w.turnAndScreen(ctx, v, turned); err != nil {
				return err
			}
			if turned.better(v.found[i]) {
				v.found[i] = turned
			}
		}
	}
	v.found = bestOfSame(v.found, func(d, o detection) bool { return d.iou(o) > maxIoU })
	sortBySize(v.found)
	return nil
}

// bestOfSame keeps, of detections that are the same, the one with the best
// verdict.
func bestOfSame(found []detection, same func(d, o detection) bool) []detection {
	slices.SortStableFunc(found, func(a, b detection) int {
		switch {
		case a.better(b):
			return -1
		case b.better(a):
			return 1
		}
		return 0
	})
	var kept []detection
	for _, d := range found {
		if !slices.ContainsFunc(kept, func(k detection) bool { return same(d, k) }) {
			kept = append(kept, d)
		}
	}
	return kept
}

// turnAndScreen turns a face upright and gives it its verdict.
func (w *worker) turnAndScreen(ctx context.Context, v *view, d detection) (detection, error) {
	d, err := w.turnUpright(ctx, v, d)
	if err != nil {
		return d, err
	}
	n, err := w.prepareFace(v, d, nil)
	if err != nil {
		return d, err
	}
	err = w.screen(ctx, n, &d)
	return d, err
}

// lookTurned looks at the whole photo by quarter turns until a face passes: at
// the smallest rung, then at the next one if the photo is larger than the first.
// A face that does not pass counts only where one was found before. Of the faces
// in one place, the one with the best verdict stays.
func (w *worker) lookTurned(ctx context.Context, v *view) error {
	size := v.img.RGBA.Rect.Size()
	long := max(size.X, size.Y)
	left := v.count - len(v.found) // those that MaxFaces left out
	all := slices.Clone(v.found)
	for i, d := range all {
		if d.verdict == nil {
			var err error
			if all[i], err = w.turnAndScreen(ctx, v, d); err != nil {
				return err
			}
		}
	}
	for _, r := range w.rungs[:min(2, len(w.rungs))] {
		if r != w.rungs[0] && long <= w.rungs[0].side {
			break
		}
		passes := false
		for _, turn := range quarterTurns() {
			candidates, err := w.detectInSquare(ctx, v, r, float64(size.X)/2, float64(size.Y)/2, float64(long), turn)
			if err != nil {
				return err
			}
			kept := suppress(nil, candidates)
			sortBySize(kept)
			for _, d := range kept[:min(len(kept), w.p.o.MaxFaces)] {
				if d, err = w.turnAndScreen(ctx, v, d); err != nil {
					return err
				}
				passes = passes || d.verdict.passes
				if d.verdict.passes || slices.ContainsFunc(v.found, d.sharesPlace) {
					all = append(all, d)
				}
			}
		}
		if passes {
			break
		}
	}
	v.found = bestOfSame(all, detection.sharesPlace)
	sortBySize(v.found)
	v.count = len(v.found) + left
	v.found = v.found[:min(len(v.found), w.p.o.MaxFaces)]
	return nil
}

// sharesPlace reports whether two detections, found at different turns, are
// probably the same head.
func (d detection) sharesPlace(o detection) bool {
	return d.iou(o) > maxIoU || d.overlap(o) > maxInside*min(d.area(), o.area())
}

// better reports whether the quality network prefers d to another look at the
// same face.
func (d detection) better(o detection) bool {
	worth := func(d detection) float32 {
		if d.verdict == nil {
			return 0
		}
		return d.verdict.acceptable * d.score
	}
	return worth(d) > worth(o)
}
