package index

import "golang.org/x/sys/cpu"

func machineKernels() []Kernel {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return []Kernel{{name: "avx2", prepare: prepareCodes, scan: scanAVX2}}
}

func scanAVX2(s *slab, q *query, tile, n int, limit float32, upper *[tileRows]float32) int {
	tiles := (n + tileRows - 1) / tileRows
	if tile >= tiles {
		return tiles
	}
	return scanTilesAVX2(&s.codes[0], &q.codes[0], s.chunks, &s.scales[0], &s.residuals[0], q.norm, limit, tile, tiles, upper)
}

// scanTilesAVX2 is [Kernel].scan on a slab's arrays. It needs AVX2 and codes
// of -127..127: two products of such fit an int16, and the negative of one is
// one.
//
//go:noescape
func scanTilesAVX2(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[tileRows]float32) int
