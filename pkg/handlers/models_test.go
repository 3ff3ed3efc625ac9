package handlers_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/handlers"
	"github.com/likeness-id/likeness/pkg/move"
	"github.com/likeness-id/likeness/pkg/store"
)

// bag seals nothing, but says for what.
type bag struct{}

func (bag) SealCrop(tenant, gallery, sample string, crop []byte) []byte {
	return []byte(strings.Join([]string{tenant, gallery, sample, string(crop)}, "|"))
}

// openMoving is a house that keeps crops, and knows encoders that galleries
// cannot be moved to.
func openMoving(tb testing.TB, change func(*options)) *house {
	tb.Helper()
	return open(tb, func(o *options) {
		o.Identity.Sealer = bag{}
		o.Models = append(o.Models,
			embed.Model{Manifest: embed.Manifest{ID: "not-here", Task: embed.TaskEncoder, Dimension: 8, Calibration: calibration()}},
			embed.Model{Manifest: embed.Manifest{ID: "not-calibrated", Task: embed.TaskEncoder, Dimension: 8}, Path: "z"})
		if change != nil {
			change(o)
		}
	})
}

func (h *house) move(tb testing.TB, gallery, model string) {
	tb.Helper()
	good[api.MigrationList](tb, h.post(tb, "/models/"+model+"/migrate", fields{"gallery": gallery}), 202)
}

func (h *house) cutOver(tb testing.TB, gallery, model string) {
	tb.Helper()
	if _, err := h.store.CutOver(context.Background(), face.DefaultTenant, gallery, model); err != nil {
		tb.Error(err)
	}
}

func TestStoreImages(t *testing.T) {
	t.Parallel()
	without := open(t, nil)
	bad(t, without.post(t, "/galleries", fields{"name": "kept", "store_images": true}), face.Invalid, "/store_images")
	bad(t, without.ask(t, fields{"store_images": true}.json(t, http.MethodPatch, "/galleries/default")), face.Invalid, "/store_images")
	good[api.Gallery](t, without.post(t, "/galleries", fields{"name": "bare", "store_images": false}), 201)

	h := openMoving(t, nil)
	if g := good[api.Gallery](t, h.post(t, "/galleries", fields{"name": "kept", "store_images": true}), 201); !g.StoreImages || g.ModelID != modelID {
		t.Errorf("made %+v", g)
	}
	for _, gallery := range []string{"kept", "default"} {
		h.enrolled(t, gallery, "ada", person{number: 1})
		list := good[api.TemplateList](t, h.do(t, http.MethodGet, "/galleries/"+gallery+"/subjects/ada/templates"), 200)
		sample, err := h.store.Sample(t.Context(), face.DefaultTenant, gallery, list.Items[0].TemplateID)
		if gallery == "default" {
			if !errors.Is(err, face.NotFound) {
				t.Errorf("a gallery that stores no images has %q, %v", sample.Crop, err)
			}
			continue
		}
		if want := "default|kept|" + sample.ID + "|crop of somebody"; err != nil || string(sample.Crop) != want {
			t.Errorf("kept %q, %v, want %q", sample.Crop, err, want)
		}
	}
	// An embedding brings no photo along.
	good[api.EnrolResponse](t, h.post(t, "/galleries/kept/subjects/ada/templates", fields{"embedding": vector(1, 3), "model_id": modelID}), 201)
	if r := good[api.Receipt](t, h.do(t, http.MethodDelete, "/galleries/kept/subjects/ada"), 200); r.Images != 1 || r.Templates != 2 {
		t.Errorf("receipt %+v", r)
	}
}

func TestMigrateRefusals(t *testing.T) {
	t.Parallel()
	h := openMoving(t, nil)
	for model, kind := range map[string]face.Kind{
		"nonsense": face.NotFound, "another": face.Invalid, "not-here": face.Conflict, "not-calibrated": face.OperatingPointUnsupported,
	} {
		bad(t, h.post(t, "/models/"+model+"/migrate", fields{}), kind, "")
	}
	bad(t, h.post(t, "/models/"+nextModelID+"/migrate", fields{"gallery": "nobody"}), face.NotFound, "")
	bad(t, h.post(t, "/models/"+nextModelID+"/migrate", fields{"gallery": "../up"}), face.Invalid, "")
	bad(t, h.post(t, "/models/"+nextModelID+"/migrate", fields{"galery": "default"}), face.Invalid, "")
	bad(t, h.do(t, http.MethodGet, "/models/nonsense/migrate"), face.NotFound, "")
	bad(t, h.do(t, http.MethodGet, "/models/"+nextModelID+"/migrate?gallery=nobody"), face.NotFound, "")
	bad(t, h.do(t, http.MethodGet, "/galleries/default/uncovered?model_id=nonsense"), face.Invalid, "model_id")
	bad(t, h.do(t, http.MethodGet, "/galleries/default/uncovered?cursor=nonsense"), face.Invalid, "cursor")
	bad(t, h.do(t, http.MethodGet, "/galleries/nobody/uncovered"), face.NotFound, "")
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/default"), 200); g.NextModelID != nil {
		t.Errorf("after refusals %+v", g)
	}
}

