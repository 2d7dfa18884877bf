package boltstore

import (
	"context"
	"time"
)

const (
	// idleMax is how long Idle waits when nothing happens.
	idleMax = time.Second
	// idleAgain is how long Idle waits when there is something to claim but a
	// caller has been told of it already. It keeps a caller that never claims
	// from spinning.
	idleAgain = 50 * time.Millisecond
)

// wakeup is what Idle needs to know. Guarded by Store.mu.
type wakeup struct {
	generation uint64        // grows with every change that may make a unit claimable
	changed    chan struct{} // closed at the next one

	empty uint64    // generation in which a Claim found nothing
	due   time.Time // when time alone may change that; zero: never
	told  uint64    // generation for which an Idle has returned at once
}

// changedNow wakes everybody in Idle.
func (s *Store) changedNow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
	close(s.changed)
	s.changed = make(chan struct{})
}

// nothing notes that there is nothing to claim, and when a delayed unit is due.
// It is called inside a write transaction, so no change comes in between.
func (s *Store) nothing(due, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, has := range s.holdings {
		if !has.void && has.expires.After(now) && (due.IsZero() || has.expires.Before(due)) {
			due = has.expires
		}
	}
	s.empty, s.due = s.generation, due
}

// Idle returns when a Claim may succeed again. See jobs.Store. A change that
// came between the last Claim and Idle is not missed.
func (s *Store) Idle(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wait, changed := s.idle()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-changed:
	case <-timer.C:
	}
	return nil
}

func (s *Store) idle() (wait time.Duration, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.generation == s.empty && s.due.IsZero():
		return idleMax, s.changed
	case s.generation == s.empty:
		wait = min(s.due.Sub(s.now()), idleMax)
		if wait <= 0 {
			s.due = time.Time{} // told once
		}
		return wait, s.changed
	case s.told != s.generation:
		s.told = s.generation
		return 0, s.changed
	}
	return idleAgain, s.changed
}
