// Package imaging turns the bytes that a caller sent into bounded, upright
// RGB pixels, and those pixels into tensors.
//
// Everything a caller can make large is bounded before memory is taken for
// it: bytes, pixels, aspect ratio, pixels per byte, and the scans of a JPEG.
// What a file claims is never believed: its type is told by its content. Work
// that is under way ends with its context, see [Decode].
//
// # Coordinates
//
// All geometry here is in pixel-index coordinates: (x, y) is the centre of the
// pixel in column x and row y, so an image of width w spans -0.5 to w-0.5.
// Face encoders are trained on crops made that way, and their alignment
// templates are written in it. The one exception is said where it is made:
// [Planar.Letterbox] shrinks about the image's outer top left corner.
package imaging
