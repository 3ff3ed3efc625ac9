package embed

import (
	"image"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// QualityLimits are the limits of the quality gate. A face beyond a limit gets
// the reason that is named with it. Nothing is refused here: callers decide.
type QualityLimits struct {
	MinInterocularPx  float32 // SMALL_FACE: distance of the eyes in pixels of the upright photo
	MinSharpness      float32 // LOW_SHARPNESS: 0..1
	MinBrightness     float32 // LOW_BRIGHTNESS: 0..1, mean luma
	MaxBrightness     float32 // HIGH_BRIGHTNESS: 0..1, mean luma
	MaxYaw            float32 // EXTREME_POSE: degrees to either side
	MaxPitch          float32 // EXTREME_POSE: degrees up or down
	MinDetectionScore float32 // LOW_DETECTION_SCORE: 0..1; a detector's manifest may give another
	MaxCropped        float32 // CROPPED_FACE: 0..1, share of the face outside the photo
}

// DefaultQualityLimits are the limits that at least 99.5 % of the main faces of
// LFW meet, all limits together, and that clearly bad photos do not meet.
// docs/adr/0004 has the distributions.
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

// assess measures the quality of a face. crop is the face warped to
// qualityTemplate, visible is the share of the face that lies in the photo, and
// v is what the quality network says.
func (l QualityLimits) assess(f face.Face, crop *image.RGBA, visible float32, v *verdict) face.Quality {
	q := face.Quality{
		Pose:          estimatePose(f.Landmarks),
		InterocularPx: distance(f.Landmarks.LeftEye, f.Landmarks.RightEye),
	}
	q.Sharpness, q.Brightness = measureTexture(crop)

	// Every part is 0.5 at the limit of its reason. So the score, the least of
	// them, is below 0.5 exactly when there is a reason.
	q.Score = 1
	judge := func(reason face.Reason, part float32) {
		q.Score = min(q.Score, part)
		if part < 0.5 {
			q.Reasons = append(q.Reasons, reason)
		}
	}
	judge(face.ReasonSmallFace, grade(q.InterocularPx, l.MinInterocularPx, 4*l.MinInterocularPx))
	judge(face.ReasonLowSharpness, grade(q.Sharpness, l.MinSharpness, 1))
	judge(face.ReasonLowBrightness, grade(q.Brightness, l.MinBrightness, 0.4))
	judge(face.ReasonHighBrightness, grade(1-q.Brightness, 1-l.MaxBrightness, 0.4))
	judge(face.ReasonExtremePose, min(
		grade(90-absFloat32(q.Pose.Yaw), 90-l.MaxYaw, 90),
		grade(90-absFloat32(q.Pose.Pitch), 90-l.MaxPitch, 90)))
	judge(face.ReasonLowDetectionScore, grade(f.DetectionScore, l.MinDetectionScore, 1))
	judge(face.ReasonCroppedFace, grade(visible, 1-l.MaxCropped, 1))
	if !v.passes && !slices.Contains(q.Reasons, v.against) {
		judge(v.against, grade(v.acceptable, v.limit, 1))
	}
	return q
}

// grade maps a value to 0..1: 0 at zero and below, 0.5 at the limit, 1 at best
// and above, linear between these. NaN is 0.
func grade(v, limit, best float32) float32 {
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

func absFloat32(v float32) float32 { return float32(math.Abs(float64(v))) }

func distance(a, b face.Point) float32 {
	return float32(math.Hypot(float64(a.X-b.X), float64(a.Y-b.Y)))
}

// The head model of estimatePose, in units of the distance between the eyes.
// noseDepth is how far the tip of the nose is in front of the plane of the eyes
// and the mouth: from anatomy, about 38 mm to 63 mm. mouthDrop is how far the
// mouth is below the eyes. noseNeutral is which part of that way down the tip
// of the nose is when the head looks straight ahead. The last two are medians
// of LFW.
const (
	noseDepth   = 0.6
	mouthDrop   = 1.05
	noseNeutral = 0.585
)

// estimatePose estimates yaw, pitch and roll of the head, in degrees. Roll is
// the direction of the line between the eyes; yaw and pitch follow from where
// the tip of the nose lies between the eyes and the mouth, once the roll is
// removed. Near the front the error is about ten degrees. Larger angles are only
// right in their order.
func estimatePose(l face.Landmarks) face.Pose {
	const degrees = 180 / math.Pi
	ex, ey := float64(l.LeftEye.X-l.RightEye.X), float64(l.LeftEye.Y-l.RightEye.Y)
	roll := math.Atan2(ey, ex)
	sin, cos := math.Sincos(roll)
	// middle is the point between a and b, with the roll removed.
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

// qualitySide is the side of the crop that sharpness and brightness are
// measured on. The eyes are 32 pixels apart in it for every photo and every
// encoder, so that the limits always mean the same.
const qualitySide = 96

func qualityTemplate() [5]face.Point {
	return [5]face.Point{{X: 32, Y: 36}, {X: 64, Y: 36}, {X: 48, Y: 54}, {X: 35, Y: 73}, {X: 61, Y: 73}}
}

// qualityInner is the part of the crop that shows skin and features, without
// hair and background.
func qualityInner() image.Rectangle { return image.Rect(24, 26, 72, 80) }

// qualityOuter is the whole face, from ear to ear and from the forehead to
// the chin.
func qualityOuter() image.Rectangle { return image.Rect(16, 8, 80, 92) }

// visibleShare is the share of the whole face, 0..1, that lies in a photo of
// these bounds. toSrc maps the crop to the photo. The detector's box cannot tell
// this, because it ends where the photo ends.
func visibleShare(toSrc imaging.Affine, bounds image.Rectangle) float32 {
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

// measureTexture measures the sharpness and the brightness of a crop, both 0..1.
// Brightness is the mean luma. Sharpness is r/(r+sharpnessReference), where r is
// the variance of the Laplacian divided by the variance of the luma: the division
// keeps dim or flat light from counting as blur.
func measureTexture(crop *image.RGBA) (sharpness, brightness float32) {
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
	// The 1 is more than the noise of rounding to 8 bits. It keeps a face
	// without any contrast from being called sharp.
	ratio := energy / (contrast + 1)
	return float32(ratio / (ratio + sharpnessReference)), float32(mean / 255)
}
