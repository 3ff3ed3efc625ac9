// Package imaging turns the bytes that a caller sent into bounded, upright
// RGB pixels, and those pixels into tensors.
//
// Everything that a caller can make large is limited before memory is taken for
// it: bytes, pixels, aspect ratio, pixels per byte, and the scans of a JPEG.
// The type of a file is found from its content, never from what it claims.
// Decoding ends when its context does, see [Decode].
//
// # Coordinates
//
// All geometry here is in pixel-index coordinates: (x, y) is the centre of the
// pixel in column x and row y, so an image of width w spans -0.5 to w-0.5. Face
// encoders are trained on crops made that way, and their alignment templates
// use these coordinates. There is one exception: [Planar.Letterbox] shrinks
// about the image's outer top left corner.
package imaging
