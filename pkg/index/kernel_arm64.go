package index

func machineKernels() []Kernel {
	// Every arm64 processor that Go runs on has these instructions.
	return []Kernel{{name: "neon", prepare: prepareCodes, scan: scanCodes(scanTilesNEON)}}
}

// scanTilesNEON is a [scanTiles].
//
//go:noescape
func scanTilesNEON(codes, probe *int8, chunks int, scales *float32, residuals *uint32, norm, limit float32, tile, tiles int, upper *[tileRows]float32) int
