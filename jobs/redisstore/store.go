package redisstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"spillway/jobs"
)

var _ jobs.Store = (*Store)(nil)

// A Store is a jobs.Store on Redis. Open makes one.
type Store struct {
	limits   jobs.Limits
	seal     seal // of the records
	shift    func() time.Duration
	prefix   string // "{prefix}:"
	warnings []string

	main    *connection // for all that is answered at once
	waiting *connection // for Idle, whose command blocks
	scripts scripts
	clock   serverClock

	idle     idle
	inFlight sync.WaitGroup // the command of Idle
}

// Warnings are sentences for the operator about what Open found and did not
// refuse: no persistence, what could not be checked, and the like.
func (s *Store) Warnings() []string { return s.warnings }

// Ping reports whether Redis answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.do(ctx, true, func(ctx context.Context, c *redis.Client) error { return c.Ping(ctx).Err() })
}

// Close ends all connections. No other method may be running.
func (s *Store) Close() error {
	err := errors.Join(s.waiting.Close(), s.main.Close())
	s.inFlight.Wait()
	return err
}

// A connection is a client of one Redis or of a cluster.
type connection struct {
	single  *redis.Client        // nil at a cluster
	cluster *redis.ClusterClient // nil else
}

// node is the server that has the slot of a key. A cluster's own client is not
// used for commands: it repeats one whose answer was lost, on this node and on
// others.
func (c *connection) node(ctx context.Context, key string) (*redis.Client, error) {
	if c.cluster == nil {
		return c.single, nil
	}
	return c.cluster.MasterForKey(ctx, key)
}

// moved asks for a fresh look at which node of a cluster has which slot.
func (c *connection) moved(ctx context.Context) {
	if c.cluster != nil {
		c.cluster.ReloadState(ctx)
	}
}

func (c *connection) Close() error {
	if c.cluster != nil {
		return c.cluster.Close()
	}
	return c.single.Close()
}
