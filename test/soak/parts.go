package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"spillway/jobs"
	"spillway/storage"
)

var errBroken = errors.New("soak: broken on purpose")

// pause is how long what stalls does so.
const pause = 300 * time.Millisecond

// do lets an operation happen, or not, as the fault wants.
func (p *points) do(ctx context.Context, of *process, d domain, what string, failure error, op func() error) error {
	if err := p.alive(ctx, of); err != nil {
		return err
	}
	switch p.at(d, what) {
	case kill:
		of.kill()
		return p.alive(ctx, of)
	case after:
		_ = op()
		of.kill()
		return p.alive(ctx, of)
	case stall:
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	case fails, full:
		return failure
	case lost:
		return errors.Join(op(), failure)
	}
	return op()
}

// files is a storage that the fault strikes.
type files struct {
	storage.Store
	points *points
	of     *process
}

func (f *files) do(ctx context.Context, what string, op func() error) error {
	return f.points.do(ctx, f.of, toStorage, what, errBroken, op)
}

func (f *files) Create(ctx context.Context, key string) (storage.Writer, error) {
	var w storage.Writer
	err := f.do(ctx, "create", func() (err error) {
		w, err = f.Store.Create(ctx, key)
		return err
	})
	if err != nil {
		if w != nil {
			_ = w.Abort()
		}
		return nil, err
	}
	return &writer{Writer: w, files: f, ctx: ctx}, nil
}

type writer struct {
	storage.Writer
	files *files
	ctx   context.Context
}

func (w *writer) Write(b []byte) (n int, err error) {
	err = w.files.do(context.WithoutCancel(w.ctx), "write", func() error {
		n, err = w.Writer.Write(b)
		return err
	})
	return n, err
}

func (w *writer) Commit(ctx context.Context) error {
	return w.files.do(ctx, "commit", func() error { return w.Writer.Commit(ctx) })
}

func (w *writer) Abort() error {
	select {
	case <-w.files.of.dead:
		return nil // the dead do not clean up
	default:
		return w.Writer.Abort()
	}
}

func (f *files) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := f.points.alive(ctx, f.of); err != nil {
		return nil, err
	}
	var r io.ReadCloser
	_, before := f.points.seen(toStorage)
	err := f.do(ctx, "open", func() (err error) {
		r, err = f.Store.Open(ctx, key, offset, length)
		return err
	})
	if err != nil {
		if r != nil {
			_ = r.Close()
		}
		return nil, err
	}
	if _, struck := f.points.seen(toStorage); f.points.fault.mode == garbage && struck && !before {
		return &scrambled{r}, nil
	}
	return r, nil
}

// scrambled gives other bytes than were stored.
type scrambled struct{ io.ReadCloser }

func (s *scrambled) Read(b []byte) (int, error) {
	n, err := s.ReadCloser.Read(b)
	for i := n / 2; i < n; i += 97 {
		b[i] ^= 0x55
	}
	return n, err
}

func (f *files) RemoveAll(ctx context.Context, prefix string) error {
	return f.do(ctx, "remove", func() error { return f.Store.RemoveAll(ctx, prefix) })
}

func (f *files) Ready(ctx context.Context) error {
	if err := f.points.alive(ctx, f.of); err != nil {
		return err
	}
	return f.Store.Ready(ctx)
}

// records is a job store that the fault strikes.
type records struct {
	jobs.Store
	points *points
	of     *process
}

func (r *records) do(ctx context.Context, what string, op func() error) error {
	return r.points.do(ctx, r.of, toStore, what, fmt.Errorf("%w: %w", jobs.ErrUnavailable, errBroken), op)
}

func (r *records) Get(ctx context.Context, id jobs.ID) (j *jobs.Job, err error) {
	err = r.do(ctx, "get", func() error {
		j, err = r.Store.Get(ctx, id)
		return err
	})
	return j, err
}

func (r *records) Done(ctx context.Context, id jobs.ID) (done []jobs.Done, err error) {
	err = r.do(ctx, "done", func() error {
		done, err = r.Store.Done(ctx, id)
		return err
	})
	return done, err
}

// Claim is an event only where there is work, or how many there are would
// depend on how long a test waits.
func (r *records) Claim(ctx context.Context, worker string) (l *jobs.Lease, j *jobs.Job, err error) {
	if err := r.points.alive(ctx, r.of); err != nil {
		return nil, nil, err
	}
	l, j, err = r.Store.Claim(ctx, worker)
	if err != nil {
		return l, j, err
	}
	err = r.do(ctx, "claim of "+string(l.Unit.Kind), func() error { return nil })
	if err != nil {
		return nil, nil, err
	}
	return l, j, nil
}

func (r *records) Idle(ctx context.Context) error {
	if err := r.points.alive(ctx, r.of); err != nil {
		return err
	}
	return r.Store.Idle(ctx)
}

func (r *records) Renew(ctx context.Context, l *jobs.Lease) error {
	if err := r.points.alive(ctx, r.of); err != nil {
		return err
	}
	return r.Store.Renew(ctx, l)
}

func (r *records) Save(ctx context.Context, l *jobs.Lease, c json.RawMessage) error {
	return r.do(ctx, "save of "+string(l.Unit.Kind), func() error { return r.Store.Save(ctx, l, c) })
}

func (r *records) Complete(ctx context.Context, l *jobs.Lease, result jobs.Result) error {
	return r.do(ctx, "complete of "+string(l.Unit.Kind), func() error { return r.Store.Complete(ctx, l, result) })
}

func (r *records) Fail(ctx context.Context, l *jobs.Lease, f jobs.Failure, in time.Duration) error {
	return r.do(ctx, "fail of "+string(l.Unit.Kind), func() error { return r.Store.Fail(ctx, l, f, in) })
}

func (r *records) Release(ctx context.Context, l *jobs.Lease, at time.Time) error {
	return r.do(ctx, "release of "+string(l.Unit.Kind), func() error { return r.Store.Release(ctx, l, at) })
}

func (r *records) Remove(ctx context.Context, id jobs.ID) error {
	return r.do(ctx, "remove", func() error { return r.Store.Remove(ctx, id) })
}
