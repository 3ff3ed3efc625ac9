package handlers_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/api"
	"github.com/likeness-id/likeness/pkg/embed"
	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func TestGalleries(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	a := h.post(t, "/galleries", fields{"name": "staff", "retention_days": 30})
	if g := good[api.Gallery](t, a, 201); g.Name != "staff" || g.RetentionDays != 30 || g.StoreImages || a.header.Get("Location") != "/galleries/staff" {
		t.Errorf("made %+v at %s", g, a.header.Get("Location"))
	}
	bad(t, h.post(t, "/galleries", fields{"name": "staff"}), face.Conflict, "/name")
	bad(t, h.post(t, "/galleries", fields{}), face.Invalid, "/name")
	bad(t, h.post(t, "/galleries", fields{"name": "a/b"}), face.Invalid, "/name")
	bad(t, h.post(t, "/galleries", fields{"name": "x", "retention_days": -1}), face.Invalid, "/retention_days")
	bad(t, h.post(t, "/galleries", fields{"name": "x", "retention_days": "1"}), face.Invalid, "/retention_days")
	bad(t, h.post(t, "/galleries", fields{"name": "x", "store_images": true}), face.Invalid, "/store_images")
	g := good[api.Gallery](t, h.ask(t, fields{"retention_days": 0}.json(t, http.MethodPatch, "/galleries/staff")), 200)
	if g.RetentionDays != 0 {
		t.Errorf("changed to %+v", g)
	}
	bad(t, h.ask(t, fields{"name": "x"}.json(t, http.MethodPatch, "/galleries/staff")), face.Invalid, "/name")
	bad(t, h.ask(t, fields{"store_images": true}.json(t, http.MethodPatch, "/galleries/staff")), face.Invalid, "/store_images")
	bad(t, h.do(t, http.MethodGet, "/galleries/none"), face.NotFound, "")
	good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/default"), 200)

	h.enrolled(t, "staff", "ada", person{number: 1})
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/staff"), 200); g.Subjects != 1 || g.Templates != 1 {
		t.Errorf("counts: %+v", g)
	}
	r := good[api.Receipt](t, h.do(t, http.MethodDelete, "/galleries/staff"), 200)
	if r.Gallery != "staff" || r.SubjectID != nil || r.Subjects != 1 || r.Templates != 1 || r.AuditID == "" {
		t.Errorf("receipt: %+v", r)
	}
	bad(t, h.do(t, http.MethodGet, "/galleries/staff"), face.NotFound, "")
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	const path = "/galleries/default/subjects"
	a := h.post(t, path, fields{"subject_id": "ada", "name": "Ada", "external_id": "7", "metadata": map[string]any{"a": []int{1}}})
	s := good[api.Subject](t, a, 201)
	if s.SubjectID != "ada" || *s.Name != "Ada" || *s.ExternalID != "7" || string(s.Metadata) != `{"a":[1]}` || a.header.Get("Location") != path+"/ada" {
		t.Errorf("made %+v", s)
	}
	if made := good[api.Subject](t, h.post(t, path, fields{}), 201); !face.ValidID(made.SubjectID) {
		t.Errorf("made %+v", made)
	}
	long := strings.Repeat("ö", face.MaxNameLength+1)
	for _, c := range []struct {
		body    fields
		kind    face.Kind
		pointer string
	}{
		{fields{"subject_id": "ada"}, face.Conflict, ""},
		{fields{"subject_id": "-"}, face.Invalid, "/subject_id"},
		{fields{"name": long}, face.Invalid, "/name"},
		{fields{"external_id": long}, face.Invalid, "/external_id"},
		{fields{"metadata": []int{}}, face.Invalid, "/metadata"},
		{fields{"metadata": map[string]string{"x": strings.Repeat("y", face.MaxMetadata)}}, face.Invalid, "/metadata"},
		{fields{"email": "x"}, face.Invalid, "/email"},
	} {
		bad(t, h.post(t, path, c.body), c.kind, c.pointer)
	}
	bad(t, h.post(t, "/galleries/none/subjects", fields{}), face.NotFound, "")
	s = good[api.Subject](t, h.ask(t, fields{"name": "", "metadata": map[string]any{}}.json(t, http.MethodPatch, path+"/ada")), 200)
	if s.Name != nil || *s.ExternalID != "7" || string(s.Metadata) != `{}` {
		t.Errorf("changed to %+v", s)
	}
	bad(t, h.ask(t, fields{"name": "x"}.json(t, http.MethodPatch, path+"/eve")), face.NotFound, "")
	bad(t, h.do(t, http.MethodGet, path+"/eve"), face.NotFound, "")
	r := good[api.Receipt](t, h.do(t, http.MethodDelete, path+"/ada"), 200)
	if *r.SubjectID != "ada" || r.Subjects != 1 {
		t.Errorf("receipt: %+v", r)
	}
	bad(t, h.do(t, http.MethodDelete, path+"/ada"), face.NotFound, "")
}

