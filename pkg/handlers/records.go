package handlers

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/store"
)

// ListGalleries lists a page of galleries.
func (s *server) ListGalleries(ctx context.Context, r api.ListGalleriesRequestObject) (api.ListGalleriesResponseObject, error) {
	p := pageOf(r.Params.Limit, r.Params.Cursor)
	items, next, err := s.Store.ListGalleries(ctx, tenant(ctx), p)
	if err != nil {
		return nil, cursorError(err)
	}
	answer := api.ListGalleries200JSONResponse{Items: make([]api.Gallery, len(items)), NextCursor: optionalText(next)}
	for i, g := range items {
		answer.Items[i] = s.galleryAnswer(g)
	}
	return answer, nil
}

// CreateGallery makes a gallery.
func (s *server) CreateGallery(ctx context.Context, r api.CreateGalleryRequestObject) (api.CreateGalleryResponseObject, error) {
	b := r.Body
	if !face.ValidID(b.Name) {
		return nil, api.InvalidField("name", face.IDRule)
	}
	if err := s.checkGallery(b.StoreImages); err != nil {
		return nil, err
	}
	g, err := s.Store.CreateGallery(ctx, tenant(ctx), face.Gallery{
		ID: b.Name, RetentionDays: valueOr(b.RetentionDays, 0), StoreImages: valueOr(b.StoreImages, false),
	})
	if err != nil {
		return nil, face.PointAt(err, "/name")
	}
	return api.CreateGallery201JSONResponse{
		Headers: api.CreateGallery201ResponseHeaders{Location: s.PathPrefix + "/galleries/" + g.ID},
		Body:    s.galleryAnswer(g),
	}, nil
}

// GetGallery shows a gallery.
func (s *server) GetGallery(ctx context.Context, r api.GetGalleryRequestObject) (api.GetGalleryResponseObject, error) {
	g, err := s.Store.Gallery(ctx, tenant(ctx), r.Gallery)
	return api.GetGallery200JSONResponse(s.galleryAnswer(g)), err
}

// UpdateGallery changes a gallery.
func (s *server) UpdateGallery(ctx context.Context, r api.UpdateGalleryRequestObject) (api.UpdateGalleryResponseObject, error) {
	if err := s.checkGallery(r.Body.StoreImages); err != nil {
		return nil, err
	}
	g, err := s.Store.UpdateGallery(ctx, tenant(ctx), r.Gallery,
		store.GalleryChange{RetentionDays: r.Body.RetentionDays, StoreImages: r.Body.StoreImages})
	return api.UpdateGallery200JSONResponse(s.galleryAnswer(g)), err
}

// DeleteGallery erases a gallery.
func (s *server) DeleteGallery(ctx context.Context, r api.DeleteGalleryRequestObject) (api.DeleteGalleryResponseObject, error) {
	receipt, err := s.Store.DeleteGallery(ctx, tenant(ctx), r.Gallery, actorOf(ctx))
	return api.DeleteGallery200JSONResponse{ErasedJSONResponse: receiptAnswer(receipt)}, err
}

func (s *server) checkGallery(storeImages *bool) error {
	if valueOr(storeImages, false) && !s.Identity.KeepsCrops() {
		return api.InvalidField("store_images", "must be false: the server has no key to seal images with (LIKENESS_CROP_KEY_FILE)")
	}
	return nil
}

// ListSubjects lists a page of subjects.
func (s *server) ListSubjects(ctx context.Context, r api.ListSubjectsRequestObject) (api.ListSubjectsResponseObject, error) {
	p := pageOf(r.Params.Limit, r.Params.Cursor)
	filter := store.SubjectFilter{Name: valueOr(r.Params.Name, ""), ExternalID: valueOr(r.Params.ExternalID, "")}
	items, next, err := s.Store.ListSubjects(ctx, tenant(ctx), r.Gallery, filter, p)
	if err != nil {
		return nil, cursorError(err)
	}
	answer := api.ListSubjects200JSONResponse{Items: make([]api.Subject, len(items)), NextCursor: optionalText(next)}
	for i, sub := range items {
		answer.Items[i] = subjectAnswer(sub)
	}
	return answer, nil
}

