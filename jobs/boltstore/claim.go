package boltstore

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

// silentReason is why a job fails whose unit has no failure to show for its tries.
const silentReason = "The export was given up: the process that worked on it stopped without a word during the same step again and again. " +
	"Ask the operator of this service to look into its log."

// Claim leases one unit. See jobs.Store.
func (s *Store) Claim(ctx context.Context, worker string) (*jobs.Lease, *jobs.Job, error) {
	var (
		lease *jobs.Lease
		owner *jobs.Job
		reaps reaped
	)
	c := &change{
		do: func(tx *bbolt.Tx) (wrote bool, err error) {
			lease, owner, reaps = nil, nil, reaped{}
			now := s.now()
			if err := s.reap(tx, now, &reaps); err != nil {
				return false, err
			}
			chosen, promoted, err := s.choose(tx, now)
			wrote = promoted || len(reaps.units) > 0
			if err != nil || chosen == nil {
				return wrote, err
			}
			lease, owner, err = s.lease(tx, chosen, worker, now)
			return true, err
		},
		then: func() {
			s.settle(reaps)
			if lease != nil {
				s.hold(lease)
			}
		},
	}
	if err := s.update(ctx, c); err != nil {
		return nil, nil, err
	}
	if lease == nil {
		return nil, nil, jobs.ErrNoWork
	}
	return lease, owner, nil
}

// reaped says what reap did, for the memory to follow once it is on disk.
type reaped struct {
	units  []holder  // claimable again
	failed []jobs.ID // jobs that ended by it
}

// reap makes the units of expired leases claimable again.
func (s *Store) reap(tx *bbolt.Tx, now time.Time, r *reaped) error {
	for _, h := range s.expired(now) {
		r.units = append(r.units, h) // in any case the lease is over
		j, ok := lookup(tx, h.job)
		if !ok {
			continue
		}
		st, err := j.state()
		if err != nil {
			return err
		}
		if st.State.Ended() || !j.leasedTo(h.unit, h.attempt) {
			continue
		}
		failed, err := s.blame(tx, j, st, h.unit, now)
		if err != nil {
			return err
		}
		if failed {
			r.failed = append(r.failed, h.job)
		}
	}
	return nil
}

// settle lets the memory follow what reap wrote.
func (s *Store) settle(r reaped) {
	for _, h := range r.units {
		s.release(h)
	}
	for _, id := range r.failed {
		s.void(id)
	}
	if len(r.units) > 0 {
		s.changedNow()
	}
}

// blame counts a try against a leased unit whose worker fell silent, and makes
// it claimable again or fails its job.
func (s *Store) blame(tx *bbolt.Tx, j job, st *state, id string, now time.Time) (failed bool, err error) {
	u, err := j.unit(id)
	if err != nil {
		return false, err
	}
	u.Tries++
	u.Silent++
	if u.Tries >= jobs.MaxTries {
		st.Failure = silentReason
		return true, s.end(tx, j, st, jobs.Failed)
	}
	return false, j.requeue(u, time.Time{}, now)
}

// requeue takes a leased unit back and makes it claimable from notBefore on.
func (j job) requeue(u *unit, notBefore, now time.Time) error {
	if err := bucketLeased.in(j.b).Delete([]byte(u.ID)); err != nil {
		return err
	}
	if err := j.putUnit(u); err != nil {
		return err
	}
	return j.enqueue(u, notBefore, now)
}

// leasedTo reports whether this attempt has the unit.
func (j job) leasedTo(unit string, attempt int64) bool {
	v := bucketLeased.in(j.b).Get([]byte(unit))
	if v == nil {
		return false
	}
	has, _ := readLeased(v)
	return has == attempt
}

