package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
	"github.com/likeness-id/likeness/pkg/measure"
)

// probesOfOne is the most photos of one person that are searched for.
const probesOfOne = 5

// identification is what open-set searches show: the people whose photos are
// searched for are in the gallery with another photo, or not at all.
type identification struct {
	Gallery     int          `json:"gallery"`         // people enrolled, with one photo each
	NotEnrolled measure.Rate `json:"failed_to_enrol"` // those whose photo could not be used
	Mated       measure.Rate `json:"mated_searched"`  // of the probes of enrolled people, those searched for
	Strangers   measure.Rate `json:"strangers_searched"`

	Within []withinRank          `json:"within_rank"`
	AtFPIR []atFPIR              `json:"at_fpir"`
	Points []pointFPIR           `json:"operating_points"`
	CMC    []float64             `json:"cmc"` // by rank, from 1
	Curve  []measure.SearchPoint `json:"dir_over_fpir"`
	Groups []groupFound          `json:"groups,omitempty"`
}

// withinRank is how often the right person is among the first k.
type withinRank struct {
	K            int           `json:"k"`
	Found        measure.Rate  `json:"found"`
	Interval     face.Interval `json:"interval"`
	WithFailures measure.Rate  `json:"failures_as_misses"`
}

// atFPIR is the detection and identification rate, in the first place, at the
// least threshold that keeps a false positive identification rate on these very
// searches.
type atFPIR struct {
	Target       float64       `json:"fpir"`
	Threshold    float64       `json:"threshold"`
	FPIR         measure.Rate  `json:"strangers_named"`
	DIR          measure.Rate  `json:"identified"`
	Interval     face.Interval `json:"dir_interval"`
	WithFailures measure.Rate  `json:"failures_as_misses"`
	Measured     bool          `json:"measured"` // the rule of 30 holds for the strangers named
}

// pointFPIR is what an operating point does to these searches, and what the
// formula says that it does in a gallery of that size.
type pointFPIR struct {
	face.OperatingPoint
	Expected         float64       `json:"expected_fpir"`
	Observed         measure.Rate  `json:"strangers_named"`
	ObservedInterval face.Interval `json:"fpir_interval"`
	DIR              measure.Rate  `json:"identified"`
}

// groupFound is a group's share of it, at the thresholds of at_fpir.
type groupFound struct {
	Group  string         `json:"group"`
	First  measure.Rate   `json:"first"`
	Named  []measure.Rate `json:"strangers_named"`
	Proper []measure.Rate `json:"identified"`
}

func ranks() []int { return []int{1, 5, 10, 20} }

func fpirs() []float64 { return []float64{1e-1, 1e-2, 1e-3} }

// scene says who is enrolled with which photo and who is searched for.
type scene struct {
	reference map[string]string // the enrolled photo by person
	probes    []string          // photos of people who are enrolled, and then of those who are not
	mated     int
}

// stage casts the people of a labelled set: a share of those with several
// photos is enrolled with one of them, chosen at random.
func stage(names []string, share float64) (scene, error) {
	byPerson := map[string][]string{}
	var order []string
	for _, name := range names {
		who := path.Dir(name)
		if byPerson[who] == nil {
			order = append(order, who)
		}
		byPerson[who] = append(byPerson[who], name)
	}
	rng := rand.New(rand.NewPCG(seed, 4))
	rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	several := 0
	for _, who := range order {
		if len(byPerson[who]) > 1 {
			several++
		}
	}
	s := scene{reference: map[string]string{}}
	var strangers []string
	for _, who := range order {
		own := byPerson[who]
		rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		if len(own) > 1 && float64(len(s.reference)) < share*float64(several) {
			s.reference[who] = own[0]
			s.probes = append(s.probes, own[1:min(len(own), 1+probesOfOne)]...)
		} else {
			strangers = append(strangers, own[:min(len(own), probesOfOne)]...)
		}
	}
	if len(s.reference) < 2 {
		return s, errors.New("--images: too few people with several photos, each in a folder of their own")
	}
	s.mated = len(s.probes)
	s.probes = append(s.probes, strangers...)
	return s, nil
}

