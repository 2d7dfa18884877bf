package boltstore

import (
	"cmp"
	"slices"
	"time"

	"spillway/jobs"
)

// A holder is one attempt at a unit.
type holder struct {
	job     jobs.ID
	unit    string
	attempt int64
}

func holderOf(l *jobs.Lease) holder { return holder{l.Job, l.Unit.ID, l.Attempt} }

// A holding is the memory's side of a lease.
type holding struct {
	expires time.Time // with its monotonic part, so that a clock that is set moves no lease
	lost    bool      // it was seen expired; it never holds again
	void    bool      // its job has ended, but its holder may still be writing
}

func (h *holding) alive(now time.Time) bool {
	if !now.Before(h.expires) {
		h.lost = true
	}
	return !h.lost && !h.void
}

func (s *Store) hold(l *jobs.Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holdings[holderOf(l)] = &holding{expires: l.ExpiresAt}
}

// holds reports whether a lease is in force.
func (s *Store) holds(h holder) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	has, ok := s.holdings[h]
	return ok && has.alive(s.now())
}

// extend renews a lease that is in force, and reports whether it was.
func (s *Store) extend(l *jobs.Lease) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	has, ok := s.holdings[holderOf(l)]
	if !ok || !has.alive(now) {
		return false
	}
	has.expires = now.Add(s.limits.LeaseTTL)
	l.ExpiresAt = has.expires
	return true
}

// release ends a lease.
func (s *Store) release(h holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.holdings, h)
}

// expired returns the leases that have run out. From now on none of them can
// be renewed, also if what the caller does about them fails.
func (s *Store) expired(now time.Time) (over []holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, has := range s.holdings {
		if !has.void && !has.alive(now) {
			over = append(over, h)
		}
	}
	slices.SortFunc(over, func(a, b holder) int {
		return cmp.Or(cmp.Compare(a.job, b.job), cmp.Compare(a.unit, b.unit), cmp.Compare(a.attempt, b.attempt))
	})
	return over
}

// void ends all leases of a job that has ended. Their holders may still be writing.
func (s *Store) void(id jobs.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, has := range s.holdings {
		if h.job == id {
			has.void = true
		}
	}
}

// writing returns the jobs that have a holder who may still be writing.
func (s *Store) writing(now time.Time) map[jobs.ID]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[jobs.ID]bool{}
	for h, has := range s.holdings {
		switch {
		case now.Before(has.expires):
			ids[h.job] = true
		case has.void:
			delete(s.holdings, h)
		}
	}
	return ids
}

// forget drops all leases of a removed job.
func (s *Store) forget(id jobs.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.holdings {
		if h.job == id {
			delete(s.holdings, h)
		}
	}
}
