// Package api is the HTTP contract: openapi.yaml, written by hand, the types
// and the server that are generated from it, and the decoding of bodies,
// which is stricter than the generator's. Unknown, repeated and missing
// fields and wrong types are refused, each with its JSON pointer, in JSON and
// in multipart alike.
package api

import _ "embed"

//go:generate go tool -modfile=../tools/go.mod oapi-codegen -config codegen.yaml openapi.yaml

//go:embed openapi.yaml
var contract string

// Contract is the text of openapi.yaml.
func Contract() string { return contract }
