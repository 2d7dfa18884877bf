package gateway

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"

	"spillway/jobs"
	"spillway/storage"
)

// What is wrong with a file that cannot be streamed, wrapped around the details.
var (
	// ErrDamaged: what is in storage is not what the job recorded.
	ErrDamaged = errors.New("gateway: a stored segment is damaged")
	// ErrUnread: the storage does not answer, or breaks off. The file may be
	// whole; another attempt may succeed.
	ErrUnread = errors.New("gateway: a stored segment cannot be read at the moment")
)

// aheadBytes is how much of a segment is left when the next one is opened, so
// that its first bytes are there when they are wanted. It is little, since what
// is opened too early may be closed by the service before a slow client comes to it.
const aheadBytes = 1 << 20

// OpenFile streams a file of a job in the wanted encoding, from offset bytes of
// that encoding on. Gzip is what is stored, joined to one member; identity is
// inflated on the way where the segments are stored as gzip. Segments before
// offset are not read. A segment that is missing, shorter, longer or not
// readable ends the stream with an error that wraps ErrDamaged or ErrUnread,
// before the last byte of that segment; the stream never ends early with io.EOF.
// Each segment is opened once, and read as it is passed on. Close it.
func OpenFile(ctx context.Context, s storage.Store, f jobs.File, wanted jobs.Encoding, offset int64) (io.ReadCloser, error) {
	if !offers(f, wanted) {
		return nil, fmt.Errorf("gateway: a file that is not stored as %s cannot be streamed so", wanted)
	}
	r := &fileReader{store: s, rest: f.Segments, wanted: wanted}
	r.ctx, r.stop = context.WithCancel(ctx)
	if wanted == jobs.EncodingGzip {
		r.head, r.tail = jobs.GzipHeader(), f.Trailer()
	}
	skipped := min(offset, int64(len(r.head)))
	r.head, r.skip = r.head[skipped:], offset-skipped
	for len(r.rest) > 0 && r.skip >= sizeAs(r.rest[0], wanted) {
		r.skip -= sizeAs(r.rest[0], wanted)
		r.rest = r.rest[1:]
	}
	if len(r.rest) == 0 {
		r.tail = r.tail[min(r.skip, int64(len(r.tail))):]
		r.skip = 0
	} else {
		if err := r.open(); err != nil {
			_ = r.Close() // the error at hand says more
			return nil, err
		}
	}
	return r, nil
}

// offers reports whether a file can be streamed in an encoding without
// compressing it.
func offers(f jobs.File, wanted jobs.Encoding) bool {
	for _, s := range f.Segments {
		if s.Encoding != wanted && (s.Encoding != jobs.EncodingGzip || wanted != jobs.EncodingIdentity) {
			return false
		}
	}
	return true
}

// sizeAs is what a segment adds to the size of a file in an encoding that it
// can be streamed in.
func sizeAs(s jobs.Segment, wanted jobs.Encoding) int64 {
	switch {
	case wanted == jobs.EncodingGzip:
		_, length := s.Blocks()
		return max(length, 0)
	case s.Encoding == wanted:
		return s.StoredSize
	}
	return s.Size
}

// fileSizeAs is the size of a whole file.
func fileSizeAs(f jobs.File, wanted jobs.Encoding) (n int64) {
	if wanted == jobs.EncodingGzip {
		n = jobs.GzipOverhead
	}
	for _, s := range f.Segments {
		n += sizeAs(s, wanted)
	}
	return n
}

// A fileReader reads segment after segment. It is used by one goroutine.
type fileReader struct {
	ctx    context.Context
	stop   context.CancelFunc // of ctx
	store  storage.Store
	rest   []jobs.Segment // the first is the current one
	wanted jobs.Encoding
	skip   int64  // bytes of the first segment that are not wanted
	head   []byte // what comes before the segments, and
	tail   []byte // after them: the frame of a gzip member

	ahead   chan opened   // where the second segment comes; nil if it was not asked for
	object  io.ReadCloser // of the current segment; nil if none is open
	current io.Reader     // object, or what inflates it
	left    int64         // bytes of the current segment
	gunzip  *gzip.Reader  // these two are kept for the next segment
	buffer  *bufio.Reader // between object and gunzip
	failed  error
}

// opened is what the storage gave for a segment.
type opened struct {
	object io.ReadCloser
	err    error
}

// An unread error is one of the storage itself, not of what is in it.
type unread struct{ error }

func (u unread) Unwrap() error { return u.error }

// stored reads an object, and marks what goes wrong with the storage.
type stored struct{ io.ReadCloser }

func (s stored) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = unread{err}
	}
	return n, err
}

func (r *fileReader) Read(p []byte) (int, error) {
	if r.failed != nil || len(p) == 0 {
		return 0, r.failed
	}
	n, err := r.read(p)
	r.failed = err
	return n, err
}