// CreateSubject adds a subject.
func (s *server) CreateSubject(ctx context.Context, r api.CreateSubjectRequestObject) (api.CreateSubjectResponseObject, error) {
	b := r.Body
	if err := checkMetadata(b.Metadata); err != nil {
		return nil, err
	}
	repeatable := repeatableID(ctx)
	id := cmp.Or(repeatable, face.NewID())
	if b.SubjectID != nil {
		id, repeatable = *b.SubjectID, ""
	}
	if !face.ValidID(id) {
		return nil, api.InvalidField("subject_id", face.IDRule)
	}
	sub, err := s.Store.CreateSubject(ctx, tenant(ctx), r.Gallery,
		face.Subject{ID: id, Name: valueOr(b.Name, ""), ExternalID: valueOr(b.ExternalID, ""), Metadata: b.Metadata})
	if repeatable != "" && errors.Is(err, face.Conflict) {
		sub, err = s.Store.Subject(ctx, tenant(ctx), r.Gallery, id) // made before a crash
	}
	if err != nil {
		return nil, err
	}
	return api.CreateSubject201JSONResponse{
		Headers: api.CreateSubject201ResponseHeaders{Location: s.PathPrefix + "/galleries/" + r.Gallery + "/subjects/" + sub.ID},
		Body:    subjectAnswer(sub),
	}, nil
}

// GetSubject shows a subject.
func (s *server) GetSubject(ctx context.Context, r api.GetSubjectRequestObject) (api.GetSubjectResponseObject, error) {
	sub, err := s.Store.Subject(ctx, tenant(ctx), r.Gallery, r.Subject)
	return api.GetSubject200JSONResponse(subjectAnswer(sub)), err
}

// UpdateSubject changes a subject.
func (s *server) UpdateSubject(ctx context.Context, r api.UpdateSubjectRequestObject) (api.UpdateSubjectResponseObject, error) {
	b := r.Body
	if err := checkMetadata(b.Metadata); err != nil {
		return nil, err
	}
	change := store.SubjectChange{Name: b.Name, ExternalID: b.ExternalID}
	if b.Metadata != nil {
		change.Metadata = &b.Metadata
	}
	sub, err := s.Store.UpdateSubject(ctx, tenant(ctx), r.Gallery, r.Subject, change)
	return api.UpdateSubject200JSONResponse(subjectAnswer(sub)), err
}

// DeleteSubject erases a subject.
func (s *server) DeleteSubject(ctx context.Context, r api.DeleteSubjectRequestObject) (api.DeleteSubjectResponseObject, error) {
	receipt, err := s.Store.DeleteSubject(ctx, tenant(ctx), r.Gallery, r.Subject, actorOf(ctx))
	return api.DeleteSubject200JSONResponse{ErasedJSONResponse: receiptAnswer(receipt)}, err
}

// checkMetadata bounds metadata in bytes, which the contract can say in words only.
func checkMetadata(metadata json.RawMessage) error {
	if len(metadata) > face.MaxMetadata {
		return api.InvalidField("metadata", fmt.Sprintf("must be a JSON object of at most %d bytes", face.MaxMetadata))
	}
	return nil
}

// pageOf is the part of a list that a request asks for.
func pageOf(limit *int, cursor *string) store.Page {
	return store.Page{Limit: valueOr(limit, 100), Cursor: valueOr(cursor, "")}
}

// cursorError turns the store's error about a cursor into one that points at
// the parameter.
func cursorError(err error) error {
	if errors.Is(err, face.Invalid) {
		return parameter("cursor", "must be the next_cursor of an earlier page of this list")
	}
	return err
}

// callerOf says on whose behalf identity carries out a request.
func callerOf(ctx context.Context) identity.Caller {
	c := callOf(ctx)
	return identity.Caller{Tenant: c.key.Tenant, KeyID: c.key.ID, RequestID: c.id, Reservation: c.reservation}
}

// actorOf is who erases something, for the audit record.
func actorOf(ctx context.Context) store.Actor {
	c := callOf(ctx)
	return store.Actor{KeyID: c.key.ID, RequestID: c.id}
}

// receiptAnswer writes the receipt of an erasure as the contract does.
func receiptAnswer(r face.Receipt) api.ErasedJSONResponse {
	return api.ErasedJSONResponse{
		Gallery: r.Gallery, SubjectID: optionalText(r.SubjectID), Subjects: r.Subjects,
		Templates: r.Templates, Images: r.Images, AuditID: r.AuditID,
	}
}

// galleryAnswer writes a gallery as the contract does.
func (s *server) galleryAnswer(g face.Gallery) api.Gallery {
	return api.Gallery{
		Name: g.ID, ModelID: s.encoders.IDOf(g), NextModelID: optionalText(g.NextModelID), RetentionDays: g.RetentionDays, StoreImages: g.StoreImages,
		Subjects: g.Subjects, Templates: g.Templates, CreatedAt: g.CreatedAt,
	}
}

// subjectAnswer writes a subject as the contract does.
func subjectAnswer(s face.Subject) api.Subject {
	return api.Subject{
		SubjectID: s.ID, Name: optionalText(s.Name), ExternalID: optionalText(s.ExternalID), Metadata: s.Metadata,
		Templates: s.Templates, CreatedAt: s.CreatedAt, UpdatedAt: s.UpdatedAt,
	}
}
