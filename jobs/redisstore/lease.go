package redisstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"spillway/jobs"
)

// silentReason is why a job fails whose unit has no failure to show for its tries.
const silentReason = "The export was given up: the processes that worked on it stopped without a word during the same step again and again. " +
	"Ask the operator of this service to look into their logs."

// Claim leases one unit. See jobs.Store. If the answer is lost the unit stays
// leased to nobody until the lease runs out.
func (s *Store) Claim(ctx context.Context, worker string) (*jobs.Lease, *jobs.Job, error) {
	before := s.idle.now()
	answer, err := s.run(ctx, s.scripts.claim, false, s.limits.MaxActive, max(0, s.limits.MaxActivePerOwner), silentReason)
	if err != nil {
		return nil, nil, err
	}
	if answer.word() == "none" {
		s.idle.nothing(before, answer.number(1), answer.text(2))
		return nil, nil, jobs.ErrNoWork
	}
	id := jobs.ID(answer.text(1))
	j, err := s.seal.jobOf(id, fieldsAt(answer, 9))
	if err != nil {
		return nil, nil, err
	}
	l := &jobs.Lease{
		Job: id, Worker: worker,
		Attempt: answer.number(4), Tries: int(answer.number(5)), Silent: int(answer.number(6)),
		ExpiresAt: time.UnixMicro(answer.number(8)).UTC(),
	}
	if err := s.seal.decode(place{kind: placeUnit, job: id}, answer.text(3), &l.Unit, "a unit"); err != nil {
		return nil, nil, err
	}
	checkpoint, err := s.seal.open(place{kind: placeCheckpoint, job: id, unit: l.Unit.ID}, answer.text(7), "the checkpoint of a unit")
	if checkpoint != "" {
		l.Checkpoint = json.RawMessage(checkpoint)
	}
	return l, j, err
}

// present is how a lease is shown to a script.
func present(l *jobs.Lease, more ...any) []any {
	return append([]any{string(l.Job), l.Unit.ID, l.Attempt}, more...)
}

// Renew extends a lease. See jobs.Store.
func (s *Store) Renew(ctx context.Context, l *jobs.Lease) error {
	answer, err := s.run(ctx, s.scripts.renew, true, present(l)...)
	return extended(l, answer, err)
}

// Save stores a checkpoint. See jobs.Store.
func (s *Store) Save(ctx context.Context, l *jobs.Lease, checkpoint json.RawMessage) error {
	answer, err := s.run(ctx, s.scripts.save, true, present(l, s.seal.close(place{kind: placeCheckpoint, job: l.Job, unit: l.Unit.ID}, checkpoint))...)
	return extended(l, answer, err)
}

func extended(l *jobs.Lease, answer reply, err error) error {
	if err != nil {
		return err
	}
	if err := verdict(answer); err != nil {
		return err
	}
	l.ExpiresAt = time.UnixMicro(answer.number(1)).UTC()
	return nil
}

// Complete ends a unit. See jobs.Store. A result is refused, and the lease goes
// on, if r.Next breaks a rule, or if no unit would be left to finish the job. If
// the answer is lost, a second Complete returns jobs.ErrLeaseLost though the
// first was recorded: its bytes are then the result's, so nobody may remove them.
func (s *Store) Complete(ctx context.Context, l *jobs.Lease, r jobs.Result) error {
	if err := validNext(l.Unit, r.Next); err != nil {
		return err
	}
	kept, out := r, []byte(nil)
	kept.Files, kept.Evidence = nil, nil // with the job
	result, err := s.seal.encode(place{kind: placeResult, job: l.Job, unit: l.Unit.ID, attempt: l.Attempt}, kept)
	if err != nil {
		return err
	}
	if l.Unit.Kind == jobs.UnitFinish {
		if out, err = s.seal.encode(place{kind: placeOutput, job: l.Job}, output{r.Files, r.Evidence}); err != nil {
			return err
		}
	}
	var at []byte
	if !r.TransactionTime.IsZero() {
		at = s.seal.close(place{kind: placeTime, job: l.Job}, []byte(r.TransactionTime.Format(time.RFC3339Nano)))
	}
	add := counts(r)
	args := append(present(l, result, at, out, len(add)/2), add...)
	for _, n := range r.Next {
		unit, err := s.seal.unitArgs(l.Job, n)
		if err != nil {
			return err
		}
		args = append(args, unit...)
	}
	answer, err := s.run(ctx, s.scripts.complete, false, args...)
	switch {
	case err != nil:
		return err
	case answer.word() == "used":
		return fmt.Errorf("redisstore: the id of a %s unit has been used in its job before", r.Next[answer.number(1)].Kind)
	case answer.word() == "last":
		return errors.New("redisstore: the result leaves the job without a unit that would finish it")
	}
	return verdict(answer)
}

// validNext checks what can be told of new units without looking at the job.
func validNext(u jobs.Unit, next []jobs.Unit) error {
	ids := make(map[string]bool, len(next))
	for _, n := range next {
		switch {
		case !validUnitID(n.ID):
			return fmt.Errorf("redisstore: the id of a %s unit is not made of letters, digits and '-'", n.Kind)
		case ids[n.ID]:
			return fmt.Errorf("redisstore: two new %s units have one id", n.Kind)
		case n.Kind.Stage() < u.Kind.Stage():
			return fmt.Errorf("redisstore: a %s unit cannot add a %s unit, whose stage is over", u.Kind, n.Kind)
		}
		ids[n.ID] = true
	}
	return nil
}

// Fail ends an attempt that did not succeed. See jobs.Store.
func (s *Store) Fail(ctx context.Context, l *jobs.Lease, f jobs.Failure, retryIn time.Duration) error {
	permanent := 0
	if f.Permanent {
		permanent = 1
	}
	answer, err := s.run(ctx, s.scripts.fail, false, present(l, f.Reason, permanent, max(0, retryIn).Microseconds())...)
	if err != nil {
		return err
	}
	return verdict(answer)
}

// Release hands a unit back. See jobs.Store.
func (s *Store) Release(ctx context.Context, l *jobs.Lease, notBefore time.Time) error {
	answer, err := s.run(ctx, s.scripts.release, false, present(l, micros(notBefore))...)
	if err != nil {
		return err
	}
	return verdict(answer)
}
