//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

func nameChange(name string) store.SubjectChange { return store.SubjectChange{Name: &name} }

func keys(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	at := time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)
	var want []face.Key
	for i, tn := range []string{"t1", "t2", "t1"} {
		_, k := face.NewKey(tn, numberedID("door", i), []face.Scope{face.ScopeVerify, face.ScopeIdentify}, time.Time{})
		k.CreatedAt = at.Add(-time.Duration(i) * time.Hour) // the last made is the oldest
		if i == 1 {
			k.ExpiresAt, k.Scopes = at.Add(time.Hour), nil
		}
		noError(t, s.CreateKey(ctx, k))
		want = append([]face.Key{k}, want...)
	}
	if d := cmp.Diff(want, must(s.ListKeys(ctx, ""))(t)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]face.Key{want[0], want[2]}, must(s.ListKeys(ctx, "t1"))(t)); d != "" {
		t.Error(d)
	}
	if got := must(s.ListKeys(ctx, "t3"))(t); len(got) != 0 {
		t.Errorf("a tenant without keys has %v", got)
	}
	if d := cmp.Diff(want[1], must(s.KeyByHash(ctx, want[1].Hash))(t)); d != "" {
		t.Error(d)
	}
	_, err := s.KeyByHash(ctx, face.HashSecret("nobody's"))
	wantKind(t, err, face.NotFound)

	same := want[0]
	same.ID = face.NewID()
	wantKind(t, s.CreateKey(ctx, same), face.Conflict)
	same = want[0]
	same.Hash = face.HashSecret("another")
	wantKind(t, s.CreateKey(ctx, same), face.Conflict)

	noError(t, s.RevokeKey(ctx, want[0].ID, at))
	noError(t, s.RevokeKey(ctx, want[0].ID, at.Add(time.Hour)))
	wantKind(t, s.RevokeKey(ctx, "nobody", at), face.NotFound)
	got := must(s.KeyByHash(ctx, want[0].Hash))(t)
	if !got.RevokedAt.Equal(at) || got.Live(at) {
		t.Errorf("revoked at %v, want the first time, %v", got.RevokedAt, at)
	}
}

func idempotency(t *testing.T, place Place) {
	open, ctx := place(t), t.Context()
	s := open()
	print := []byte("fingerprint")
	begin := func(tn, key string, print []byte) *store.Answer {
		t.Helper()
		return must(s.BeginRequest(ctx, tn, key, print))(t)
	}
	answer := &store.Answer{Status: 201, Location: "/galleries/g", Body: []byte(`{"a":1}`)}

	if a := begin(tenant, "k1", print); a != nil {
		t.Errorf("a new key has the answer %+v", a)
	}
	_, err := s.BeginRequest(ctx, tenant, "k1", print)
	wantKind(t, err, face.Conflict) // still under way
	_, err = s.BeginRequest(ctx, tenant, "k1", []byte("other"))
	wantKind(t, err, face.Conflict)
	noError(t, s.EndRequest(ctx, tenant, "k1", answer))
	for range 2 {
		if d := cmp.Diff(answer, begin(tenant, "k1", print)); d != "" {
			t.Error(d)
		}
	}
	_, err = s.BeginRequest(ctx, tenant, "k1", []byte("other"))
	wantKind(t, err, face.Conflict)
	if d := cmp.Diff(answer, begin(tenant, "k1", print)); d != "" {
		t.Error("after a refusal:", d)
	}
	if a := begin("t2", "k1", print); a != nil {
		t.Errorf("another tenant sees %+v", a)
	}
	// A claim given up is free, also for another request.
	begin(tenant, "k2", print)
	noError(t, s.EndRequest(ctx, tenant, "k2", nil))
	begin(tenant, "k2", []byte("other"))
	noError(t, s.EndRequest(ctx, tenant, "k2", &store.Answer{Status: 204}))
	if a := begin(tenant, "k2", []byte("other")); a == nil || a.Status != 204 || len(a.Body) != 0 {
		t.Errorf("an answer without a body comes back as %+v", a)
	}
	if err := s.EndRequest(ctx, tenant, "never", answer); err == nil {
		t.Error("a key nobody claimed was ended")
	}
	// Of many at once, one carries the request out.
	var first atomic.Int64
	runTogether(50, func(int) {
		switch a, err := s.BeginRequest(ctx, tenant, "k3", print); {
		case err != nil:
			wantKind(t, err, face.Conflict)
		case a == nil:
			first.Add(1)
			noError(t, s.EndRequest(ctx, tenant, "k3", answer))
		}
	})
	if first.Load() != 1 {
		t.Errorf("%d callers were told to carry out one request", first.Load())
	}

	// What tells of somebody goes with them, also when it comes too late.
	const gallery = face.DefaultGallery
	tells := &store.Answer{Status: 201, Body: []byte(`{"name":"Ada"}`), Gallery: gallery, Subject: "ada"}
	gone := func(key string) {
		t.Helper()
		a, err := s.BeginRequest(ctx, tenant, key, print)
		if wantKind(t, err, face.NotFound); a != nil {
			t.Errorf("an erased answer came back: %+v", a)
		}
	}
	must(s.CreateSubject(ctx, tenant, gallery, face.Subject{ID: "ada"}))(t)
	begin(tenant, "tells", print)
	noError(t, s.EndRequest(ctx, tenant, "tells", tells))
	if d := cmp.Diff(tells, begin(tenant, "tells", print), cmpopts.IgnoreFields(store.Answer{}, "Gallery", "Subject")); d != "" {
		t.Error(d)
	}
	begin(tenant, "late", print)
	must(s.DeleteSubject(ctx, tenant, gallery, "ada", store.Actor{}))(t)
	noError(t, s.EndRequest(ctx, tenant, "late", tells))
	gone("tells")
	gone("late")
	must(s.CreateSubject(ctx, tenant, gallery, face.Subject{ID: "ada"}))(t)
	gone("tells") // another Ada, not told of then
	begin(tenant, "gallery", print)
	noError(t, s.EndRequest(ctx, tenant, "gallery", tells))
	must(s.DeleteGallery(ctx, tenant, gallery, store.Actor{}))(t)
	gone("gallery")

	begin(tenant, "open", print)
	noError(t, s.Close())
	s = open()
	defer func() { noError(t, s.Close()) }()
	if a := begin(tenant, "open", []byte("other")); a != nil { // free after the restart
		t.Errorf("an open claim became the answer %+v", a)
	}
	if d := cmp.Diff(answer, begin(tenant, "k1", print)); d != "" {
		t.Error("after the restart:", d)
	}
	// Kept for the whole time promised, and purged later.
	must(s.PurgeExpired(ctx, time.Now().Add(store.IdempotencyTTL-time.Minute)))(t)
	if begin(tenant, "k1", print) == nil {
		t.Error("an answer was purged too early")
	}
	must(s.PurgeExpired(ctx, time.Now().Add(store.IdempotencyTTL+time.Minute)))(t)
	if a := begin(tenant, "k1", []byte("other")); a != nil {
		t.Errorf("an old answer is still there: %+v", a)
	}
}