// search looks every probe up in the gallery. What could not be acquired is
// left out; probes of people who could not be enrolled, too. The index says
// which probe of the scene each is.
func (s scene) search(embedding func(photo string) face.Embedding) (found []measure.Probe, index []int, gallery int) {
	var people []string
	var references []face.Embedding
	for who, photo := range s.reference {
		if e := embedding(photo); e != nil {
			people, references = append(people, who), append(references, e)
		}
	}
	for i, photo := range s.probes {
		probe := embedding(photo)
		if probe == nil {
			continue
		}
		p := measure.Probe{Person: path.Dir(photo), Mated: i < s.mated, Score: -2}
		if p.Mated {
			own := embedding(s.reference[p.Person])
			if own == nil {
				continue
			}
			p.Score, p.Rank = probe.Cosine(own), 1
		}
		for j, ref := range references {
			switch score := probe.Cosine(ref); {
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

// identify measures open-set identification.
func identify(names []string, photos map[string]acquired, groups map[string]string, cal *face.Calibration) (*identification, error) {
	s, err := stage(names, 0.5)
	if err != nil {
		return nil, err
	}
	probes, index, gallery := s.search(func(photo string) face.Embedding { return photos[photo].embedding })
	searches, err := measure.NewSearches(probes)
	if err != nil {
		return nil, err
	}
	id := &identification{
		Gallery:     gallery,
		NotEnrolled: measure.Rate{Count: int64(len(s.reference) - gallery), Total: int64(len(s.reference))},
		Mated:       measure.Rate{Count: searches.Within(gallery).Total, Total: int64(s.mated)},
		Strangers:   measure.Rate{Count: searches.FPIR(0).Total, Total: int64(len(s.probes) - s.mated)},
		Curve:       searches.Curve(),
	}
	// Who could not be searched for is not found.
	missed := func(r measure.Rate) measure.Rate { return measure.Rate{Count: r.Count, Total: id.Mated.Total} }
	intervals := searches.Bootstrap(measure.DefaultOptions())
	for i, k := range ranks() {
		found := searches.Within(k)
		id.Within = append(id.Within, withinRank{K: k, Found: found, Interval: intervals.Within[i], WithFailures: missed(found)})
	}
	for k := 1; k <= min(gallery, 50); k++ {
		id.CMC = append(id.CMC, searches.Within(k).Value())
	}
	var thresholds []float64
	for i, fpir := range fpirs() {
		at := searches.ThresholdAt(fpir)
		named, found := searches.FPIR(at), searches.DIR(at, 1)
		thresholds = append(thresholds, at)
		id.AtFPIR = append(id.AtFPIR, atFPIR{
			Target: fpir, Threshold: at, FPIR: named, DIR: found, Interval: intervals.DIR[i],
			WithFailures: missed(found), Measured: named.Count >= match.Rule30,
		})
	}
	for _, p := range match.NewPolicy(cal).Points() {
		named := searches.FPIR(p.Threshold)
		id.Points = append(id.Points, pointFPIR{
			OperatingPoint: p, Expected: match.FPIR(p.FMR, gallery),
			Observed: named, ObservedInterval: named.Interval(confidence), DIR: searches.DIR(p.Threshold, 1),
		})
	}
	for _, name := range groupNames(groups) {
		g := groupFound{Group: name, Named: make([]measure.Rate, len(thresholds)), Proper: make([]measure.Rate, len(thresholds))}
		for i, p := range probes {
			if groups[s.probes[index[i]]] != name {
				continue
			}
			if p.Mated {
				count(&g.First, p.Rank == 1)
			}
			for j, at := range thresholds {
				if p.Mated {
					count(&g.Proper[j], p.Rank == 1 && p.Score >= at)
				} else {
					count(&g.Named[j], p.Score >= at)
				}
			}
		}
		id.Groups = append(id.Groups, g)
	}
	return id, nil
}

// count adds an event to a rate.
func count(r *measure.Rate, is bool) {
	r.Total++
	if is {
		r.Count++
	}
}

func (id *identification) rows(s *rowSheet) (rough bool) {
	if id == nil {
		return false
	}
	s.next()
	s.row("people enrolled, one photo each\t%d", id.Gallery)
	s.row("people who could not be enrolled\t%s", id.NotEnrolled)
	s.row("photos of theirs searched for\t%d of %d", id.Mated.Count, id.Mated.Total)
	s.row("photos of others searched for\t%d of %d", id.Strangers.Count, id.Strangers.Total)
	s.head("AMONG THE FIRST\tRATE\tFOUND\t95 %% INTERVAL\tFAILURES AS MISSES")
	for _, w := range id.Within {
		s.row("%d\t%s\t%s\t[%s]\t%s", w.K, percent(w.Found.Value()), w.Found, span(w.Interval), percent(w.WithFailures.Value()))
	}
	s.head("AT FPIR\tTHRESHOLD\tSTRANGERS NAMED\tDIR\tIDENTIFIED\t95 %% INTERVAL\tFAILURES AS MISSES")
	for _, a := range id.AtFPIR {
		star := ""
		if !a.Measured {
			star, rough = "*", true
		}
		s.row("%g%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s", a.Target, star, a.Threshold, a.FPIR, percent(a.DIR.Value()), a.DIR, span(a.Interval), percent(a.WithFailures.Value()))
	}
	if len(id.Points) > 0 {
		s.head("OPERATING POINT\tTHRESHOLD\tEXPECTED FPIR\tOBSERVED\tSTRANGERS NAMED\t95 %% INTERVAL\tDIR")
		for _, p := range id.Points {
			s.row("%s\t%.4f\t%s\t%s\t%s\t[%s]\t%s", p.Name, p.Threshold, percent(p.Expected), percent(p.Observed.Value()), p.Observed,
				span(p.ObservedInterval), percent(p.DIR.Value()))
		}
	}
	for i, a := range id.AtFPIR {
		if len(id.Groups) == 0 || !a.Measured {
			continue
		}
		s.head("GROUP, AT FPIR %g\tFIRST\tFOUND\tDIR\tFPIR\tSTRANGERS NAMED", a.Target)
		for _, g := range id.Groups {
			s.row("%s\t%s\t%s\t%s\t%s\t%s", g.Group, share(g.First), g.First, share(g.Proper[i]), share(g.Named[i]), g.Named[i])
		}
	}
	return rough
}

// share is a rate in per cent, or a dash when nothing was counted.
func share(r measure.Rate) string {
	if r.Total == 0 {
		return "-"
	}
	return percent(r.Value())
}

// oneShot is how often the right one of N people is found from one enrolled
// photo of each.
type oneShot struct {
	People   int      `json:"people"`
	Probes   int      `json:"probes"`
	Encoders []string `json:"encoders"`
	Ways     []nWay   `json:"ways"`
}

type nWay struct {
	N     int                `json:"n"`
	Found []measure.Estimate `json:"found"` // by encoder
}

// oneShots measures N-way identification by each encoder, on the same photos.
func oneShots(names []string, photos map[string]acquired, encoders []string) (*oneShot, error) {
	s, err := stage(names, 1)
	if err != nil {
		return nil, err
	}
	s.probes = s.probes[:s.mated]
	o := &oneShot{Encoders: encoders}
	var searched [][]measure.Probe
	for i := range encoders {
		probes, _, gallery := s.search(func(photo string) face.Embedding {
			if i == 1 {
				return photos[photo].against
			}
			return photos[photo].embedding
		})
		searched = append(searched, probes)
		o.People, o.Probes = gallery, len(probes)
	}
	if o.Probes == 0 || o.People < 2 {
		return nil, errors.New("--one-shot: nobody could be enrolled and searched for")
	}
	for _, n := range []int{5, 20, 100, o.People} {
		if n > o.People || len(o.Ways) > 0 && n <= o.Ways[len(o.Ways)-1].N {
			continue
		}
		w := nWay{N: n}
		for _, probes := range searched {
			w.Found = append(w.Found, measure.NWay(probes, o.People, n, measure.DefaultOptions()))
		}
		o.Ways = append(o.Ways, w)
	}
	return o, nil
}

func (o *oneShot) rows(s *rowSheet) {
	if o == nil {
		return
	}
	header := []string{fmt.Sprintf("ONE-SHOT, %d PROBES OF %d PEOPLE", o.Probes, o.People)}
	for _, e := range o.Encoders {
		header = append(header, e, "95 % INTERVAL")
	}
	s.head("%s\tCHANCE", strings.Join(header, "\t"))
	for _, w := range o.Ways {
		cells := []string{fmt.Sprintf("one of %d", w.N)}
		for _, m := range w.Found {
			cells = append(cells, percent(m.Value), "["+span(m.Interval)+"]")
		}
		s.row("%s\t%s", strings.Join(cells, "\t"), percent(1/float64(w.N)))
	}
}
