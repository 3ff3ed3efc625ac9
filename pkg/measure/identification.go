package measure

import (
	"math/rand/v2"
	"path"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// maxProbesOfOne is the most photos of one person that are searched for.
const maxProbesOfOne = 5

// Identification is what open-set searches show: some people whose photos are
// searched for are in the gallery with another photo, the others are strangers.
type Identification struct {
	Gallery     int  `json:"gallery"`         // people enrolled, with one photo each
	Draws       int  `json:"draws"`           // of who is enrolled with which photo; the counts are of all together
	NotEnrolled Rate `json:"failed_to_enrol"` // those whose photo could not be used
	Mated       Rate `json:"mated_searched"`  // of the probes of enrolled people, those searched for
	Strangers   Rate `json:"strangers_searched"`

	Within []RateWithinRank      `json:"within_rank"`
	AtFPIR []RatesAtFPIR         `json:"at_fpir"`
	Points []SearchesAtPoint     `json:"operating_points"`
	CMC    []float64             `json:"cmc"` // by rank, from 1
	Curve  []SearchPoint         `json:"dir_over_fpir"`
	Groups []GroupIdentification `json:"groups,omitempty"`
}

// RateWithinRank is how often the right person is among the first K.
type RateWithinRank struct {
	K            int           `json:"k"`
	Found        Rate          `json:"found"`
	Interval     face.Interval `json:"interval"`
	WithFailures Rate          `json:"failures_as_misses"`
}

// RatesAtFPIR are the rates at the least threshold that keeps a false positive
// identification rate on these same searches. DIR counts the first place only.
type RatesAtFPIR struct {
	Target       float64       `json:"fpir"`
	Threshold    float64       `json:"threshold"`
	FPIR         Rate          `json:"strangers_named"`
	DIR          Rate          `json:"identified"`
	Interval     face.Interval `json:"dir_interval"`
	WithFailures Rate          `json:"failures_as_misses"`
	Measured     bool          `json:"measured"` // at least match.Rule30 strangers were named in each draw
}

// SearchesAtPoint are the rates at an operating point of the calibration, with
// what [match.FPIR] expects for a gallery of that size.
type SearchesAtPoint struct {
	face.OperatingPoint
	Expected         float64       `json:"expected_fpir"`
	Observed         Rate          `json:"strangers_named"`
	ObservedInterval face.Interval `json:"fpir_interval"`
	DIR              Rate          `json:"identified"`
}

// GroupIdentification is a group's part of it, at the thresholds of
// Identification.AtFPIR and in their order.
type GroupIdentification struct {
	Group string `json:"group"`
	First Rate   `json:"first"`           // the right person came first, at any score
	FPIR  []Rate `json:"strangers_named"` // of the strangers of the group
	DIR   []Rate `json:"identified"`      // of the enrolled people of the group
}

// searchProtocol says who is enrolled with which photo, and which photos are
// searched for.
type searchProtocol struct {
	reference map[string]string // the enrolled photo by person
	probes    []string          // photos of enrolled people, and then those of strangers
	mated     int               // how many of the probes are of enrolled people
}

// newSearchProtocol chooses at random: of the people with several photos, a
// share is enrolled with one of them. The folder of a photo is its person.
func newSearchProtocol(names []string, share float64, seed uint64) (searchProtocol, error) {
	byPerson := map[string][]string{}
	var order []string
	for _, name := range names {
		person := path.Dir(name)
		if byPerson[person] == nil {
			order = append(order, person)
		}
		byPerson[person] = append(byPerson[person], name)
	}
	rng := rand.New(rand.NewPCG(seed, 4))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	several := 0
	for _, person := range order {
		if len(byPerson[person]) > 1 {
			several++
		}
	}
	p := searchProtocol{reference: map[string]string{}}
	var strangers []string
	for _, person := range order {
		own := byPerson[person]
		rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		if len(own) > 1 && float64(len(p.reference)) < share*float64(several) {
			p.reference[person] = own[0]
			p.probes = append(p.probes, own[1:min(len(own), 1+maxProbesOfOne)]...)
		} else {
			strangers = append(strangers, own[:min(len(own), maxProbesOfOne)]...)
		}
	}
	if len(p.reference) < 2 {
		return p, face.Errorf(face.Invalid, "measure.Identify", "too few people with several photos, each person in a folder of their own")
	}
	p.mated = len(p.probes)
	p.probes = append(p.probes, strangers...)
	return p, nil
}

// search looks every probe up in the gallery. Photos without an embedding are
// left out, and so are probes of people who could not be enrolled. The index
// says which probe of the protocol each result belongs to.
func (s searchProtocol) search(embedding func(photo string) face.Embedding) (found []Probe, index []int, gallery int) {
	var people []string
	var references []face.Embedding
	for person, photo := range s.reference {
		if e := embedding(photo); e != nil {
			people, references = append(people, person), append(references, e)
		}
	}
	for i, photo := range s.probes {
		probe := embedding(photo)
		if probe == nil {
			continue
		}
		p := Probe{Person: path.Dir(photo), Mated: i < s.mated, Score: -2}
		if p.Mated {
			own := embedding(s.reference[p.Person])
			if own == nil {
				continue
			}
			p.Score, p.Rank = probe.Cosine(own), 1
		}
		for j, reference := range references {
			switch score := probe.Cosine(reference); {
			case !p.Mated:
				p.Score = max(p.Score, score)
			case people[j] != p.Person && score >= p.Score:
				p.Rank++
			}
		}
		found, index = append(found, p), append(index, i)
	}
	return found, index, len(references)
}

// Identify measures open-set identification: one photo of half of the people
// with several photos is enrolled; their other photos, and those of everybody
// else, are searched for. The folder of a photo is its person. groups may be
// nil; a nil calibration has no operating points. It uses all of the options.
// Invalid: too few people with several photos, or too few usable photos.
func Identify(names []string, photos map[string]Photo, groups map[string]string, cal *face.Calibration, o Options) (*Identification, error) {
	protocol, err := newSearchProtocol(names, 0.5, o.Seed)
	if err != nil {
		return nil, err
	}
	probes, index, gallery := protocol.search(func(photo string) face.Embedding { return photos[photo].Embedding() })
	searches, err := NewSearches(probes)
	if err != nil {
		return nil, err
	}
	id := &Identification{
		Gallery: gallery, Draws: 1,
		NotEnrolled: Rate{Count: int64(len(protocol.reference) - gallery), Total: int64(len(protocol.reference))},
		Mated:       Rate{Count: searches.Within(gallery).Total, Total: int64(protocol.mated)},
		Strangers:   Rate{Count: searches.FPIR(0).Total, Total: int64(len(protocol.probes) - protocol.mated)},
		Curve:       searches.Curve(),
	}
	id.count(searches, cal, o)
	for _, name := range sortedGroups(groups) {
		g := GroupIdentification{Group: name, FPIR: make([]Rate, len(id.AtFPIR)), DIR: make([]Rate, len(id.AtFPIR))}
		for i, p := range probes {
			if groups[protocol.probes[index[i]]] == name {
				g.add(p, id.AtFPIR)
			}
		}
		id.Groups = append(id.Groups, g)
	}
	return id, nil
}

// count fills in the rates of all searches.
func (id *Identification) count(searches *Searches, cal *face.Calibration, o Options) {
	// A person who could not be searched for was not found.
	withFailures := func(r Rate) Rate { return Rate{Count: r.Count, Total: id.Mated.Total} }
	intervals := searches.Bootstrap(o)
	for i, k := range o.Ranks {
		found := searches.Within(k)
		id.Within = append(id.Within, RateWithinRank{K: k, Found: found, Interval: intervals.Within[i], WithFailures: withFailures(found)})
	}
	for k := 1; k <= min(id.Gallery, 50); k++ {
		id.CMC = append(id.CMC, searches.Within(k).Value())
	}
	for i, target := range o.FPIRs {
		threshold := searches.ThresholdAt(target)
		fpir, dir := searches.FPIR(threshold), searches.DIR(threshold, 1)
		id.AtFPIR = append(id.AtFPIR, RatesAtFPIR{
			Target: target, Threshold: threshold, FPIR: fpir, DIR: dir, Interval: intervals.DIR[i],
			WithFailures: withFailures(dir), Measured: fpir.Count >= int64(match.Rule30*id.Draws),
		})
	}
	for _, p := range match.NewPolicy(cal).Points() {
		fpir := searches.FPIR(p.Threshold)
		id.Points = append(id.Points, SearchesAtPoint{
			OperatingPoint: p, Expected: match.FPIR(p.FMR, id.Gallery),
			Observed: fpir, ObservedInterval: fpir.dividedBy(id.Draws).Interval(o.Confidence), DIR: searches.DIR(p.Threshold, 1),
		})
	}
}

// add counts a probe of the group.
func (g *GroupIdentification) add(p Probe, at []RatesAtFPIR) {
	if p.Mated {
		g.First.Add(p.Rank == 1)
	}
	for i, a := range at {
		if p.Mated {
			g.DIR[i].Add(p.Rank == 1 && p.Score >= a.Threshold)
		} else {
			g.FPIR[i].Add(p.Score >= a.Threshold)
		}
	}
}

// OneShot is how often the right one of N people comes first, from one enrolled
// photo of each.
type OneShot struct {
	People   int        `json:"people"`
	Probes   int        `json:"probes"`
	Encoders []string   `json:"encoders"`
	Ways     []NWayRate `json:"ways"`
}

// NWayRate is the rate for one number of people.
type NWayRate struct {
	N     int        `json:"n"`
	Found []Estimate `json:"found"` // by encoder
}

// IdentifyOneShot measures [NWay] identification among 5, 20, 100 and all
// people, by each encoder on the same photos: their names are in the order of
// [Photo.Embeddings]. The folder of a photo is its person. It uses Replicates,
// Confidence and Seed of the options. Invalid: too few people with several
// usable photos.
func IdentifyOneShot(names []string, photos map[string]Photo, encoders []string, o Options) (*OneShot, error) {
	protocol, err := newSearchProtocol(names, 1, o.Seed)
	if err != nil {
		return nil, err
	}
	protocol.probes = protocol.probes[:protocol.mated]
	result := &OneShot{Encoders: encoders}
	var searched [][]Probe
	for i := range encoders {
		probes, _, gallery := protocol.search(func(photo string) face.Embedding { return photos[photo].EmbeddingBy(i) })
		searched = append(searched, probes)
		result.People, result.Probes = gallery, len(probes)
	}
	if result.Probes == 0 || result.People < 2 {
		return nil, face.Errorf(face.Invalid, "measure.IdentifyOneShot", "nobody could be enrolled and searched for")
	}
	for _, n := range []int{5, 20, 100, result.People} {
		if n > result.People || len(result.Ways) > 0 && n <= result.Ways[len(result.Ways)-1].N {
			continue
		}
		way := NWayRate{N: n}
		for _, probes := range searched {
			way.Found = append(way.Found, NWay(probes, result.People, n, o))
		}
		result.Ways = append(result.Ways, way)
	}
	return result, nil
}
