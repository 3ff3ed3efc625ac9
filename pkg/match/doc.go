// Package match turns scores into decisions. It does no I/O and no statistics:
// package measure finds what this package applies.
//
// It answers these questions: how close a probe is to a subject's templates
// ([Verify]), whether the best candidate of a search is the person
// ([Identify]), which score a decision needs for a wanted false match rate
// ([Policy]), and how probable it is that two embeddings are of one person
// ([Head]).
//
// One convention holds everywhere: a score at or above the threshold is a
// match. A mated comparison is one of two samples of the same person, an
// impostor comparison one of two different people (ISO/IEC 19795-1).
package match
