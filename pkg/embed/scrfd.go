package embed

import (
	"errors"
	"fmt"
	"math"

	"github.com/likeness-id/likeness/pkg/face"
)

// The values of [Manifest.Scores].
const (
	scoresProbability = "probability" // 0..1; also when it is left out
	scoresLogit       = "logit"       // the graph ends before its sigmoid
)

// maxAnchors is the most anchors a cell that scrfd takes. A graph with finer
// grids than it knows would look as if it had more.
const maxAnchors = 2

// scrfd decodes SCRFD (https://arxiv.org/abs/2105.04714) and the RetinaFace
// networks with the same heads, as InsightFace exports them. There are three
// grids of cells, 8, 16 and 32 pixels wide, rows first, with one or two anchors
// in a cell, both at its upper left corner. Each anchor gives a score, the
// distances from the anchor to the left, upper, right and lower edge of the
// box, and the offsets of five points from the anchor (x, y), in cells. How
// many anchors there are shows in the number of scores.
type scrfd struct {
	levels [3]scrfdLevel
	logits bool
	least  float32  // least score of a detection, on the scale of the outputs
	names  []string // of the outputs
}

// scrfdLevel is one grid, with the indices of its outputs.
type scrfdLevel struct{ stride, scores, boxes, points int }

// newSCRFD finds the outputs by their shapes, since the published files name
// them by numbers. The last size says what an output holds: 1 score, 4
// distances, or 10 coordinates. Of each kind there are three, listed from the
// finest grid to the coarsest.
func newSCRFD(m Manifest) (decoder, error) {
	kinds := map[int64][]int{} // last size -> outputs
	for i, o := range m.Outputs {
		if len(o.Shape) == 0 {
			return nil, fmt.Errorf("output %s has no shape", o.Name)
		}
		last := o.Shape[len(o.Shape)-1]
		kinds[last] = append(kinds[last], i)
	}
	scores, boxes, points := kinds[1], kinds[4], kinds[10]
	switch levels := len(strides()); {
	case len(points) == 0 && len(scores) == levels && len(boxes) == levels:
		return nil, errors.New("there are no outputs for landmarks, whose last size is 10, and a face cannot be aligned without them: " +
			"use a file whose network gives landmarks (its name often has kps)")
	case len(scores) != levels || len(boxes) != levels || len(points) != levels || len(m.Outputs) != 3*levels:
		return nil, fmt.Errorf("there are %d outputs, of which %d have the last size 1 (scores), %d have 4 (boxes) and %d have 10 (landmarks): want 9, three of each",
			len(m.Outputs), len(scores), len(boxes), len(points))
	}
	d := &scrfd{least: m.Threshold, logits: m.Scores == scoresLogit, names: outputNames(m)}
	if d.logits {
		p := float64(m.Threshold)
		d.least = float32(math.Log(p / (1 - p)))
	}
	for i, stride := range strides() {
		d.levels[i] = scrfdLevel{stride: stride, scores: scores[i], boxes: boxes[i], points: points[i]}
	}
	return d, nil
}

func (d *scrfd) check(s Session, side int) error {
	if coarsest := d.levels[len(d.levels)-1].stride; side%coarsest != 0 {
		return fmt.Errorf("the input of %dx%d is not in multiples of %d", side, side, coarsest)
	}
	anchors := 0 // in a cell, the same in every grid
	for _, l := range d.levels {
		cells := (side / l.stride) * (side / l.stride)
		n := len(s.Output(l.scores))
		if anchors == 0 {
			anchors = n / cells
		}
		if anchors < 1 || anchors > maxAnchors || n != anchors*cells {
			return fmt.Errorf("output %s has %d scores for a %dx%d input, but the grid of stride %d has %d cells with 1 or 2 anchors each, as many in every grid: "+
				"the manifest must list the outputs of each kind in the order of the strides 8, 16, 32", d.names[l.scores], n, side, side, l.stride, cells)
		}
		for _, o := range []struct{ output, width int }{{l.boxes, 4}, {l.points, 10}} {
			if got := len(s.Output(o.output)); got != n*o.width {
				return fmt.Errorf("output %s has %d numbers for a %dx%d input, but the %d scores of stride %d need %d: "+
					"the manifest must list the outputs of each kind in the order of the strides 8, 16, 32", d.names[o.output], got, side, side, n, l.stride, n*o.width)
			}
		}
	}
	return d.checkScores(s)
}

// checkScores compares the scores that a new session has, which are those of
// an empty picture, with the scale that the manifest names.
func (d *scrfd) checkScores(s Session) error {
	low, high := float32(math.Inf(1)), float32(math.Inf(-1))
	for _, l := range d.levels {
		for _, v := range s.Output(l.scores) {
			if v != v {
				return fmt.Errorf("output %s gives scores that are not numbers", d.names[l.scores])
			}
			low, high = min(low, v), max(high, v)
		}
	}
	switch {
	case !d.logits && (low < 0 || high > 1):
		return fmt.Errorf(`the scores of an empty picture are %.3g to %.3g, but probabilities are 0 to 1: `+
			`if the graph ends before its sigmoid, the manifest must say "scores": "logit"`, low, high)
	case d.logits && low >= 0:
		return fmt.Errorf(`the scores of an empty picture are %.3g to %.3g, but logits of an empty picture are below 0: `+
			`if the graph has its sigmoid, the manifest must not say "scores": "logit"`, low, high)
	}
	return nil
}

func (d *scrfd) decode(s Session, side int, found []detection) []detection {
	for _, l := range d.levels {
		scores, boxes, points := s.Output(l.scores), s.Output(l.boxes), s.Output(l.points)
		columns := side / l.stride
		anchors := len(scores) / (columns * columns)
		stride := float32(l.stride)
		for i, score := range scores {
			if !(score >= d.least) { // also when it is NaN
				continue
			}
			if d.logits {
				score = float32(1 / (1 + math.Exp(-float64(score))))
			}
			if score > 1 {
				continue
			}
			cell := i / anchors
			x, y := float32(cell%columns)*stride, float32(cell/columns)*stride
			b, p := boxes[4*i:4*i+4], points[10*i:10*i+10]
			f := detection{
				x0: x - b[0]*stride, y0: y - b[1]*stride, x1: x + b[2]*stride, y1: y + b[3]*stride,
				score: score,
			}
			for k := range f.points {
				f.points[k] = face.Point{X: x + p[2*k]*stride, Y: y + p[2*k+1]*stride}
			}
			found = append(found, f)
		}
	}
	return found
}
