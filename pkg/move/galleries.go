package move

import (
	"context"
	"errors"
	"fmt"

	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// MissingFileError says that a gallery is searched with an encoder whose file
// is not there.
type MissingFileError struct {
	Gallery string
	Model   embed.Model
}

// Error names the gallery, the encoder and the file.
func (e *MissingFileError) Error() string {
	return fmt.Sprintf("the gallery %s needs the encoder %s, whose file (%s) is not there", e.Gallery, e.Model.ID, e.Model.File)
}

// CheckGalleries checks that this server can serve every gallery, and loads
// their encoders, so that what is missing shows at the start. A gallery that
// was never moved keeps the encoder that everybody in it was enrolled with. An
// encoder that a gallery is being moved to, and that cannot be used, is logged
// only: the other galleries can be served.
//
// Errors: [ErrNoKey] for a gallery that stores images when there is no key, a
// [*MissingFileError], Unavailable for an encoder that cannot be used, and
// those of the store.
func (m *Mover) CheckGalleries(ctx context.Context) error {
	return m.eachGallery(ctx, func(tenant string, g face.Gallery) error {
		label := galleryLabel(tenant, g.ID)
		if g.StoreImages && !m.o.Crops.HasKey() {
			return fmt.Errorf("the gallery %s stores images, and %w", label, ErrNoKey)
		}
		g, err := m.keepEncoder(ctx, tenant, g)
		if errors.Is(err, face.NotFound) {
			return nil // erased meanwhile
		}
		if err != nil {
			return err
		}
		if g.ModelID != "" {
			if model, ok := m.findModel(g.ModelID); ok && model.Path == "" {
				return &MissingFileError{label, model}
			}
			if err := m.o.Pipeline.Prepare(ctx, g.ModelID); err != nil {
				return fmt.Errorf("the gallery %s needs the encoder %s: %w", label, g.ModelID, err)
			}
		}
		if g.NextModelID != "" {
			if err := m.o.Pipeline.Prepare(ctx, g.NextModelID); err != nil {
				m.o.Logger.Error("the encoder that a gallery is being moved to cannot be used: nobody can be enrolled in it here, "+
					"and this server will not be ready once it is moved", "gallery", label, "encoder", g.NextModelID, "error", err)
			}
		}
		return nil
	})
}

// keepEncoder lets a gallery that was never moved keep the encoder that
// everybody in it was enrolled with, if the server's default encoder has
// changed since then: otherwise nobody in it would be recognised.
func (m *Mover) keepEncoder(ctx context.Context, tenant string, g face.Gallery) (face.Gallery, error) {
	if g.ModelID != "" || g.Templates == 0 {
		return g, nil
	}
	own := m.encoders.Default().ID
	c, err := m.o.Store.Coverage(ctx, tenant, g.ID, own)
	if err != nil || c.Covered > 0 {
		return g, err
	}
	for _, model := range m.o.Models {
		if model.Task != embed.TaskEncoder || model.ID == own {
			continue
		}
		c, err := m.o.Store.Coverage(ctx, tenant, g.ID, model.ID)
		if err != nil {
			return g, err
		}
		if c.Covered < c.Subjects {
			continue
		}
		m.o.Logger.Info("the gallery keeps the encoder that it was enrolled with; `likeness models migrate` moves it",
			"gallery", galleryLabel(tenant, g.ID), "encoder", model.ID, "server", own)
		next := g.NextModelID // of a move that was under way
		if _, err := m.o.Store.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &model.ID}); err != nil {
			return g, err
		}
		kept, err := m.o.Store.CutOver(ctx, tenant, g.ID, model.ID)
		if errors.Is(err, face.Conflict) { // another server was faster
			return m.o.Store.Gallery(ctx, tenant, g.ID)
		}
		if err != nil || next == "" {
			return kept, err
		}
		return m.o.Store.UpdateGallery(ctx, tenant, g.ID, store.GalleryChange{NextModelID: &next})
	}
	return g, nil
}

// findModel finds a model by its id.
func (m *Mover) findModel(id string) (embed.Model, bool) {
	for _, model := range m.o.Models {
		if model.ID == id {
			return model, true
		}
	}
	return embed.Model{}, false
}

// eachGallery calls f for every gallery of every tenant, until its first error.
func (m *Mover) eachGallery(ctx context.Context, f func(tenant string, g face.Gallery) error) error {
	all, err := m.o.Store.CountTemplates(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		g, err := m.o.Store.Gallery(ctx, c.Tenant, c.Gallery)
		if errors.Is(err, face.NotFound) {
			continue
		}
		if err == nil {
			err = f(c.Tenant, g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// galleryLabel names a gallery in metrics and in the log.
func galleryLabel(tenant, gallery string) string {
	if tenant == face.DefaultTenant {
		return gallery
	}
	return tenant + "/" + gallery
}
