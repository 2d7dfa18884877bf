package boltstore

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"

	"spillway/jobs"
)

// Renew extends a lease. See jobs.Store. It touches memory only.
func (s *Store) Renew(ctx context.Context, l *jobs.Lease) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.extend(l) {
		return nil
	}
	verdict := jobs.ErrLeaseLost
	err := s.view(ctx, func(tx *bbolt.Tx) error {
		j, ok := lookup(tx, l.Job)
		if !ok {
			return nil
		}
		st, err := j.state()
		if err == nil && st.State.Ended() {
			verdict = jobs.ErrEnded
		}
		return err
	})
	if err != nil {
		return err
	}
	return verdict
}

// Save stores a checkpoint. See jobs.Store.
func (s *Store) Save(ctx context.Context, l *jobs.Lease, checkpoint json.RawMessage) error {
	return s.write(ctx, l, false, func(_ *bbolt.Tx, j job, _ *state) error {
		if len(checkpoint) == 0 {
			return bucketCheckpoints.in(j.b).Delete([]byte(l.Unit.ID))
		}
		return bucketCheckpoints.in(j.b).Put([]byte(l.Unit.ID), checkpoint)
	}, func() {
		s.extend(l)
	})
}

// Complete ends a unit. See jobs.Store. A result is refused, and the lease
// goes on, if r.Next breaks a rule, or if no unit would be left to finish the job.
func (s *Store) Complete(ctx context.Context, l *jobs.Lease, r jobs.Result) error {
	if err := validNext(l.Unit, r.Next); err != nil {
		return err
	}
	var ended bool
	return s.write(ctx, l, true, func(tx *bbolt.Tx, j job, st *state) error {
		ended = false
		u, err := j.unit(l.Unit.ID)
		if err != nil {
			return err
		}
		for _, next := range r.Next {
			if bucketUnits.in(j.b).Get([]byte(next.ID)) != nil {
				return refusal{fmt.Errorf("boltstore: the id of a %s unit has been used in its job before", next.Kind)}
			}
		}
		if u.Kind != jobs.UnitFinish && len(r.Next) == 0 && j.last() {
			return refusal{errors.New("boltstore: the result leaves the job without a unit that would finish it")}
		}
		if err := j.complete(u, r, s.now()); err != nil {
			return err
		}
		count(&st.Progress, r)
		if u.Kind == jobs.UnitPlan && !r.TransactionTime.IsZero() {
			st.TransactionTime = r.TransactionTime
		}
		if u.Kind != jobs.UnitFinish {
			return j.putState(st)
		}
		ended = true
		if err := put(j.b, []byte(keyOutput), output{r.Files, r.Evidence}); err != nil {
			return err
		}
		return s.end(tx, j, st, jobs.Completed)
	}, func() {
		if ended {
			s.void(l.Job)
		}
		s.changedNow()
	})
}

// validNext checks what can be told of new units without looking at the job.
func validNext(u jobs.Unit, next []jobs.Unit) error {
	ids := make(map[string]bool, len(next))
	for _, n := range next {
		switch {
		case !validUnitID(n.ID):
			return fmt.Errorf("boltstore: the id of a %s unit is not made of letters, digits and '-'", n.Kind)
		case ids[n.ID]:
			return fmt.Errorf("boltstore: two new %s units have one id", n.Kind)
		case n.Kind.Stage() < u.Kind.Stage():
			return fmt.Errorf("boltstore: a %s unit cannot add a %s unit, whose stage is over", u.Kind, n.Kind)
		}
		ids[n.ID] = true
	}
	return nil
}

// last reports whether a leased unit is the only unfinished one of its job.
func (j job) last() bool {
	ready, _ := bucketReady.in(j.b).Cursor().First()
	delayed, _ := bucketDelayed.in(j.b).Cursor().First()
	leased := bucketLeased.in(j.b).Cursor()
	leased.First()
	second, _ := leased.Next()
	return ready == nil && delayed == nil && second == nil
}

