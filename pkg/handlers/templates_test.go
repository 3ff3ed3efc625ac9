package handlers_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func TestEnrol(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.enrolled(t, "default", "ada", person{number: 1})
	const path = "/galleries/default/subjects/bob/templates"
	bad(t, h.post(t, path, fields{"image": photo(person{number: 2})}), face.NotFound, "")
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "bob"}), 201)

	a := h.ask(t, fields{"image": photo(person{number: 2, noise: 51})}.form(t, http.MethodPost, path))
	e := good[api.EnrolResponse](t, a, 201)
	if e.SubjectID != "bob" || e.ModelID != modelID || e.Quality != 0.8 || e.Face == nil || len(e.Warnings) != 0 || a.header.Get("Location") != path+"/"+e.TemplateID {
		t.Errorf("enrolled %+v", e)
	}
	if e := good[api.EnrolResponse](t, h.post(t, path, fields{"embedding": vector(2, 3), "model_id": modelID}), 201); e.Face != nil || e.Quality != 0 {
		t.Errorf("enrolled %+v", e)
	}
	// Ada's face as Bob's: like another, and unlike himself.
	e = good[api.EnrolResponse](t, h.post(t, path, fields{"image": photo(person{number: 1, noise: 4})}), 201)
	if len(e.Warnings) != 2 || e.Warnings[0].Code != face.ReasonDuplicateOfSubject || *e.Warnings[0].SubjectID != "ada" ||
		*e.Warnings[0].Score < 0.65 || e.Warnings[1].Code != face.ReasonUnlikeSubject || *e.Warnings[1].Score >= 0.6 {
		t.Errorf("warnings %+v", e.Warnings)
	}
	p := bad(t, h.post(t, path, fields{"image": photo(person{number: 1}), "on_duplicate": "refuse"}), face.Duplicate, "")
	if !slices.Equal(p.Reasons, []face.Reason{face.ReasonDuplicateOfSubject}) || !strings.Contains(*p.Detail, "ada") {
		t.Errorf("refusal %+v", p)
	}
	poor := photo(person{number: 2, poor: true})
	if p := bad(t, h.post(t, path, fields{"image": poor}), face.LowQuality, "/image"); !slices.Equal(p.Reasons, []face.Reason{face.ReasonLowSharpness}) {
		t.Errorf("refusal %+v", p)
	}
	good[api.EnrolResponse](t, h.post(t, path, fields{"image": poor, "quality_gate": "off"}), 201)
	for _, c := range []struct {
		body    fields
		kind    face.Kind
		pointer string
	}{
		{fields{}, face.Invalid, "/image"},
		{fields{"image": poor, "embedding": vector(1, 0), "model_id": modelID}, face.Invalid, "/embedding"},
		{fields{"embedding": vector(1, 0)}, face.Invalid, "/model_id"},
		{fields{"embedding": vector(1, 0), "model_id": "sface"}, face.ModelMismatch, "/model_id"},
		{fields{"embedding": []float32{1}, "model_id": modelID}, face.ModelMismatch, "/embedding"},
		{fields{"image": poor, "quality_gate": "on"}, face.Invalid, "/quality_gate"},
		{fields{"image": photo()}, face.NoFace, "/image"},
		{fields{"image": photo(person{number: 2}, person{number: 3})}, face.ManyFaces, "/image"},
	} {
		bad(t, h.post(t, path, c.body), c.kind, c.pointer)
	}

	list := good[api.TemplateList](t, h.do(t, http.MethodGet, path), 200)
	if len(list.Items) != 4 {
		t.Fatalf("templates %+v", list)
	}
	r := good[api.Receipt](t, h.do(t, http.MethodDelete, path+"/"+list.Items[0].TemplateID), 200)
	if r.Templates != 1 || *r.SubjectID != "bob" {
		t.Errorf("receipt %+v", r)
	}
	bad(t, h.do(t, http.MethodDelete, path+"/"+list.Items[0].TemplateID), face.NotFound, "")
	bad(t, h.do(t, http.MethodGet, "/galleries/default/subjects/eve/templates"), face.NotFound, "")
}

// damaging is a store in which the embeddings of some templates are damaged.
type damaging struct {
	store.Store
	templates []string
}

func (d damaging) Templates(ctx context.Context, tenant, gallery, subject, modelID string) ([]face.Template, error) {
	list, err := d.Store.Templates(ctx, tenant, gallery, subject, modelID)
	for i, t := range list {
		if slices.Contains(d.templates, t.ID) {
			list[i].Embedding = nil
		}
	}
	return list, err
}

// TestDamagedTemplates: a damaged template is listed as such, and nothing is
// compared with it.
func TestDamagedTemplates(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Store = damaging{o.Store, []string{"one"}} })
	good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "ada"}), 201)
	one := face.Template{ID: "one", SubjectID: "ada", ModelID: modelID, Embedding: vector(1, 0)}
	if _, err := h.store.Enrol(t.Context(), face.DefaultTenant, "default", one); err != nil {
		t.Fatal(err)
	}
	ask := fields{"probe": photo(person{number: 1}), "subject_id": "ada"}
	if p := bad(t, h.post(t, "/verify", ask), face.Damaged, ""); !strings.Contains(*p.Detail, "enrol again") {
		t.Errorf("the detail is %q", *p.Detail)
	}
	const templates = "/galleries/default/subjects/ada/templates"
	good[api.EnrolResponse](t, h.post(t, templates, fields{"image": photo(person{number: 1})}), 201)
	list := good[api.TemplateList](t, h.do(t, http.MethodGet, templates), 200)
	if len(list.Items) != 2 || list.Items[0].Damaged == nil || !*list.Items[0].Damaged || list.Items[1].Damaged != nil {
		t.Errorf("the templates are %+v", list)
	}
	good[api.VerifyResponse](t, h.post(t, "/verify", ask), 200)
}
