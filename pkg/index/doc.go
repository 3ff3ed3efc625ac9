// Package index searches the templates of a gallery in memory, exactly.
//
// Every template is kept twice: as the float32 numbers it was added with, and
// as int8 codes, a quarter of their size. A search sweeps the codes, which is
// as fast as memory can be read, and computes from each row not its score but
// a proven upper bound of it. Only rows whose bound reaches the k-th best
// score found so far are scored from their float32 numbers, with
// [face.Embedding.Cosine]. The answer is therefore the one that scoring every
// template would give, ties included, for every input.
//
// # The bound
//
// Write q for the probe and x for a template, q' and x' for what their codes
// stand for. Then
//
//	q.x = q'.x' + (q-q').x + q'.(x-x')
//	    <= q'.x' + |q-q'| |x| + |q'| |x-x'|
//
// by Cauchy-Schwarz. |x-x'| is measured when the template is added and kept
// with its row, |q-q'| and |q'| are measured once a search, and |x| is at most
// 1+[NormTolerance]. All three are rounded up; the slack that covers the
// float32 arithmetic of the sweep is derived at the constant sweepSlack.
//
// # Memory
//
// A template of d numbers takes 4d bytes of float32, d bytes of codes (d
// rounded up to 32) and 16 bytes of scale, residual and row pointer in
// slabs, and about 260 bytes of ids and maps: 1.55 KB in all at 256 numbers.
//
// # Concurrency
//
// Searches take no lock but the one that guards the map of galleries, and
// that only to find theirs. Rows are appended behind an atomic counter,
// removed by an atomic mark, and compacted off to the side. The numbers of a
// removed row stay in memory, where no search looks at them, until its slab is
// compacted, which is when more than a fifth of it is dead, or its gallery is
// empty or removed.
package index
