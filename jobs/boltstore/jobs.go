package boltstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

// Create records a job and its first unit. See jobs.Store.
func (s *Store) Create(ctx context.Context, j *jobs.Job, first jobs.Unit) error {
	if _, ok := jobs.ParseID(string(j.ID)); !ok {
		return errors.New("boltstore: the id of the job is malformed")
	}
	if j.State != jobs.Queued {
		return errors.New("boltstore: a new job must be queued")
	}
	var refused error
	err := s.update(ctx, &change{
		do: func(tx *bbolt.Tx) (wrote bool, err error) {
			refused = nil
			if _, ok := lookup(tx, j.ID); ok {
				refused = jobs.ErrExists
				return false, nil
			}
			s.placed = false
			return true, create(tx, j, first, s.now())
		},
		then: s.changedNow,
	})
	return cmp.Or(err, refused)
}

func create(tx *bbolt.Tx, j *jobs.Job, first jobs.Unit, now time.Time) error {
	b, err := bucketJobs.in(tx).CreateBucket([]byte(j.ID))
	if err != nil {
		return err
	}
	for _, name := range append(slices.Clone(working), bucketDone) {
		if _, err := b.CreateBucket([]byte(name)); err != nil {
			return err
		}
	}
	record := *j
	record.Files, record.Evidence = nil, nil
	if err := put(b, []byte(keyJob), &record); err != nil {
		return err
	}
	st := &state{
		Version: j.Version, State: j.State, CreatedAt: j.CreatedAt,
		StartedAt: j.StartedAt, EndedAt: j.EndedAt, ExpiresAt: j.ExpiresAt,
		TransactionTime: j.TransactionTime, Progress: j.Progress, Failure: j.Failure,
	}
	st.Progress.UnitsTotal++
	made := job{j.ID, b}
	if err := made.putState(st); err != nil {
		return err
	}
	if err := made.add(first, now); err != nil {
		return err
	}
	return bucketQueued.in(tx).Put(timeKey(j.CreatedAt, j.ID), nil)
}

// Get returns a job. See jobs.Store.
func (s *Store) Get(ctx context.Context, id jobs.ID) (found *jobs.Job, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		j, ok := lookup(tx, id)
		if !ok {
			return jobs.ErrNotFound
		}
		found, err = j.load(true)
		return err
	})
	return found, err
}

// List returns all jobs, oldest first. See jobs.Store.
func (s *Store) List(ctx context.Context) (all []*jobs.Job, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		return bucketJobs.in(tx).ForEachBucket(func(id []byte) error {
			j, _ := lookup(tx, jobs.ID(id))
			whole, err := j.load(false)
			all = append(all, whole)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b *jobs.Job) int {
		if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return all, nil
}

// Done returns the completed units of a job. See jobs.Store.
func (s *Store) Done(ctx context.Context, id jobs.ID) (done []jobs.Done, err error) {
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		j, ok := lookup(tx, id)
		if !ok {
			return jobs.ErrNotFound
		}
		return bucketDone.in(j.b).ForEach(func(_, raw []byte) error {
			var d jobs.Done
			if err := decode(raw, &d); err != nil {
				return err
			}
			if d.Unit.Kind == jobs.UnitFinish { // kept once, with the job
				out, err := j.output()
				if err != nil {
					return err
				}
				d.Result.Files, d.Result.Evidence = out.Files, out.Evidence
			}
			done = append(done, d)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return done, nil
}

// Cancel makes a job Canceled. See jobs.Store.
func (s *Store) Cancel(ctx context.Context, id jobs.ID) error {
	var refused error
	err := s.update(ctx, &change{
		do: func(tx *bbolt.Tx) (wrote bool, err error) {
			refused = nil
			j, ok := lookup(tx, id)
			if !ok {
				refused = jobs.ErrNotFound
				return false, nil
			}
			st, err := j.state()
			switch {
			case err != nil:
				return false, err
			case st.newer():
				refused = errNewer
				return false, nil
			case st.State == jobs.Canceled:
				refused = jobs.ErrNotFound
				return false, nil
			}
			return true, s.end(tx, j, st, jobs.Canceled)
		},
		then: func() {
			s.void(id)
			s.changedNow()
		},
	})
	return cmp.Or(err, refused)
}

// end gives a job a final state. What only its unfinished units needed goes.
// The caller calls void once the transaction is on disk.
func (s *Store) end(tx *bbolt.Tx, j job, st *state, final jobs.State) error {
	s.placed = false
	if err := leaveIndex(tx, j.id, st); err != nil {
		return err
	}
	now := s.now().UTC()
	if st.EndedAt.IsZero() {
		st.EndedAt = now
	}
	st.State = final
	st.ExpiresAt = now
	if final != jobs.Canceled {
		st.ExpiresAt = now.Add(s.limits.Retention)
	}
	if err := j.putState(st); err != nil {
		return err
	}
	for _, name := range working {
		if name.in(j.b) == nil { // it had ended before
			continue
		}
		if err := j.b.DeleteBucket([]byte(name)); err != nil {
			return err
		}
	}
	return bucketEnded.in(tx).Put(timeKey(st.ExpiresAt, j.id), nil)
}

// leaveIndex takes a job out of the index that its state puts it in.
func leaveIndex(tx *bbolt.Tx, id jobs.ID, st *state) error {
	switch st.State {
	case jobs.Queued:
		return bucketQueued.in(tx).Delete(timeKey(st.CreatedAt, id))
	case jobs.Running:
		return bucketRunning.in(tx).Delete([]byte(id))
	}
	return bucketEnded.in(tx).Delete(timeKey(st.ExpiresAt, id))
}

// Removable returns the jobs whose bytes may go. See jobs.Store.
func (s *Store) Removable(ctx context.Context) (ids []jobs.ID, err error) {
	now := s.now()
	writing := s.writing(now)
	err = s.view(ctx, func(tx *bbolt.Tx) error {
		c := bucketEnded.in(tx).Cursor()
		for k, _ := c.First(); k != nil && !readTime(k).After(now); k, _ = c.Next() {
			id := jobs.ID(k[8:])
			if writing[id] {
				continue
			}
			j, ok := lookup(tx, id)
			if !ok {
				return fmt.Errorf("boltstore: a job in %s does not exist", bucketEnded)
			}
			st, err := j.state()
			if err != nil {
				return err
			}
			if !st.newer() {
				ids = append(ids, id)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}

// Remove deletes the record of a job. See jobs.Store.
func (s *Store) Remove(ctx context.Context, id jobs.ID) error {
	var refused error
	err := s.update(ctx, &change{
		do: func(tx *bbolt.Tx) (wrote bool, err error) {
			refused = nil
			j, ok := lookup(tx, id)
			if !ok {
				return false, nil
			}
			st, err := j.state()
			if err != nil {
				return false, err
			}
			if st.newer() {
				refused = errNewer
				return false, nil
			}
			s.placed = false
			if err := leaveIndex(tx, id, st); err != nil {
				return false, err
			}
			return true, bucketJobs.in(tx).DeleteBucket([]byte(id))
		},
		then: func() {
			s.forget(id)
			s.changedNow()
		},
	})
	return cmp.Or(err, refused)
}

// nextTurn returns the next value of the counter that orders jobs by their last claim.
func nextTurn(tx *bbolt.Tx) ([]byte, error) {
	n, err := bucketRunning.in(tx).NextSequence()
	return binary.BigEndian.AppendUint64(nil, n), err
}
