// Package index searches the templates of a gallery in memory, exactly.
//
// A subject is one row, whatever the number of their templates: the one that
// [face.FuseEmbeddings] makes of them all, in the order of their ids. The
// embeddings that it was made of are kept beside it, and when one is added or
// removed it is made anew from all of them. So it does not depend on what was
// there before.
//
// Every row is kept twice: as float32 numbers, and as int8 codes, a quarter of
// their size. A search sweeps the codes, as fast as memory can be read, and
// computes for each row a proven upper bound of its score instead of the score.
// Only rows whose bound reaches the k-th best score found so far are scored from
// their float32 numbers, with [face.Embedding.Cosine]. So the answer is always
// the one that scoring every subject would give, ties included.
//
// # The bound
//
// Let q be the probe and x a row, and q' and x' the vectors that their
// codes stand for. Then
//
//	q.x = q'.x' + (q-q').x + q'.(x-x')
//	    <= q'.x' + |q-q'| |x| + |q'| |x-x'|
//
// by Cauchy-Schwarz. |x-x'| is measured when the row is written and kept
// with it, |q-q'| and |q'| are measured once a search, and |x| is at most
// 1+[NormTolerance]. All three are rounded up; the slack that covers the
// float32 arithmetic of the sweep is derived at the constant sweepSlack.
//
// # Memory
//
// A subject takes, for d numbers, 4d bytes of float32, d bytes of codes (d
// rounded up to 32) and 16 bytes of scale, residual and row pointer in slabs. A
// template takes about 280 bytes of ids and maps, and another 4d if it is not
// the subject's only one. A subject with one template of 256 numbers thus takes
// 1.6 KB, one with four 6.5 KB.
//
// # Concurrency
//
// A search takes only the lock of the map of galleries, and only to find its
// gallery. Rows are appended behind an atomic counter, removed by an atomic
// mark, and compacted into new slabs while searches go on in the old ones. A row
// that is replaced bears the number of the change, and each search looks at the
// rows of the change that was the last when it began, so that nobody is missed or
// met twice because a template comes or goes. The numbers of a removed or
// replaced row stay in memory, where no later search looks at them, until its
// slab is compacted. That happens once more than a fifth of the slab is removed
// or replaced, or the gallery is empty or removed.
package index
