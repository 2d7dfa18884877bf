package bucket

import (
	"context"
	"fmt"
	"time"

	"gocloud.dev/blob"

	"spillway/storage"
)

const (
	// readyFor and unreadyFor are how long an answer of Ready is good for.
	readyFor   = 10 * time.Second
	unreadyFor = 2 * time.Second
	// readyWithin is how long the service has to answer.
	readyWithin = 2 * time.Second
	// fullFor is how long a bucket that refused a write for want of space is
	// left alone.
	fullFor = 15 * time.Second

	// nowhere is a folder in which nothing is ever written.
	nowhere = "spillway-ready/"
)

// Ready returns nil if the bucket has answered within the last seconds,
// storage.ErrFull for some seconds after it refused a write for want of space,
// or says that it does not answer. It takes two seconds at most.
func (s *Store) Ready(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.isFull(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock() // whoever else asks waits for the same answer
	good := readyFor
	if s.ready != nil {
		good = unreadyFor
	}
	if time.Since(s.asked) < good {
		return s.ready
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWithin)
	defer cancel()
	s.ready = s.once(ctx, "asking whether it is ready", func(ctx context.Context, _ *progress) error {
		_, _, err := s.bucket.ListPage(ctx, blob.FirstPageToken, 1, &blob.ListOptions{Prefix: s.prefix + nowhere})
		return err
	})
	if ctx.Err() != nil {
		s.ready = fmt.Errorf("bucket %s: it has not answered within %v", s.name, readyWithin)
	}
	s.asked = time.Now()
	return s.ready
}

// isFull reports a want of space that was met some seconds ago.
func (s *Store) isFull() error {
	ago := time.Since(time.Unix(0, s.full.Load()))
	if ago > fullFor {
		return nil
	}
	return fmt.Errorf("%w: bucket %s refused a write for want of space %v ago", storage.ErrFull, s.name, ago.Round(time.Second))
}
