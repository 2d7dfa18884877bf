package bucket

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"gocloud.dev/blob"

	"spillway/storage"
)

// Open streams a range of an object. A connection that breaks is made again
// where it broke; what comes back is every byte or an error.
func (s *Store) Open(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	switch {
	case !storage.ValidKey(key):
		return nil, storage.ErrNotFound
	case offset < 0:
		return nil, errors.New("bucket: a range before the first byte of an object")
	case length == 0:
		_, err := s.Stat(ctx, key)
		return http.NoBody, err
	}
	r := &reader{s: s, ctx: ctx, key: s.prefix + key, offset: offset, left: length}
	if err := s.try(ctx, "reading an object", r.open); err != nil {
		if f, ok := errors.AsType[*failure](err); ok && f.kind == beyond {
			return http.NoBody, nil
		}
		return nil, err
	}
	return r, nil
}

// A reader reads a range by one request, or more if connections break. It is
// used by one goroutine.
type reader struct {
	s      *Store
	ctx    context.Context
	key    string
	offset int64 // of the next byte
	left   int64 // bytes wanted; negative until the size is known

	size     int64 // of the object, 0 before the first answer
	modified time.Time

	body     *blob.Reader
	progress *progress // of body
	attempt  context.Context
	failed   error
}

var errReplaced = errors.New("the object is not the one whose first bytes were read")

// open sends one request for what is left.
func (r *reader) open(_ context.Context, p *progress) error {
	p.stop() // the body outlives this call, so it has a watch of its own
	ctx, p := watch(r.ctx, r.s.silence)
	body, err := r.s.bucket.NewRangeReader(ctx, r.key, r.offset, r.left, nil)
	if err != nil {
		p.stop()
		if errors.Is(context.Cause(ctx), errStalled) {
			return errStalled
		}
		return err
	}
	p.pause()
	switch {
	case r.modified.IsZero():
		r.size, r.modified = body.Size(), body.ModTime()
		rest := max(r.size-r.offset, 0)
		if r.left < 0 || r.left > rest {
			r.left = rest
		}
	case body.Size() != r.size || !body.ModTime().Equal(r.modified):
		_ = body.Close()
		p.stop()
		return &failure{name: r.s.name, what: "reading an object", answer: answer{err: errReplaced}, kind: permanent}
	}
	r.body, r.progress, r.attempt = body, p, ctx
	return nil
}

func (r *reader) Read(p []byte) (int, error) {
	switch {
	case r.failed != nil:
		return 0, r.failed
	case len(p) == 0:
		return 0, nil
	case r.left == 0:
		return 0, io.EOF
	}
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.read(p)
	if err == nil {
		return n, nil
	}
	// The service is asked for the rest, and has the store's longest outage to
	// give one byte of it.
	err = r.s.try(r.ctx, "reading an object", func(ctx context.Context, watch *progress) error {
		if r.body == nil {
			if err := r.open(ctx, watch); err != nil {
				return err
			}
		}
		var err error
		n, err = r.read(p)
		return err
	})
	r.failed = err
	return n, err
}

// read takes at least a byte from the open body, or closes it.
func (r *reader) read(p []byte) (int, error) {
	if r.body == nil {
		return 0, io.ErrUnexpectedEOF
	}
	r.progress.moved()
	n, err := io.ReadAtLeast(r.body, p, 1)
	r.progress.pause() // the time that the caller takes does not count
	if n > 0 {
		r.offset += int64(n)
		r.left -= int64(n)
		return n, nil
	}
	if errors.Is(context.Cause(r.attempt), errStalled) {
		err = errStalled
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // there are bytes left
	}
	r.close()
	return 0, err
}

func (r *reader) close() {
	if r.body != nil {
		r.progress.stop() // first, so that the rest of the body is not read to keep the connection
		_ = r.body.Close()
		r.body = nil
	}
}

// Close ends reading. Closing twice does nothing.
func (r *reader) Close() error {
	r.close()
	if r.failed == nil {
		r.failed = errors.New("bucket: the reader is closed")
	}
	return nil
}
