package embed

import (
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	// backgroundRatio is how large a face must be beside the largest one, by
	// the side of its box, to count for any pick but PickAll.
	backgroundRatio = 1.0 / 3
	// competes is the least prominence, as a share of that of the most prominent
	// face, with which another face competes with it.
	competes = 0.6
	// edgeLoss is the share of its prominence that a face loses in a corner of
	// the photo.
	edgeLoss = 0.5
	// doubtLoss multiplies the prominence of a face that the quality gate would
	// refuse, unless it is the most prominent one.
	doubtLoss = 0.75
)

// matters reports whether a face may count for the pick beside the largest one.
func (pick Pick) matters(d, largest detection) bool {
	return pick == PickAll || d.side() >= backgroundRatio*largest.side()
}

// applyPick applies the pick to the faces of a photo, which are sorted by size.
func (w *worker) applyPick(v *view, pick Pick) ([]detection, error) {
	const op = "embed.Pick"
	if pick == PickAll {
		return v.found, nil
	}
	if len(v.found) == 0 {
		return nil, v.noFace(w.p.o.Quality)
	}
	faces := slices.DeleteFunc(slices.Clone(v.found), func(d detection) bool { return !w.isFace(d) })
	if len(faces) == 0 {
		faces = slices.Clone(v.found)
	}
	if pick == PickLargest {
		return faces[:1], nil
	}
	most := slices.MaxFunc(faces, func(a, b detection) int {
		return int(math.Copysign(1, v.prominence(a)-v.prominence(b)))
	})
	alike := 0
	for _, d := range faces {
		prominence := v.prominence(d)
		if d != most && !w.passes(d) {
			prominence *= doubtLoss
		}
		if prominence >= competes*v.prominence(most) {
			alike++
		}
	}
	if alike > 1 {
		err := face.Errorf(face.ManyFaces, op, "%d faces compete in the photo where one is asked for: say which, by face or face_at, or send another photo.", alike)
		err.Reasons = []face.Reason{face.ReasonExceedsMaxFaces}
		return nil, err
	}
	return []detection{most}, nil
}

// isFace reports whether a detection is a face at all, whether or not it passes
// the quality gate. Only what is certainly no face is left out: a smaller face
// must not take the place of one in doubt.
func (w *worker) isFace(d detection) bool {
	return d.score >= w.p.o.Quality.MinDetectionScore && (d.verdict == nil || d.verdict.noFace < surely)
}

// passes reports whether a face passes the quality gate, by what is known of
// it before it is picked.
func (w *worker) passes(d detection) bool {
	return w.passesSizeAndScore(d) && d.verdict != nil && d.verdict.passes
}

// prominence says how much a photo is of this face. It is the side of the box,
// reduced by the distance from the middle of the photo and by the share of the
// box that the edge cuts off.
func (v *view) prominence(d detection) float64 {
	width, height := float64(v.img.Width), float64(v.img.Height)
	x, y := float64(d.x0+d.x1)/2-width/2, float64(d.y0+d.y1)/2-height/2
	off := min(math.Hypot(x, y)/(math.Hypot(width, height)/2), 1)
	photo := detection{x1: float32(v.img.Width), y1: float32(v.img.Height)}
	inside := float64(d.overlap(photo) / d.area())
	return float64(d.side()) * (1 - edgeLoss*off) * inside * inside
}

// faceAt picks the face whose box contains p. If several do, it picks the one
// whose middle is nearest.
func (v *view) faceAt(p face.Point) ([]detection, error) {
	var at []detection
	for _, d := range v.found {
		if p.X < d.x0 || p.X > d.x1 || p.Y < d.y0 || p.Y > d.y1 {
			continue
		}
		off := func(d detection) float32 { return distance(p, face.Point{X: (d.x0 + d.x1) / 2, Y: (d.y0 + d.y1) / 2}) }
		if len(at) == 0 || off(d) < off(at[0]) {
			at = []detection{d}
		}
	}
	if len(at) == 0 {
		err := face.Errorf(face.NoFace, "embed.Pick", "No face was found at (%g, %g) of the upright photo of %d x %d pixels.", p.X, p.Y, v.img.Width, v.img.Height)
		err.Reasons = []face.Reason{face.ReasonNoFace}
		return nil, err
	}
	return at, nil
}

// noFace is the error for a photo without a face. If the photo is too dark or
// too bright to show one, the error says that.
func (v *view) noFace(l QualityLimits) error {
	const op = "embed.Pick"
	kind, reason, detail := face.NoFace, face.ReasonNoFace, "No face was found in the photo."
	brightness := v.brightness()
	switch {
	case brightness < l.MinBrightness:
		kind, reason, detail = face.LowQuality, face.ReasonLowBrightness, "The photo is too dark to find a face in it."
	case brightness > l.MaxBrightness:
		kind, reason, detail = face.LowQuality, face.ReasonHighBrightness, "The photo is too bright to find a face in it."
	}
	err := face.Errorf(kind, op, "%s", detail)
	err.Reasons = []face.Reason{reason}
	return err
}

// brightness is the mean luma of the photo, 0..1, of every eighth pixel each way.
func (v *view) brightness() float32 {
	const step = 8
	img := v.img.RGBA
	var sum, n float64
	for y := img.Rect.Min.Y; y < img.Rect.Max.Y; y += step {
		for x := img.Rect.Min.X; x < img.Rect.Max.X; x += step {
			p := img.Pix[img.PixOffset(x, y):]
			sum += 0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2])
			n++
		}
	}
	return float32(sum / n / 255)
}
