package index

import (
	"math"
	"sync/atomic"

	"github.com/likeness-id/likeness/pkg/face"
)

const (
	slabRows  = 8192 // rows of a full slab
	tileRows  = 8    // rows that a kernel takes at once
	chunkSize = 32   // codes of one row that lie together
)

// slab is a block of rows that grows to its capacity and never moves.
//
// The codes lie in tiles of eight rows: the first 32 codes of each of the
// eight, then the next 32 of each, and so on. A sweep thus reads them from
// first to last, and a kernel loads each 32 codes of the probe once for eight
// rows. Codes past a row's end and rows past the last are zero.
//
// Rows below n are written and do not change; only the residual becomes NaN
// when a row is removed. One that is replaced stays, for the searches that began
// before.
type slab struct {
	dim       int
	chunks    int          // of one row
	n         atomic.Int64 // rows that readers may look at
	codes     []int8       // capacity x chunks x chunkSize
	scales    []float32    // what a row's codes are to be multiplied with
	residuals []uint32     // float32 bits of |x-x'|, or of NaN; atomic
	numbers   []float32    // capacity x dim
	rows      []*row       // whose row it is
	dead      int          // rows removed or replaced; guarded by the partition's mu
}

// newSlab makes an empty slab for at least the given number of rows.
func newSlab(dim, rows int) *slab {
	rows = roundUp(rows, tileRows)
	chunks := roundUp(dim, chunkSize) / chunkSize
	s := &slab{
		dim: dim, chunks: chunks,
		codes:     make([]int8, rows*chunks*chunkSize),
		scales:    make([]float32, rows),
		residuals: make([]uint32, rows),
		numbers:   make([]float32, rows*dim),
		rows:      make([]*row, rows),
	}
	none := math.Float32bits(float32(math.NaN()))
	for i := range s.residuals {
		s.residuals[i] = none
	}
	return s
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// put writes a row that readers do not yet look at.
func (s *slab) put(at int, e face.Embedding, r *row) {
	copy(s.embedding(at), e)
	scale, residual := s.quantise(at, e)
	s.scales[at] = scale
	atomic.StoreUint32(&s.residuals[at], math.Float32bits(residual))
	s.own(at, r)
}

// own records whose place in the slab it is.
func (s *slab) own(at int, r *row) {
	s.rows[at] = r
	r.slab, r.at = s, int32(at)
}

// quantise writes the codes of a row and returns their scale and an upper
// bound of the distance between the row and what its codes stand for.
func (s *slab) quantise(at int, e face.Embedding) (scale, residual float32) {
	scale = scaleOf(e)
	var sum float64
	for c := range s.chunks {
		part := e[c*chunkSize : min(len(e), (c+1)*chunkSize)]
		sum += encode(s.chunk(at, c), part, scale)
	}
	return scale, residualOf(sum)
}

// chunk is the place of a row's c-th codes.
func (s *slab) chunk(at, c int) []int8 {
	from := ((at/tileRows*s.chunks+c)*tileRows + at%tileRows) * chunkSize
	return s.codes[from : from+chunkSize]
}

// embedding is the one that the row was written with. The caller must not change
// it.
func (s *slab) embedding(at int) face.Embedding {
	return s.numbers[at*s.dim : (at+1)*s.dim : (at+1)*s.dim]
}

// remove hides a row from searches that start afterwards.
func (s *slab) remove(at int) {
	atomic.StoreUint32(&s.residuals[at], math.Float32bits(float32(math.NaN())))
	s.dead++
}

// supersede hides one of its rows from searches that start after the change
// with that version.
func (s *slab) supersede(r *row, version int64) {
	r.died.Store(version)
	s.dead++
}

// sparse reports whether compaction is due: more than a fifth is dead. It
// compares with the capacity, so that a new slab is not rewritten each time one
// of its few rows is removed.
func (s *slab) sparse() bool { return s.dead*5 > len(s.rows) }

func (s *slab) live() int { return int(s.n.Load()) - s.dead }

// alive lists the rows that were neither removed nor replaced.
func (s *slab) alive() []*row {
	out := make([]*row, 0, s.live())
	for at := range int(s.n.Load()) {
		if r := math.Float32frombits(s.residuals[at]); r == r && s.rows[at].died.Load() == 0 {
			out = append(out, s.rows[at])
		}
	}
	return out
}

// bytes is the memory of the slab, without the rows it points to.
func (s *slab) bytes() int64 {
	return int64(len(s.codes)) + 4*int64(len(s.scales)+len(s.residuals)+len(s.numbers)) + 8*int64(len(s.rows))
}
