package index

// This test is inside the package: between the two reads of a snapshot there is
// hardly time for a change, so it takes very many of them.

import (
	"fmt"
	"sync"
	"testing"

	"github.com/likeness-id/likeness/pkg/face"
)

// TestSnapshot: whatever changes meanwhile, a snapshot shows each subject once.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	const people, changes = 4, 30_000
	p := newPartition()
	add := func(id, subject string) {
		if _, err := p.add(prepare([]Entry{{TemplateID: id, SubjectID: subject, Embedding: face.Embedding{1}}}, 1)); err != nil {
			t.Error(err)
		}
	}
	for i := range people {
		add(fmt.Sprint(i), fmt.Sprint(i))
	}
	var writing sync.WaitGroup
	done := make(chan struct{})
	writing.Go(func() {
		defer close(done)
		for i := range changes {
			id := fmt.Sprint("more", i%people)
			if !p.removeTemplate(id) {
				add(id, fmt.Sprint(i%people))
			}
		}
	})
	for looked, ended := 0, false; !ended; looked++ {
		select {
		case <-done:
			ended = true
		default:
		}
		v, version := p.snapshot()
		seen := 0
		for _, s := range v.slabs {
			for at := range int(s.n.Load()) {
				if s.rows[at].visible(version) {
					seen++
				}
			}
		}
		if seen != people {
			t.Fatalf("look %d shows %d subjects, want %d", looked, seen, people)
		}
	}
	writing.Wait()
}
