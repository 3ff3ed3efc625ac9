package identity_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/identity/identitytest"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

const (
	modelID, dimension         = identitytest.ModelID, identitytest.Dimension
	nextModelID, nextDimension = identitytest.NextModelID, identitytest.NextDimension
)

type person = identitytest.Person

func photo(people ...person) []byte             { return identitytest.Photo(people...) }
func vector(number, noise uint8) face.Embedding { return identitytest.Vector(number, noise) }

// nextVector is what the next encoder makes of a person, but not of unit length.
func nextVector(number uint8) []float32 { return slices.Clone(vector(number, 0))[:nextDimension] }

// nobody is a caller without a key.
func nobody() identity.Caller { return identity.Caller{} }

// bench is a service with a real store and a pipeline that runs no network.
type bench struct {
	*identity.Service
	store   store.Store
	metrics *prometheus.Registry
}

func open(tb testing.TB, change func(*identity.Options)) *bench {
	tb.Helper()
	st, err := sqlite.Open(context.Background(), sqlite.Options{Path: filepath.Join(tb.TempDir(), "likeness.db")})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := st.Close(); err != nil {
			tb.Error(err)
		}
	})
	if err := st.AwaitReady(context.Background()); err != nil {
		tb.Fatal(err)
	}
	b, o := &bench{store: st, metrics: prometheus.NewRegistry()}, identity.DefaultOptions()
	o.Store, o.Pipeline, o.Models, o.Registerer = st, identitytest.Pipeline{}, identitytest.Models(), b.metrics
	if change != nil {
		change(&o)
	}
	if b.Service, err = identity.New(o); err != nil {
		tb.Fatal(err)
	}
	return b
}

// subject makes a subject without templates.
func (b *bench) subject(tb testing.TB, gallery, id string) {
	tb.Helper()
	if _, err := b.store.CreateSubject(tb.Context(), face.DefaultTenant, gallery, face.Subject{ID: id, Name: "Name of " + id}); err != nil {
		tb.Fatal(err)
	}
}

// enrolled makes a subject with one template, of a photo.
func (b *bench) enrolled(tb testing.TB, gallery, id string, p person) {
	tb.Helper()
	b.subject(tb, gallery, id)
	must(tb, b.Enrol, identity.EnrolRequest{Gallery: gallery, SubjectID: id, Image: photo(p)})
}

// move begins to move a gallery to another encoder.
func (b *bench) move(tb testing.TB, gallery, model string) {
	tb.Helper()
	if _, err := b.store.UpdateGallery(tb.Context(), face.DefaultTenant, gallery, store.GalleryChange{NextModelID: &model}); err != nil {
		tb.Fatal(err)
	}
}

// counted is the value of a counter with these label values, in the order of
// the labels' names.
func (b *bench) counted(tb testing.TB, name string, labels ...string) float64 {
	tb.Helper()
	families, err := b.metrics.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var values []string
			for _, l := range m.GetLabel() {
				values = append(values, l.GetValue())
			}
			if f.GetName() == name && slices.Equal(values, labels) {
				return m.GetCounter().GetValue()
			}
		}
	}
	tb.Fatalf("there is no %s of %v", name, labels)
	return 0
}

// fails wants an error of a kind that points at a field; an empty pointer wants
// none.
func fails(tb testing.TB, err error, kind face.Kind, pointer string) *face.Error {
	tb.Helper()
	e, ok := errors.AsType[*face.Error](err)
	if !ok || e.Kind != kind {
		tb.Fatalf("got %v, want %v", err, kind)
	}
	at := ""
	if len(e.Fields) > 0 {
		at = e.Fields[0].Pointer
	}
	if at != pointer {
		tb.Errorf("the error points at %q, want %q: %v", at, pointer, err)
	}
	return e
}

// must calls a method of the service for nobody in particular, and wants no
// error.
func must[Request, Result any](tb testing.TB, method func(context.Context, identity.Caller, Request) (Result, error), r Request) Result {
	tb.Helper()
	v, err := method(tb.Context(), nobody(), r)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := identity.New(identity.Options{OperatingPoint: "strict", AmbiguityMargin: 2})
	for _, field := range []string{"Store", "Pipeline", "OperatingPoint", "AmbiguityMargin"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("Options.%s is wrong, and the error is %v", field, err)
		}
	}
}

func TestDetect(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	three := photo(person{Number: 1}, person{Number: 2}, person{Number: 3, Poor: true})
	for _, tt := range []struct{ most, listed int }{{0, 3}, {2, 2}, {100, 3}} {
		got := must(t, b.Detect, identity.DetectRequest{Image: three, MaxFaces: tt.most})
		if len(got.Faces) != tt.listed || got.Found != 3 {
			t.Errorf("at most %d: %+v", tt.most, got)
		}
	}
	for _, most := range []int{-1, 101} {
		_, err := b.Detect(t.Context(), nobody(), identity.DetectRequest{Image: three, MaxFaces: most})
		fails(t, err, face.Invalid, "/max_faces")
	}
	_, err := b.Detect(t.Context(), nobody(), identity.DetectRequest{Image: []byte("no photo")})
	fails(t, err, face.UnsupportedImage, "/image")
}

