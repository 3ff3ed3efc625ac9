// Package models holds the manifests of the models that Likeness knows, and the
// weights of its own models. README.md says what a manifest is and how to add
// your own.
package models

import "embed"

// FS holds, in its root, a manifest <id>.json of each model, and builtin-*.onnx.
//
//go:embed *.json builtin-*.onnx
var FS embed.FS