// complete moves a unit to the done ones and adds the next.
func (j job) complete(u *unit, r jobs.Result, now time.Time) error {
	done := bucketDone.in(j.b)
	order, err := done.NextSequence()
	if err != nil {
		return err
	}
	done.FillPercent = 0.95 // only ever appended to
	kept := r
	kept.Files, kept.Evidence = nil, nil // with the job
	err = errors.Join(
		put(done, binary.BigEndian.AppendUint64(nil, order), jobs.Done{Unit: u.Unit, Attempt: u.Attempt, Result: kept}),
		bucketUnits.in(j.b).Put([]byte(u.ID), nil),
		bucketLeased.in(j.b).Delete([]byte(u.ID)),
		bucketCheckpoints.in(j.b).Delete([]byte(u.ID)),
	)
	if err != nil {
		return err
	}
	for _, n := range r.Next {
		if err := j.add(n, now); err != nil {
			return err
		}
	}
	return nil
}

// count adds what a completed unit changes.
func count(p *jobs.Progress, r jobs.Result) {
	p.UnitsDone++
	p.UnitsTotal += int64(len(r.Next))
	change := func(typ string, f func(*jobs.TypeProgress)) {
		if p.Types == nil {
			p.Types = map[string]jobs.TypeProgress{}
		}
		t := p.Types[typ]
		f(&t)
		p.Types[typ] = t
	}
	for _, n := range r.Next {
		if n.Kind == jobs.UnitSlice && n.Type != "" {
			change(n.Type, func(t *jobs.TypeProgress) { t.Expected += n.Weight })
		}
	}
	for _, seg := range r.Segments {
		if seg.Kind == jobs.KindOutput {
			change(seg.Type, func(t *jobs.TypeProgress) { t.Done += seg.Count; t.Bytes += seg.Size })
		}
	}
}

// Fail ends an attempt that did not succeed. See jobs.Store.
func (s *Store) Fail(ctx context.Context, l *jobs.Lease, f jobs.Failure, retryIn time.Duration) error {
	var ended bool
	return s.write(ctx, l, true, func(tx *bbolt.Tx, j job, st *state) error {
		ended = false
		u, err := j.unit(l.Unit.ID)
		if err != nil {
			return err
		}
		u.Tries++
		if f.Permanent || u.Tries >= jobs.MaxTries {
			ended = true
			st.Failure = f.Reason
			return s.end(tx, j, st, jobs.Failed)
		}
		now := s.now()
		return j.requeue(u, now.Add(retryIn), now)
	}, func() {
		if ended {
			s.void(l.Job)
		}
		s.changedNow()
	})
}

// Release hands a unit back. See jobs.Store.
func (s *Store) Release(ctx context.Context, l *jobs.Lease, notBefore time.Time) error {
	return s.write(ctx, l, true, func(_ *bbolt.Tx, j job, _ *state) error {
		u, err := j.unit(l.Unit.ID)
		if err != nil {
			return err
		}
		return j.requeue(u, notBefore, s.now())
	}, s.changedNow)
}

// A refusal says what is wrong with a caller's request. The transaction of
// others is not harmed by it.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

// write makes a change in the name of a lease: do runs only if the lease holds,
// then after it is on disk. letGo says that the holder is through with the
// unit, whatever comes of it.
func (s *Store) write(ctx context.Context, l *jobs.Lease, letGo bool, do func(*bbolt.Tx, job, *state) error, then func()) error {
	var refused error
	h := holderOf(l)
	err := s.update(ctx, &change{
		do: func(tx *bbolt.Tx) (wrote bool, err error) {
			refused = nil
			j, ok := lookup(tx, l.Job)
			if !ok {
				refused = jobs.ErrLeaseLost
				return false, nil
			}
			st, err := j.state()
			switch {
			case err != nil:
				return false, err
			case st.State.Ended():
				refused = jobs.ErrEnded
				return false, nil
			case !j.leasedTo(h.unit, h.attempt) || !s.holds(h):
				refused = jobs.ErrLeaseLost
				return false, nil
			}
			err = do(tx, j, st)
			if r, ok := errors.AsType[refusal](err); ok { // given before anything is written
				refused = r.error
				return false, nil
			}
			return true, err
		},
		then: func() {
			if letGo {
				s.release(h)
			}
			then()
		},
	})
	if err == nil && errors.Is(refused, jobs.ErrEnded) && letGo {
		s.release(h)
		s.changedNow() // its job may be removable now
	}
	return cmp.Or(err, refused)
}