func TestEmbed(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	both := photo(person{Number: 4}, person{Number: 5, Poor: true})
	for _, tt := range []struct {
		name    string
		request identity.EmbedRequest
		people  []uint8
		kind    face.Kind
		pointer string
	}{
		{"the only one", identity.EmbedRequest{Image: photo(person{Number: 4})}, []uint8{4}, 0, ""},
		{"all", identity.EmbedRequest{Image: both, Face: identity.FaceAll}, []uint8{4, 5}, 0, ""},
		{"the largest", identity.EmbedRequest{Image: both, Face: identity.FaceLargest}, []uint8{4}, 0, ""},
		{"at a place", identity.EmbedRequest{Image: both, FaceAt: []float32{1, 0}}, []uint8{5}, 0, ""},
		{"two", identity.EmbedRequest{Image: both}, nil, face.ManyFaces, "/image"},
		{"none", identity.EmbedRequest{Image: photo()}, nil, face.NoFace, "/image"},
		{"a rule that is none", identity.EmbedRequest{Image: both, Face: "best"}, nil, face.Invalid, "/face"},
		{"a place of one number", identity.EmbedRequest{Image: both, FaceAt: []float32{1}}, nil, face.Invalid, "/face_at"},
		{"a place and a rule", identity.EmbedRequest{Image: both, FaceAt: []float32{1, 0}, Face: identity.FaceAll}, nil, face.Invalid, "/face_at"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := b.Embed(t.Context(), nobody(), tt.request)
			if tt.people == nil {
				fails(t, err, tt.kind, tt.pointer)
				return
			}
			var people []uint8
			for _, f := range got.Faces {
				for _, n := range []uint8{4, 5} {
					if slices.Equal(f.Embedding, vector(n, 0)) {
						people = append(people, n)
					}
				}
			}
			if err != nil || got.ModelID != modelID || !slices.Equal(people, tt.people) {
				t.Errorf("got %v of %s, %v", people, got.ModelID, err)
			}
		})
	}
}

// TestTenants: a caller sees the galleries of their own tenant and no other.
func TestTenants(t *testing.T) {
	t.Parallel()
	b := open(t, nil)
	b.enrolled(t, "default", "ada", person{Number: 1})
	other := identity.Caller{Tenant: "other"}
	_, err := b.Verify(t.Context(), other, identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"})
	fails(t, err, face.NotFound, "")
	_, err = b.Enrol(t.Context(), other, identity.EnrolRequest{Image: photo(person{Number: 1}), SubjectID: "ada"})
	fails(t, err, face.NotFound, "")
	got, err := b.Recognize(t.Context(), other, identity.RecognizeRequest{Probe: [][]byte{photo(person{Number: 1})}})
	if err != nil || len(got.Faces) != 1 || len(got.Faces[0].Candidates) != 0 || *got.GallerySize != 0 {
		t.Errorf("got %+v", got)
	}
}

// TestSlots: a request takes one slot for all its photos, and gives it back
// whatever becomes of the request.
func TestSlots(t *testing.T) {
	t.Parallel()
	slots, before := make(chan struct{}, 1), func() {}
	b := open(t, func(o *identity.Options) {
		o.Pipeline = identitytest.Pipeline{Slots: slots, Before: func(context.Context) error { before(); return nil }}
	})
	b.subject(t, "default", "ada")
	ada, text := photo(person{Number: 1}), []byte("text")
	for name, c := range map[string]struct {
		pointer string
		request func(last []byte) error
	}{
		"verify": {"/reference", func(last []byte) error {
			_, err := b.Verify(t.Context(), nobody(), identity.VerifyRequest{Probe: ada, Reference: last})
			return err
		}},
		"recognize": {"/probe", func(last []byte) error {
			_, err := b.Recognize(t.Context(), nobody(), identity.RecognizeRequest{Probe: [][]byte{ada, ada, last}, Fuse: new(true)})
			return err
		}},
		"enrol": {"/image", func(last []byte) error {
			_, err := b.Enrol(t.Context(), nobody(), identity.EnrolRequest{SubjectID: "ada", Image: last})
			return err
		}},
		"detect": {"/image", func(last []byte) error {
			_, err := b.Detect(t.Context(), nobody(), identity.DetectRequest{Image: last})
			return err
		}},
		"embed": {"/image", func(last []byte) error {
			_, err := b.Embed(t.Context(), nobody(), identity.EmbedRequest{Image: last})
			return err
		}},
	} {
		check := func(outcome string) {
			if len(slots) != 0 {
				t.Fatalf("%s, %s: the slot is not given back", name, outcome)
			}
		}
		if err := c.request(ada); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		check("answered")
		fails(t, c.request(text), face.UnsupportedImage, c.pointer)
		check("failed")
		before = func() { panic("a fault in a photo") }
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the pipeline was not asked", name)
				}
			}()
			_ = c.request(ada)
		}()
		before = func() {}
		check("panicked")
	}
}
