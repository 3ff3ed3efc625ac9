package style

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash"
	"hash/crc32"
	"math"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// magic begins a checkpoint. Its last digit is increased by every change of the
// code after which a resumed run would differ from one that never stopped.
const magic = "likeness style 1"

// A checkpoint is the magic, the SHA-256 of the task, the state and a CRC-32
// of all that, everything little-endian.

type encoder struct{ data []byte }

func (e *encoder) number(n uint64) { e.data = binary.LittleEndian.AppendUint64(e.data, n) }

func (e *encoder) floats(v []float32) {
	for _, x := range v {
		e.data = binary.LittleEndian.AppendUint32(e.data, math.Float32bits(x))
	}
}

func (e *encoder) halves(v []half) {
	for _, x := range v {
		e.data = binary.LittleEndian.AppendUint16(e.data, uint16(x))
	}
}

type decoder struct {
	data []byte
	err  error
}

// take returns the next n bytes, or nil if there are fewer.
func (d *decoder) take(n int) []byte {
	if d.err != nil || len(d.data) < n {
		d.err = errTorn
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) number() uint64 {
	if b := d.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) floats(v []float32) {
	b := d.take(4 * len(v))
	for i := range b[:len(b)/4] {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
}

func (d *decoder) halves(v []half) {
	b := d.take(2 * len(v))
	for i := range b[:len(b)/2] {
		v[i] = half(binary.LittleEndian.Uint16(b[2*i:]))
	}
}

// progress is how far a run is.
type progress struct {
	scale, done, total uint64 // the scale, its steps that are done, all that are
	shrunk             uint64
}

func encodeCheckpoint(task [sha256.Size]byte, p progress, o optimizer) []byte {
	e := &encoder{data: make([]byte, 0, 1<<10+44*len(o.at().x))}
	e.data = append(append(e.data, magic...), task[:]...)
	for _, n := range []uint64{p.scale, p.done, p.total, p.shrunk} {
		e.number(n)
	}
	o.save(e)
	return binary.LittleEndian.AppendUint32(e.data, crc32.ChecksumIEEE(e.data))
}

// decodeCheckpoint checks a checkpoint and returns the state of the optimizer in it.
func decodeCheckpoint(data []byte, task [sha256.Size]byte) (progress, *decoder, error) {
	body, sum := data[:max(0, len(data)-4)], data[max(0, len(data)-4):]
	if !bytes.HasPrefix(body, []byte(magic)) || len(body) < len(magic)+len(task) ||
		crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(sum) {
		return progress{}, nil, errTorn
	}
	if !bytes.HasPrefix(body[len(magic):], task[:]) {
		return progress{}, nil, face.Errorf(face.Invalid, "style.Transfer", "checkpoint: it is of another task")
	}
	d := &decoder{data: body[len(magic)+len(task):]}
	p := progress{d.number(), d.number(), d.number(), d.number()}
	return p, d, d.err
}

// taskHash identifies the task of a checkpoint: the parameters, the network and
// every pixel.
func taskHash(t Task, d Defaults) ([sha256.Size]byte, error) {
	h := sha256.New()
	text, err := json.Marshal(struct {
		Params   Params
		Defaults Defaults
	}{t.Params, d})
	if err != nil {
		return [sha256.Size]byte{}, face.Wrap(face.Internal, "style.Transfer", err)
	}
	h.Write(text)
	rows := func(width, height, stride, bytes int, pix []uint8) {
		writeNumbers(h, width, height, bytes)
		for y := range height {
			h.Write(pix[y*stride:][:bytes*width])
		}
	}
	for _, img := range append(slices.Clip(t.Styles), t.Content) {
		rows(img.Rect.Dx(), img.Rect.Dy(), img.Stride, 4, img.Pix)
	}
	for _, m := range t.Masks {
		rows(m.Rect.Dx(), m.Rect.Dy(), m.Stride, 1, m.Pix)
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

func writeNumbers(h hash.Hash, numbers ...int) {
	for _, n := range numbers {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))) //nolint:gosec // sizes
	}
}
