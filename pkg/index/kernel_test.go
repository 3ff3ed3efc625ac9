package index

// These tests are inside the package: the kernels and the bound are what
// everything else stands on, and neither shows from outside.

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
)

// scanPlain says in plain Go what a [scanTiles] does.
func scanPlain(s *slab, q *query, tile, n int, limit float32, upper *[tileRows]float32) int {
	for ; tile*tileRows < n; tile++ {
		found := false
		for i := range tileRows {
			at := tile*tileRows + i
			var sum int32
			for c := range s.chunks {
				for j, code := range s.chunk(at, c) {
					sum += int32(code) * int32(q.codes[c*chunkSize+j])
				}
			}
			product := float32(sum) * s.scales[at]
			upper[i] = float32(product) + float32(q.norm*math.Float32frombits(s.residuals[at]))
			found = found || upper[i] >= limit
		}
		if found {
			break
		}
	}
	return tile
}

// TestKernelsAgree holds every kernel that reads codes against plain Go, bit
// for bit, on random and on extreme codes of every dimension.
func TestKernelsAgree(t *testing.T) {
	t.Parallel()
	fills := map[string]func(*rand.Rand) int8{
		"random":  func(r *rand.Rand) int8 { return int8(r.IntN(255) - 127) },
		"extreme": func(r *rand.Rand) int8 { return int8(254*r.IntN(2) - 127) },
		"highest": func(*rand.Rand) int8 { return 127 },
		"lowest":  func(*rand.Rand) int8 { return -127 },
	}
	for _, kernel := range Kernels() {
		if kernel.name == "portable" {
			continue
		}
		for name, fill := range fills {
			t.Run(kernel.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(1, 2))
				for dim := 1; dim <= 600; dim++ {
					s := newSlab(dim, 1+rng.IntN(24))
					q := &query{codes: make([]int8, s.chunks*chunkSize), norm: rng.Float32() * 100}
					for i := range dim {
						q.codes[i] = fill(rng)
					}
					for at := range s.rows {
						for i := range dim {
							s.chunk(at, i/chunkSize)[i%chunkSize] = fill(rng)
						}
						s.scales[at] = rng.Float32()
						if rng.IntN(3) > 0 {
							s.residuals[at] = math.Float32bits(rng.Float32())
						}
					}
					compareScans(t, kernel, s, q, len(s.rows)-rng.IntN(tileRows))
				}
			})
		}
	}
}

// compareScans walks a slab with a kernel and with plain Go, at limits that
// stop nowhere, at some tiles, and at every tile with a row.
func compareScans(t *testing.T, kernel Kernel, s *slab, q *query, n int) {
	t.Helper()
	tiles := (n + tileRows - 1) / tileRows
	var limits []float32
	var upper [tileRows]float32
	for tile := range tiles {
		scanPlain(s, q, tile, n, float32(math.Inf(-1)), &upper)
		limits = append(limits, upper[tile%tileRows])
	}
	slices.Sort(limits) // NaN first, which stops nowhere either
	some := []float32{limits[0], limits[len(limits)/2], limits[len(limits)-1]}
	for _, limit := range append(some, float32(math.Inf(-1)), float32(math.Inf(1))) {
		for from := 0; from <= tiles; {
			var got, want [tileRows]float32
			at := kernel.scan(s, q, from, n, limit, &got)
			if plain := scanPlain(s, q, from, n, limit, &want); at != plain {
				t.Fatalf("dim %d, limit %g: from tile %d to %d, plain Go to %d", s.dim, limit, from, at, plain)
			}
			if at >= tiles {
				break
			}
			if d := cmp.Diff(floatBits(want), floatBits(got)); d != "" {
				t.Fatalf("dim %d, tile %d: -plain +kernel\n%s", s.dim, at, d)
			}
			from = at + 1
		}
	}
}

// floatBits makes floats comparable: one NaN is as good as another.
func floatBits(fs [tileRows]float32) (out [tileRows]uint32) {
	for i, f := range fs {
		out[i] = math.Float32bits(f)
		if f != f {
			out[i] = math.MaxUint32
		}
	}
	return out
}

