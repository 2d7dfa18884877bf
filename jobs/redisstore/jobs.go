package redisstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"

	"spillway/jobs"
)

// atOnce is how many records one command reads: few enough that Redis is not
// kept from others.
const atOnce = 200

var errNewer = errors.New("redisstore: the job was written by a newer version of spillway, which must remove it")

// Create records a job and its first unit. See jobs.Store. A call that is cut
// off is repeated once, and knows what it has created itself. If it then still
// returns jobs.ErrUnavailable the job may be there or not, and a second Create
// of it would return jobs.ErrExists.
func (s *Store) Create(ctx context.Context, j *jobs.Job, first jobs.Unit) error {
	if _, ok := jobs.ParseID(string(j.ID)); !ok {
		return errors.New("redisstore: the id of the job is malformed")
	}
	if j.State != jobs.Queued {
		return errors.New("redisstore: a new job must be queued")
	}
	if !validUnitID(first.ID) {
		return fmt.Errorf("redisstore: the id of a %s unit is not made of letters, digits and '-'", first.Kind)
	}
	fields, err := s.seal.fieldsOf(j)
	if err != nil {
		return err
	}
	unit, err := s.seal.unitArgs(j.ID, first)
	if err != nil {
		return err
	}
	args := append([]any{string(j.ID), rand.Text(), j.Version, j.Owner, j.CreatedAt.UnixMicro()}, unit...)
	answer, err := s.run(ctx, s.scripts.create, true, append(args, fields...)...)
	if err == nil && answer.word() == "exists" {
		err = jobs.ErrExists
	}
	return err
}

// Get returns a job. See jobs.Store.
func (s *Store) Get(ctx context.Context, id jobs.ID) (*jobs.Job, error) {
	answer, err := s.run(ctx, s.scripts.get, true, string(id))
	if err == nil {
		err = verdict(answer)
	}
	if err != nil {
		return nil, err
	}
	j, err := s.seal.jobOf(id, fieldsAt(answer, 1))
	if err != nil {
		return nil, err
	}
	out, err := s.seal.outputOf(id, answer.text(2))
	j.Files, j.Evidence = out.Files, out.Evidence
	return j, err
}

// ignoreNil lets a missing value be no error.
func ignoreNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// List returns all jobs, oldest first. See jobs.Store.
func (s *Store) List(ctx context.Context) (all []*jobs.Job, err error) {
	var ids []string
	err = s.do(ctx, true, func(ctx context.Context, c *redis.Client) (err error) {
		ids, err = c.ZRange(ctx, s.key("jobs"), 0, -1).Result()
		return err
	})
	for len(ids) > 0 && err == nil {
		some := ids[:min(len(ids), atOnce)]
		ids = ids[len(some):]
		var found []redis.Cmder
		err = s.do(ctx, true, func(ctx context.Context, c *redis.Client) (err error) {
			found, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
				for _, id := range some {
					p.HGetAll(ctx, s.key("job", id))
				}
				return nil
			})
			return err
		})
		for i, cmd := range found {
			fields := cmd.(*redis.MapStringStringCmd).Val()
			if err != nil || len(fields) == 0 { // removed meanwhile
				continue
			}
			var j *jobs.Job
			if j, err = s.seal.jobOf(jobs.ID(some[i]), fields); err == nil {
				all = append(all, j)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Done returns the completed units of a job. See jobs.Store. It reads them a
// few at a time; the list only ever grows at its end.
func (s *Store) Done(ctx context.Context, id jobs.ID) (done []jobs.Done, err error) {
	for {
		answer, err := s.run(ctx, s.scripts.done, true, string(id), len(done), atOnce)
		if err == nil {
			err = verdict(answer)
		}
		if err != nil {
			return nil, err
		}
		some := answer.texts(1)
		for _, stored := range some {
			d, err := s.seal.doneOf(id, stored)
			if err != nil {
				return nil, err
			}
			if d.Unit.Kind == jobs.UnitFinish { // kept once, with the job
				out, err := s.seal.outputOf(id, answer.text(2))
				if err != nil {
					return nil, err
				}
				d.Result.Files, d.Result.Evidence = out.Files, out.Evidence
			}
			done = append(done, d)
		}
		if len(some) < atOnce {
			return done, nil
		}
	}
}

// Cancel makes a job Canceled. See jobs.Store.
func (s *Store) Cancel(ctx context.Context, id jobs.ID) error {
	answer, err := s.run(ctx, s.scripts.cancel, false, string(id))
	if err != nil {
		return err
	}
	return verdict(answer)
}

// verdict is the error that the word of an answer stands for.
func verdict(answer reply) error {
	switch word := answer.word(); word {
	case "ok":
		return nil
	case "lost":
		return jobs.ErrLeaseLost
	case "ended":
		return jobs.ErrEnded
	case "none":
		return jobs.ErrNotFound
	case "newer":
		return errNewer
	default:
		return fmt.Errorf("redisstore: a script answered %q", word)
	}
}

// Removable returns the jobs whose bytes may go. See jobs.Store.
func (s *Store) Removable(ctx context.Context) ([]jobs.ID, error) {
	answer, err := s.run(ctx, s.scripts.removable, true)
	if err != nil {
		return nil, err
	}
	var ids []jobs.ID
	for _, id := range answer.texts(1) {
		ids = append(ids, jobs.ID(id))
	}
	return ids, nil
}

// Remove deletes the record of a job. See jobs.Store.
func (s *Store) Remove(ctx context.Context, id jobs.ID) error {
	answer, err := s.run(ctx, s.scripts.remove, true, string(id))
	if err != nil {
		return err
	}
	return verdict(answer)
}
