package index

import "golang.org/x/sys/cpu"

func machineKernels() []Kernel {
	if !cpu.X86.HasAVX2 {
		return nil
	}
	return []Kernel{{name: "avx2", prepare: prepareCodes, scan: scanCodes(scanTilesAVX2)}}
}

// scanTilesAVX2 is a [scanTiles].
//
//go:noescape
func scanTilesAVX2(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[tileRows]float32) int
