package imaging_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/imaging"
)

// TestSharedStrips: a TIFF whose strips all lie in one place is a small file
// that costs as much as a large one. It is refused when it has been read twice.
func TestSharedStrips(t *testing.T) {
	t.Parallel()
	const width, height = 1000, 2000
	// PackBits: bytes of 0x80 do nothing, then a row of one grey.
	strip := bytes.Repeat([]byte{0x80}, 100_000)
	for left := width; left > 0; left -= 125 {
		strip = append(strip, byte(257-125), 128)
	}
	type entry struct {
		tag, kind    uint16
		count, value uint32
	}
	const shorts, longs = 3, 4
	table := uint32(8 + len(strip))
	entries := []entry{
		{256, longs, 1, width}, {257, longs, 1, height}, {258, shorts, 1, 8}, {259, shorts, 1, 32773}, {262, shorts, 1, 1},
		{273, longs, height, table}, {277, shorts, 1, 1}, {278, longs, 1, 1}, {279, longs, height, table + 4*height},
	}
	var b bytes.Buffer
	write := func(v any) {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			t.Fatal(err)
		}
	}
	b.WriteString("II*\x00")
	write(table + 8*height)
	b.Write(strip)
	for range height {
		write(uint32(8))
	}
	for range height {
		write(uint32(len(strip)))
	}
	write(uint16(len(entries)))
	write(entries)
	write(uint32(0))
	_, err := imaging.Decode(t.Context(), b.Bytes(), imaging.DefaultLimits(), 0)
	if !errors.Is(err, face.TooLarge) {
		t.Errorf("a file of %d bytes, whose strips are read %d times: %v", b.Len(), height, err)
	}
}
