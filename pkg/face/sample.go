package face

import (
	"fmt"
	"log/slog"
	"math"
)

// Reason says why a sample was refused or doubted. The words are the API's.
type Reason string

// The reason codes of the contract.
const (
	ReasonNoFace             Reason = "NO_FACE"
	ReasonExceedsMaxFaces    Reason = "EXCEEDS_MAX_FACES"
	ReasonSmallFace          Reason = "SMALL_FACE"
	ReasonLowSharpness       Reason = "LOW_SHARPNESS"
	ReasonLowBrightness      Reason = "LOW_BRIGHTNESS"
	ReasonHighBrightness     Reason = "HIGH_BRIGHTNESS"
	ReasonExtremePose        Reason = "EXTREME_POSE"
	ReasonLowDetectionScore  Reason = "LOW_DETECTION_SCORE"
	ReasonCroppedFace        Reason = "CROPPED_FACE"
	ReasonCoveredFace        Reason = "COVERED_FACE"    // by sunglasses, a mask, a hand
	ReasonStretchedFace      Reason = "STRETCHED_FACE"  // the photo's sides are out of proportion
	ReasonNegativeImage      Reason = "NEGATIVE_IMAGE"  // light and dark are exchanged
	ReasonMisalignedFace     Reason = "MISALIGNED_FACE" // the landmarks do not fit a face
	ReasonNotAFace           Reason = "NOT_A_FACE"      // an animal, a drawing or an object
	ReasonOtherFaces         Reason = "OTHER_FACES"     // the photo shows other faces beside the one that was used
	ReasonFramesDisagree     Reason = "FRAMES_DISAGREE" // frames that were to be fused show different people
	ReasonDuplicateOfSubject Reason = "DUPLICATE_OF_SUBJECT"
	ReasonUnlikeSubject      Reason = "UNLIKE_SUBJECT"
)

// Point is a position in pixels of the upright image: x to the right, y down,
// (0,0) the outer corner of the first pixel.
type Point struct{ X, Y float32 }

// Box is a rectangle in pixels of the upright image. It may reach over the
// image's edges when the face does.
type Box struct{ X, Y, Width, Height float32 }

// Area is the box's area in square pixels.
func (b Box) Area() float32 { return b.Width * b.Height }

// Landmarks are five points of a face. Left and right are the subject's own:
// in an upright photo the right eye is on the image's left.
type Landmarks struct {
	LeftEye, RightEye, Nose, LeftMouth, RightMouth Point
}

// Points lists the landmarks in the order of the usual alignment templates:
// the eye on the image's left first, then the other eye, the nose, the mouth
// corner on the image's left, and the other corner.
func (l Landmarks) Points() [5]Point {
	return [5]Point{l.RightEye, l.LeftEye, l.Nose, l.RightMouth, l.LeftMouth}
}

// Pose is the head's attitude in degrees. Yaw is positive when the subject
// turns to their own left, pitch when they look up, roll when their head
// leans clockwise in the image. From five landmarks it is an estimate.
type Pose struct{ Yaw, Pitch, Roll float32 }

// Quality describes a sample before it is compared.
type Quality struct {
	Score         float32 // 0..1, the least of the normalised parts
	Sharpness     float32 // 0..1
	Brightness    float32 // 0..1, mean luma of the aligned face
	Pose          Pose
	InterocularPx float32  // distance of the eyes in pixels of the upright image
	Reasons       []Reason // empty if the quality gate accepts it
}

// Face is one face found in an image.
type Face struct {
	Box            Box
	Landmarks      Landmarks
	DetectionScore float32 // 0..1
	Quality        Quality
}

// Embedding is the vector an encoder gives for one face, L2-normalised.
// It is personal data: it never appears in a log.
type Embedding []float32

// LogValue hides the numbers from every slog handler.
func (e Embedding) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("embedding[%d]", len(e)))
}

// Normalise returns the embedding scaled to unit length. The error is Invalid
// if the vector is empty, has NaN or infinite numbers, or has nearly no length:
// such a vector would match everything or nothing.
func (e Embedding) Normalise() (Embedding, error) {
	var sum float64
	for _, v := range e {
		sum += float64(v) * float64(v)
	}
	if len(e) == 0 || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return nil, Errorf(Invalid, "face.Normalise", "embedding has no numbers, or some that are not finite")
	}
	if sum < 1e-12 {
		return nil, Errorf(Invalid, "face.Normalise", "embedding has no length")
	}
	out := make(Embedding, len(e))
	inv := 1 / math.Sqrt(sum)
	for i, v := range e {
		out[i] = float32(float64(v) * inv)
	}
	return out, nil
}

// Cosine is the score of two L2-normalised embeddings of one model: their dot
// product, accumulated in float64 in index order, so that it is the same
// number wherever it is computed. The lengths must be equal.
func (e Embedding) Cosine(o Embedding) float64 {
	var sum float64
	for i, v := range e {
		sum += float64(v) * float64(o[i])
	}
	return sum
}
