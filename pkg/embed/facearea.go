package embed

import (
	"image"
	"math"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// faceArea is the part of a decoded photo around one face. It is shrunk by a
// whole factor first, because a warp that shrinks a lot takes many samples.
// Coordinates are those of warps: (0,0) is the centre of the first pixel.
type faceArea struct {
	img    *image.RGBA
	points [5]face.Point
	// visible is the share of the whole face that lies in the photo.
	visible float32
}

// prepareFace makes the area of a face from which the warps to the frames and
// to the crop for quality read. It is valid until the next face is prepared.
func (w *worker) prepareFace(v *view, d detection, frames []frame) (faceArea, error) {
	// Faces count positions from the corner of the first pixel.
	points := d.rescaled(1/v.reduction(), -0.5, -0.5).points
	bounds := v.img.RGBA.Rect
	quality, err := cropToSource(points, qualityTemplate())
	if err != nil {
		return faceArea{}, err
	}
	n := faceArea{img: v.img.RGBA, points: points, visible: visibleShare(quality, bounds)}
	shrinks, region := math.Hypot(quality[0], quality[3]), sourceBounds(quality, qualitySide, qualitySide)
	for _, f := range frames {
		warp, err := cropToSource(points, f.points)
		if err != nil {
			return faceArea{}, err
		}
		shrinks, region = min(shrinks, math.Hypot(warp[0], warp[3])), region.Union(sourceBounds(warp, f.width, f.height))
	}
	factor := int(shrinks)
	if factor < 2 {
		return n, nil
	}
	region = region.Intersect(bounds)
	if region.Empty() {
		return n, nil
	}
	w.shrunk = shrink(w.shrunk, v.img.RGBA, region, factor)
	n.img = w.shrunk
	for i, p := range points {
		n.points[i] = face.Point{
			X: (p.X-float32(region.Min.X)+0.5)/float32(factor) - 0.5,
			Y: (p.Y-float32(region.Min.Y)+0.5)/float32(factor) - 0.5,
		}
	}
	return n, nil
}

// warpFrom is the map from a crop with the template's points to the pixels of
// n.img.
func (n faceArea) warpFrom(template [5]face.Point) (imaging.Affine, error) {
	return cropToSource(n.points, template)
}

// cropToSource is the map from the pixels of a crop to where they come from:
// the inverse of the least-squares similarity from points to the template.
func cropToSource(points, template [5]face.Point) (imaging.Affine, error) {
	a, err := imaging.FitSimilarity(points, template)
	if err != nil {
		return imaging.Affine{}, face.Wrap(face.Internal, "embed.align", err)
	}
	return a.Inverse(), nil
}

// sourceBounds is the rectangle that a crop of width x height reads from, with
// one pixel more on each side.
func sourceBounds(toSrc imaging.Affine, width, height int) image.Rectangle {
	minX, minY := math.Inf(1), math.Inf(1)
	maxX, maxY := math.Inf(-1), math.Inf(-1)
	for _, corner := range [4][2]int{{-1, -1}, {width, -1}, {-1, height}, {width, height}} {
		x, y := toSrc.Apply(float64(corner[0]), float64(corner[1]))
		minX, minY = min(minX, x), min(minY, y)
		maxX, maxY = max(maxX, x), max(maxY, y)
	}
	// Faces reach no further than a few photos' sides, so these fit an int.
	return image.Rect(int(minX)-1, int(minY)-1, int(maxX)+2, int(maxY)+2)
}

// shrink averages blocks of factor x factor pixels of a region of src; blocks at
// the right and lower edge may be smaller. It writes into dst if that is large
// enough, else into a new image, and returns the image. The factor must be at
// least 1, and the region must lie inside src and not be empty.
func shrink(dst, src *image.RGBA, region image.Rectangle, factor int) *image.RGBA {
	width := (region.Dx() + factor - 1) / factor
	height := (region.Dy() + factor - 1) / factor
	if dst == nil || cap(dst.Pix) < 4*width*height {
		dst = image.NewRGBA(image.Rect(0, 0, width, height))
	}
	dst.Pix, dst.Stride, dst.Rect = dst.Pix[:4*width*height], 4*width, image.Rect(0, 0, width, height)
	for y := range height {
		rows := min(factor, region.Dy()-y*factor)
		for x := range width {
			columns := min(factor, region.Dx()-x*factor)
			var r, g, b uint32
			for row := range rows {
				at := src.PixOffset(region.Min.X+x*factor, region.Min.Y+y*factor+row)
				for p := src.Pix[at : at+4*columns]; len(p) >= 4; p = p[4:] {
					r, g, b = r+uint32(p[0]), g+uint32(p[1]), b+uint32(p[2])
				}
			}
			n := uint32(rows * columns)
			out := dst.Pix[y*dst.Stride+4*x:][:4]
			out[0], out[1], out[2], out[3] = uint8((r+n/2)/n), uint8((g+n/2)/n), uint8((b+n/2)/n), 255
		}
	}
	return dst
}
