package redisstore

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/jobs"
)

const (
	// callTimeout is how long one exchange with Redis may take in all, with
	// waiting for a connection, dialling and repeating.
	callTimeout = 1400 * time.Millisecond
	// lateAfter is how long after its beginning a script may still be run.
	lateAfter = callTimeout + 600*time.Millisecond
	// pause is the time before a command is repeated.
	pause = 50 * time.Millisecond
)

//go:embed scripts/*.lua
var sources embed.FS

// scripts are those of the folder of this name, each with the prelude before it.
type scripts struct {
	create, claim, renew, save, complete, fail, release, cancel, removable, remove, get, done, load, swap, check *redis.Script
}

func readScripts() (s scripts, err error) {
	prelude, err := sources.ReadFile("scripts/prelude.lua")
	for name, to := range map[string]**redis.Script{
		"create": &s.create, "claim": &s.claim, "renew": &s.renew, "save": &s.save, "complete": &s.complete, "fail": &s.fail,
		"release": &s.release, "cancel": &s.cancel, "removable": &s.removable, "remove": &s.remove, "load": &s.load, "swap": &s.swap,
		"get": &s.get, "done": &s.done, "check": &s.check,
	} {
		body, rerr := sources.ReadFile("scripts/" + name + ".lua")
		err = errors.Join(err, rerr)
		*to = redis.NewScript(string(prelude) + string(body))
	}
	return s, err
}

// A reply is what a script answers: a word and what belongs to it.
type reply []any

func (r reply) word() string { return r.text(0) }

func (r reply) text(i int) string {
	if i < len(r) {
		s, _ := r[i].(string)
		return s
	}
	return ""
}

func (r reply) number(i int) int64 {
	if i >= len(r) {
		return 0
	}
	switch v := r[i].(type) {
	case int64:
		return v
	case string:
		n, _ := strconv.ParseInt(v, 10, 64)
		return n
	}
	return 0
}

// texts is the array at i.
func (r reply) texts(i int) (all []string) {
	if i < len(r) {
		inner, _ := r[i].([]any)
		for _, v := range inner {
			s, _ := v.(string)
			all = append(all, s)
		}
	}
	return all
}

// run runs a script. repeat says that it may run twice, since the second run
// finds done what the first did.
func (s *Store) run(ctx context.Context, script *redis.Script, repeat bool, args ...any) (answer reply, err error) {
	all := append([]any{
		s.shift().Microseconds(), jobs.RecordVersion, s.limits.LeaseTTL.Microseconds(), s.limits.Retention.Microseconds(), jobs.MaxTries, 0,
	}, args...)
	for range 2 {
		all[5] = s.clock.after(lateAfter)
		err = s.do(ctx, repeat, func(ctx context.Context, c *redis.Client) error {
			answer, err = script.Run(ctx, c, []string{s.prefix, s.key("epoch")}, all...).Slice()
			return err
		})
		if err != nil || answer.word() != "late" {
			return answer, err
		}
		s.clock.set(answer.number(1)) // somebody has set that of the server, or another serves now
	}
	return nil, fmt.Errorf("%w: the clock of Redis jumps", jobs.ErrUnavailable)
}

// A serverClock estimates what time it is on the server's clock. The zero value
// is always late, and so learns it.
type serverClock struct {
	mu   sync.Mutex
	then int64     // microseconds
	at   time.Time // when it was then
}

func (c *serverClock) set(now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.then, c.at = now, time.Now()
}

// after is the time after a while, in microseconds.
func (c *serverClock) after(d time.Duration) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.then == 0 {
		return 0
	}
	return c.then + (time.Since(c.at) + d).Microseconds()
}

// key names a key.
func (s *Store) key(parts ...string) string { return s.prefix + strings.Join(parts, ":") }

// do has one exchange with Redis. What Redis refused before it began is
// repeated for as long as there is time; what may have been done without an
// answer only with repeat.
func (s *Store) do(ctx context.Context, repeat bool, exchange func(context.Context, *redis.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for {
		c, err := s.main.node(call, s.prefix)
		if err == nil {
			err = exchange(call, c)
		}
		if err == nil {
			return nil
		}
		elsewhere := mentions(err, "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
		if elsewhere || !replied(err) {
			s.main.moved(call)
		}
		if !elsewhere && (!repeat || replied(err)) {
			return failure(ctx, err)
		}
		repeat = repeat && elsewhere
		select {
		case <-call.Done():
			return failure(ctx, err)
		case <-time.After(pause):
		}
	}
}

// replied reports whether an error is an answer of Redis.
func replied(err error) bool {
	_, ok := errors.AsType[redis.Error](err)
	return ok
}

// mentions reports whether an answer of Redis is one of these errors. Before
// version 7 that of a command within a script stands in the midst of a text.
func mentions(err error, codes ...string) bool {
	if !replied(err) {
		return false
	}
	for _, code := range codes {
		if text := err.Error(); strings.HasPrefix(text, code+" ") || strings.HasPrefix(text, "ERR ") && strings.Contains(text, "-"+code+" ") {
			return true
		}
	}
	return false
}

// failure says why an exchange came to nothing.
func failure(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case ctx.Err() != nil:
		return fmt.Errorf("%w: Redis does not answer in time: %w", jobs.ErrUnavailable, ctx.Err())
	}
	if why := outage(err); why != "" {
		return fmt.Errorf("%w: %s: %w", jobs.ErrUnavailable, why, err)
	}
	return fmt.Errorf("redisstore: %w", err)
}

// outage says in words why Redis cannot serve now; empty if that is not why an
// exchange failed.
func outage(err error) string {
	switch {
	case !replied(err) && errors.Is(err, context.DeadlineExceeded):
		return "Redis does not answer in time"
	case !replied(err):
		return "Redis cannot be reached"
	case mentions(err, "LOADING"):
		return "Redis is reading its data from disk"
	case mentions(err, "MASTERDOWN", "READONLY"):
		return "this Redis is a replica, or its master is away"
	case mentions(err, "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN"):
		return "the Redis Cluster is being rearranged, or a part of it is away"
	case mentions(err, "OOM"):
		return "Redis is full (maxmemory)"
	case mentions(err, "MISCONF", "NOREPLICAS"):
		return "Redis accepts no writes"
	case mentions(err, "BUSY"):
		return "Redis is busy with a script of somebody"
	case mentions(err, "NOAUTH", "WRONGPASS", "NOPERM"):
		return "Redis no longer accepts the user or password, or does not permit a command"
	case strings.Contains(err.Error(), "max number of clients"):
		return "Redis has too many clients"
	}
	return ""
}
