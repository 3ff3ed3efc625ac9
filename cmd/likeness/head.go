package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// pairsOfOne is the most mated pairs of one person that a head sees: somebody
// with hundreds of photos would else be most of what it knows.
const pairsOfOne = 10

// trainHead trains every variant on three fifths of the people of whom there
// are several photos, calibrates on a fifth, and measures on the last fifth.
// It tells how they did and returns the one to use.
func (c calibrateCmd) trainHead(t *tool, portraits []portrait, source string) (*face.Head, error) {
	parts, err := headPairs(portraits)
	if err != nil {
		return nil, err
	}
	var heads []*match.Head
	for _, v := range measure.HeadVariants() {
		if err := t.ctx.Err(); err != nil {
			return nil, err
		}
		h, err := measure.FitHead(v, parts[0], parts[1])
		if err != nil {
			return nil, fmt.Errorf("the head %s: %w", v, err)
		}
		h.Source = source
		heads = append(heads, match.NewHead(&h))
		fmt.Fprintln(t.stderr, "trained the head", v)
	}
	measured, err := measure.MeasureHeads(heads, parts[2], measure.DefaultOptions())
	if err != nil {
		return nil, err
	}
	best := measure.BestHead(measured)
	held := countsOf(parts[2])
	for i, h := range heads {
		h.HeldOut = face.HeldOut{PairCount: held, Accuracy: measured[i].Accuracy.Value, ECE: measured[i].ECE.Value}
	}
	if err := printHeads(t.stderr, heads, measured, best); err != nil {
		return nil, err
	}
	if c.Reliability != "" {
		p, err := plotReliability(measured[0], measured[best])
		if err == nil {
			err = savePNG(c.Reliability, p)
		}
		if err != nil {
			return nil, err
		}
		fmt.Fprintln(t.stderr, "wrote", c.Reliability)
	}
	return &heads[best].Head, nil
}

// headReplicates are fewer than those of a rate: each looks at every pair once
// for every head.
const headReplicates = 500

// headPairs are as many impostor as mated pairs, of people that are in one part
// only: to train on, to calibrate on, to measure on. Whoever has one photo is
// in no mated pair, so only those with several are taken, also as impostors:
// else a face that is new would tell that a pair is none.
func headPairs(portraits []portrait) (parts [3][]measure.EmbeddingPair, err error) {
	type known struct {
		name   string
		set    int
		photos []face.Embedding
	}
	units, of := unitsOf(portraits)
	people := make([]known, len(units))
	for i, p := range portraits {
		at := &people[of[i]]
		at.name, at.set = fmt.Sprintf("%d/%s", p.set, p.person), p.set
		at.photos = append(at.photos, p.embedding)
	}
	rng := rand.New(rand.NewPCG(seed, 3))
	var sides [3][]known
	dealt := 0
	for _, i := range rng.Perm(len(people)) {
		if units[i].Stranger || units[i].Photos < 2 {
			continue
		}
		side := []int{0, 1, 0, 2, 0}[dealt%5]
		dealt++
		sides[side] = append(sides[side], people[i])
	}
	for side, own := range sides {
		for _, who := range own {
			n := len(who.photos)
			others := 0
			for _, i := range rng.Perm(n * (n - 1) / 2)[:min(n*(n-1)/2, pairsOfOne)] {
				a, b := unrank(i)
				parts[side] = append(parts[side], measure.EmbeddingPair{A: who.photos[a], B: who.photos[b], PersonA: who.name, PersonB: who.name})
				others++
			}
			// People of other sets are told apart too easily: by their photos.
			for range 20 * others {
				if other := own[rng.IntN(len(own))]; others > 0 && other.name != who.name && other.set == who.set {
					others--
					parts[side] = append(parts[side], measure.EmbeddingPair{
						A: who.photos[rng.IntN(n)], B: other.photos[rng.IntN(len(other.photos))], PersonA: who.name, PersonB: other.name,
					})
				}
			}
		}
		if c := countsOf(parts[side]); c.Mated == 0 || c.Impostor == 0 {
			return parts, errors.New("--head: too few people with several photos: a head takes ten at the very least, and hundreds to be of use")
		}
	}
	return parts, nil
}

