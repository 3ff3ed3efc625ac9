// Package models carries the manifests of the models that Likeness knows from
// the start. README.md says what a manifest is and how to add one's own.
package models

import "embed"

// FS holds the built-in manifests, <id>.json in its root.
//
//go:embed *.json
var FS embed.FS
