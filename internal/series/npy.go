package series

import (
	"encoding/binary"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const npyMagic = "\x93NUMPY"

// decodeNPY reads little-endian float32 or float64 in C order. The format is
// NumPy's NEP 1; its header is a Python dictionary of three known keys.
func decodeNPY(data []byte, axes int) (*Field, error) {
	if len(data) < 12 || string(data[:6]) != npyMagic {
		return nil, invalid("no .npy file")
	}
	start, size := 10, int64(binary.LittleEndian.Uint16(data[8:]))
	if version := data[6]; version == 2 || version == 3 {
		start, size = 12, int64(binary.LittleEndian.Uint32(data[8:]))
	} else if version != 1 {
		return nil, invalid("version %d of .npy is not known", version)
	}
	if size > int64(len(data)-start) {
		return nil, invalid("the .npy file is cut off in its header")
	}
	header, body := string(data[start:start+int(size)]), data[start+int(size):]

	if order := headerValue(header, "fortran_order", `(True|False)`); order != "False" {
		return nil, invalid("the .npy file is not in C order: save numpy.ascontiguousarray(x)")
	}
	width := 4
	switch kind := headerValue(header, "descr", `'([^']*)'`); kind {
	case "<f4":
	case "<f8":
		width = 8
	default:
		return nil, invalid("the .npy file holds %q; '<f4' and '<f8' are read (float32, float64)", kind)
	}
	f := &Field{}
	n := int64(1)
	for text := range strings.SplitSeq(headerValue(header, "shape", `\(([0-9, ]*)\)`), ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue // after the last comma
		}
		d, err := strconv.ParseInt(text, 10, 64)
		if err != nil || d < 1 || d > maxValues/n {
			return nil, invalid("the .npy file has an axis of %s: it is empty or too large", text)
		}
		n *= d
		f.Shape = append(f.Shape, d)
	}
	switch len(f.Shape) {
	case axes:
		f.Shape, f.Bare = slices.Insert(f.Shape, 0, 1), true
	case axes + 1:
	default:
		return nil, invalid("the .npy file has %d axes; %d are read, and one for channels before them", len(f.Shape), axes)
	}
	if int64(len(body)) != n*int64(width) {
		return nil, invalid("the .npy file has %d bytes of numbers, its shape says %d", len(body), n*int64(width))
	}
	f.Data = make([]float32, n)
	for i := range f.Data {
		if width == 4 {
			f.Data[i] = math.Float32frombits(binary.LittleEndian.Uint32(body[4*i:]))
		} else {
			f.Data[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(body[8*i:])))
		}
	}
	return f, nil
}

// headerValue returns the value of a key of the header, which must match the
// pattern.
func headerValue(header, key, value string) string {
	if found := regexp.MustCompile(`'` + key + `'\s*:\s*` + value).FindStringSubmatch(header); found != nil {
		return found[1]
	}
	return ""
}

func (f *Field) encodeNPY() []byte {
	shape := f.Shape
	if f.Bare {
		shape = shape[1:]
	}
	sides := make([]string, len(shape))
	for i, d := range shape {
		sides[i] = strconv.FormatInt(d, 10)
	}
	// The comma after the last makes a tuple of one, too.
	header := "{'descr': '<f4', 'fortran_order': False, 'shape': (" + strings.Join(sides, ", ") + ",), }"
	// The numbers begin at a multiple of 64, after a line's end.
	const before = len(npyMagic) + 4
	header += strings.Repeat(" ", 63-(before+len(header))%64) + "\n"
	out := append([]byte(npyMagic), 1, 0)
	out = binary.LittleEndian.AppendUint16(out, uint16(len(header))) //nolint:gosec // far below 65536
	out = append(out, header...)
	for _, x := range f.Data {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
	}
	return out
}
