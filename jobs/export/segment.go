package export

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"

	"spillway/jobs"
	"spillway/storage"
)

// segmentLimit is the uncompressed size in bytes at which a segment is closed
// and the next begun, so that files can be grouped to size whatever a window holds.
const segmentLimit = 128 << 20

// chunkBytes is how much is gathered before it is hashed, compressed and stored.
const chunkBytes = 64 << 10

// segments writes lines of one kind and type as one or more segments. Nothing
// is visible in storage before its segment is whole. Used by one goroutine.
type segments struct {
	a    *attempt
	kind jobs.FileKind
	typ  string

	done    []jobs.Segment
	open    jobs.Segment // being written; Count is 0 when none is
	object  storage.Writer
	stored  *hashingWriter
	packer  *jobs.GzipWriter // nil for identity
	plain   hash.Hash        // of the lines, beside packer
	current io.Writer        // packer or stored
	chunk   []byte           // lines on their way to current
}

// hashingWriter counts and hashes the bytes on their way to storage.
type hashingWriter struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

func (h *hashingWriter) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	h.hash.Write(p[:n])
	h.n += int64(n)
	return n, err
}

func (a *attempt) newSegments(kind jobs.FileKind, typ string) *segments {
	return &segments{a: a, kind: kind, typ: typ}
}

// writeLine adds one line, which has no line break.
func (s *segments) writeLine(ctx context.Context, line []byte) error {
	if s.open.Count == 0 {
		if err := s.begin(ctx); err != nil {
			return err
		}
	}
	s.open.Count++
	s.open.Size += int64(len(line)) + 1
	for {
		n := min(len(line), cap(s.chunk)-len(s.chunk))
		s.chunk, line = append(s.chunk, line[:n]...), line[n:]
		if len(s.chunk) < cap(s.chunk) {
			break
		}
		// Chunks are full, also within a line.
		if err := s.flush(); err != nil {
			return err
		}
	}
	s.chunk = append(s.chunk, '\n')
	if s.open.Size >= segmentLimit {
		return s.end(ctx)
	}
	return nil
}

// flush writes what was gathered. Hashing and compressing many lines at once
// costs less than one after another.
func (s *segments) flush() error {
	if s.packer != nil {
		s.plain.Write(s.chunk)
	}
	if _, err := s.current.Write(s.chunk); err != nil {
		return unwritten("writing a segment", err)
	}
	s.chunk = s.chunk[:0]
	return nil
}

func (s *segments) begin(ctx context.Context) error {
	a := s.a
	a.objects++
	s.open = jobs.Segment{
		Key:  fmt.Sprintf("%s%d.%s.ndjson%s", a.prefix, a.objects, s.typ, suffixOf(a.c.Encoding)),
		Kind: s.kind, Type: s.typ, Encoding: a.c.Encoding,
	}
	object, err := a.c.Storage.Create(ctx, s.open.Key)
	if err != nil {
		return unwritten("beginning a segment", err)
	}
	if chunk, ok := a.chunks.Get().(*[chunkBytes]byte); ok {
		s.chunk = chunk[:0]
	} else {
		s.chunk = make([]byte, 0, chunkBytes)
	}
	s.object, s.stored = object, &hashingWriter{w: object, hash: sha256.New()}
	s.current = s.stored
	if a.c.Encoding == jobs.EncodingGzip {
		if s.packer, err = a.takePacker(s.stored, gzipLevel(s.typ)); err != nil {
			return err
		}
		s.plain = sha256.New()
		s.current = s.packer
	}
	return nil
}

// takePacker returns a packer that somebody else is done with, or a new one.
func (e *Exporter) takePacker(out io.Writer, level int) (*jobs.GzipWriter, error) {
	if p, ok := e.packersOf(level).Get().(*jobs.GzipWriter); ok {
		p.Reset(out)
		return p, nil
	}
	return jobs.NewGzipWriter(out, level)
}

func (e *Exporter) packersOf(level int) *sync.Pool {
	pool, _ := e.packers.LoadOrStore(level, new(sync.Pool))
	return pool.(*sync.Pool)
}

// release gives back what the open segment was written with.
func (s *segments) release() {
	if s.chunk != nil {
		s.a.chunks.Put((*[chunkBytes]byte)(s.chunk[:chunkBytes]))
		s.chunk = nil
	}
	if s.packer != nil {
		s.packer.Reset(io.Discard)
		s.a.packersOf(gzipLevel(s.typ)).Put(s.packer)
		s.packer = nil
	}
}

// suffixOf is how the keys of objects in an encoding end.
func suffixOf(e jobs.Encoding) string {
	if e == jobs.EncodingGzip {
		return ".gz"
	}
	return ""
}

// unwritten is the error of a unit whose bytes the storage does not take.
func unwritten(doing string, err error) error {
	return &jobs.UnitError{
		Reason: "The storage of exported files does not work: what was read could not be written. Ask the operator of this gateway, then export again.",
		Err:    fmt.Errorf("export: %s: %w", doing, err),
	}
}

// gzipLevel is the level for a type. The fast levels leave base64 as it is, so
// types that carry attachments get entropy coding only, which does not.
func gzipLevel(typ string) int {
	switch typ {
	case "Binary", "DocumentReference", "Media":
		return flate.HuffmanOnly
	}
	return flate.BestSpeed
}

// end closes the open segment and makes it visible.
func (s *segments) end(ctx context.Context) error {
	if err := s.flush(); err != nil {
		return err
	}
	if s.packer != nil {
		if err := s.packer.Close(); err != nil {
			return unwritten("closing a segment", err)
		}
		s.open.CRC32 = s.packer.CRC32()
		s.open.PlainSHA256 = hex.EncodeToString(s.plain.Sum(nil))
	}
	s.release()
	if err := s.object.Commit(ctx); err != nil {
		return unwritten("committing a segment", err)
	}
	s.object = nil
	s.open.StoredSize = s.stored.n
	s.open.SHA256 = hex.EncodeToString(s.stored.hash.Sum(nil))
	s.done = append(s.done, s.open)
	s.a.metrics.stored.Add(float64(s.open.StoredSize))
	if s.kind == jobs.KindOutput {
		s.a.metrics.resources.WithLabelValues(typeLabel(s.typ)).Add(float64(s.open.Count))
		s.a.metrics.bytes.WithLabelValues(typeLabel(s.typ)).Add(float64(s.open.Size))
	}
	s.open = jobs.Segment{}
	return nil
}

// lines returns how many lines were written.
func (s *segments) lines() (n int64) {
	for _, d := range s.done {
		n += d.Count
	}
	return n + s.open.Count
}

// commit closes what is open and returns all segments. There is no segment
// without a line.
func (s *segments) commit(ctx context.Context) ([]jobs.Segment, error) {
	if s.open.Count > 0 {
		if err := s.end(ctx); err != nil {
			s.abort()
			return nil, err
		}
	}
	return s.done, nil
}

// abort discards what is open. Segments already visible stay until the job
// goes: no result names them.
func (s *segments) abort() {
	if s.object != nil {
		_ = s.object.Abort() // the attempt has failed already; the sweep removes leftovers
		s.object = nil
		s.release()
	}
}
