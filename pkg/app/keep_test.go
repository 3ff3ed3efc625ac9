package app_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/internal/ort/orttest"
	"github.com/likeness-id/likeness/pkg/app"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
	"github.com/likeness-id/likeness/pkg/store/sqlite"
)

// TestKeepEncoder starts servers whose encoder is not the one that people were
// enrolled with: a gallery keeps the latter, and a server that lacks its file
// says so.
func TestKeepEncoder(t *testing.T) {
	t.Parallel()
	o, own := options(t), t.TempDir()
	was := orttest.SecondEncoder(t, own)
	open := func(use func(*sqlite.Store) error) {
		t.Helper()
		s, err := sqlite.Open(t.Context(), sqlite.Options{Path: filepath.Join(o.DataDir, "likeness.db")})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(use(s), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	enrol := func(s *sqlite.Store, gallery, subject, model string, dimension int) error {
		e := make(face.Embedding, dimension)
		e[0] = 1
		_, err := s.CreateSubject(t.Context(), face.DefaultTenant, gallery, face.Subject{ID: subject})
		if errors.Is(err, face.Conflict) {
			err = nil
		}
		if err == nil {
			_, err = s.Enrol(t.Context(), face.DefaultTenant, gallery, face.Template{ID: gallery + "-" + subject + "-" + model, SubjectID: subject, ModelID: model, Embedding: e})
		}
		return err
	}
	open(func(s *sqlite.Store) (err error) {
		for id, next := range map[string]string{"old": "", "moving": "from-the-future", "mixed": "", "new": "", "empty": ""} {
			_, e := s.CreateGallery(t.Context(), face.DefaultTenant, face.Gallery{ID: id, NextModelID: next})
			err = errors.Join(err, e)
		}
		return errors.Join(err,
			enrol(s, "old", "ann", was, 320), enrol(s, "old", "bob", was, 320), enrol(s, "old", "bob", "unknown", 4),
			enrol(s, "moving", "ann", was, 320),
			enrol(s, "mixed", "ann", was, 320), enrol(s, "mixed", "bob", o.Encoder, 256),
			enrol(s, "new", "ann", o.Encoder, 256))
	})

	o.ModelsDir = []string{own}
	for range 2 { // the second start has nothing to do
		a, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if err := a.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		open(func(s *sqlite.Store) error {
			for id, want := range map[string][2]string{
				"old": {was, ""}, "moving": {was, "from-the-future"}, "mixed": {"", ""}, "new": {"", ""}, "empty": {"", ""},
			} {
				g, err := s.Gallery(t.Context(), face.DefaultTenant, id)
				if err != nil || g.ModelID != want[0] || g.NextModelID != want[1] {
					t.Errorf("%s has the encoder %q and then %q, %v", id, g.ModelID, g.NextModelID, err)
				}
			}
			return nil
		})
	}

	o.ModelsDir = nil
	_, err := app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "needs the encoder "+was) {
		t.Errorf("without its file: %v", err)
	}

	open(func(s *sqlite.Store) error {
		for _, id := range []string{"old", "moving"} {
			if _, err := s.DeleteGallery(t.Context(), face.DefaultTenant, id, store.Actor{}); err != nil {
				return err
			}
		}
		return enrol(s, "empty", "ann", "sface", 128)
	})
	_, err = app.New(t.Context(), o, "test", slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "the gallery empty needs the encoder sface, whose file (face_recognition_sface_2021dec.onnx) is not there: run `likeness models pull sface`") {
		t.Errorf("without a file that is known: %v", err)
	}
}
