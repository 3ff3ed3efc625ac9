package embed

import (
	"cmp"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// detection is a face as the detector finds it, in pixels of the picture that
// the detector was shown. The points have the order of [face.Landmarks.Points].
type detection struct {
	x0, y0, x1, y1 float32
	points         [5]face.Point
	score          float32
	seen           float32  // the side of the box in pixels of the detector's input
	shown          float64  // the turn, in radians, of the picture that the detector was shown
	verdict        *verdict // of the quality network; nil: not asked yet
}

func (d detection) area() float32 { return (d.x1 - d.x0) * (d.y1 - d.y0) }

// side is the side of the square with the box's area.
func (d detection) side() float32 { return float32(math.Sqrt(float64(d.area()))) }

// overlap is the area that two boxes share.
func (d detection) overlap(o detection) float32 {
	w := min(d.x1, o.x1) - max(d.x0, o.x0)
	h := min(d.y1, o.y1) - max(d.y0, o.y0)
	return max(w, 0) * max(h, 0)
}

// iou is intersection over union: the area that two boxes share, divided by the
// area that they cover together.
func (d detection) iou(o detection) float32 {
	shared := d.overlap(o)
	return shared / (d.area() + o.area() - shared)
}

// landmarks are the points by their names.
func (d detection) landmarks() face.Landmarks {
	return face.Landmarks{
		RightEye: d.points[0], LeftEye: d.points[1], Nose: d.points[2], RightMouth: d.points[3], LeftMouth: d.points[4],
	}
}

// rescaled is the detection with every coordinate scaled and then shifted.
func (d detection) rescaled(scale, dx, dy float32) detection {
	d.x0, d.y0 = d.x0*scale+dx, d.y0*scale+dy
	d.x1, d.y1 = d.x1*scale+dx, d.y1*scale+dy
	for i, p := range d.points {
		d.points[i] = face.Point{X: p.X*scale + dx, Y: p.Y*scale + dy}
	}
	return d
}

// plausible reports whether the detection lies in or near a picture of
// side x side, has an area, and has points that can be aligned. Numbers that are
// not finite fail every comparison.
func (d detection) plausible(side float32) bool {
	about := func(x, y float32) bool { return x > -side && x < 2*side && y > -side && y < 2*side }
	if !about(d.x0, d.y0) || !about(d.x1, d.y1) || d.x1 <= d.x0 || d.y1 <= d.y0 || !(d.area() > 0) {
		return false
	}
	for _, p := range d.points {
		if !about(p.X, p.Y) {
			return false
		}
	}
	_, err := imaging.FitSimilarity(d.points, qualityTemplate())
	return err == nil
}

const (
	// maxCandidates bounds the work of suppress, which grows with the square of
	// their number. A crowd of 100 faces has about 1,000.
	maxCandidates = 4096
	// maxIoU is how much two faces may overlap, as a share of what they cover
	// together, before they count as one.
	maxIoU = 0.3
	// maxInside is the share of a box that may lie inside a certain face. A
	// sharper look at a large face finds faces in its parts, which are too small
	// for their IoU with it to show that.
	maxInside = 0.6
)

// suppress reduces candidates to one detection per face, best score first,
// and puts them behind the faces that are certain. It sorts candidates.
func suppress(certain, candidates []detection) []detection {
	slices.SortStableFunc(candidates, func(a, b detection) int { return cmp.Compare(b.score, a.score) })
	if len(candidates) > maxCandidates {
		candidates = candidates[:maxCandidates]
	}
	kept := slices.Clone(certain)
next:
	for _, c := range candidates {
		for i, k := range kept {
			inside := i < len(certain) && c.overlap(k) > maxInside*min(c.area(), k.area())
			if inside || c.iou(k) > maxIoU {
				continue next
			}
		}
		kept = append(kept, c)
	}
	return kept
}
