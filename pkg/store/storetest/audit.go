//nolint:thelper // these are the tests themselves: a failure is theirs, not their caller's
package storetest

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/store"
)

// auditTrail is the chain after a number, which is checked on the way.
func auditTrail(t *testing.T, s store.Audit, after int64) (all []store.AuditRecord) {
	t.Helper()
	noError(t, s.AuditTrail(t.Context(), after, func(r store.AuditRecord) error {
		all = append(all, r)
		return nil
	}))
	if after > 0 {
		return all
	}
	var chain store.AuditChain
	for _, r := range all {
		noError(t, chain.Next(r))
	}
	if n := must(s.VerifyAudit(t.Context()))(t); n != int64(len(all)) {
		t.Errorf("%d records verified, %d listed", n, len(all))
	}
	return all
}

func newDecision(subject string) store.Decision {
	return store.Decision{Action: store.AuditVerify, Gallery: "staff", SubjectID: subject, Decision: "match"}
}

func auditRecords(t *testing.T, place Place) {
	open, ctx := place(t), t.Context()
	s := open()
	if got := auditTrail(t, s, 0); len(got) != 0 {
		t.Errorf("a new store has the records %+v", got)
	}
	before := time.Now().Add(-time.Second)
	noError(t, s.RecordDecision(ctx, tenant, by, newDecision("ada")))
	addSubject(t, s, "t2", face.DefaultGallery, "bob")
	receipt := must(s.DeleteSubject(ctx, "t2", face.DefaultGallery, "bob", store.Actor{RequestID: "r2"}))(t)
	noError(t, s.RecordDecision(ctx, tenant, store.Actor{}, store.Decision{
		Action: store.AuditIdentify, Gallery: face.DefaultGallery, Decision: "unknown",
	}))
	got := auditTrail(t, s, 0)
	if len(got) != 3 {
		t.Fatalf("%d records: %+v", len(got), got)
	}
	for _, r := range got {
		if at := r.Time(); at.Before(before) || time.Since(at) < 0 || !face.ValidID(r.ID) {
			t.Errorf("record %+v of %v", r, at)
		}
	}
	want := []store.AuditRecord{
		{Seq: 1, Tenant: tenant, KeyID: by.KeyID, RequestID: by.RequestID, Action: "verify", Gallery: "staff", SubjectID: "ada", Decision: "match"},
		{Seq: 2, ID: receipt.AuditID, Tenant: "t2", RequestID: "r2", Action: "subject.erase", Gallery: face.DefaultGallery, SubjectID: "bob", Subjects: 1},
		{Seq: 3, Tenant: tenant, Action: "recognize", Gallery: face.DefaultGallery, Decision: "unknown"},
	}
	for i := range want {
		want[i].At, want[i].Prev, want[i].Hash = got[i].At, got[i].Prev, got[i].Hash
		if want[i].ID == "" {
			want[i].ID = got[i].ID
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want[2:], auditTrail(t, s, 2)); d != "" {
		t.Error(d)
	}
	if got := auditTrail(t, s, 3); len(got) != 0 {
		t.Errorf("after the last record: %+v", got)
	}
	// The trail ends with the first error of emit, and that is the one returned.
	stop, n := errors.New("stop"), 0
	if err := s.AuditTrail(ctx, 0, func(store.AuditRecord) error { n++; return stop }); !errors.Is(err, stop) || n != 1 {
		t.Errorf("after %d records: %v", n, err)
	}
	wantKind(t, s.RecordDecision(canceledContext(t), tenant, by, newDecision("ada")), face.Canceled)

	noError(t, s.Close())
	wantKind(t, s.RecordDecision(ctx, tenant, by, newDecision("ada")), face.Unavailable)
	s = open()
	defer func() { noError(t, s.Close()) }()
	if d := cmp.Diff(want, auditTrail(t, s, 0)); d != "" {
		t.Error(d)
	}
	noError(t, s.RecordDecision(ctx, tenant, by, newDecision("ada"))) // the chain goes on
	if got := auditTrail(t, s, 0); len(got) != 4 {
		t.Errorf("%d records, want 4", len(got))
	}
}

// auditConcurrent has many record and erase at the same time: nothing is
// lost, and the chain holds.
func auditConcurrent(t *testing.T, place Place) {
	s, ctx := openReady(t, place), t.Context()
	const recorders, each, erasers = 50, 12, 10
	var mu sync.Mutex
	var receipts []string
	runTogether(recorders+erasers+1, func(w int) {
		switch {
		case w < recorders:
			for i := range each {
				noError(t, s.RecordDecision(ctx, tenant, store.Actor{RequestID: numberedID("r", w*each+i)}, newDecision(numberedID("s", w))))
			}
		case w < recorders+erasers:
			for i := range each {
				id := numberedID("s", w*each+i)
				addSubject(t, s, tenant, face.DefaultGallery, id)
				r, err := s.DeleteSubject(ctx, tenant, face.DefaultGallery, id, by)
				noError(t, err)
				mu.Lock()
				receipts = append(receipts, r.AuditID)
				mu.Unlock()
			}
		default: // verifying meanwhile sees a whole chain, however long it is
			for range 10 {
				_, err := s.VerifyAudit(ctx)
				noError(t, err)
			}
		}
	})
	var erased, recorded []string
	last := map[string]string{} // by recorder
	for _, r := range auditTrail(t, s, 0) {
		if r.Action != store.AuditVerify {
			erased = append(erased, r.ID)
			continue
		}
		recorded = append(recorded, r.RequestID)
		if r.RequestID <= last[r.SubjectID] { // one's records are in the order in which they were made
			t.Errorf("%s comes after %s", r.RequestID, last[r.SubjectID])
		}
		last[r.SubjectID] = r.RequestID
	}
	slices.Sort(erased)
	slices.Sort(receipts)
	if d := cmp.Diff(receipts, erased); d != "" {
		t.Error(d)
	}
	if slices.Sort(recorded); len(slices.Compact(recorded)) != recorders*each {
		t.Errorf("%d decisions are recorded, want %d", len(recorded), recorders*each)
	}
}

func auditRestore(t *testing.T, place Place) {
	from, to, ctx := openReady(t, place), openReady(t, place), t.Context()
	runTogether(60, func(w int) {
		for i := range 20 {
			noError(t, from.RecordDecision(ctx, tenant, by, newDecision(numberedID("s", 20*w+i))))
		}
	})
	addSubject(t, from, "t2", face.DefaultGallery, "bob")
	must(from.DeleteSubject(ctx, "t2", face.DefaultGallery, "bob", by))(t)
	all := auditTrail(t, from, 0)

	refuse := func(name string, records []store.AuditRecord) {
		t.Helper()
		before := must(to.VerifyAudit(ctx))(t)
		err := to.RestoreAudit(ctx, records)
		wantKind(t, err, face.Conflict)
		if after := must(to.VerifyAudit(ctx))(t); err == nil || after != before {
			t.Errorf("%s: %v, %d records afterwards and %d before", name, err, after, before)
		}
	}
	changed := func(change func([]store.AuditRecord)) []store.AuditRecord {
		records := slices.Clone(all[:10])
		change(records)
		return records
	}
	noError(t, to.RestoreAudit(ctx, nil))
	refuse("not the beginning", all[1:5])
	refuse("a gap", changed(func(r []store.AuditRecord) { r[4] = all[5] }))
	refuse("one changed", changed(func(r []store.AuditRecord) { r[9].SubjectID = "s-9999" }))
	refuse("a decision changed", changed(func(r []store.AuditRecord) { r[9].Decision = "non_match" }))
	refuse("a decision taken out", changed(func(r []store.AuditRecord) { r[9].Decision = "" }))
	refuse("a hash changed", changed(func(r []store.AuditRecord) { r[9].Hash = bytes.Repeat([]byte{1}, 32) }))
	// In parts, as they come.
	all[0].Prev = nil // as empty as it was
	noError(t, to.RestoreAudit(ctx, all[:700]))
	all[0].Prev = auditTrail(t, to, 0)[0].Prev
	if len(all[0].Prev) > 0 {
		t.Errorf("the first record follows %x", all[0].Prev)
	}
	refuse("again", all[:700])
	refuse("a part left out", all[701:])
	noError(t, to.RestoreAudit(ctx, all[700:]))
	if got := auditTrail(t, to, 0); !reflect.DeepEqual(all, got) { // much faster than a diff
		t.Error(cmp.Diff(all, got))
	}
	// Both go on from there, and from then on they are two chains.
	noError(t, from.RecordDecision(ctx, tenant, by, newDecision("here")))
	noError(t, to.RecordDecision(ctx, tenant, by, newDecision("there")))
	noError(t, to.RecordDecision(ctx, tenant, by, newDecision("there")))
	refuse("of another chain", auditTrail(t, from, 1201))
	auditTrail(t, to, 0)
}
