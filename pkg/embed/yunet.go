package embed

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// detection is a face as the detector gives it, in pixels of the picture it
// was shown. The points have the order of [face.Landmarks.Points].
type detection struct {
	x0, y0, x1, y1 float32
	points         [5]face.Point
	score          float32
	seen           float32  // the side when it was found, in pixels of the detector's input
	shown          float64  // by how much what the detector was shown was turned, in radians
	verdict        *verdict // of the quality network; nil: it was not asked
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

// iou is what two boxes share of what they cover together.
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

// moved is the detection with every coordinate scaled and then shifted.
func (d detection) moved(scale, dx, dy float32) detection {
	d.x0, d.y0 = d.x0*scale+dx, d.y0*scale+dy
	d.x1, d.y1 = d.x1*scale+dx, d.y1*scale+dy
	for i, p := range d.points {
		d.points[i] = face.Point{X: p.X*scale + dx, Y: p.Y*scale + dy}
	}
	return d
}

// yunet reads the outputs of a YuNet detector: three grids of cells, 8, 16
// and 32 pixels wide. Every cell has one prior at its upper left corner and
// gives a class score, an objectness score, a box and five points.
type yunet struct {
	heads     [3]yunetHead
	threshold float32 // least score of a detection
}

// yunetHead names one grid and where its tensors are among the outputs.
type yunetHead struct{ stride, cls, obj, box, points int }

// newYuNet finds the outputs by their names in the manifest.
func newYuNet(m Manifest) (*yunet, error) {
	if m.Decoder != "yunet" {
		return nil, fmt.Errorf("detector %s: decoder %q is not known; yunet is", m.ID, m.Decoder)
	}
	y := &yunet{threshold: m.Threshold}
	for i, stride := range [...]int{8, 16, 32} {
		h := yunetHead{stride: stride}
		for _, t := range []struct {
			kind string
			at   *int
		}{{"cls", &h.cls}, {"obj", &h.obj}, {"bbox", &h.box}, {"kps", &h.points}} {
			name := fmt.Sprintf("%s_%d", t.kind, stride)
			*t.at = slices.IndexFunc(m.Outputs, func(o Output) bool { return o.Name == name })
			if *t.at < 0 {
				return nil, fmt.Errorf("detector %s: output %s is missing", m.ID, name)
			}
		}
		y.heads[i] = h
	}
	return y, nil
}

// check reports whether a session of a side x side input has outputs of the
// sizes that decode reads.
func (y *yunet) check(s Session, side int) error {
	for _, h := range y.heads {
		cells := (side / h.stride) * (side / h.stride)
		for _, t := range []struct{ output, width int }{{h.cls, 1}, {h.obj, 1}, {h.box, 4}, {h.points, 10}} {
			if got := len(s.Output(t.output)); got != cells*t.width {
				return fmt.Errorf("detector output %d at stride %d has %d numbers for a %dx%d input, want %d",
					t.output, h.stride, got, side, side, cells*t.width)
			}
		}
	}
	return nil
}

// decode appends what the session found to into, in pixels of its side x side
// input. The detections overlap and are in no useful order. What no sound
// network would give is passed over.
func (y *yunet) decode(s Session, side int, into []detection) []detection {
	least := y.threshold * y.threshold // of cls*obj, so that most cells need no root
	for _, h := range y.heads {
		cls, obj := s.Output(h.cls), s.Output(h.obj)
		box, pts := s.Output(h.box), s.Output(h.points)
		columns := side / h.stride
		stride := float32(h.stride)
		for i, c := range cls {
			product := c * obj[i]
			if !(product >= least) { // also when it is NaN
				continue
			}
			column, row := float32(i%columns), float32(i/columns)
			b := box[4*i : 4*i+4]
			cx, cy := (column+b[0])*stride, (row+b[1])*stride
			w := float32(math.Exp(float64(b[2]))) * stride
			h := float32(math.Exp(float64(b[3]))) * stride
			d := detection{
				x0: cx - w/2, y0: cy - h/2, x1: cx + w/2, y1: cy + h/2,
				score: min(float32(math.Sqrt(float64(product))), 1),
			}
			for k := range d.points {
				d.points[k] = face.Point{
					X: (column + pts[10*i+2*k]) * stride,
					Y: (row + pts[10*i+2*k+1]) * stride,
				}
			}
			d.seen = d.side()
			if d.plausible(float32(side)) {
				into = append(into, d)
			}
		}
	}
	return into
}

// plausible reports whether the detection lies in or about a picture of
// side x side, has an area, and has points that can be aligned. Numbers that
// are not finite fail every comparison.
func (d detection) plausible(side float32) bool {
	about := func(x, y float32) bool { return x > -side && x < 2*side && y > -side && y < 2*side }
	if !about(d.x0, d.y0) || !about(d.x1, d.y1) || !(d.area() > 0) {
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
	// maxCandidates bounds the work of suppress, which grows with the square
	// of what it is given; a crowd of 100 faces gives about 1,000.
	maxCandidates = 4096
	// maxIoU is how much two faces may overlap, as a share of what they cover
	// together, before they count as one.
	maxIoU = 0.3
	// maxInside is the share of a box that may lie inside a face which is
	// already certain. A sharper look at a large face finds faces in its
	// parts, which an IoU does not notice.
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
