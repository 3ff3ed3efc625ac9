// Package face is the vocabulary of Likeness: subjects, templates, faces,
// embeddings, candidates and the one error type. Its names are those of ISO/IEC
// 2382-37 (biometric vocabulary) and ISO/IEC 19795-1 (performance testing): one
// word for each idea, the same in Go, JSON, SQL and metrics. Every other package
// uses it, so it imports nothing but the standard library.
package face
