// Package openvino converts models from OpenVINO's intermediate representation,
// version 11, to ONNX. Such a model is published as two files: the graph as
// XML, and the weights as float16 or float32.
//
// It knows the operators of face-reidentification-retail-0095 of the Open Model
// Zoo, which `likeness models pull` converts with it.
package openvino

import (
	"encoding/xml"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/grad"
	"github.com/likeness-id/likeness/pkg/grad/onnxpb"
)

// Bounds, checked before memory is taken.
const (
	maxGraph   = 16 << 20 // bytes
	maxWeights = 1 << 28  // bytes
	maxNumbers = 1 << 25  // of all weights that are written, together
)

// Names are those that the ONNX model gets.
type Names struct {
	Graph  string
	Input  string // the only input, float32 of N x C x height x width
	Output string // the only output, float32 of N x the rest
}

// Convert makes an ONNX model of a graph (.xml) and its weights (.bin). Each
// layer becomes one node; weights become float32, which is exact. The same files
// and names give the same bytes.
//
// The error is Invalid, and names the layer, if the files are no such model, are
// too large (16 MiB, 256 MiB, or 33 million weights), contradict themselves, or
// need an operator that is not converted.
func Convert(graph, weights []byte, names Names) ([]byte, error) {
	const op = "openvino.Convert"
	if len(graph) > maxGraph || len(weights) > maxWeights {
		return nil, face.Errorf(face.Invalid, op, "the graph or the weights are over %d or %d bytes", maxGraph, maxWeights)
	}
	var n network
	if err := xml.Unmarshal(graph, &n); err != nil {
		return nil, face.Errorf(face.Invalid, op, "the graph is no XML of OpenVINO: %v", err)
	}
	if n.XMLName.Local != "net" || n.Version != "11" {
		return nil, face.Errorf(face.Invalid, op, "the graph is <%s> of version %q, not <net> of version 11", n.XMLName.Local, n.Version)
	}
	c := &converter{
		sources: map[[2]int]int{}, weights: weights, names: names, given: map[int]operand{},
		written: map[string]bool{}, out: &onnxpb.Graph{Name: names.Graph},
	}
	for _, e := range n.Edges {
		to := [2]int{e.ToLayer, e.ToPort}
		if _, twice := c.sources[to]; twice {
			return nil, face.Errorf(face.Invalid, op, "port %d of layer %d has two sources", e.ToPort, e.ToLayer)
		}
		c.sources[to] = e.FromLayer
	}
	for i := range n.Layers {
		l := &n.Layers[i]
		if err := c.layer(l); err != nil {
			return nil, face.Errorf(face.Invalid, op, "layer %d, %q (%s): %v", l.ID, l.Name, l.Type, err)
		}
	}
	if len(c.out.Input) != 1 || len(c.out.Output) != 1 {
		return nil, face.Errorf(face.Invalid, op, "the graph has %d inputs and %d results, not one of each", len(c.out.Input), len(c.out.Output))
	}
	// Opset 13 is the oldest in which these operators are what they are today.
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(&onnxpb.Model{
		IrVersion: 8, OpsetImport: []*onnxpb.OperatorSet{{Domain: proto.String(""), Version: 13}}, Graph: c.out,
	})
	if err != nil {
		return nil, face.Wrap(face.Internal, op, err)
	}
	if err := checkShapes(data, n.Layers); err != nil {
		return nil, err
	}
	return data, nil
}

// checkShapes compares the shapes that pkg/grad works out for the ONNX model
// with those that the layers declare, so that no layer is understood wrongly.
func checkShapes(model []byte, layers []layer) error {
	m, err := grad.Parse(model)
	if err != nil {
		return err
	}
	g := grad.NewGraph()
	inputs := map[string]*grad.Value{}
	for _, p := range m.InputPorts() {
		inputs[p.Name] = g.Input(p.Name, p.Shape...)
	}
	im, err := g.Import(m, inputs, m.Layers(), grad.ImportOptions{})
	if err != nil {
		return err
	}
	for _, p := range m.OutputPorts() {
		if v := im.Layers[p.Name]; !slices.Equal(v.Shape(), p.Shape) {
			return face.Errorf(face.Invalid, "openvino.Convert", "the result is declared as %v, but is %v", p.Shape, v.Shape())
		}
	}
	for i := range layers {
		l := &layers[i]
		if v := im.Layers[l.tensor()]; v != nil && !slices.Equal(v.Shape(), l.Outputs[0].Dims) {
			return face.Errorf(face.Invalid, "openvino.Convert", "layer %d, %q (%s): it declares the shape %v, but computes %v",
				l.ID, l.Name, l.Type, l.Outputs[0].Dims, v.Shape())
		}
	}
	return nil
}

// network is the graph as it is written.
type network struct {
	XMLName xml.Name
	Version string  `xml:"version,attr"`
	Layers  []layer `xml:"layers>layer"`
	Edges   []struct {
		FromLayer int `xml:"from-layer,attr"`
		ToLayer   int `xml:"to-layer,attr"`
		ToPort    int `xml:"to-port,attr"`
	} `xml:"edges>edge"`
}

type layer struct {
	ID      int    `xml:"id,attr"`
	Name    string `xml:"name,attr"`
	Type    string `xml:"type,attr"`
	Version string `xml:"version,attr"` // of the operator
	Data    struct {
		Attrs []xml.Attr `xml:",any,attr"`
	} `xml:"data"`
	Inputs  []port `xml:"input>port"`
	Outputs []port `xml:"output>port"`
}

type port struct {
	ID   int     `xml:"id,attr"`
	Dims []int64 `xml:"dim"`
}

// tensor is the name of what the layer computes.
func (l *layer) tensor() string { return fmt.Sprintf("t%d", l.ID) }
