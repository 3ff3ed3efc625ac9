package handlers

import (
	"sync"

	"github.com/likeness-id/likeness/pkg/face"
)

// shares gives out room that callers share: a tenant may hold twice what is
// free to all, and a key twice what its tenant may still take. However much
// one of them holds, room is left for others.
type shares struct {
	size  int64
	alone bool // there is one caller, who may have it all

	mu   sync.Mutex
	used int64
	held map[holder]int64 // by tenants, whose key is empty, and by keys
}

type holder struct{ tenant, key string }

func newShares(size int64, alone bool) *shares {
	return &shares{size: size, alone: alone, held: map[holder]int64{}}
}

// take takes n for a key and its tenant. It reports false, and takes nothing,
// where that is more than their share.
func (s *shares) take(k face.Key, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	tenant, key := s.held[holder{tenant: k.Tenant}]+n, s.held[holder{k.Tenant, k.ID}]+n
	free := s.size - s.used - n
	ofTenant := 2*free - tenant
	if free < 0 || !s.alone && (ofTenant < 0 || key > 2*ofTenant) {
		return false
	}
	s.add(k, n)
	return true
}

// give gives back n of what was taken.
func (s *shares) give(k face.Key, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(k, -n)
}

func (s *shares) add(k face.Key, n int64) {
	s.used += n
	for _, h := range []holder{{tenant: k.Tenant}, {k.Tenant, k.ID}} {
		if s.held[h] += n; s.held[h] == 0 {
			delete(s.held, h)
		}
	}
}
