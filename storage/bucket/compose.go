package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"mime"
	"time"

	"golang.org/x/sync/errgroup"

	"spillway/storage"
)

// Compose makes an object of parts. Ranges that are large enough are copied by
// the service; the rest is gathered, which means read and written again. One
// that was made of the same parts before is left as it is.
func (s *Store) Compose(ctx context.Context, key string, parts []storage.Part, d storage.Delivery) error {
	if !storage.ValidKey(key) {
		return storage.ErrBadKey
	}
	if d.ContentType == "" {
		d.ContentType = mediaType
	}
	m := meta{Delivery: d, tag: fingerprint(parts, d), overwrite: true}
	a, err := s.attributes(ctx, key)
	switch {
	case err == nil && a.Metadata[tagName] == m.tag:
		return nil
	case err != nil && !errors.Is(err, storage.ErrNotFound):
		return err
	}
	whole := make([]storage.Part, 0, len(parts))
	for _, p := range parts {
		if p.Key == "" {
			p.Offset, p.Length = 0, int64(len(p.Bytes))
		} else if p.Key = s.prefix + p.Key; p.Offset < 0 || p.Length < 0 {
			return errors.New("bucket: a part of an object that begins or ends before the first byte")
		}
		if p.Length > 0 {
			whole = append(whole, p)
		}
	}
	if done, err := s.service.concat(ctx, s.prefix+key, whole, m); done || err != nil {
		return err
	}
	err = s.compose(ctx, key, whole, m)
	if err != nil && !s.noCopy.Load() && unsupported(err) {
		s.noCopy.Store(true)
		err = s.compose(ctx, key, whole, m)
	}
	return err
}

// fingerprint tells objects of different parts apart.
func fingerprint(parts []storage.Part, d storage.Delivery) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q\n", d.ContentType, d.ContentEncoding, d.Filename)
	for _, p := range parts {
		fmt.Fprintf(h, "%q %d %d %x\n", p.Key, p.Offset, p.Length, p.Bytes)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func (s *Store) compose(ctx context.Context, key string, parts []storage.Part, m meta) (err error) {
	t := s.service.traits()
	if s.noCopy.Load() {
		t.minPart, t.minCopy = partSize, math.MaxInt64
	}
	pieces := plan(parts, t)
	switch {
	case len(pieces) > t.maxParts:
		return fmt.Errorf("bucket %s: an object of %d parts, of which it takes %d at most", s.name, len(pieces), t.maxParts)
	case len(pieces) == 0:
		return s.put(ctx, key, &payload{}, m)
	case len(pieces) == 1 && !pieces[0].copied(t):
		content, err := s.gather(ctx, pieces[0])
		if err != nil {
			return err
		}
		return s.put(ctx, key, &payload{bytes: content}, m)
	}
	u, err := s.service.begin(ctx, s.prefix+key, m)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
			defer cancel()
			_ = u.abort(ctx) // err says more
		}
	}()
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(t.parallel)
	for i, p := range pieces {
		group.Go(func() error {
			if gctx.Err() != nil { // another piece has failed
				return gctx.Err()
			}
			if p.copied(t) {
				return u.copy(gctx, i+1, p[0])
			}
			content, err := s.gather(gctx, p)
			if err != nil {
				return err
			}
			return u.part(gctx, i+1, &payload{bytes: content})
		})
	}
	if err := group.Wait(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return s.vanished(err)
	}
	return s.settle(ctx, key, m.tag, u.commit(ctx, m.overwrite))
}

// vanished names the trouble of a part that is not there.
func (s *Store) vanished(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("bucket %s: composing an object: one of its parts is missing: %w", s.name, err)
	}
	return err
}

// tooShort says that a part ends beyond the end of its object.
func (s *Store) tooShort() error {
	return fmt.Errorf("bucket %s: composing an object: a part is shorter than it should be", s.name)
}

// A piece is what becomes one part of an upload: a range that the service
// copies, or several that are gathered.
type piece []storage.Part

func (p piece) copied(t traits) bool {
	return len(p) == 1 && p[0].Key != "" && p[0].Length >= t.minCopy
}

// plan cuts parts into pieces as large as the traits demand. What is too small
// is gathered with its neighbours; of a large one only as many bytes are taken
// as the small one before it lacks.
func plan(parts []storage.Part, t traits) (pieces []piece) {
	var gathered piece
	var size int64
	flush := func() {
		if size > 0 {
			pieces = append(pieces, gathered)
		}
		gathered, size = nil, 0
	}
	take := func(p *storage.Part, n int64) storage.Part {
		head := *p
		head.Length = n
		if p.Key == "" {
			head.Bytes, p.Bytes = p.Bytes[:n], p.Bytes[n:]
		} else {
			p.Offset += n
		}
		p.Length -= n
		return head
	}
	for _, p := range parts {
		for p.Length > 0 {
			if size >= t.minPart {
				flush()
			}
			if size == 0 && p.Key != "" && p.Length >= t.minCopy {
				pieces = append(pieces, piece{take(&p, min(p.Length, t.maxCopy))})
				continue
			}
			n := min(p.Length, max(t.minPart-size, 1))
			if p.Key == "" {
				n = p.Length // in memory anyway
			}
			gathered, size = append(gathered, take(&p, n)), size+n
		}
	}
	flush()
	return pieces
}

// gather reads the ranges of a piece.
func (s *Store) gather(ctx context.Context, p piece) ([]byte, error) {
	var size int64
	for _, part := range p {
		size += part.Length
	}
	content := make([]byte, 0, size)
	for _, part := range p {
		if part.Key == "" {
			content = append(content, part.Bytes...)
			continue
		}
		r, err := s.Open(ctx, part.Key[len(s.prefix):], part.Offset, part.Length)
		if err != nil {
			return nil, err
		}
		end := len(content) + int(part.Length)
		_, err = io.ReadFull(r, content[len(content):end])
		content = content[:end]
		_ = r.Close()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, s.tooShort()
		case err != nil:
			return nil, err
		}
	}
	return content, nil
}

// Link signs a URL by which anybody can fetch an object for ttl. The service
// is not asked whether it is there. The object itself has what d says.
func (s *Store) Link(ctx context.Context, key string, ttl time.Duration, _ storage.Delivery) (string, error) {
	if !storage.ValidKey(key) {
		return "", storage.ErrBadKey
	}
	var link string
	err := s.try(ctx, "signing a link", func(ctx context.Context, _ *progress) (err error) {
		link, err = s.service.link(ctx, s.prefix+key, ttl)
		return err
	})
	return link, err
}

// disposition suggests a name for a download.
func disposition(filename string) *string {
	if filename == "" {
		return nil
	}
	return some(mime.FormatMediaType("attachment", map[string]string{"filename": filename}))
}
