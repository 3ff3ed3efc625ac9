package openvino_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/x448/float16"

	"github.com/likeness-id/likeness/internal/openvino"
	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/sharedtest"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
)

// published reads a file of ../shared.
func published(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(sharedtest.Path(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// The published files of intel-0095 become the file that its manifest names, to
// the byte.
func TestConvertPublished(t *testing.T) {
	t.Parallel()
	const name = "face-reidentification-retail-0095"
	got, err := openvino.Convert(published(t, "models/openvino/"+name+".xml"), published(t, "models/openvino/"+name+".bin"),
		openvino.Names{Graph: name, Input: "image", Output: "embedding"})
	if err != nil {
		t.Fatal(err)
	}
	m := orttest.Model(t, "intel-0095")
	want, err := m.ReadVerified()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes that are not the %d of %s", len(got), len(want), m.Path)
	}
}

// small is a graph with each operator but a Convolution, and its weights, to
// change and to break.
func small() (graph string, weights []byte) {
	var layers, edges strings.Builder
	dims := func(shape []int) (text string) {
		for _, d := range shape {
			text += fmt.Sprintf("<dim>%d</dim>", d)
		}
		return text
	}
	shapes := map[int][]int{}
	add := func(kind, data string, shape []int, from ...int) int {
		id := len(shapes)
		shapes[id] = shape
		fmt.Fprintf(&layers, "<layer id=\"%d\" name=\"the %s\" type=\"%s\" version=\"opset1\"><data %s/><input>", id, kind, kind, data)
		for i, f := range from {
			fmt.Fprintf(&layers, "<port id=\"%d\">%s</port>", i, dims(shapes[f]))
			fmt.Fprintf(&edges, "<edge from-layer=\"%d\" from-port=\"0\" to-layer=\"%d\" to-port=\"%d\"/>", f, id, i)
		}
		layers.WriteString("</input>")
		if shape != nil {
			fmt.Fprintf(&layers, "<output><port id=\"%d\">%s</port></output>", len(from), dims(shape))
		}
		layers.WriteString("</layer>\n")
		return id
	}
	constant := func(kind string, shape []int, offset int) int {
		text := strings.Trim(strings.ReplaceAll(fmt.Sprint(shape), " ", ", "), "[]")
		return add("Const", fmt.Sprintf(`element_type="%s" shape="%s" offset="%d" size="%d"`, kind, text, offset, len(weights)-offset), shape)
	}
	half := func(shape []int, numbers ...float32) int {
		offset := len(weights)
		for _, x := range numbers {
			weights = binary.LittleEndian.AppendUint16(weights, float16.Fromfloat32(x).Bits())
		}
		return add("Convert", `destination_type="f32"`, shape, constant("f16", shape, offset))
	}
	single := func(shape []int, numbers ...float32) int {
		offset := len(weights)
		for _, x := range numbers {
			weights = binary.LittleEndian.AppendUint32(weights, math.Float32bits(x))
		}
		return constant("f32", shape, offset)
	}
	window := ` strides="1, 1" pads_begin="0, 0" pads_end="0, 0" auto_pad="explicit"`
	four, one := []int{1, 2, 2, 2}, []int{1, 2, 1, 1}
	x := add("Parameter", `shape="1,2,2,2" element_type="f32"`, four)
	x = add("Multiply", `auto_broadcast="numpy"`, four, x, half(one, 2, -1))
	x = add("GroupConvolution", `dilations="1, 1"`+window, four, x, half([]int{2, 1, 1, 1, 1}, 0.5, 3))
	x = add("Add", `auto_broadcast="numpy"`, four, x, single(one, 0.1, -0.7))
	x = add("PReLU", "", four, x, half([]int{2}, 0.25, -0.5))
	x = add("AvgPool", `kernel="2, 2" exclude-pad="true" rounding_type="floor"`+window, one, x)
	x = add("Sigmoid", "", one, x)
	add("Result", "", nil, x)
	return "<?xml version=\"1.0\"?>\n<net name=\"small\" version=\"11\">\n<layers>\n" + layers.String() +
		"</layers>\n<edges>" + edges.String() + "</edges>\n</net>\n", weights
}

func convert(graph string, weights []byte) ([]byte, error) {
	return openvino.Convert([]byte(graph), weights, openvino.Names{Graph: "small", Input: "x", Output: "y"})
}

// The model computes what the graph says.
func TestConvert(t *testing.T) {
	t.Parallel()
	model, err := convert(small())
	if err != nil {
		t.Fatal(err)
	}
	p, err := orttest.Runtime(t).Compile(model, []grad.Port{{Name: "x", Shape: []int64{1, 2, 2, 2}}}, []grad.Port{{Name: "y", Shape: []int64{1, 2}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	in := []float32{1, -2, 0.5, -1, 0.25, 2, -3, 1}
	copy(p.Input(0), in)
	if err := p.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want []float32
	for c, k := range []struct{ scale, bias, slope float64 }{{2 * 0.5, float64(float32(0.1)), 0.25}, {-1 * 3, float64(float32(-0.7)), -0.5}} {
		sum := 0.
		for _, x := range in[4*c : 4*c+4] {
			y := float64(x)*k.scale + k.bias
			if y < 0 {
				y *= k.slope
			}
			sum += y / 4
		}
		want = append(want, float32(1/(1+math.Exp(-sum))))
	}
	if diff := cmp.Diff(want, p.Output(0), cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("embedding (-want +got):\n%s", diff)
	}
}

// What is not known, not there or not true is refused with the layer.
func TestConvertRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ old, new, words string }{
		"no XML":                {"</net>", "", "no XML"},
		"another file":          {"net", "model", "<model>"},
		"another version":       {`version="11"`, `version="10"`, `version "10"`},
		"another operator":      {`type="Sigmoid"`, `type="HSwish"`, `"the Sigmoid" (HSwish): this operator is not converted, only Add, AvgPool`},
		"another opset":         {`type="Sigmoid" version="opset1"`, `type="Sigmoid" version="opset4"`, `"opset4"`},
		"another attribute":     {`kernel="2, 2"`, `kernel="2, 2" axes="1"`, `"axes"`},
		"a missing attribute":   {`auto_broadcast="numpy"`, ``, "attributes"},
		"another broadcast":     {`auto_broadcast="numpy"`, `auto_broadcast="pdpd"`, "auto_broadcast"},
		"automatic padding":     {`auto_pad="explicit"`, `auto_pad="same_upper"`, "auto_pad"},
		"padding in the mean":   {`exclude-pad="true"`, `exclude-pad="false"`, "exclude-pad"},
		"rounding up":           {`rounding_type="floor"`, `rounding_type="ceil"`, "rounding_type"},
		"another kind of input": {`shape="1,2,2,2" element_type="f32"`, `shape="1,2,2,2" element_type="u8"`, `"u8"`},
		"a stride of none":      {`strides="1, 1"`, `strides="0, 1"`, "Conv"},
		"no numbers":            {`strides="1, 1"`, `strides="1, x"`, "strides"},
		"one number":            {`strides="1, 1"`, `strides="1"`, "strides"},
		"weights elsewhere":     {`offset="0"`, `offset="9999"`, "not in the weights"},
		"weights before":        {`offset="0"`, `offset="-4"`, "offset"},
		"weights too long":      {`size="4"`, `size="9223372036854775807"`, "not in the weights"},
		"weights too short":     {`size="4"`, `size="2"`, "does not fit"},
		"a shape too large":     {`shape="1, 2, 1, 1"`, `shape="4294967296, 4294967296, 1, 1"`, "does not fit"},
		"an empty shape":        {`shape="1, 2, 1, 1"`, `shape="0, 2, 1, 1"`, "does not fit"},
		"integers":              {`element_type="f16"`, `element_type="i8"`, `"i8"`},
		"read before":           {`from-layer="0"`, `from-layer="9"`, "before this one"},
		"nothing read":          {`from-layer="0" from-port="0" to-layer="3"`, `from-layer="0" from-port="0" to-layer="99"`, "before this one"},
		"read twice":            {`to-layer="3" to-port="1"`, `to-layer="3" to-port="0"`, "two sources"},
		"two of an id":          {`<layer id="1"`, `<layer id="0"`, "same id"},
		"another shape":         {`<port id="2"><dim>1</dim><dim>2</dim>`, `<port id="2"><dim>1</dim><dim>3</dim>`, "declares the shape [1 3 2 2], but computes [1 2 2 2]"},
		"no result":             {`type="Result"`, `type="Sigmoid"`, "outputs"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			graph, weights := small()
			if !strings.Contains(graph, c.old) {
				t.Fatalf("the graph lacks %q:\n%s", c.old, graph)
			}
			_, err := convert(strings.Replace(graph, c.old, c.new, 1), weights)
			if face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), c.words) {
				t.Errorf("error %v, want %q", err, c.words)
			}
		})
	}
	graph, weights := small()
	if _, err := convert(graph+strings.Repeat(" ", 16<<20), weights); face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), "16777216") {
		t.Errorf("a huge graph: %v", err)
	}
}

