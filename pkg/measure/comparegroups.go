package measure

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// AllGroups is the row of all labelled photos.
const AllGroups = "(all)"

// GroupLabels say which photos are compared as those of people who are alike,
// and in which rows the rates are reported.
type GroupLabels struct {
	Groups map[string]string // the narrowest group of each photo, or NoGroup
	Rows   []GroupRow
}

// GroupRow is a line of a report: one group, or several together.
type GroupRow struct {
	Name   string
	Groups []string
}

// LabelsOf makes a row of each group, sorted.
func LabelsOf(groups map[string]string) GroupLabels {
	l := GroupLabels{Groups: groups}
	for _, name := range sortedGroups(groups) {
		if name != NoGroup {
			l.Rows = append(l.Rows, GroupRow{name, []string{name}})
		}
	}
	return l
}

// ReadUTKFace reads the labels in the names of the photos of UTKFace,
// "AGE_SEX_GROUP_DATE.jpg.chip.jpg" (sex 0 male, 1 female; group 0 white,
// 1 black, 2 Asian, 3 Indian, 4 other). People are alike if sex, group and age
// band are the same. The rows are the age bands, and sex and group of the
// adults. Photos with other names are in [NoGroup]: some names of the data set
// lack a number. Invalid: no name is of this form.
func ReadUTKFace(names []string) (GroupLabels, error) {
	bands := []struct {
		from int
		name string
	}{{0, "0 to 5"}, {6, "6 to 12"}, {13, "13 to 17"}, {18, "18 to 39"}, {40, "40 to 64"}, {65, "65 and over"}}
	const adult = 3 // the first band of adults
	sexes := []string{"men", "women"}
	groups := []string{"white", "black", "Asian", "Indian", "other"}
	cell := func(band, sex, group int) string {
		return groups[group] + " " + sexes[sex] + ", " + bands[band].name
	}

	l := GroupLabels{Groups: map[string]string{}}
	labelled := false
	for _, name := range names {
		l.Groups[name] = NoGroup
		cells := strings.Split(path.Base(name), "_")
		if len(cells) != 4 {
			continue
		}
		age, errAge := strconv.Atoi(cells[0])
		sex, errSex := strconv.Atoi(cells[1])
		group, errGroup := strconv.Atoi(cells[2])
		if errAge != nil || errSex != nil || errGroup != nil || age < 0 || sex < 0 || sex >= len(sexes) || group < 0 || group >= len(groups) {
			continue
		}
		band := len(bands) - 1
		for age < bands[band].from {
			band--
		}
		l.Groups[name], labelled = cell(band, sex, group), true
	}
	if !labelled {
		return GroupLabels{}, face.Errorf(face.Invalid, "measure.ReadUTKFace", "no name of a photo is of the form AGE_SEX_GROUP_DATE, as in UTKFace")
	}

	adults := GroupRow{Name: "adults"}
	var bySexAndGroup []GroupRow
	for band := range bands {
		row := GroupRow{Name: "age " + bands[band].name}
		for sex := range sexes {
			for group := range groups {
				row.Groups = append(row.Groups, cell(band, sex, group))
			}
		}
		if band >= adult {
			adults.Groups = append(adults.Groups, row.Groups...)
		}
		l.Rows = append(l.Rows, row)
	}
	for sex := range sexes {
		for group := range groups {
			row := GroupRow{Name: "adults: " + groups[group] + " " + sexes[sex]}
			for band := adult; band < len(bands); band++ {
				row.Groups = append(row.Groups, cell(band, sex, group))
			}
			bySexAndGroup = append(bySexAndGroup, row)
		}
	}
	l.Rows = append(append(l.Rows, adults), bySexAndGroup...)
	return l, nil
}

// GroupComparisons are the false match rates within groups: what everybody's
// comparison with everybody else shows.
type GroupComparisons struct {
	Groups  []ComparedGroup `json:"groups"`            // the first is AllGroups
	Highest []ScoredPair    `json:"highest_impostors"` // to look at: they may show one person
}

