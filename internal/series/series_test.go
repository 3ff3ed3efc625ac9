package series_test

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/likeness-id/likeness/internal/series"
	"github.com/likeness-id/likeness/pkg/face"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// npyFile is a .npy file with a header of the caller's.
func npyFile(header string, body []byte) []byte {
	b := binary.LittleEndian.AppendUint16([]byte("\x93NUMPY\x01\x00"), uint16(len(header)))
	return append(append(b, header...), body...)
}

func doubles(all ...float64) (b []byte) {
	for _, x := range all {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(x))
	}
	return b
}

// What numpy 1.24 itself wrote: np.save(f, np.arange(2, dtype='f4')).
const fromNumPy = "\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }" +
	"                                                            \n\x00\x00\x00\x00\x00\x00\x80?"

func TestDecode(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		extension, data string
		axes            int
		want            series.Field
	}{
		"one number a line": {".csv", "1\n-2.5\n3e2\n", 1, series.Field{Shape: []int64{1, 3}, Data: []float32{1, -2.5, 300}}},
		"columns with a heading": {
			".CSV", "# from a monitor\nlead I, lead II\r\n1, 10\r\n2, 20\r\n\n3, 30", 1,
			series.Field{Shape: []int64{2, 3}, Data: []float32{1, 2, 3, 10, 20, 30}},
		},
		"NumPy's own": {".npy", fromNumPy, 1, series.Field{Shape: []int64{1, 2}, Data: []float32{0, 1}, Bare: true}},
		"float64 volume": {
			".npy", string(npyFile("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2, 2), }\n", doubles(1, 2, 3, 4))), 3,
			series.Field{Shape: []int64{1, 1, 2, 2}, Data: []float32{1, 2, 3, 4}, Bare: true},
		},
		"channels first": {
			".npy", string(npyFile("{'shape': (2, 1, 1, 2), 'fortran_order': False, 'descr': '<f8'}", doubles(1, 2, 3, 4))), 3,
			series.Field{Shape: []int64{2, 1, 1, 2}, Data: []float32{1, 2, 3, 4}},
		},
		"stereo": {".wav", stereo, 1, series.Field{Shape: []int64{2, 2}, Data: []float32{0.5, -1, 0.25, 0}, Rate: 8000}},
	} {
		got, err := series.Decode(tt.extension, []byte(tt.data), tt.axes)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		again, err := got.Encode(tt.extension)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if back, err := series.Decode(tt.extension, again, tt.axes); err != nil || !cmp.Equal(got, back) {
			t.Errorf("%s: written and read again: %v\n%s", name, err, cmp.Diff(got, back))
		}
	}
}

// stereo has a chunk of odd length before its samples.
const stereo = "RIFF\x3a\x00\x00\x00WAVE" +
	"LIST\x03\x00\x00\x00abc\x00" +
	"fmt \x10\x00\x00\x00\x01\x00\x02\x00\x40\x1f\x00\x00\x00\x7d\x00\x00\x04\x00\x10\x00" +
	"data\x08\x00\x00\x00\x00\x40\x00\x20\x00\x80\x00\x00"

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		extension, data, says string
		axes                  int
	}{
		"another format":        {".mp3", "", `".mp3" is none of .csv`, 1},
		"a volume as CSV":       {".csv", "1\n", "none of .npy", 3},
		"empty":                 {".csv", "", "no numbers", 1},
		"only a heading":        {".csv", "time\n", "no numbers", 1},
		"half a heading":        {".csv", "1,x\n2,3\n", `column 3: "x" is no number`, 1},
		"a heading with number": {".csv", "x,1\n2,3\n", "neither a heading nor numbers", 1},
		"no number":             {".csv", "1\n2\nabc\n", "line 3", 1},
		"lines of other length": {".csv", "1,2\n3\n", "wrong number of fields", 1},
		"not finite":            {".csv", "1\nNaN\n", "number 2 is not finite", 1},
		"too large a number":    {".csv", "1\n1e99\n", "is no number", 1},
		"no WAV":                {".wav", "RIFX", "no WAV", 1},
		"WAV of eight bits":     {".wav", strings.Replace(stereo, "\x10\x00data", "\x08\x00data", 1), "16-bit PCM", 1},
		"WAV cut off":           {".wav", stereo[:len(stereo)-2], "cut off", 1},
		"WAV without samples":   {".wav", stereo[:strings.Index(stereo, "data")], "no samples", 1},
		"WAV without format":    {".wav", "RIFF\x00\x00\x00\x00WAVEdata\x02\x00\x00\x00ab", "no format", 1},
		"no npy":                {".npy", "abc", "no .npy", 1},
		"npy of integers":       {".npy", strings.Replace(fromNumPy, "<f4", "<i4", 1), `"<i4"`, 1},
		"npy in Fortran order":  {".npy", strings.Replace(fromNumPy, "False", "True ", 1), "C order", 1},
		"npy of other axes":     {".npy", fromNumPy, "1 axes; 3 are read", 3},
		"npy cut off":           {".npy", fromNumPy[:len(fromNumPy)-1], "7 bytes", 1},
		"npy too large":         {".npy", strings.Replace(fromNumPy, "(2,), }      ", "(99999999,)}", 1), "too large", 1},
		"npy of no length":      {".npy", strings.Replace(fromNumPy, "(2,)", "(0,)", 1), "empty", 1},
		"npy of tomorrow":       {".npy", strings.Replace(fromNumPy, "\x01", "\x09", 1), "version 9", 1},
	} {
		_, err := series.Decode(tt.extension, []byte(tt.data), tt.axes)
		if face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	f := &series.Field{Shape: []int64{3, 1}, Data: []float32{1, 2, 3}, Rate: 8000}
	if _, err := f.Encode(".wav"); face.KindOf(err) != face.Invalid {
		t.Errorf("three channels: %v", err)
	}
	f = &series.Field{Shape: []int64{1, 2}, Data: []float32{3, -3}, Rate: 8000}
	b, err := f.Encode(".wav")
	if err != nil {
		t.Fatal(err)
	}
	if back, err := series.Decode(".wav", b, 1); err != nil || back.Data[0] < 0.999 || back.Data[1] != -1 {
		t.Errorf("too loud: %v, %v", back, err)
	}
	if _, err := f.Encode(".flac"); face.KindOf(err) != face.Invalid {
		t.Errorf("another format: %v", err)
	}
}

// Whatever strangers send, it is a field that is whole, or Invalid.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"1,2\n3,4\n", stereo, fromNumPy, fromNumPy[:20], ""} {
		for _, extension := range []string{".csv", ".wav", ".npy"} {
			f.Add(extension, []byte(s), 1)
		}
	}
	f.Fuzz(func(t *testing.T, extension string, data []byte, axes int) {
		if axes != 3 {
			axes = 1
		}
		got, err := series.Decode(extension, data, axes)
		if err != nil {
			if face.KindOf(err) != face.Invalid {
				t.Fatal(err)
			}
			return
		}
		n := int64(1)
		for _, d := range got.Shape {
			n *= d
		}
		if len(got.Shape) != axes+1 || n != int64(len(got.Data)) || n == 0 {
			t.Fatalf("%v of %d numbers", got.Shape, len(got.Data))
		}
	})
}
