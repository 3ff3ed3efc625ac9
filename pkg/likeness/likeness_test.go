package likeness_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/internal/testfaces"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/likeness"
	"github.com/likeness-id/likeness/pkg/match"
)

func TestMain(m *testing.M) {
	orttest.SkipExamples()
	os.Exit(m.Run())
}

// open opens a pipeline until the test ends.
func open(t *testing.T, o likeness.Options) *likeness.Pipeline {
	t.Helper()
	orttest.Library(t)
	p, err := likeness.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), p.Close()); err != nil {
			t.Error(err)
		}
	})
	return p
}

func TestCompare(t *testing.T) {
	t.Parallel()
	p := open(t, likeness.Options{})
	photo := func(person, n int) []byte { return testfaces.Photo(t, person, n) }
	for name, c := range map[string]struct {
		probe, reference []byte
		match            bool
	}{
		"one person":  {photo(1, 1), photo(1, 2), true},
		"two people":  {photo(1, 1), photo(2, 1), false},
		"other order": {photo(2, 1), photo(1, 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := p.Compare(t.Context(), c.probe, c.reference)
			if err != nil {
				t.Fatal(err)
			}
			if got.Match != c.match || got.Match != (got.Score >= got.Threshold) || got.OperatingPoint != "fmr_1e-4" {
				t.Errorf("got %+v, want match %t", got, c.match)
			}
			if got.Probability == nil || (*got.Probability > 0.5) != c.match {
				t.Errorf("probability %v of a match %t", got.Probability, c.match)
			}
			if got.Probe.Box.Area() == 0 || got.Reference.Box.Area() == 0 {
				t.Errorf("faces %v and %v", got.Probe, got.Reference)
			}
			turned, err := p.Compare(t.Context(), c.reference, c.probe)
			if err != nil || turned.Score != got.Score {
				t.Errorf("in the other order %v, %v; want the score %v", turned.Score, err, got.Score)
			}
		})
	}
	for name, c := range map[string]struct {
		probe, reference []byte
		kind             face.Kind
		detail           string
	}{
		"nobody in the probe":     {testfaces.Nobody(t), photo(1, 1), face.NoFace, "probe: No face"},
		"nobody in the reference": {photo(1, 1), testfaces.Nobody(t), face.NoFace, "reference: No face"},
		"no photo":                {photo(1, 1), []byte("hello"), face.UnsupportedImage, "reference: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := p.Compare(t.Context(), c.probe, c.reference)
			e, ok := errors.AsType[*face.Error](err)
			if !ok || e.Kind != c.kind || !strings.HasPrefix(e.Detail, c.detail) {
				t.Errorf("got %v, want %s with %q", err, c.kind, c.detail)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options likeness.Options
		field   string
		kind    face.Kind
		text    string
	}{
		"unknown encoder":         {likeness.Options{Encoder: "nobody"}, "Encoder", face.NotFound, `no model is called "nobody"; for this task there is builtin-encoder`},
		"an encoder as detector":  {likeness.Options{Detector: "builtin-encoder"}, "Detector", face.Invalid, "of another kind (encoder)"},
		"a model without a file":  {likeness.Options{Encoder: "sface"}, "Encoder", face.NotFound, "name the folder in ModelsDirs (`likeness models pull sface` downloads it), or use builtin-encoder"},
		"a folder that is nobody": {likeness.Options{ModelsDirs: []string{filepath.Join(t.TempDir(), "none")}}, "ModelsDirs", face.Invalid, "models folder"},
		"no operating point":      {likeness.Options{OperatingPoint: "strict"}, "OperatingPoint", face.Invalid, "fmr_1e-4"},
		"no library":              {likeness.Options{Library: filepath.Join(t.TempDir(), "lib.so")}, "Library", face.Unavailable, "likeness.FetchRuntime"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := likeness.Open(t.Context(), c.options)
			e, ok := errors.AsType[*likeness.OptionError](err)
			if !ok || p != nil || e.Field != c.field || face.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want the field %s, %s and %q", err, c.field, c.kind, c.text)
			}
		})
	}
	t.Run("a provider that is none", func(t *testing.T) {
		t.Parallel()
		_, err := likeness.Open(t.Context(), likeness.Options{Library: orttest.Library(t), Provider: "abacus"})
		if e, ok := errors.AsType[*likeness.OptionError](err); !ok || e.Field != "Provider" || face.KindOf(err) != face.Invalid {
			t.Errorf("got %v, want the field Provider", err)
		}
	})
	t.Run("an end of the context", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := likeness.Open(ctx, likeness.Options{Library: orttest.Library(t)}); !errors.Is(err, face.Canceled) {
			t.Errorf("got %v, want %s", err, face.Canceled)
		}
	})
}

