package measure

import (
	"fmt"
	"math/rand/v2"
	"path"

	"github.com/likeness-id/likeness/pkg/face"
)

// galleryDraws is how often [IdentifyInGallery] draws who is enrolled with which
// photo. One draw alone makes the rates depend on its luck.
const galleryDraws = 10

// IdentifyInGallery measures open-set identification in a gallery of the given
// size: so many people, drawn from all of them, are enrolled with one photo
// each, and their other photos are searched for. The strangers are the photos of
// another set, of other people. If there are none, everybody is searched for as
// a stranger, too: their own template is left out, and one of a person who is
// not enrolled takes its place. The folder of a photo is its person. A nil
// calibration has no operating points. It uses all of the options. Invalid: too
// few people have a usable photo.
func IdentifyInGallery(names []string, photos map[string]Photo, strangers []Photo, size int, cal *face.Calibration, o Options) (*Identification, error) {
	id := &Identification{Gallery: size, Draws: galleryDraws}
	var probes []Probe
	for draw := range galleryDraws {
		g, err := drawGallery(names, photos, size, len(strangers) == 0, rand.New(rand.NewPCG(o.Seed, 16+uint64(draw))))
		if err != nil {
			return nil, err
		}
		id.NotEnrolled.Count += int64(g.notEnrolled)
		id.NotEnrolled.Total += int64(g.notEnrolled + size)
		probes = g.searchMated(probes, photos, &id.Mated)
		if len(strangers) > 0 {
			probes = g.searchOthers(probes, strangers, &id.Strangers)
		} else {
			probes = g.searchLeftOut(probes, photos, &id.Strangers)
		}
	}
	searches, err := NewSearches(probes)
	if err != nil {
		return nil, err
	}
	id.Curve = searches.Curve()
	id.count(searches, cal, o)
	return id, nil
}

// drawnGallery is a gallery of one draw.
type drawnGallery struct {
	size        int
	order       []string            // the people
	photos      map[string][]string // of each person; the enrolled one is the first
	templates   []face.Embedding    // of the people enrolled, and of one more to stand in
	at          map[string]int      // where a person's template is
	notEnrolled int                 // people without a usable photo, before there were enough others
}

func drawGallery(names []string, photos map[string]Photo, size int, spare bool, rng *rand.Rand) (*drawnGallery, error) {
	g := &drawnGallery{size: size, photos: map[string][]string{}, at: map[string]int{}}
	for _, name := range names {
		person := path.Dir(name)
		if g.photos[person] == nil {
			g.order = append(g.order, person)
		}
		g.photos[person] = append(g.photos[person], name)
	}
	rng.Shuffle(len(g.order), func(i, j int) { g.order[i], g.order[j] = g.order[j], g.order[i] })
	wanted := size
	if spare {
		wanted++
	}
	for _, person := range g.order {
		own := g.photos[person]
		rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		if len(g.templates) == wanted {
			continue // shuffled all the same
		}
		enrolled := false
		for i, name := range own {
			if e := photos[name].Embedding(); e != nil {
				own[0], own[i] = own[i], own[0]
				g.at[person] = len(g.templates)
				g.templates, enrolled = append(g.templates, e), true
				break
			}
		}
		if !enrolled {
			g.notEnrolled++
		}
	}
	if len(g.templates) < wanted {
		return nil, face.Errorf(face.Invalid, "measure.IdentifyInGallery", "a gallery of %d needs %d people with a usable photo; there are %d", size, wanted, len(g.templates))
	}
	return g, nil
}

// best is the best score of a probe in the gallery. The template with the index
// left is left out, and the last one stands in for it; -1 leaves none out.
func (g *drawnGallery) best(probe face.Embedding, left int) float64 {
	score := -2.0
	for i, t := range g.templates[:g.size] {
		if i == left {
			t = g.templates[g.size]
		}
		score = max(score, probe.Cosine(t))
	}
	return score
}

// searchMated searches for the other photos of the people who are enrolled.
func (g *drawnGallery) searchMated(probes []Probe, photos map[string]Photo, searched *Rate) []Probe {
	for _, person := range g.order {
		at, ok := g.at[person]
		if !ok || at == g.size {
			continue
		}
		own := g.photos[person]
		for _, name := range own[1:min(len(own), 1+maxProbesOfOne)] {
			e := photos[name].Embedding()
			searched.Add(e != nil)
			if e == nil {
				continue
			}
			p := Probe{Person: person, Mated: true, Score: e.Cosine(g.templates[at]), Rank: 1}
			for i, t := range g.templates[:g.size] {
				if i != at && e.Cosine(t) >= p.Score {
					p.Rank++
				}
			}
			probes = append(probes, p)
		}
	}
	return probes
}

// searchLeftOut searches for everybody as if they were not enrolled.
func (g *drawnGallery) searchLeftOut(probes []Probe, photos map[string]Photo, searched *Rate) []Probe {
	for _, person := range g.order {
		left, ok := g.at[person]
		if !ok {
			left = -1
		}
		own := g.photos[person]
		for _, name := range own[:min(len(own), maxProbesOfOne)] {
			e := photos[name].Embedding()
			searched.Add(e != nil)
			if e != nil {
				probes = append(probes, Probe{Person: person, Score: g.best(e, left)})
			}
		}
	}
	return probes
}

// searchOthers searches for strangers of another set, each a person of their own.
func (g *drawnGallery) searchOthers(probes []Probe, strangers []Photo, searched *Rate) []Probe {
	for i, s := range strangers {
		e := s.Embedding()
		searched.Add(e != nil)
		if e != nil {
			probes = append(probes, Probe{Person: fmt.Sprintf("stranger %d", i), Score: g.best(e, -1)})
		}
	}
	return probes
}
