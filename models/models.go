// Package models carries the manifests of the models that Likeness knows from
// the start, and the weights of those that are its own. README.md says what a
// manifest is and how to add one's own.
package models

import "embed"

// FS holds, in its root, a manifest <id>.json of each model, and builtin-*.onnx.
//
// TODO: "*.json builtin-*.onnx", once there is one of the latter: a pattern
// that matches nothing is an error.
//
//go:embed *.*on*
var FS embed.FS
