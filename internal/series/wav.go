package series

import (
	"bytes"
	"encoding/binary"
	"math"
)

// What a WAV's format chunk says of samples: plain PCM, or that the kind
// stands at the chunk's end.
const (
	wavPCM        = 1
	wavExtensible = 0xfffe
	wavFull       = 1 << 15 // the sample that is 1
)

// decodeWAV reads 16-bit PCM of one or two channels. Chunks of other kinds
// are passed over.
func decodeWAV(data []byte) (*Field, error) {
	if len(data) < 12 || string(data[:4]) != "RIFF" || string(data[8:12]) != "WAVE" {
		return nil, invalid("no WAV file")
	}
	var channels, rate int
	for rest := data[12:]; len(rest) >= 8; {
		id, size := string(rest[:4]), int64(binary.LittleEndian.Uint32(rest[4:]))
		rest = rest[8:]
		if size > int64(len(rest)) {
			return nil, invalid("the WAV file is cut off in its chunk %q", id)
		}
		body := rest[:size]
		rest = rest[min(size+size%2, int64(len(rest))):]
		switch id {
		case "fmt ":
			if size < 16 {
				return nil, invalid("the WAV file's format chunk has %d bytes", size)
			}
			kind := binary.LittleEndian.Uint16(body)
			if kind == wavExtensible && size >= 26 {
				kind = binary.LittleEndian.Uint16(body[24:])
			}
			channels, rate = int(binary.LittleEndian.Uint16(body[2:])), int(binary.LittleEndian.Uint32(body[4:]))
			if bits := binary.LittleEndian.Uint16(body[14:]); kind != wavPCM || bits != 16 || channels < 1 || channels > 2 || rate < 1 {
				return nil, invalid("the WAV file has %d channels of format %d with %d bits; 16-bit PCM of one or two is read", channels, kind, bits)
			}
		case "data":
			if channels == 0 {
				return nil, invalid("the WAV file has no format before its samples")
			}
			n := len(body) / 2
			if n == 0 || n%channels != 0 || n > maxValues {
				return nil, invalid("the WAV file has %d samples in %d channels", n, channels)
			}
			samples := make([]float32, n)
			for i := range samples {
				samples[i] = float32(int16(binary.LittleEndian.Uint16(body[2*i:]))) / wavFull //nolint:gosec // the same bits
			}
			f := channelsFirst(samples, channels)
			f.Rate = rate
			return f, nil
		}
	}
	return nil, invalid("the WAV file has no samples")
}

func (f *Field) encodeWAV() ([]byte, error) {
	channels, length := int(f.Shape[0]), int(f.Shape[1])
	if channels > 2 || f.Rate < 1 {
		return nil, invalid("a WAV file takes one or two channels and a rate, not %d at %d a second", channels, f.Rate)
	}
	var out bytes.Buffer
	size := uint32(2 * channels * length) //nolint:gosec // at most 2 * maxValues
	rate := uint32(f.Rate)                //nolint:gosec // it came from 32 bits
	width := uint16(2 * channels)         //nolint:gosec // at most 4
	write := func(parts ...any) {
		for _, p := range parts {
			_ = binary.Write(&out, binary.LittleEndian, p) // a buffer takes everything
		}
	}
	write([]byte("RIFF"), 36+size, []byte("WAVEfmt "), uint32(16), uint16(wavPCM), width/2,
		rate, rate*uint32(width), width, uint16(16), []byte("data"), size)
	samples := make([]int16, 0, channels*length)
	for i := range length {
		for c := range channels {
			x := math.Round(float64(f.Data[c*length+i]) * wavFull)
			samples = append(samples, int16(max(math.MinInt16, min(math.MaxInt16, x))))
		}
	}
	write(samples)
	return out.Bytes(), nil
}
