// Package series reads and writes signals and volumes: numbers on a grid of
// one or three axes, from CSV, WAV (16-bit PCM) and NumPy's .npy.
package series

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// Field is numbers on a grid, row-major: a value for each channel and place.
type Field struct {
	Shape []int64 // channels, then the axes of the grid
	Data  []float32
	Rate  int  // samples a second of a WAV, else 0
	Bare  bool // the file had no axis for its one channel
}

// maxValues bounds a field before memory is taken for it: 256 MiB.
const maxValues = 1 << 26

// Formats are the file name extensions that hold fields of so many axes.
func Formats(axes int) []string {
	if axes == 1 {
		return []string{".csv", ".wav", ".npy"}
	}
	return []string{".npy"}
}

// Decode reads a field of so many axes from a file of the named extension. In
// .csv a line is one moment and a column one channel. In .npy, channels are the
// first axis, which may be missing. The error is Invalid if a number is not
// finite.
func Decode(extension string, data []byte, axes int) (*Field, error) {
	f, err := decode(strings.ToLower(extension), data, axes)
	if err != nil {
		return nil, err
	}
	for i, x := range f.Data {
		if math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) {
			return nil, invalid("number %d is not finite", i+1)
		}
	}
	return f, nil
}

func decode(extension string, data []byte, axes int) (*Field, error) {
	if !slices.Contains(Formats(axes), extension) {
		return nil, invalid("%q is none of %s", extension, strings.Join(Formats(axes), ", "))
	}
	switch extension {
	case ".csv":
		return decodeCSV(data)
	case ".wav":
		return decodeWAV(data)
	}
	return decodeNPY(data, axes)
}

// Encode writes the field as a file of the named extension: CSV with as many
// digits as a float32 has, WAV in 16 bits (cut off at -1 and 1), .npy as
// float32.
func (f *Field) Encode(extension string) ([]byte, error) {
	extension = strings.ToLower(extension)
	if !slices.Contains(Formats(len(f.Shape)-1), extension) {
		return nil, invalid("%q is none of %s", extension, strings.Join(Formats(len(f.Shape)-1), ", "))
	}
	switch extension {
	case ".csv":
		return f.encodeCSV(), nil
	case ".wav":
		return f.encodeWAV()
	}
	return f.encodeNPY(), nil
}

// channelsFirst reorders samples from moment by moment to channel by channel.
func channelsFirst(samples []float32, channels int) *Field {
	length := len(samples) / channels
	f := &Field{Shape: []int64{int64(channels), int64(length)}, Data: make([]float32, len(samples))}
	for i, x := range samples {
		f.Data[i%channels*length+i/channels] = x
	}
	return f
}

func invalid(format string, args ...any) error {
	return &face.Error{Kind: face.Invalid, Op: "series", Detail: fmt.Sprintf(format, args...)}
}
