// The command pairs writes 3,000 mated and 3,000 impostor pairs of the people
// who are held out, as `likeness eval --pairs` reads them:
//
//	go run ./models/recipe/pairs ../shared/data/lfw-dev.tar > pairs.txt
//
// As in LFW, a person is drawn first and then their photos, so that people with
// many photos do not dominate.
package main

import (
	"archive/tar"
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
)

//go:embed heldout.txt
var heldOut string

const each = 3000

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pairs:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	if len(args) != 1 {
		return errors.New("want the .tar of the photos")
	}
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	defer f.Close()
	names := strings.Fields(heldOut)
	photos := map[string][]string{}
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if name := path.Base(path.Dir(h.Name)); h.Typeflag == tar.TypeReg && slices.Contains(names, name) {
			photos[name] = append(photos[name], h.Name)
		}
	}
	if len(photos) < 2 {
		return errors.New("fewer than two of the people are in it")
	}
	out := bufio.NewWriter(os.Stdout)
	writePairs(out, names, photos)
	return out.Flush()
}

func writePairs(out io.Writer, names []string, photos map[string][]string) {
	rng := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // the same pairs each time
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return len(photos[n]) == 0 })
	left := map[string][][2]string{} // of each person
	var several []string
	for _, name := range names {
		slices.Sort(photos[name])
		for i, a := range photos[name] {
			for _, b := range photos[name][i+1:] {
				left[name] = append(left[name], [2]string{a, b})
			}
		}
		if len(left[name]) > 0 {
			several = append(several, name)
		}
		rng.Shuffle(len(left[name]), func(i, j int) { left[name][i], left[name][j] = left[name][j], left[name][i] })
	}
	for n := 0; n < each && len(several) > 0; n++ {
		i := rng.IntN(len(several))
		name := several[i]
		pair := left[name][0]
		if left[name] = left[name][1:]; len(left[name]) == 0 {
			several = slices.Delete(several, i, i+1)
		}
		fmt.Fprintln(out, pair[0], pair[1], 1)
	}
	seen := map[[2]string]bool{}
	for len(seen) < each {
		a, b := names[rng.IntN(len(names))], names[rng.IntN(len(names))]
		if a >= b {
			continue
		}
		pair := [2]string{photos[a][rng.IntN(len(photos[a]))], photos[b][rng.IntN(len(photos[b]))]}
		if !seen[pair] {
			seen[pair] = true
			fmt.Fprintln(out, pair[0], pair[1], 0)
		}
	}
}
