package main

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// pair is one line of a pairs file: two photos and whether they show the same
// person.
type pair struct {
	probe, reference string
	mated            bool
	fold             string // empty when the file names none
}

// parsePairs reads lines of "probe reference 1|0", with the name of a fold
// after them in all lines or in none. Empty lines and those that begin with #
// are passed over. The error names the line.
func parsePairs(r io.Reader) ([]pair, error) {
	var pairs []pair
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) < 3 || len(fields) > 4 || fields[2] != "0" && fields[2] != "1" {
			return nil, fmt.Errorf("line %d is not: probe reference 1|0 [fold]", n)
		}
		p := pair{probe: path.Clean(fields[0]), reference: path.Clean(fields[1]), mated: fields[2] == "1"}
		if len(fields) == 4 {
			p.fold = fields[3]
		}
		if len(pairs) > 0 && (p.fold == "") != (pairs[0].fold == "") {
			return nil, fmt.Errorf("line %d: either every line names a fold or none does", n)
		}
		pairs = append(pairs, p)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("there are no pairs in it")
	}
	return pairs, nil
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