// ComparedGroup are the rates of a row of [GroupLabels].
type ComparedGroup struct {
	Group  string            `json:"group"`
	Photos int               `json:"photos"`
	FTA    Rate              `json:"failure_to_acquire"`
	At     []ComparedGroupAt `json:"at"` // the operating points
}

// ComparedGroupAt are the rates at an operating point. Alike are the impostor
// comparisons of two people of the same narrowest group, Others those of two
// people of the row who are of different ones. The intervals are from a
// bootstrap over people, or of Clopper and Pearson where nobody matched.
type ComparedGroupAt struct {
	face.OperatingPoint
	Alike          Rate          `json:"alike_matched"`
	AlikeInterval  face.Interval `json:"alike_interval"`
	Others         Rate          `json:"others_matched"`
	OthersInterval face.Interval `json:"others_interval"`
	FNMR           RateByPerson  `json:"fnmr"` // of the mated comparisons; no people where there are none
}

// CompareGroups compares all labelled photos with one another, and counts the
// false matches of every row at the operating points of a calibration. people
// names the person on each photo. It uses Replicates, Confidence and Seed of the
// options. Invalid: there is no operating point, or no impostor comparison.
func CompareGroups(labels GroupLabels, people map[string]string, photos map[string]Photo, cal *face.Calibration, o Options) (*GroupComparisons, error) {
	const op = "measure.CompareGroups"
	points := match.NewPolicy(cal).Points()
	if len(points) == 0 {
		return nil, face.Errorf(face.Invalid, op, "groups are compared at the operating points of the encoder, which has none: calibrate it first")
	}
	names := make([]string, 0, len(labels.Groups))
	for name, group := range labels.Groups {
		if group != NoGroup {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	c := newGroupComparer(labels, names, people, photos, points, o)
	if len(c.personOf) < 2 {
		return nil, face.Errorf(face.Invalid, op, "fewer than two labelled photos are usable")
	}
	c.compare()

	out := &GroupComparisons{Highest: c.highest.pairs}
	all := GroupRow{Name: AllGroups, Groups: sortedGroups(labels.Groups)}
	for _, row := range append([]GroupRow{all}, labels.Rows...) {
		g := ComparedGroup{Group: row.Name}
		for _, name := range names {
			if slices.Contains(row.Groups, labels.Groups[name]) {
				g.Photos++
				g.FTA.Add(photos[name].Failure != "")
			}
		}
		if g.Photos > 0 {
			c.count(&g, row)
			out.Groups = append(out.Groups, g)
		}
	}
	return out, nil
}

// groupComparer holds the usable photos, and what their comparisons show.
type groupComparer struct {
	points     []face.OperatingPoint
	o          Options
	names      []string
	embeddings []face.Embedding
	personOf   []int
	people     []string
	groupOf    []string

	impostors []groupPair // those that reach the least threshold
	mated     []groupPair
	highest   highestPairs
	draws     peopleDraws
}

// groupPair is a comparison of two photos, given by their index.
type groupPair struct {
	a, b  int
	score float64
}

func newGroupComparer(labels GroupLabels, names []string, people map[string]string, photos map[string]Photo, points []face.OperatingPoint, o Options) *groupComparer {
	c := &groupComparer{points: points, o: o}
	index := map[string]int{}
	for _, name := range names {
		e := photos[name].Embedding()
		if e == nil {
			continue
		}
		person := people[name]
		if _, ok := index[person]; !ok {
			index[person] = len(c.people)
			c.people = append(c.people, person)
		}
		c.names, c.embeddings = append(c.names, name), append(c.embeddings, e)
		c.personOf, c.groupOf = append(c.personOf, index[person]), append(c.groupOf, labels.Groups[name])
	}
	c.draws = drawPeople(len(c.people), o, 7)
	return c
}

func (c *groupComparer) compare() {
	floor := math.Inf(1)
	for _, p := range c.points {
		floor = min(floor, p.Threshold)
	}
	for i, a := range c.embeddings {
		for j, b := range c.embeddings[:i] {
			p := groupPair{i, j, a.Cosine(b)}
			if c.personOf[i] == c.personOf[j] {
				c.mated = append(c.mated, p)
				continue
			}
			c.highest.add(ScoredPair{Probe: c.names[i], Reference: c.names[j], Score: p.score})
			if p.score >= floor {
				c.impostors = append(c.impostors, p)
			}
		}
	}
}

// count fills in the rates of a row.
func (c *groupComparer) count(g *ComparedGroup, row GroupRow) {
	in := map[string]bool{}
	byGroup := map[string][]int{} // the people on the photos
	var all []int
	for _, group := range row.Groups {
		in[group] = true
	}
	for i, group := range c.groupOf {
		if in[group] {
			byGroup[group], all = append(byGroup[group], c.personOf[i]), append(all, c.personOf[i])
		}
	}
	alike := make([]float64, c.o.Replicates) // weighted comparisons in each replicate
	others := c.draws.impostorPairs(all, c.o.Replicates)
	var alikeTotal, total int64
	for _, photos := range byGroup {
		alikeTotal += impostorPairs(photos)
		for r, n := range c.draws.impostorPairs(photos, c.o.Replicates) {
			alike[r] += n
			others[r] -= n
		}
	}
	total = impostorPairs(all)
	for _, point := range c.points {
		at := ComparedGroupAt{OperatingPoint: point, Alike: Rate{Total: alikeTotal}, Others: Rate{Total: total - alikeTotal}}
		alikeDrawn, othersDrawn := make([]float64, c.o.Replicates), make([]float64, c.o.Replicates)
		for _, p := range c.impostors {
			if p.score < point.Threshold || !in[c.groupOf[p.a]] || !in[c.groupOf[p.b]] {
				continue
			}
			counted, drawn := &at.Others, othersDrawn
			if c.groupOf[p.a] == c.groupOf[p.b] {
				counted, drawn = &at.Alike, alikeDrawn
			}
			counted.Count++
			h := hit{p.score, c.personOf[p.a], c.personOf[p.b]}
			for r := range drawn {
				drawn[r] += h.weight(c.draws, c.draws, r)
			}
		}
		at.AlikeInterval = intervalOf(ratesOf(alikeDrawn, alike), at.Alike, c.o.Confidence)
		at.OthersInterval = intervalOf(ratesOf(othersDrawn, others), at.Others, c.o.Confidence)
		at.FNMR = c.nonMatches(point.Threshold, in)
		g.At = append(g.At, at)
	}
}

// nonMatches counts the mated comparisons whose photos are both of the row.
func (c *groupComparer) nonMatches(threshold float64, in map[string]bool) RateByPerson {
	var people []string
	var missed []bool
	for _, p := range c.mated {
		if in[c.groupOf[p.a]] && in[c.groupOf[p.b]] {
			people, missed = append(people, c.people[c.personOf[p.a]]), append(missed, p.score < threshold)
		}
	}
	return CountByPerson(people, missed, c.o)
}

// ratesOf divides each count by its total, and leaves out where there is none.
func ratesOf(counts, totals []float64) []float64 {
	out := make([]float64, 0, len(counts))
	for i, total := range totals {
		if total > 0.5 { // it is a whole number but for rounding
			out = append(out, counts[i]/total)
		}
	}
	return out
}

// impostorPairs is the number of pairs of photos of different people.
func impostorPairs(personOf []int) int64 {
	count := map[int]int64{}
	for _, person := range personOf {
		count[person]++
	}
	n := int64(len(personOf))
	pairs := n * (n - 1) / 2
	for _, own := range count {
		pairs -= own * (own - 1) / 2
	}
	return pairs
}
