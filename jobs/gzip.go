package jobs

import (
	"encoding/binary"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
)

// A segment of EncodingGzip is one gzip member (RFC 1952) of a fixed frame: a
// header of 10 bytes, then deflate blocks that end on a byte and of which none
// is the last, then an empty last block of 2 bytes and the trailer of 8. So the
// blocks of several segments, one after another in one frame, are again one
// member. That matters because many clients (those that inflate with zlib by
// hand) stop after the first member of a stream and take it for the whole.
const (
	gzipHead = 10 // bytes before the blocks
	gzipTail = 10 // bytes after them
)

// GzipOverhead is the number of bytes that one frame adds to its blocks.
const GzipOverhead = gzipHead + gzipTail

// GzipHeader returns the bytes that begin a gzip member.
func GzipHeader() []byte {
	return []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff} // deflate, no name, no time, unknown system
}

// GzipTrailer returns the bytes that end a gzip member of size uncompressed
// bytes with this CRC-32.
func GzipTrailer(crc uint32, size int64) []byte {
	tail := []byte{3, 0} // an empty last block, with fixed codes
	tail = binary.LittleEndian.AppendUint32(tail, crc)
	return binary.LittleEndian.AppendUint32(tail, uint32(size)) // modulo 2^32, as RFC 1952 says
}

// Blocks says where the deflate blocks of a gzip segment lie in its object.
func (s Segment) Blocks() (offset, length int64) { return gzipHead, s.StoredSize - GzipOverhead }

// Trailer returns the bytes that end the gzip member which holds all segments
// of the file.
func (f File) Trailer() []byte {
	var crc uint32
	var size int64
	for _, s := range f.Segments {
		crc = combineCRC32(crc, s.CRC32, s.Size)
		size += s.Size
	}
	return GzipTrailer(crc, size)
}

// A GzipWriter writes the gzip member of a segment. It is used by one goroutine.
type GzipWriter struct {
	out    io.Writer
	packer *flate.Writer
	crc    uint32
	size   int64
	begun  bool
}

// NewGzipWriter returns a writer to out. The level is one of compress/flate.
func NewGzipWriter(out io.Writer, level int) (*GzipWriter, error) {
	packer, err := flate.NewWriter(out, level)
	return &GzipWriter{out: out, packer: packer}, err
}

// Reset begins another member, on out.
func (w *GzipWriter) Reset(out io.Writer) {
	w.packer.Reset(out)
	*w = GzipWriter{out: out, packer: w.packer}
}

func (w *GzipWriter) begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	_, err := w.out.Write(GzipHeader())
	return err
}

func (w *GzipWriter) Write(p []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	n, err := w.packer.Write(p)
	w.crc = crc32.Update(w.crc, crc32.IEEETable, p[:n])
	w.size += int64(n)
	return n, err
}

// Close ends the member. It does not close what it writes to.
func (w *GzipWriter) Close() error {
	if err := w.begin(); err != nil {
		return err
	}
	if err := w.packer.Flush(); err != nil { // ends on a byte, without a last block
		return err
	}
	_, err := w.out.Write(GzipTrailer(w.crc, w.size))
	return err
}

// CRC32 is that of the uncompressed bytes written so far.
func (w *GzipWriter) CRC32() uint32 { return w.crc }

// combineCRC32 returns the CRC-32 of two byte strings in a row from that of
// each and the length of the second: crc(ab) = crc(a)·x^(8·len b) + crc(b), as
// polynomials over GF(2) modulo that of CRC-32, lowest power in the highest bit.
func combineCRC32(a, b uint32, lengthB int64) uint32 {
	power, base := uint32(1)<<31, uint32(1)<<30 // 1 and x
	for bits := uint64(lengthB) * 8; bits > 0; bits >>= 1 {
		if bits&1 != 0 {
			power = multiply(power, base)
		}
		base = multiply(base, base)
	}
	return multiply(power, a) ^ b
}

func multiply(a, b uint32) (product uint32) {
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		if b&1 != 0 {
			b = b>>1 ^ crc32.IEEE
		} else {
			b >>= 1
		}
	}
	return product
}
