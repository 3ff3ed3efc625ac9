package measure

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/match"
)

// deals is how often each person is enrolled anew, with photos drawn at random:
// few people have many photos, and one draw of them says little.
const deals = 10

// Way is what is done with several enrolled photos of a person.
type Way int

// The ways. A store compares with the mean.
const (
	FirstPhoto Way = iota // the others are not used
	BestPhoto             // the highest score counts
	MeanOfPhotos
	ways
)

// String is the way in words.
func (w Way) String() string { return [...]string{"one of them", "the best", "the mean"}[w] }

// MarshalText makes the words a JSON string.
func (w Way) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// EnrolledRates are the error rates with a number of enrolled photos. All ways
// are measured on the same people, photos and draws.
type EnrolledRates struct {
	Enrolled int               `json:"enrolled_photos"`
	People   int               `json:"people"` // who have more usable photos than that
	Points   []EnrolledAtPoint `json:"operating_points"`
}

// EnrolledAtPoint are the rates at an operating point of the calibration.
type EnrolledAtPoint struct {
	face.OperatingPoint
	Ways []RatesOfWay `json:"ways"` // one alone for one photo: then all are the same
}

// RatesOfWay are the rates of one way. The intervals come from drawing people.
type RatesOfWay struct {
	Way          Way           `json:"compared_as"`
	FMR          Rate          `json:"false_matches"`
	FMRInterval  face.Interval `json:"fmr_interval"`
	FNMR         Rate          `json:"false_non_matches"`
	FNMRInterval face.Interval `json:"fnmr_interval"`
}

// MeasureEnrolled measures what several enrolled photos bring, for each of the
// numbers of photos: ten times over, everybody who has more than that many is
// enrolled with photos drawn at random. At most five of their other photos are
// mated probes; all photos of everybody else are impostors. people names the
// person on each photo that takes part. It uses Replicates, Confidence and Seed of the options, and so
// many workers, at least 1. Invalid: a number of photos below 1, fewer than two
// people with more photos than that, or a calibration without operating points.
// The end of the context is an error, too.
func MeasureEnrolled(ctx context.Context, people map[string]string, photos map[string]Photo, numbers []int, cal *face.Calibration, workers int, o Options) ([]EnrolledRates, error) {
	const op = "measure.MeasureEnrolled"
	points := match.NewPolicy(cal).Points()
	if len(points) == 0 {
		return nil, face.Errorf(face.Invalid, op, "the encoder has no calibration, and so no operating points")
	}
	usable := usablePhotos(people, photos)
	var list []EnrolledRates
	for _, n := range numbers {
		e := &enrolledCount{people: usable, points: points}
		for i, own := range usable {
			if n >= 1 && len(own) > n {
				e.enrolled = append(e.enrolled, i)
			}
		}
		if len(e.enrolled) < 2 {
			return nil, face.Errorf(face.Invalid, op, "%d people have more than %d usable photos; it takes at least 2", len(e.enrolled), n)
		}
		if err := e.count(ctx, n, workers, o.Seed); err != nil {
			return nil, err
		}
		list = append(list, EnrolledRates{Enrolled: n, People: len(e.enrolled), Points: e.rates(n, o)})
	}
	return list, nil
}

// usablePhotos are the embeddings of each person, in the order of the photos'
// names.
func usablePhotos(people map[string]string, photos map[string]Photo) [][]face.Embedding {
	places := map[string]int{}
	var list [][]face.Embedding
	for _, name := range slices.Sorted(maps.Keys(people)) {
		e := photos[name].Embedding()
		if e == nil {
			continue
		}
		at, ok := places[people[name]]
		if !ok {
			at = len(list)
			places[people[name]] = at
			list = append(list, nil)
		}
		list[at] = append(list[at], e)
	}
	return list
}

// enrolledCount counts the errors with one number of enrolled photos.
type enrolledCount struct {
	people   [][]face.Embedding
	enrolled []int // those of the people
	points   []face.OperatingPoint
	persons  []enrolledPerson // of enrolled
}

// enrolledPerson are the errors of one enrolled person, over all deals.
type enrolledPerson struct {
	mated  int64
	missed [ways][]int64           // by point: mated probes below the threshold
	passed [ways][]map[int32]int64 // by point and impostor: probes at or above it
}

// count deals and compares.
func (e *enrolledCount) count(ctx context.Context, n, workers int, seed uint64) error {
	e.persons = make([]enrolledPerson, len(e.enrolled))
	group, working := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for i := range e.enrolled {
		group.Go(func() error {
			e.compare(i, n, rand.New(rand.NewPCG(seed, uint64(i)<<8|5)))
			return working.Err()
		})
	}
	return group.Wait()
}

