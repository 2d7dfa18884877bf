package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"

	"spillway/storage"
)

// Create begins an object. Nothing is sent before partSize bytes are there.
func (s *Store) Create(ctx context.Context, key string) (storage.Writer, error) {
	if !storage.ValidKey(key) {
		return nil, storage.ErrBadKey
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := s.isFull(); err != nil {
		return nil, err
	}
	w := &writer{s: s, creation: ctx, key: key, tag: rand.Text()}
	w.ctx, w.cancel = context.WithCancel(ctx)
	w.stop = context.AfterFunc(ctx, func() { _ = w.Abort() })
	return w, nil
}

// A writer fills one buffer while another is on its way. An object that fits
// one buffer is stored by a single request.
type writer struct {
	s        *Store
	creation context.Context // of Create; its end aborts the writer
	ctx      context.Context // parts are sent within it
	cancel   context.CancelFunc
	stop     func() bool // the watch over creation
	key      string
	tag      string

	mu      sync.Mutex // held by every method: the end of ctx calls Abort too
	buffer  []byte
	upload  upload     // nil before the first part has left
	parts   int        // sent or on their way
	sending chan error // of the part on its way; nil if none is
	ended   error      // why it takes no more
}

var (
	errCommitted = errors.New("bucket: the writer has committed")
	errAborted   = errors.New("bucket: the writer was aborted")
)

func (w *writer) Write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return 0, w.whyEnded()
	}
	for len(p) > 0 {
		if len(w.buffer) == partSize {
			if err := w.send(); err != nil {
				_ = w.discard() // err says more
				return n, err
			}
		}
		taken := min(partSize-len(w.buffer), len(p))
		w.grow(len(w.buffer) + taken)
		w.buffer = append(w.buffer, p[:taken]...)
		p, n = p[taken:], n+taken
	}
	return n, nil
}

// grow makes room for n bytes, at most partSize: in a buffer that another
// writer has used, if there is one, else in steps, for most objects are small.
func (w *writer) grow(n int) {
	const least, times = 64 << 10, 4
	if cap(w.buffer) >= n {
		return
	}
	if w.buffer == nil {
		w.buffer = w.s.buffer()
	}
	if cap(w.buffer) < n {
		larger := make([]byte, len(w.buffer), min(partSize, max(least, n, times*cap(w.buffer))))
		copy(larger, w.buffer)
		w.buffer = larger
	}
}

// buffer returns an empty one that was used before, or nil.
func (s *Store) buffer() []byte {
	if b, ok := s.buffers.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

// reuse keeps the buffer of a payload that has arrived, unless a request that
// broke may still look at it.
func (s *Store) reuse(content *payload) {
	if content.sends.Load() == 1 {
		b := content.bytes[:0]
		s.buffers.Put(&b)
	}
}

// whyEnded prefers the end of the context, which may have aborted the writer.
func (w *writer) whyEnded() error {
	if w.ended == errAborted && w.creation.Err() != nil {
		return w.creation.Err()
	}
	return w.ended
}

// send lets the buffer go, once the part before it has arrived.
func (w *writer) send() error {
	if err := w.arrived(w.ctx); err != nil {
		return err
	}
	w.parts++
	n, content := w.parts, &payload{bytes: w.buffer}
	w.buffer = nil
	w.sending = make(chan error, 1)
	go func() { w.sending <- w.sendPart(n, content) }()
	return nil
}

func (w *writer) sendPart(n int, content *payload) error {
	if w.upload == nil {
		if err := w.s.lookFirst(w.ctx, w.key); err != nil {
			return err
		}
		u, err := w.s.service.begin(w.ctx, w.s.prefix+w.key, w.meta())
		if err != nil {
			return err
		}
		w.upload = u
	}
	if n > w.s.service.traits().maxParts {
		return fmt.Errorf("bucket %s: an object larger than %d parts of %d bytes", w.s.name, w.s.service.traits().maxParts, partSize)
	}
	if err := w.upload.part(w.ctx, n, content); err != nil {
		return err
	}
	w.s.reuse(content)
	return nil
}

// arrived waits for the part on its way.
func (w *writer) arrived(ctx context.Context) error {
	if w.sending == nil {
		return nil
	}
	select {
	case err := <-w.sending: // comes soon after w.ctx has ended
		w.sending = nil
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *writer) meta() meta {
	return meta{Delivery: storage.Delivery{ContentType: mediaType}, tag: w.tag}
}

// Commit sends what is left and makes the object visible.
func (w *writer) Commit(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return w.whyEnded()
	}
	if err := w.commit(ctx); err != nil {
		_ = w.discard() // err says more
		return err
	}
	w.end(errCommitted)
	return nil
}

func (w *writer) commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rest := &payload{bytes: w.buffer}
	if w.parts == 0 {
		err := w.s.put(ctx, w.key, rest, w.meta())
		if err == nil {
			w.s.reuse(rest)
		}
		return err
	}
	if err := w.arrived(ctx); err != nil {
		return err
	}
	if len(w.buffer) > 0 {
		w.parts++
		if err := w.upload.part(ctx, w.parts, rest); err != nil {
			return err
		}
		w.s.reuse(rest)
	}
	blind := w.s.blind.Load()
	err := w.upload.commit(ctx, blind)
	if !blind && unsupported(err) {
		w.s.blind.Store(true)
		if err := w.s.lookFirst(ctx, w.key); err != nil {
			return err
		}
		err = w.upload.commit(ctx, true)
	}
	return w.s.settle(ctx, w.key, w.tag, err)
}

