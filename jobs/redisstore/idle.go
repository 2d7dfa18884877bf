package redisstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/jobs"
)

const (
	// idleMax is how long Idle waits when nothing happens.
	idleMax = time.Second
	// idleAgain is how long Idle waits when there is something to claim but a
	// caller has been told of it already. It keeps a caller that never claims
	// from spinning.
	idleAgain = 50 * time.Millisecond
	// idleGrace is how much later than it should the answer of Redis may come.
	idleGrace = 300 * time.Millisecond
)

// idle is what Idle needs to know.
type idle struct {
	mu         sync.Mutex
	generation uint64    // grows with every change that Redis tells of
	claimed    bool      // there has been a Claim that found nothing
	empty      uint64    // generation in which the latest of them did
	told       uint64    // generation for which an Idle has returned at once
	position   string    // in the stream "wake": what came before has been seen
	due        time.Time // when time alone may make something claimable; zero: never

	call *idleCall // under way; nil: none
}

// An idleCall is the blocking command that all callers of Idle share.
type idleCall struct {
	ended chan struct{} // closed at its end
	err   error         // then
}

func (i *idle) now() (generation uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.generation
}

// nothing notes that a Claim which began in a generation found nothing, in how
// many microseconds that may change (less than 0: never), and what the stream
// had told until then.
func (i *idle) nothing(generation uint64, due int64, position string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.generation != generation {
		return // Redis has told of a change meanwhile: look again
	}
	i.claimed, i.empty, i.position, i.due = true, generation, position, time.Time{}
	if due >= 0 {
		i.due = time.Now().Add(time.Duration(due) * time.Microsecond)
	}
}

// Idle returns when a Claim may succeed again. See jobs.Store. A change that
// came between the last Claim and Idle is not missed. All callers of a process
// share one command of at most a second, which goes on if a caller leaves.
func (s *Store) Idle(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	wait, call := s.await()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	case <-call.ended:
		return call.err
	}
}

// await returns how long to wait, at most until a call has ended.
func (s *Store) await() (wait time.Duration, call *idleCall) {
	i := &s.idle
	i.mu.Lock()
	defer i.mu.Unlock()
	grace := idleGrace
	switch {
	case !i.claimed: // somebody who sweeps only
		wait = idleMax
	case i.generation == i.empty && !i.due.IsZero():
		if wait = min(time.Until(i.due), idleMax); wait <= 0 {
			i.due = time.Time{} // told once
			return 0, nil
		}
		grace = time.Millisecond
	case i.generation == i.empty:
		wait = idleMax
	case i.told != i.generation:
		i.told = i.generation
		return 0, nil
	default:
		return idleAgain, &idleCall{}
	}
	if i.call == nil {
		i.call = &idleCall{ended: make(chan struct{})}
		call, position, longest := i.call, i.position, wait
		s.inFlight.Go(func() { s.listen(call, position, longest) })
	}
	return wait + grace, i.call
}

// listen waits until the stream tells of a change.
func (s *Store) listen(call *idleCall, position string, wait time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), wait+callTimeout)
	defer cancel()
	var heard []redis.XStream
	c, err := s.waiting.node(ctx, s.prefix)
	if err == nil {
		block := max(wait.Round(time.Millisecond), time.Millisecond) // 0 would be for ever
		heard, err = c.XRead(ctx, &redis.XReadArgs{Streams: []string{s.key("wake"), position}, Count: 1, Block: block}).Result()
	}
	err = ignoreNil(err)
	if err != nil {
		s.waiting.moved(ctx)
		if why := outage(err); why != "" {
			err = fmt.Errorf("%w: %s: %w", jobs.ErrUnavailable, why, err)
		} else {
			err = fmt.Errorf("redisstore: %w", err)
		}
	}
	i := &s.idle
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(heard) > 0 && len(heard[0].Messages) > 0 {
		i.generation++
		i.told = i.generation // all who wait are told by the end of this call
		i.position = heard[0].Messages[0].ID
	}
	i.call, call.err = nil, err
	close(call.ended)
}
