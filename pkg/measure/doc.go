// Package measure finds out how good an encoder is: error rates with their
// intervals, and the calibration and the verification head that package match
// decides with. No server links it.
//
// The parts are usable alone: [Scores] and [Searches] count errors,
// [Bootstrap] and [Spread] find how uncertain the rates are, [Calibrate] names
// operating points, [FitHead] trains a verification head and [MeasureHeads]
// compares several.
//
// One convention holds everywhere, as in package match: a score at or above the
// threshold is a match. A mated comparison is one of two samples of the same
// person, an impostor comparison one of two different people (ISO/IEC 19795-1).
package measure
