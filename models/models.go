// Package models carries the manifests of the models that Likeness knows from
// the start, and the weights of those that are its own. README.md says what a
// manifest is and how to add one's own.
package models

import "embed"

// FS holds, in its root, a manifest <id>.json of each model, and builtin-*.onnx.
//
//go:embed *.json builtin-*.onnx
var FS embed.FS
