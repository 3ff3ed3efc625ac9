package move

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func everyCropUsable(string) error { return nil }

// woken reports whether Run has been told to look for work since the last call.
func (v village) woken() bool {
	select {
	case <-v.wake:
		return true
	default:
		return false
	}
}

// TestRefusals: a move that cannot be begun changes nothing and wakes nobody.
func TestRefusals(t *testing.T) {
	t.Parallel()
	v := newVillage(t, cropReader{embed: everyCropUsable, prepare: func(id string) error {
		if id == "old" {
			return face.Errorf(face.Unavailable, "test", "no session")
		}
		return nil
	}})
	const tenant = face.DefaultTenant
	for model, kind := range map[string]face.Kind{
		"nonsense": face.NotFound, "detector": face.Invalid, "not-here": face.Conflict,
		"not-calibrated": face.OperatingPointUnsupported, "old": face.Unavailable,
	} {
		if list, err := v.Migrate(t.Context(), tenant, model, "kept"); !errors.Is(err, kind) || list != nil {
			t.Errorf("%s: %v, %v, want %v", model, list, err, kind)
		}
	}
	if v.woken() {
		t.Error("the mover was woken")
	}
	for gallery, kind := range map[string]face.Kind{"nobody": face.NotFound, "../up": face.Invalid} {
		_, begun := v.Migrate(t.Context(), tenant, "new", gallery)
		_, shown := v.Migrations(t.Context(), tenant, "new", gallery)
		_, canceled := v.CancelMigration(t.Context(), tenant, "new", gallery)
		for _, err := range []error{begun, shown, canceled} {
			if !errors.Is(err, kind) {
				t.Errorf("%s: %v, want %v", gallery, err, kind)
			}
		}
	}
	if _, err := v.Migrations(t.Context(), tenant, "nonsense", ""); !errors.Is(err, face.NotFound) {
		t.Error(err)
	}
	for field, ask := range map[string]struct{ model, cursor string }{"model_id": {"nonsense", ""}, "cursor": {"", "nonsense"}} {
		_, _, err := v.ListUncovered(t.Context(), tenant, "kept", ask.model, store.Page{Limit: 1, Cursor: ask.cursor})
		if e, ok := errors.AsType[*face.Error](err); !ok || e.Kind != face.Invalid || len(e.Fields) != 1 || e.Fields[0].Pointer != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	g, err := v.db.Gallery(t.Context(), tenant, "kept")
	if err != nil || g.ModelID != "old" || g.NextModelID != "new" {
		t.Errorf("after refusals %+v, %v", g, err)
	}
}

// TestMigrations has galleries go through the states of a move.
func TestMigrations(t *testing.T) {
	t.Parallel()
	const tenant = face.DefaultTenant
	v := newVillage(t, cropReader{embed: everyCropUsable}, "ada")
	_, err := v.db.CreateSubject(t.Context(), tenant, face.DefaultGallery, face.Subject{ID: "bob"})
	if err == nil {
		_, err = v.db.Enrol(t.Context(), tenant, face.DefaultGallery, face.Template{ID: "bob-1", SubjectID: "bob", ModelID: "old", Embedding: face.Embedding{1, 0}})
	}
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got []Migration, err error, want ...Migration) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v %s", what, err, d)
		}
	}
	running := Migration{Gallery: "kept", State: StateRunning, Subjects: 1, Pending: 1}
	list, err := v.Migrations(t.Context(), tenant, "new", "")
	check("one is on its way", list, err, running)
	list, err = v.Migrate(t.Context(), tenant, "new", "")
	waiting := Migration{Gallery: "default", State: StateWaitingForPhotos, Subjects: 1, Uncovered: 1}
	check("both are", list, err, waiting, running)
	if !v.woken() {
		t.Error("the mover was not woken")
	}

	ada := target{tenant, "kept", "new"}
	v.known[ada] = &progress{perSecond: 2}
	seconds := 0.5
	running.ETASeconds = &seconds
	list, err = v.Migrations(t.Context(), tenant, "new", "")
	check("with a known pace", list, err, waiting, running)
	v.known[ada] = &progress{unusableCrops: 1, uncovered: []string{"ada"}}
	list, err = v.Migrations(t.Context(), tenant, "new", "kept")
	check("with an unusable crop", list, err, Migration{Gallery: "kept", State: StateWaitingForPhotos, Subjects: 1, Uncovered: 1})
	for gallery, want := range map[string]Uncovered{"kept": {"ada", true}, "default": {"bob", false}} {
		got, next, err := v.ListUncovered(t.Context(), tenant, gallery, "", store.Page{Limit: 1})
		if d := cmp.Diff([]Uncovered{want}, got); d != "" || next != "" || err != nil {
			t.Errorf("%s: %v, %q %s", gallery, err, next, d)
		}
	}
	delete(v.known, ada)

	if err := v.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := Migration{Gallery: "kept", State: StateDone, Subjects: 1, Covered: 1}
	list, err = v.Migrations(t.Context(), tenant, "new", "")
	check("one has arrived", list, err, waiting, done)
	list, err = v.Migrate(t.Context(), tenant, "new", "kept")
	check("again", list, err, done)
	waiting.State = StateCanceled
	list, err = v.CancelMigration(t.Context(), tenant, "new", "")
	check("the other is canceled", list, err, waiting)
	list, err = v.Migrate(t.Context(), tenant, "old", "kept")
	check("on the way back", list, err, Migration{Gallery: "kept", State: StateRunning, Subjects: 1, Covered: 1})
	list, err = v.Migrate(t.Context(), tenant, "new", "kept")
	check("back again before it was gone", list, err, done)
	if g, err := v.db.Gallery(t.Context(), tenant, "kept"); err != nil || g.NextModelID != "" {
		t.Errorf("%+v, %v", g, err)
	}
	if list, err := v.Migrations(t.Context(), "another-tenant", "new", ""); err != nil || len(list) > 1 || len(list) == 1 && list[0].Subjects > 0 {
		t.Errorf("another tenant sees %+v, %v", list, err)
	}
}

// TestOptions: an error names the field.
func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := New(Options{OperatingPoint: "often"})
	for _, field := range []string{"Store", "Pipeline", "OperatingPoint"} {
		if err == nil || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("Options.%s is wrong, and the error is %v", field, err)
		}
	}
}
