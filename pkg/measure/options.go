package measure

// Options say what a measurement reports and how its intervals are found.
type Options struct {
	Confidence     float64 // of every interval, between 0 and 1
	Replicates     int     // draws of a bootstrap, at least 1
	HeadReplicates int     // draws for verification heads, each of which looks at every pair once for every head
	Seed           uint64  // of all random choices: the same seed gives the same numbers

	FMRs  []float64 // false match rates that verification is reported at, each 0..1
	FPIRs []float64 // false positive identification rates that identification is reported at, each 0..1
	Ranks []int     // the first so many candidates that the right one is looked for among, each at least 1
}

// DefaultOptions are what the likeness command reports: intervals at 95 % from
// 2,000 draws, FMR 1e-2 and 1e-3, FPIR 1e-1 to 1e-3, ranks 1, 5, 10 and 20.
func DefaultOptions() Options {
	return Options{
		Confidence:     0.95,
		Replicates:     2000,
		HeadReplicates: 500,
		Seed:           1,
		FMRs:           []float64{1e-2, 1e-3},
		FPIRs:          []float64{1e-1, 1e-2, 1e-3},
		Ranks:          []int{1, 5, 10, 20},
	}
}
