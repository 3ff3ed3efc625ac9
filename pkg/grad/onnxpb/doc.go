// Package onnxpb is the part of the ONNX file format that pkg/grad uses.
package onnxpb

//go:generate sh -c "protoc --plugin=protoc-gen-go=$(go tool -modfile=../../../tools/go.mod -n protoc-gen-go) --go_out=. --go_opt=paths=source_relative onnx.proto"