// vectors are unit vectors that are hard to quantise, and random ones.
func vectors(rng *rand.Rand, dim int) []face.Embedding {
	shapes := []func(i int) float64{
		func(int) float64 { return 1 },
		func(i int) float64 { return float64(1 - 2*(i%2)) },
		func(i int) float64 { return 1 / float64(i+1) },
		func(i int) float64 { return math.Pow(0.5, float64(i)) },                     // down to denormal numbers
		func(i int) float64 { return 1/254.0000001 + float64(1-min(i, 1)) },          // one, and all others half a code
		func(i int) float64 { return -1/253.9999999 + float64(1-min(i, 1)) },         // the other half
		func(i int) float64 { return float64(max(i-dim+2, 0)) },                      // an axis
		func(int) float64 { return rng.NormFloat64() },                               //
		func(int) float64 { return math.Exp(10 * rng.NormFloat64()) },                // a wide range
		func(int) float64 { return (float64(rng.IntN(255)) - 127) / 127 },            // codes
		func(int) float64 { return (float64(rng.IntN(254)) - 126.5) / 127 },          // between codes
		func(int) float64 { return rng.NormFloat64() * float64(rng.IntN(10)/9) },     // sparse
		func(i int) float64 { return math.Copysign(1, rng.Float64()-0.5) },           // binary
		func(i int) float64 { return rng.NormFloat64() / float64(1+i%7*(i%7)*i%31) }, //
	}
	var out []face.Embedding
	for _, shape := range shapes {
		e := make(face.Embedding, dim)
		for i := range e {
			e[i] = float32(shape(i))
		}
		u, err := e.Normalise()
		if err != nil {
			continue // a sparse one may have no numbers
		}
		for _, stretch := range []float32{1, 1 + 0.99*NormTolerance, 1 - 0.99*NormTolerance} {
			s := slices.Clone(u)
			for i := range s {
				s[i] *= stretch
				u[i] = -u[i]
			}
			if Validate(s) == nil {
				out = append(out, s)
			}
		}
	}
	return out
}

// TestBoundHolds checks the claim that exactness rests on, for each kernel:
// no score is above its bound, a limit keeps every row that reaches its score,
// and the bound is tight enough to be of use.
func TestBoundHolds(t *testing.T) {
	t.Parallel()
	for _, kernel := range Kernels() {
		for _, dim := range []int{1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 100, 127, 128, 129, 256, 300, 512, 1000, 2048, MaxDimension} {
			t.Run(fmt.Sprintf("%s/%d", kernel.name, dim), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(uint64(dim), 7))
				es := vectors(rng, dim)
				s := newSlab(dim, len(es))
				for at, e := range es {
					s.put(at, e, &row{})
				}
				for _, probe := range es {
					q := kernel.prepare(probe)
					var upper [tileRows]float32
					for tile := range len(es) / tileRows {
						kernel.scan(s, q, tile, len(es), float32(math.Inf(-1)), &upper)
						for i, u := range upper {
							at := tile*tileRows + i
							score, bound := probe.Cosine(es[at]), q.bound(u)
							if score > bound {
								t.Fatalf("score %.12g above its bound %.12g", score, bound)
							}
							if u < q.limit(score) {
								t.Fatalf("bound %g below the limit %g of the row's own score", u, q.limit(score))
							}
							// Half a scale a number, for the row and the probe.
							if loose := bound - score; loose > 4*1.3*math.Sqrt(float64(dim))/254+1e-3 {
								t.Fatalf("bound %.6g is %.3g above the score", bound, loose)
							}
						}
					}
				}
			})
		}
	}
}

// TestQuantise checks that codes keep within ±127 and that what they miss is
// never understated.
func TestQuantise(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	for dim := 1; dim <= 600; dim += 7 {
		for _, e := range vectors(rng, dim) {
			s := newSlab(dim, 1)
			s.put(0, e, &row{})
			var sum float64
			for i := range s.chunks * chunkSize {
				code := s.chunk(0, i/chunkSize)[i%chunkSize]
				if code < -127 {
					t.Fatalf("dim %d: code %d", dim, code)
				}
				if i >= dim {
					if code != 0 {
						t.Fatalf("dim %d: code %d behind the end is %d", dim, i, code)
					}
					continue
				}
				miss := float64(e[i]) - float64(s.scales[0])*float64(code)
				sum += miss * miss
			}
			got, want := float64(math.Float32frombits(s.residuals[0])), math.Sqrt(sum)
			if got < want || got > want*1.000001+1e-30 {
				t.Fatalf("dim %d: residual %.10g, the distance is %.10g", dim, got, want)
			}
		}
	}
}
