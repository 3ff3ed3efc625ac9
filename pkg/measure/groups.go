package measure

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"

	"github.com/likeness-id/likeness/pkg/face"
)

// Groups of photos without a label, and of pairs of two different groups.
const (
	NoGroup       = "(no label)"
	BetweenGroups = "(between groups)"
)

// GroupVerification is what the pairs of one group show: both photos are in it.
type GroupVerification struct {
	Group  string      `json:"group"`
	Photos int         `json:"photos"`
	FTA    Rate        `json:"failure_to_acquire"`
	At     []GroupRate `json:"at"` // the same thresholds in all groups
}

// GroupRate is a group's rates at a threshold.
type GroupRate struct {
	Name         string        `json:"name"` // of an operating point, or "fmr 0.01 here"
	Threshold    float64       `json:"threshold"`
	FMR          Rate          `json:"false_matches"`
	FMRInterval  face.Interval `json:"fmr_interval"`
	FNMR         Rate          `json:"false_non_matches"`
	FNMRInterval face.Interval `json:"fnmr_interval"`
}

// ReadGroups reads lines of "photo or person,group" and returns the group of
// each photo in people, which names the person on it. A photo's own label takes
// precedence over that of its person; a person may be named without the folders
// above theirs; photos without a label are in [NoGroup]. If the second cell of
// the first line is "group", the line is a header. Invalid: a line is something
// else, or no label fits any photo.
func ReadGroups(r io.Reader, people map[string]string) (map[string]string, error) {
	const op = "measure.ReadGroups"
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
			return nil, face.Wrap(face.Invalid, op, err)
		case n == 1 && cells[1] == "group":
			continue
		case cells[0] == "" || cells[1] == "":
			return nil, face.Errorf(face.Invalid, op, "line %d is not: photo or person,group", n)
		}
		labels[cells[0]] = cells[1]
	}
	groups, labelled := map[string]string{}, false
	for photo, person := range people {
		groups[photo] = NoGroup
		for _, key := range []string{photo, person, path.Base(person)} {
			if label, ok := labels[key]; ok {
				groups[photo], labelled = label, true
				break
			}
		}
	}
	if !labelled {
		return nil, face.Errorf(face.Invalid, op, "none of its labels names a photo or a person of the data set")
	}
	return groups, nil
}

// sortedGroups are the names of all groups, sorted.
func sortedGroups(groups map[string]string) []string {
	names := map[string]bool{}
	for _, g := range groups {
		names[g] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// VerifyGroups counts the pairs of each group at the thresholds of a
// verification, sorted by group. Impostors of two groups are counted in
// [BetweenGroups]: they are easier to tell apart than those of one. It is nil
// without a verification or groups.
func VerifyGroups(v *Verification, pairs []Pair, photos map[string]Photo, groups map[string]string, o Options) []GroupVerification {
	if v == nil || groups == nil {
		return nil
	}
	var thresholds []GroupRate
	for _, a := range v.AtFMR {
		thresholds = append(thresholds, GroupRate{Name: fmt.Sprintf("fmr %g here", a.Target), Threshold: a.Threshold})
	}
	for _, p := range v.Points {
		thresholds = append(thresholds, GroupRate{Name: p.Name, Threshold: p.Threshold})
	}
	byName := map[string]*GroupVerification{}
	for _, name := range append(sortedGroups(groups), BetweenGroups) {
		byName[name] = &GroupVerification{Group: name, At: slices.Clone(thresholds)}
	}
	for photo, name := range groups {
		byName[name].Photos++
		byName[name].FTA.Add(photos[photo].Failure != "")
	}
	for _, p := range pairs {
		probe, reference := photos[p.Probe].Embedding(), photos[p.Reference].Embedding()
		if probe == nil || reference == nil {
			continue
		}
		group := byName[groups[p.Probe]]
		if groups[p.Probe] != groups[p.Reference] {
			group = byName[BetweenGroups]
		}
		score := probe.Cosine(reference)
		for i := range group.At {
			if at := &group.At[i]; p.Mated {
				at.FNMR.Add(score < at.Threshold)
			} else {
				at.FMR.Add(score >= at.Threshold)
			}
		}
	}
	var list []GroupVerification
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		group := byName[name]
		for i := range group.At {
			at := &group.At[i]
			at.FMRInterval, at.FNMRInterval = at.FMR.Interval(o.Confidence), at.FNMR.Interval(o.Confidence)
		}
		list = append(list, *group)
	}
	return list
}