// TestPaging walks a list page by page.
func TestPaging(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	const path = "/galleries/default/subjects"
	var want, got []string
	for i := range 7 {
		id := fmt.Sprintf("s%d", i)
		want = append(want, id)
		good[api.Subject](t, h.post(t, path, fields{"subject_id": id}), 201)
	}
	next := ""
	for {
		page := good[api.SubjectList](t, h.do(t, http.MethodGet, path+"?limit=3&cursor="+next), 200)
		for _, s := range page.Items {
			got = append(got, s.SubjectID)
		}
		if page.NextCursor == nil {
			break
		}
		next = *page.NextCursor
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subjects (-want +got):\n%s", diff)
	}
	for i, f := range []fields{{"name": "Ada & Zoë", "external_id": "7"}, {"name": "Ada & Zoë"}, {"external_id": "7"}} {
		good[api.Subject](t, h.ask(t, f.json(t, http.MethodPatch, fmt.Sprint(path, "/s", i))), 200)
	}
	for query, want := range map[string]string{
		"name=Ada+%26+Zo%C3%AB": "s0 s1", "external_id=7": "s0 s2", "name=Ada+%26+Zo%C3%AB&external_id=7": "s0", "name=ada": "",
	} {
		var got []string
		for next := ""; ; {
			page := good[api.SubjectList](t, h.do(t, http.MethodGet, path+"?limit=1&cursor="+next+"&"+query), 200)
			for _, s := range page.Items {
				got = append(got, s.SubjectID)
			}
			if page.NextCursor == nil {
				break
			}
			next = *page.NextCursor
			bad(t, h.do(t, http.MethodGet, path+"?limit=1&cursor="+next), face.Invalid, "cursor")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", query, got, want)
		}
	}
	if g := good[api.GalleryList](t, h.do(t, http.MethodGet, "/galleries"), 200); len(g.Items) != 1 || g.NextCursor != nil {
		t.Errorf("galleries: %+v", g)
	}
}

func TestModels(t *testing.T) {
	t.Parallel()
	list := good[api.ModelList](t, open(t, func(o *options) {
		o.Models = append(o.Models, embed.Model{Manifest: embed.Manifest{ID: "with-cohort", Task: embed.TaskEncoder, Dimension: 8, Cohort: &embed.Cohort{People: 9, Top: 2}}})
	}).do(t, http.MethodGet, "/models"), 200)
	var scores []api.ModelScore
	for _, m := range list.Items {
		if m.Score != nil {
			scores = append(scores, *m.Score)
		}
	}
	if diff := cmp.Diff([]api.ModelScore{api.ModelScoreCosine, api.ModelScoreCosine, api.ModelScoreNormalisedCosine}, scores); diff != "" {
		t.Errorf("what the scores are (-want +got):\n%s", diff)
	}
	if m := list.Items[0]; !m.InUse || !m.Available || *m.Dimension != dimension || len(m.OperatingPoints) != 3 || *m.Comparisons != 3e6 {
		t.Errorf("got %+v", m)
	}
	if m := list.Items[2]; m.InUse || m.Available || m.Dimension != nil || m.OperatingPoints != nil || *m.Notes != "n" {
		t.Errorf("got %+v", m)
	}
}

// keyed sends a request under an Idempotency-Key.
func (h *house) keyed(tb testing.TB, key string, r *http.Request) answer {
	tb.Helper()
	r.Header.Set("Idempotency-Key", key)
	return h.ask(tb, r)
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	const path = "/galleries/default/subjects"
	replayed := func(t *testing.T, first, second answer) {
		t.Helper()
		if second.status != first.status || string(second.body) != string(first.body) ||
			second.header.Get("Location") != first.header.Get("Location") ||
			second.header.Get("Content-Type") != first.header.Get("Content-Type") ||
			first.header.Get("Idempotency-Replayed") != "" || second.header.Get("Idempotency-Replayed") != "true" {
			t.Errorf("first %d %s %v\nthen %d %s %v", first.status, first.body, first.header, second.status, second.body, second.header)
		}
	}
	first := h.keyed(t, "k1", rawJSON(http.MethodPost, path, `{"name":"Ada","external_id":"7"}`))
	made := good[api.Subject](t, first, 201)
	replayed(t, first, h.keyed(t, "k1", rawJSON(http.MethodPost, path, `{ "external_id":"7", "name":"\u0041da" }`)))
	bad(t, h.keyed(t, "k1", rawJSON(http.MethodPost, path, `{"name":"Bob"}`)), face.Conflict, "")
	bad(t, h.keyed(t, "k1", httptest.NewRequest(http.MethodDelete, path+"/"+made.SubjectID, nil)), face.Conflict, "")
	for _, key := range []string{"", "a b", strings.Repeat("k", 129), "ö"} {
		bad(t, h.keyed(t, key, rawJSON(http.MethodPost, path, `{}`)), face.Invalid, "Idempotency-Key")
	}

	enrol := fields{"image": photo(person{number: 1})}
	templates := path + "/" + made.SubjectID + "/templates"
	first = h.keyed(t, "k2", enrol.form(t, http.MethodPost, templates))
	good[api.EnrolResponse](t, first, 201)
	replayed(t, first, h.keyed(t, "k2", enrol.form(t, http.MethodPost, templates))) // with another boundary
	replayed(t, first, h.keyed(t, "k2", enrol.json(t, http.MethodPost, templates)))

	first = h.keyed(t, "k3", fields{"image": photo()}.json(t, http.MethodPost, templates))
	bad(t, first, face.NoFace, "")
	replayed(t, first, h.keyed(t, "k3", fields{"image": photo()}.json(t, http.MethodPost, templates)))

	first = h.keyed(t, "k4", httptest.NewRequest(http.MethodDelete, path+"/"+made.SubjectID, nil))
	good[api.Receipt](t, first, 200)
	replayed(t, first, h.keyed(t, "k4", httptest.NewRequest(http.MethodDelete, path+"/"+made.SubjectID, nil)))

	// Questions take no key.
	ask := fields{"image": photo()}
	good[api.DetectResponse](t, h.keyed(t, "k1", ask.json(t, http.MethodPost, "/detect")), 200)
}