// TestMigrateStates has a gallery go through all that a move can be.
func TestMigrateStates(t *testing.T) {
	t.Parallel()
	h := openMoving(t, nil)
	good[api.Gallery](t, h.post(t, "/galleries", fields{"name": "kept", "store_images": true}), 201)
	h.enrolled(t, "kept", "ada", person{number: 1})
	h.enrolled(t, "default", "ada", person{number: 1})
	at := "/models/" + nextModelID + "/migrate"
	status := func() []api.Migration {
		t.Helper()
		return good[api.MigrationList](t, h.do(t, http.MethodGet, at), 200).Items
	}
	if got := status(); len(got) != 0 {
		t.Errorf("before a move: %+v", got)
	}
	list := good[api.MigrationList](t, h.post(t, at, fields{}), 202)
	want := []api.Migration{
		{Gallery: "default", State: api.MigrationStateWaitingForPhotos, Subjects: 1, Uncovered: 1},
		{Gallery: "kept", State: api.MigrationStateRunning, Subjects: 1, Pending: 1},
	}
	if d := cmp.Diff(want, list.Items); d != "" || list.ModelID != nextModelID {
		t.Error(list.ModelID, d)
	}
	if got := good[api.MigrationList](t, h.do(t, http.MethodGet, at+"?gallery=kept"), 200).Items; len(got) != 1 || got[0].Gallery != "kept" {
		t.Errorf("of one gallery: %+v", got)
	}
	if list := good[api.UncoveredList](t, h.do(t, http.MethodGet, "/galleries/default/uncovered?limit=1"), 200); len(list.Items) != 1 ||
		list.Items[0].Reason != api.UncoveredReasonNoCrop || list.NextCursor != nil {
		t.Errorf("uncovered: %+v", list)
	}
	// A new photo is a new template of both.
	good[api.EnrolResponse](t, h.post(t, "/galleries/kept/subjects/ada/templates", fields{"image": photo(person{number: 1, noise: 4})}), 201)
	h.cutOver(t, "kept", nextModelID)
	if got := status(); got[1].State != api.MigrationStateDone || got[1].Covered != 1 {
		t.Errorf("after the cut over: %+v", got)
	}
	// Asking again for what is done does nothing, and so does ending it.
	h.move(t, "kept", nextModelID)
	list = good[api.MigrationList](t, h.do(t, http.MethodDelete, at), 200)
	if d := cmp.Diff([]api.Migration{{Gallery: "default", State: api.MigrationStateCanceled, Subjects: 1, Uncovered: 1}}, list.Items); d != "" {
		t.Error(d)
	}
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/kept"), 200); g.ModelID != nextModelID || g.NextModelID != nil {
		t.Errorf("the gallery is %+v", g)
	}
	// The way back, and back again before it was gone.
	h.move(t, "kept", modelID)
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/kept"), 200); g.NextModelID == nil || *g.NextModelID != modelID {
		t.Errorf("on the way back the gallery is %+v", g)
	}
	h.move(t, "kept", nextModelID)
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/kept"), 200); g.ModelID != nextModelID || g.NextModelID != nil {
		t.Errorf("after all it is %+v", g)
	}
}

// scriptedMover answers what a test wants.
type scriptedMover struct {
	handlers.Mover
	migrations []move.Migration
	uncovered  []move.Uncovered
}

func (m scriptedMover) Migrations(context.Context, string, string, string) ([]move.Migration, error) {
	return m.migrations, nil
}

func (m scriptedMover) ListUncovered(context.Context, string, string, string, store.Page) ([]move.Uncovered, string, error) {
	return m.uncovered, "next", nil
}

// TestMigrationAnswers holds every field of an answer about a move.
func TestMigrationAnswers(t *testing.T) {
	t.Parallel()
	seconds := 1.5
	h := open(t, func(o *options) {
		o.Mover = scriptedMover{
			migrations: []move.Migration{
				{Gallery: "kept", State: move.StateRunning, Subjects: 9, Covered: 4, Pending: 3, Uncovered: 2, ETASeconds: &seconds},
				{Gallery: "bare", State: move.StateWaitingForPhotos, Subjects: 1, Uncovered: 1},
			},
			uncovered: []move.Uncovered{{SubjectID: "ada"}, {SubjectID: "bob", CropUnusable: true}},
		}
	})
	list := good[api.MigrationList](t, h.do(t, http.MethodGet, "/models/"+nextModelID+"/migrate"), 200)
	want := api.MigrationList{ModelID: nextModelID, Items: []api.Migration{
		{Gallery: "kept", State: api.MigrationStateRunning, Subjects: 9, Covered: 4, Pending: 3, Uncovered: 2, EtaSeconds: &seconds},
		{Gallery: "bare", State: api.MigrationStateWaitingForPhotos, Subjects: 1, Uncovered: 1},
	}}
	if d := cmp.Diff(want, list); d != "" {
		t.Error(d)
	}
	uncovered := good[api.UncoveredList](t, h.do(t, http.MethodGet, "/galleries/default/uncovered"), 200)
	if d := cmp.Diff([]api.Uncovered{
		{SubjectID: "ada", Reason: api.UncoveredReasonNoCrop}, {SubjectID: "bob", Reason: api.UncoveredReasonCropUnusable},
	}, uncovered.Items); d != "" || valueOf(uncovered.NextCursor) != "next" {
		t.Error(valueOf(uncovered.NextCursor), d)
	}
}

func valueOf(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// TestMigrateOwnGalleriesOnly has two tenants with the same names.
func TestMigrateOwnGalleriesOnly(t *testing.T) {
	t.Parallel()
	h := openMoving(t, nil)
	if _, err := h.store.CreateGallery(t.Context(), "other", face.Gallery{ID: "staff"}); err != nil {
		t.Fatal(err)
	}
	good[api.Gallery](t, h.post(t, "/galleries", fields{"name": "staff"}), 201)
	good[api.MigrationList](t, h.post(t, "/models/"+nextModelID+"/migrate", fields{}), 202)
	if g, err := h.store.Gallery(t.Context(), "other", "staff"); err != nil || g.NextModelID != "" {
		t.Errorf("another tenant's gallery is %+v, %v", g, err)
	}
}
