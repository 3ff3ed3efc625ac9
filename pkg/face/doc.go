// Package face is the vocabulary of Likeness: subjects, templates, faces,
// candidates and the one error type. Its names are those of ISO/IEC 2382-37
// (biometric vocabulary) and ISO/IEC 19795-1 (performance testing), one word
// per idea, the same in Go, JSON, SQL and metrics.
//
// It imports nothing but the standard library, so every other room may use it.
package face
