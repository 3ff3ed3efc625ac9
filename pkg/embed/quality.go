package embed

import (
	"image"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// QualityLimits is where the quality gate draws its lines. A sample beyond one
// gets the reason named with it; nothing is refused here, callers decide.
type QualityLimits struct {
	MinInterocularPx  float32 // SMALL_FACE: distance of the eyes in pixels of the upright photo
	MinSharpness      float32 // LOW_SHARPNESS: 0..1
	MinBrightness     float32 // LOW_BRIGHTNESS: 0..1, mean luma
	MaxBrightness     float32 // HIGH_BRIGHTNESS: 0..1, mean luma
	MaxYaw            float32 // EXTREME_POSE: degrees to either side
	MaxPitch          float32 // EXTREME_POSE: degrees up or down
	MinDetectionScore float32 // LOW_DETECTION_SCORE: 0..1
	MaxCropped        float32 // CROPPED_FACE: 0..1, share of the face outside the photo
}

// DefaultQualityLimits are the limits that at least 99.5 % of the main faces
// of LFW keep together, and that clearly bad photos do not; docs/adr/0004 has
// the distributions.
func DefaultQualityLimits() QualityLimits {
	return QualityLimits{
		MinInterocularPx:  16,
		MinSharpness:      0.17,
		MinBrightness:     0.15,
		MaxBrightness:     0.92,
		MaxYaw:            55,
		MaxPitch:          40,
		MinDetectionScore: 0.70,
		MaxCropped:        0.15,
	}
}

// assess judges a face. crop is the face warped by qualityTemplate, and
// visible the share of it that lies in the photo.
func (l QualityLimits) assess(f face.Face, crop *image.RGBA, visible float32, v *verdict) face.Quality {
	q := face.Quality{
		Pose:          pose(f.Landmarks),
		InterocularPx: distance(f.Landmarks.LeftEye, f.Landmarks.RightEye),
	}
	q.Sharpness, q.Brightness = texture(crop)

	// Every part is 0.5 at the limit of its reason, so that the score is
	// below 0.5 when a reason is given and not otherwise.
	q.Score = 1
	judge := func(reason face.Reason, part float32) {
		q.Score = min(q.Score, part)
		if part < 0.5 {
			q.Reasons = append(q.Reasons, reason)
		}
	}
	judge(face.ReasonSmallFace, above(q.InterocularPx, l.MinInterocularPx, 4*l.MinInterocularPx))
	judge(face.ReasonLowSharpness, above(q.Sharpness, l.MinSharpness, 1))
	judge(face.ReasonLowBrightness, above(q.Brightness, l.MinBrightness, 0.4))
	judge(face.ReasonHighBrightness, above(1-q.Brightness, 1-l.MaxBrightness, 0.4))
	judge(face.ReasonExtremePose, min(
		above(90-abs(q.Pose.Yaw), 90-l.MaxYaw, 90),
		above(90-abs(q.Pose.Pitch), 90-l.MaxPitch, 90)))
	judge(face.ReasonLowDetectionScore, above(f.DetectionScore, l.MinDetectionScore, 1))
	judge(face.ReasonCroppedFace, above(visible, 1-l.MaxCropped, 1))
	if !v.passes && !slices.Contains(q.Reasons, v.against) {
		judge(v.against, above(v.acceptable, v.limit, 1))
	}
	return q
}

// above grades a value: 0 at zero and below, 0.5 at the limit, 1 at best and
// above, straight between. What is not a number is 0.
func above(v, limit, best float32) float32 {
	switch {
	case v >= best:
		return 1
	case v >= limit:
		return 0.5 + 0.5*(v-limit)/(best-limit)
	case v > 0:
		return 0.5 * v / limit
	}
	return 0
}

func abs(v float32) float32 { return float32(math.Abs(float64(v))) }

func distance(a, b face.Point) float32 {
	return float32(math.Hypot(float64(a.X-b.X), float64(a.Y-b.Y)))
}

// The head model behind pose, in units of the distance between the eyes: how
// far the tip of the nose stands before the plane of the eyes and the mouth,
// how far the mouth lies below the eyes, and how far down that way the tip of
// the nose is when one looks straight ahead. The first is anatomy (about
// 38 mm against 63 mm), the others are medians of LFW.
const (
	noseDepth   = 0.6
	mouthDrop   = 1.05
	noseNeutral = 0.585
)

// pose estimates the attitude of the head from where the tip of the nose lies
// between the eyes and the mouth, once the roll is taken out. It is good to
// ten degrees or so near the front and only orders larger angles.
func pose(l face.Landmarks) face.Pose {
	const degrees = 180 / math.Pi
	ex, ey := float64(l.LeftEye.X-l.RightEye.X), float64(l.LeftEye.Y-l.RightEye.Y)
	roll := math.Atan2(ey, ex)
	sin, cos := math.Sincos(roll)
	// middle is the point between a and b, with the roll taken out.
	middle := func(a, b face.Point) (x, y float64) {
		mx, my := float64(a.X+b.X)/2, float64(a.Y+b.Y)/2
		return mx*cos + my*sin, my*cos - mx*sin
	}
	eyesX, eyesY := middle(l.LeftEye, l.RightEye)
	mouthX, mouthY := middle(l.LeftMouth, l.RightMouth)
	noseX, noseY := middle(l.Nose, l.Nose)
	// Without yaw and pitch the nose would be on the line from between the
	// eyes to the middle of the mouth, noseNeutral of the way.
	drop := mouthY - eyesY
	aside := noseX - (eyesX + noseNeutral*(mouthX-eyesX))
	raised := eyesY + noseNeutral*drop - noseY
	return face.Pose{
		Yaw:   float32(math.Atan2(aside, noseDepth*math.Hypot(ex, ey)) * degrees),
		Pitch: float32(math.Atan2(raised*mouthDrop, noseDepth*drop) * degrees),
		Roll:  float32(roll * degrees),
	}
}

// The crop that sharpness and brightness are measured on: the eyes 32 pixels
// apart, whatever the photo's size and whichever encoder is used, so that the
// limits mean the same everywhere. What lies within qualityInner is skin and
// features, not hair and background.
const qualitySide = 96

func qualityTemplate() [5]face.Point {
	return [5]face.Point{{X: 32, Y: 36}, {X: 64, Y: 36}, {X: 48, Y: 54}, {X: 35, Y: 73}, {X: 61, Y: 73}}
}

func qualityInner() image.Rectangle { return image.Rect(24, 26, 72, 80) }

// qualityOuter is the whole face, from ear to ear and from the forehead to
// the chin.
func qualityOuter() image.Rectangle { return image.Rect(16, 8, 80, 92) }

// visible is the share of the whole face that lies in a photo of the bounds
// given; toSrc is where the crop lies in it. The detector's box is no measure
// of it: it ends where the photo does.
func visible(toSrc imaging.Affine, bounds image.Rectangle) float32 {
	const step = 4
	outer := qualityOuter()
	var in, all float32
	for y := outer.Min.Y; y < outer.Max.Y; y += step {
		for x := outer.Min.X; x < outer.Max.X; x += step {
			px, py := toSrc.Apply(float64(x)+step/2, float64(y)+step/2)
			all++
			if px >= 0 && py >= 0 && px < float64(bounds.Dx()) && py < float64(bounds.Dy()) {
				in++
			}
		}
	}
	return in / all
}

// sharpnessReference is the share of Laplacian energy in the contrast of a
// face at which sharpness is 0.5: the median of LFW.
const sharpnessReference = 0.2

// texture measures a crop: the mean luma, 0..1, and how sharp it is, 0..1.
// Sharpness is the variance of the Laplacian as a share of the variance of the
// luma itself, so that a dim or flat light does not count as blur; r/(r+ref)
// brings it into the range.
func texture(crop *image.RGBA) (sharpness, brightness float32) {
	in := qualityInner()
	luma := func(x, y int) float64 {
		p := crop.Pix[crop.PixOffset(x, y):]
		return 0.299*float64(p[0]) + 0.587*float64(p[1]) + 0.114*float64(p[2])
	}
	var n, sum, squares, edges, edgeSquares float64
	for y := in.Min.Y; y < in.Max.Y; y++ {
		for x := in.Min.X; x < in.Max.X; x++ {
			v := luma(x, y)
			e := luma(x-1, y) + luma(x+1, y) + luma(x, y-1) + luma(x, y+1) - 4*v
			n++
			sum, squares = sum+v, squares+v*v
			edges, edgeSquares = edges+e, edgeSquares+e*e
		}
	}
	mean := sum / n
	contrast := squares/n - mean*mean
	energy := edgeSquares/n - (edges/n)*(edges/n)
	// The one added is the noise of rounding to 8 bits and more: a face
	// without any contrast is not sharp.
	ratio := energy / (contrast + 1)
	return float32(ratio / (ratio + sharpnessReference)), float32(mean / 255)
}