// Weights that many layers use are still bounded: the file is small, the model
// would not be.
func TestConvertBoundsWeights(t *testing.T) {
	t.Parallel()
	const side = 2048 // 4 million weights, 16 MB
	dims := func(n int) string { return fmt.Sprintf("<dim>1</dim><dim>%d</dim><dim>1</dim><dim>1</dim>", n) }
	var layers, edges strings.Builder
	fmt.Fprintf(&layers, `<layer id="0" type="Parameter" version="opset1"><data shape="1,%d,1,1" element_type="f32"/><output><port id="0">%s</port></output></layer>`, side, dims(side))
	fmt.Fprintf(&layers, `<layer id="1" type="Const" version="opset1"><data shape="%d,%d,1,1" element_type="f16" offset="0" size="%d"/><output><port id="0"/></output></layer>`, side, side, 2*side*side)
	for id := 2; id < 12; id++ {
		fmt.Fprintf(&layers, `<layer id="%d" type="Convolution" version="opset1"><data dilations="1,1" strides="1,1" pads_begin="0,0" pads_end="0,0" auto_pad="explicit"/>`+
			`<input><port id="0"/><port id="1"/></input><output><port id="2">%s</port></output></layer>`, id, dims(side))
		from := id - 1
		if id == 2 {
			from = 0
		}
		fmt.Fprintf(&edges, `<edge from-layer="%d" to-layer="%d" to-port="0"/><edge from-layer="1" to-layer="%d" to-port="1"/>`, from, id, id)
	}
	_, err := convert(`<net version="11"><layers>`+layers.String()+`</layers><edges>`+edges.String()+`</edges></net>`, make([]byte, 2*side*side))
	if face.KindOf(err) != face.Invalid || !strings.Contains(err.Error(), "layer 10") || !strings.Contains(err.Error(), "33554432 weights") {
		t.Errorf("got %v", err)
	}
}

// Whatever the files are, they become a model that pkg/grad reads, or are refused.
func FuzzConvert(f *testing.F) {
	graph, weights := small()
	f.Add([]byte(graph), weights)
	for _, c := range [][2]string{
		{`strides="1, 1"`, `strides="0, 1"`}, {`shape="1,2,2,2"`, `shape="1,2,1073741824,1073741824"`}, {`kernel="2, 2"`, `kernel="0, 9223372036854775807"`},
		{`pads_begin="0, 0"`, `pads_begin="9223372036854775807, 1"`}, {`from-layer="0"`, `from-layer="-1"`}, {`type="Sigmoid"`, `type="Result"`},
	} {
		f.Add([]byte(strings.Replace(graph, c[0], c[1], 1)), weights)
	}
	f.Fuzz(func(t *testing.T, graph, weights []byte) {
		model, err := openvino.Convert(graph, weights, openvino.Names{Input: "x", Output: "y"})
		if err != nil {
			if face.KindOf(err) != face.Invalid {
				t.Errorf("kind of %v", err)
			}
			return
		}
		if _, err := grad.Parse(model); err != nil {
			t.Error(err)
		}
	})
}