// TestDefaultOptions: the zero value and the defaults open the same pipeline.
func TestDefaultOptions(t *testing.T) {
	t.Parallel()
	zero, explicit := open(t, likeness.Options{}), open(t, likeness.DefaultOptions())
	if diff := cmp.Diff(zero.Encoder(), explicit.Encoder()); diff != "" {
		t.Errorf("encoders differ:\n%s", diff)
	}
	if diff := cmp.Diff(zero.Detector(), explicit.Detector()); diff != "" {
		t.Errorf("detectors differ:\n%s", diff)
	}
}

func TestGallery(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := open(t, likeness.Options{})
	g := p.NewGallery()
	for subject, person := range map[string]int{"ada": 1, "grace": 2} {
		template, err := g.Enrol(ctx, subject, testfaces.Photo(t, person, 1))
		if err != nil {
			t.Fatal(err)
		}
		if template.SubjectID != subject || template.ModelID != p.Encoder().ID || template.ID == "" || template.Quality <= 0 || len(template.Embedding) != p.Encoder().Dimension {
			t.Errorf("enrolled %+v", template)
		}
	}
	search := func(person, photo, k int) likeness.Identification {
		t.Helper()
		got, err := g.Search(ctx, testfaces.Photo(t, person, photo), k)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := search(1, 2, 1); got.Decision != match.DecisionMatch || len(got.Candidates) != 1 || got.Candidates[0].SubjectID != "ada" || got.Face.Box.Area() == 0 || got.Margin <= 0 || got.Margin >= 1 {
		t.Errorf("of an enrolled person got %+v", got)
	}
	if got := search(3, 1, 5); got.Decision != match.DecisionUnknown || len(got.Candidates) != 2 {
		t.Errorf("of a stranger got %+v", got)
	}
	samples, err := p.Embed(ctx, testfaces.Photo(t, 1, 1), embed.PickOnly)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.EnrolEmbedding("twin", samples[0].Embedding); err != nil {
		t.Fatal(err)
	}
	if got := search(1, 1, 5); got.Decision != match.DecisionAmbiguous {
		t.Errorf("of two subjects with one face got %+v", got)
	}
	if n := g.Remove("twin"); n != 1 {
		t.Errorf("removed %d templates, want 1", n)
	}
	if n := g.Remove("ada"); n != 1 {
		t.Errorf("removed %d templates, want 1", n)
	}
	if got := search(1, 2, 5); got.Decision != match.DecisionUnknown || g.Templates() != 1 {
		t.Errorf("of somebody removed got %+v with %d templates", got, g.Templates())
	}

	_, badID := g.Enrol(ctx, "no id", nil)
	_, nobody := g.Enrol(ctx, "ada", testfaces.Nobody(t))
	_, short := g.EnrolEmbedding("ada", face.Embedding{1})
	_, long := g.EnrolEmbedding("ada", make(face.Embedding, p.Encoder().Dimension))
	_, none := g.SearchEmbedding(ctx, samples[0].Embedding, 0)
	_, noneOfNobody := g.Search(ctx, testfaces.Nobody(t), 0)
	for name, c := range map[string]struct {
		err  error
		kind face.Kind
	}{
		"id": {badID, face.Invalid}, "nobody": {nobody, face.NoFace}, "short": {short, face.ModelMismatch}, "zeros": {long, face.Invalid}, "k": {none, face.Invalid}, "k of a photo": {noneOfNobody, face.Invalid},
	} {
		if face.KindOf(c.err) != c.kind {
			t.Errorf("%s: got %v, want %s", name, c.err, c.kind)
		}
	}
}

// TestQueue: many goroutines wait for the one slot, and none is refused.
func TestQueue(t *testing.T) {
	t.Parallel()
	p := open(t, likeness.Options{Slots: 1})
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			if _, err := p.Embed(t.Context(), testfaces.Photo(t, 1, 1), embed.PickOnly); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestClosed(t *testing.T) {
	t.Parallel()
	p := open(t, likeness.Options{})
	g := p.NewGallery()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Search(t.Context(), testfaces.Photo(t, 1, 1), 1); !errors.Is(err, face.Unavailable) {
		t.Errorf("got %v, want %s", err, face.Unavailable)
	}
}
