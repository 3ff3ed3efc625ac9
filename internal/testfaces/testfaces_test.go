package testfaces_test

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
)

const (
	detector = orttest.Detector
	encoder  = orttest.Encoder
	point    = "fmr_1e-4" // the operating point that decisions are made at
)

// threshold is the score from which two samples of the encoder are the same
// person's.
func threshold(t *testing.T) float64 {
	t.Helper()
	for _, p := range orttest.Model(t, encoder).Calibration.Points {
		if p.Name == point {
			return p.Threshold
		}
	}
	t.Fatalf("%s has no operating point %s", encoder, point)
	return 0
}

func pipeline(t *testing.T) *embed.Pipeline {
	t.Helper()
	p, err := embed.New(embed.Options{
		Detector: orttest.Network(t, detector), DetectorModel: orttest.Model(t, detector).Manifest,
		Encoder: orttest.Network(t, encoder), EncoderModel: orttest.Model(t, encoder).Manifest,
		Slots: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestFaces holds the photos to what tests rely on: the models take them for
// photos of as many people as there are.
func TestFaces(t *testing.T) {
	t.Parallel()
	p, same := pipeline(t), threshold(t)
	embedded := func(what string, photo []byte, pick embed.Pick) []embed.Sample {
		t.Helper()
		if len(photo) > 60_000 {
			t.Errorf("%s has %d bytes; the photos are kept small", what, len(photo))
		}
		s, err := p.Embed(t.Context(), photo, pick)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return s
	}

	var all [testfaces.People + 1][testfaces.Photos + 1]face.Embedding
	for person := 1; person <= testfaces.People; person++ {
		for photo := 1; photo <= testfaces.Photos; photo++ {
			s := embedded("photo", testfaces.Photo(t, person, photo), embed.PickAll)
			if len(s) != 1 {
				t.Fatalf("person %d, photo %d: %d faces, want 1", person, photo, len(s))
			}
			if r := s[0].Face.Quality.Reasons; len(r) > 0 {
				t.Errorf("person %d, photo %d: the quality gate says %v", person, photo, r)
			}
			all[person][photo] = s[0].Embedding
		}
	}
	least, most := 1.0, -1.0
	judge := func(what string, mated bool, score float64) {
		t.Helper()
		if mated {
			least = min(least, score)
		} else {
			most = max(most, score)
		}
		if mated != (score >= same) {
			t.Errorf("%s: score %.3f, threshold %.3f", what, score, same)
		}
	}
	for a := 1; a <= testfaces.People; a++ {
		for i := 1; i <= testfaces.Photos; i++ {
			for b := 1; b <= a; b++ {
				for j := 1; j <= testfaces.Photos; j++ {
					judge(fmt.Sprintf("person %d, photo %d and person %d, photo %d", a, i, b, j), a == b, all[a][i].Cosine(all[b][j]))
				}
			}
		}
	}

	t.Logf("the same person %.3f or more, different people %.3f or less", least, most)

	photo, people := testfaces.Group(t)
	least, most = 1, -1
	group := embedded("group", photo, embed.PickAll)
	if len(group) != len(people) {
		t.Fatalf("the group has %d faces, want %d", len(group), len(people))
	}
	slices.SortFunc(group, func(a, b embed.Sample) int { return cmp.Compare(a.Face.Box.X, b.Face.Box.X) })
	for i, s := range group {
		if r := s.Face.Quality.Reasons; len(r) > 0 {
			t.Errorf("the group's face %d: the quality gate says %v", i+1, r)
		}
		for person := 1; person <= testfaces.People; person++ {
			for photo := 1; photo <= testfaces.Photos; photo++ {
				judge(fmt.Sprintf("the group's face %d and person %d, photo %d", i+1, person, photo), person == people[i], s.Embedding.Cosine(all[person][photo]))
			}
		}
	}
	t.Logf("of the group: the same person %.3f or more, different people %.3f or less", least, most)
	if _, err := p.Embed(t.Context(), photo, embed.PickOnly); face.KindOf(err) != face.ManyFaces {
		t.Errorf("the group as a photo of one: %v, want many faces", err)
	}

	if s := embedded("nobody", testfaces.Nobody(t), embed.PickAll); len(s) > 0 {
		t.Errorf("nobody has %d faces", len(s))
	}
	if _, err := p.Embed(t.Context(), testfaces.Nobody(t), embed.PickOnly); face.KindOf(err) != face.NoFace {
		t.Errorf("nobody as a photo of one: %v, want no face", err)
	}
}
