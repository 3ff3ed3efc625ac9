package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/measure"
)

// Groups of what no label names, and of two people of different groups.
const (
	noGroup  = "(no label)"
	twoGroup = "(between groups)"
)

// group is what the pairs of one group show: both photos are in it.
type group struct {
	Group  string       `json:"group"`
	Photos int          `json:"photos"`
	FTA    measure.Rate `json:"failure_to_acquire"`
	At     []groupRate  `json:"at"`
}

// groupRate is a group's rates at a threshold that is the same for all of them.
type groupRate struct {
	Name         string        `json:"name"` // of an operating point, or "fmr 0.01 here"
	Threshold    float64       `json:"threshold"`
	FMR          measure.Rate  `json:"false_matches"`
	FMRInterval  face.Interval `json:"fmr_interval"`
	FNMR         measure.Rate  `json:"false_non_matches"`
	FNMRInterval face.Interval `json:"fnmr_interval"`
}

// groups reads which photo is in which group; nil without labels.
func (c evalCmd) groups(who map[string]string) (map[string]string, error) {
	if c.Labels == "" {
		return nil, nil
	}
	f, err := os.Open(c.Labels)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseGroups(f, who)
}

// parseGroups reads lines of "photo or person,group"; a photo's own label comes
// before that of the person on it. A person may be named without the folders
// above theirs. A first line whose second cell is "group" names the columns.
func parseGroups(r io.Reader, who map[string]string) (map[string]string, error) {
	lines := csv.NewReader(r)
	lines.FieldsPerRecord, lines.TrimLeadingSpace = 2, true
	labels := map[string]string{}
	for n := 1; ; n++ {
		cells, err := lines.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		switch {
		case err != nil:
			return nil, err
		case n == 1 && cells[1] == "group":
			continue
		case cells[0] == "" || cells[1] == "":
			return nil, fmt.Errorf("line %d is not: photo or person,group", n)
		}
		labels[cells[0]] = cells[1]
	}
	out, known := map[string]string{}, false
	for photo, person := range who {
		out[photo] = noGroup
		for _, key := range []string{photo, person, path.Base(person)} {
			if label, ok := labels[key]; ok {
				out[photo], known = label, true
				break
			}
		}
	}
	if !known {
		return nil, errors.New("it names none of the photos, and nobody on them")
	}
	return out, nil
}

// groupNames are all groups, sorted.
func groupNames(groups map[string]string) []string {
	names := map[string]bool{}
	for _, g := range groups {
		names[g] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// byGroup takes the pairs apart. Impostors of two groups are a group of their
// own: they are easier to tell apart than those of one.
func byGroup(v *verification, pairs []pair, photos map[string]acquired, groups map[string]string) []group {
	if v == nil || groups == nil {
		return nil
	}
	var at []groupRate
	for _, a := range v.AtFMR {
		at = append(at, groupRate{Name: fmt.Sprintf("fmr %g here", a.Target), Threshold: a.Threshold})
	}
	for _, p := range v.Points {
		at = append(at, groupRate{Name: p.Name, Threshold: p.Threshold})
	}
	out := map[string]*group{}
	for _, name := range append(groupNames(groups), twoGroup) {
		out[name] = &group{Group: name, At: slices.Clone(at)}
	}
	for photo, g := range groups {
		out[g].Photos++
		count(&out[g].FTA, photos[photo].failure != "")
	}
	for _, p := range pairs {
		probe, reference := photos[p.probe], photos[p.reference]
		if probe.failure != "" || reference.failure != "" {
			continue
		}
		g := out[groups[p.probe]]
		if groups[p.probe] != groups[p.reference] {
			g = out[twoGroup]
		}
		score := probe.embedding.Cosine(reference.embedding)
		for i := range g.At {
			if p.mated {
				count(&g.At[i].FNMR, score < g.At[i].Threshold)
			} else {
				count(&g.At[i].FMR, score >= g.At[i].Threshold)
			}
		}
	}
	var list []group
	for _, name := range slices.Sorted(maps.Keys(out)) {
		g := out[name]
		for i := range g.At {
			a := &g.At[i]
			a.FMRInterval, a.FNMRInterval = intervalOf(a.FMR), intervalOf(a.FNMR)
		}
		list = append(list, *g)
	}
	return list
}

// intervalOf is the interval of a rate, all of 0..1 when nothing was counted.
func intervalOf(r measure.Rate) face.Interval {
	if r.Total == 0 {
		return face.Interval{Low: 0, High: 1}
	}
	return r.Interval(confidence)
}

func groupRows(s *rowSheet, groups []group) {
	if len(groups) == 0 {
		return
	}
	s.head("GROUP\tPHOTOS\tFAILURES TO ACQUIRE")
	for _, g := range groups {
		if g.Photos > 0 {
			s.row("%s\t%d\t%s", g.Group, g.Photos, percent(g.FTA.Value()))
		}
	}
	for i, at := range groups[0].At {
		s.head("GROUP, AT %s (%.4f)\tFMR\tFALSE MATCHES\t95 %% INTERVAL\tFNMR\tNON-MATCHES\t95 %% INTERVAL", at.Name, at.Threshold)
		for _, g := range groups {
			a := g.At[i]
			s.row("%s\t%s\t%s\t[%s]\t%s\t%s\t[%s]", g.Group, share(a.FMR), a.FMR, span(a.FMRInterval), share(a.FNMR), a.FNMR, span(a.FNMRInterval))
		}
	}
}
