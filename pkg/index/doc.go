// Package index searches the templates of a gallery in memory, exactly.
//
// Every template is kept twice: as the float32 numbers it was added with, and
// as int8 codes, a quarter of their size. A search sweeps the codes, as fast as
// memory can be read, and computes for each row a proven upper bound of its
// score instead of the score. Only rows whose bound reaches the k-th best score
// found so far are scored from their float32 numbers, with
// [face.Embedding.Cosine]. So the answer is always the one that scoring every
// template would give, ties included.
//
// # The bound
//
// Let q be the probe and x a template, and q' and x' the vectors that their
// codes stand for. Then
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
// A search takes only the lock of the map of galleries, and only to find its
// gallery. Rows are appended behind an atomic counter, removed by an atomic
// mark, and compacted into new slabs while searches go on in the old ones. The
// numbers of a removed row stay in memory, where no search looks at them, until
// its slab is compacted. That happens once more than a fifth of the slab is
// removed, or the gallery is empty or removed.
package index