// recoverLeases takes back every lease of the former process.
func (s *Store) recoverLeases(tx *bbolt.Tx) error {
	now := s.now()
	var running []jobs.ID
	err := bucketRunning.in(tx).ForEach(func(id, _ []byte) error {
		running = append(running, jobs.ID(id))
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range running {
		j, ok := lookup(tx, id)
		if !ok {
			return errors.New("a running job does not exist")
		}
		st, err := j.state()
		if err != nil {
			return err
		}
		if st.newer() {
			continue
		}
		var units []string
		err = bucketLeased.in(j.b).ForEach(func(unit, _ []byte) error {
			units = append(units, string(unit))
			return nil
		})
		if err != nil {
			return err
		}
		for _, unit := range units {
			failed, err := s.blame(tx, j, st, unit, now)
			if err != nil {
				return err
			}
			if failed {
				break
			}
		}
	}
	return nil
}

// A candidate is an active job that has a claimable unit.
type candidate struct {
	job
	state  *state
	owned  int    // leased units of all jobs of its owner
	leased int    // leased units of its own
	served uint64 // 0: never
	ready  []byte // key of the unit in bucketReady
}

// choose returns the job to serve, or nil if there is none; then it notes when
// that may change. It moves delayed units that are due to the ready ones and
// reports whether it did.
func (s *Store) choose(tx *bbolt.Tx, now time.Time) (best *candidate, promoted bool, err error) {
	places, err := s.ranked(tx)
	if err != nil {
		return nil, false, err
	}
	var (
		candidates []*candidate
		wake       time.Time // earliest time at which more may be claimable
		owned      = map[string]int{}
		owners     = map[jobs.ID]string{}
	)
	for _, p := range places {
		j, st, err := known(tx, p.id)
		if err != nil {
			return nil, promoted, err
		}
		c := &candidate{job: j, state: st, served: served(tx, p.id)}
		stage := c.countLeased()
		owned[p.owner] += c.leased
		owners[p.id] = p.owner
		if !p.active {
			continue
		}
		moved, due, err := c.look(stage, now)
		if err != nil {
			return nil, promoted, err
		}
		promoted = promoted || moved
		if !due.IsZero() && (wake.IsZero() || due.Before(wake)) {
			wake = due
		}
		if c.ready != nil {
			candidates = append(candidates, c)
		}
	}
	for _, c := range candidates {
		c.owned = owned[owners[c.id]]
		if best == nil || c.before(best) {
			best = c
		}
	}
	if best == nil {
		s.nothing(wake, now)
	}
	return best, promoted, nil
}

func known(tx *bbolt.Tx, id jobs.ID) (job, *state, error) {
	j, ok := lookup(tx, id)
	if !ok {
		return j, nil, errors.New("boltstore: a job in an index does not exist")
	}
	st, err := j.state()
	return j, st, err
}

// before says which of two jobs is served first.
func (c *candidate) before(d *candidate) bool {
	if c.owned != d.owned {
		return c.owned < d.owned
	}
	if c.leased != d.leased {
		return c.leased < d.leased
	}
	if c.served != d.served {
		return c.served < d.served
	}
	return c.state.CreatedAt.Before(d.state.CreatedAt)
}

// countLeased counts the leased units of a job, and returns the lowest of their
// stages: 255 if there is none.
func (c *candidate) countLeased() (stage byte) {
	stage = 255
	leased := bucketLeased.in(c.b).Cursor()
	for k, v := leased.First(); k != nil; k, v = leased.Next() {
		c.leased++
		_, s := readLeased(v)
		stage = min(stage, s)
	}
	return stage
}

// look finds the first claimable unit of a job (c.ready, nil if none), whose
// leased units are of this stage or later, and says when a delayed unit of the
// same stage is due. It reads a few keys only, however many units there are.
func (c *candidate) look(stage byte, now time.Time) (moved bool, due time.Time, err error) {
	ready, delayed := bucketReady.in(c.b), bucketDelayed.in(c.b)
	first, _ := ready.Cursor().First()
	if first != nil {
		stage = min(stage, first[0])
	}
	if k, _ := delayed.Cursor().First(); k != nil {
		stage = min(stage, k[0])
	}
	for {
		k, id := delayed.Cursor().First()
		if k == nil || k[0] != stage {
			break
		}
		if at := readTime(k[1:]); at.After(now) {
			due = at
			break
		}
		u, err := c.unit(string(id))
		if err != nil {
			return moved, due, err
		}
		if err := delayed.Delete(slices.Clone(k)); err != nil {
			return moved, due, err
		}
		if err := ready.Put(readyKey(u), []byte(u.ID)); err != nil {
			return moved, due, err
		}
		moved = true
	}
	if first, _ = ready.Cursor().First(); first != nil && first[0] == stage {
		c.ready = bytes.Clone(first)
	}
	return moved, due, nil
}

// lease gives the first ready unit of a job to a worker.
func (s *Store) lease(tx *bbolt.Tx, c *candidate, worker string, now time.Time) (*jobs.Lease, *jobs.Job, error) {
	ready := bucketReady.in(c.b)
	u, err := c.unit(string(ready.Get(c.ready)))
	if err != nil {
		return nil, nil, err
	}
	u.Attempt++
	u.Worker = worker
	if c.state.State == jobs.Queued {
		if err := leaveIndex(tx, c.id, c.state); err != nil {
			return nil, nil, err
		}
		c.state.State, c.state.StartedAt = jobs.Running, now.UTC()
		s.placed = false
		if err := c.putState(c.state); err != nil {
			return nil, nil, err
		}
	}
	turn, err := nextTurn(tx)
	if err != nil {
		return nil, nil, err
	}
	err = errors.Join(
		bucketRunning.in(tx).Put([]byte(c.id), turn),
		ready.Delete(c.ready),
		bucketLeased.in(c.b).Put([]byte(u.ID), leasedValue(u)),
		c.putUnit(u),
	)
	if err != nil {
		return nil, nil, err
	}
	whole, err := c.load(false)
	if err != nil {
		return nil, nil, err
	}
	return &jobs.Lease{
		Job: c.id, Unit: u.Unit, Attempt: u.Attempt, Tries: u.Tries, Silent: u.Silent, Worker: worker,
		Checkpoint: bytes.Clone(bucketCheckpoints.in(c.b).Get([]byte(u.ID))),
		ExpiresAt:  now.Add(s.limits.LeaseTTL),
	}, whole, nil
}
