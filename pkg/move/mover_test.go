package move

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/likeness-id/likeness/internal/seal"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// cropReader is a pipeline that knows what every crop shows.
type cropReader struct {
	embed   func(crop string) error // what goes wrong with a crop
	prepare func(id string) error   // and with an encoder; nil: nothing
}

func (r cropReader) Prepare(_ context.Context, ids ...string) error {
	for _, id := range ids {
		if r.prepare != nil {
			return r.prepare(id)
		}
	}
	return nil
}

func (cropReader) Encoder() embed.Manifest { return embed.Manifest{ID: "old"} }

func (r cropReader) EmbedCrop(_ context.Context, crop []byte, _ string) (face.Embedding, error) {
	return face.Embedding{0, 1}, r.embed(string(crop))
}

// models are the encoders of a village, and models that no gallery can be moved
// to.
func models() []embed.Model {
	calibration := &face.Calibration{
		Comparisons: 3e6,
		Points:      []face.OperatingPoint{{Name: "fmr_1e-4", FMR: 1e-4, Threshold: 0.6}},
		Curve:       []face.CurvePoint{{Score: 0, FMR: 0.5}, {Score: 0.6, FMR: 1e-4}},
	}
	return []embed.Model{
		{Manifest: embed.Manifest{ID: "old", Task: embed.TaskEncoder, Dimension: 2}, Path: "x"},
		{Manifest: embed.Manifest{ID: "new", Task: embed.TaskEncoder, Dimension: 2, Calibration: calibration}, Path: "y"},
		{Manifest: embed.Manifest{ID: "not-here", Task: embed.TaskEncoder, Dimension: 2, Calibration: calibration}},
		{Manifest: embed.Manifest{ID: "not-calibrated", Task: embed.TaskEncoder, Dimension: 2}, Path: "z"},
		{Manifest: embed.Manifest{ID: "detector", Task: embed.TaskDetector}, Path: "d"},
	}
}

// village is a gallery on its way from the encoder "old" to "new".
type village struct {
	*Mover
	db store.Store
}

// newVillage has subjects with one crop each, which shows their name.
func newVillage(t *testing.T, p Pipeline, subjects ...string) village {
	t.Helper()
	path := filepath.Join(t.TempDir(), "likeness.db")
	db, err := sqlite.Open(t.Context(), sqlite.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	keys, err := seal.New(make([]byte, seal.KeySize))
	if err != nil {
		t.Fatal(err)
	}
	m, err := New(Options{Store: db, Pipeline: p, Models: models(), Crops: Crops{keys}, Registerer: prometheus.NewPedanticRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	v := village{m, db}
	if _, err := db.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: "kept", ModelID: "old", NextModelID: "new", StoreImages: true}); err != nil {
		t.Fatal(err)
	}
	for _, id := range subjects {
		_, err := db.CreateSubject(t.Context(), face.DefaultTenant, "kept", face.Subject{ID: id})
		if err == nil {
			_, err = db.Enrol(t.Context(), face.DefaultTenant, "kept", face.Template{
				ID: "photo-of-" + id, SubjectID: id, ModelID: "old", Embedding: face.Embedding{1, 0},
				Crop: m.o.Crops.SealCrop(face.DefaultTenant, "kept", "photo-of-"+id, []byte(id)),
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func (v village) progress() progress { return v.progressOf(face.DefaultTenant, "kept", "new") }

// model is the encoder that the gallery is searched with.
func (v village) model(t *testing.T) string {
	t.Helper()
	g, err := v.db.Gallery(t.Context(), face.DefaultTenant, "kept")
	if err != nil {
		t.Error(err)
	}
	return g.ModelID
}

// TestTakenTemplateID has the id that a crop's template would get be taken by
// another sample: the move goes round that crop and ends.
func TestTakenTemplateID(t *testing.T) {
	t.Parallel()
	for name, taken := range map[string]face.Template{
		"by another encoder's": {ModelID: "older", Embedding: face.Embedding{1, 0}},
		"by an equal one":      {ModelID: "new", Embedding: face.Embedding{0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			reads := 0
			v := newVillage(t, cropReader{embed: func(string) error {
				if reads++; reads > 10 {
					cancel() // it goes round and round
				}
				return nil
			}}, "ada", "bob")
			taken.ID, taken.SubjectID = face.SampleTemplateID("photo-of-ada", "new"), "ada"
			if _, err := v.db.Enrol(ctx, face.DefaultTenant, "kept", taken); err != nil {
				t.Fatal(err)
			}
			if err := v.pass(ctx); err != nil {
				t.Fatal(err)
			}
			want, model := progress{unusableCrops: 1, uncovered: []string{"ada"}}, "old"
			if taken.ModelID == "new" { // which covers her
				want, model = progress{}, "new"
			}
			got := v.progress()
			got.perSecond = 0
			if d := cmp.Diff(want, got, cmp.AllowUnexported(progress{})); d != "" || v.model(t) != model || reads != 2 {
				t.Errorf("searched with %s after %d crops: %s", v.model(t), reads, d)
			}
		})
	}
}

// TestDoubtedCrop has crops fail for what may be the machine's fault: they
// are tried once more, and then gone round.
func TestDoubtedCrop(t *testing.T) {
	t.Parallel()
	broken := map[string]bool{"ada": true, "bob": true, "cid": true}
	v := newVillage(t, cropReader{embed: func(crop string) error {
		if broken[crop] {
			return face.Errorf(face.Internal, "test", "out of memory")
		}
		return nil
	}}, "ada", "bob", "cid")
	pass := func(fails bool, unusable int) {
		t.Helper()
		if err := v.pass(t.Context()); errors.Is(err, face.Internal) != fails {
			t.Errorf("the pass ends with %v", err)
		}
		if got := v.progress().unusableCrops; got != unusable {
			t.Errorf("%d unusable crops, want %d", got, unusable)
		}
	}
	pass(true, 0) // ada
	delete(broken, "ada")
	pass(true, 0) // bob
	pass(true, 0) // bob again, and cid
	delete(broken, "cid")
	pass(false, 1)
	if d := cmp.Diff([]string{"bob"}, v.progress().uncovered); d != "" || v.model(t) != "old" {
		t.Errorf("searched with %s: %s", v.model(t), d)
	}
}

// TestReadyForAllGalleries has another server move a gallery to an encoder
// that is not here, until its file is brought.
func TestReadyForAllGalleries(t *testing.T) {
	t.Parallel()
	var lacks error
	v := newVillage(t, cropReader{prepare: func(id string) error {
		if id == "new" {
			return lacks
		}
		return nil
	}})
	look := func() error {
		err := v.pass(t.Context())
		if ready := v.Ready(); !errors.Is(err, ready) {
			t.Errorf("the log says %v, readiness %v", err, ready)
		}
		return v.Ready()
	}
	if _, err := v.db.CutOver(t.Context(), face.DefaultTenant, "kept", "new"); err != nil {
		t.Fatal(err)
	}
	lacks = face.Errorf(face.Unavailable, "test", "no such file")
	if err := look(); !errors.Is(err, face.Unavailable) || !strings.Contains(err.Error(), "the gallery kept needs the encoder new") {
		t.Errorf("without the encoder: %v, want unavailable", err)
	}
	lacks = face.Errorf(face.Overloaded, "test", "busy")
	if err := look(); err != nil {
		t.Errorf("while it is busy: %v", err)
	}
	lacks = nil
	if err := look(); err != nil {
		t.Errorf("with the encoder: %v", err)
	}
	lacks = errors.New("nobody asks for it again")
	if err := look(); err != nil {
		t.Error(err)
	}
}