func (r *fileReader) read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	for r.left == 0 {
		if len(r.rest) == 0 {
			n := copy(p, r.tail)
			if r.tail = r.tail[n:]; n == 0 {
				return 0, io.EOF
			}
			return n, nil
		}
		if err := r.open(); err != nil {
			return 0, err
		}
	}
	r.lookAhead()
	n, err := io.ReadAtLeast(r.current, p[:min(int64(len(p)), r.left)], 1)
	if r.left -= int64(n); r.left > 0 {
		if err != nil {
			return n, damaged(r.rest[0].Type, err)
		}
		return n, nil
	}
	// The last bytes are given out only when the segment ends where it should,
	// so that a reader that counts bytes cannot take a bad one for whole.
	if err := r.end(); err != nil {
		return 0, err
	}
	return n, nil
}

// fetch opens the object of a segment where its wanted bytes begin.
func (r *fileReader) fetch(segment jobs.Segment, skip int64) opened {
	offset := skip
	if r.wanted == jobs.EncodingGzip {
		before, _ := segment.Blocks()
		offset += before
	} else if segment.Encoding != r.wanted {
		offset = 0
	}
	object, err := r.store.Open(r.ctx, segment.Key, offset, -1)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		err = unread{err}
	}
	return opened{object, err}
}

// lookAhead begins to open the second segment when the first is nearly read.
func (r *fileReader) lookAhead() {
	if r.ahead != nil || len(r.rest) < 2 || r.left > aheadBytes {
		return
	}
	r.ahead = make(chan opened, 1)
	go func(to chan<- opened, next jobs.Segment) { to <- r.fetch(next, 0) }(r.ahead, r.rest[1])
}

// open opens the first of the rest.
func (r *fileReader) open() error {
	segment := r.rest[0]
	var got opened
	if r.ahead != nil {
		got, r.ahead = <-r.ahead, nil
	} else {
		got = r.fetch(segment, r.skip)
	}
	if got.err != nil {
		return damaged(segment.Type, got.err)
	}
	object := stored{got.object}
	r.object, r.current, r.left = object, object, sizeAs(segment, r.wanted)-r.skip
	if segment.Encoding != r.wanted {
		if err := r.inflate(segment); err != nil {
			return err
		}
	}
	r.skip = 0
	if r.left == 0 { // an empty segment
		return r.end()
	}
	return nil
}

// inflate puts a decompressor before the object and skips what is not wanted.
func (r *fileReader) inflate(segment jobs.Segment) error {
	var err error
	if r.gunzip == nil {
		r.buffer = bufio.NewReaderSize(r.object, 64<<10)
		r.gunzip, err = gzip.NewReader(r.buffer)
	} else {
		r.buffer.Reset(r.object)
		err = r.gunzip.Reset(r.buffer)
	}
	if err != nil {
		return damaged(segment.Type, err)
	}
	r.current = r.gunzip
	if _, err := io.CopyN(io.Discard, r.current, r.skip); err != nil {
		return damaged(segment.Type, err)
	}
	return nil
}

// end checks that the current segment is at its end, and closes it.
func (r *fileReader) end() error {
	if r.wanted == jobs.EncodingGzip {
		if err := r.endOfBlocks(); err != nil {
			return err
		}
	}
	var beyond [1]byte
	n, err := io.ReadFull(r.current, beyond[:])
	if n > 0 {
		return damaged(r.rest[0].Type, errors.New("longer than recorded"))
	}
	if !errors.Is(err, io.EOF) {
		return damaged(r.rest[0].Type, err)
	}
	r.rest = r.rest[1:]
	return r.closeObject()
}

// endOfBlocks checks that the frame of a gzip segment ends as recorded.
func (r *fileReader) endOfBlocks() error {
	segment := r.rest[0]
	want := jobs.GzipTrailer(segment.CRC32, segment.Size)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r.current, got); err != nil {
		return damaged(segment.Type, err)
	}
	if !bytes.Equal(got, want) {
		return damaged(segment.Type, errors.New("its checksum is not the one recorded"))
	}
	return nil
}

// closeObject closes the object of the current segment, if one is open.
func (r *fileReader) closeObject() error {
	if r.object == nil {
		return nil
	}
	object := r.object
	r.object, r.current = nil, nil
	return object.Close()
}

// Close releases what is open. Closing twice does nothing.
func (r *fileReader) Close() error {
	r.stop()
	err := r.closeObject()
	if r.ahead != nil {
		if next := <-r.ahead; next.err == nil {
			err = errors.Join(err, next.object.Close())
		}
		r.ahead = nil
	}
	return err
}

// damaged says what is wrong with a segment of a type, and not by its key.
func damaged(typ string, err error) error {
	what := ErrDamaged
	if _, is := errors.AsType[unread](err); is {
		what = ErrUnread
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, storage.ErrNotFound):
		err = errors.New("missing")
	case what == ErrDamaged && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)):
		err = errors.New("shorter than recorded")
	default:
		err = errors.New(loggable(err))
	}
	return fmt.Errorf("%w: a segment of %s: %w", what, typ, err)
}
