// Package match turns scores into decisions and scores into error rates.
//
// It answers four questions, all without I/O: how close a probe is to a
// subject's references ([Verify]), whether the best candidate of a search is
// the person ([Identify]), which score a decision needs for a wanted false
// match rate ([Policy]), and what a model's scores are worth ([Scores],
// [Impostors], [Bootstrap]).
//
// One convention holds everywhere: a score at or above the threshold is a
// match. A mated comparison is one of two samples of the same person, an
// impostor comparison one of two different people (ISO/IEC 19795-1).
package match
