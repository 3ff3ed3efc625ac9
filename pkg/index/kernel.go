package index

import (
	"math"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

// Kernel is one way to sweep a slab.
type Kernel struct {
	name string
	// prepare turns a probe into the query that scan reads.
	prepare func(face.Embedding) *query
	// scan looks at the tiles of a slab's first n rows, beginning with the
	// given tile. It returns the first tile that has a row whose bound is at
	// least limit, with the bounds of the tile's rows, or the number of tiles
	// if there is none. The bounds of removed rows are NaN; those of rows from
	// n on mean nothing.
	scan func(s *slab, q *query, tile, n int, limit float32, upper *[tileRows]float32) int
}

// String names the instructions the kernel needs: "avx2", "neon", or
// "portable" when it needs none in particular.
func (k Kernel) String() string { return k.name }

// Kernels lists the kernels that this machine can run, the fastest first. The
// last is the portable one.
func Kernels() []Kernel { return append(machineKernels(), portable()) }

// query is a probe as a kernel wants it. The kernel's bounds have a unit of
// their own: score <= scale*bound + slack.
type query struct {
	numbers face.Embedding
	codes   []int8  // chunks x chunkSize
	norm    float32 // of the codes
	scale   float64
	slack   float64
}

// bound is the highest score that a row with the given bound can have.
func (q *query) bound(upper float32) float64 { return q.scale*float64(upper) + q.slack }

// limit is the bound that a row needs for the given score, or slightly less.
func (q *query) limit(score float64) float32 {
	exact := (score - q.slack) / q.scale
	limit := float32(exact)
	if float64(limit) > exact {
		limit = math.Nextafter32(limit, float32(math.Inf(-1)))
	}
	return limit
}

// sweepSlack covers, in units of the score, the rounding that no other term
// does. With u = 2^-24, a kernel computes dot*s + a*r in float32, where dot is
// the exact product of codes, s the row's scale, a the norm of the probe's
// codes and r the row's residual: the conversion of dot, two products and one
// sum, a relative error of at most 4u on |dot*s| + a*r. Times the probe's scale
// that sum is |q'.x'| + |q'||x-x'|. Rounding moves no number of a vector by
// more than half a scale, 1/254 of its largest number, so |x-x'| <= |x|
// sqrt([MaxDimension])/254 < 0.26, and |x'|, |q'| < 1.27: the error is below
// 4u(1.27^2 + 1.27*0.26) < 5e-7. The float64 arithmetic of a score, of a bound
// and of a limit is below MaxDimension*2^-52 < 1e-12.
const sweepSlack = 1e-6

// scanTiles is [Kernel].scan on a slab's arrays, in assembly. A row's bound is
// dot*scale + norm*residual. The codes are of -127..127, so that the sum of two
// products fits an int16 and the negative of a code is one.
//
// It reads whole tiles, and so also rows from n on, which a writer may be
// filling. The results for those rows are ignored.
type scanTiles func(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[tileRows]float32) int

// scanCodes makes the scan function of a [Kernel] from a scanTiles.
func scanCodes(f scanTiles) func(*slab, *query, int, int, float32, *[tileRows]float32) int {
	return func(s *slab, q *query, tile, n int, limit float32, upper *[tileRows]float32) int {
		tiles := (n + tileRows - 1) / tileRows
		if tile >= tiles {
			return tiles
		}
		return f(&s.codes[0], &q.codes[0], s.chunks, &s.scales[0], &s.residuals[0], q.norm, limit, tile, tiles, upper)
	}
}

// prepareCodes quantises a probe for a kernel that reads codes.
func prepareCodes(probe face.Embedding) *query {
	scale := scaleOf(probe)
	q := &query{numbers: probe, codes: make([]int8, roundUp(len(probe), chunkSize)), scale: float64(scale)}
	residual := residualOf(encode(q.codes, probe, scale))
	var sum int64
	for _, c := range q.codes {
		sum += int64(c) * int64(c)
	}
	q.norm = roundUpFloat32(math.Sqrt(float64(sum)))
	q.slack = float64(residual)*(1+NormTolerance) + sweepSlack
	return q
}

// scaleOf is the scale with which the numbers of a vector become codes of
// -127..127. It is at least 1e-6, so that dividing by it is safe: no vector is
// shorter than 0.04, the length of the shortest that is fused.
func scaleOf(e face.Embedding) float32 {
	// Without their signs, finite float32 have the same order as their bits,
	// and integers are compared much faster.
	var largest uint32
	for _, v := range e {
		largest = max(largest, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(largest) / 127
}

// roundMagic added to a small float32 leaves the number, rounded to an
// integer, in the lowest bits: at 1.5*2^23 the last place is worth one.
const roundMagic = 3 << 22

// encode writes the codes of some numbers and returns the sum of the squared
// rounding errors. That sum is right whichever way a number is rounded.
func encode(codes []int8, numbers []float32, scale float32) float64 {
	inverse := 1 / scale
	codes = codes[:len(numbers)]
	var sum float64
	for i, v := range numbers {
		c := int8(math.Float32bits(v*inverse + roundMagic))
		codes[i] = c
		miss := float64(v) - float64(scale)*float64(c)
		sum += miss * miss
	}
	return sum
}

// residualOf is the root of a sum of squares in float64, rounded up by more
// than the error of the sum.
func residualOf(sum float64) float32 { return roundUpFloat32(math.Sqrt(sum) * (1 + 1e-9)) }

// roundUpFloat32 rounds to a float32 that is not smaller.
func roundUpFloat32(v float64) float32 {
	f := float32(v)
	if float64(f) < v {
		f = math.Nextafter32(f, float32(math.Inf(1)))
	}
	return f
}

// portable is the kernel for machines without vector instructions that we use.
// It sweeps the float32 numbers instead of the codes: without such instructions
// arithmetic, and not memory, takes the time, and multiplying floats is faster
// than multiplying widened codes.
func portable() Kernel {
	return Kernel{name: "portable", prepare: prepareNumbers, scan: scanNumbers}
}

// prepareNumbers makes a query whose slack is the error of a float32 dot
// product in any order of summation: d*u/(1-d*u) times |q||x|, u = 2^-24.
func prepareNumbers(probe face.Embedding) *query {
	du := float64(len(probe)) * 0x1p-24
	norm := 1 + NormTolerance
	return &query{numbers: probe, scale: 1, slack: du/(1-du)*norm*norm + sweepSlack}
}

func scanNumbers(s *slab, q *query, tile, n int, limit float32, upper *[tileRows]float32) int {
	for ; tile*tileRows < n; tile++ {
		found := false
		for i := range min(tileRows, n-tile*tileRows) {
			at := tile*tileRows + i
			if r := math.Float32frombits(atomic.LoadUint32(&s.residuals[at])); r != r {
				upper[i] = r
				continue
			}
			upper[i] = dot(q.numbers, s.embedding(at))
			found = found || upper[i] >= limit
		}
		if found {
			break
		}
	}
	return tile
}

// dot adds into four sums, so that no addition waits for the one before it.
func dot(a, b []float32) float32 {
	var s0, s1, s2, s3 float32
	for len(a) >= 8 && len(b) >= 8 {
		s0 += a[0]*b[0] + a[4]*b[4]
		s1 += a[1]*b[1] + a[5]*b[5]
		s2 += a[2]*b[2] + a[6]*b[6]
		s3 += a[3]*b[3] + a[7]*b[7]
		a, b = a[8:], b[8:]
	}
	for i, v := range a {
		s0 += v * b[i]
	}
	return s0 + s1 + s2 + s3
}
