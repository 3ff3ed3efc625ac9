package identity_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/likeness-id/likeness/pkg/face"
	"github.com/likeness-id/likeness/pkg/identity"
	"github.com/likeness-id/likeness/pkg/store"
)

// forgetting is a store whose audit chain takes no more records once it is
// broken.
type forgetting struct {
	store.Store
	broken *atomic.Bool
}

func (f forgetting) RecordDecision(ctx context.Context, tenant string, by store.Actor, d store.Decision) error {
	if f.broken.Load() {
		return errors.New("the secret cause")
	}
	return f.Store.RecordDecision(ctx, tenant, by, d)
}

// TestDecided: every decision about somebody enrolled is recorded, on whose
// behalf it was made, and every decision and every failure to acquire is
// counted once.
func TestDecided(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	b := open(t, func(o *identity.Options) { o.AuditDecisions, o.Store = true, forgetting{o.Store, &broken} })
	b.enrolled(t, "default", "ada", person{Number: 1})
	b.enrolled(t, "default", "grace", person{Number: 2})
	by := identity.Caller{KeyID: "key", RequestID: "request"}
	verify := func(r identity.VerifyRequest) error {
		_, err := b.Verify(t.Context(), by, r)
		return err
	}
	recognize := func(r identity.RecognizeRequest) error {
		_, err := b.Recognize(t.Context(), by, r)
		return err
	}
	poor := photo(person{Number: 1, Poor: true})
	for _, err := range []error{
		verify(identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"}),
		verify(identity.VerifyRequest{Probe: photo(person{Number: 2}), SubjectID: "ada"}),
		recognize(identity.RecognizeRequest{Probe: [][]byte{photo(person{Number: 2}, person{Number: 99}, person{Number: 1, Poor: true})}}),
		recognize(identity.RecognizeRequest{ProbeEmbedding: vector(2, 0), ModelID: modelID}),
		recognize(identity.RecognizeRequest{Probe: [][]byte{photo()}}),
		verify(identity.VerifyRequest{Probe: photo(person{Number: 1}), Reference: photo(person{Number: 1})}), // about nobody enrolled
	} {
		if err != nil {
			t.Error(err)
		}
	}
	fails(t, verify(identity.VerifyRequest{Probe: poor, SubjectID: "ada"}), face.LowQuality, "/probe")
	fails(t, verify(identity.VerifyRequest{Probe: photo(), SubjectID: "ada"}), face.NoFace, "/probe")
	_, err := b.Enrol(t.Context(), by, identity.EnrolRequest{SubjectID: "ada", Image: poor})
	fails(t, err, face.LowQuality, "/image")

	// No door opens on a decision that is not recorded.
	broken.Store(true)
	fails(t, verify(identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"}), face.Unavailable, "")
	fails(t, recognize(identity.RecognizeRequest{ProbeEmbedding: vector(2, 0), ModelID: modelID}), face.Unavailable, "")

	var recorded []string
	err = b.store.AuditTrail(t.Context(), 0, func(r store.AuditRecord) error {
		if r.Tenant != face.DefaultTenant || r.Gallery != face.DefaultGallery || r.KeyID != "key" || r.RequestID != "request" {
			t.Errorf("%+v", r)
		}
		recorded = append(recorded, r.Action+" "+r.SubjectID+" "+r.Decision)
		return nil
	})
	want := []string{"verify ada match", "verify ada non_match", "recognize grace match", "recognize  unknown", "recognize  low_quality", "recognize grace match"}
	if diff := cmp.Diff(want, recorded); diff != "" || err != nil {
		t.Errorf("recorded (-want +got):\n%s%v", diff, err)
	}
	for _, tt := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"likeness_decisions_total", []string{"match", "/verify"}, 2},
		{"likeness_decisions_total", []string{"non_match", "/verify"}, 1},
		{"likeness_decisions_total", []string{"match", "/recognize"}, 2},
		{"likeness_decisions_total", []string{"unknown", "/recognize"}, 1},
		{"likeness_decisions_total", []string{"ambiguous", "/recognize"}, 0},
		{"likeness_decisions_total", []string{"low_quality", "/recognize"}, 1},
		{"likeness_failure_to_acquire_total", []string{"NO_FACE"}, 2},
		{"likeness_failure_to_acquire_total", []string{"LOW_SHARPNESS"}, 3},
	} {
		if got := b.counted(t, tt.name, tt.labels...); got != tt.want {
			t.Errorf("%s %v is %v, want %v", tt.name, tt.labels, got, tt.want)
		}
	}

	quiet := open(t, nil)
	quiet.enrolled(t, "default", "ada", person{Number: 1})
	must(t, quiet.Verify, identity.VerifyRequest{Probe: photo(person{Number: 1}), SubjectID: "ada"})
	if n, err := quiet.store.VerifyAudit(t.Context()); n != 0 || err != nil {
		t.Errorf("%d decisions are recorded although nobody wants it, %v", n, err)
	}
}
