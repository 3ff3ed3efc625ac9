package embed

import (
	"fmt"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// yunet decodes YuNet (https://github.com/ShiqiYu/libfacedetection.train) and
// networks with the same heads. There are three grids of cells, 8, 16 and 32
// pixels wide, rows first. Each cell has one prior at its upper left corner and
// gives a class score and an objectness score, both 0..1, a box (offset of the
// centre, logarithm of the size) and five points, in cells. The score of a
// detection is the geometric mean of the two scores.
type yunet struct {
	heads     [3]yunetHead
	threshold float32  // least score of a detection
	names     []string // of the outputs
}

// yunetHead is one grid, with the indices of its outputs.
type yunetHead struct{ stride, cls, obj, box, points int }

// newYuNet finds the outputs by their names: cls_8, obj_8, bbox_8, kps_8, and
// the same for 16 and 32.
func newYuNet(m Manifest) (decoder, error) {
	y := &yunet{threshold: m.Threshold, names: outputNames(m)}
	for i, stride := range strides() {
		h := yunetHead{stride: stride}
		for _, output := range []struct {
			kind  string
			index *int
		}{{"cls", &h.cls}, {"obj", &h.obj}, {"bbox", &h.box}, {"kps", &h.points}} {
			name := fmt.Sprintf("%s_%d", output.kind, stride)
			*output.index = slices.IndexFunc(m.Outputs, func(o Output) bool { return o.Name == name })
			if *output.index < 0 {
				return nil, fmt.Errorf("output %s is missing", name)
			}
		}
		y.heads[i] = h
	}
	return y, nil
}

func (y *yunet) check(s Session, side int) error {
	for _, h := range y.heads {
		cells := (side / h.stride) * (side / h.stride)
		for _, t := range []struct{ output, width int }{{h.cls, 1}, {h.obj, 1}, {h.box, 4}, {h.points, 10}} {
			if got := len(s.Output(t.output)); got != cells*t.width {
				return fmt.Errorf("detector output %s has %d numbers for a %dx%d input, want %d",
					y.names[t.output], got, side, side, cells*t.width)
			}
		}
	}
	return nil
}

func (y *yunet) decode(s Session, side int, found []detection) []detection {
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
			found = append(found, d)
		}
	}
	return found
}
