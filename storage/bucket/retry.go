package bucket

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
	pauseGrows   = 2
	// quietly is how long a service may be away before a line is logged.
	quietly = 5 * time.Second
)

// errStalled is the cause with which a request ends that moves no byte.
var errStalled = errors.New("no byte has moved")

// try asks the service until it answers, refuses for good, or has been away
// for the store's longest outage. What comes back is a *failure, an error of
// package storage, or that of ctx.
func (s *Store) try(ctx context.Context, what string, attempt func(context.Context, *progress) error) error {
	return s.tryFor(ctx, s.outage, what, attempt)
}

func (s *Store) tryFor(ctx context.Context, outage time.Duration, what string, attempt func(context.Context, *progress) error) error {
	var down time.Time // since when
	logged := false
	wait := &backoff.ExponentialBackOff{
		InitialInterval: s.pause, Multiplier: pauseGrows, MaxInterval: longestPause, RandomizationFactor: 0.5,
	}
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if ctx.Err() != nil {
			return struct{}{}, backoff.Permanent(ctx.Err())
		}
		err := s.once(ctx, what, attempt)
		if err == nil {
			return struct{}{}, nil
		}
		if down.IsZero() {
			down = time.Now()
		}
		if f, ok := errors.AsType[*failure](err); ok && f.kind == transient {
			return struct{}{}, err
		}
		return struct{}{}, backoff.Permanent(err)
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(outage), backoff.WithNotify(func(err error, _ time.Duration) {
		if !logged && time.Since(down) > quietly {
			logged = true
			s.log.WarnContext(ctx, "the bucket does not answer as it should; trying again", "error", err, "for", outage)
		}
	}))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if f, ok := errors.AsType[*failure](err); ok && f.kind == transient {
		f.lasted = time.Since(down)
	}
	return err
}

// tryToEnd is try for requests that had better not be broken off: the end of
// ctx leaves some time for the answer of the one under way.
func (s *Store) tryToEnd(ctx context.Context, what string, attempt func(context.Context, *progress) error) error {
	graced, cancel := withGrace(ctx)
	defer cancel()
	return s.try(ctx, what, func(context.Context, *progress) error { return s.once(graced, what, attempt) })
}

// once makes one attempt, ended when it moves no byte for too long.
func (s *Store) once(ctx context.Context, what string, attempt func(context.Context, *progress) error) error {
	actx, p := watch(ctx, s.silence)
	err := attempt(actx, p)
	p.stop()
	return s.failed(ctx, actx, what, err)
}

// failed makes what an SDK returned an error of ours.
func (s *Store) failed(ctx, attempt context.Context, what string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case isOurs(err):
		return err
	case errors.Is(context.Cause(attempt), errStalled):
		err = errStalled
	}
	f := &failure{name: s.name, what: what, answer: answerOf(err)}
	f.kind = f.answer.kind()
	if f.kind == full {
		s.full.Store(time.Now().UnixNano())
	}
	return f
}

// withGrace returns a context that ends some time after ctx does.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	grown, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-time.After(grace):
			cancel()
		case <-grown.Done():
		}
	})
	return grown, func() { stop(); cancel() }
}

// A progress watches one attempt, and ends it when nothing moves.
type progress struct {
	timer   *time.Timer
	silence time.Duration
	cancel  context.CancelCauseFunc
}

func watch(ctx context.Context, silence time.Duration) (context.Context, *progress) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &progress{
		timer:   time.AfterFunc(silence, func() { cancel(errStalled) }),
		silence: silence, cancel: cancel,
	}
}

// moved says that a byte has.
func (p *progress) moved() { p.timer.Reset(p.silence) }

// pause suspends the watch until something moves.
func (p *progress) pause() { p.timer.Stop() }

// slow grants more time, for a request that makes the service work.
func (p *progress) slow() {
	p.silence *= slowFactor
	p.moved()
}

func (p *progress) stop() {
	p.timer.Stop()
	p.cancel(nil)
}

// A payload is bytes on their way to the service, perhaps more than once.
type payload struct {
	bytes []byte
	sends atomic.Int32
}

// body is what one attempt sends. It has no WriteTo, so that the bytes are
// taken in pieces and each piece is seen.
func (b *payload) body(p *progress) *body {
	b.sends.Add(1)
	return &body{bytes: b.bytes, progress: p}
}

type body struct {
	bytes    []byte
	at       int64
	progress *progress
}

func (b *body) Read(p []byte) (int, error) {
	if b.at >= int64(len(b.bytes)) {
		return 0, io.EOF
	}
	n := copy(p, b.bytes[b.at:])
	b.at += int64(n)
	b.progress.moved()
	return n, nil
}

func (b *body) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += int64(len(b.bytes))
	}
	if offset < 0 {
		return 0, errors.New("a place before the first byte")
	}
	b.at = offset
	return offset, nil
}

func (b *body) Close() error { return nil }