// forgetful loses the answers under its keys, as a crash before EndRequest does.
type forgetful struct{ store.Store }

func (f forgetful) EndRequest(ctx context.Context, tenant, key string, _ *store.Answer) error {
	return f.Store.EndRequest(ctx, tenant, key, nil)
}

// TestIdempotencyCrash repeats writes whose answers were lost: they make no twins.
func TestIdempotencyCrash(t *testing.T) {
	t.Parallel()
	h := open(t, func(o *options) { o.Store = forgetful{o.Store} })
	const path = "/galleries/default/subjects"
	var ids []string
	for range 2 {
		s := good[api.Subject](t, h.keyed(t, "k", rawJSON(http.MethodPost, path, `{"name":"Ada"}`)), 201)
		e := good[api.EnrolResponse](t, h.keyed(t, "e", fields{"image": photo(person{number: 1})}.json(t, http.MethodPost, path+"/"+s.SubjectID+"/templates")), 201)
		ids = append(ids, s.SubjectID+" "+e.TemplateID)
	}
	if ids[0] != ids[1] {
		t.Errorf("made %v", ids)
	}
	if g := good[api.Gallery](t, h.do(t, http.MethodGet, "/galleries/default"), 200); g.Subjects != 1 || g.Templates != 1 {
		t.Errorf("counts %+v", g)
	}
	other := good[api.Subject](t, h.keyed(t, "k", rawJSON(http.MethodPost, path, `{"name":"Bob"}`)), 201)
	if strings.HasPrefix(ids[0], other.SubjectID) {
		t.Error("another request under the same key got the same id")
	}
}

// TestIdempotencyFault: a failure of the server leaves the key free.
func TestIdempotencyFault(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func() error{
		"error": func() error { return face.Errorf(face.Overloaded, "test", "") },
		"panic": func() error { panic("x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := true
			h := open(t, func(o *options) {
				o.Pipeline = pipeline{Before: func(context.Context) error {
					if broken {
						return fail()
					}
					return nil
				}}
			})
			good[api.Subject](t, h.post(t, "/galleries/default/subjects", fields{"subject_id": "ada"}), 201)
			enrol := func() answer {
				return h.keyed(t, "k", fields{"image": photo(person{number: 1})}.json(t, http.MethodPost, "/galleries/default/subjects/ada/templates"))
			}
			if a := enrol(); a.status < 500 {
				t.Fatalf("got %d %s", a.status, a.body)
			}
			broken = false
			if a := enrol(); a.status != 201 || a.header.Get("Idempotency-Replayed") != "" {
				t.Errorf("got %d %s", a.status, a.body)
			}
		})
	}
}

// TestIdempotencyAtOnce: of the same request many times at once, one is
// carried out and the others are told so, or its answer.
func TestIdempotencyAtOnce(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	answers := make(chan answer)
	for range 8 {
		go func() {
			answers <- h.keyed(t, "k", rawJSON(http.MethodPost, "/galleries/default/subjects", `{}`))
		}()
	}
	ids := map[string]bool{}
	for range 8 {
		a := <-answers
		var s api.Subject
		if a.status == 201 && json.Unmarshal(a.body, &s) == nil {
			ids[s.SubjectID] = true
		} else if a.status != 409 {
			t.Errorf("got %d %s", a.status, a.body)
		}
	}
	if len(ids) != 1 {
		t.Errorf("made %v", ids)
	}
}

// TestErasedAnswer: who was erased is not shown again by a repeated request.
func TestErasedAnswer(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	ask := func() answer {
		r := rawJSON("POST", "/galleries/default/subjects", `{"subject_id":"ada","name":"Ada"}`)
		r.Header.Set("Idempotency-Key", "k")
		return h.ask(t, r)
	}
	good[api.Subject](t, ask(), 201)
	good[api.Subject](t, ask(), 201)
	good[api.Erased](t, h.do(t, "DELETE", "/galleries/default/subjects/ada"), 200)
	bad(t, ask(), face.NotFound, "")
}
