package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// pair is one line of a pairs file: two photos and whether they show the same
// person.
type pair struct {
	probe, reference string
	mated            bool
	fold             string // empty when the file names none
}

// numbered is a line of a file with its number.
type numbered struct {
	n      int
	fields []string
}

// parsePairs reads lines of "probe reference 1|0", with the name of a fold
// after them in all lines or in none, or the official format of LFW's
// pairs.txt, which begins with one or two numbers. Empty lines and those that
// begin with # are passed over. The error names the line.
func parsePairs(r io.Reader) ([]pair, error) {
	var list []numbered
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line != "" && line[0] != '#' {
			list = append(list, numbered{n, strings.Fields(line)})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("there are no pairs in it")
	}
	if folds, each, ok := officialHeader(list[0].fields); ok {
		return officialPairs(list[1:], folds, each)
	}
	var pairs []pair
	for _, l := range list {
		fields := l.fields
		if len(fields) < 3 || len(fields) > 4 || fields[2] != "0" && fields[2] != "1" {
			return nil, fmt.Errorf("line %d is not: probe reference 1|0 [fold]", l.n)
		}
		p := pair{probe: path.Clean(fields[0]), reference: path.Clean(fields[1]), mated: fields[2] == "1"}
		if len(fields) == 4 {
			p.fold = fields[3]
		}
		if len(pairs) > 0 && (p.fold == "") != (pairs[0].fold == "") {
			return nil, fmt.Errorf("line %d: either every line names a fold or none does", l.n)
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
func officialPairs(list []numbered, folds, each int) ([]pair, error) {
	if have, want := len(list), folds*each*2; have != want || want/2/each != folds {
		return nil, fmt.Errorf("the first line promises %d folds of twice %d pairs, and %d follow", folds, each, have)
	}
	pairs := make([]pair, len(list))
	for i, l := range list {
		p, f := &pairs[i], l.fields
		if folds > 1 {
			p.fold = strconv.Itoa(i/(2*each) + 1)
		}
		p.mated = i/each%2 == 0
		if p.mated && len(f) == 3 {
			f = []string{f[0], f[1], f[0], f[2]}
		} else if p.mated || len(f) != 4 {
			return nil, fmt.Errorf("line %d is not: name n1 n2 for one person, or name1 n1 name2 n2 for two", l.n)
		}
		var errs [2]error
		p.probe, errs[0] = officialPhoto(f[0], f[1])
		p.reference, errs[1] = officialPhoto(f[2], f[3])
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("line %d: %w", l.n, err)
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

// underPrefix puts the folder that the photos of a set lie in before the names
// of the pairs, when the pairs leave it out.
func underPrefix(pairs []pair, there []string) {
	if _, ok := slices.BinarySearch(there, pairs[0].probe); ok {
		return
	}
	for _, name := range there {
		prefix, ok := strings.CutSuffix(name, "/"+pairs[0].probe)
		if !ok {
			continue
		}
		for i := range pairs {
			pairs[i].probe, pairs[i].reference = path.Join(prefix, pairs[i].probe), path.Join(prefix, pairs[i].reference)
		}
		return
	}
}

// people says who is on each photo: the name of its folder where that agrees
// with every pair, and else whoever the pairs link it with. It fails when the
// pairs contradict one another.
func people(pairs []pair) (map[string]string, error) {
	byFolder := map[string]string{}
	agrees := true
	for _, p := range pairs {
		byFolder[p.probe], byFolder[p.reference] = path.Dir(p.probe), path.Dir(p.reference)
		agrees = agrees && p.mated == (path.Dir(p.probe) == path.Dir(p.reference))
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
		a, b := root(p.probe), root(p.reference)
		if p.mated {
			parent[a] = b
		}
	}
	linked := map[string]string{}
	for photo := range byFolder {
		linked[photo] = root(photo)
	}
	for _, p := range pairs {
		if !p.mated && linked[p.probe] == linked[p.reference] {
			return nil, fmt.Errorf("%s and %s are said to be different people, and other pairs say that they are one", p.probe, p.reference)
		}
	}
	return linked, nil
}
