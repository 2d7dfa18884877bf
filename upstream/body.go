package upstream

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
)

// bodyRounds times Config.Timeout is what all waits for one body may take
// together, so that a trickle ends too.
const bodyRounds = 30

var (
	errStalled  = errors.New("upstream: no progress")
	errTooLarge = errors.New("upstream: too large")
	errEncoding = errors.New("upstream: unexpected content encoding")
)

// A body is the inflated body of an answer. It ends a wait that takes too long,
// stops at the limit, and remembers why reading stopped.
type body struct {
	wire  *wire
	in    io.Reader // inflated
	limit int64     // bytes that may be read from in
	bytes int64     // bytes read from in
	err   error     // first error of Read, io.EOF included

	gunzip *gunzip // in, if that inflates
	ahead  *ahead  // between wire and in, once readAhead was called
}

// bodyPools is what answers are read through, one after another.
type bodyPools struct {
	inflaters sync.Pool // of *gunzip
	blocks    sync.Pool // of an ahead
}

// newBody reads resp's body; cancel ends the request. What inflates it is taken
// from pools, and given back by release.
func newBody(resp *http.Response, cancel context.CancelCauseFunc, timeout time.Duration, limit int64, pools *bodyPools) *body {
	w := &wire{in: resp.Body, timeout: timeout, left: bodyRounds * timeout, limit: limit}
	w.timer = time.AfterFunc(time.Hour, func() { cancel(errStalled) })
	w.timer.Stop()
	b := &body{wire: w, limit: limit}
	switch encoding := strings.ToLower(strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ","))); encoding {
	case "", "identity":
		b.in = w
	case "gzip", "x-gzip":
		g, ok := pools.inflaters.Get().(*gunzip)
		if !ok {
			g = &gunzip{in: bufio.NewReaderSize(nil, 32<<10)}
		}
		g.in.Reset(w)
		b.in, b.gunzip = g, g
	default:
		b.in = broken{errEncoding}
	}
	return b
}

// readAhead begins to read before it is asked to, and calls whole when all of
// the body is here. It is called before Read.
func (b *body) readAhead(pools *bodyPools, whole func()) {
	b.ahead = newAhead(b.wire, &pools.blocks)
	switch {
	case b.gunzip != nil:
		b.gunzip.in.Reset(b.ahead)
	case b.in == io.Reader(b.wire):
		b.in = b.ahead
	}
	go b.ahead.run(whole)
}

// end waits until nobody reads from the wire any more. The request must be over
// or cancelled.
func (b *body) end() {
	if b.ahead != nil {
		b.ahead.close()
	}
}

// Read returns inflated bytes, and errTooLarge for the first beyond the limit.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if left := b.limit - b.bytes + 1; int64(len(p)) > left {
		p = p[:left]
	}
	n, err := b.in.Read(p)
	b.bytes += int64(n)
	if b.bytes > b.limit {
		n, err = n-1, errTooLarge
		b.bytes--
	}
	b.err = err
	return n, err
}

// release gives back what inflated the body. Nothing can be read after it.
func (b *body) release(pools *bodyPools) {
	if b.err == nil {
		b.err = io.ErrClosedPipe
	}
	if b.gunzip != nil {
		b.gunzip.begun = false
		b.gunzip.in.Reset(nil)
		pools.inflaters.Put(b.gunzip)
		b.in, b.gunzip = nil, nil
	}
}

// waited is the time spent waiting for bytes, once the body is at its end.
func (b *body) waited() time.Duration { return b.wire.waited }

// failure says why reading stopped before the end, or returns 0 if it did not.
// ctx is that of the exchange.
func (b *body) failure(ctx context.Context) (ErrorKind, string) {
	var corrupt flate.CorruptInputError
	switch {
	case b.err == nil || b.err == io.EOF:
		return 0, ""
	case errors.Is(context.Cause(ctx), errStalled), errors.Is(b.err, errStalled):
		return KindTimeout, "the answer began but did not go on for " + b.wire.timeout.String()
	case errors.Is(b.err, errTooLarge):
		return KindTooLarge, "the answer is larger than " + sizeText(b.limit)
	case errors.Is(b.err, errEncoding):
		return KindMalformed, "the answer has a content encoding that was not asked for"
	case errors.Is(b.err, gzip.ErrHeader), errors.Is(b.err, gzip.ErrChecksum), errors.As(b.err, &corrupt):
		return KindMalformed, "the answer's gzip data is damaged"
	}
	return KindTruncated, "the answer broke off"
}

// A wire reads the body as it comes, and allows timeout for every wait and
// left for all of them together.
type wire struct {
	in            io.Reader
	timer         *time.Timer
	timeout, left time.Duration
	waited        time.Duration
	bytes         int64 // that have come
	limit         int64 // no honest gzip is larger than what it holds by much
}

func (w *wire) Read(p []byte) (int, error) {
	if w.limit < 0 {
		return 0, errTooLarge
	}
	if w.left <= 0 {
		return 0, errStalled
	}
	began := time.Now()
	w.timer.Reset(min(w.timeout, w.left))
	n, err := w.in.Read(p)
	w.timer.Stop()
	d := time.Since(began)
	w.waited += d
	w.left -= d
	w.bytes += int64(n)
	w.limit -= int64(n)
	return n, err
}

// gunzip is a gzip.Reader that reads its header when it is first read, and may
// be used for one body after another.
type gunzip struct {
	in    *bufio.Reader
	gz    gzip.Reader
	begun bool
}

func (g *gunzip) Read(p []byte) (int, error) {
	if !g.begun {
		if err := g.gz.Reset(g.in); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		g.begun = true
	}
	return g.gz.Read(p)
}

// broken is a reader that only fails.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