// compare enrols one person in every deal and compares with everybody.
func (e *enrolledCount) compare(i, n int, rng *rand.Rand) {
	p, self := &e.persons[i], e.enrolled[i]
	for way := range p.missed {
		p.missed[way] = make([]int64, len(e.points))
		for range e.points {
			p.passed[way] = append(p.passed[way], map[int32]int64{})
		}
	}
	own := slices.Clone(e.people[self])
	for range deals {
		rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
		references, mean := own[:n], face.FuseEmbeddings(own[:n])
		for _, probe := range own[n:min(len(own), n+maxProbesOfOne)] {
			p.mated++
			for way, score := range scoresByWay(probe, references, mean) {
				for at, point := range e.points {
					if score < point.Threshold {
						p.missed[way][at]++
					}
				}
			}
		}
		for other, theirs := range e.people {
			if other == self {
				continue
			}
			for _, probe := range theirs {
				for way, score := range scoresByWay(probe, references, mean) {
					for at, point := range e.points {
						if score >= point.Threshold {
							p.passed[way][at][int32(other)]++
						}
					}
				}
			}
		}
	}
}

func scoresByWay(probe face.Embedding, references []face.Embedding, mean face.Embedding) (scores [ways]float64) {
	for i, r := range references {
		score := probe.Cosine(r)
		if i == 0 {
			scores[FirstPhoto], scores[BestPhoto] = score, score
		}
		scores[BestPhoto] = max(scores[BestPhoto], score)
	}
	scores[MeanOfPhotos] = probe.Cosine(mean)
	return scores
}

// rates adds everybody up.
func (e *enrolledCount) rates(n int, o Options) []EnrolledAtPoint {
	var all int64 // photos of everybody
	for _, own := range e.people {
		all += int64(len(own))
	}
	var mated, impostor int64
	for i, self := range e.enrolled {
		mated += e.persons[i].mated
		impostor += deals * (all - int64(len(e.people[self])))
	}
	draws := e.drawPeople(o)
	var list []EnrolledAtPoint
	for at, point := range e.points {
		p := EnrolledAtPoint{OperatingPoint: point}
		for way := range ways {
			if n == 1 && way != MeanOfPhotos {
				continue
			}
			r := RatesOfWay{Way: way, FMR: Rate{Total: impostor}, FNMR: Rate{Total: mated}}
			for i := range e.persons {
				r.FNMR.Count += e.persons[i].missed[way][at]
				for _, n := range e.persons[i].passed[way][at] {
					r.FMR.Count += n
				}
			}
			r.FMRInterval, r.FNMRInterval = e.intervals(draws, way, at, o.Confidence)
			p.Ways = append(p.Ways, r)
		}
		list = append(list, p)
	}
	return list
}

// drawPeople draws all people with replacement, as often as the options say. It
// returns how often each was drawn.
func (e *enrolledCount) drawPeople(o Options) [][]int64 {
	rng := rand.New(rand.NewPCG(o.Seed, 6))
	draws := make([][]int64, o.Replicates)
	for r := range draws {
		draws[r] = make([]int64, len(e.people))
		for range e.people {
			draws[r][rng.IntN(len(e.people))]++
		}
	}
	return draws
}

// intervals are those of the false match and the false non-match rate. A
// comparison counts as often as the draws of its two people multiplied.
func (e *enrolledCount) intervals(draws [][]int64, way Way, at int, confidence float64) (fmr, fnmr face.Interval) {
	type falseMatches struct{ enrolled, impostor, n int64 }
	var passed []falseMatches
	for i := range e.persons {
		for other, n := range e.persons[i].passed[way][at] {
			passed = append(passed, falseMatches{int64(e.enrolled[i]), int64(other), n})
		}
	}
	var fmrs, fnmrs []float64
	for _, drawn := range draws {
		var photos, impostor, mated, matched, missed int64
		for i, own := range e.people {
			photos += drawn[i] * int64(len(own))
		}
		for i, self := range e.enrolled {
			impostor += drawn[self] * deals * (photos - drawn[self]*int64(len(e.people[self])))
			mated += drawn[self] * e.persons[i].mated
			missed += drawn[self] * e.persons[i].missed[way][at]
		}
		for _, p := range passed {
			matched += drawn[p.enrolled] * drawn[p.impostor] * p.n
		}
		if impostor > 0 && mated > 0 {
			fmrs = append(fmrs, float64(matched)/float64(impostor))
			fnmrs = append(fnmrs, float64(missed)/float64(mated))
		}
	}
	if len(fmrs) == 0 {
		return fmr, fnmr
	}
	return percentiles(fmrs, confidence), percentiles(fnmrs, confidence)
}