// unrank is the i-th pair of numbers a > b.
func unrank(i int) (a, b int) {
	for a = 1; i >= a; a++ {
		i -= a
	}
	return a, i
}

func countsOf(pairs []measure.EmbeddingPair) (c face.PairCount) {
	people := map[string]bool{}
	for _, p := range pairs {
		people[p.PersonA], people[p.PersonB] = true, true
		if p.Mated() {
			c.Mated++
		} else {
			c.Impostor++
		}
	}
	c.People = len(people)
	return c
}

// printHeads is the table of what the variants are worth.
func printHeads(out io.Writer, heads []*match.Head, measured []measure.HeadMeasurement, best int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	trained, held := heads[0].Trained, heads[0].HeldOut
	fmt.Fprintf(w, "\nheads trained on %d mated and %d impostor pairs of %d people, measured on %d and %d of %d others\n",
		trained.Mated, trained.Impostor, trained.People, held.Mated, held.Impostor, held.People)
	fmt.Fprint(w, "HEAD\tACCURACY")
	for _, fmr := range targets() {
		fmt.Fprintf(w, "\tTAR AT FMR %g", fmr)
	}
	fmt.Fprintln(w, "\tCALIBRATION ERROR\tLOG LOSS\tLESS THAN COSINE'S BY")
	cell := func(m measure.Estimate) string { return fmt.Sprintf("%.2f %% [%s]", 100*m.Value, span(m.Interval)) }
	plain := func(m measure.Estimate) string {
		return fmt.Sprintf("%.4f [%.4f, %.4f]", m.Value, m.Interval.Low, m.Interval.High)
	}
	for i, m := range measured {
		mark := ""
		if i == best {
			mark = " (used)"
		}
		fmt.Fprintf(w, "%s%s\t%s", m.Variant, mark, cell(m.Accuracy))
		for _, tar := range m.TAR {
			fmt.Fprint(w, "\t"+cell(tar))
		}
		fmt.Fprintf(w, "\t%s\t%s\t%s\n", cell(m.ECE), plain(m.LogLoss), plain(m.Gain))
	}
	fmt.Fprintln(w)
	return w.Flush()
}

// formatHead is the head as JSON, eight weights a line, all lines but the first
// indented.
func formatHead(h face.Head, indent string) []byte {
	var b bytes.Buffer
	line := func(depth int, format string, args ...any) {
		b.WriteString("\n" + indent + strings.Repeat("  ", depth))
		fmt.Fprintf(&b, format, args...)
	}
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }
	pairs := func(c face.PairCount) string {
		return fmt.Sprintf(`"people": %d, "mated": %d, "impostor": %d`, c.People, c.Mated, c.Impostor)
	}
	b.WriteString("{")
	line(1, `"source": %s,`, quoted(h.Source))
	line(1, `"variant": %s,`, quoted(string(h.Variant)))
	line(1, `"prior": %s,`, number(h.Prior))
	line(1, `"bias": %s,`, number(h.Bias))
	line(1, `"platt": { "slope": %s, "offset": %s },`, number(h.Platt.Slope), number(h.Platt.Offset))
	line(1, `"trained": { %s },`, pairs(h.Trained))
	line(1, `"held_out": { %s, "accuracy": %.5g, "expected_calibration_error": %.3g },`, pairs(h.HeldOut.PairCount), h.HeldOut.Accuracy, h.HeldOut.ECE)
	line(1, `"weights": [`)
	for i, v := range h.Weights {
		if i%8 == 0 {
			line(2, "")
		} else {
			b.WriteString(" ")
		}
		b.WriteString(number(v) + comma(i, len(h.Weights)))
	}
	line(1, `]`)
	line(0, `}`)
	return b.Bytes()
}
