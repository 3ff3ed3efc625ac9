package orttest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/likeness-id/likeness/pkg/embed"
)

// secondDimension is that of the second encoder.
const secondDimension = 320

// SecondEncoder writes another encoder into a models folder, with its
// manifest, and returns its id: the built-in network whose embeddings
// are turned into another space, of another dimension, in which scores are the
// same and vectors of the first one mean nothing.
func SecondEncoder(tb testing.TB, dir string) (id string) {
	tb.Helper()
	m := Model(tb, Encoder)
	onnx, err := m.ReadVerified()
	if err != nil {
		tb.Fatal(err)
	}
	// Protocol buffers that follow each other are merged: what follows the
	// model adds a node, its matrix and an output to the graph.
	const out, matrix = "turned", "rotation"
	node := protobuf(protobuf(nil, 1, []byte(m.Outputs[0].Name)), 1, []byte(matrix))
	node = protobuf(protobuf(node, 2, []byte(out)), 4, []byte("MatMul"))
	rows := m.Dimension
	tensor := protobuf(number(number(nil, 1, uint64(rows)), 1, secondDimension), 8, []byte(matrix))
	tensor = protobuf(number(tensor, 2, 1), 9, rotation(rows, secondDimension)) // of type float
	var shape []byte
	for _, n := range []uint64{1, secondDimension} {
		shape = protobuf(shape, 1, number(nil, 1, n))
	}
	kind := protobuf(nil, 1, protobuf(number(nil, 1, 1), 2, shape))
	graph := protobuf(protobuf(nil, 1, node), 5, tensor)
	graph = protobuf(graph, 12, protobuf(protobuf(nil, 1, []byte(out)), 2, kind))
	onnx = protobuf(onnx, 7, graph)

	m.ID, m.File, m.Size = "turned", "turned.onnx", int64(len(onnx))
	sum := sha256.Sum256(onnx)
	m.SHA256 = hex.EncodeToString(sum[:])
	m.Dimension, m.Outputs = secondDimension, []embed.Output{{Name: out, Shape: []int64{1, secondDimension}}}
	manifest, err := json.Marshal(m.Manifest)
	if err != nil {
		tb.Fatal(err)
	}
	for name, data := range map[string][]byte{m.File: onnx, m.ID + ".json": manifest} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return m.ID
}

// protobuf appends a field of bytes.
func protobuf(b []byte, field uint64, value []byte) []byte {
	b = binary.AppendUvarint(b, field<<3|2)
	return append(binary.AppendUvarint(b, uint64(len(value))), value...)
}

// number appends a field that is an integer.
func number(b []byte, field, value uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, field<<3), value)
}

// rotation is a matrix whose rows are orthonormal, which keeps all angles.
func rotation(rows, columns int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	made := make([][]float64, rows)
	var b []byte
	for i := range made {
		row := make([]float64, columns)
		for j := range row {
			row[j] = rng.NormFloat64()
		}
		for _, other := range made[:i] {
			dot := 0.0
			for j := range row {
				dot += row[j] * other[j]
			}
			for j := range row {
				row[j] -= dot * other[j]
			}
		}
		length := 0.0
		for _, v := range row {
			length += v * v
		}
		for j := range row {
			row[j] /= math.Sqrt(length)
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(row[j])))
		}
		made[i] = row
	}
	return b
}