// Abort discards the object. It waits some seconds at most for a service that
// does not answer; what stays there is invisible.
func (w *writer) Abort() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended != nil {
		return nil
	}
	return w.discard()
}

func (w *writer) discard() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), farewell)
	defer cancel()
	w.cancel()
	_ = w.arrived(ctx) // the object is not wanted any more
	if w.sending != nil {
		w.end(errAborted)
		return fmt.Errorf("bucket %s: a request has not ended within %v", w.s.name, farewell)
	}
	u := w.upload
	w.end(errAborted)
	if u == nil {
		return nil
	}
	return u.abort(ctx)
}

func (w *writer) end(why error) {
	w.ended = why
	w.buffer = nil
	w.cancel()
	w.stop()
}

// put stores an object by one request.
func (s *Store) put(ctx context.Context, key string, content *payload, m meta) error {
	blind := s.blind.Load()
	if !m.overwrite {
		if err := s.lookFirst(ctx, key); err != nil {
			return err
		}
	}
	err := s.try(ctx, "writing an object", func(ctx context.Context, p *progress) error {
		return s.service.put(ctx, s.prefix+key, content, m, m.overwrite || blind, p)
	})
	if !m.overwrite && !blind && unsupported(err) {
		s.blind.Store(true)
		return s.put(ctx, key, content, m)
	}
	return s.settle(ctx, key, m.tag, err)
}

// lookFirst does what it can where the service does not know a write on
// condition that the key is free: two writers at the same moment are not seen.
func (s *Store) lookFirst(ctx context.Context, key string) error {
	if !s.blind.Load() {
		return nil
	}
	_, err := s.attributes(ctx, key)
	switch {
	case err == nil:
		return storage.ErrExists
	case errors.Is(err, storage.ErrNotFound):
		return nil
	}
	return err
}

// settle finds out whose the object is if the service says that the key is
// taken or the upload gone: it may be that an earlier answer was lost.
func (s *Store) settle(ctx context.Context, key, tag string, err error) error {
	if !errors.Is(err, storage.ErrExists) && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	a, aerr := s.attributes(ctx, key)
	switch {
	case errors.Is(aerr, storage.ErrNotFound):
		return fmt.Errorf("bucket %s: what was written of the object has been removed meanwhile", s.name)
	case aerr != nil:
		return aerr
	case a.Metadata[tagName] == tag:
		return nil
	}
	return storage.ErrExists
}
