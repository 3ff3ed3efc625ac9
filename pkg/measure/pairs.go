package measure

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
)

// Pair is two photos, by name, and whether they show the same person.
type Pair struct {
	Probe, Reference string
	Mated            bool
	Fold             string // empty when there are no folds
}

// badPairs is the error of pairs that cannot be used.
func badPairs(format string, args ...any) error {
	return face.Errorf(face.Invalid, "measure.Pairs", format, args...)
}

// numberedLine is a line of a file with its number.
type numberedLine struct {
	n      int
	fields []string
}

// ReadPairs reads lines of "probe reference 1|0", with the name of a fold after
// them in all lines or in none, or the official format of LFW's pairs.txt,
// which begins with one or two numbers. Empty lines and lines that begin with #
// are skipped. Invalid: a line that is neither, which the error names.
func ReadPairs(r io.Reader) ([]Pair, error) {
	var list []numberedLine
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			list = append(list, numberedLine{n, strings.Fields(line)})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, badPairs("it holds no pairs")
	}
	if folds, each, ok := officialHeader(list[0].fields); ok {
		return officialPairs(list[1:], folds, each)
	}
	var pairs []Pair
	for _, l := range list {
		fields := l.fields
		if len(fields) < 3 || len(fields) > 4 || fields[2] != "0" && fields[2] != "1" {
			return nil, badPairs("line %d is not: probe reference 1|0 [fold]", l.n)
		}
		p := Pair{Probe: path.Clean(fields[0]), Reference: path.Clean(fields[1]), Mated: fields[2] == "1"}
		if len(fields) == 4 {
			p.Fold = fields[3]
		}
		if len(pairs) > 0 && (p.Fold == "") != (pairs[0].Fold == "") {
			return nil, badPairs("line %d: either every line names a fold or none does", l.n)
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// officialHeader reads the first line of LFW's own files: "10 300" in View 2,
// that many folds with that many pairs of each kind, and "500" in View 1, which
// has no folds.
func officialHeader(fields []string) (folds, each int, ok bool) {
	var numbers []int
	for _, f := range fields {
		n, err := strconv.Atoi(f)
		if err != nil || n < 1 {
			return 0, 0, false
		}
		numbers = append(numbers, n)
	}
	switch len(numbers) {
	case 1:
		return 1, numbers[0], true
	case 2:
		return numbers[0], numbers[1], true
	}
	return 0, 0, false
}

// officialPairs reads, for each fold, "name n1 n2" as often as it has mated
// pairs and then "name1 n1 name2 n2" as often as impostors.
func officialPairs(list []numberedLine, folds, each int) ([]Pair, error) {
	if have, want := len(list), folds*each*2; have != want || want/2/each != folds {
		return nil, badPairs("the first line promises %d folds of %d mated and %d impostor pairs each, but %d pairs follow", folds, each, each, have)
	}
	pairs := make([]Pair, len(list))
	for i, l := range list {
		p, f := &pairs[i], l.fields
		if folds > 1 {
			p.Fold = strconv.Itoa(i/(2*each) + 1)
		}
		p.Mated = i/each%2 == 0
		if p.Mated && len(f) == 3 {
			f = []string{f[0], f[1], f[0], f[2]}
		} else if p.Mated || len(f) != 4 {
			return nil, badPairs("line %d is not: name n1 n2 for one person, or name1 n1 name2 n2 for two", l.n)
		}
		var errs [2]error
		p.Probe, errs[0] = officialPhoto(f[0], f[1])
		p.Reference, errs[1] = officialPhoto(f[2], f[3])
		if err := errors.Join(errs[:]...); err != nil {
			return nil, badPairs("line %d: %s", l.n, err)
		}
	}
	return pairs, nil
}

// officialPhoto is where LFW keeps the n-th photo of somebody.
func officialPhoto(name, n string) (string, error) {
	number, err := strconv.Atoi(n)
	if err != nil || number < 1 {
		return "", fmt.Errorf("%q is not the number of a photo", n)
	}
	return path.Join(name, fmt.Sprintf("%s_%04d.jpg", name, number)), nil
}

// AddFolder adds, in place, the folder that the photos of a set lie in to the
// names of the pairs, if the pairs omit it. The names of the set are sorted; the
// pairs must not be empty.
func AddFolder(pairs []Pair, names []string) {
	if _, ok := slices.BinarySearch(names, pairs[0].Probe); ok {
		return
	}
	for _, name := range names {
		prefix, ok := strings.CutSuffix(name, "/"+pairs[0].Probe)
		if !ok {
			continue
		}
		for i := range pairs {
			pairs[i].Probe, pairs[i].Reference = path.Join(prefix, pairs[i].Probe), path.Join(prefix, pairs[i].Reference)
		}
		return
	}
}

// PeopleOnPhotos names the person on each photo of the pairs: the folder of the
// photo if that agrees with every pair, or else one photo that stands for all
// that the mated pairs link with it. Invalid: the pairs contradict each other.
func PeopleOnPhotos(pairs []Pair) (map[string]string, error) {
	byFolder := map[string]string{}
	agrees := true
	for _, p := range pairs {
		byFolder[p.Probe], byFolder[p.Reference] = path.Dir(p.Probe), path.Dir(p.Reference)
		agrees = agrees && p.Mated == (path.Dir(p.Probe) == path.Dir(p.Reference))
	}
	if agrees {
		return byFolder, nil
	}

	parent := map[string]string{} // a forest: one tree per person
	var root func(string) string
	root = func(photo string) string {
		up, ok := parent[photo]
		if !ok || up == photo {
			parent[photo] = photo
			return photo
		}
		r := root(up)
		parent[photo] = r
		return r
	}
	for _, p := range pairs {
		a, b := root(p.Probe), root(p.Reference)
		if p.Mated {
			parent[a] = b
		}
	}
	linked := map[string]string{}
	for photo := range byFolder {
		linked[photo] = root(photo)
	}
	for _, p := range pairs {
		if !p.Mated && linked[p.Probe] == linked[p.Reference] {
			return nil, badPairs("one pair says that %s and %s show different people, but other pairs say that they show the same person", p.Probe, p.Reference)
		}
	}
	return linked, nil
}
